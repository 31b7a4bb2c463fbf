"""The hooks: they see every call, change nothing, and leave nothing behind."""

import copy
import gc
import inspect
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import normscope
from normscope.errors import UsageError
from tests.support import models
from tests.support.reference import layer_norm, measure, rms_norm, stack, worst_error

TEXTS = [[5, 6, 7], [9, 10, 11, 12, 13, 14, 15], [20], [31, 32, 33, 34]]


def single_inputs(model: Any, name: str) -> list[Any]:
    """Run every text alone, unpadded, and keep what enters the layer: the independent way."""
    kept: list[Any] = []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda _, args: kept.append(args[0][0].double().numpy())
    )
    with torch.no_grad():
        for text in TEXTS:
            model(input_ids=torch.tensor([text]))
    handle.remove()
    return kept


def expected(model: Any, name: str, norm: Any, eps: float) -> dict[str, Any]:
    rows = single_inputs(model, name)
    return measure(stack([(x, norm(x, eps), np.arange(len(x))) for x in rows]), eps)


def padded(side: str) -> dict[str, Any]:
    longest = max(map(len, TEXTS))
    ids, mask = torch.zeros(2, len(TEXTS), longest, dtype=torch.long)
    for i, text in enumerate(TEXTS):
        part = slice(longest - len(text), None) if side == "left" else slice(len(text))
        ids[i, part], mask[i, part] = torch.tensor(text), 1
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def watched(model: Any, *batches: dict[str, Any], **globs: Any) -> normscope.Report:
    with normscope.watch(model, **globs) as watcher, torch.no_grad():
        for batch in batches:
            model(**batch)
    return watcher.report()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("build", "norm", "layers"),
    [
        (models.gpt2, layer_norm, ["transformer.h.0.ln_1", "transformer.h.1.ln_2", "transformer.ln_f"]),
        (
            models.llama,
            rms_norm,
            ["model.layers.0.input_layernorm", "model.layers.1.post_attention_layernorm", "model.norm"],
        ),
        (models.bert, layer_norm, ["bert.embeddings.LayerNorm", "bert.encoder.layer.1.output.LayerNorm"]),
    ],
)
def test_padding_on_either_side_gives_the_single_texts_numbers(
    build: Any, norm: Any, layers: list[str], side: str
) -> None:
    model = build()
    report = watched(model, padded(side))
    for name in layers:
        layer = report.layers[name]
        got = {**report.to_dict()["layers"][layer.index]}
        error, where = worst_error(got, expected(model, name, norm, layer.eps))
        assert error < 2e-5, (name, where)
        assert layer.own_error < 1e-5


def test_run_counts_tokens_and_padding() -> None:
    run = watched(models.gpt2(), padded("left"), padded("right")).run
    assert (run.texts, run.tokens, run.positions, run.batches) == (8, 30, 7, 2)
    assert run.padding_share == pytest.approx(1 - 15 / 28)
    assert run.seconds > 0


def test_a_masked_lm_heads_own_layer_norm_is_seen() -> None:
    report = watched(models.bert(), padded("right"))
    assert report.layers["cls.predictions.transform.LayerNorm"].count == 15


def test_outputs_do_not_change_and_no_hook_stays() -> None:
    model, batch = models.gpt2(), padded("right")
    with torch.no_grad():
        before = model(**batch).logits
        with normscope.watch(model):
            during = model(**batch).logits
        after = model(**batch).logits
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    assert hooks_of(model) == 0


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_hooks_go_when_the_forward_fails() -> None:
    model = models.gpt2()
    with pytest.raises(IndexError), normscope.watch(model):
        model(input_ids=torch.tensor([[10**6]]))
    assert hooks_of(model) == 0


def test_training_goes_on_undisturbed() -> None:
    plain = models.gpt2(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    watched_model = copy.deepcopy(plain)
    batch = padded("right")
    for model in (plain, watched_model):
        model.train()
        watcher = normscope.watch(model)
        for step in range(4):
            if model is watched_model and step % 2 == 0:
                with watcher:
                    loss = model(**batch, labels=batch["input_ids"]).loss
            else:
                loss = model(**batch, labels=batch["input_ids"]).loss
            loss.backward()
            torch.optim.SGD(model.parameters(), lr=0.1).step()
            model.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched_model.parameters(), strict=True))
    assert watched_model.training
    assert watcher.report().run.batches == 2
    assert watcher.report().layers["transformer.ln_f"].own_error < 1e-5


