"""What the word explains: against the definition, under any split and bound, and through real models."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import normscope
from normscope.capture.observers import BatchRows, TokenIdentity
from normscope.capture.recorder import Recorder
from normscope.errors import UsageError
from normscope.norms.detection import find
from normscope.results.inspect import ExplainedByToken
from normscope.statistics import metrics
from normscope.statistics.accumulator import Accumulator
from normscope.statistics.alignment import TokenMask, align
from normscope.statistics.moments import Moments, Rows
from normscope.statistics.position_bins import MEMORY
from normscope.statistics.token_identity import TokenMoments, TokenRoom
from tests.capture.test_token_scopes import SIZES, Lookup, mask_of, t5
from tests.capture.test_watcher import padded
from tests.support import models
from tests.support.reference import by_word
from tests.support.running import Running

D = 3


def corpus(seed: int, count: int = 40, ids: int = 9) -> tuple[Any, Any]:
    """Tokens whose vectors are their word's, and noise."""
    generator = np.random.default_rng(seed)
    words = generator.integers(0, ids, count) * 7 + 3
    return generator.normal(size=(100, D))[words] + 0.5 * generator.normal(size=(count, D)) + 2, words


def words_of(x: Any, words: Any, most: int, size: int = 7) -> TokenMoments:
    table = TokenMoments(D, most)
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        table.add(torch.from_numpy(x[part]), torch.from_numpy(words[part]))
    return table


def plain(table: TokenMoments) -> dict[int, Any]:
    """The table by token id."""
    parts = (table.count, table.mean, table.within)
    return {word: np.concatenate([p[row].numpy() for p in parts]) for word, row in table.rows.items()}


def assert_same(one: TokenMoments, other: TokenMoments) -> None:
    a, b = plain(one), plain(other)
    assert a.keys() == b.keys()
    for word in a:
        np.testing.assert_allclose(a[word], b[word], rtol=1e-10, atol=1e-10)


def effect(x: Any, words: Any, most: int) -> ExplainedByToken | None:
    moments = Accumulator(D, 0.0, words=most)
    moments.words = words_of(x, words, most)
    moments.output.count += len(x)
    return metrics.explained_by_token(moments)


def assert_is(got: ExplainedByToken | None, want: dict[str, float], tolerance: float) -> None:
    assert got is not None
    for name, value in want.items():
        assert getattr(got, name) == pytest.approx(value, abs=tolerance, nan_ok=True), name


# The table


@pytest.mark.parametrize("most", [1, 3, 8, 9, 500])
def test_it_is_the_anova_of_the_lowest_ids(most: int) -> None:
    x, words = corpus(seed=1)
    assert_is(effect(x, words, most), by_word(x, words, most), 1e-12)


def test_words_seen_once_explain_themselves_and_nothing_more() -> None:
    x, _ = corpus(seed=2)
    got = effect(x, np.arange(len(x)), 100)
    assert got is not None
    assert got.eta2 == pytest.approx(1)
    assert np.isnan(got.epsilon2)


def test_a_large_mean_beside_a_small_spread() -> None:
    x, words = corpus(seed=3)
    assert_is(effect(x + 1e8, words, 99), by_word(x, words, 99), 1e-7)


@given(
    seed=st.integers(0, 10**6),
    cut=st.integers(0, 40),
    most=st.sampled_from([1, 4, 8, 20]),
    size=st.integers(1, 41),
)
@settings(max_examples=60, deadline=None)
def test_parts_merge_to_the_whole_in_any_order_at_any_bound(
    seed: int, cut: int, most: int, size: int
) -> None:
    x, words = corpus(seed)
    whole = words_of(x, words, most, size=40)
    assert len(whole.rows) == min(most, len(np.unique(words)))
    for parts in ([slice(cut), slice(cut, None)], [slice(cut, None), slice(cut)]):
        merged = TokenMoments(D, most)
        for part in parts:
            merged.merge(words_of(x[part], words[part], most, size))
        assert_same(merged, whole)
    assert len(whole.count) <= most


