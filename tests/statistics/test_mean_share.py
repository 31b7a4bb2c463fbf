"""The share of each token's square that its mean carries: against float64, in parts, and in old files."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import normscope
from normscope import Batching, Report
from normscope.capture.recorder import Recorder
from normscope.results.tidy import csv_lines
from normscope.statistics.moments_file import write_moments
from tests.support import models
from tests.support.activations import MODELS, recorded


def shares(rows: Any) -> tuple[float, float]:
    """Return both shares of rows (V, D), from their projections on the vector of ones."""
    along = [row.sum() ** 2 / len(row) for row in rows]
    whole = [(row**2).sum() for row in rows]
    each = [a / w for a, w in zip(along, whole, strict=True) if w]
    return sum(each) / len(each), sum(along) / sum(whole)


@pytest.mark.parametrize("name", MODELS)
def test_both_shares_are_those_of_two_passes_in_float64(name: str) -> None:
    build, inputs = MODELS[name]
    model, batch = build(), inputs()
    recorder = Recorder(model)
    with recorder, recorded(model) as seen, torch.no_grad():
        model(**batch)
    for layer in recorder.report().layers.values():
        mean, energy = shares(seen[layer.name][0][0].reshape(-1, layer.features))
        assert layer.mean_share == pytest.approx(mean, rel=2e-5, abs=2e-6), layer.name
        assert layer.mean_share_energy == pytest.approx(energy, rel=2e-5, abs=2e-6), layer.name


# Known tokens


class _Only(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.norm(inputs)
        return outputs


def watched(*tokens: list[float]) -> Any:
    model = _Only()
    with normscope.watch(model) as watcher:
        model(torch.tensor([tokens]))
    return watcher.report().layers["norm"]


def test_known_tokens() -> None:
    ones, balanced = [3.0] * 4, [1.0, -1.0, 1.0, -1.0]
    assert (watched(ones, ones).mean_share, watched(ones, ones).mean_share_energy) == (1, 1)
    assert (watched(balanced).mean_share, watched(balanced).mean_share_energy) == (0, 0)
    both = watched(ones, balanced)
    assert (both.mean_share, both.mean_share_energy) == (0.5, pytest.approx(36 / 40))


def test_tokens_of_zeros_are_left_out() -> None:
    zeros = [0.0] * 4
    assert watched(zeros, [3.0] * 4, zeros).mean_share == 1
    alone = watched(zeros, zeros)
    assert math.isnan(alone.mean_share)
    assert math.isnan(alone.mean_share_energy)


# Parts, files and tables


@pytest.fixture(scope="module")
def minilm() -> tuple[Any, Any]:
    return models.demo()


TEXTS = models.prose(24)


def inspected(minilm: tuple[Any, Any], texts: list[str], **options: Any) -> Report:
    model, tokenizer = minilm
    return normscope.inspect(
        model, texts, tokenizer=tokenizer, batching=Batching(4, order="given"), moments=True, **options
    )


def both_shares(report: Report) -> list[float]:
    return [x for layer in report.layers.values() for x in (layer.mean_share, layer.mean_share_energy)]


@pytest.fixture(scope="module")
def whole(minilm: Any) -> Report:
    return inspected(minilm, TEXTS)


@pytest.fixture(scope="module")
def parts(minilm: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("parts") / f"{i}.safetensors" for i in range(2)]
    for path, texts in zip(paths, (TEXTS[:8], TEXTS[8:]), strict=True):
        write_moments(inspected(minilm, texts), path)
    return paths


def test_parts_are_the_whole(parts: list[Path], whole: Report) -> None:
    np.testing.assert_allclose(both_shares(normscope.merge(parts)), both_shares(whole), rtol=1e-9)


def test_a_part_of_an_earlier_version_leaves_the_average_unknown(
    parts: list[Path], whole: Report, tmp_path: Path
) -> None:
    old = tmp_path / "old.safetensors"
    forget(parts[0], old)
    for order in ([old, parts[1]], [parts[1], old]):
        merged = normscope.merge(order)
        assert all(math.isnan(layer.mean_share) for layer in merged.layers.values())
        energies = [layer.mean_share_energy for layer in merged.layers.values()]
        assert energies == pytest.approx([layer.mean_share_energy for layer in whole.layers.values()])
        assert [layer["mean_share"] for layer in merged.to_dict()["layers"]] == [None] * 13


def forget(path: Path, old: Path) -> None:
    """Write a moments file as earlier versions did: without the tensors of the share."""
    with safe_open(path, framework="pt") as file:
        header = {k: v for k, v in file.metadata().items() if k != "sha256"}
    tensors = {k: v for k, v in load_file(path).items() if "/mean_share." not in k}
    assert len(tensors) < len(load_file(path))
    save_file(tensors, old, header)


def test_csv_and_compare_have_them(whole: Report, minilm: Any) -> None:
    lines = list(csv_lines(whole))
    first = next(iter(whole.layers.values()))
    assert f"{first.name},layer,,,mean_share,{first.mean_share}\n" in lines
    assert f"{first.name},layer,,,mean_share_energy,{first.mean_share_energy}\n" in lines
    moved = replace(first, mean_share=first.mean_share + 0.25)
    other = replace(whole, layers={**whole.layers, first.name: moved})
    assert normscope.compare(whole, other).layers[first.name].mean_share_change == pytest.approx(0.25)
