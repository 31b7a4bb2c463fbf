"""Effects of replaced layers on a model, against plain hooks and nn.BatchNorm1d."""

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional

import normscope
from normscope import Batching, Calibration, Swapping
from normscope.analyses.swap.layer_statistics import Statistics
from normscope.analyses.swap.options import BATCH, REPLACEMENTS, SQUASHING
from normscope.analyses.swap.predictions import Readout
from normscope.analyses.swap.prefix_cache import Prefix
from normscope.data.batching import Batches
from normscope.data.held_out_split import split_texts
from normscope.errors import ReportError, RunError, TextError, UsageError
from normscope.models.loading import Loaded
from normscope.results.swap import Effect, SwapReport
from tests.support import models

Hook = Callable[[nn.Module, Any, Any], Any]
SHORT = Batching(8, 24)


@pytest.fixture(scope="module")
def minilm() -> tuple[Any, Any]:
    return models.demo()


def sentences(count: int) -> list[str]:
    return list(dict.fromkeys(models.prose(2 * count)))[:count]


def batches(tokenizer: Any, texts: Sequence[str]) -> list[Any]:
    """Make padded batches of 8 texts in the order of their length."""
    rows = sorted(texts, key=lambda text: -len(tokenizer(text, truncation=True, max_length=24)["input_ids"]))
    return [
        tokenizer(rows[i : i + 8], padding=True, truncation=True, max_length=24, return_tensors="pt")
        for i in range(0, len(rows), 8)
    ]


