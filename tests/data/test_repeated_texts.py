"""Unknown tokens and repeated texts: counted, noted from 5% on, and left out with `unique`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import normscope
from normscope import Batching, Checkpoint, Report, Stop
from normscope.data import repeated_texts as repeats
from normscope.data.corpus import notes_on_texts
from normscope.data.held_out_split import split_texts
from normscope.data.media_files import Inputs
from normscope.data.repeated_texts import Repeats, Unique
from normscope.data.sample_sentences import SENTENCES, readable
from normscope.data.shards import Shard
from normscope.data.tokenization import unknown_id
from normscope.errors import UsageError
from tests.data.test_batching import decoder, encoder
from tests.support import models, reports
from tests.support.command import ended
from tests.support.reports_alike import OWN, furthest

UNKNOWN = 1
TOKENIZER = encoder()
TEXTS = [
    *("alpha beta", "gamma", "alpha zzz", "", "alpha beta", "zzz", "gamma delta alpha beta gamma delta"),
    *("gamma", "  ", "gamma ", "yyy alpha", "alpha beta", "", "delta", "a b c d e f zzz"),
]


@pytest.fixture(scope="module")
def model() -> Any:
    return models.bert(pad_token_id=0)


def inspected(model: Any, texts: list[str] = TEXTS, **options: Any) -> Report:
    batching = options.pop("batching", Batching(3, 6))
    return normscope.inspect(model, texts, tokenizer=TOKENIZER, batching=batching, **options)


def counts(texts: list[str]) -> tuple[int, int]:
    """Count unknown tokens and repeated texts plainly, one text at a time."""
    unknown, repeated, seen = 0, 0, []
    for text in texts:
        if text.strip():
            ids = TOKENIZER(text, truncation=True, max_length=6)["input_ids"]
            unknown += sum(token == UNKNOWN for token in ids)
            repeated += text in seen
            seen.append(text)
    return unknown, repeated


def said(report: Report) -> list[str]:
    return [w for w in report.warnings if "unknown token" in w or "repeat an earlier one" in w]


@pytest.mark.parametrize("batching", [Batching(1, 6), Batching(4, 6, "given"), Batching("auto", 6)])
@pytest.mark.parametrize("special", ["include", "exclude"])
def test_they_are_counted_as_a_plain_count_has_them(model: Any, batching: Batching, special: str) -> None:
    run = inspected(model, batching=replace(batching, special_tokens=special)).run
    assert (run.unknown_tokens, run.repeated_texts) == counts(TEXTS)
    assert counts(TEXTS) == (3, 3)


@pytest.mark.parametrize("order", ["given", "length"])
def test_an_interrupted_run_counts_what_it_has_seen(model: Any, tmp_path: Path, order: str) -> None:
    batching, stop = Batching(3, 6, order), Stop()
    kept = Checkpoint(tmp_path / "c")

    def ask(now: Any) -> None:
        if now.stage == "run":
            stop.ask()

    places = [i for i, text in enumerate(TEXTS) if text.strip()]
    by_length = sorted(places, key=lambda i: -min(6, len(TOKENIZER(TEXTS[i])["input_ids"])))
    first = (by_length if order == "length" else places)[:3]
    early = inspected(model, batching=batching, checkpoint=kept, stop=stop, progress=ask).run
    unknown = sum(counts([TEXTS[i]])[0] for i in first)
    repeated = sum(TEXTS[i] in TEXTS[:i] for i in first)
    assert (early.texts, early.unknown_tokens, early.repeated_texts) == (3, unknown, repeated)
    resumed = inspected(model, batching=batching, checkpoint=Checkpoint(tmp_path / "c", resume=True))
    assert (resumed.run.unknown_tokens, resumed.run.repeated_texts) == counts(TEXTS)


def test_they_add_up_over_parts(model: Any) -> None:
    parts = [inspected(model, TEXTS[cut], moments=True) for cut in (slice(5), slice(5, None))]
    whole = normscope.merge(parts)
    sums = [sum(pair) for pair in zip(counts(TEXTS[:5]), counts(TEXTS[5:]), strict=True)]
    assert [whole.run.unknown_tokens, whole.run.repeated_texts] == sums
    assert said(whole) == notes_on_texts(whole.run)
    assert len(said(whole)) == 2
    older = replace(parts[0], run=replace(parts[0].run, unknown_tokens=None, repeated_texts=None))
    run = normscope.merge([older, parts[1]]).run
    assert (run.unknown_tokens, run.repeated_texts) == (None, None)


@pytest.mark.parametrize(("unknown", "repeated", "shown"), [(49, 4, []), (50, 5, ["5.0%", "5.0%"])])
def test_they_are_said_from_a_twentieth_on(unknown: int, repeated: int, shown: list[str]) -> None:
    run = replace(
        reports.minilm().run, texts=100, tokens=1000, unknown_tokens=unknown, repeated_texts=repeated
    )
    assert [note.partition(" ")[0] for note in notes_on_texts(run)] == shown
    assert notes_on_texts(replace(run, unknown_tokens=None, repeated_texts=None)) == []


def test_batches_and_swap_say_so_too_and_why_leaves_repeats_out(model: Any) -> None:
    options: dict[str, Any] = {"tokenizer": TOKENIZER, "batching": Batching(3, 6)}
    report = normscope.batch_noise(model, TEXTS, **options)
    assert [note for note in report.warnings if note in notes_on_texts(report.run)] == said(inspected(model))
    assert len(notes_on_texts(report.run)) == 2
    why = normscope.why(model, TEXTS, **options)
    assert (why.run.texts, why.run.repeated_texts) == (9, 0)
    assert any("that repeat an earlier one exactly were left out" in note for note in why.warnings)
    swapped = normscope.swap(model, TEXTS, **options)
    held_out = split_texts(TEXTS, None, None).held_out
    assert (swapped.run.unknown_tokens, swapped.run.repeated_texts) == counts(held_out)


def test_a_watcher_does_not_know_them(model: Any) -> None:
    with normscope.watch(model) as watcher:
        model(**TOKENIZER(["alpha zzz"], return_tensors="pt"))
    run = watcher.report().run
    assert (run.unknown_tokens, run.repeated_texts) == (None, None)


def test_a_token_that_has_another_purpose_is_not_unknown() -> None:
    """GPT-2's unknown token is its end-of-text token, and it reads everything."""
    tokenizer = decoder("$A </s>")
    tokenizer.unk_token = "</s>"
    assert tokenizer.unk_token_id is not None
    assert unknown_id(tokenizer) is None
    assert unknown_id(TOKENIZER) == UNKNOWN