def test_an_empty_part_changes_nothing() -> None:
    x, words = corpus(seed=4)
    table = words_of(x, words, 5)
    table.merge(TokenMoments(D, 5))
    assert_same(table, words_of(x, words, 5))


def test_parts_with_words_merge_into_an_accumulator_without() -> None:
    part, merged = Accumulator(D, 0.0, words=5), Accumulator(D, 0.0)
    assert part.words is not None
    x, words = corpus(seed=5)
    part.words.add(torch.from_numpy(x), torch.from_numpy(words))
    merged.merge(part)
    merged.merge(part)
    assert merged.words is not None
    assert merged.words.count.sum() == 2 * part.words.count.sum()


@pytest.mark.parametrize(("layers", "features"), [(13, 384), (65, 4096), (1, 8), (500, 10**9)])
def test_the_tables_of_all_layers_fit_the_memory(layers: int, features: int) -> None:
    ids = TokenRoom(layers).ids(features)
    size = layers * ids * 8 * (features + 2)
    assert ids == 1 or MEMORY - layers * 8 * (features + 2) < size <= MEMORY
    assert TokenRoom(layers, maximum=7).ids(features) == 7


def test_the_memory_that_is_said_is_what_is_used() -> None:
    room = TokenRoom(13)
    assert (room.ids(384), TokenRoom(65).ids(4096)) == (26_747, 503)
    table = TokenMoments(384, 4)
    table.add(torch.randn(9, 384), torch.arange(9))
    assert table.count.shape == (4, 1)
    assert sum(part.numel() for part in (table.count, table.mean, table.within)) == 4 * (384 + 2)


# Alignment


@pytest.mark.parametrize("left", [False, True])
def test_padding_and_what_does_not_count_have_no_word(left: bool) -> None:
    real = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    real = real.flip(1) if left else real
    ids = torch.arange(8).reshape(2, 4) + 10
    valid = real & (ids % 4 != 0)
    where = align((2, 4), TokenMask(real, valid, ids), -1, torch.device("cpu"))
    assert where.token_ids is not None
    assert where.token_ids.tolist() == ids[valid].tolist()
    parts = where.parts(2)
    assert [part.token_ids.tolist() for part in parts if part.token_ids is not None] == [
        ids[row][valid[row]].tolist() for row in (0, 1)
    ]
    kept = where.keep(where.token_ids > 13)
    assert kept.token_ids is not None
    assert kept.token_ids.tolist() == [i for i in where.token_ids.tolist() if i > 13]


@pytest.mark.parametrize(
    ("lead", "heads"), [((2, 4, 3), 3), ((2, 3, 4), 3), ((4, 2), 1), ((8,), 1), ((24,), 3), ((8, 3), 3)]
)
def test_every_head_has_its_tokens_word(lead: tuple[int, ...], heads: int) -> None:
    mask = torch.ones(2, 4, dtype=torch.bool)
    ids = torch.arange(8).reshape(2, 4) + 10
    where = align(lead, TokenMask(mask, mask, ids), -1, torch.device("cpu"))
    rows = torch.arange(int(np.prod(lead))).reshape(lead)
    of_rows = {
        (2, 4, 3): ids[:, :, None].expand(2, 4, 3),
        (2, 3, 4): ids[:, None].expand(2, 3, 4),
        (4, 2): ids.T,
        (8,): ids.flatten(),
        (24,): ids[:, :, None].expand(2, 4, 3).flatten(),
        (8, 3): ids.reshape(8, 1).expand(8, 3),
    }[lead].flatten()
    assert where.token_ids is not None
    assert where.token_ids.tolist() == of_rows[where.take(rows.reshape(-1, 1))[:, 0]].tolist()
    assert len(where.token_ids) == 8 * heads


def test_a_layer_without_positions_has_no_words() -> None:
    mask = torch.ones(2, 4, dtype=torch.bool)
    tokens = TokenMask(mask, mask, torch.zeros(2, 4, dtype=torch.long))
    assert align((2,), tokens, -1, torch.device("cpu")).token_ids is None
    assert align((2, 5), tokens, -1, torch.device("cpu")).token_ids is None