class Plain:
    """An evaluation by hand: forward hooks, two passes, all hidden states stored, float64 statistics."""

    def __init__(self, model: Any, tokenizer: Any, known: Sequence[str], held_out: Sequence[str]) -> None:
        self.model, self.held_out = model, batches(tokenizer, held_out)
        self.norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.LayerNorm)}
        self.mask = torch.ones(0)
        self.x = self.inputs(batches(tokenizer, known))
        self.own = self.run({})

    def inputs(self, fed: Sequence[Any]) -> dict[str, torch.Tensor]:
        kept: dict[str, list[torch.Tensor]] = {name: [] for name in self.norms}

        def keep(name: str) -> Hook:
            return lambda _module, given, _out: kept[name].append(given[0][self.mask].double())

        self.forward(fed, {name: keep(name) for name in self.norms})
        return {name: torch.cat(rows) for name, rows in kept.items()}

    def forward(self, fed: Sequence[Any], hooks: dict[str, Hook]) -> list[Any]:
        handles = [self.norms[name].register_forward_hook(hook) for name, hook in hooks.items()]
        outputs = []
        for batch in fed:
            self.mask = batch["attention_mask"].bool()
            with torch.no_grad():
                outputs.append(self.model(**batch, output_hidden_states=True))
        for handle in handles:
            handle.remove()
        return outputs

    def run(self, hooks: dict[str, Hook]) -> list[Any]:
        return self.forward(self.held_out, hooks)

    def replacement(self, name: str, kind: str) -> Hook:
        module: Any = self.norms[name]
        x, eps = self.x[name], module.eps
        own = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + eps).sqrt()
        mean, variance = x.mean(0), x.var(0, correction=0)
        slope = ((x - mean) * (own - own.mean(0))).mean(0) / variance
        scale = (1 / (x.var(1, correction=0) + eps).sqrt()).mean()

        def replace(_: nn.Module, given: Any, _out: Any) -> torch.Tensor:
            z = given[0].double()
            centre, power = z.mean(-1, keepdim=True), z.var(-1, correction=0, keepdim=True)
            texts = [row[mask] for row, mask in zip(z, self.mask, strict=True)]
            text_mean, text_power = (
                torch.stack(values)[:, None, None]
                for values in ([t.mean() for t in texts], [t.var(correction=0) for t in texts])
            )
            made: dict[str, Callable[[], torch.Tensor]] = {
                "batchnorm": lambda: (z - mean) / (variance + eps).sqrt(),
                "batchnorm-fitted": lambda: slope * z + own.mean(0) - slope * mean,
                "batchnorm-batch": lambda: self.batch_norm(given[0], eps).double(),
                "frozen": lambda: (z - z.mean(-1, keepdim=True)) * scale,
                "identity": lambda: z,
                "rmsnorm": lambda: z / (z.square().mean(-1, keepdim=True) + eps).sqrt(),
                "scale-feature": lambda: (z - centre) / (variance + eps).sqrt(),
                "centre-feature": lambda: (z - mean) / (power + eps).sqrt(),
                "scale-sequence": lambda: (z - centre) / (text_power + eps).sqrt(),
                "centre-sequence": lambda: (z - text_mean) / (power + eps).sqrt(),
            }
            y = made[kind]()
            out: torch.Tensor = (y * module.weight + module.bias).float()
            return out

        return replace

    def batch_norm(self, x: torch.Tensor, eps: float) -> torch.Tensor:
        """nn.BatchNorm1d in training on the tokens that are no padding; padding is scaled in the same way."""
        bn: Any = nn.BatchNorm1d(x.shape[-1], eps=eps, momentum=1.0, affine=False)
        valid = x[self.mask]
        y = torch.empty_like(x)
        y[self.mask] = bn(valid)
        n = len(valid)
        padding = (x - bn.running_mean) / (bn.running_var * (n - 1) / n + eps).sqrt()
        return torch.where(self.mask[..., None], y, padding)

    def hidden(self, names: Sequence[str], kind: str) -> dict[str, float]:
        other = self.run({name: self.replacement(name, kind) for name in names})
        cosines, error, power, pooled = [], 0.0, 0.0, []
        for batch, a, b in zip(self.held_out, self.own, other, strict=True):
            mask = batch["attention_mask"].bool()
            h, g = a.hidden_states[-1].double(), b.hidden_states[-1].double()
            cosines.append(functional.cosine_similarity(h, g, dim=-1)[mask])
            error += float((g - h)[mask].pow(2).sum())
            power += float(h[mask].pow(2).sum())
            pooled += [(h[i][m].mean(0), g[i][m].mean(0)) for i, m in enumerate(mask)]
        own, swapped = (torch.stack(vectors) for vectors in zip(*pooled, strict=True))
        pairs = torch.ones(len(own), len(own)).triu(1).bool()
        alike = [functional.cosine_similarity(v[:, None], v[None], dim=-1)[pairs] for v in (own, swapped)]
        return {
            "hidden_cosine": float(torch.cat(cosines).mean()),
            "relative_l2": math.sqrt(error / power),
            "sentence_cosine": float(functional.cosine_similarity(own, swapped, dim=1).mean()),
            "similarity_correlation": float(torch.corrcoef(torch.stack(alike))[0, 1]),
        }

    def predicted(self, names: Sequence[str], kind: str) -> dict[str, float]:
        """Return loss, KL and agreement of a causal head over all tokens but the first."""
        other = self.run({name: self.replacement(name, kind) for name in names})
        own_loss, loss, kl, top = [], [], [], []
        for batch, a, b in zip(self.held_out, self.own, other, strict=True):
            ids = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)[:, 1:].reshape(-1)
            p, q = (out.logits[:, :-1].flatten(0, 1) for out in (a, b))
            own_loss.append(functional.cross_entropy(p, ids, reduction="none")[ids >= 0])
            loss.append(functional.cross_entropy(q, ids, reduction="none")[ids >= 0])
            p, q = p[ids >= 0], q[ids >= 0]
            kl.append((p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum(1))
            top.append((p.argmax(1) == q.argmax(1)).float())
        means = {"own_loss": own_loss, "loss": loss, "kl": kl, "top1_agreement": top}
        return {name: float(torch.cat(values).mean()) for name, values in means.items()}


def plain(effect: Effect) -> dict[str, float]:
    values = {name: getattr(effect, name) for name in vars(effect)}
    return {name: getattr(value, "mean", value) for name, value in values.items()}


def close(effect: Effect, expected: dict[str, float], within: float = 1e-4) -> None:
    found = plain(effect)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=within, rel=within), name


# Effects on a model; `test_squashing` has those of the other kinds

MOMENTS = [kind for kind in REPLACEMENTS if kind not in SQUASHING]


