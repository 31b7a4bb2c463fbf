"""Calls taken in one pass: the moments are those of PyTorch's operators, and of two passes in float64."""

import builtins
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normscope.capture import fused_sums as one_pass
from normscope.capture.recorder import Recorder
from tests.support import reference

pytest.importorskip("numba")

B, T, D = 6, 9, 24


class Gemma(nn.Module):
    """An RMSNorm whose weight is kept less 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(D) * 0.2)
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        scaled = x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return scaled * (1 + self.weight)


GemmaRMSNorm = type("GemmaRMSNorm", (Gemma,), {})


def norms() -> dict[str, nn.Module]:
    torch.manual_seed(1)
    made = {
        "layernorm": nn.LayerNorm(D, eps=1e-5),
        "bare": nn.LayerNorm(D, elementwise_affine=False),
        "without bias": nn.LayerNorm(D, bias=False),
        "rmsnorm": nn.RMSNorm(D, eps=1e-6),
        "offset": GemmaRMSNorm(),
    }
    for module in made.values():
        for parameter in module.parameters():
            nn.init.normal_(parameter, 1.0 if parameter.dim() else 0.0, 0.3)
    return made


class Model(nn.Module):
    """One layer, with tokens to count."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        return self.norm(x)  # type: ignore[no-any-return]


def batch(seed: int, dtype: torch.dtype = torch.float64, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, T, D, generator=generator, dtype=torch.float64) * 2 + shift
    x[:, 0] = x[0, 0]  # The same first token in all texts.
    x[..., 3] += 40
    lengths = torch.randint(1, T + 1, (B, 1), generator=generator)
    mask = torch.arange(T)[None] < lengths if seed % 2 else torch.arange(T)[None] >= T - lengths
    return x.to(dtype), mask.long()


def run(
    monkeypatch: pytest.MonkeyPatch, norm: nn.Module, batches: list[tuple[Tensor, Tensor]], *, once: bool
) -> Recorder:
    """Watch the layer, its first call by PyTorch's operators, which settle the formula."""
    passes: list[Any] = []
    take = one_pass.one_pass

    def counted(*given: Any) -> Any:
        passes.append(take(*given))
        return passes[-1]

    monkeypatch.setattr(one_pass, "AFTER", 0 if once else sys.maxsize)
    monkeypatch.setattr("normscope.capture.call_summary.one_pass", counted)
    recorder = Recorder(Model(norm))
    with recorder:
        for x, mask in batches:
            recorder.model(x, attention_mask=mask)
    assert len(passes) == (len(batches) - 1 if once else 0)
    return recorder


def moments(recorder: Recorder) -> dict[str, Tensor]:
    (capture,) = recorder.captures
    return capture.state.state_dict()


def assert_alike(one: Recorder, other: Recorder, tolerance: float) -> None:
    got, want = moments(one), moments(other)
    assert got.keys() == want.keys()
    for name, values in want.items():
        scale = max(1.0, float(values.nan_to_num(posinf=0, neginf=0).abs().max())) if values.numel() else 1.0
        torch.testing.assert_close(
            got[name], values, rtol=tolerance, atol=tolerance * scale, equal_nan=True, msg=name
        )
    for name in ("calls", "nonfinite", "output_size", "layouts", "precision"):
        assert getattr(one.captures[0].state, name) == getattr(other.captures[0].state, name)
    got_error, want_error = (recorder.captures[0].state.own_error() for recorder in (one, other))
    assert got_error == pytest.approx(want_error, rel=1e-6, abs=10 * one.captures[0].state.precision)