# Through models


def watched(model: nn.Module, *batches: dict[str, Any], words: bool | int = True) -> normscope.Report:
    with normscope.watch(model, words=words) as watcher, torch.no_grad():
        for batch in batches:
            model(**batch)
    return watcher.report()


def token_effect(report: normscope.Report, name: str) -> ExplainedByToken | None:
    explained = report.layers[name].explained
    assert explained is not None
    return explained.token


def rows_into(model: nn.Module, name: str, kept: Tensor, run: Any) -> Any:
    """The kept rows of what enters a layer, by a hook of our own."""
    inputs: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        run()
    handle.remove()
    return inputs[0][kept.bool()].double().numpy()


@pytest.mark.parametrize("most", [True, 4])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("build", "name"),
    [
        (models.gpt2, "transformer.h.1.ln_2"),
        (models.llama, "model.layers.1.input_layernorm"),
        (models.bert, "bert.encoder.layer.1.output.LayerNorm"),
    ],
)
def test_a_models_words_are_those_of_its_input(build: Any, name: str, side: str, most: bool | int) -> None:
    model, batch = build(), padded(side)
    batch["input_ids"] = torch.where(batch["input_ids"] > 12, 12 + batch["input_ids"] % 3, batch["input_ids"])
    mask = batch["attention_mask"].bool()
    x = rows_into(model, name, mask, lambda: model(**batch))
    kept = 10**6 if most is True else int(most)
    want = by_word(x, batch["input_ids"][mask].numpy(), kept)
    assert_is(token_effect(watched(model, batch, words=most), name), want, 2e-6)
    assert (want["coverage"] == 1) == (most is True)


def test_it_is_measured_only_when_it_is_asked_for() -> None:
    with Recorder(models.bert()) as recorder, torch.no_grad():
        recorder.model(**padded("right"))
    assert all(capture.state.moments and capture.state.moments.words is None for capture in recorder.captures)
    assert token_effect(recorder.report(), "bert.embeddings.LayerNorm") is None


def test_a_negative_number_of_words_is_refused() -> None:
    with pytest.raises(UsageError, match="words is -1"):
        normscope.watch(models.bert(), words=-1)


@pytest.mark.parametrize("given_mask", [True, False])
def test_encoder_and_decoder_have_each_their_own_words(given_mask: bool) -> None:
    model, source, target = t5(), mask_of(6, 2), mask_of(2, 6)
    generator = torch.Generator().manual_seed(0)
    ids = {part: torch.randint(1, 5, (2, 6), generator=generator) for part in ("encoder", "decoder")}
    inputs = {
        "input_ids": ids["encoder"],
        "attention_mask": source,
        "decoder_input_ids": ids["decoder"],
    }
    inputs |= {"decoder_attention_mask": target} if given_mask else {}
    masks = {"encoder": source, "decoder": target if given_mask else torch.ones_like(target)}
    report = watched(model, inputs)
    for part, mask in masks.items():
        name = f"{part}.block.0.layer.0.layer_norm"
        x = rows_into(model, name, mask, lambda: model(**inputs))
        assert_is(token_effect(report, name), by_word(x, ids[part][mask.bool()].numpy(), 99), 2e-6)


def test_embeddings_alone_have_no_words() -> None:
    model = models.bert()
    embeds = model.get_input_embeddings()(padded("right")["input_ids"])
    report = watched(model, {"inputs_embeds": embeds})
    assert token_effect(report, "bert.embeddings.LayerNorm") is None


