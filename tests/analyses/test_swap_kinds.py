"""RMSNorm's formula and a frozen scale with position 0 apart, against plain modules in float64."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional

import normscope
from normscope import Batching, Calibration, Swapping
from normscope.analyses.swap.replacement import Statistics
from normscope.errors import UsageError
from tests.support import models

TEXTS = [text for text in dict.fromkeys(models.prose(80)) if text][:48]
SHORT = Batching(8, 20)
SIZES: dict[str, Any] = {"vocab_size": 30522, "hidden_size": 32, "intermediate_size": 48}


def gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=30522, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    return transformers.GPT2Model(config)


def llama() -> Any:
    torch.manual_seed(0)
    return transformers.LlamaModel(
        transformers.LlamaConfig(**SIZES, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    )


def t5() -> Any:
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=30522, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    config.decoder_start_token_id = 0
    return transformers.T5Model(config)


FAMILIES: dict[str, Callable[[], Any]] = {
    "minilm": lambda: models.demo()[0],
    "gpt2": lambda: models.spread_norms(gpt2()),
    "llama": lambda: models.spread_norms(llama()),
    "t5": lambda: models.spread_norms(t5()),
}


def batches(texts: list[str], side: str = "right") -> list[dict[str, torch.Tensor]]:
    """Return batches of 8 padded texts."""
    tokenizer = models.demo()[1]
    tokenizer.padding_side = side
    options = {"padding": True, "truncation": True, "max_length": 20, "return_tensors": "pt"}
    return [dict(tokenizer(texts[i : i + 8], **options)) for i in range(0, len(texts), 8)]


def hidden(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    if model.config.is_encoder_decoder:
        ids = batch["input_ids"]
        start = torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], dim=1)
        batch = {**batch, "decoder_input_ids": start, "decoder_attention_mask": batch["attention_mask"]}
    parameters = inspect.signature(model.forward).parameters
    with torch.no_grad():
        output = model(**{name: values for name, values in batch.items() if name in parameters})
    states: torch.Tensor = output.last_hidden_state
    return states


def norms(model: Any) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if "Norm" in type(module).__name__}


def first_tokens(mask: torch.Tensor) -> torch.Tensor:
    """Mark each row's first token that is no padding, (B, T)."""
    return (mask.cumsum(1) == 1) & (mask == 1)


class Plain(nn.Module):
    """A norm in another way: `normalise` takes the input in float64 and whether tokens are first ones."""

    mask = torch.ones(0)

    def __init__(self, own: Any, normalise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.own, self.normalise = own, normalise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.normalise(x.double(), first_tokens(self.mask)[..., None]) * self.own.weight
        bias = getattr(self.own, "bias", None)
        out: torch.Tensor = y if bias is None else y + bias
        return out.to(x.dtype)


class Tokens(nn.Module):
    """Runs a norm and keeps its inputs at tokens that are no padding, and which of them are first ones."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.own = own
        self.x: list[torch.Tensor] = []
        self.first: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = Plain.mask.bool()
        self.x.append(x[mask].double())
        self.first.append(first_tokens(Plain.mask)[mask])
        out: torch.Tensor = self.own(x)
        return out


def run_with(model: Any, modules: dict[str, nn.Module], feed: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Return the last hidden states (V, D) of the valid tokens with other modules in place of norms."""
    own = {name: model.get_submodule(name) for name in modules}
    for name, module in modules.items():
        model.set_submodule(name, module)
    states = []
    for batch in feed:
        Plain.mask = batch["attention_mask"]
        states.append(hidden(model, batch)[Plain.mask.bool()])
    for name, module in own.items():
        model.set_submodule(name, module)
    return torch.cat(states)


def swapped_states(model: Any, feed: list[dict[str, torch.Tensor]], **options: Any) -> torch.Tensor:
    with normscope.swapped(model, **options):
        return torch.cat([hidden(model, batch)[batch["attention_mask"].bool()] for batch in feed])


def same_direction(states: torch.Tensor, expected: torch.Tensor) -> None:
    cosine = functional.cosine_similarity(states.double(), expected.double(), dim=1)
    assert float((1 - cosine).max()) < 3e-5


def inputs_of(model: Any, feed: list[dict[str, torch.Tensor]]) -> dict[str, Tokens]:
    seen = {name: Tokens(module) for name, module in norms(model).items()}
    run_with(model, dict(seen), feed)
    return seen


def epsilon(module: Any) -> float:
    return float(getattr(module, "variance_epsilon", None) or module.eps)


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
