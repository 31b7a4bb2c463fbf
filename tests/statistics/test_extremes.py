"""The largest values and the range of the tokens' variances: against float64 activations, and in parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import normscope
from normscope.capture import fused_sums
from normscope.results.inspect import LayerReport, Report
from normscope.statistics.digests import KEY
from normscope.statistics.moments_file import read_moments, write_moments
from normscope.statistics.token_variances import BINS, TokenVariances
from tests.support import models
from tests.support.activations import recorded

SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
IDS = torch.arange(3, 3 + 6 * 7).reshape(6, 7) % 90


def minilm() -> Any:
    return models.demo()[0]


def gpt2() -> Any:
    return transformers.GPT2Model(transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4))


def llama() -> Any:
    sizes = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2}
    return transformers.LlamaModel(transformers.LlamaConfig(vocab_size=100, **sizes))


def t5() -> Any:
    sizes: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return transformers.T5EncoderModel(transformers.T5Config(vocab_size=100, **sizes))


def vit() -> Any:
    sizes: dict[str, Any] = {**SIZES, "num_attention_heads": 4, "image_size": 16, "patch_size": 8}
    return transformers.ViTModel(transformers.ViTConfig(**sizes))


def texts(left: bool) -> dict[str, Tensor]:
    mask = torch.ones(6, 7, dtype=torch.long)
    for row, length in enumerate((7, 3, 5, 1, 7, 2)):
        mask[row, slice(0, 7 - length) if left else slice(length, 7)] = 0
    return {"input_ids": IDS, "attention_mask": mask}


MODELS: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, Tensor]]]] = {
    "minilm": (minilm, lambda: texts(False)),
    "gpt2": (gpt2, lambda: texts(True)),
    "llama": (llama, lambda: texts(True)),
    "t5": (t5, lambda: texts(False)),
    "vit": (vit, lambda: {"pixel_values": torch.randn(3, 3, 16, 16)}),
}


def measured(model: Any, batches: list[dict[str, Tensor]]) -> tuple[Report, dict[str, list[tuple[Any, Any]]]]:
    """Watch a model; also return each layer's inputs and outputs in float64."""
    watcher = normscope.watch(model)
    with watcher, recorded(model) as seen, torch.no_grad():
        for batch in batches:
            model(**batch)
    return watcher.report(moments=True), seen


