"""Sessions: a model, opened once, for all runs of an analysis."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from normscope.capture.recorder import Recorder
from normscope.capture.watched_model import describe
from normscope.data.batching import Batches, Batching
from normscope.data.max_length import length_limit
from normscope.data.media_batches import MediaBatches
from normscope.data.media_files import Inputs
from normscope.engine.forward import Forward, evaluating, probe_inputs, start_token
from normscope.engine.loop import Loop, RunContext
from normscope.engine.massive_tokens import MassiveTokens
from normscope.engine.progress import Clock
from normscope.engine.provenance import provenance_of
from normscope.errors import RunError, UsageError
from normscope.escaping import counted
from normscope.models.loading import Loaded, load, quiet
from normscope.models.location import Loading
from normscope.models.modality import TEXT, require_kinds
from normscope.norms.module_tree import unwrapped
from normscope.results.common import ModelInfo
from normscope.results.inspect import Report

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Session:
    """A loaded model for inputs of some kinds, its forward, and the clock of its runs."""

    def __init__(self, loaded: Loaded, clock: Clock | None = None, kinds: tuple[str, ...] = (TEXT,)) -> None:
        self.loaded, self.clock = loaded, clock or Clock(None)
        self.forward = Forward(loaded.model, kinds)

    @classmethod
    def open(
        cls,
        model: str | os.PathLike[str] | nn.Module | Loaded,
        clock: Clock,
        loading: Loading = Loading(),
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        processor: Any = None,
        kinds: tuple[str, ...] = (TEXT,),
    ) -> "Session":
        """Load a model, unless it is loaded; the clock shows the stage "load".

        Raises UsageError for an object without its tokenizer, and for kinds that the model does not take.
        """
        clock.show("load")
        needed = "tokenizer" if kinds == (TEXT,) else "processor"
        if isinstance(model, Loaded):
            loaded = model
            if getattr(loaded, needed) is None:
                expected = " and ".join(kinds)
                raise UsageError(f"the model was loaded without its {needed}; load it for {expected}")
        elif not isinstance(model, nn.Module):
            loaded = load(model, loading, kinds)
        elif (tokenizer if needed == "tokenizer" else processor) is None:
            raise UsageError(f"a model object came without a {needed}; pass {needed}=... or the model's id")
        else:
            model = unwrapped(model)
            name = getattr(model, "name_or_path", "") or type(model).__name__
            # A run calls only what every torch module has.
            loaded = Loaded(model, tokenizer, name, None, None, (), processor)  # type: ignore[arg-type]
        require_kinds(loaded.model, kinds)
        return cls(loaded, clock, kinds)

    def batches(self, inputs: Inputs, batching: Batching) -> Batches | MediaBatches:
        """Return the batches of texts, cut to the model's maximum length, or of images and sounds."""
        if self.forward.kinds != (TEXT,):
            return MediaBatches(inputs, self.loaded.processor, batching)
        return text_batches(self.loaded, inputs.texts or (), batching)

    def measure(
        self,
        recorder: Recorder,
        batches: Batches | MediaBatches,
        context: RunContext | None = None,
        *,
        moments: bool = False,
    ) -> Report:
        """Run the batches through the model under a recorder, and return the report."""
        context = context or RunContext()
        loop = Loop(recorder, self.forward, self.clock, context)
        with self.watching(recorder):
            if isinstance(batches, MediaBatches):
                run, notes = loop.run_media(batches)
            else:
                first_notes = self.prepare(recorder, batches)
                run, notes = loop.run_texts(batches)
                notes = [*first_notes, *notes]
        _require_numbers(recorder)
        report = recorder.report_as(
            self.describe(),
            replace(run, seconds=self.clock.seconds()),
            (*self.loaded.warnings, *notes),
            moments=moments,
            last=True,
        )
        pooled = context.few.pooled(run.texts, self.loaded.tokenizer)
        return replace(report, pooled=pooled, provenance=provenance_of(self.loaded, batches))

    def describe(self) -> ModelInfo:
        """Return the description of the model."""
        loaded = self.loaded
        model = describe(loaded.model, loaded.id)
        return replace(model, revision=loaded.revision, commit=loaded.commit)

    @contextmanager
    def watching(self, recorder: Recorder) -> Iterator[None]:
        """Open a recorder for forwards of our own, in evaluation mode and without gradients.

        Raises UsageError if no layer is left to measure.
        """
        model = self.loaded.model
        if not recorder.captures:
            raise UsageError(
                f"no normalization layer of {type(model).__name__} is left to measure; expected at least "
                "one; see --exclude"
            )
        # A failure to count ends this run; in a user's own forward it only becomes a note.
        recorder.guest = False
        with quiet(), recorder, evaluating(model), torch.no_grad():
            yield

    def prepare(self, recorder: Recorder, batches: Batches) -> list[str]:
        """Find the axes of every layer's input, and plan the tables; return notes.

        A probe runs: a batch whose sizes are all different. Texts run one by one if padding cannot be masked
        in the model, or not be recognised at a layer.
        """
        reason = None
        # If the model fails on the texts too, the run explains it.
        with suppress(RunError), recorder.batch(probe=True):
            self.forward(probe_inputs(self.loaded.tokenizer))
            if names := [capture.norm.name for capture in recorder.captures if capture.unaligned]:
                reason = f"{names[0]} and {len(names) - 1} more do not see one row a token"
            elif not self.forward.takes_mask:
                reason = "the model takes no attention mask"
        if reason or not self.forward.takes_mask:
            batches.size.one_by_one()
        self.clock.plan(recorder.plan_tables(batches.max_length))
        return [f"{reason}: texts were run one by one"] if reason else []


def text_batches(loaded: Loaded, texts: Iterable[str], batching: Batching, *, keep: bool = False) -> Batches:
    """Return the batches of texts, cut to the model's maximum length; the options are those of `Batches`."""
    tokenizer: Any = loaded.tokenizer
    limit = length_limit(tokenizer, getattr(loaded.model, "config", None))
    forward = Forward(loaded.model)
    return Batches(
        texts,
        tokenizer,
        batching,
        max_length=limit,
        keep=keep,
        start=start_token(loaded.model) if forward.decodes else None,
        screen=MassiveTokens(forward, tokenizer).screen if batching.drop_massive else None,
    )


def _require_numbers(recorder: Recorder) -> None:
    called = [capture for capture in recorder.captures if capture.state.calls]
    if called and all(capture.state.moments is None for capture in called):
        raise RunError(
            f"every token at all of {counted(len(called), 'layer')} is NaN or infinite; "
            "expected finite activations; check the weights, or try --dtype float32"
        )
