"""The residual stream along the blocks: which norms read it, and its numbers in float64."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import normscope
from normscope import Batching, Report
from normscope.analyses.depth import depth_profiles, kurtosis
from normscope.capture.recorder import Recorder
from normscope.norms.residual_stream import stack_norms
from normscope.render.inspect import render_report, render_report_markdown
from normscope.render.terminal import Screen
from normscope.results.tidy import csv_lines
from tests.support import models
from tests.support.activations import MODELS, SIZES, recorded, t5, vit


def small(kind: str, **sizes: Any) -> Any:
    """Return a small random model of a class of transformers."""
    config: Any = getattr(transformers, f"{kind}Config")
    return getattr(transformers, f"{kind}Model")(config(**sizes)).eval()


def gemma2() -> Any:
    return small("Gemma2", vocab_size=100, head_dim=8, num_key_value_heads=2, **SIZES)


def parallel() -> Any:
    return small("GPTJ", vocab_size=100, n_embd=32, n_layer=2, n_head=4, rotary_dim=4)


def olmo2() -> Any:
    return small("Olmo2", vocab_size=100, **SIZES)


def numbered(model: Any) -> Any:
    norms = {capture.norm.name: capture.norm.features for capture in Recorder(model).captures}
    return stack_norms(model, norms)


@pytest.mark.parametrize(
    ("build", "read", "left_out"),
    [
        (models.gpt2, ["h.0.ln_1", "h.0.ln_2", "h.1.ln_1", "h.1.ln_2", "ln_f"], 0),
        (models.bert, ["0.attention.output.LayerNorm", "0.output.LayerNorm"], 0),
        (gemma2, ["layers.0.input_layernorm", "layers.0.pre_feedforward_layernorm"], 4),
        (parallel, ["h.0.ln_1", "h.1.ln_1", "ln_f"], 0),
        (olmo2, ["norm"], 8),
    ],
)
def test_norms_of_the_stream_are_told_from_those_of_branches(
    build: Callable[[], Any], read: list[str], left_out: int
) -> None:
    norms = numbered(build())
    names = [norm.name for norm in norms if not norm.left_out]
    assert all(name.endswith(end) for name, end in zip(names, read, strict=False))
    assert len(names) >= len(read)
    assert sum(bool(norm.left_out) for norm in norms) == left_out


def test_encoder_and_decoder_have_profiles_of_their_own() -> None:
    norms = numbered(t5())
    assert {norm.stack for norm in norms} == {"encoder.block", "decoder.block"}
    behind = {norm.name: norm.stack for norm in norms if norm.block is None}
    assert behind["decoder.final_layer_norm"] == "decoder.block"
    assert {norm.stack for norm in numbered(vit())} == {norms.stack for norms in numbered(vit())[:1]}


@pytest.mark.parametrize("name", MODELS)
def test_numbers_are_those_of_two_passes_in_float64(name: str) -> None:
    build, inputs = MODELS[name]
    model, batch = build(), inputs()
    recorder = Recorder(model)
    with recorder, recorded(model) as seen, torch.no_grad():
        model(**batch)
    hidden = {layer: calls[0][0] for layer, calls in seen.items()}
    profiles = depth_profiles(model, recorder.report().layers)
    assert profiles
    for profile in profiles:
        rms = [math.sqrt((hidden[point.name] ** 2).mean()) for point in profile.points]
        assert [point.residual.rms for point in profile.points] == pytest.approx(rms, rel=2e-5)
        assert profile.residual.total == pytest.approx(rms[-1] / rms[0], rel=2e-5)
        for point in profile.points:
            x = hidden[point.name].reshape(-1, hidden[point.name].shape[-1])
            s = np.sqrt((x**2).mean(0))
            assert point.kurtosis == pytest.approx((s**4).mean() / (s**2).mean() ** 2, rel=2e-5)
            place = point.name.removeprefix(f"{profile.name}.{point.block}.")
            before = f"{profile.name}.{(point.block or 0) - 1}.{place}"
            if point.block:
                growth = math.sqrt((hidden[point.name] ** 2).mean() / (hidden[before] ** 2).mean())
                assert point.residual.growth == pytest.approx(growth, rel=2e-5)
            elif point.block == 0:
                assert math.isnan(point.residual.growth)


def test_kurtosis_has_its_ends() -> None:
    assert kurtosis(np.full(8, 3.0)) == 1
    assert kurtosis(np.eye(8)[2]) == 8
    assert math.isnan(kurtosis(np.zeros(8)))


# Reports


@pytest.fixture(scope="module")
def minilm() -> tuple[Any, Any]:
    return models.demo()


def inspected(minilm: tuple[Any, Any], texts: list[str]) -> Report:
    model, tokenizer = minilm
    return normscope.inspect(model, texts, tokenizer=tokenizer, batching=Batching(8), moments=True)


@pytest.fixture(scope="module")
def report(minilm: tuple[Any, Any]) -> Report:
    return inspected(minilm, models.prose(16))


def test_parts_have_the_profile_of_the_whole(minilm: Any, report: Report) -> None:
    texts = models.prose(16)
    merged = normscope.merge([inspected(minilm, texts[:5]), inspected(minilm, texts[5:])])
    assert merged.depth is not None
    assert report.depth is not None
    for one, other in zip(merged.depth, report.depth, strict=True):
        sizes = [[p.residual.rms for p in profile.points] for profile in (one, other)]
        assert sizes[0] == pytest.approx(sizes[1], rel=1e-6)
        assert one.residual.total == pytest.approx(other.residual.total, rel=1e-6)


def test_json_and_csv_have_it(report: Report) -> None:
    assert Report.from_dict(report.to_dict()).to_dict() == report.to_dict()
    (profile,) = report.depth or ()
    lines = list(csv_lines(report))
    first = profile.points[0]
    assert f"{first.name},depth,,,residual.rms,{first.residual.rms}\n" in lines
    assert f"{profile.name},depth,,,residual.total,{profile.residual.total}\n" in lines


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_fits_and_names_the_stack(width: int, report: Report) -> None:
    text = render_report(report, depth=True, screen=Screen(width))
    assert max(map(len, text.splitlines())) <= width
    assert "Residual stream along encoder.layer, 6 blocks" in text
    assert "Residual stream" not in render_report(report, screen=Screen(width))
    assert "Residual stream along" in render_report_markdown(report, depth=True)
