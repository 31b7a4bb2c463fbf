"""Resumed runs: the numbers of a run without interruption, or an error that names the difference."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import normalizers

import normscope
from normscope.data.batching import Batching
from normscope.engine.checkpoint import Checkpoint
from normscope.engine.progress import Progress
from normscope.engine.provenance import weights_digest
from normscope.engine.stop import Stop
from normscope.errors import NormscopeError, ReportError, TextError, UsageError
from normscope.models.loading import Loaded
from normscope.results.inspect import Report
from normscope.statistics import safetensors_file as saving
from normscope.statistics.digests import signed
from tests.data.test_batching import WORDS, encoder
from tests.support import models
from tests.support.reports_alike import OWN, furthest

TOKENIZER = encoder()
TEXTS = [
    " ".join(WORDS[5 + (i * 7 + j) % (len(WORDS) - 5)] for j in range(1 + i * 5 % 11)) for i in range(23)
]
TEXTS[4:4] = ["", " "]
SHORT = Batching(batch_size=4, max_length=9)


class StopAfter(Stop):
    """Stops a run after this many batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._left = batches

    def __call__(self, progress: Progress) -> None:
        self._left -= progress.stage == "run"
        if not self._left:
            self.ask()


def run(model: Any, checkpoint: Checkpoint | None = None, texts: Any = TEXTS, **options: Any) -> Report:
    given = {"batching": SHORT, "moments": True, **options}
    return normscope.inspect(model, iter(texts), tokenizer=TOKENIZER, checkpoint=checkpoint, **given)


def stopped(model: Any, path: Path, batches: int, *, resume: bool = False, **options: Any) -> Report:
    stop = StopAfter(batches)
    return run(model, Checkpoint(path, resume=resume), stop=stop, progress=stop, **options)


@pytest.fixture(scope="module")
def bert() -> Any:
    return models.bert(pad_token_id=0)


def albert() -> Any:
    import transformers

    torch.manual_seed(0)
    config = transformers.AlbertConfig(
        vocab_size=100, embedding_size=16, hidden_size=16, intermediate_size=24, num_attention_heads=2
    )
    return models.spread_norms(transformers.AlbertModel(config))


@pytest.mark.parametrize("order", ["length", "given"])
@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_run_that_goes_on_equals_one_that_never_stopped(
    bert: Any, tmp_path: Path, at: int, order: str
) -> None:
    batching = replace(SHORT, order=order)
    whole = run(bert, batching=batching)
    part = stopped(bert, tmp_path / "c", at, batching=batching)
    assert (part.run.batches, part.run.texts) == (at, min(4 * at, 23))
    lengths = [len(TOKENIZER(text)["input_ids"]) for text in TEXTS if text.strip()]
    if order == "length":
        lengths.sort(key=lambda length: min(length, 9), reverse=True)
    assert part.run.truncated_texts == sum(length > 9 for length in lengths[: 4 * at])
    assert part.run.skipped_texts == 2
    with safe_open(tmp_path / "c", framework="pt") as file:
        earlier = json.loads(file.metadata()["state"])["seconds"]
    assert part.warnings[-1].endswith("until then, long texts first" if order == "length" else "until then")
    resumed = run(bert, Checkpoint(tmp_path / "c", resume=True), batching=batching)
    assert furthest(whole.to_dict(), resumed.to_dict()) < 1e-12
    assert resumed.run.seconds > earlier > 0


@pytest.mark.parametrize("size", [1, 3, 7, "auto"])
def test_a_run_goes_on_with_other_batches(tmp_path: Path, size: Any) -> None:
    model = models.bert(pad_token_id=0).double()
    stopped(model, tmp_path / "c", 3)
    other = replace(SHORT, batch_size=size)
    resumed = run(model, Checkpoint(tmp_path / "c", resume=True), batching=other)
    assert furthest(run(model).to_dict(), resumed.to_dict(), (*OWN, "batch_tokens")) < 1e-9


