"""Layers folded into the Linears that read them: equal outputs, refused layers, files."""

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import normscope
from normscope import Batching, Calibration, Fold, Swapping
from normscope.analyses.swap.fold_file import Folded
from normscope.analyses.swap.layer_statistics import Statistics
from normscope.analyses.swap.options import FIXED
from normscope.analyses.swap.replacement import Replacement
from normscope.errors import ReportError, UsageError
from tests.support import models

D = 32
SHORT = Batching(8, 24)
TEXTS = list(dict.fromkeys(models.prose(36)))


def ids(seed: int = 0) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(0, 100, (4, 9), generator=torch.Generator().manual_seed(seed))}


def statistics(names: list[str], features: int = D, seed: int = 0) -> Calibration:
    """Return random statistics, which differ from each layer's own, so that a mix-up shows."""
    generator = torch.Generator().manual_seed(seed)

    def random_statistics() -> Statistics:
        mean, slope, intercept = torch.randn(3, features, dtype=torch.float64, generator=generator)
        return Statistics(mean, slope.abs() + 0.1, slope, intercept, torch.tensor(0.7).double())

    return Calibration("m", {name: random_statistics() for name in names})


def known(model: nn.Module) -> Calibration:
    return statistics([n for n, m in model.named_modules() if "Norm" in type(m).__name__])


class Block(nn.Module):
    """A norm and the modules that may read it; `read` is the forward."""

    norm: Any
    other: Any

    def __init__(self, read: Callable[["Block", Tensor], Any], affine: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(D, elementwise_affine=affine)
        self.one, self.two = nn.Linear(D, D), nn.Linear(D, 5, bias=False)
        self.head = nn.Linear(D, 4)
        self.table = nn.Embedding(7, D)
        self.matrix = nn.Parameter(torch.randn(D, 4))
        self.vector = nn.Parameter(torch.randn(4))
        self.read = read
        models.spread_norms(self)

    def forward(self, x: Tensor) -> Any:
        return self.read(self, x)


def folded(model: nn.Module, x: Tensor, **options: Any) -> Fold:
    return normscope.fold(model, {"x": x}, statistics=known(model), **options)


X = torch.randn(2, 6, D, generator=torch.Generator().manual_seed(3))


# Equal, by hand and in models


@pytest.mark.parametrize("kind", FIXED)
def test_the_new_parameters_are_those_of_the_formula(kind: str) -> None:
    model = Block(lambda m, x: (m.one(m.norm(x)), m.two(m.norm(x))))
    s = known(model).layers["norm"].known()
    fold = folded(model, X, kind=kind)
    w, b = model.norm.weight.double(), model.norm.bias.double()
    one, zero = torch.ones(D).double(), torch.zeros(D).double()
    deviation = (s["variance"] + model.norm.eps).sqrt()
    scale, shift, centring = {
        "batchnorm": (1 / deviation, -s["mean"] / deviation, torch.eye(D)),
        "batchnorm-fitted": (s["slope"], s["intercept"], torch.eye(D)),
        "frozen": (s["scale"] * one, zero, torch.eye(D) - 1 / D),
        "identity": (one, zero, torch.eye(D)),
    }[kind]
    found = fold.layers["norm"].parameters
    assert set(found) == {"one.weight", "one.bias", "two.weight", "two.bias"}
    assert fold.layers["norm"].into == ("one", "two")
    for linear, name in ((model.one, "one"), (model.two, "two")):
        matrix = linear.weight.double() @ torch.diag(w * scale) @ centring.double()
        own = zero[: len(matrix)] if linear.bias is None else linear.bias.double()
        vector = own + linear.weight.double() @ (w * shift + b)
        torch.testing.assert_close(found[f"{name}.weight"].double(), matrix, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[f"{name}.bias"].double(), vector, rtol=1e-5, atol=1e-6)


def vit() -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": D,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    return models.spread_norms(
        transformers.ViTForImageClassification(transformers.ViTConfig(image_size=32, patch_size=8, **sizes))
    )