# The built-in sentences


def test_the_built_in_sentences_are_those_that_a_tokenizer_reads() -> None:
    _, minilm = models.demo()
    chosen = readable(minilm)
    assert [text for text in SENTENCES if text.isascii()] == list(chosen)
    assert readable(decoder()) == SENTENCES
    assert readable(TOKENIZER) == SENTENCES, "of which it reads none"


# Without repeats


@pytest.mark.parametrize("command", ["inspect", "batches", "why", "swap"])
def test_the_commands_leave_repeats_out(command: str, tmp_path: Path) -> None:
    texts, file = models.prose(10), tmp_path / "twice.txt"
    file.write_text("\n".join([*texts, *texts[:4]]), encoding="utf-8")
    shown = {}
    for more in ([], ["--unique"]):
        result = ended([command, "demo", "-f", file, "--json", "--layer", "*.5.*", *more])
        assert result.exit_code == 0
        shown[bool(more)] = json.loads(result.stdout), result.stderr
    (_, warned), (once, silent) = shown[False], shown[True]
    left_out = "4 texts that repeat an earlier one exactly were left out"
    assert (left_out if command == "why" else "28.6% of the texts repeat an earlier one exactly") in warned
    assert "repeat an earlier" not in silent
    assert once["run"]["texts"] == (5 if command == "swap" else 10)


def test_unique_texts_are_those_of_a_plain_list(model: Any) -> None:
    once = list(dict.fromkeys(TEXTS))
    unique = inspected(model, batching=Batching(3, 6, unique=True))
    plain = inspected(model, once)
    assert furthest(unique.to_dict(), plain.to_dict(), (*OWN, "skipped_texts")) < 1e-12
    assert (unique.run.texts, unique.run.skipped_texts, unique.run.repeated_texts) == (9, 6, 0)
    assert inspected(model, batching=Batching(3, 6, limit=4, unique=True)).run.texts == 4
    with pytest.raises(UsageError, match="unique was asked for with images"):
        normscope.inspect(model, images=[__file__], processor=object(), batching=Batching(unique=True))


def test_shards_hold_each_different_text_once() -> None:
    shard_texts = [list(Shard(i, 2).of(Inputs(TEXTS), None, unique=True).texts or ()) for i in (1, 2)]
    once = [text for text in dict.fromkeys(TEXTS) if text.strip()]
    assert [[text for text in part if text.strip()] for part in shard_texts] == [once[::2], once[1::2]]
    assert sum(map(len, shard_texts)) == len(TEXTS)


def test_swap_parts_different_texts() -> None:
    parted = split_texts([*"abacadbe"], None, None, unique=True)
    assert (parted.calibration, parted.held_out, parted.repeated) == ([*"ace"], [*"bd"], 0)
    parted = split_texts([*"abab"], [*"bbc"], None, unique=True)
    assert (parted.calibration, parted.held_out, parted.repeated) == ([*"bc"], ["a"], 1)


@given(st.lists(st.text(max_size=2)))
def test_repeats_are_those_of_a_set(texts: list[str]) -> None:
    seen: set[str] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeats, "MAX_UNSORTED", 3)
        earlier = Repeats()
        for text in texts:
            assert earlier.seen(text) == (text in seen)
            seen.add(text)
        assert list(Unique(texts)) == [t if t not in texts[:i] else "" for i, t in enumerate(texts)]


def test_no_more_digests_are_kept_than_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MAX_UNSORTED", 4)
    monkeypatch.setattr(repeats, "MAX_DIGESTS", 10)
    earlier = Repeats()
    assert not any(earlier.seen(str(number)) for number in range(50))
    assert sum(earlier.seen(str(number)) for number in range(50)) == 10