@pytest.mark.parametrize("kind", MOMENTS)
def test_minilm_as_a_hand_written_evaluation_has_it(minilm: tuple[Any, Any], kind: str) -> None:
    model, tokenizer = minilm
    texts = sentences(24)
    by_hand = Plain(model, tokenizer, texts[::2], texts[1::2])
    names = ["embeddings.LayerNorm", "encoder.layer.2.output.LayerNorm"]
    report = normscope.swap(
        model,
        texts,
        tokenizer=tokenizer,
        batching=SHORT,
        swapping=Swapping(kind),
        layers=names,
    )
    assert list(report.layers) == names
    assert (report.run.texts, report.calibration.texts, report.baseline.head) == (12, 12, None)
    for name in names:
        close(report.layers[name].effect, by_hand.hidden([name], kind))
    close(report.all_.effect, by_hand.hidden(names, kind))
    assert report.all_.effect.kl is None
    assert math.isnan(report.all_.effect.perplexity)


@pytest.fixture(scope="module")
def learned() -> tuple[Any, Any]:
    """A GPT-2 that has learned some English for a few seconds, and its tokenizer."""
    torch.manual_seed(0)
    _, tokenizer = models.demo()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=32
    )
    model: Any = transformers.GPT2LMHeadModel(config)
    rule = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(4):
        for batch in batches(tokenizer, sentences(200)[96:]):
            ids, mask = batch["input_ids"], batch["attention_mask"]
            loss = model(**batch, labels=ids.masked_fill(mask == 0, -100)).loss
            loss.backward()
            rule.step()
            rule.zero_grad()
    return model.eval(), tokenizer


@pytest.mark.parametrize("kind", MOMENTS)
def test_perplexities_as_a_hand_written_evaluation_has_them(learned: tuple[Any, Any], kind: str) -> None:
    model, tokenizer = learned
    texts = sentences(48)
    by_hand = Plain(model, tokenizer, texts[:32], texts[32:])
    report = normscope.swap(
        model,
        texts[32:],
        calibration=texts[:32],
        tokenizer=tokenizer,
        batching=SHORT,
        swapping=Swapping(kind),
        exclude=["*.0.*"],
    )
    names = list(report.layers)
    assert names == ["transformer.h.1.ln_1", "transformer.h.1.ln_2", "transformer.ln_f"]
    for chosen, effect in (([names[0]], report.layers[names[0]].effect), (names, report.all_.effect)):
        expected = by_hand.predicted(chosen, kind)
        own = expected.pop("own_loss")
        close(effect, expected)
        close(effect, by_hand.hidden(chosen, kind))
        assert effect.perplexity == pytest.approx(math.exp(expected["loss"]), rel=1e-4)
        assert report.baseline.loss is not None
        assert report.baseline.loss.mean == pytest.approx(own, rel=1e-5)
        assert report.baseline.perplexity == pytest.approx(math.exp(own), rel=1e-4)
    assert report.baseline.targets == sum(int(b["attention_mask"][:, 1:].sum()) for b in by_hand.held_out)
    assert report.baseline.perplexity < len(tokenizer) / 10, "it has learned something"


def test_recalibrated_layers_see_what_those_before_them_leave(learned: tuple[Any, Any]) -> None:
    model, tokenizer = learned
    texts = sentences(64)
    report = normscope.swap(
        model,
        texts,
        tokenizer=tokenizer,
        batching=SHORT,
        swapping=Swapping(cumulative=True, recalibrate=True),
    )
    by_hand = Plain(model, tokenizer, texts[::2], texts[1::2])
    known, hooks = batches(tokenizer, texts[::2]), dict[str, Hook]()
    for name in by_hand.norms:
        original, by_hand.x = by_hand.x, {}
        kept: list[torch.Tensor] = []

        def keep(_: nn.Module, given: Any, _out: Any, kept: Any = kept) -> None:
            kept.append(given[0][by_hand.mask].double())

        by_hand.forward(known, {**hooks, name: keep})
        by_hand.x = {**original, name: torch.cat(kept)}
        hooks[name] = by_hand.replacement(name, "batchnorm")
    by_hand.replacement = lambda name, kind: hooks[name]  # type: ignore[method-assign]
    close(report.all_.effect, by_hand.hidden(list(hooks), "batchnorm"))
    assert report.cumulative is not None
    assert [step.replaced for step in report.cumulative] == [1, 2, 3, 4, 5]
    tolerant = [layer.name for layer in reversed(report.by_damage())]
    assert [step.name for step in report.cumulative] == tolerant
    close(report.cumulative[0].effect, plain(report.layers[tolerant[0]].effect))


