"""Mean states of texts with one layer replaced, against hooks by hand on single texts."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import normscope
from normscope import Batching, Calibration
from normscope.analyses.swap.text_vectors import text_vectors
from normscope.errors import TextError
from normscope.models.loading import Loaded
from tests.analyses.test_swap_memory import TEXTS, TOKENIZER, lacking, too_large
from tests.data.test_batching import WORDS
from tests.support import models

KINDS = ("scale-feature", "scale-sequence")
SPECIAL = {2, 3}  # [CLS] and [SEP].


def t5() -> Any:
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    config.decoder_start_token_id = 0
    return models.spread_norms(transformers.T5ForConditionalGeneration(config))


FAMILIES: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "bert": (
        models.bert,
        ("bert.embeddings.LayerNorm", "bert.encoder.layer.1.attention.output.LayerNorm"),
    ),
    "gpt2": (models.gpt2, ("transformer.h.0.ln_2", "transformer.h.1.ln_1", "transformer.ln_f")),
    "t5": (t5, ("encoder.block.1.layer.0.layer_norm", "decoder.block.1.layer.1.layer_norm")),
}


def loaded(model: Any) -> Loaded:
    return Loaded(model.double(), TOKENIZER, "", None, None, ())


def calibrated(model: Any, texts: Sequence[str] = TEXTS[1::2]) -> Calibration:
    return Calibration.of_report(normscope.inspect(model, texts, tokenizer=TOKENIZER))


def by_hand(model: Any, text: str, layer: str | None = None, replaced: Any = None) -> torch.Tensor:
    """Return a text's vector; `replaced` gives the output of the layer from its module and input."""
    ids = TOKENIZER(text)["input_ids"]
    inputs, read = {"input_ids": torch.tensor([ids])}, ids
    if model.config.is_encoder_decoder:
        read = [2, *ids[:-1]]  # The decoder's start token is special, too.
        inputs["decoder_input_ids"] = torch.tensor([[0, *ids[:-1]]])
    else:  # The tokenizer's types, which GPT-2 adds to its embeddings.
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    handles = []
    if layer is not None:
        module = model.get_submodule(layer)
        handles.append(module.register_forward_hook(lambda m, args, _out: replaced(m, args[0])))
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    states = output.get("decoder_hidden_states") or output.hidden_states
    words = [i for i, token in enumerate(read) if token not in SPECIAL]
    vector: torch.Tensor = states[-1][0, words].mean(0)
    return vector


def scaled(kind: str, variance: torch.Tensor) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    def replaced(module: Any, x: torch.Tensor) -> torch.Tensor:
        centres = isinstance(module, nn.LayerNorm)
        eps = module.eps if centres else module.variance_epsilon
        of_text = x.var(correction=0) if centres else x.square().mean()
        centred = x - x.mean(-1, keepdim=True) if centres else x
        y = centred / ((variance if kind == "scale-feature" else of_text) + eps).sqrt() * module.weight
        out: torch.Tensor = y + module.bias if centres else y
        return out

    return replaced


@pytest.mark.parametrize("special_tokens", ["include", "exclude"])
@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_hooks_by_hand(family: str, special_tokens: str) -> None:
    make, layers = FAMILIES[family]
    model = make().double()
    known = calibrated(model)
    batching = Batching(5, 24, special_tokens=special_tokens)
    kinds = KINDS if special_tokens == "include" else KINDS[:1]
    own, replaced = text_vectors(loaded(model), TEXTS, batching, kinds, layers, known)
    assert own.dtype == torch.float64
    torch.testing.assert_close(
        own, torch.stack([by_hand(model, text) for text in TEXTS]), rtol=1e-9, atol=1e-9
    )
    assert [*replaced] == [*kinds]
    for kind, vectors in replaced.items():
        assert [*vectors] == [*layers]
        for layer, found in vectors.items():
            variance = known.layers[layer].known()["variance"]
            expected = [by_hand(model, text, layer, scaled(kind, variance)) for text in TEXTS]
            torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)
            assert float((found - own).abs().max()) > 1e-4


