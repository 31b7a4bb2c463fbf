"""Trials of replaced layers on held-out texts, each compared to the untouched model."""

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from typing import TypeVar

from torch import Tensor

from normscope.analyses.swap.calibration import MeasuredCalibration, measure_calibration
from normscope.analyses.swap.comparison import Reference, Sums, concatenate
from normscope.analyses.swap.effects import effect, mean_of, perplexity
from normscope.analyses.swap.fold_file import Fold
from normscope.analyses.swap.folding import CheckedFold, Run, check_fold, fold_readers
from normscope.analyses.swap.options import BATCH, Swapping
from normscope.analyses.swap.predictions import Answer, Question, Readout
from normscope.analyses.swap.prefix_cache import Prefix
from normscope.analyses.swap.swapped import Swap
from normscope.capture.counters import Tally
from normscope.data.batch import Batch
from normscope.data.batching import Batches
from normscope.data.held_out_split import SplitTexts
from normscope.engine.batch_splitting import BatchSplitter
from normscope.engine.forward import memory_errors
from normscope.engine.loop import run_info
from normscope.engine.progress import Clock
from normscope.engine.session import Session, text_batches
from normscope.errors import TextError
from normscope.results.swap import Baseline, Effect
from normscope.statistics.alignment import TokenMask
from normscope.statistics.bootstrap import resamples

# The bootstrap's resamples. They draw sums per text, so that many of them are cheap.
_DRAWS = 1000

# The names of layers that are replaced at the same time.
Variant = tuple[str, ...]
T = TypeVar("T")


def _joined(parts: Iterable[list[Sums]]) -> list[Sums]:
    """Concatenate the sums of consecutive parts, each with the same variants; an empty list is no part."""
    return [reduce(concatenate, sums) for sums in zip(*filter(None, parts), strict=True)]


class Work(Clock):
    """Reports the progress of all runs of the model together."""

    def redo(self, since: int) -> None:
        """Expect another run of the texts that were done after the first `since` texts."""
        if self.expected is not None:
            self.expected += self.texts - since