BERT = "bert.encoder.layer.0"
MADE: dict[str, tuple[Callable[[], Any], list[str], dict[str, str]]] = {
    "gpt2": (
        models.gpt2,
        [f"transformer.h.{i}.{norm}" for i in (0, 1) for norm in ("ln_1", "ln_2")],
        {"transformer.ln_f": "lm_head.weight is tied to transformer.wte.weight"},
    ),
    "untied": (
        lambda: models.gpt2(tie_word_embeddings=False),
        [f"transformer.h.{i}.{norm}" for i in (0, 1) for norm in ("ln_1", "ln_2")] + ["transformer.ln_f"],
        {},
    ),
    "llama": (
        models.llama,
        [f"model.layers.{i}.{norm}_layernorm" for i in (0, 1) for norm in ("input", "post_attention")]
        + ["model.norm"],
        {},
    ),
    "vit": (vit, ["vit.layers.0.layernorm_before", "vit.layers.0.layernorm_after", "vit.layernorm"], {}),
    "bert": (
        lambda: models.bert(num_hidden_layers=1),
        [f"{BERT}.output.LayerNorm"],
        {
            "bert.embeddings.LayerNorm": f"read by the addition in {BERT}.attention.output",
            f"{BERT}.attention.output.LayerNorm": f"read by the addition in {BERT}.output",
            "cls.predictions.transform.LayerNorm": "cls.predictions.decoder.weight is tied to bert",
        },
    ),
}


@pytest.mark.parametrize("kind", ["batchnorm-fitted", "frozen"])
@pytest.mark.parametrize("name", MADE)
def test_models_are_folded_where_linears_alone_read(name: str, kind: str) -> None:
    make, names, refused = MADE[name]
    model, norms = make(), known(make())
    given = {"pixel_values": torch.randn(2, 3, 32, 32)} if name == "vit" else ids()
    fold = normscope.fold(model, given, kind=kind, statistics=norms)
    assert [*fold.layers] == names
    assert fold.refused.keys() == refused.keys()
    assert all(fold.refused[layer].startswith(why) for layer, why in refused.items())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        own = model(**given).logits
        with normscope.swapped(model, kind=kind, statistics=norms, layers=names):
            expected = model(**given).logits
        with fold.applied(model):
            torch.testing.assert_close(model(**given).logits, expected, rtol=1e-4, atol=1e-5)
            modules = dict(model.named_modules())
            assert all(type(modules[layer]) is nn.Identity for layer in names)
        assert not torch.allclose(own, expected, rtol=1e-3, atol=1e-3)
        assert torch.equal(model(**given).logits, own)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in after.items())


def test_a_linear_without_a_bias_is_given_one_where_there_is_a_shift() -> None:
    model = models.llama()
    fold = normscope.fold(model, ids(), statistics=known(model))
    frozen = normscope.fold(model, ids(), kind="frozen", statistics=known(model))
    linear: Any = model.model.layers[0].mlp.up_proj

    def bias() -> Any:
        return linear.bias

    assert bias() is None
    with fold.applied(model):
        assert bias().shape == (48,)
    assert bias() is None
    assert not any("bias" in name for name in frozen.layers["model.norm"].parameters)


# What reads a layer

PARTLY = "read by a product that takes it in part or turned round"
READS: dict[str, tuple[Callable[[Any, Tensor], Any], str | None]] = {
    "views": (lambda m, x: m.one(m.norm(x).reshape(-1, D).view(3, 4, D)[:, 1:].detach()), None),
    "a copy": (lambda m, x: m.one(m.norm(x)[:, ::2].contiguous()), None),
    "dropout": (lambda m, x: m.one(functional.dropout(m.norm(x), 0.1, training=False)), None),
    "two calls": (lambda m, x: m.one(m.norm(x)) + m.one(m.norm(2 * x)), None),
    "plain addmm": (
        lambda m, x: torch.addmm(m.vector, m.norm(x).view(-1, D), m.matrix),
        None,
    ),
    "an addition": (lambda m, x: m.one(y := m.norm(x)) + y, "read by the addition in Block"),
    "a view's addition": (lambda m, x: m.one(y := m.norm(x)) + y.view(2, 6, D), "read by the addition"),
    "in place": (lambda m, x: m.one(m.norm(x).mul_(2)), "read by the multiplication in Block"),
    "a sum": (lambda m, x: (m.one(y := m.norm(x)), y.sum()), "read by sum in Block"),
    "returned": (lambda m, x: {"a": [m.one(y := m.norm(x)), y[:, 0]]}, "the model returns it"),
    "turned": (lambda m, x: m.one(m.norm(x[0, :1].expand(D, D)).T), PARTLY),
    "in part": (lambda m, x: functional.linear(m.norm(x)[..., :16], m.one.weight[:, :16]), PARTLY),
    "another input": (lambda m, x: m.one(m.norm(x)) + m.one(x), "one.weight is used with another input"),
    "a norm of a weight": (
        lambda m, x: m.one(m.norm(x)) * m.one.weight.norm(),
        "one.weight is used with another input",
    ),
    "a made weight": (
        lambda m, x: functional.linear(m.norm(x), 2 * m.one.weight),
        "read by a product with a weight that is no parameter",
    ),
    "a part of a weight": (
        lambda m, x: functional.linear(m.norm(x), m.one.weight[:9]),
        "read by a product with a part of one.weight in Block",
    ),
    "a weight in passing": (lambda m, x: functional.linear(m.norm(x), m.two.weight), "read by a product"),
    "windows": (lambda m, x: m.one(m.norm(x).view(-1).unfold(0, D, 4)), PARTLY),
    "moved on": (lambda m, x: m.one(m.norm(x).view(-1)[4 : 4 + 3 * D].view(3, D)), PARTLY),
    "a column": (lambda m, x: m.one(m.norm(x[0, :1].expand(D, D))[:, 0][None]), PARTLY),
    "another's bias": (
        lambda m, x: torch.addmm(m.head.bias, m.norm(x).view(-1, D), m.matrix),
        "read by a product",
    ),
    "keywords": (lambda m, x: m.one(m.norm(input=x)), "it is called with more than its input"),
    "nothing": (lambda m, x: (m.norm(x), m.one(x))[1], "nothing reads it"),
    "never": (lambda m, x: m.one(x), "it was never called"),
}  # fmt: skip