def test_texts_are_tokenised_once_for_all_calibrations(
    learned: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = learned
    tokenised: list[str] = []
    tokenise = Batches._tokenise

    def counted(self: Batches, texts: Any) -> Any:
        tokenised.extend(read.text for read in texts)
        return tokenise(self, texts)

    monkeypatch.setattr(Batches, "_tokenise", counted)
    texts = sentences(24)
    swapping = Swapping(cumulative=True, recalibrate=True)
    normscope.swap(model, texts, tokenizer=tokenizer, batching=SHORT, swapping=swapping, layers=["*.ln_1"])
    assert sorted(tokenised) == sorted(texts)


def test_the_cumulative_order_ends_with_all_layers(learned: tuple[Any, Any]) -> None:
    model, tokenizer = learned
    texts = sentences(48)
    options: dict[str, Any] = {"tokenizer": tokenizer, "batching": SHORT}
    report = normscope.swap(model, texts, swapping=Swapping(cumulative=True), **options)
    assert report.cumulative is not None
    assert report.cumulative[-1].effect == report.all_.effect
    two = [step.name for step in report.cumulative[:2]]
    by_hand = Plain(model, tokenizer, texts[::2], texts[1::2])
    close(report.cumulative[1].effect, by_hand.hidden(two, "batchnorm"))
    alone = normscope.swap(model, texts, swapping=Swapping(cumulative=True), layers=["*.ln_f"], **options)
    assert alone.cumulative is not None
    assert [step.name for step in alone.cumulative] == ["transformer.ln_f"]


def masked_model() -> Any:
    """A small random BERT with a masked-LM head for the demo's tokenizer."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30522, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    model: Any = transformers.BertForMaskedLM(config)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(30)
    return models.spread_norms(model)


def test_masked_tokens_depend_on_the_seed_and_not_on_batches() -> None:
    model = masked_model()
    _, tokenizer = models.demo()

    def swapped(size: int, seed: int) -> SwapReport:
        return normscope.swap(
            model,
            sentences(24),
            tokenizer=tokenizer,
            batching=Batching(size, 24),
            swapping=Swapping(seed=seed),
            layers=["*.0.output.*"],
        )

    one, other, reseeded = swapped(4, 0), swapped(9, 0), swapped(4, 1)
    assert one.baseline.head == "masked"
    close(one.all_.effect, plain(other.all_.effect))
    assert one.baseline.targets == other.baseline.targets > 24
    assert one.baseline.loss is not None
    assert reseeded.baseline.loss is not None
    assert abs(one.baseline.loss.mean - reseeded.baseline.loss.mean) > 1e-4


def test_masking_hides_words_alone() -> None:
    _, tokenizer = models.demo()
    readout = Readout(masked_model(), tokenizer, 0)
    for batch in Batches(sentences(9), tokenizer, SHORT, max_length=None):
        question = readout.ask(batch)
        hidden = question.inputs["input_ids"] == tokenizer.mask_token_id
        ids = batch.inputs["input_ids"]
        assert torch.equal(question.target, ids[hidden])
        assert torch.equal(question.inputs["input_ids"][~hidden], ids[~hidden])
        assert not set(question.target.tolist()) & set(tokenizer.all_special_ids)
        words = (batch.mask.sum(1) - 2).tolist()
        assert hidden.sum(1).tolist() == [max(1, round(0.15 * count)) for count in words]


def test_an_encoder_decoder_is_asked_for_the_text_it_reads() -> None:
    torch.manual_seed(0)
    _, tokenizer = models.demo()
    config = transformers.T5Config(vocab_size=30522, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    config.decoder_start_token_id = 0
    model: Any = models.spread_norms(transformers.T5ForConditionalGeneration(config))
    texts = sentences(24)
    report = normscope.swap(
        model,
        texts,
        tokenizer=tokenizer,
        batching=SHORT,
        swapping=Swapping("identity"),
        layers=["decoder.final*"],
    )
    assert report.baseline.head == "seq2seq"
    assert report.baseline.targets == report.run.tokens
    losses = []
    with normscope.swapped(model, kind="identity", layers=["decoder.final*"]), torch.no_grad():
        for batch in batches(tokenizer, texts[1::2]):
            ids, mask = batch["input_ids"], batch["attention_mask"]
            start = torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], 1)
            out = model(ids, attention_mask=mask, decoder_input_ids=start, decoder_attention_mask=mask)
            losses.append(functional.cross_entropy(out.logits[mask == 1], ids[mask == 1], reduction="none"))
    close(report.all_.effect, {"loss": float(torch.cat(losses).mean())})


def test_intervals_hold_the_mean_and_narrow_with_more_texts(learned: tuple[Any, Any]) -> None:
    model, tokenizer = learned
    widths = []
    for count in (24, 96):
        report = normscope.swap(
            model, sentences(count), tokenizer=tokenizer, batching=SHORT, layers=["*.ln_f"]
        )
        cosine = report.all_.effect.hidden_cosine
        assert cosine.low < cosine.mean < cosine.high
        widths.append(cosine.high - cosine.low)
    assert widths[1] < 0.8 * widths[0]


# Replayed blocks


def counted(model: Any, **options: Any) -> tuple[SwapReport, int]:
    """Run a swap, and count the calls of the attention of the model's first block."""
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    handle = model.transformer.h[0].attn.register_forward_hook(count)
    report = normscope.swap(model, sentences(48), batching=SHORT, **options)
    handle.remove()
    return report, calls


def without_time(report: SwapReport) -> dict[str, Any]:
    return {name: part for name, part in report.to_dict().items() if name not in ("run", "provenance")}


def test_blocks_before_the_first_replaced_layer_run_once(
    learned: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = learned
    fast, few = counted(model, tokenizer=tokenizer, swapping=Swapping(cumulative=True))
    forwards = [vars(module) for module in model.modules()]
    assert not any("forward" in own for own in forwards)
    monkeypatch.setattr(Prefix, "replaying", lambda _self, _names: contextlib.nullcontext())
    slow, many = counted(model, tokenizer=tokenizer, swapping=Swapping(cumulative=True))
    assert few < 0.75 * many
    assert without_time(fast) == without_time(slow)


def test_each_batch_replays_the_blocks_before_the_last_layer(learned: tuple[Any, Any]) -> None:
    model, tokenizer = learned
    _, calls = counted(model, tokenizer=tokenizer, layers=["*.ln_f"])
    # The probe of the calibration and its 3 batches, the test of the head, and the 3 held-out batches.
    assert calls == 1 + 3 + 1 + 3


def test_blocks_that_leave_something_to_later_ones_run_each_time(
    learned: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = learned
    left: list[torch.Tensor] = []
    hooks = [
        model.transformer.h[0].mlp.register_forward_hook(lambda _m, _given, out: left.append(out)),
        model.transformer.h[1].register_forward_pre_hook(
            lambda _m, given: (given[0] + left.pop(), *given[1:])
        ),
    ]
    fast, calls = counted(model, tokenizer=tokenizer)
    monkeypatch.setattr(Prefix, "replaying", lambda _self, _names: contextlib.nullcontext())
    left.clear()
    slow, _ = counted(model, tokenizer=tokenizer)
    for hook in hooks:
        hook.remove()
    assert calls >= 3 * (1 + 1 + 5 + 1)
    assert without_time(fast) == without_time(slow)


# Choice of layers


def spread(tokenizer: Any) -> torch.Tensor:
    ids: torch.Tensor = tokenizer(sentences(8), padding=True, return_tensors="pt")["input_ids"]
    return ids % 100


def calibrated(model: Any, tokenizer: Any) -> Calibration:
    class Small:
        """The demo's tokenizer with ids below 100."""

        def __init__(self) -> None:
            self.pad_token_id, self.eos_token_id, self.model_max_length = 0, 1, 64
            self.cls_token_id = self.sep_token_id = self.bos_token_id = None
            self.pad_token_type_id = 0

        def __call__(self, texts: Any, **options: Any) -> Any:
            options = {k: v for k, v in options.items() if k in ("truncation", "max_length", "padding")}
            ids = tokenizer(texts, add_special_tokens=False, **options)["input_ids"]
            return {
                "input_ids": [[i % 100 for i in row] for row in ids]
                if ids and isinstance(ids[0], list)
                else ids
            }

    return normscope.calibrate(Loaded(model, Small(), "small", None, None, ()), sentences(24))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["batchnorm", "batchnorm-fitted", "frozen"])
@pytest.mark.parametrize("name", ["llama", "gemma", "qwen"])
def test_rmsnorms_with_their_own_affine(minilm: tuple[Any, Any], name: str, kind: str) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 100, "head_dim": 8,
    }  # fmt: skip
    made: dict[str, Callable[[], Any]] = {
        "llama": models.llama,
        "gemma": lambda: transformers.GemmaForCausalLM(transformers.GemmaConfig(**sizes)),
        "qwen": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**sizes)),
    }
    model = models.spread_norms(made[name]())
    known = calibrated(model, minilm[1])
    layers = {"llama": "model.norm", "gemma": "*.1.input_layernorm", "qwen": "*.1.self_attn.q_norm"}
    with normscope.swapped(model, kind=kind, layers=[layers[name]], statistics=known) as swap:
        (layer,) = swap.names
        module: Any = dict(model.named_modules())[layer]
        seen: list[Any] = []
        handle = module.register_forward_hook(lambda _m, given, out: seen.append((given[0], out)))
        model(spread(minilm[1]))
        handle.remove()
    x, out = seen[0]
    s = known.layers[layer].known()
    eps = getattr(module, "variance_epsilon", None) or module.eps
    y = {
        "batchnorm": (x - s["mean"]) / (s["variance"] + eps).sqrt(),
        "batchnorm-fitted": s["slope"] * x + s["intercept"],
        "frozen": s["scale"] * x,
    }[kind]
    expected = y * (module.weight + (name == "gemma"))
    torch.testing.assert_close(out, expected.float(), rtol=1e-4, atol=1e-4)


