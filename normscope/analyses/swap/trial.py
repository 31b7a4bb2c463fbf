"""Trials of replaced layers on held-out texts, each beside the untouched model."""

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from normscope.analyses.swap.calibrate import Calibrated, calibrated
from normscope.analyses.swap.effects import EffectSums, effect, loss_of, perplexity
from normscope.analyses.swap.fold_file import Fold
from normscope.analyses.swap.folding import Proven, Run, foldable, proven
from normscope.analyses.swap.options import BATCH, Swapping
from normscope.analyses.swap.predictions import Answer, Question, Readout
from normscope.analyses.swap.prefix_cache import Prefix
from normscope.analyses.swap.swapped import Swap
from normscope.capture.counters import Tally
from normscope.data.batching import Batch, Batches
from normscope.data.held_out_split import SplitTexts
from normscope.engine.batch_splitting import BatchSplitter
from normscope.engine.loop import run_info, text_batches
from normscope.engine.progress import Clock, Progress
from normscope.engine.runner import decoder_valid
from normscope.errors import OutOfMemoryError, RunError, TextError
from normscope.models.loading import Loaded
from normscope.results.swap import Baseline, Effect
from normscope.statistics.alignment import TokenMask
from normscope.statistics.bootstrap import resamples

# The bootstrap's draws: texts are summed up before, so that many cost little.
_DRAWS = 1000

# The layers that are replaced at once, by name.
Variant = tuple[str, ...]
T = TypeVar("T")


class Work(Clock):
    """Reports the progress of all runs of the model together: `texts` counts each text once per run."""

    def __init__(self, progress: Callable[[Progress], None] | None) -> None:
        super().__init__(progress)
        self.expected: int | None = None
        self._texts = self._tokens = 0

    def finish(self, texts: int, tokens: int) -> None:
        """Count a run, or a part of one, as done."""
        self._texts += texts
        self._tokens += tokens

    def again(self, since: int) -> None:
        """Expect again the texts that were done after the first `since` texts."""
        if self.expected is not None:
            self.expected += self._texts - since

    @property
    def texts(self) -> int:
        """How many texts are done."""
        return self._texts

    def show(self, stage: str, texts: int = 0, tokens: int = 0, expected: int | None = None) -> None:
        """Call the caller's function; what is `expected` of one run is used where no more is known."""
        super().show(stage, self._texts + texts, self._tokens + tokens, self.expected or expected)