@pytest.mark.parametrize("name", READS)
def test_what_reads_a_layer_decides(name: str) -> None:
    read, why = READS[name]
    model = Block(read)
    fold = folded(model, X)
    if why is not None:
        assert not fold.layers
        assert fold.refused["norm"].startswith(why)
        return
    assert not fold.refused
    with torch.no_grad():
        with normscope.swapped(model, kind="batchnorm-fitted", statistics=known(model)):
            expected = model(X)
        with fold.applied(model):
            torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-5)


def test_two_norms_that_share_a_linear_and_tied_linears_are_refused() -> None:
    model = Block(lambda m, x: m.one(m.norm(x)) + m.one(m.other(x)))
    model.other = nn.LayerNorm(D)
    assert {*folded(model, X).refused.values()} == {"one.weight is used with another input, too"}
    tied = Block(lambda m, x: m.head(m.norm(x)))
    tied.table = nn.Embedding(4, D)
    tied.table.weight = tied.head.weight
    assert folded(tied, X).refused["norm"] == "head.weight is tied to table.weight: untie them first"


def test_a_linear_that_another_forward_replaces_is_no_linear() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return functional.linear(input, self.weight) + 2 * self.bias

    model = Block(lambda m, x: m.one(m.norm(x)))
    model.one = Doubled(D, D)
    assert folded(model, X).refused["norm"].startswith("read by a product without a bias of its own")


def test_a_shared_norm_becomes_nothing_everywhere() -> None:
    model = Block(lambda m, x: m.one(m.norm(x)).sum() * m.two(m.other(x)))
    model.other = model.norm
    fold = folded(model, X)
    with torch.no_grad(), normscope.swapped(model, kind="batchnorm-fitted", statistics=known(model)):
        expected = model(X)
    fold.apply(model)
    assert isinstance(model.norm, nn.Identity)
    assert isinstance(model.other, nn.Identity)
    torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-4)


# The check that outputs are equal


def test_a_wrong_fold_is_unfolded_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model, line = models.gpt2(), Replacement.line

    def wrong(self: Replacement) -> Any:
        found = line(self)
        return type(found)(found.scale * (1 + 0.1 * ("1.ln_1" in self.norm.name)), found.shift, found.centred)

    monkeypatch.setattr(Replacement, "line", wrong)
    fold = normscope.fold(model, ids(), statistics=known(model))
    assert "transformer.h.1.ln_1" not in fold.layers
    assert len(fold.layers) == 3
    assert fold.refused["transformer.h.1.ln_1"].startswith("folded, an output differs by")


def test_no_number_is_equal_to_nothing() -> None:
    model = Block(lambda m, x: m.one(m.norm(x)))
    model.one.weight.data[0, 0] = float("nan")
    assert folded(model, X).refused["norm"].startswith("folded, an output differs by nan")