def test_a_shared_module_is_replaced_at_every_call(minilm: tuple[Any, Any]) -> None:
    torch.manual_seed(0)
    config = transformers.AlbertConfig(
        vocab_size=100, embedding_size=16, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4,
    )  # fmt: skip
    model: Any = models.spread_norms(transformers.AlbertModel(config))
    with normscope.swapped(model, kind="identity", layers=["*.full_layer_layer_norm"]) as swap:
        (layer,) = swap.names
        module: Any = dict(model.named_modules())[layer]
        seen: list[Any] = []
        handle = module.register_forward_hook(lambda _m, given, out: seen.append((given[0], out)))
        model(spread(minilm[1]))
        handle.remove()
    assert len(seen) == 3
    for x, out in seen:
        torch.testing.assert_close(out, x * module.weight + module.bias)


def test_other_norms_stay_and_are_said(minilm: tuple[Any, Any]) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_a, self.norm_b = nn.LayerNorm(8), nn.BatchNorm1d(8)

        def forward(self, x: torch.Tensor) -> Any:
            return self.norm_b(self.norm_a(x))

    model = Odd().eval()
    with normscope.swapped(model, kind="identity") as swap:
        assert swap.names == ("norm_a",)
    with pytest.raises(UsageError, match="none of 1 layer can be replaced"):
        normscope.swapped(model, kind="identity", layers=["norm_b"])