def test_texts_that_break_off_leave_all_that_was_counted(bert: Any, tmp_path: Path) -> None:
    def broken() -> Iterator[str]:
        yield from (TEXTS * 30)[:600]
        raise TextError("the server is gone")

    checkpoint = Checkpoint(tmp_path / "c", every=3600.0)
    with pytest.raises(TextError, match="the server is gone"):
        run(bert, checkpoint, broken())
    with safe_open(tmp_path / "c", framework="pt") as file:
        counts = json.loads(file.metadata()["state"])["watcher"]["counts"]
    assert counts["batches"] == 128, "two windows of 64"
    resumed = run(bert, Checkpoint(tmp_path / "c", resume=True), TEXTS * 30)
    assert furthest(run(bert, texts=TEXTS * 30).to_dict(), resumed.to_dict()) < 1e-12


def test_a_run_in_many_pieces(bert: Any, tmp_path: Path) -> None:
    """Both save after every batch, so they split their sums at the same points: equal to the last bit."""
    whole = run(bert, Checkpoint(tmp_path / "whole", 0.0), words=True)
    for _ in range(5):
        stopped(bert, tmp_path / "c", 1, resume=True, words=True)
    pieces = run(bert, Checkpoint(tmp_path / "c", 0.0, resume=True), words=True)
    assert furthest(whole.to_dict(), pieces.to_dict()) == 0.0
    for name, state in whole.moments.layers.items():
        theirs = pieces.moments.layers[name].state_dict()
        ours = state.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("make", "options"),
    [(albert, {"per_call": True}), (models.llama, {"words": True}), (models.gpt2, {"layers": ["*ln_1"]})],
)
def test_other_models_go_on(make: Callable[[], Any], options: dict[str, Any], tmp_path: Path) -> None:
    model = make()
    stopped(model, tmp_path / "c", 2, **options)
    resumed = run(model, Checkpoint(tmp_path / "c", resume=True), **options)
    assert furthest(run(model, **options).to_dict(), resumed.to_dict()) < 1e-12


def test_a_run_that_was_saved_at_its_end(bert: Any, tmp_path: Path) -> None:
    """No batch comes after it, so the state of the layers comes from the checkpoint alone."""
    whole = run(bert, Checkpoint(tmp_path / "c", 0.0))
    again = run(bert, Checkpoint(tmp_path / "c", 0.0, resume=True))
    assert furthest(whole.to_dict(), again.to_dict()) == 0.0
    assert {layer.kind for layer in again.layers.values()} == {"layernorm"}


def test_notes_and_left_out_rows_go_on(bert: Any, tmp_path: Path) -> None:
    spoiled = models.bert(pad_token_id=0)
    with torch.no_grad():
        spoiled.bert.embeddings.word_embeddings.weight[7] = torch.nan
    whole = run(spoiled)
    assert any("NaN" in note for note in whole.warnings)
    stopped(spoiled, tmp_path / "c", 3)
    resumed = run(spoiled, Checkpoint(tmp_path / "c", resume=True))
    assert resumed.warnings == whole.warnings
    assert furthest(whole.to_dict(), resumed.to_dict()) < 1e-12


# What is refused


def other(model: Any) -> Any:
    with torch.no_grad():
        model.bert.encoder.layer[0].output.LayerNorm.weight[3] += 1e-6
    return model


def other_matrix(model: Any) -> Any:
    """Change one element of a matrix, which a digest of a few samples would miss."""
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[1, 1] += 1e-3
    return model


def cased() -> Any:
    """Return the tokenizer with another rule and the same vocabulary."""
    tokenizer = encoder()
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    return tokenizer


def eager() -> Any:
    model = models.bert(pad_token_id=0)
    model.set_attn_implementation("eager")
    return model