def test_what_a_swap_blows_up_is_not_equal_but_no_other_layer_minds() -> None:
    model, norms = models.gpt2(), known(models.gpt2())
    huge = Statistics(slope=torch.full((D,), 1e30).double(), intercept=torch.zeros(D).double())
    norms = norms.with_layer("transformer.h.0.ln_1", huge)
    fold = normscope.fold(model, ids(), statistics=norms)
    assert fold.refused["transformer.h.0.ln_1"].startswith("folded, an output differs by nan")
    assert [*fold.layers] == [f"transformer.h.{i}.ln_{j}" for i, j in ((0, 2), (1, 1), (1, 2))]


def test_what_is_no_plain_norm_is_not_folded() -> None:
    class Cubed(nn.LayerNorm):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) ** 3

    model = Block(lambda m, x: m.one(m.norm(x)))
    model.norm = Cubed(D)
    names = Calibration("m", {"norm": known(Block(lambda m, x: x)).layers["norm"]})
    fold = normscope.fold(model, {"x": X}, statistics=names)
    assert fold.refused["norm"] == "Cubed matches no formula of ours"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    model = models.gpt2().to(dtype)
    report_of = known(model)
    fold = normscope.fold(model, ids(), statistics=report_of)
    assert len(fold.layers) == 4
    assert {value.dtype for each in fold.layers.values() for value in each.parameters.values()} == {dtype}


# Files, and application to a model


def test_a_saved_fold_is_loaded_by_a_fresh_process(tmp_path: Path) -> None:
    model = models.llama()
    model.save_pretrained(tmp_path / "model")
    fold = normscope.fold(model, ids(), statistics=known(model))
    path = fold.save(tmp_path / "new" / "fold")
    code = (
        "import sys, torch, transformers, normscope\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "normscope.read_fold(sys.argv[2]).apply(model)\n"
        "ids = torch.load(sys.argv[3])\n"
        "torch.save(model.eval()(**ids).logits.detach(), sys.argv[3])\n"
    )
    torch.save(ids(), tmp_path / "ids.pt")
    places = [str(tmp_path / "model"), str(path.parent), str(tmp_path / "ids.pt")]
    subprocess.run([sys.executable, "-c", code, *places], check=True)
    with torch.no_grad(), fold.applied(model):
        assert torch.equal(torch.load(tmp_path / "ids.pt"), model(**ids()).logits)
    again = normscope.read_fold(path)
    assert (again.model, again.kind, again.refused) == (fold.model, fold.kind, fold.refused)
    assert [*again.layers] == [*fold.layers]


def test_a_folded_model_is_not_saved_as_one_that_loads_with_other_outputs(tmp_path: Path) -> None:
    model = models.gpt2()
    fold = normscope.fold(model, ids(), statistics=known(model))
    with fold.applied(model), pytest.raises(UsageError, match="save that and the fold"):
        model.save_pretrained(tmp_path / "within")
    model.save_pretrained(tmp_path / "before")
    fold.apply(model)
    for one in (model, model.transformer, copy.deepcopy(model)):
        with pytest.raises(UsageError, match="save_pretrained of a folded model"):
            one.save_pretrained(tmp_path / "folded")
    assert [path.name for path in tmp_path.iterdir()] == ["before"]
    # Loading the state dict fails by itself, since norms are missing.
    with pytest.raises(RuntimeError, match=r"Missing key.*ln_1"):
        models.gpt2().load_state_dict(model.state_dict())
    again: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "before")
    fold.apply(again.eval())
    with torch.no_grad():
        assert torch.equal(again(**ids()).logits, model(**ids()).logits)


def test_a_fold_goes_into_no_other_model(tmp_path: Path) -> None:
    model = models.gpt2()
    fold = normscope.fold(model, ids(), statistics=known(model))
    other = models.gpt2()
    other.transformer.h[1].mlp.c_fc.bias.data[0] += 1
    before = {key: value.clone() for key, value in other.state_dict().items()}
    for wrong in (other, model.half(), models.llama()):
        with pytest.raises(UsageError, match="has changed since the model was folded"):
            fold.apply(wrong)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    fold.only(["transformer.h.0.ln_1"]).apply(other)
    assert type(other.transformer.h[0].ln_1) is nn.Identity
    with pytest.raises(UsageError, match="has changed since"):
        fold.only(["transformer.h.0.ln_1"]).apply(other)


