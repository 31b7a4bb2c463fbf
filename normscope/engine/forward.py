"""Runs a model's forward pass for its normalization layers alone, and explains its failures."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from traceback import extract_tb
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from normscope.data.batch import shifted
from normscope.errors import CountingError, NormscopeError, OutOfMemoryError, RunError
from normscope.escaping import reason
from normscope.models.modality import TEXT, WORDS, kinds_of

# Files of the package whose hooks run inside a model's forward, and those of them that count tokens.
_PACKAGE = Path(__file__).parents[1]
_COUNTING = (str(_PACKAGE / "capture" / "recorder.py"),)
_OURS = (
    str(_PACKAGE / "analyses" / "swap" / "swapped.py"),
    str(_PACKAGE / "engine" / "massive_tokens.py"),
    *_COUNTING,
)
# Messages of torch for a lack of memory where it raises a plain RuntimeError.
_NO_MEMORY = ("out of memory", "DefaultCPUAllocator: can't allocate memory", "not enough memory")

# The numbers of texts and tokens of a probe, which are unlikely to equal any size inside a model.
_PROBE = (3, 11)


class Forward:
    """Calls a model for its normalization layers alone: without a cache, with logits for one token only.

    `kinds` are the kinds of inputs. With `logits` the model returns those of every token.
    """

    def __init__(self, model: nn.Module, kinds: Sequence[str] = (TEXT,), *, logits: bool = False) -> None:
        self.model = model
        self.kinds = kinds
        # Offloaded weights are on the meta device between forwards.
        self.device = next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))
        self.dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        self.parameters = signature(model.forward).parameters
        self.decodes = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
        options = {"use_cache": False} if logits else {"use_cache": False, "logits_to_keep": 1}
        self.extra = {name: value for name, value in options.items() if name in self.parameters}

    @property
    def takes_mask(self) -> bool:
        """Whether the model takes a mask that marks padding."""
        return "attention_mask" in self.parameters

    def __call__(self, inputs: dict[str, Tensor]) -> Any:
        """Run one batch and return the model's output; RunError with its message if it fails."""
        if self.decodes:
            inputs = {**inputs, **_decoder_inputs(self.model, inputs)}
        arguments = self._arguments(inputs)
        try:
            with memory_errors():
                return self.model(**arguments, **self.extra)
        except NormscopeError:
            raise
        except (Exception, SystemExit) as error:
            if _passed(error.__traceback__, _OURS):
                raise
            raise RunError(_failure(self.model, error, self.kinds)) from error

    def _arguments(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs that the model takes, on its device, images and sounds in its dtype."""
        arguments = {name: value for name, value in inputs.items() if name in self.parameters}
        if self.kinds != (TEXT,) and inputs.keys().isdisjoint(self.parameters):
            # A model for many kinds of input has one parameter for all, such as Perceiver's `inputs`.
            arguments[getattr(self.model, "main_input_name", "input_ids")] = next(iter(inputs.values()))
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else None)
            for name, value in arguments.items()
        }


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise OutOfMemoryError where torch says that memory ran out, CountingError in a hook that counts."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _lacks_memory(error):
            raise
        raise _lack_of_memory(error) from error


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Yield the tensors in a model's output, also those in mappings, tuples and lists."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from tensors_in(tuple(output.values()))
    elif isinstance(output, tuple | list):
        for item in output:
            yield from tensors_in(item)


def _decoder_inputs(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return inputs for a decoder: the text itself, shifted right by its start token as in training.

    Without a text the decoder gets the start token alone.
    """
    start = start_token(model)
    if "input_ids" not in inputs:
        first = next(iter(inputs.values()))
        return {"decoder_input_ids": torch.full((len(first), 1), start, dtype=torch.int64)}
    decoder = {"decoder_input_ids": shifted(inputs["input_ids"], start)}
    mask = inputs.get("attention_mask")
    return decoder if mask is None else {**decoder, "decoder_attention_mask": mask}


def probe_inputs(tokenizer: Any) -> dict[str, Tensor]:
    """Return a batch (3, 11) of one token, whose sizes are all different from those inside a model."""
    token_ids = tokenizer("a", add_special_tokens=False)["input_ids"][:1] or [0]
    ids = torch.tensor(token_ids).expand(_PROBE)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def start_token(model: nn.Module) -> int:
    """Return the token id that a decoder begins with, 0 if no configuration names one."""
    names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
    holders = (
        model.config,
        getattr(model.config, "decoder", None),
        getattr(model, "generation_config", None),
    )
    ids = (getattr(holder, name, None) for holder in holders for name in names)
    return next((number for number in ids if isinstance(number, int)), 0)


def _passed(trace: TracebackType | None, files: Sequence[str]) -> bool:
    """Whether an exception passed through hooks in these files: it is then our bug, not the model's."""
    return any(frame.filename in files for frame in extract_tb(trace))


def _lacks_memory(error: BaseException) -> bool:
    """Whether a model failed because memory ran out; on a CPU only torch's message says so."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def _lack_of_memory(error: BaseException) -> RunError:
    """Return OutOfMemoryError, or CountingError if a hook ran out of memory: it may have counted a part."""
    why = reason(error)
    if _passed(error.__traceback__, _COUNTING):
        got = f"out of memory where a batch is counted ({why}); expected room for the tables"
        return CountingError(f"{got}; try a smaller --table-memory, --batch-size or --max-length")
    return OutOfMemoryError(f"out of memory ({why}); try a smaller --batch-size or --max-length")


def _failure(model: nn.Module, error: BaseException, kinds: Sequence[str]) -> str:
    why = reason(error)
    if isinstance(error, IndexError) and "out of range" in str(error) and tuple(kinds) == (TEXT,):
        got = f"{type(model).__name__} has no embedding for a token's id or position ({why})"
        return f"{got}; expected ids within its vocabulary; check that model and tokenizer belong together"
    got = f"{type(model).__name__} failed on the {' and '.join(WORDS[kind] for kind in kinds)} ({why})"
    if others := [WORDS[kind] for kind in kinds_of(model) if kind not in kinds]:
        return f"{got}; it takes {' and '.join(others)} too: give it as many of each"
    processor = "tokenizer" if kinds == (TEXT,) else "processor"
    return f"{got}; check that model and {processor} belong together"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run the model in evaluation mode, and restore the mode of every module afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
