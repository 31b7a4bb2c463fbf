"""The run loop: one batch after the other, until the end or a stop."""

from dataclasses import dataclass, field, replace

from normscope.capture.counters import Tally
from normscope.capture.recorder import Recorder
from normscope.capture.text_sample import TextSample
from normscope.data.batch import Batch
from normscope.data.batching import Batches
from normscope.data.corpus import Position, no_text, notes_on_texts
from normscope.data.media_batches import MediaBatches
from normscope.data.shards import Shard
from normscope.engine.checkpoint import Saver
from normscope.engine.few_texts import FewTexts
from normscope.engine.forward import Forward
from normscope.engine.progress import Clock
from normscope.engine.runner import Runner
from normscope.engine.stop import Stop
from normscope.errors import TextError
from normscope.results.common import LeftOut, RunInfo, TokenSelection

_INTERRUPTED = "the run was interrupted: the numbers cover the texts until then"


@dataclass(frozen=True)
class RunContext:
    """The context of a run: its checkpoints, early stop, sample of single texts, shard, and few texts."""

    saver: Saver = field(default_factory=Saver)
    stop: Stop = field(default_factory=Stop)
    sample: TextSample | None = None
    shard: Shard | None = None
    few: FewTexts = field(default_factory=FewTexts)


@dataclass(frozen=True)
class Loop:
    """Runs batches through a model under an open recorder, and returns the run's counts and notes."""

    recorder: Recorder
    forward: Forward
    clock: Clock
    context: RunContext

    def run_texts(self, batches: Batches) -> tuple[RunInfo, list[str]]:
        """Run batches of texts, from the checkpoint on if there is one.

        Raises TextError without any text, and KeyboardInterrupt for a stop before the first batch.
        """
        saved = self.context.saver.resume(self.recorder)
        if saved is not None:
            self.clock.earlier = saved.seconds
            batches.resume(saved.position)
        self._sample_inputs()
        runner = Runner(self.recorder, self.forward, self.context.sample)
        position = self._run_batches(runner, batches, Position() if saved is None else saved.position)
        run = run_info(self.recorder.tally, batches)
        if self.context.stop.asked:
            note = f"{_INTERRUPTED}, long texts first" if run.order == "length" else _INTERRUPTED
            run, last = self._save_interrupted(run, position), [note]
        else:
            last = self._notes_without_text(run)
        return run, [*runner.notes, *notes_on_texts(run), *last]

    def run_media(self, batches: MediaBatches) -> tuple[RunInfo, list[str]]:
        """Run batches of images or sounds; KeyboardInterrupt for a stop before the first one."""
        stop, sample = self.context.stop, self.context.sample
        self._sample_inputs()
        for batch in stop.until_asked(batches):
            if sample is not None:
                sample.choose(batches.sources)
            self.forward(batch)
            self.clock.show("run", batches.texts, self.recorder.run_info().tokens, batches.expected)
        if stop.asked and not batches.texts:
            raise KeyboardInterrupt
        kinds = self.forward.kinds
        run = replace(
            self.recorder.run_info(),
            texts=batches.texts,
            batch_size=batches.size,
            order="given",
            medium=kinds[0] if len(kinds) == 1 else "several",
        )
        return run, [_INTERRUPTED] if stop.asked else []

    def _sample_inputs(self) -> None:
        """Let every layer keep the statistics of single texts or samples, if the run samples them."""
        sample, captures = self.context.sample, self.recorder.captures
        if sample is not None:
            sample.fit(capture.norm.features for capture in captures)
            for capture in captures:
                capture.observers.append(sample.layer(capture.norm.name))

    def _run_batches(self, runner: Runner, batches: Batches, start: Position) -> Position:
        """Run all batches, or those until a stop is asked for; return the position after the last one."""
        saver, tally = self.context.saver, self.recorder.tally
        position, done = start, start.texts - len(start.pending)
        try:
            for batch in self.context.stop.until_asked(batches):
                _resize(batches, batch, runner.run(batch), runner)
                tally.unknown += batches.unknown_in(batch)
                tally.leave_out(batch.left_out)
                self.context.few.add(batch)
                position = batches.position()
                done += len(batch.sources)
                self.clock.show("run", done, tally.tokens, batches.expected)
                saver.save(self.recorder, position, self.clock.seconds())
        except TextError:  # Between two batches, so the counts are complete.
            if position is not start:
                saver.save(self.recorder, position, self.clock.seconds(), now=True)
            raise
        return position

    def _save_interrupted(self, run: RunInfo, position: Position) -> RunInfo:
        """Save an interrupted run and return its counts; KeyboardInterrupt before the first batch."""
        if not run.tokens:
            raise KeyboardInterrupt
        self.context.saver.save(self.recorder, position, self.clock.seconds(), now=True)
        return replace(
            run,
            texts=position.texts - len(position.pending),
            skipped_texts=position.skipped,
            truncated_texts=position.truncated - position.pending_truncated,
            repeated_texts=position.repeated - position.pending_repeated,
        )

    def _notes_without_text(self, run: RunInfo) -> list[str]:
        """Return a note if a shard holds no text; TextError if a whole corpus holds none."""
        if run.tokens:
            return []
        if self.context.shard is not None:
            return [f"shard {self.context.shard} holds no text: there are fewer texts than shards"]
        raise no_text(run.skipped_texts, selected=run.selection is not None)


def _resize(batches: Batches, batch: Batch, largest: int, runner: Runner) -> None:
    """Adapt the size of later batches, where at most `largest` slots of this batch ran at once."""
    if largest < batch.mask.numel():
        batches.size.shrink(len(batch.sources), batch.mask.numel())
    elif batches.size.tokens is not None and runner.has_room():
        batches.size.grow()


def run_info(tally: Tally, batches: Batches) -> RunInfo:
    """Return the counts and options of a run over these batches of texts."""
    options = batches.batching
    excluded, first, massive = batches.excluded, options.skip_first, options.drop_massive
    selection = None
    if excluded or first or massive or options.chat_template:
        roles = tuple(options.roles)
        selection = TokenSelection(excluded, first, massive, options.chat_template, roles)
    return replace(
        tally.run_info(),
        texts=batches.texts,
        skipped_texts=batches.skipped,
        truncated_texts=batches.truncated,
        max_length=batches.max_length,
        special_tokens=batches.batching.special_tokens,
        batch_size=batches.size.asked,
        batch_tokens=batches.size.tokens,
        order=batches.batching.order,
        unknown_tokens=tally.unknown,
        repeated_texts=batches.repeated,
        selection=selection,
        left_out=LeftOut(**tally.left_out) if selection or any(tally.left_out.values()) else None,
    )