# The model is unchanged afterwards


@pytest.mark.parametrize("kind", REPLACEMENTS)
def test_the_model_comes_back_bit_by_bit(minilm: tuple[Any, Any], kind: str) -> None:
    model, tokenizer = minilm
    known = normscope.calibrate(model, sentences(12), tokenizer=tokenizer, batching=SHORT, kind=kind)
    (batch,) = batches(tokenizer, sentences(8))
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    before = model(**batch).last_hidden_state
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with normscope.swapped(model, kind=kind, statistics=known):
        assert not torch.equal(model(**batch).last_hidden_state, before)
    with contextlib.suppress(ZeroDivisionError), normscope.swapped(model, kind=kind, statistics=known):
        model(**batch)
        raise ZeroDivisionError
    assert torch.equal(model(**batch).last_hidden_state, before)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks


def test_a_model_that_fails_in_the_middle_comes_back(learned: tuple[Any, Any]) -> None:
    model, tokenizer = learned
    ids = spread(tokenizer)[:, :16]
    before, calls = model(ids).logits, 0

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise ValueError("in the middle")

    model.train()
    handle = model.transformer.h[1].register_forward_hook(fail)
    with pytest.raises(RunError, match="in the middle"):
        normscope.swap(model, sentences(48), tokenizer=tokenizer, batching=SHORT)
    handle.remove()
    assert model.training
    assert torch.equal(model.eval()(ids).logits, before)