def test_what_is_no_fold_is_refused(tmp_path: Path) -> None:
    model = models.gpt2()
    with pytest.raises(UsageError, match="batchnorm-batch has no fixed scale and shift"):
        normscope.fold(model, ids(), kind="batchnorm-batch")
    known(model).save(tmp_path / "calibration")
    for missing in (tmp_path, tmp_path / "none"):
        with pytest.raises(ReportError, match="expected what normscope swap --fold --save wrote"):
            normscope.read_fold(missing)
    with pytest.raises(ReportError, match="is not a fold"):
        normscope.read_fold(tmp_path / "calibration" / "normscope-calibration.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="expected a folder that can be written"):
        normscope.fold(model, ids(), statistics=known(model)).save(tmp_path / "file" / "folder")


@pytest.mark.parametrize(
    ("read", "schema"),
    [(normscope.read_fold, "normscope.fold/1"), (normscope.read_calibration, "normscope.calibration/1")],
)
@pytest.mark.parametrize(
    "header",
    [{}, {"identity": "[1]", "replaced": "{", "model": "m"}, {"identity": '{"a": {"parameters": ["b"]}}'}],
)
def test_a_file_with_another_header_is_damaged(
    tmp_path: Path, read: Any, schema: str, header: dict[str, str]
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"odd": torch.zeros(2)}, path, metadata={"schema": schema, **header})
    with pytest.raises(ReportError, match=r"is damaged .*; expected what normscope swap"):
        read(path)


# In a swap


@pytest.fixture(scope="module")
def swapped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path, list[Any]]:
    """A small GPT-2, the report of swapping and folding its layers, the folder of `save`, the progress."""
    torch.manual_seed(0)
    _, tokenizer = models.demo()
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=D, n_layer=2, n_head=2, n_positions=32)
    model = models.spread_norms(transformers.GPT2LMHeadModel(config))
    place, seen = tmp_path_factory.mktemp("fold"), list[Any]()
    report = normscope.swap(
        model, TEXTS, tokenizer=tokenizer, batching=SHORT, progress=seen.append, save=place,
        swapping=Swapping("batchnorm-fitted", fold=True), exclude=["*.0.ln_2"],
    )  # fmt: skip
    return model, report, place, seen


def test_a_swap_reports_what_it_folded(swapped: tuple[Any, Any, Path, list[Any]]) -> None:
    _, report, _, seen = swapped
    fold = report.fold
    assert [layer.name for layer in fold.layers] == list(report.layers)
    assert [(layer.name, *layer.into) for layer in fold.folded] == [
        ("transformer.h.0.ln_1", "transformer.h.0.attn.c_attn"),
        ("transformer.h.1.ln_1", "transformer.h.1.attn.c_attn"),
        ("transformer.h.1.ln_2", "transformer.h.1.mlp.c_fc"),
    ]
    assert fold.layers[-1].reason.startswith("lm_head.weight is tied")
    assert fold.layers[-1].relative_difference != fold.layers[-1].relative_difference
    for found in (fold, *fold.folded):
        assert 0 < found.relative_difference < fold.tolerance / 10
        assert 0 < found.largest_difference < 1e-4
    assert type(report).from_dict(report.to_dict()) == report
    runs = [step for step in seen if step.stage == "run"]
    assert {step.expected_texts for step in runs[-9:]} == {runs[-1].texts}


def test_its_effect_is_that_of_the_saved_fold(swapped: tuple[Any, Any, Path, list[Any]]) -> None:
    model, report, place, _ = swapped
    _, tokenizer = models.demo()
    losses = []
    fold = normscope.read_fold(place)
    assert (normscope.read_calibration(place).kind, fold.kind) == ("batchnorm-fitted", "batchnorm-fitted")
    with torch.no_grad(), fold.applied(model):
        for text in TEXTS[1::2]:
            row = tokenizer(text, truncation=True, max_length=24, return_tensors="pt")
            logits, target = model(**row).logits[0, :-1], row["input_ids"][0, 1:]
            losses.append(functional.cross_entropy(logits, target, reduction="none"))
    assert float(torch.cat(losses).mean()) == pytest.approx(report.fold.effect.loss.mean, rel=1e-5)


def test_folds_and_calibrations_show_themselves_in_a_line() -> None:
    folded = Folded({"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}, "0")
    assert repr(folded) == "<Folded into fc>"
    fold = Fold("m", "frozen", {"norm": folded}, {"other": "why"})
    assert repr(fold) == "<Fold of m: frozen, 1 layer folded, 1 not>"
    assert repr(Calibration("m", {})) == "<Calibration of m: 0 layers>"