LOADED = Loaded(None, TOKENIZER, "one", "main", "c0ffee", ())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model", {"loaded": {"id": "another"}}),
        ("revision", {"loaded": {"revision": "v2"}}),
        ("commit", {"loaded": {"commit": "decaf"}}),
        ("architecture", {"model": lambda: models.bert(pad_token_id=0).bert}),
        ("dtype", {"model": lambda: models.bert(pad_token_id=0).double()}),
        ("parameters", {"model": lambda: models.bert(pad_token_id=0, intermediate_size=50)}),
        ("weights", {"model": lambda: other(models.bert(pad_token_id=0))}),
        ("weights", {"model": lambda: other_matrix(models.bert(pad_token_id=0))}),
        ("configuration", {"model": lambda: models.bert(pad_token_id=0, hidden_act="relu")}),
        ("attention", {"model": eager}),
        ("tokenizer", {"loaded": {"tokenizer": cased()}}),
        ("max length", {"batching": replace(SHORT, max_length=8)}),
        ("order", {"batching": replace(SHORT, order="given")}),
        ("special tokens", {"batching": replace(SHORT, special_tokens="exclude")}),
        ("limit", {"batching": replace(SHORT, limit=9)}),
        ("layers", {"layers": ["*embeddings*"]}),
        ("exclude", {"exclude": ["*embeddings*"]}),
        ("per call", {"per_call": True}),
        ("words", {"words": True}),
        ("curve", {"curve": True}),
        ("shard", {"shard": normscope.Shard(1, 2)}),
        ("field", {"facts": {"field": "comment"}}),
        ("field", {"facts": {}}),
        ("split", {"facts": {"field": "text", "split": "test"}}),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    bert: Any, saved: Path, name: str, change: dict[str, Any]
) -> None:
    before = saved.read_bytes()
    options = {key: value for key, value in change.items() if key not in ("loaded", "model", "facts")}
    loaded = replace(LOADED, model=change.get("model", lambda: bert)(), **change.get("loaded", {}))
    checkpoint = Checkpoint(saved, resume=True, facts=change.get("facts", {"field": "text"}))
    value = "(none|'(?!None').*')"
    with pytest.raises(UsageError, match=f" is of {name} {value}; expected {value}, as now; ") as caught:
        normscope.inspect(loaded, iter(TEXTS), checkpoint=checkpoint, **{"batching": SHORT, **options})
    assert "\n" not in str(caught.value)
    assert saved.read_bytes() == before


