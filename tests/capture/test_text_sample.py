"""Which texts are kept, and that what is kept of them is what their tokens give, in any model."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import normscope
from normscope import Batching, BatchReport, Drawing
from normscope.capture.observers import BatchRows
from normscope.capture.text_sample import Choice, TextSample
from normscope.data.batch import Batch
from normscope.data.batch_sampling import plans, random_bits
from normscope.errors import TextError, UsageError
from normscope.norms.detection import find
from normscope.statistics.alignment import TokenMask, align
from normscope.statistics.layer_state import LayerState
from normscope.statistics.moments import Moments, Rows
from tests.support import models
from tests.support.reference import batch_noise, summary

SENTENCES = models.prose(60)
NORM = find(nn.LayerNorm(2))[0]


@pytest.fixture(scope="module")
def minilm() -> tuple[Any, Any]:
    return models.demo(blocks=2)


# The choice


@given(
    count=st.integers(0, 60),
    most=st.integers(1, 20),
    batch=st.integers(1, 20),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_the_choice_is_the_smallest_priorities_in_any_order_and_batches(
    count: int, most: int, batch: int, order: Any
) -> None:
    sources = list(range(count))
    order.shuffle(sources)
    choice = Choice(most, seed=3)
    for start in range(0, count, batch):
        offered = sources[start : start + batch]
        slots = choice.offer(offered)
        assert slots == [choice.slots.get(source, -1) for source in offered]
        assert len(set(choice.slots.values())) == len(choice.slots)
        assert all(0 <= slot < most for slot in choice.slots.values())
    assert set(choice.slots) == set(sorted(range(count), key=lambda i: random_bits(3, i))[:most])


def test_another_seed_chooses_others_and_every_text_has_its_chance() -> None:
    times = np.zeros(40)
    for seed in range(300):
        choice = Choice(10, seed)
        choice.offer(range(40))
        times[list(choice.slots)] += 1
    assert times.mean() == 75
    assert abs(times - 75).max() < 5 * 7.5


def test_an_evicted_texts_slot_is_given_to_another_and_starts_empty() -> None:
    dice = np.random.default_rng(0)
    texts = [1e8 * (i % 3) + dice.normal(size=(5, 4)) for i in range(30)]
    kept = TextSample(6, 1 << 30, seed=1)
    kept.fit([4])
    layer = kept.layer("norm")
    for start in range(0, 30, 4):
        feed(kept, list(range(start, min(30, start + 4))), texts)
    assert kept.sources == sorted(sorted(range(30), key=lambda i: random_bits(1, i))[:6])
    found = layer.moments()
    assert found is not None
    for i, source in enumerate(kept.sources):
        want = Moments.of(torch.from_numpy(texts[source]))
        torch.testing.assert_close(found.mean[i], want.mean[0], rtol=1e-14, atol=0)
        torch.testing.assert_close(found.m2[i], want.m2[0], rtol=1e-6, atol=0)
    assert (found.count == 5).all()


def feed(kept: TextSample, sources: list[int], texts: list[Any], layer: str = "norm") -> None:
    """One batch of texts of one length through one layer."""
    x = torch.from_numpy(np.stack([texts[i] for i in sources]))
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    kept.begin(Batch({}, mask, mask, tuple(sources), mask))
    where = align(tuple(x.shape[:2]), TokenMask(mask, mask), -1, torch.device("cpu"))
    for part in where.parts(7):
        rows = Rows.of(part.take(x.reshape(-1, x.shape[2])))
        samples = Moments.by_group(rows.x, part.sample)
        kept.layer(layer).observe(BatchRows(NORM, rows, rows.x, samples, part), LayerState())


def test_a_layer_that_did_not_see_a_text_has_nothing_of_it() -> None:
    texts = [np.full((3, 2), float(i)) for i in range(4)]
    kept = TextSample(2, 1 << 30, seed=0)
    first, *later = sorted(range(4), key=lambda i: -random_bits(0, i))  # the least wanted text comes first
    kept.layer("seldom")
    feed(kept, [first], texts, "seldom")
    for source in later:
        feed(kept, [source], texts, "always")
    seldom = kept.layer("seldom").moments()
    assert seldom is not None
    assert seldom.count.tolist() == [[0], [0]]


@pytest.mark.parametrize(
    ("memory", "most"), [(1 << 30, 100), (10 * 8 * (9 + 33), 10), (10 * 8 * 42 + 335, 10)]
)
def test_memory_bounds_how_many_are_kept(memory: int, most: int) -> None:
    kept = TextSample(100, memory, seed=0)
    kept.fit([4, 16])
    assert (kept.choice.maximum, kept.limited) == (most, most < 100)


def test_a_width_that_is_not_known_is_taken_for_the_widest() -> None:
    kept = TextSample(100, 8 * (33 + 33) * 7, seed=0)
    kept.fit([0, 16])
    assert kept.choice.maximum == 7


def test_too_little_memory_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="expected at least 528, for two texts; raise it"):
        TextSample(100, 300, seed=0).fit([16])


# A model's texts


def formed(
    model: Any, tokenizer: Any, names: list[str], texts: list[str], excluded: bool = False
) -> dict[str, list[Any]]:
    """What enters layers when every text runs alone and unpadded; calls of a shared layer are joined."""
    kept: dict[str, list[Any]] = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, rows=rows: rows.append(args[0][0].double().numpy())
        )
        for name, rows in kept.items()
    ]
    with torch.no_grad():
        for text in texts:
            before = {name: len(rows) for name, rows in kept.items()}
            encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=24)
            model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"])
            for name, rows in kept.items():
                calls = [x[1:-1] if excluded else x for x in rows[before[name] :]]
                rows[before[name] :] = [np.concatenate(calls)]
    for handle in handles:
        handle.remove()
    return kept


def assert_is_the_reference(report: BatchReport, rows: dict[str, list[Any]], drawing: Drawing) -> None:
    """Every number of the layers against batches formed from the texts' own activations."""
    assert report.kept.texts == len(next(iter(rows.values())))
    lengths = [len(x) for x in next(iter(rows.values()))]
    for name, texts in rows.items():
        (layer,) = (plain for plain in report.to_dict()["layers"] if plain["name"] == name)
        for plan, got in zip(plans(drawing, range(len(texts)), lengths), layer["sizes"], strict=True):
            assert (got["batch_size"], got["order"]) == (plan.size, plan.order)
            want = batch_noise(texts, plan.texts)
            assert got["excess_noise"] == pytest.approx(want["excess"], rel=1e-4, nan_ok=True), name
            for part, prefix in (
                ("tid", "tid"),
                ("tid_elementwise", "elementwise"),
                ("distance", "distance"),
            ):
                for statistic in ("mean", "variance"):
                    for key, value in summary(want[f"{prefix}_{statistic}"]).items():
                        assert got[part][statistic][key] == pytest.approx(value, rel=1e-4, abs=1e-7), (
                            name,
                            key,
                        )