def test_words_of_a_generation_are_those_of_its_steps() -> None:
    model, text = models.gpt2(), torch.tensor([[5, 6, 5, 7, 6]])
    steps = [text[:, :3], text[:, 3:]]
    # Releases of transformers differ in what they call the argument.
    name = next(n for n in ("cache", "past_key_values") if n in inspect.signature(model.forward).parameters)
    with normscope.watch(model, words=True) as watcher, torch.no_grad():
        first = model(input_ids=steps[0], use_cache=True)
        model(input_ids=steps[1], **{name: first.past_key_values})
    whole = token_effect(watched(model, {"input_ids": text}), "transformer.ln_f")
    parts = token_effect(watcher.report(), "transformer.ln_f")
    assert whole is not None
    assert_is(parts, vars(whole), 2e-6)


def test_words_of_heads_and_of_tokens_are_read_alike() -> None:
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(hidden_size=32, head_dim=8, num_key_value_heads=2, **SIZES)
    model, tokenizer = models.spread_norms(transformers.Gemma3ForCausalLM(config)), Lookup()
    texts = ["abca", "bb", "caab", "b"]
    reports = [
        normscope.inspect(
            model,
            texts,
            tokenizer=tokenizer,  # type: ignore[arg-type]
            batching=normscope.Batching(batch_size=size),
            words=True,
        )
        for size in (1, 4)
    ]
    for name in ("model.layers.0.self_attn.q_norm", "model.layers.0.input_layernorm"):
        one, four = (token_effect(report, name) for report in reports)
        assert one is not None
        assert_is(four, vars(one), 2e-6)
        assert one.coverage == 1
    embedded = token_effect(reports[0], "model.layers.0.input_layernorm")
    assert embedded is not None
    assert embedded.eta2 == pytest.approx(1)  # rotary positions: the word is all there is
    assert embedded.epsilon2 == pytest.approx(1)


def test_where_the_word_is_the_position_both_explain_the_same() -> None:
    ids = torch.arange(7).expand(5, 7) + 20
    mask = mask_of(7, 3, 5, 2, 6)
    model = models.bert().train()  # dropout, so that tokens differ
    report = watched(model, {"input_ids": ids, "attention_mask": mask})
    for layer in report.layers.values():
        assert layer.explained is not None
        position, token = layer.explained.position, layer.explained.token
        assert token is not None
        assert (token.eta2, token.epsilon2) == pytest.approx((position.eta2, position.epsilon2), abs=1e-6)
        assert token.eta2 < 0.999 or "embeddings" in layer.name  # which no dropout comes before


def test_special_tokens_that_are_left_out_are_no_words() -> None:
    model, tokenizer = models.demo()
    texts = models.prose(12)
    batching = normscope.Batching(special_tokens="exclude", max_length=32)
    report = normscope.inspect(model, texts, tokenizer=tokenizer, batching=batching, words=True)
    rows, words = [], []
    kept: list[Any] = []
    name = "encoder.layer.1.output.LayerNorm"
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: kept.append(args[0][0]))
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=32)
        with torch.no_grad():
            model(**inputs)
        rows.append(kept.pop()[1:-1].double().numpy())
        words.append(inputs["input_ids"][0, 1:-1].numpy())
    handle.remove()
    want = by_word(np.concatenate(rows), np.concatenate(words), 10**6)
    assert_is(token_effect(report, name), want, 1e-5)


def test_an_accumulator_leaves_out_rows_that_have_no_word() -> None:
    running, observer, norm = (
        Running(Accumulator(D, 0.0)),
        TokenIdentity(TokenRoom(1, 9)),
        find(nn.LayerNorm(D))[0],
    )
    mask = torch.ones(1, 4, dtype=torch.bool)
    x = torch.randn(4, D, dtype=torch.float64)
    for ids in (None, torch.tensor([[1, 2, 1, 2]])):
        where = align((1, 4), TokenMask(mask, mask, ids), -1, torch.device("cpu"))
        running.update(Rows.of(x), x, where)
        samples = Moments.by_group(x, where.sample)
        observer.observe(BatchRows(norm, Rows.of(x), x, samples, where), running.state)
    got = metrics.explained_by_token(running.read())
    assert_is(got, {**by_word(x.numpy(), np.array([1, 2, 1, 2]), 9), "coverage": 0.5}, 1e-12)