def test_a_mask_of_ones_own_leaves_out_more_and_keeps_positions() -> None:
    model, batch = models.llama(), padded("right")
    with normscope.watch(model) as watcher, torch.no_grad():
        watcher.mask = batch["attention_mask"] * (torch.arange(7) != 1)
        model(**batch)
    layer = watcher.report().layers["model.norm"]
    assert layer.position is not None
    assert layer.position.count.tolist() == [4, 0, 3, 2, 1, 1, 1]
    assert np.isnan(layer.position.mean[1])


def test_a_mask_of_another_shape_is_refused() -> None:
    model = models.llama()
    with normscope.watch(model) as watcher:
        watcher.mask = torch.ones(3, 3)
        with pytest.raises(UsageError, match=r"watcher.mask is \(3, 3\)"):
            model(**padded("right"))


def test_a_watcher_shows_only_what_a_user_needs() -> None:
    watcher = normscope.watch(models.gpt2())
    public = [name for name in dir(watcher) if not name.startswith("_")]
    assert public == ["decoder_mask", "mask", "model", "report"]


def test_a_key_value_cache_goes_on_counting_positions() -> None:
    model, text = models.llama(), TEXTS[1]
    # Releases of transformers differ in what they call the argument.
    name = next(n for n in ("cache", "past_key_values") if n in inspect.signature(model.forward).parameters)
    with normscope.watch(model) as watcher, torch.no_grad():
        first = model(input_ids=torch.tensor([text[:5]]), attention_mask=torch.ones(1, 5), use_cache=True)
        model(
            input_ids=torch.tensor([text[5:]]),
            attention_mask=torch.ones(1, 7),
            **{name: first.past_key_values},
        )
    layer = watcher.report().layers["model.norm"]
    assert layer.position is not None
    assert layer.position.count.tolist() == [1] * 7


def test_tokens_that_are_not_finite_are_counted_and_left_out() -> None:
    norm = nn.LayerNorm(4)
    x = torch.randn(3, 5, 4)
    x[1, 2, 3], x[2, 0, 0] = float("nan"), float("inf")
    with normscope.watch(norm) as watcher:
        norm(x)
    report = watcher.report()
    layer = report.layers["LayerNorm"]
    assert (layer.count, layer.nonfinite) == (13, 2)
    assert layer.position is not None
    assert layer.position.count.tolist() == [2, 3, 2, 3, 3]
    assert report.warnings == ("LayerNorm: 2 tokens with NaN or infinity were left out",)
    kept = np.concatenate([x[0].numpy(), x[1, [0, 1, 3, 4]].numpy(), x[2, 1:].numpy()])
    assert layer.feature is not None
    np.testing.assert_allclose(layer.feature.variance, kept.astype(np.float64).var(0), rtol=1e-5)


def test_a_layer_whose_inputs_are_all_bad_is_null() -> None:
    norm = nn.LayerNorm(4)
    with normscope.watch(norm) as watcher:
        norm(torch.full((2, 3, 4), float("nan")))
    layer = watcher.report().layers["LayerNorm"]
    assert (layer.calls, layer.count, layer.nonfinite) == (1, 0, 6)
    assert [layer.token, layer.feature, layer.agreement] == [None, None, None]


def test_a_call_of_another_width_is_left_out_and_said() -> None:
    class FreeNorm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.layer_norm(x, x.shape[-1:])

    norm = FreeNorm()
    with normscope.watch(norm) as watcher:
        norm(torch.randn(2, 3, 4))
        norm(torch.randn(2, 3, 5))
    layer = watcher.report().layers["FreeNorm"]
    assert (layer.features, layer.count, layer.kind) == (4, 6, "layernorm")
    assert watcher.report().warnings == ("FreeNorm: 1 calls with another number of features were left out",)


def test_a_layer_never_called_is_listed() -> None:
    model = nn.ModuleDict({"used": nn.LayerNorm(4), "spare": nn.LayerNorm(4)})
    model.forward = model["used"].forward
    with normscope.watch(model) as watcher:
        model["used"](torch.randn(2, 3, 4))
    layers = watcher.report().layers
    assert (layers["used"].calls, layers["spare"].calls) == (1, 0)
    assert layers["spare"].feature is None
    assert layers["spare"].layout is None


