"""Replacements of a layer's scale or centre alone, against plain modules in float64."""

from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional

import normscope
from normscope import Calibration
from normscope.analyses.swap.layer_statistics import Statistics
from normscope.analyses.swap.options import HALVES
from normscope.errors import UsageError
from tests.support import models

LENGTHS = torch.tensor([11, 3, 8, 5, 1])
MASK = (torch.arange(11) < LENGTHS[:, None]).long()
IDS = torch.randint(5, 100, MASK.shape, generator=torch.Generator().manual_seed(3))


class HalfNorm(nn.Module):
    """One half per feature or of the text, from Python loops over the texts of `mask` (B, T)."""

    mask = MASK

    def __init__(self, own: Any, kind: str, statistics: Statistics, *, centres: bool) -> None:
        super().__init__()
        self.own, self.kind, self.statistics, self.centres = own, kind, statistics.known(), centres
        self.eps = own.eps if centres else own.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x.double()
        centre = z.mean(-1, keepdim=True) * self.centres
        power = (z - centre).square().mean(-1, keepdim=True)
        if self.kind == "scale-feature":
            power = self.statistics["variance"]
        if self.kind == "centre-feature":
            centre = self.statistics["mean"]
        for row, mask in enumerate(self.mask.bool() if self.kind.endswith("sequence") else ()):
            text = z[row, mask].flatten()
            if self.kind == "scale-sequence":
                power[row] = text.var(correction=0) if self.centres else text.square().mean()
            else:
                centre = centre + torch.zeros_like(power)
                centre[row] = text.mean()
        y = (z - centre) / (power + self.eps).sqrt() * self.own.weight
        out: torch.Tensor = y + self.own.bias if self.centres else y
        return out.to(x.dtype)


def bert() -> tuple[Any, str]:
    return models.bert().bert, "encoder.layer.0.attention.output.LayerNorm"


def llama() -> tuple[Any, str]:
    return models.llama().model, "layers.1.input_layernorm"


def statistics_of(model: Any, layer: str) -> Statistics:
    """Return the mean and variance per feature of a layer's input, over other texts."""
    inputs: list[torch.Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, args, _out: inputs.append(args[0]))
    with torch.no_grad():
        model(input_ids=IDS.flip(0), attention_mask=MASK.flip(0))
    handle.remove()
    rows = inputs[0][MASK.flip(0).bool()].double()
    return Statistics(rows.mean(0), rows.var(0, correction=0))


def hidden(model: Any, ids: torch.Tensor = IDS, mask: torch.Tensor = MASK) -> torch.Tensor:
    with torch.no_grad():
        states: torch.Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return states


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("family", [bert, llama])
def test_a_plain_module_gives_the_same_states(family: Any, kind: str, dtype: torch.dtype) -> None:
    model, layer = family()
    model.to(dtype)
    statistics = statistics_of(model, layer)
    untouched = hidden(model)
    with normscope.swapped(model, kind=kind, layers=[layer], statistics=Calibration("", {layer: statistics})):
        swapped = hidden(model)
    module = model.get_submodule(layer)
    model.set_submodule(layer, HalfNorm(module, kind, statistics, centres=family is bert))
    expected = hidden(model)
    model.set_submodule(layer, module)
    valid = MASK.bool()
    if dtype == torch.float64:
        torch.testing.assert_close(swapped[valid], expected[valid], rtol=1e-9, atol=1e-9)
    else:
        cosine = functional.cosine_similarity(swapped[valid].double(), expected[valid].double(), dim=1)
        assert float((1 - cosine).max()) < 3e-5
    assert swapped.isfinite().all()
    assert float((swapped - untouched)[valid].abs().max()) > 1e-3
    assert torch.equal(hidden(model), untouched)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("family", [bert, llama])