def test_a_model_without_a_head_and_one_in_training() -> None:
    model = models.gpt2().double()
    known = calibrated(model)
    own, _ = text_vectors(loaded(model), TEXTS, Batching(5), (), (), known)
    base = model.transformer.train()
    torch.testing.assert_close(text_vectors(loaded(base), TEXTS, Batching(9), (), (), known)[0], own)
    assert base.training


def test_a_trial_runs_from_the_replaced_layer_on_and_leaves_nothing() -> None:
    model = models.gpt2().double()
    known = calibrated(model)
    calls = {0: 0, 1: 0}

    def counter(block: int) -> Any:
        def count(*_: Any) -> None:
            calls[block] += 1

        return count

    handles = [model.transformer.h[i].attn.register_forward_hook(counter(i)) for i in calls]
    text_vectors(loaded(model), TEXTS, Batching(12), KINDS, [*known.layers], known)
    for handle in handles:
        handle.remove()
    # Of two batches, each kind of a layer runs its block and those after it; ln_f runs none.
    assert calls == {0: 1 + 2 * (1 + 2 * 2), 1: 1 + 2 * (1 + 2 * 4)}  # One more finds the axes.
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules())


def test_a_batch_that_memory_does_not_hold_runs_in_parts() -> None:
    model = models.gpt2().double()
    known, layers = calibrated(model), ["transformer.h.1.ln_1"]
    own, replaced = text_vectors(loaded(model), TEXTS, Batching(12), KINDS, layers, known)
    with lacking(model.transformer.h[1], too_large) as calls:
        parts = text_vectors(loaded(model), TEXTS, Batching(12), KINDS, layers, known)
    assert any(tokens < 0 for _, tokens in calls)
    torch.testing.assert_close(parts[0], own)
    for kind in KINDS:
        torch.testing.assert_close(parts[1][kind][layers[0]], replaced[kind][layers[0]])


def test_a_batch_of_as_many_texts_as_tokens_is_not_mixed() -> None:
    """XLNet's layers see (T, B, D): the sizes of such a batch do not tell its texts."""
    torch.manual_seed(0)
    config = transformers.XLNetConfig(vocab_size=100, d_model=32, n_layer=2, n_head=4, d_inner=48)
    model = models.spread_norms(transformers.XLNetModel(config)).double()
    known, layer = calibrated(model), "layer.0.rel_attn.layer_norm"
    words = 3 * [word for word in WORDS[5:] if len(TOKENIZER(word)["input_ids"]) == 3]
    texts = [" ".join(words[i : i + 4]) for i in range(6)]
    assert {len(TOKENIZER(text)["input_ids"]) for text in texts} == {len(texts)}
    together, alone = (
        text_vectors(loaded(model), texts, Batching(size), KINDS, [layer], known)[1] for size in (6, 1)
    )
    for kind in KINDS:
        torch.testing.assert_close(together[kind][layer], alone[kind][layer], rtol=1e-6, atol=1e-6)


def test_rows_keep_the_places_of_the_texts() -> None:
    model = models.bert().double()
    known = calibrated(model)
    texts = [TEXTS[3], " ", TEXTS[0], "[SEP]", TEXTS[5]]
    own, _ = text_vectors(loaded(model), texts, Batching(2), (), (), known)
    assert own.isnan().all(1).tolist() == [False, True, False, True, False]
    torch.testing.assert_close(own[4], by_hand(model, TEXTS[5]))
    with pytest.raises(TextError):
        text_vectors(loaded(model), [" "], Batching(2), (), (), known)


def test_a_layer_of_the_head_changes_nothing() -> None:
    model = models.bert().double()
    known, head = calibrated(model), "cls.predictions.transform.LayerNorm"
    assert head in known.layers
    own, replaced = text_vectors(loaded(model), TEXTS[:3], Batching(2), KINDS, [head], known)
    assert all(torch.equal(vectors[head], own) for vectors in replaced.values())


def test_layers_without_statistics_are_left_out() -> None:
    model = models.gpt2().double()
    known = calibrated(model)
    layers = {name: statistics for name, statistics in known.layers.items() if "ln_1" in name}
    _, replaced = text_vectors(
        loaded(model), TEXTS[:3], Batching(2), KINDS, [*known.layers], Calibration("", layers)
    )
    assert [*replaced["scale-sequence"]] == ["transformer.h.0.ln_1", "transformer.h.1.ln_1"]