def test_no_layer_is_replaced_twice(learned: tuple[Any, Any]) -> None:
    model, tokenizer = learned
    ids = spread(tokenizer)[:, :16]
    both = normscope.swapped(model, kind="identity", layers=["*.ln_1"])
    with both, normscope.swapped(model, kind="identity", layers=["*.ln_2"]):
        nested = model(ids).logits
        again = normscope.swapped(model, kind="identity", layers=["*.0.*"])
        with pytest.raises(UsageError, match="is replaced already"), again:
            pass
        assert torch.equal(model(ids).logits, nested), "the refusal left all as it was"
    with normscope.swapped(model, kind="identity", layers=["*.ln_1", "*.ln_2"]):
        torch.testing.assert_close(model(ids).logits, nested)


def test_a_watcher_sees_what_a_replaced_layer_makes_itself(minilm: tuple[Any, Any]) -> None:
    model, tokenizer = minilm
    with normscope.swapped(model, kind="identity", layers=["embeddings.*"]):
        report = normscope.inspect(model, sentences(8), tokenizer=tokenizer, batching=SHORT)
    assert all(layer.kind == "layernorm" and layer.own_error < 1e-4 for layer in report.layers.values())


def test_gradients_flow_into_the_affine(learned: tuple[Any, Any]) -> None:
    model, tokenizer = learned
    known = normscope.calibrate(model, sentences(12), tokenizer=tokenizer, batching=SHORT)
    ids = spread(tokenizer)[:, :16]
    with normscope.swapped(model, kind="batchnorm-fitted", statistics=known):
        model(ids, labels=ids).loss.backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in model.parameters())
    model.zero_grad()


def test_the_batch_kind_counts_what_the_mask_says(minilm: tuple[Any, Any]) -> None:
    model, tokenizer = minilm
    (batch,) = batches(tokenizer, sentences(8))
    module: Any = model.embeddings.LayerNorm
    seen: list[Any] = []
    with normscope.swapped(model, kind=BATCH, layers=["embeddings.*"]) as swap:
        swap.mask = batch["attention_mask"].clone()
        swap.mask[:, 0] = 0
        handle = module.register_forward_hook(lambda _m, given, out: seen.append((given[0], out)))
        model(**batch)
        handle.remove()
    x, out = seen[0]
    valid = x[swap.mask.bool()]
    y = (x - valid.mean(0)) / (valid.var(0, correction=0) + module.eps).sqrt()
    torch.testing.assert_close(out, y * module.weight + module.bias, rtol=1e-4, atol=1e-4)


# Statistics


def test_a_report_does_for_batchnorm_alone(minilm: tuple[Any, Any]) -> None:
    model, tokenizer = minilm
    options: dict[str, Any] = {"tokenizer": tokenizer, "batching": SHORT}
    report = normscope.inspect(model, sentences(12), **options)
    known = normscope.calibrate(model, sentences(12), **options)
    (batch,) = batches(tokenizer, sentences(8))
    outputs = []
    for statistics in (report, known):
        with normscope.swapped(model, statistics=statistics, layers=["*.3.*"]):
            outputs.append(model(**batch).last_hidden_state)
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    for kind, missing in (("batchnorm-fitted", "no slope and no intercept"), ("frozen", "no scale")):
        with pytest.raises(UsageError, match=missing):
            normscope.swapped(model, kind=kind, statistics=report)
    with pytest.raises(UsageError, match="no mean and no variance"):
        normscope.swapped(model)
    with pytest.raises(UsageError, match="expected one of batchnorm,"):
        normscope.swapped(model, kind="layernorm")