class Trial:
    """One model, its calibration, and the held-out batches on which its layers are replaced.

    `batches` are the batches of the calibration.
    """

    def __init__(
        self,
        session: Session,
        texts: SplitTexts,
        batches: Batches,
        swapping: Swapping,
        measured: MeasuredCalibration,
        work: Work,
    ) -> None:
        self._session, self._calibration_batches, self._work = session, batches, work
        loaded = session.loaded
        self.names: Variant = tuple(measured.calibration.layers)
        self.calibration = replace(measured.calibration, kind=swapping.kind, replaced=self.names)
        self.readout = Readout(loaded.model, loaded.tokenizer, swapping.seed)
        patterns = [glob.escape(name) for name in self.names]
        self._swap = Swap(loaded.model, swapping.kind, measured.calibration, patterns, first=swapping.first)
        self._prefix = Prefix(loaded.model, self._swap.modules)
        source = text_batches(loaded, texts.held_out, batches.batching)
        self._batches = list(source)
        if not self._batches:
            raise TextError("no held-out text has a token to count; expected at least one; give other texts")
        tally = Tally()
        for batch in self._batches:
            tally.add(TokenMask(batch.mask, batch.valid))
            tally.unknown += source.unknown_in(batch)
            tally.leave_out(batch.left_out)
        self.run = replace(run_info(tally, source), skipped_texts=source.skipped + texts.skipped)
        self.parts = BatchSplitter(self.readout.device, "it and later ones were run in parts")
        self.parts.hear(measured.report.warnings)
        self._weights = resamples(self.run.texts, swapping.seed, _DRAWS)

    def effects(self, variants: Sequence[Variant]) -> list[Effect]:
        """Measure all variants on one batch after the other: the untouched model runs once for them all."""
        totals: list[Sums] = []
        for batch in self._batches:
            totals = _joined([totals, self._compare(batch, variants)])
        self._prefix.clear()
        self._own, *others = totals
        return [effect(self._own, other, self._weights) for other in others]

    def baseline(self) -> Baseline:
        """Return the loss of the untouched model; to be called after `effects`."""
        loss = mean_of(self._own, "loss", self._own, self._weights)
        return Baseline(self.readout.head, int(self._own["targets"].sum()), loss, perplexity(loss))

    def _compare(self, batch: Batch, variants: Sequence[Variant]) -> list[Sums]:
        """Return the untouched model's sums over a batch, then those of each variant."""

        def work(parts: list[Batch]) -> list[Sums]:
            if self._swap.kind == BATCH and len(parts) > 1:
                return self._compare_whole_batch(parts, variants)
            return _joined(self._compare_part(part, variants) for part in parts)

        return self._in_parts(batch, work)

    def _compare_part(self, part: Batch, variants: Sequence[Variant]) -> list[Sums]:
        question = self._ask(part)
        with self._prefix.recording():
            own = self._answer(question)
        self._prefix.check(lambda: self.readout.read(question).equals(own))
        reference = Reference(own, question)
        sums = [reference.sums]
        for variant in variants:
            with self._swap.replacing(variant), self._prefix.replaying(variant):
                sums.append(reference.compare(self._answer(question)))
        return sums

    def _compare_whole_batch(self, parts: Sequence[Batch], variants: Sequence[Variant]) -> list[Sums]:
        """Compare the parts of a batch whose layers use batch statistics: all parts run again per variant."""
        questions = [self._ask(part) for part in parts]
        references = [Reference(self._answer(question), question) for question in questions]
        runs = [lambda part=part: self._answer(self._ask(part)) for part in parts]
        sums = [reduce(concatenate, (reference.sums for reference in references))]
        for variant in variants:
            answers = self._swap.replace_in_parts(variant, runs)
            sums.append(reduce(concatenate, map(Reference.compare, references, answers)))
        return sums

    def _ask(self, batch: Batch) -> Question:
        self._swap.mask, self._swap.decoder_mask = batch.valid, batch.decoder_valid
        question = self.readout.ask(batch)
        self.readout.prepare(question)
        return question

    def _in_parts(self, batch: Batch, work: Callable[[list[Batch]], T]) -> T:
        """Do some work on a batch or, without enough memory, on parts of it; a failed attempt is redone."""
        done = self._work.texts

        def attempt(parts: list[Batch]) -> T:
            nonlocal done
            self._work.redo(done)
            done = self._work.texts
            with memory_errors():
                return work(parts)

        return self.parts.work(batch, attempt)

    def _answer(self, question: Question) -> Answer:
        return self._counted(question, self.readout.read)

    def _counted(self, question: Question, read: Callable[[Question], T]) -> T:
        answer = read(question)
        self._work.finish(len(question.valid), int(question.valid.sum()))
        self._work.show("run")
        return answer

    def fold(self) -> CheckedFold:
        """Fold the layers that can be folded, with the current statistics, and check it on held-out texts."""
        smallest = min(self._batches, key=lambda batch: batch.mask.numel())
        unchecked = self.parts.work(smallest, self._fold_readers)
        if self._work.expected is not None and unchecked.layers:
            # Two runs for each layer and one of the untouched model; the same for all together; two for
            # their effect.
            self._work.expected += (2 * len(unchecked.layers) + 1 + 3 + 2) * self.run.texts
        return check_fold(self._swap, unchecked, self._run_batches)

    def _fold_readers(self, parts: Sequence[Batch]) -> Fold:
        question = self.readout.ask(parts[0])
        return fold_readers(self._swap, self._session.loaded.id, lambda: self.readout.output(question))

    def _run_batches(self, work: Callable[[Run], list[Tensor]]) -> Iterator[list[Tensor]]:
        for batch in self._batches:
            yield from self._in_parts(batch, lambda parts: [work(self._recorded_run(part)) for part in parts])
        self._prefix.clear()

    def _recorded_run(self, batch: Batch) -> Run:
        """Run the untouched model on a batch, and return the function that runs it again with replays."""
        question = self.readout.ask(batch)
        with self._prefix.recording():
            self._counted(question, self.readout.output_tensors)

        def run(names: Sequence[str]) -> list[Tensor]:
            with self._prefix.replaying(names):
                return self._counted(question, self.readout.output_tensors)

        return run

    def recalibrate_in(self, order: Variant) -> Iterator[Variant]:
        """Yield an order's first layer, first two, ...: each is calibrated with the earlier ones replaced."""
        for count, name in enumerate(order):
            with self._swap.replacing(order[:count]):
                only = [glob.escape(name)]
                measured = measure_calibration(
                    self._session, self._calibration_batches, only, kind=self._swap.kind
                )
            self.parts.hear(measured.report.warnings)
            statistics = measured.calibration.layers[name]
            self._swap.recalibrate(name, statistics)
            self.calibration = self.calibration.with_layer(name, statistics)
            yield order[: count + 1]
