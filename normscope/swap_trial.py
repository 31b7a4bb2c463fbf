"""Layers replaced on held-out texts: one model, many variants of it, each beside the untouched one."""

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from normscope.alignment import TokenMask
from normscope.batches import Batches, Batching, length_limit
from normscope.bootstrap import resamples
from normscope.calibration_scan import Calibrated, calibrated
from normscope.effects import Comparison, effect, loss_of, perplexity
from normscope.errors import RunError, TextError
from normscope.held_out import Parted
from normscope.loading import Loaded
from normscope.prefix import Prefix
from normscope.readout import Answer, Question, Readout
from normscope.runner import decoder_valid
from normscope.scan import Clock, Progress, run_info
from normscope.swap_plan import Swapping
from normscope.swap_report import Baseline, Effect
from normscope.swapping import Swap
from normscope.tally import Tally

# The bootstrap's draws: texts are summed up before, so that many cost little.
DRAWS = 1000

# The layers that are replaced at once, by name.
Variant = tuple[str, ...]


class Work(Clock):
    """Tells a caller how far all runs of the model together are: `texts` counts each text once a run."""

    def __init__(self, progress: Callable[[Progress], None] | None) -> None:
        super().__init__(progress)
        self.expected: int | None = None
        self._texts = self._tokens = 0

    def finish(self, texts: int, tokens: int) -> None:
        """Count a run, or a part of one, as done."""
        self._texts += texts
        self._tokens += tokens

    def show(self, stage: str, texts: int = 0, tokens: int = 0, expected: int | None = None) -> None:
        """Call the caller's function; what is `expected` of one run is used where no more is known."""
        super().show(stage, self._texts + texts, self._tokens + tokens, self.expected or expected)


class Trial:
    """One model, its calibration, and the held-out batches on which its layers are replaced."""

    def __init__(
        self,
        loaded: Loaded,
        texts: Parted,
        batching: Batching,
        swapping: Swapping,
        known: Calibrated,
        work: Work,
    ) -> None:
        self._loaded, self._texts, self._batching, self._work = loaded, texts, batching, work
        self.names: Variant = tuple(known.calibration.layers)
        self.calibration = replace(known.calibration, kind=swapping.kind, replaced=self.names)
        self.readout = Readout(loaded.model, loaded.tokenizer, batching, swapping.seed)
        self._swap = Swap(loaded.model, swapping.kind, known.calibration, list(map(glob.escape, self.names)))
        self._prefix = Prefix(loaded.model, self._swap.modules)
        self._replays: bool | None = None
        tokenizer: Any = loaded.tokenizer
        limit = length_limit(tokenizer, getattr(loaded.model, "config", None))
        source = Batches(texts.held_out, tokenizer, batching, max_length=limit)
        self._batches = list(source)
        if not self._batches:
            raise TextError("no held-out text has a token to count; expected at least one; give other texts")
        tally = Tally()
        for batch in self._batches:
            tally.add(TokenMask(batch.mask, batch.valid))
        self.run = replace(run_info(tally, source, batching), skipped_texts=source.skipped + texts.skipped)
        self._weights = resamples(self.run.texts, swapping.seed, DRAWS)

    def effects(self, variants: Sequence[Variant]) -> list[Effect]:
        """Measure variants side by side, so that the untouched model runs once for all of them."""
        return [effect(comparison.sums(), self._weights) for comparison in self._compared(variants)]

    def baseline(self) -> Baseline:
        """Return what the untouched model predicts; after `effects`."""
        loss = loss_of(self._own, "own_loss", self._weights)
        targets = int(self._own["targets"].sum()) if loss is not None else 0
        return Baseline(self.readout.head, targets, loss, perplexity(loss))

    def _compared(self, variants: Sequence[Variant]) -> list[Comparison]:
        comparisons = [Comparison() for _ in variants]
        for batch in self._batches:
            question = self.readout.ask(batch)
            self._swap.mask, self._swap.decoder_mask = batch.valid, decoder_valid(batch, self._batching)
            with self._prefix.recording():
                own = self._answer(question)
            if self._replays is None:
                self._replays = self._is_replayed(question, own)
            for variant, comparison in zip(variants, comparisons, strict=True):
                with self._swap.replacing(variant), self._prefix.replaying(variant if self._replays else ()):
                    comparison.add(own, self._answer(question), question)
        self._prefix.clear()
        self._own = comparisons[0].sums()
        return comparisons

    def _is_replayed(self, question: Question, own: Answer) -> bool:
        """Whether the model gives the same, bit by bit, when as many blocks as can be give what they gave."""
        try:
            with self._prefix.replaying([self._prefix.last]):
                again = self.readout.read(question)
        except RunError:
            return False
        hidden = torch.equal(again.hidden, own.hidden)
        return hidden and (
            own.logits is None or (again.logits is not None and torch.equal(again.logits, own.logits))
        )

    def _answer(self, question: Question) -> Answer:
        answer = self.readout.read(question)
        self._work.finish(len(question.valid), int(question.valid.sum()))
        self._work.show("run")
        return answer

    def growing(self, order: Variant) -> Iterator[Variant]:
        """Give an order's first layer, first two, ...: each is calibrated with those before in place."""
        for count, name in enumerate(order):
            with self._swap.replacing(order[:count]):
                known = calibrated(
                    self._loaded, self._texts.calibration, self._batching, self._work, [glob.escape(name)]
                )
            self._work.finish(known.report.run.texts, known.report.run.tokens)
            self._swap.recalibrate(name, known.calibration.layers[name])
            self.calibration = self.calibration.with_layer(name, known.calibration.layers[name])
            yield order[: count + 1]