def test_neither_padding_nor_other_texts_matter(family: Any, kind: str) -> None:
    model, layer = family()
    model.double()
    known = Calibration("", {layer: statistics_of(model, layer)})
    with normscope.swapped(model, kind=kind, layers=[layer], statistics=known):
        together = hidden(model)
        reordered = hidden(model, IDS.flip(0), MASK.flip(0)).flip(0)
        more = functional.pad(IDS, (0, 4), value=7), functional.pad(MASK, (0, 4))
        padded = hidden(model, *more)[:, :11]
        for row, length in enumerate(LENGTHS.tolist()):
            alone = hidden(model, IDS[row : row + 1, :length], MASK[row : row + 1, :length])[0]
            for batch in (together, reordered, padded):
                torch.testing.assert_close(batch[row, :length], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("family", [bert, llama])
def test_gradients_are_those_of_the_plain_module(family: Any, kind: str) -> None:
    model, layer = family()
    model.double()
    statistics = statistics_of(model, layer)
    module = model.get_submodule(layer)
    embedding = model.get_input_embeddings().weight

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        states = model(input_ids=IDS, attention_mask=MASK).last_hidden_state
        (states * MASK[:, :, None]).pow(3).sum().backward()
        return [embedding.grad.clone(), module.weight.grad.clone()]

    with normscope.swapped(model, kind=kind, layers=[layer], statistics=Calibration("", {layer: statistics})):
        swapped = gradients()
    model.set_submodule(layer, HalfNorm(module, kind, statistics, centres=family is bert))
    for gradient, expected in zip(swapped, gradients(), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-9)
        assert float(gradient.abs().max()) > 0


def seen(model: Any, layer: str, kind: str, mask: Any = None, **inputs: Any) -> tuple[Any, Any]:
    """Return the input of a replaced layer, and y, its output without the affine."""
    module, calls = model.get_submodule(layer), list[tuple[Any, Any]]()
    with normscope.swapped(model, kind=kind, layers=[layer]) as swap, torch.no_grad():
        swap.mask = mask
        handle = module.register_forward_hook(lambda _m, args, out: calls.append((args[0], out)))
        model(**inputs)
        handle.remove()
    ((x, out),) = calls
    return x, (out - getattr(module, "bias", 0)) / module.weight


def test_tokens_that_the_mask_leaves_out_get_their_texts_statistics() -> None:
    model, layer = bert()
    model.double()
    mask = MASK.clone()
    mask[:, 0] = 0
    x, y = seen(model, layer, "scale-sequence", mask, input_ids=IDS, attention_mask=MASK)
    for row, length in enumerate(LENGTHS.tolist()[:-1]):
        power = x[row, 1:length].var(correction=0)
        expected = (x[row] - x[row].mean(-1, keepdim=True)) / (power + 1e-12).sqrt()
        torch.testing.assert_close(y[row], expected, rtol=1e-9, atol=1e-9)
    assert y.isfinite().all(), "also of the last text, whose only token is left out"


def test_packed_texts_have_their_own_statistics() -> None:
    model, layer = llama()
    model.double()
    positions = torch.cat([torch.arange(6), torch.arange(5)]).expand(5, -1)
    x, y = seen(model, layer, "centre-sequence", input_ids=IDS, position_ids=positions)
    rms = (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    for part in (slice(0, 6), slice(6, 11)):
        expected = (x[:, part] - x[:, part].mean((1, 2), keepdim=True)) / rms[:, part]
        torch.testing.assert_close(y[:, part], expected, rtol=1e-9, atol=1e-9)


def test_heads_belong_to_the_text_of_their_token() -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 100, "head_dim": 8,
    }  # fmt: skip
    config = transformers.Qwen3Config(**sizes)
    model: Any = models.spread_norms(transformers.Qwen3Model(config)).double()
    x, y = seen(model, "layers.1.self_attn.q_norm", "scale-sequence", input_ids=IDS, attention_mask=MASK)
    for row, length in enumerate(LENGTHS.tolist()):
        power = x[row, :length].square().mean()
        torch.testing.assert_close(y[row, :length], x[row, :length] / (power + 1e-6).sqrt())


class Flat(nn.Module):
    """A model that flattens its tokens and drops one, so that rows are not tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = functional.one_hot(input_ids % 8, 8).float() * attention_mask[..., None]
        out: torch.Tensor = self.norm(x.flatten(0, 1)[1:])
        return out


def test_rows_of_no_text_are_an_error_that_names_the_layer() -> None:
    with normscope.swapped(Flat(), kind="scale-sequence") as swap:
        with pytest.raises(UsageError, match=r"^norm: the rows of its input \(54, 8\) cannot be") as error:
            swap.model(input_ids=IDS, attention_mask=MASK)
        assert "\n" not in str(error.value)
    with (
        normscope.swapped(nn.Sequential(nn.LayerNorm(8)), kind="scale-sequence") as swap,
        pytest.raises(UsageError, match=r"^0: the rows of its input \(5, 8\) cannot be assigned to texts"),
    ):
        swap.model(torch.randn(5, 8))


def test_without_a_mask_the_first_axis_is_the_text() -> None:
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    model = nn.Sequential(nn.LayerNorm(8, dtype=torch.float64))
    with normscope.swapped(model, kind="centre-sequence"), torch.no_grad():
        out = model(x)
    power = x.var(-1, correction=0, keepdim=True) + 1e-5
    torch.testing.assert_close(out, (x - x.mean((1, 2), keepdim=True)) / power.sqrt())


@pytest.mark.parametrize("kind", HALVES)
def test_no_half_is_folded(kind: str) -> None:
    model, _ = bert()
    with pytest.raises(UsageError, match=f"^{kind} has no fixed scale and shift to fold; expected one of"):
        normscope.fold(model, {"input_ids": IDS}, kind=kind)


@pytest.mark.parametrize(("kind", "lacking"), [("scale-feature", "variance"), ("centre-feature", "mean")])
def test_a_kind_needs_its_statistic(kind: str, lacking: str) -> None:
    with pytest.raises(UsageError, match=f"no {lacking} in the statistics"):
        normscope.swapped(bert()[0], kind=kind)
