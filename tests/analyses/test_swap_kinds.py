"""RMSNorm's formula and a frozen scale with position 0 apart, against plain modules in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import normscope
from normscope import Batching, Calibration, Swapping
from normscope.analyses.swap.layer_statistics import Statistics
from normscope.errors import UsageError
from tests.support import models
from tests.support.plain_norms import (
    FAMILIES,
    SHORT,
    TEXTS,
    Plain,
    batches,
    epsilon,
    gpt2,
    inputs_of,
    norms,
    run_with,
    same_direction,
    swapped_states,
)

# RMSNorm


@pytest.mark.parametrize("family", FAMILIES)
def test_rmsnorm_does_not_subtract_the_mean(family: str) -> None:
    model, feed = FAMILIES[family](), batches(TEXTS[:8])

    def plain(module: Any) -> Plain:
        return Plain(module, lambda x, _: x / (x.pow(2).mean(-1, keepdim=True) + epsilon(module)).sqrt())

    untouched = run_with(model, {}, feed)
    states = swapped_states(model, feed, kind="rmsnorm")
    same_direction(states, run_with(model, {name: plain(m) for name, m in norms(model).items()}, feed))
    if family in ("llama", "t5"):
        assert torch.equal(states, untouched)
    else:
        assert float((states - untouched).abs().max()) > 1e-3


def test_a_layer_that_is_an_rmsnorm_is_said_to_stay_as_it_is() -> None:
    model, tokenizer = FAMILIES["llama"](), models.demo()[1]
    report = normscope.swap(
        model, TEXTS[:16], tokenizer=tokenizer, batching=SHORT, swapping=Swapping("rmsnorm"), layers=["*.0.*"]
    )
    said = "2 layers are RMSNorms already, so rmsnorm changes nothing there: layers.0.input_layernorm"
    assert said in report.warnings
    assert [layer.effect.relative_l2.mean for layer in report.layers.values()] == [0, 0]
    layers = normscope.swap(
        FAMILIES["gpt2"](), TEXTS[:16], tokenizer=tokenizer, batching=SHORT, swapping=Swapping("rmsnorm")
    )
    assert layers.warnings == ()
    assert layers.all_.effect.relative_l2.mean > 1e-3


# Position 0 apart


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_position_0_has_a_scale_of_its_own(family: str, side: str) -> None:
    model, tokenizer = FAMILIES[family](), models.demo()[1]
    known = normscope.calibrate(model, TEXTS[:16], tokenizer=tokenizer, batching=SHORT)
    feed = batches(TEXTS[16:24], side)
    plain = {}
    for name, tokens in inputs_of(model, batches(TEXTS[:16])).items():
        x, first = torch.cat(tokens.x), torch.cat(tokens.first)
        centre = x.mean(-1, keepdim=True) if isinstance(tokens.own, nn.LayerNorm) else torch.zeros(())
        factors = ((x - centre).pow(2).mean(-1) + epsilon(tokens.own)).rsqrt()
        scales = (factors[first].mean(), factors[~first].mean())
        assert float(known.layers[name].known()["first_scale"]) == pytest.approx(float(scales[0]), rel=1e-5)
        assert float(known.layers[name].known()["rest_scale"]) == pytest.approx(float(scales[1]), rel=1e-5)

        def normalise(
            x: torch.Tensor, first: torch.Tensor, own: Any = tokens.own, scales: Any = scales
        ) -> torch.Tensor:
            z = x - x.mean(-1, keepdim=True) if isinstance(own, nn.LayerNorm) else x
            return torch.where(first, z * scales[0], z * scales[1])

        plain[name] = Plain(tokens.own, normalise)
    chosen = list(plain)[1::2]
    options: dict[str, Any] = {"kind": "frozen", "layers": chosen, "statistics": known}
    states = swapped_states(model, feed, first="apart", **options)
    same_direction(states, run_with(model, {name: plain[name] for name in chosen}, feed))
    assert float((states - swapped_states(model, feed, **options)).abs().max()) > 1e-4, "it is another one"


def test_position_0_of_packed_texts_is_that_of_each() -> None:
    model: Any = models.llama().model.double()
    scales = [torch.tensor(v).double() for v in (1.0, 2.0, 0.5)]
    known = Calibration(
        "", {"norm": Statistics(scale=scales[0], first_scale=scales[1], rest_scale=scales[2])}
    )
    seen: list[Any] = []
    with normscope.swapped(model, kind="frozen", first="apart", layers=["norm"], statistics=known):
        model.norm.register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
        positions = torch.cat([torch.arange(3), torch.arange(2)])[None]
        model(input_ids=torch.arange(5)[None], position_ids=positions)
    ((x, out),) = seen
    factor = torch.tensor([2.0, 0.5, 0.5, 2.0, 0.5])[:, None]
    torch.testing.assert_close(out[0], x[0] * factor * model.norm.weight)


def test_swap_measures_it_and_says_so() -> None:
    model, tokenizer = FAMILIES["gpt2"](), models.demo()[1]
    options: dict[str, Any] = {"tokenizer": tokenizer, "batching": SHORT}
    pooled = normscope.swap(model, TEXTS, swapping=Swapping("frozen"), **options)
    apart = normscope.swap(model, TEXTS, swapping=Swapping("frozen", first="apart"), **options)
    assert (pooled.first, apart.first) == ("pooled", "apart")
    assert normscope.swap(model, TEXTS[:8], swapping=Swapping("identity"), **options).first is None
    assert apart.all_.effect.relative_l2.mean != pooled.all_.effect.relative_l2.mean
    again = normscope.SwapReport.from_dict(apart.to_dict())
    assert again.first == "apart"
    assert "each replaced alone by frozen, position 0 apart" in str(apart)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Swapping("frozen", fold=True, first="apart"),
            "two scales cannot be folded, because a Linear",
        ),
        (
            lambda: Swapping("batchnorm", first="apart"),
            "batchnorm has no scale for all tokens; expected frozen",
        ),
        (lambda: Swapping("frozen", first="second"), "first is 'second'; expected one of pooled, apart"),
        (lambda: normscope.swapped(gpt2(), kind="frozen", first="apart"), "no first_scale and no rest_scale"),
    ],
)
def test_wrong_usage_is_one_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_position_0_must_count() -> None:
    tokenizer, excluding = models.demo()[1], Batching(8, 20, special_tokens="exclude")
    with pytest.raises(UsageError, match=r"no first_scale in the statistics; .* special tokens included"):
        normscope.swap(
            gpt2(), TEXTS, tokenizer=tokenizer, batching=excluding, swapping=Swapping("frozen", first="apart")
        )