@pytest.mark.parametrize(("batch_size", "order"), [(1, "given"), (16, "length"), (64, "given")])
def test_minilm_is_as_if_batches_had_been_run(minilm: Any, batch_size: int, order: str) -> None:
    names = ["embeddings.LayerNorm", "encoder.layer.1.output.LayerNorm"]
    drawing = Drawing(sizes=(4, 16), draws=2)
    batching = Batching(batch_size, max_length=24, order=order)
    report = normscope.batch_noise(
        minilm[0], SENTENCES, tokenizer=minilm[1], batching=batching, drawing=drawing, layers=names
    )
    rows = formed(minilm[0], minilm[1], names, SENTENCES)
    assert_is_the_reference(report, {name: rows[name] for name in names}, drawing)


def test_special_tokens_can_be_left_out(minilm: Any) -> None:
    names, drawing = ["encoder.layer.1.output.LayerNorm"], Drawing(sizes=(8,), draws=1)
    batching = Batching(max_length=24, special_tokens="exclude")
    report = normscope.batch_noise(
        minilm[0], SENTENCES, tokenizer=minilm[1], batching=batching, drawing=drawing, layers=names
    )
    assert_is_the_reference(report, formed(minilm[0], minilm[1], names, SENTENCES, True), drawing)
    assert np.isnan(report.kept.positions[0]), "[CLS] keeps its position and is not counted"


