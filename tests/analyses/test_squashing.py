"""Least-squares fits of tanh and erf to layers, against a brute-force search on stacked activations."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import normscope
from normscope import Batching, Swapping
from normscope.analyses.swap.golden_section import golden_section, minimise
from normscope.analyses.swap.layer_statistics import Statistics
from normscope.analyses.swap.squashing import RUNS, SquashSums
from normscope.capture.observers import BatchRows
from normscope.errors import UsageError
from normscope.norms.detection import find
from normscope.results.swap import DerfFit
from normscope.statistics.alignment import align
from normscope.statistics.layer_state import LayerState
from normscope.statistics.moments import Moments, Rows
from tests.support import models
from tests.support.plain_norms import (
    FAMILIES,
    SHORT,
    TEXTS,
    Plain,
    Tokens,
    batches,
    epsilon,
    inputs_of,
    run_with,
    same_direction,
    swapped_states,
)  # fmt: skip

F: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"dyt": torch.tanh, "derf": torch.erf}
KNOWN, HELD_OUT = TEXTS[:16], TEXTS[16:24]


def own_output(tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the input and the output before the affine of a norm, (V, D) each."""
    x = torch.cat(tokens.x)
    z = x - x.mean(1, keepdim=True) if isinstance(tokens.own, nn.LayerNorm) else x
    return x, z / (z.square().mean(1, keepdim=True) + epsilon(tokens.own)).sqrt()


