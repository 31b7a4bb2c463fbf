"""`inspect` end to end: the real MiniLM on real prose, against single unpadded texts in float64."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import normscope
from normscope import Batching, Loading, Report
from normscope.engine.progress import Progress
from normscope.errors import RunError, TextError, UsageError
from tests.support import models
from tests.support.reference import layer_norm, measure, stack, worst_error

SENTENCES = models.prose(100)
LAYERS = (
    "embeddings.LayerNorm",
    "encoder.layer.2.output.LayerNorm",
    "encoder.layer.5.attention.output.LayerNorm",
)


@pytest.fixture(scope="module")
def minilm() -> tuple[Any, Any]:
    return models.demo()


@pytest.fixture(scope="module")
def single_texts(minilm: tuple[Any, Any]) -> dict[str, list[Any]]:
    """The inputs of three layers when every sentence runs alone, without padding."""
    model, tokenizer = minilm
    kept: dict[str, list[Any]] = {name: [] for name in LAYERS}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, rows=rows: rows.append(args[0][0].double().numpy())
        )
        for name, rows in kept.items()
    ]
    with torch.no_grad():
        for text in SENTENCES:
            model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=128))
    for handle in handles:
        handle.remove()
    return kept


def reference(rows: list[Any], module: nn.Module, inner: bool = False) -> dict[str, Any]:
    assert isinstance(module, nn.LayerNorm)
    part, eps = slice(1, -1) if inner else slice(None), module.eps
    samples = [(x[part], layer_norm(x, eps)[part], np.arange(len(x))[part]) for x in rows]
    weight, bias = (p.detach().double().numpy() for p in (module.weight, module.bias))
    return measure(stack(samples), eps, (weight, bias))


@pytest.fixture(scope="module")
def references(minilm: tuple[Any, Any], single_texts: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """The numbers of the three layers."""
    return {name: reference(rows, minilm[0].get_submodule(name)) for name, rows in single_texts.items()}


def inspected(minilm: tuple[Any, Any], **options: Any) -> Report:
    model, tokenizer = minilm
    return normscope.inspect(
        model, SENTENCES, tokenizer=tokenizer, batching=Batching(max_length=128, **options)
    )


@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_every_number_of_minilm_is_the_references(minilm: Any, references: Any, batch_size: int) -> None:
    report = inspected(minilm, batch_size=batch_size)
    assert len(report.layers) == 13
    assert report.run.texts == len(SENTENCES) == 100
    for name in LAYERS:
        layer = report.layers[name]
        got = report.to_dict()["layers"][layer.index]
        error, where = worst_error(got, references[name])
        assert error < 2e-5, (name, where)
        assert (layer.kind, layer.features, layer.affine) == ("layernorm", 384, "weight+bias")
        assert layer.own_error < 2e-5


def test_special_tokens_can_be_left_out(minilm: Any, single_texts: Any) -> None:
    report = inspected(minilm, special_tokens="exclude", order="given")
    for name in LAYERS:
        layer = report.layers[name]
        got = report.to_dict()["layers"][layer.index]
        want = reference(single_texts[name], minilm[0].get_submodule(name), inner=True)
        error, where = worst_error(got, want)
        assert error < 2e-5, (name, where)
        assert layer.position is not None
        assert layer.position.count[0] == 0, "[CLS] keeps its position and is not counted"
        assert layer.first_position is not None
        assert np.isnan(layer.first_position.rms)


def test_a_report_comes_back_equal_from_json(minilm: Any, tmp_path: Any) -> None:
    report = inspected(minilm, limit=8)
    report.to_json(tmp_path / "report.json")
    assert normscope.read_report(tmp_path / "report.json").to_dict() == report.to_dict()


def test_a_model_by_name_says_kind_of_file() -> None:
    report = normscope.inspect("demo", ["one sentence", "and another one"], loading=Loading(device="cpu"))
    assert (report.model.id, report.model.architecture, report.model.dtype) == (
        "demo",
        "BertModel",
        "float32",
    )
    assert report.model.parameters == 22713216
    assert report.run.max_length == 512
    assert report.warnings == ()


def test_the_users_model_is_left_as_it_was(minilm: Any) -> None:
    model, tokenizer = minilm
    model.train()
    model.encoder.layer[0].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    normscope.inspect(model, ["one", "two"], tokenizer=tokenizer)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    model.eval()


def test_blank_texts_are_skipped_and_counted(minilm: Any) -> None:
    model, tokenizer = minilm
    run = normscope.inspect(model, ["", "a b", " \t", "c"], tokenizer=tokenizer).run
    assert (run.texts, run.skipped_texts) == (2, 2)


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_nothing_to_measure_is_an_error(minilm: Any, texts: list[str]) -> None:
    with pytest.raises(TextError, match="no text to measure"):
        normscope.inspect(minilm[0], texts, tokenizer=minilm[1])


def test_one_string_is_not_taken_for_many(minilm: Any) -> None:
    with pytest.raises(UsageError, match="put it in a list"):
        normscope.inspect(minilm[0], "abc", tokenizer=minilm[1])


def test_a_model_object_needs_its_tokenizer(minilm: Any) -> None:
    with pytest.raises(UsageError, match="tokenizer"):
        normscope.inspect(minilm[0], ["abc"])


def test_a_model_that_fails_is_one_line_and_restored(minilm: Any) -> None:
    model = models.bert()  # 100 words: MiniLM's token ids lie far outside
    model.train()
    with pytest.raises(RunError, match=r"BertForMaskedLM has no embedding for a token.*IndexError") as caught:
        normscope.inspect(model, ["unaffordable"], tokenizer=minilm[1])
    assert "\n" not in str(caught.value)
    assert model.training


def test_our_own_bugs_keep_their_traceback(minilm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr("normscope.capture.layer_capture.LayerCapture.add", broken)
    with pytest.raises(ZeroDivisionError):
        normscope.inspect(minilm[0], ["abc"], tokenizer=minilm[1])


def test_progress_counts_up_to_the_end(minilm: Any) -> None:
    seen: list[Progress] = []
    texts = SENTENCES[:40]
    normscope.inspect(
        minilm[0], texts, tokenizer=minilm[1], batching=Batching(batch_size=16), progress=seen.append
    )
    assert [p.stage for p in seen] == ["load", "plan", "run", "run", "run"]
    assert [p.texts for p in seen[2:]] == [16, 32, 40]
    assert [p.expected_texts for p in seen[2:]] == [40, 40, 40]
    assert seen[-1].tokens > seen[2].tokens > 0


def test_a_causal_models_logits_are_not_computed() -> None:
    from normscope.engine.forward import Forward

    model = models.llama()
    widths: list[int] = []
    handle = model.lm_head.register_forward_hook(lambda *args: widths.append(args[2].shape[1]))
    Forward(model)({"input_ids": torch.ones(2, 9, dtype=torch.long)})
    handle.remove()
    assert widths == [1]


class MaskBlind(nn.Module):
    """Mixes tokens without a mask, so that padding would leak into every number."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(40000, 8), nn.LayerNorm(8)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        mixed: torch.Tensor = self.norm(x + x.mean(1, keepdim=True))
        return mixed


def test_a_model_that_takes_no_mask_is_fed_unpadded(minilm: Any) -> None:
    torch.manual_seed(0)
    model, texts = MaskBlind(), SENTENCES[:9]
    together = normscope.inspect(model, texts, tokenizer=minilm[1], batching=Batching(batch_size=9))
    alone = normscope.inspect(model, texts, tokenizer=minilm[1], batching=Batching(batch_size=1))
    assert together.run.batch_size == 1
    assert together.to_dict()["layers"] == alone.to_dict()["layers"]


def test_a_users_file_that_is_called_like_one_of_ours_is_theirs(tmp_path: Path) -> None:
    """Our own errors are told from the model's by the path of the file, not by its name."""
    (tmp_path / "watcher.py").write_text("def fail(*_):\n    raise ValueError('theirs')\n")
    theirs = runpy.run_path(str(tmp_path / "watcher.py"))
    model, tokenizer = models.demo()
    model.embeddings.register_forward_hook(theirs["fail"])
    with pytest.raises(RunError, match="theirs"):
        normscope.inspect(model, ["a b c"], tokenizer=tokenizer)
