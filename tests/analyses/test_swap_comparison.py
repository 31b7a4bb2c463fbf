"""Logits of the tokens to predict, and their comparison, against plain float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from normscope.analyses.swap import predictions
from normscope.analyses.swap.comparison import Reference, concatenate
from normscope.analyses.swap.predictions import Answer, Question, Readout
from normscope.data.batch import Batch
from tests.support import models

TEXTS = 3
VALID = torch.arange(5) < torch.tensor([5, 4, 2])[:, None]


def question(vocabulary: int) -> Question:
    text, position = VALID.nonzero(as_tuple=True)
    generator = torch.Generator().manual_seed(1)
    return Question({}, VALID, text, position, torch.randint(vocabulary, (len(text),), generator=generator))


def answers(vocabulary: int, distance: float, dtype: torch.dtype) -> tuple[Answer, Answer]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, TEXTS, 5, 8, generator=generator)
    own = 3 * torch.randn(11, vocabulary, generator=generator)
    other = own + distance * torch.randn(11, vocabulary, generator=generator) + 40
    return Answer(hidden[0], own.to(dtype)), Answer(hidden[1], other.to(dtype))


def by_hand(own: torch.Tensor, other: torch.Tensor, asked: Question) -> dict[str, list[float]]:
    """Sum losses, KL and agreement by text, token by token in float64."""
    sums = {name: [0.0] * TEXTS for name in ("own_loss", "loss", "kl", "top1")}
    for a, b, text, target in zip(own.double(), other.double(), asked.text, asked.target, strict=True):
        p, q = a.softmax(0), b.softmax(0)
        values = (
            -p[target].log(),
            -q[target].log(),
            sum(x * (x / y).log() for x, y in zip(p, q, strict=True) if x > 0),
            a.argmax() == b.argmax(),
        )
        for name, value in zip(sums, values, strict=True):
            sums[name][int(text)] += float(value)
    return sums


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("distance", [3.0, 0.1])
@pytest.mark.parametrize("part", [1 << 19, 40])
def test_sums_as_a_loop_over_tokens_has_them(
    dtype: torch.dtype, distance: float, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "_PART", part)
    asked = question(17)
    own, other = answers(17, distance, dtype)
    reference = Reference(own, asked)
    sums = {**reference.compare(other), "own_loss": reference.sums["loss"]}
    assert own.rows is not None
    assert other.rows is not None
    for name, expected in by_hand(own.rows, other.rows, asked).items():
        within: Any = {"rel": 1e-11} if dtype == torch.float64 else {"rel": 1e-5, "abs": 1e-6}
        assert sums[name].tolist() == pytest.approx(expected, **within)
    assert reference.sums["targets"].tolist() == [5, 4, 2]


def test_an_answer_differs_by_nothing_from_itself() -> None:
    own, _ = answers(1000, 1.0, torch.float32)
    reference = Reference(own, question(1000))
    sums = reference.compare(own)
    assert not sums["kl"].any()
    assert torch.equal(sums["loss"], reference.sums["loss"])
    assert torch.equal(sums["top1"], reference.sums["targets"])


def test_a_logit_of_minus_infinity_is_a_probability_of_zero() -> None:
    asked = question(17)
    own, other = answers(17, 1.0, torch.float32)
    assert own.rows is not None
    assert other.rows is not None
    excluded = (torch.arange(17) % 5 == 1) & (torch.arange(17) != asked.target[:, None])
    for rows in (own.rows, other.rows):
        rows.masked_fill_(excluded, -torch.inf)
    expected = by_hand(own.rows, other.rows, asked)
    sums = Reference(own, asked).compare(other)
    for name in ("loss", "kl", "top1"):
        assert sums[name].tolist() == pytest.approx(expected[name], rel=1e-5)


def test_sentence_vectors_stay_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normscope.analyses.swap.comparison._SIMILAR", 4)
    own, _ = answers(17, 1.0, torch.float32)
    sums = Reference(own, question(17)).sums
    joined = concatenate(sums, sums)
    assert len(joined["tokens"]) == 2 * TEXTS
    assert torch.equal(joined["vectors"], torch.cat([sums["vectors"], sums["vectors"][:1]]))


# The head


def gemma() -> Any:
    """A small random Gemma 2, which caps its logits."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = transformers.Gemma2Config(
        vocab_size=100,
        head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        final_logit_softcapping=0.5,
        **sizes,
    )
    model: Any = transformers.Gemma2ForCausalLM(config)
    return model.eval()


def wide_bert() -> Any:
    model = models.bert()
    nn.init.normal_(model.cls.predictions.bias)
    return model


class _Masks:
    mask_token_id = 4
    all_special_ids = (0, 4)


@pytest.mark.parametrize(
    ("make", "reads"), [(models.gpt2, True), (models.llama, True), (wide_bert, True), (gemma, False)]
)
def test_logits_are_those_of_the_whole_output(make: Callable[[], Any], reads: bool) -> None:
    model = make()
    ids = torch.randint(5, 100, (TEXTS, 5), generator=torch.Generator().manual_seed(2))
    batch = Batch({"input_ids": ids, "attention_mask": VALID.long()}, VALID, VALID, (0, 1, 2), VALID)
    readout = Readout(model, _Masks())
    asked = readout.ask(batch)
    computed: list[int] = []
    linear = model.get_output_embeddings()
    with torch.no_grad():
        whole = model(**asked.inputs).logits[asked.text, asked.position]
        readout.prepare(asked)
        count = linear.register_forward_hook(lambda _m, _x, y: computed.append(y[..., 0].numel()))
        logits = torch.cat(list(readout.read(asked).logits()))
        count.remove()
    torch.testing.assert_close(logits, whole)
    assert len(asked.target) < VALID.numel()
    assert sum(computed) == (len(asked.target) + 1 if reads else VALID.numel())