def test_a_shared_layer_merges_its_calls(minilm: Any) -> None:
    torch.manual_seed(0)
    config = transformers.AlbertConfig(
        embedding_size=16, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4
    )
    config.vocab_size = 30522
    model = models.spread_norms(transformers.AlbertModel(config))
    names = [name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
    drawing = Drawing(sizes=(8,), draws=1)
    report = normscope.batch_noise(
        model, SENTENCES, tokenizer=minilm[1], batching=Batching(max_length=24), drawing=drawing
    )
    rows = formed(model, minilm[1], names, SENTENCES)
    assert max(len(x) for x in rows[names[1]]) > 24, "it is called three times a text"
    # Batches are put together by the texts' lengths, not by how often a layer saw them.
    tokens = [len(x) for x in rows[names[0]]]
    for name in names:
        layer = report.layers[name]
        assert layer.sizes is not None
        for plan, got in zip(plans(drawing, range(60), tokens), layer.sizes, strict=True):
            want = np.mean(batch_noise(rows[name], plan.texts)["tid_mean"])
            assert got.tid.mean.mean == pytest.approx(want, rel=1e-4)


def test_fewer_are_kept_whatever_the_batches(minilm: Any) -> None:
    model, tokenizer = minilm
    drawing = Drawing(samples=16, sizes=(2, 4))
    reports = [
        normscope.batch_noise(
            model, SENTENCES, tokenizer=tokenizer, drawing=drawing, layers=["emb*"],
            batching=Batching(size, max_length=24, order=order),
        )
        for size, order in ((1, "given"), (7, "length"), (60, "given"))
    ]  # fmt: skip
    chosen = sorted(sorted(range(60), key=lambda i: random_bits(0, i))[:16])
    rows = formed(model, tokenizer, ["embeddings.LayerNorm"], [SENTENCES[i] for i in chosen])
    lengths = [len(x) for x in rows["embeddings.LayerNorm"]]
    for report in reports:
        assert (report.run.texts, report.kept.texts, report.kept.tokens) == (60, 16, sum(lengths))
        assert report.warnings == ()
        found = report.layers["embeddings.LayerNorm"].sizes
        assert found is not None
        for plan, got in zip(plans(drawing, chosen, lengths), found, strict=True):
            want = np.mean(batch_noise(rows["embeddings.LayerNorm"], plan.texts)["tid_mean"])
            assert got.tid.mean.mean == pytest.approx(want, rel=1e-4)


def test_memory_that_limits_is_said(minilm: Any) -> None:
    drawing = Drawing(table_memory=20 * (2 * 384 + 1) * 8, sizes=(2, 32))
    report = normscope.batch_noise(
        minilm[0], SENTENCES, tokenizer=minilm[1], drawing=drawing, layers=["emb*"]
    )
    assert report.kept.texts == 20
    assert [note.split(":")[0] for note in report.warnings] == [
        "20 texts are kept, not 2,048",
        "no batches of 32",
    ]


def test_the_same_run_repeats(minilm: Any) -> None:
    model, tokenizer = minilm
    one, same, other = (
        normscope.batch_noise(
            model, SENTENCES, tokenizer=tokenizer, drawing=Drawing(seed=seed, momentum=0.1), layers=["emb*"],
            batching=Batching(max_length=24),
        )
        for seed in (1, 1, 2)
    )  # fmt: skip
    assert one.layers == same.layers
    assert one.batches == same.batches
    assert one.layers != other.layers
    assert BatchReport.from_dict(one.to_dict()) == one


class Pooling(nn.Module):
    """A norm over tokens, one over a text's mean, and one over single windows of no text in particular."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.pooled, self.odd = (
            nn.Embedding(30522, 8), nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
        )  # fmt: skip

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = self.first(self.embed(input_ids))
        weight = attention_mask[:, :, None].float()
        pooled: torch.Tensor = self.pooled((x * weight).sum(1) / weight.sum(1))
        self.odd(torch.cat([x.flatten(0, 1), pooled])[1:])
        return pooled


def test_layers_of_no_known_texts_are_null_with_a_warning_and_pooled_rows_count(minilm: Any) -> None:
    torch.manual_seed(0)
    model, drawing = Pooling(), Drawing(sizes=(4,), draws=1)
    report = normscope.batch_noise(
        model, SENTENCES, tokenizer=minilm[1], batching=Batching(max_length=24), drawing=drawing
    )
    assert report.layers["odd"].sizes is None
    assert report.to_dict()["layers"][2]["sizes"] is None
    assert any(note.startswith("odd: its rows are not known to be any text's") for note in report.warnings)
    rows = formed(model, minilm[1], ["first", "pooled"], SENTENCES)
    texts = [x[None] if x.ndim == 1 else x for x in rows["pooled"]]
    assert report.layers["pooled"].sizes is not None
    for plan, got in zip(
        plans(drawing, range(60), [len(x) for x in rows["first"]]), report.layers["pooled"].sizes, strict=True
    ):
        want = np.mean(batch_noise(texts, plan.texts)["tid_mean"])
        assert got.tid.mean.mean == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize(
    ("texts", "sizes", "least"), [(["one"], (), 2), (["one", "two"], (4, 8), 4), (["one", " "], (), 2)]
)
def test_too_few_texts_for_a_batch(minilm: Any, texts: list[str], sizes: tuple[int, ...], least: int) -> None:
    with pytest.raises(TextError, match=f"expected at least {least}; give more texts"):
        normscope.batch_noise(minilm[0], texts, tokenizer=minilm[1], drawing=Drawing(sizes=sizes))


def test_one_string_is_not_taken_for_many(minilm: Any) -> None:
    with pytest.raises(UsageError, match="put it in a list"):
        normscope.batch_noise(minilm[0], "abc", tokenizer=minilm[1])


def test_batches_say_where_their_texts_stood(minilm: Any) -> None:
    from normscope.data.batching import Batches

    texts = ["", "one two three", " ", "four", "five six"]
    batches = [*Batches(texts, minilm[1], Batching(batch_size=2), max_length=16)]
    assert [batch.sources for batch in batches] == [(1, 4), (3,)]