@pytest.fixture(scope="module")
def saved(bert: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "c"
    stop = StopAfter(2)
    checkpoint = Checkpoint(path, facts={"field": "text"})
    loaded = replace(LOADED, model=bert)
    normscope.inspect(loaded, iter(TEXTS), batching=SHORT, checkpoint=checkpoint, stop=stop, progress=stop)
    return path


def test_a_corpus_that_goes_on_is_refused(bert: Any, saved: Path) -> None:
    checkpoint = Checkpoint(saved, resume=True, facts={"field": "text"})
    with pytest.raises(TextError, match="the corpus goes on after 25 texts; expected its end"):
        normscope.inspect(
            replace(LOADED, model=bert), iter([*TEXTS, "", "cat"]), batching=SHORT, checkpoint=checkpoint
        )


@pytest.mark.parametrize(
    ("texts", "said"),
    [(TEXTS[:9], "the corpus ends after 9 texts"), ([*TEXTS[:-1], "cat"], "the corpus differs within")],
)
def test_a_corpus_that_changed_is_refused(bert: Any, saved: Path, texts: list[str], said: str) -> None:
    checkpoint = Checkpoint(saved, resume=True, facts={"field": "text"})
    with pytest.raises(TextError, match=said):
        normscope.inspect(replace(LOADED, model=bert), iter(texts), batching=SHORT, checkpoint=checkpoint)


Change = Callable[[dict[str, Any], dict[str, Any], dict[str, str]], object]


def changed(path: Path, change: Change, *, sign: bool = True) -> None:
    """Change a checkpoint and, with `sign`, also its digest."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors, state = load_file(path), json.loads(header["state"])
    change(tensors, state, header)
    header["state"] = json.dumps(state)
    save_file(tensors, path, signed(tensors, header) if sign else header)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, state, header: tensors.pop("1/table.co"),
        lambda tensors, state, header: tensors.update({"1/table.co": torch.zeros(3)}),
        lambda tensors, state, header: state.pop("position"),
        lambda tensors, state, header: state["position"].update(pending=[-1]),
        lambda tensors, state, header: state["watcher"]["layers"].pop(),
        lambda tensors, state, header: state["watcher"]["counts"].clear(),
        lambda tensors, state, header: header.update(schema="normscope.moments/1"),
    ],
)
def test_a_spoiled_checkpoint_is_one_line(bert: Any, saved: Path, tmp_path: Path, change: Any) -> None:
    path = tmp_path / "c"
    path.write_bytes(saved.read_bytes())
    changed(path, change)
    checkpoint = Checkpoint(path, resume=True, facts={"field": "text"})
    with pytest.raises(NormscopeError) as caught:
        normscope.inspect(replace(LOADED, model=bert), iter(TEXTS), batching=SHORT, checkpoint=checkpoint)
    assert "\n" not in str(caught.value)


def refused(model: Any, saved: Path, path: Path, change: Change, *, sign: bool) -> str:
    path.write_bytes(saved.read_bytes())
    changed(path, change, sign=sign)
    checkpoint = Checkpoint(path, resume=True, facts={"field": "text"})
    with pytest.raises(ReportError, match="is not a whole checkpoint") as caught:
        normscope.inspect(replace(LOADED, model=model), iter(TEXTS), batching=SHORT, checkpoint=checkpoint)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def norm_of(state: dict[str, Any]) -> dict[str, Any]:
    norm: dict[str, Any] = state["watcher"]["layers"][1]["captures"][0]["norm"]
    return norm


WRONG: dict[str, Change] = {
    "pending doubled": lambda _, state, header: state["position"]["pending"].append(
        state["position"]["pending"][0]
    ),
    "pending unread": lambda _, state, header: state["position"].update(pending=[10**6]),
    "texts": lambda _, state, header: state["position"].update(texts=3),
    "truncated": lambda _, state, header: state["position"].update(truncated=-1),
    "counts": lambda _, state, header: state["watcher"]["counts"].update(tokens=-5),
    "calls": lambda _, state, header: state["watcher"]["layers"][1]["captures"][0]["seen"].update(calls=-1),
    "axis": lambda _, state, header: norm_of(state).update(feature_axis=7),
    "kind": lambda _, state, header: norm_of(state).update(kind="nonsense"),
    "captures": lambda _, state, header: state["watcher"]["layers"][1]["captures"].extend(
        state["watcher"]["layers"][1]["captures"] * 10**3
    ),
    **{
        f"{features} features": lambda _, state, header, features=features: norm_of(state).update(
            features=features
        )  # type: ignore[misc]
        for features in (10**9, 10**15, -1, 0, 31)
    },
}


@pytest.mark.parametrize("what", WRONG)
def test_what_no_run_can_have_saved_is_refused(bert: Any, saved: Path, tmp_path: Path, what: str) -> None:
    """Even with a new digest, and before it takes memory."""
    assert "changed after it was written" not in refused(bert, saved, tmp_path / "c", WRONG[what], sign=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, state, header: state["position"]["pending"].pop(),
        lambda tensors, state, header: state["watcher"]["counts"].update(tokens=7),
        lambda tensors, state, header: tensors["1/table.x.mean"][0, 3].add_(1.0),
        lambda tensors, state, header: tensors.update({"1/table.x.m2": tensors["1/table.x.m2"].flip(0)}),
        lambda tensors, state, header: header.pop("sha256"),
        lambda tensors, state, header: header.update(normscope="0"),
    ],
)
def test_a_checkpoint_that_was_changed_is_refused(
    bert: Any, saved: Path, tmp_path: Path, change: Change
) -> None:
    assert "changed after it was written" in refused(bert, saved, tmp_path / "c", change, sign=False)


def test_every_fact_of_a_checkpoint_is_held_against_this_run(bert: Any, saved: Path, tmp_path: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        names = list(json.loads(file.metadata()["state"])["facts"])
    assert {"normscope", "weights", "tokenizer", "dtype", "table memory", "field"} < set(names)
    for name in names:
        path = tmp_path / "c"
        path.write_bytes(saved.read_bytes())
        changed(path, lambda tensors, state, header, name=name: state["facts"].update({name: "x"}))  # type: ignore[misc]
        checkpoint = Checkpoint(path, resume=True, facts={"field": "text"})
        with pytest.raises(UsageError, match=f" is of {name} 'x'; expected (none|')"):
            normscope.inspect(replace(LOADED, model=bert), iter(TEXTS), batching=SHORT, checkpoint=checkpoint)


@pytest.mark.parametrize("content", [b"", b"a text\n", b"\x08\0\0\0\0\0\0\0{}      "])
def test_what_is_no_checkpoint_is_left_alone(bert: Any, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="there is already a checkpoint"):
        Checkpoint(path)
    with pytest.raises(ReportError, match="is not a whole checkpoint"):
        run(bert, Checkpoint(path, resume=True))
    assert path.read_bytes() == content


@pytest.mark.parametrize("every", [-1.0, float("nan"), float("inf")])
def test_a_time_that_is_none(tmp_path: Path, every: float) -> None:
    with pytest.raises(UsageError, match="expected seconds, 0 or more"):
        Checkpoint(tmp_path / "c", every)


def test_media_have_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(UsageError, match="expected texts alone"):
        normscope.inspect("demo", images=[tmp_path / "a.png"], checkpoint=Checkpoint(tmp_path / "c"))


# What goes wrong


@pytest.fixture
def full_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """A function that allows only this many more files to be written."""
    real: Any = vars(saving)["save_file"]

    def set_left(left: int) -> None:
        counted = iter(range(left))

        def save(tensors: Any, target: Path, metadata: Any) -> None:
            if next(counted, None) is None:
                target.write_bytes(b"half")
                raise OSError(28, "No space left on device")
            real(tensors, target, metadata)

        monkeypatch.setattr(saving, "save_file", save)

    yield set_left
    monkeypatch.undo()


def test_a_full_disk_leaves_the_older_checkpoint_and_the_run_goes_on(
    bert: Any, tmp_path: Path, full_after: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "normscope")
    full_after(3)
    whole = run(bert, Checkpoint(tmp_path / "c", 0.0))
    assert furthest(run(bert).to_dict(), whole.to_dict()) < 1e-12
    warned = {record.getMessage() for record in caplog.records}
    assert len(caplog.records) > 1  # It was tried again.
    assert all("No space left on device" in line and "the run goes on" in line for line in warned)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    full_after(99)
    resumed = run(bert, Checkpoint(tmp_path / "c", resume=True))
    assert furthest(whole.to_dict(), resumed.to_dict()) < 1e-12


def test_without_any_checkpoint_a_full_disk_is_told(
    bert: Any, tmp_path: Path, full_after: Callable[[int], None]
) -> None:
    full_after(0)
    with pytest.raises(ReportError, match="No space left on device; name a writable file"):
        run(bert, Checkpoint(tmp_path / "c", 0.0))
    assert not [*tmp_path.iterdir()]


def test_it_is_saved_by_time(bert: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, saves = [0.0], [0]
    monkeypatch.setattr("normscope.engine.checkpoint.time.monotonic", lambda: now[0])
    real: Any = vars(saving)["save_file"]

    def save(*given: Any, **named: Any) -> None:
        saves[0] += 1
        real(*given, **named)

    monkeypatch.setattr(saving, "save_file", save)

    def tick(progress: Progress) -> None:
        now[0] += 25.0 if progress.stage == "run" else 0.0

    run(bert, Checkpoint(tmp_path / "c"), progress=tick)
    assert saves == [2]  # six batches, 150 seconds


def test_a_run_that_is_stopped_before_its_first_batch(bert: Any, tmp_path: Path) -> None:
    stop = Stop()
    stop.ask()
    with pytest.raises(KeyboardInterrupt):
        run(bert, Checkpoint(tmp_path / "c"), stop=stop)
    assert not (tmp_path / "c").exists()


def test_waiting_for_texts_ends_at_once(bert: Any, tmp_path: Path) -> None:
    stop = Stop()

    def texts() -> Iterator[str]:
        yield from TEXTS[:10]
        stop.ask()
        raise AssertionError("it went on waiting")

    batching = Batching(batch_size=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("normscope.data.batching._WINDOW_BATCHES", 2)
        report = run(bert, texts=texts(), stop=stop, batching=batching)
    assert (report.run.texts, report.run.skipped_texts) == (8, 2)


def test_weights_are_known_by_their_values(bert: Any) -> None:
    assert weights_digest(bert) == weights_digest(models.bert(pad_token_id=0))
    assert weights_digest(bert) != weights_digest(other(models.bert(pad_token_id=0)))


def test_weights_are_known_by_matrices_names_and_shapes() -> None:
    given = torch.randn(40, 30)
    known = [{"a": given}, {"a": given + 1e-6}, {"b": given}, {"a": given.T}, {"a": given.double()}]
    holders = [torch.nn.ParameterDict(each) for each in known]
    assert len({weights_digest(holder) for holder in holders}) == len(known)


def test_a_checkpoint_that_was_never_saved_is_removed_all_the_same(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "c").remove()