class Trial:
    """One model, its calibration, and the held-out batches on which its layers are replaced.

    `batches` are those it was calibrated on.
    """

    def __init__(
        self,
        loaded: Loaded,
        texts: SplitTexts,
        batches: Batches,
        swapping: Swapping,
        known: Calibrated,
        work: Work,
    ) -> None:
        self._loaded, self._known, self._batching, self._work = loaded, batches, batches.batching, work
        self.names: Variant = tuple(known.calibration.layers)
        self.calibration = replace(known.calibration, kind=swapping.kind, replaced=self.names)
        self.readout = Readout(loaded.model, loaded.tokenizer, self._batching, swapping.seed)
        self._swap = Swap(loaded.model, swapping.kind, known.calibration, list(map(glob.escape, self.names)))
        self._prefix = Prefix(loaded.model, self._swap.modules)
        self._replays: bool | None = None
        source = text_batches(loaded, texts.held_out, self._batching)
        self._batches = list(source)
        if not self._batches:
            raise TextError("no held-out text has a token to count; expected at least one; give other texts")
        tally = Tally()
        for batch in self._batches:
            tally.add(TokenMask(batch.mask, batch.valid))
            tally.unknown += source.unknown_in(batch)
        self.run = replace(run_info(tally, source), skipped_texts=source.skipped + texts.skipped)
        self.parts = BatchSplitter(self.readout.device, "it and later ones were run in parts")
        self.parts.hear(known.report.warnings)
        self._weights = resamples(self.run.texts, swapping.seed, _DRAWS)

    def effects(self, variants: Sequence[Variant]) -> list[Effect]:
        """Measure variants side by side, so that the untouched model runs once for all of them."""
        return [effect(comparison.sums(), self._weights) for comparison in self._compared(variants)]

    def baseline(self) -> Baseline:
        """Return what the untouched model predicts; after `effects`."""
        loss = loss_of(self._own, "own_loss", self._weights)
        targets = int(self._own["targets"].sum()) if loss is not None else 0
        return Baseline(self.readout.head, targets, loss, perplexity(loss))

    def _compared(self, variants: Sequence[Variant]) -> list[EffectSums]:
        comparisons = [EffectSums() for _ in variants]
        for batch in self._batches:
            for comparison, new in zip(comparisons, self._beside(batch, variants), strict=True):
                comparison.merge(new)
        self._prefix.clear()
        self._own = comparisons[0].sums()
        return comparisons

    def _beside(self, batch: Batch, variants: Sequence[Variant]) -> list[EffectSums]:
        def work(parts: list[Batch]) -> list[EffectSums]:
            found = [EffectSums() for _ in variants]
            if self._swap.kind == BATCH and len(parts) > 1:
                self._add_batch(parts, variants, found)
            else:
                for part in parts:
                    self._add(part, variants, found)
            return found

        return self._in_parts(batch, work)

    def _add(self, batch: Batch, variants: Sequence[Variant], found: Sequence[EffectSums]) -> None:
        question = self._ask(batch)
        with self._prefix.recording():
            own = self._answer(question)
        if self._replays is None:
            self._replays = self._is_replayed(question, own)
        for variant, comparison in zip(variants, found, strict=True):
            with self._swap.replacing(variant), self._prefix.replaying(variant if self._replays else ()):
                comparison.add(own, self._answer(question), question)

    def _add_batch(
        self, parts: Sequence[Batch], variants: Sequence[Variant], found: Sequence[EffectSums]
    ) -> None:
        """Add the parts of a batch whose layers use batch statistics: all parts run again per variant."""
        questions = [self.readout.ask(part) for part in parts]
        own = [self._answer(question) for question in questions]
        runs = [lambda part=part: self._answer(self._ask(part)) for part in parts]
        for variant, comparison in zip(variants, found, strict=True):
            for each in zip(own, self._swap.together(variant, runs), questions, strict=True):
                comparison.add(*each)

    def _ask(self, batch: Batch) -> Question:
        self._swap.mask, self._swap.decoder_mask = batch.valid, decoder_valid(batch, self._batching)
        return self.readout.ask(batch)

    def _in_parts(self, batch: Batch, work: Callable[[list[Batch]], T]) -> T:
        """Do some work on a batch, or on parts of it; texts of a failed attempt are expected again."""
        begun = self._work.texts

        def tried(parts: list[Batch]) -> T:
            nonlocal begun
            self._work.again(begun)
            begun = self._work.texts
            return work(parts)

        return self.parts.work(batch, tried)

    def _is_replayed(self, question: Question, own: Answer) -> bool:
        """Whether the output is bit-identical when as many blocks as possible replay their records."""
        try:
            with self._prefix.replaying([self._prefix.last]):
                again = self.readout.read(question)
        except OutOfMemoryError:
            raise
        except RunError:
            return False
        hidden = torch.equal(again.hidden, own.hidden)
        return hidden and (
            own.logits is None or (again.logits is not None and torch.equal(again.logits, own.logits))
        )

    def _answer(self, question: Question) -> Answer:
        return self._counted(question, self.readout.read)

    def _counted(self, question: Question, read: Callable[[Question], T]) -> T:
        answer = read(question)
        self._work.finish(len(question.valid), int(question.valid.sum()))
        self._work.show("run")
        return answer

    def folded(self) -> Proven:
        """Fold the layers that can be folded, with the current statistics, and check it on held-out texts."""
        least = min(self._batches, key=lambda batch: batch.mask.numel())
        made = self.parts.work(least, self._foldable)
        if self._work.expected is not None:
            # The untouched model runs for the layers alone, for all together, and for their effect.
            runs = 2 * len(made.layers) + 1 + 3 + 2
            self._work.expected += runs * self.run.texts if made.layers else 0
        return proven(self._swap, made, self._runs)

    def _foldable(self, parts: Sequence[Batch]) -> Fold:
        question = self.readout.ask(parts[0])
        return foldable(self._swap, self._loaded.id, lambda: self.readout.output(question))

    def _runs(self, work: Callable[[Run], T]) -> Iterator[T]:
        for batch in self._batches:
            yield from self._in_parts(batch, lambda parts: [work(self._recorded(part)) for part in parts])
        self._prefix.clear()

    def _recorded(self, batch: Batch) -> Run:
        question = self.readout.ask(batch)
        with self._prefix.recording():
            self._counted(question, self.readout.returned)

        def run(names: Sequence[str]) -> list[Tensor]:
            with self._prefix.replaying(names if self._replays else ()):
                return self._counted(question, self.readout.returned)

        return run

    def growing(self, order: Variant) -> Iterator[Variant]:
        """Yield an order's first layer, first two, ...: each is calibrated with the earlier ones replaced."""
        for count, name in enumerate(order):
            with self._swap.replacing(order[:count]):
                known = calibrated(self._loaded, self._known, self._work, [glob.escape(name)])
            self._work.finish(known.report.run.texts, known.report.run.tokens)
            self.parts.hear(known.report.warnings)
            self._swap.recalibrate(name, known.calibration.layers[name])
            self.calibration = self.calibration.with_layer(name, known.calibration.layers[name])
            yield order[: count + 1]