def least_squares(
    kind: str, x: torch.Tensor, y: torch.Tensor, alpha: float, shift: float = 0
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return gamma and beta (D,), and R^2, in two passes over the rows."""
    f = F[kind](alpha * x + shift)
    df, dy = f - f.mean(0), y - y.mean(0)
    gamma = (df * dy).sum(0) / df.square().sum(0)
    beta = y.mean(0) - gamma * f.mean(0)
    return gamma, beta, 1 - float((y - gamma * f - beta).square().sum() / dy.square().sum())


def brute_force(kind: str, x: torch.Tensor, y: torch.Tensor, alphas: list[float], shifts: list[float]) -> Any:
    """Return the best R^2 and its alpha and shift."""
    return max((least_squares(kind, x, y, a, s)[2], a, s) for a in alphas for s in shifts)


def calibrated(model: Any, kind: str, texts: list[str] = KNOWN) -> normscope.Calibration:
    tokenizer = models.demo()[1]
    return normscope.calibrate(model, iter(texts), tokenizer=tokenizer, batching=SHORT, kind=kind)


@pytest.mark.parametrize("family", FAMILIES)
def test_dynamic_tanh_is_the_best_of_a_brute_force_search(family: str) -> None:
    model = FAMILIES[family]()
    known = calibrated(model, "dyt")
    curved = 0
    for name, tokens in inputs_of(model, batches(KNOWN)).items():
        x, y = own_output(tokens)
        statistics = known.layers[name].known()
        alpha = float(statistics["dyt_alpha"])
        gamma, beta, r2 = least_squares("dyt", x, y, alpha)
        torch.testing.assert_close(statistics["dyt_gamma"], gamma, rtol=1e-4, atol=1e-6 / alpha)
        torch.testing.assert_close(statistics["dyt_beta"], beta, rtol=1e-4, atol=1e-5)
        scale = float(statistics["scale"])
        wide = brute_force("dyt", x, y, [scale * 2 ** (k / 4) for k in range(-56, 25)], [0])
        best = brute_force("dyt", x, y, [wide[1] * 2 ** (k / 256) for k in range(-64, 65)], [0])
        assert r2 >= best[0] - 1e-6, name
        if best[1] > scale / 64:  # Below, the error is flat: any such alpha is a line.
            curved += 1
            assert alpha == pytest.approx(best[1], rel=0.01), name
    assert curved > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_derf_is_the_best_of_a_brute_force_search(family: str) -> None:
    model = FAMILIES[family]()
    known = calibrated(model, "derf")
    for name, tokens in list(inputs_of(model, batches(KNOWN)).items())[::4]:
        x, y = own_output(tokens)
        statistics = known.layers[name].known()
        alpha, shift = float(statistics["derf_alpha"]), float(statistics["derf_shift"])
        gamma, beta, r2 = least_squares("derf", x, y, alpha, shift)
        torch.testing.assert_close(statistics["derf_gamma"], gamma, rtol=1e-4, atol=1e-6 / alpha)
        torch.testing.assert_close(statistics["derf_beta"], beta, rtol=1e-4, atol=1e-6 / alpha)
        scale, shifts = float(statistics["scale"]), [k / 10 for k in range(-15, 16)]
        wide = brute_force("derf", x, y, [scale * 2 ** (k / 2) for k in range(-20, 13)], shifts)
        around = [wide[2] + k / 50 for k in range(-5, 6)]
        best = brute_force("derf", x, y, [wide[1] * 2 ** (k / 16) for k in range(-8, 9)], around)
        assert r2 >= best[0] - 1e-5, name


@pytest.mark.parametrize("kind", F)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_module_gives_the_same_states(family: str, kind: str) -> None:
    model = FAMILIES[family]()
    known, feed = calibrated(model, kind), batches(HELD_OUT)
    plain: dict[str, nn.Module] = {}
    for name, tokens in inputs_of(model, batches(KNOWN)).items():
        values = known.layers[name].known()
        alpha, shift = float(values[f"{kind}_alpha"]), float(values.get(f"{kind}_shift", torch.zeros(())))
        gamma, beta, _ = least_squares(kind, *own_output(tokens), alpha, shift)

        def normalise(x: torch.Tensor, _: Any, fit: Any = (alpha, shift, gamma, beta)) -> torch.Tensor:
            y: torch.Tensor = fit[2] * F[kind](fit[0] * x + fit[1]) + fit[3]
            return y

        plain[name] = Plain(tokens.own, normalise)
    for chosen in (list(plain)[:1], list(plain)[1::3]):
        states = swapped_states(model, feed, kind=kind, layers=chosen, statistics=known)
        same_direction(states, run_with(model, {name: plain[name] for name in chosen}, feed))
        assert float((states - run_with(model, {}, feed)).abs().max()) > 1e-4


@pytest.mark.parametrize("kind", F)
def test_swap_reports_the_fit(kind: str) -> None:
    model, tokenizer = FAMILIES["gpt2"](), models.demo()[1]
    progress: list[Any] = []
    report = normscope.swap(
        model, HELD_OUT, calibration=KNOWN, tokenizer=tokenizer, batching=SHORT, swapping=Swapping(kind),
        progress=progress.append,
    )  # fmt: skip
    known = calibrated(model, kind)
    inspected = normscope.inspect(model, KNOWN, tokenizer=tokenizer, batching=SHORT)
    seen = inputs_of(model, batches(KNOWN))
    for name, layer in report.layers.items():
        fit, values = layer.fit, known.layers[name].known()
        assert fit is not None
        assert fit is (layer.dyt_fit if kind == "dyt" else layer.derf_fit)
        x, y = own_output(seen[name])
        shift = fit.shift if isinstance(fit, DerfFit) else 0.0
        assert fit.alpha == pytest.approx(float(values[f"{kind}_alpha"]), rel=1e-3)
        assert fit.r2 == pytest.approx(least_squares(kind, x, y, fit.alpha, shift)[2], abs=2e-5)
        assert fit.affine_r2 == pytest.approx(inspected.layers[name].affine_fit.r2)  # type: ignore[union-attr]
        assert fit.r2 >= fit.affine_r2 - 1e-5, "a line is the limit of a small alpha"
        saturated = (fit.alpha * x + shift).abs() > 2
        assert fit.saturated == pytest.approx(float(saturated.double().mean()), abs=1e-4)
    assert normscope.SwapReport.from_dict(report.to_dict()).to_json() == report.to_json()
    own, states = (
        run_with(model, {}, batches(HELD_OUT)),
        swapped_states(model, batches(HELD_OUT), kind=kind, statistics=known),
    )
    cosine = functional.cosine_similarity(own.double(), states.double(), dim=1).mean()
    assert report.all_.effect.hidden_cosine.mean == pytest.approx(float(cosine), abs=1e-5)
    runs = [step for step in progress if step.stage == "run"]
    assert [step.texts for step in runs] == sorted(step.texts for step in runs)
    assert runs[-1].texts == runs[-1].expected_texts
    assert runs[-1].texts == (1 + RUNS[kind]) * len(KNOWN) + (len(report.layers) + 2) * len(HELD_OUT)
    shown = str(report)
    assert f"{kind} is meant for training from scratch" in shown
    assert "saturated" in shown


def test_other_kinds_have_no_fit_and_no_more_runs() -> None:
    model, tokenizer = FAMILIES["gpt2"](), models.demo()[1]
    calls: list[int] = []
    handle = model.register_forward_pre_hook(lambda *_: calls.append(1))
    counts = {}
    for kind in ("batchnorm", "dyt", "derf"):
        calls.clear()
        known = normscope.calibrate(model, KNOWN, tokenizer=tokenizer, batching=SHORT, kind=kind)
        counts[kind] = len(calls)
        names = set(known.layers["ln_f"].known())
        assert {name for name in names if name.startswith("d")} == {
            "batchnorm": set(),
            "dyt": {"dyt_alpha", "dyt_gamma", "dyt_beta"},
            "derf": {"derf_alpha", "derf_shift", "derf_gamma", "derf_beta"},
        }[kind]
    handle.remove()
    assert counts["dyt"] == counts["batchnorm"] * (1 + RUNS["dyt"])
    assert counts["derf"] == counts["batchnorm"] * (1 + RUNS["derf"])
    report = normscope.swap(model, KNOWN, tokenizer=tokenizer, batching=SHORT)
    assert all(layer.fit is None for layer in report.layers.values())


def test_recalibrated_layers_are_fitted_to_what_those_before_them_leave() -> None:
    model, tokenizer = FAMILIES["gpt2"](), models.demo()[1]
    options: dict[str, Any] = {"calibration": KNOWN, "tokenizer": tokenizer, "batching": SHORT}
    plain = normscope.swap(model, HELD_OUT, swapping=Swapping("dyt"), **options)
    again = normscope.swap(model, HELD_OUT, swapping=Swapping("dyt", recalibrate=True), **options)
    assert again.all_.effect.relative_l2.mean < plain.all_.effect.relative_l2.mean


def test_a_calibration_keeps_the_fit_in_its_file(tmp_path: Path) -> None:
    model = FAMILIES["gpt2"]()
    known = calibrated(model, "derf")
    known.save(tmp_path)
    again = normscope.read_calibration(tmp_path)
    feed = batches(HELD_OUT)
    states = [swapped_states(model, feed, kind="derf", statistics=source) for source in (known, again)]
    assert torch.equal(*states)
    with pytest.raises(UsageError, match=r"no dyt_alpha and .*; pass what normscope.calibrate returns"):
        normscope.swapped(model, kind="dyt", statistics=again)


@pytest.mark.parametrize("kind", F)
def test_they_are_not_folded(kind: str) -> None:
    with pytest.raises(UsageError, match=f"^{kind} has no fixed scale and shift to fold"):
        Swapping(kind, fold=True)
    with pytest.raises(UsageError, match="kind is 'tanh'; expected one of"):
        normscope.calibrate("m", ["a"], kind="tanh")


def test_batches_of_any_size_give_the_same_fit() -> None:
    model, tokenizer = FAMILIES["gpt2"](), models.demo()[1]
    fits = [
        normscope.calibrate(
            model, KNOWN, tokenizer=tokenizer, batching=Batching(size, 20), layers=["ln_f"], kind="dyt"
        ).layers["ln_f"]
        for size in (1, 16)
    ]
    first, second = (fit.known()["dyt_gamma"] * fit.known()["dyt_alpha"] for fit in fits)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_constant_features_get_their_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(3000, 65, generator=generator).double() for _ in range(2))
    x[:, 1:] = x[0, 1:]
    y[:, 0] = 2 * torch.tanh(x[:, 0] / 2)
    known = Statistics(mean=x.mean(0) * (1 + 1e-9))  # A mean of float32 sums is off by rounding.
    sums = SquashSums("dyt", torch.tensor([[0.5, 0.0]]).double(), known, precise=True)
    where = align((3000,), None, -1, x.device)
    rows = BatchRows(find(nn.LayerNorm(65))[0], Rows.of(x), y, Moments.empty(1, 65), where)
    sums.observe(rows, LayerState())
    fit = sums.fit()
    torch.testing.assert_close(fit.gamma, torch.tensor([2.0] + 64 * [0.0]).double(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(fit.beta, torch.cat([torch.zeros(1), y[:, 1:].mean(0)]), rtol=1e-6, atol=1e-6)
    total = (y - y.mean(0)).square().sum(0)
    assert fit.r2 == pytest.approx(float(total[0] / total.sum()))


# The minimum of a function


def test_golden_section_finds_the_minimum() -> None:
    place, value = golden_section(lambda x: (x - 0.3) ** 2 + 1, -1, 2)
    assert place == pytest.approx(0.3, abs=1e-6)
    assert value == pytest.approx(1)
    assert golden_section(lambda x: x, 2, 5)[0] == pytest.approx(2, abs=1e-6)
    assert golden_section(math.cos, 1, 1) == (1, math.cos(1))


def test_a_table_of_a_smooth_function_has_its_minimum_between_the_points() -> None:
    rows, columns = [k / 4 for k in range(-4, 5)], [0.4 * k for k in range(-3, 4)]

    def function(u: float, s: float) -> float:
        return math.cosh(u - 0.13) + math.exp(-((s - 0.21) ** 2)) * -1 + 0.1 * u * s

    table = torch.tensor([[function(u, s) for s in columns] for u in rows])
    place = minimise(rows, columns, table)
    dense = [k / 500 for k in range(-200, 201)]
    _, u, s = min((function(u, s), u, s) for u in dense for s in dense)
    assert place[0] == pytest.approx(u, abs=0.01)
    assert place[1] == pytest.approx(s, abs=0.01)
    one = minimise(rows, [0.0], table[:, 3:4])
    assert one[1] == 0