def test_convolutional_inputs_have_channels_for_features() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)
    ).train()
    for _ in range(5):
        model(torch.randn(8, 3, 12, 12))
    model.eval()
    image = torch.randn(5, 3, 12, 12)
    with normscope.watch(model) as watcher, torch.no_grad():
        model(image)
    layer = watcher.report().layers["1"]
    x = model[0](image).detach().double().numpy()
    assert (layer.kind, layer.features, layer.layout, layer.count) == ("batchnorm", 6, "(B, D, T1, T2)", 500)
    assert layer.feature is not None
    assert layer.position is not None
    np.testing.assert_allclose(layer.feature.mean, x.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.feature.variance, x.var((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(layer.position.variance, x.var((0, 1)).reshape(-1), rtol=1e-5)
    assert layer.own_error < 1e-5
    assert layer.agreement is not None
    assert layer.agreement["feature"] > 0.99
    assert watcher.report().run.texts == 5


def test_stored_statistics_are_compared_with_the_corpus() -> None:
    norm = nn.BatchNorm1d(3).eval()
    stored, variance = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 9.0, 16.0])
    norm.load_state_dict({**norm.state_dict(), "running_mean": stored, "running_var": variance})
    x = torch.randn(50, 3, 7) * 2 + 1
    with normscope.watch(norm) as watcher:
        norm(x)
    gap = watcher.report().layers["BatchNorm1d"].stored_gap
    assert gap is not None
    rows, sd = x.movedim(1, 2).reshape(-1, 3).double().numpy(), np.array([2.0, 3.0, 4.0])
    scale = np.linalg.norm(sd)
    assert gap.mean == pytest.approx(np.linalg.norm(rows.mean(0) - [1, 2, 3]) / scale, rel=1e-6)
    assert gap.variance == pytest.approx(np.linalg.norm(rows.std(0) - sd) / scale, rel=1e-6)


def test_batchnorm_in_training_normalises_by_the_batch() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4).train()
    image = torch.randn(9, 4, 200, 200) * 3 + 1  # more than is taken at once
    with normscope.watch(norm) as watcher:
        norm(image)
    layer = watcher.report().layers["BatchNorm2d"]
    assert layer.own_error < 1e-5
    assert layer.agreement is not None
    assert layer.agreement["feature"] == pytest.approx(1, abs=1e-6)


def test_globs_choose_layers_and_unknown_ones_are_refused() -> None:
    model = models.gpt2()
    report = watched(model, padded("right"), layers=["*.ln_1", "*ln_f"], exclude=["*.1.*"])
    assert list(report.layers) == ["transformer.h.0.ln_1", "transformer.ln_f"]
    with pytest.raises(UsageError, match="no layer matches 'nothing'"):
        normscope.watch(model, layers=["nothing"])


def test_an_open_watcher_cannot_be_entered_again() -> None:
    watcher = normscope.watch(models.gpt2())
    with watcher, pytest.raises(UsageError, match="already open"):
        watcher.__enter__()


def test_reduced_precision_is_measured_in_full() -> None:
    model = models.llama().bfloat16()
    kept: list[Any] = []
    handle = model.model.norm.register_forward_pre_hook(lambda _, args: kept.append(args[0].double()))
    report = watched(model, padded("right"))
    handle.remove()
    layer, mask = report.layers["model.norm"], padded("right")["attention_mask"].bool()
    assert layer.feature is not None
    x = kept[0][mask].numpy()
    np.testing.assert_allclose(layer.feature.variance, x.var(0), rtol=1e-5)
    assert layer.own_error < 0.02
    assert layer.kind == "rmsnorm"


def test_a_model_is_freed_when_its_user_drops_it() -> None:
    """The watcher that has closed keeps its norms' vectors, and no weights."""
    model = models.gpt2()
    kept, watcher = weakref.ref(model), normscope.watch(model)
    for _ in range(2):
        with torch.no_grad(), watcher:
            model(**padded("right"))
    before = watcher.report()
    del model
    gc.collect()
    assert kept() is None
    assert watcher.report() == before
    with pytest.raises(UsageError, match="the watched model was deleted"), watcher:
        pass


def test_a_model_that_the_watcher_alone_has_lives_until_it_closes() -> None:
    watcher = normscope.watch(models.gpt2())
    gc.collect()
    with torch.no_grad(), watcher:
        watcher.model(**padded("right"))
    assert watcher.report().run.tokens == 15


@pytest.mark.parametrize("use", ["calibrate", "fold", "inspect", "swapped"])
def test_no_other_use_keeps_a_model(use: str) -> None:
    model, tokenizer = models.demo()
    kept, texts = weakref.ref(model), ["one", "two of them"]
    if use == "inspect":
        result: Any = normscope.inspect(model, texts, tokenizer=tokenizer)
    else:
        result = normscope.calibrate(model, texts, tokenizer=tokenizer)
    if use == "fold":
        result = normscope.fold(model, {"input_ids": torch.tensor([[5, 6]])}, statistics=result)
    elif use == "swapped":
        with normscope.swapped(model, statistics=result), torch.no_grad():
            result = model(input_ids=torch.tensor([[5, 6]]))
    del model
    gc.collect()
    assert kept() is None
    assert result is not None