def test_a_calibration_comes_back_from_its_file(minilm: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = minilm
    known = normscope.calibrate(model, sentences(12), tokenizer=tokenizer, batching=SHORT)
    path = known.save(tmp_path / "new" / "folder")
    for place in (path, path.parent):
        again = normscope.read_calibration(place)
        assert (again.model, again.kind, again.replaced) == (known.model, None, ())
        assert list(again.layers) == sorted(known.layers)
        for name, statistics in again.layers.items():
            before = known.layers[name].known()
            assert (
                statistics.known().keys()
                == before.keys()
                == {"mean", "variance", "slope", "intercept", "scale", "first_scale", "rest_scale"}
            )
            assert all(torch.equal(value, before[key]) for key, value in statistics.known().items())
    (tmp_path / "other.safetensors").write_bytes(b"no")
    for missing in (tmp_path / "other.safetensors", tmp_path / "none", tmp_path):
        with pytest.raises(ReportError, match="expected what normscope swap --save wrote"):
            normscope.read_calibration(missing)
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="expected a folder that can be written"):
        known.save(tmp_path / "file" / "folder")


def test_a_constant_feature_is_given_its_mean_by_the_line() -> None:
    assert Statistics().lacks("frozen") == ["scale"]
    model = nn.Sequential(nn.LayerNorm(4))
    report = Calibration("m", {"0": Statistics(slope=torch.zeros(4), intercept=torch.arange(4.0))})
    with normscope.swapped(model, kind="batchnorm-fitted", statistics=report):
        out = model(torch.randn(3, 5, 4))
    torch.testing.assert_close(out, torch.arange(4.0).expand(3, 5, 4))


# Held-out texts


def test_texts_are_parted_and_never_overlap() -> None:
    parted = split_texts(["a", " ", "b", "c", "a", "b", "d"], None, None)
    assert (parted.calibration, parted.held_out) == (["a", "c", "b"], ["d"])
    assert (parted.skipped, parted.repeated) == (1, 2)
    parted = split_texts(["a", "b", "c", "x"], ["b", "", "y", "z"], 3)
    assert (parted.calibration, parted.held_out) == (["b", "y", "z"], ["a", "c"])
    assert (parted.skipped, parted.repeated) == (0, 1)


@pytest.mark.parametrize(("texts", "known"), [(["a"], None), (["a", "a"], None), (["a"], ["a"]), ([], ["b"])])
def test_nothing_to_hold_out_is_an_error(texts: list[str], known: list[str] | None) -> None:
    with pytest.raises(TextError, match="expected at least one of each"):
        split_texts(texts, known, None)


def test_a_note_says_what_was_left_out(learned: tuple[Any, Any]) -> None:
    model, tokenizer = learned
    first = sentences(13)[0]
    texts = [*sentences(13), first]
    report = normscope.swap(model, texts, tokenizer=tokenizer, batching=SHORT, layers=["*.ln_f"])
    assert report.warnings == ("1 held-out text was left out: it is also in the calibration",)


def test_progress_counts_all_runs(learned: tuple[Any, Any]) -> None:
    model, tokenizer = learned
    for swapping in (Swapping(), Swapping(cumulative=True), Swapping(cumulative=True, recalibrate=True)):
        seen: list[Any] = []
        normscope.swap(
            model,
            sentences(24),
            tokenizer=tokenizer,
            batching=SHORT,
            swapping=swapping,
            layers=["*.1.*", "*.ln_f"],
            progress=seen.append,
        )
        runs = [step for step in seen if step.stage == "run"]
        assert [step.texts for step in runs] == sorted(step.texts for step in runs)
        assert {step.expected_texts for step in runs} == {runs[-1].texts}