@pytest.mark.parametrize("name", norms())
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 3e-5)])
def test_it_gives_what_the_operators_give(
    name: str, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    norm = norms()[name].to(dtype)
    batches = [batch(seed, dtype) for seed in range(5)]
    once, apart = (run(monkeypatch, norm, batches, once=once) for once in (True, False))
    assert_alike(once, apart, tolerance)


def test_it_gives_what_two_passes_give(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = norms()["layernorm"].double()
    batches = [batch(seed) for seed in range(4)]
    report = run(monkeypatch, norm, batches, once=True).report()
    samples = []
    for x, mask in batches:
        for row, counts in zip(x.numpy(), mask.bool().numpy(), strict=True):
            own = row[counts]
            samples.append((own, reference.layer_norm(own, 1e-5), np.arange(len(own))))
    weight, bias = (parameter.detach().numpy() for parameter in norm.parameters())
    want = reference.measure(reference.stack(samples), 1e-5, (weight, bias))
    error, place = reference.worst_error(report.to_dict()["layers"][0], want)
    assert error < 1e-10, place


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_taken_in_float32(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    norm = norms()["layernorm"].to(dtype)
    batches = [batch(seed, dtype) for seed in range(3)]
    once, apart = (run(monkeypatch, norm, batches, once=once) for once in (True, False))
    assert_alike(once, apart, 3e-5)


def test_more_rows_in_a_cell_than_float32_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(400, 3, D, generator=torch.Generator().manual_seed(0)) + 30
    batches = [(x, torch.ones(400, 3).long())] * 2
    norm = norms()["layernorm"]
    once, apart = (run(monkeypatch, norm, batches, once=once) for once in (True, False))
    assert_alike(once, apart, 1e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 3e19])
def test_what_is_not_finite_goes_the_careful_way(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [batch(seed, torch.float32) for seed in range(4)]
    x, mask = batches[2]
    at = int(mask[0].nonzero()[0])
    x[0, at, 5] = value
    norm = norms()["rmsnorm"]
    once, apart = (run(monkeypatch, norm, batches, once=once) for once in (True, False))
    assert once.captures[0].state.nonfinite == (0 if value == 3e19 else 1)
    assert_alike(once, apart, 3e-5)


def test_an_output_that_is_not_finite_is_left_out_of_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(nn.LayerNorm):
        """A LayerNorm one of whose outputs overflows in its third call."""

        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            out = super().forward(x)
            if self.calls % 4 == 3:
                out[0, -1] = torch.inf
            return out

    batches = [(batch(seed, torch.float32)[0], torch.ones(B, T).long()) for seed in range(4)]
    norm = Odd(D, eps=1e-5)
    once, apart = (run(monkeypatch, norm, batches, once=once) for once in (True, False))
    for recorder in (once, apart):
        recorder.captures[0].state.flush()
    assert once.captures[0].state.output_size == B * T * D * 4 - D
    assert_alike(once, apart, 3e-5)


def test_massive_elements_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    for seed in range(3):
        x, _ = batch(seed, torch.float32)
        x = x.clamp(-2, 2) * 0.05
        x[1, 4, 7], x[4, 0, 2], x[2, 2, 2] = 150.0, -2000.0, 99.0
        batches.append((x, torch.ones(B, T).long()))
    norm = norms()["rmsnorm"]
    once, apart = (run(monkeypatch, norm, batches, once=once) for once in (True, False))
    (capture,) = once.captures
    assert capture.state.moments is not None
    assert capture.state.moments.outliers.massive.nonzero().flatten().tolist() == [2, 7]
    assert_alike(once, apart, 3e-5)


@pytest.mark.parametrize("wanted", ["words", "few", "no formula"])
def test_other_calls_are_left_to_the_operators(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_pass, "AFTER", sys.maxsize if wanted == "few" else 0)
    monkeypatch.setattr("normscope.capture.call_summary.one_pass", None)
    norm = nn.BatchNorm1d(D).eval() if wanted == "no formula" else norms()["layernorm"]
    recorder = Recorder(Model(norm), words=wanted == "words")
    with recorder:
        for seed in range(2):
            x, mask = batch(seed, torch.float32)
            recorder.model(x.movedim(1, 2) if wanted == "no formula" else x, attention_mask=mask)
    assert recorder.captures[0].state.calls == 2


def test_without_numba_the_operators_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def missing(name: str, *given: Any, **named: Any) -> Any:
        if name == "normscope.capture.numba_kernels":
            raise ImportError("no numba")
        return plain(name, *given, **named)

    monkeypatch.setattr(one_pass, "AFTER", 0)
    monkeypatch.setattr(builtins, "__import__", missing)
    one_pass._has_kernels.cache_clear()
    try:
        recorder = Recorder(Model(norms()["layernorm"]))
        with recorder:
            for seed in range(2):
                recorder.model(*batch(seed, torch.float32)[:1], attention_mask=batch(seed)[1])
        assert recorder.captures[0].state.calls == 2
    finally:
        one_pass._has_kernels.cache_clear()


def test_a_few_sentences_do_not_load_numba() -> None:
    code = """
import sys, torch, normscope
model = torch.nn.Sequential(torch.nn.LayerNorm(384))
with normscope.watch(model) as watcher:
    for _ in range(3):
        model(torch.randn(1, 12, 384))
print("numba" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