def counted(batch: dict[str, Tensor], rows: int) -> tuple[Any, Any, Any]:
    """Return which rows count, and the position and the token id of each."""
    if "input_ids" not in batch:
        tokens = rows // 3
        return np.ones(rows, dtype=bool), np.tile(np.arange(tokens), 3), np.full(rows, -1)
    mask = batch["attention_mask"].numpy().astype(bool)
    return mask.reshape(-1), (mask.cumsum(1) - 1).reshape(-1), batch["input_ids"].numpy().reshape(-1)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_values_and_places_are_those_of_the_activations(
    name: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compiled:
        pytest.importorskip("numba")
    monkeypatch.setattr(fused_sums, "AFTER", 0 if compiled else 1 << 60)
    torch.manual_seed(0)
    build, inputs = MODELS[name]
    model, batch = build().eval(), inputs()
    report, seen = measured(model, [batch, batch])
    for layer in report.layers.values():
        x, out = (values.reshape(-1, layer.features) for values in seen[layer.name][0])
        count, position, token = counted(batch, len(x))
        assert_extremes(layer, x[count], out[count], position[count], token[count])
        assert_variances(layer, x[count].var(1), position[count])


def assert_extremes(layer: LayerReport, x: Any, out: Any, position: Any, token: Any) -> None:
    extremes = layer.extremes
    assert extremes is not None
    assert extremes.output is not None
    np.testing.assert_allclose(extremes.feature, np.abs(x).max(0), rtol=1e-7)
    for one, values in ((extremes.input, x), (extremes.output, out)):
        row, feature = np.unravel_index(np.abs(values).argmax(), values.shape)
        assert one.value == pytest.approx(np.abs(values).max(), rel=1e-7)
        assert one.feature == feature
        assert one.position == position[row]
        assert one.token == (token[row] if token[row] >= 0 else None)
    largest = max(np.abs(x).max(), np.abs(out).max())
    assert extremes.headroom == pytest.approx(65504 / largest, rel=1e-6)
    assert extremes.headroom_bits == pytest.approx(np.log2(65504 / largest), rel=1e-6)


def assert_variances(layer: LayerReport, variances: Any, position: Any) -> None:
    stats, whole = layer.position, layer.global_
    assert stats is not None
    assert stats.token_variance_min is not None
    assert stats.token_variance_max is not None
    assert stats.far is not None
    assert whole is not None
    for t in range(len(stats.count)):
        own = variances[position == t]
        assert stats.token_variance_min[t] == pytest.approx(own.min(), rel=2e-5)
        assert stats.token_variance_max[t] == pytest.approx(own.max(), rel=2e-5)
        far = float(((own > 2 * whole.variance) | (own < whole.variance / 2)).mean())
        # Only tokens within an eighth of an octave of a limit can be on the other side of it.
        near = np.abs(np.abs(np.log2(own / whole.variance)) - 1) < 0.18
        assert abs(stats.far[t] - far) <= near.mean() + 1e-9


@given(st.lists(st.tuples(st.floats(0, 1e9), st.integers(0, 4)), min_size=1, max_size=60), st.integers(1, 59))
@settings(max_examples=40, deadline=None)
def test_parts_merge_into_the_whole(tokens: list[tuple[float, int]], cut: int) -> None:
    variances = torch.tensor([v for v, _ in tokens], dtype=torch.float64)
    positions = torch.tensor([t for _, t in tokens])
    whole, first, second = TokenVariances(), TokenVariances(), TokenVariances()
    whole.add(variances, positions)
    for part, rows in ((first, slice(0, cut)), (second, slice(cut, None))):
        if len(variances[rows]):
            part.add(variances[rows], positions[rows])
    second.merge(first)
    for name in ("low", "high", "histogram"):
        assert torch.equal(getattr(second, name), getattr(whole, name))
    assert int(whole.histogram.sum()) == len(tokens)


def test_the_share_is_exact_where_no_token_is_near_a_limit() -> None:
    variances = TokenVariances()
    variances.add(torch.tensor([1.0, 0.2, 0.3, 3.0, 1.2, 0.0]), torch.tensor([0, 0, 0, 0, 2, 2]))
    assert variances.far(1.0).tolist()[0::2] == [0.75, 0.5]
    assert variances.far(1.0).isnan().tolist() == [False, True, False]
    assert variances.far(0.0).isnan().all()
    assert variances.histogram.shape == (3, BINS)


def layers(report: Report) -> dict[str, Any]:
    return {name: (layer.extremes, layer.position) for name, layer in report.layers.items()}


def test_merged_parts_have_the_extremes_of_the_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, batch = gpt2().eval(), texts(True)
    rows = [{name: values[i : i + 3] for name, values in batch.items()} for i in (0, 3)]
    whole, parts = measured(model, [batch])[0], []
    for number, part in enumerate(rows):
        parts.append(tmp_path / f"{number}.safetensors")
        write_moments(measured(model, [part])[0], parts[-1])
    for merged in (normscope.merge(parts), normscope.merge(parts[::-1])):
        for name, (extremes, position) in layers(whole).items():
            got = merged.layers[name]
            assert got.extremes == extremes
            for field in ("token_variance_min", "token_variance_max", "far"):
                np.testing.assert_allclose(getattr(got.position, field), getattr(position, field), rtol=1e-6)


def test_moments_of_an_earlier_version_have_none(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path, old = tmp_path / "new.safetensors", tmp_path / "old.safetensors"
    report = measured(gpt2().eval(), [texts(True)])[0]
    write_moments(report, path)
    with safe_open(path, framework="pt") as file:
        header = {key: value for key, value in file.metadata().items() if key != KEY}
    tensors = {
        k: v for k, v in load_file(path).items() if ".variances." not in f".{k}" and "extremes" not in k
    }
    tensors = {k: v for k, v in tensors.items() if "/variances." not in k}
    save_file(tensors, old, header)
    merged = normscope.merge([old, path])
    for layer in merged.layers.values():
        assert layer.extremes is None
        assert layer.position is not None
        assert layer.position.far is None
        assert layer.position.token_variance_std is not None
    assert read_moments(old).layers.keys() == report.layers.keys()


def test_little_room_in_float16_is_told() -> None:
    torch.manual_seed(0)
    model = gpt2().eval()
    model.wpe.weight.data[0, 5] = 9000.0
    report = measured(model, [texts(False)])[0]
    (note,) = (warning for warning in report.warnings if "float16" in warning)
    assert note.startswith("ln_f and 4 more: ")
    assert "headroom 7.3" in note
    assert not [w for w in measured(gpt2().eval(), [texts(False)])[0].warnings if "float16" in w]


def test_an_output_that_overflowed_leaves_no_room() -> None:
    norm = torch.nn.LayerNorm(8)
    norm.weight.data[3] = torch.inf
    report = measured(torch.nn.Sequential(norm), [{"input": torch.randn(2, 3, 8)}])[0]
    (layer,) = report.layers.values()
    assert layer.extremes is not None
    assert layer.extremes.output is not None
    assert layer.extremes.output.value == np.inf
    assert layer.extremes.headroom == 0
    assert np.isnan(layer.extremes.headroom_bits)
    plain = report.to_dict()["layers"][0]["extremes"]
    assert (plain["output"]["value"], plain["headroom"], plain["headroom_bits"]) == (None, 0, None)
