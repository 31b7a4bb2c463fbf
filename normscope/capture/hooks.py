"""Hooks that are safe in a user's model: one thread at a time, no backward passes, no effect in copies."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from normscope.errors import UsageError

_silent = ContextVar("silent", default=False)

# It may run a forward again to compute gradients; only the first run counts.
BACKWARD = "a backward pass"


class Hook:
    """A hook that works only on its own module; in a copied or pickled module it does nothing."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        """Run the hook, unless the forward is `unobserved`."""
        return None if _silent.get() else self._call(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        # A standard-library method that returns None: a pickled model can be loaded without normscope.
        return getattr, (nullcontext(), "__exit__")


@contextmanager
def unobserved() -> Iterator[None]:
    """Keep all hooks of this kind quiet inside the context: its forwards are for another purpose."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


@contextmanager
def attributes(owner: object, **values: Any) -> Iterator[None]:
    """Give an object's attributes these values inside the context, and the earlier ones after it."""
    before = {name: getattr(owner, name) for name in values}
    vars(owner).update(values)
    try:
        yield
    finally:
        vars(owner).update(before)


def uncounted() -> str | None:
    """Return what runs now instead of a normal forward, such as a backward pass; None in a normal forward."""
    # First, because torch.export traces this function, too.
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return "torch.jit.trace, torch.export or torch.compile"
    if torch._C._current_graph_task_id() != -1:
        return BACKWARD
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "torch.vmap or a transform of torch.func"
    # The modes of fake tensors and of make_fx have a key; modes of users have none.
    if torch._C._len_torch_dispatch_stack() and any(
        getattr(mode, "_mode_key", None) is not None for mode in _get_current_dispatch_mode_stack()
    ):
        return "FakeTensorMode or make_fx"
    return None


class Turn:
    """A reentrant lock that lets one thread at a time run a model."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holders: list[threading.Thread] = []

    def is_ours(self) -> bool:
        """Whether this thread holds the lock."""
        return bool(self._holders) and self._holders[-1] is threading.current_thread()

    def take(self) -> None:
        """Take the lock for this thread; UsageError if another thread holds it."""
        here = threading.current_thread()
        if not self._lock.acquire(blocking=False):
            other = self._holders[-1].name if self._holders else "another"
            raise UsageError(
                f"the watched model runs in thread {other!r} and was called in thread {here.name!r}; "
                "expected one thread at a time; let them take turns, or watch a copy of the model in each"
            )
        self._holders.append(here)

    def give_back(self) -> None:
        """Release the lock once; each `take` needs one release."""
        self._holders.pop()
        self._lock.release()


def _first_tensor(values: Iterable[Any]) -> Tensor | None:
    """Return the first tensor of a call's arguments or outputs."""
    return next((value for value in values if isinstance(value, Tensor)), None)


def shares_memory(output: Tensor, hidden: Tensor) -> bool:
    """Whether an output begins at the memory of the input: the layer may have written over it."""
    return output.layout == torch.strided and output.data_ptr() == hidden.data_ptr()


def _is_plain(values: Tensor) -> bool:
    return values.layout == torch.strided and not (values.is_nested or values.is_quantized)


class InputCopy:
    """A copy of a layer's input from before the call, for layers that write their output over it.

    The first call shows whether a layer does so. The classes of torch itself do not.
    """

    def __init__(self, module: nn.Module) -> None:
        self.foreign = not type(module).__module__.startswith("torch.")
        """Whether the layer may write over its input."""
        self._overwrites: bool | None = None if self.foreign else False
        self._shares = True
        self._copy: Tensor | None = None

    def keep(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Copy the input before a call, unless the layer does not overwrite it; a forward pre-hook."""
        if self._overwrites is False:
            return
        hidden = _first_tensor((*args, *kwargs.values()))
        if hidden is not None and _is_plain(hidden) and uncounted() is None:
            # A tensor subclass may override `clone`, and must not notice that it is copied.
            with torch.no_grad(), torch._C.DisableTorchFunction():
                self._copy = hidden.detach().clone()

    def of(self, hidden: Tensor, output: Any) -> Tensor | None:
        """Return `hidden` from before the call; None if it may have been overwritten and there is no copy."""
        copy, self._copy = self._copy, None
        if not self.foreign or not _is_plain(hidden):
            return hidden
        out = _first_tensor(output if isinstance(output, tuple | list) else (output,))
        shares = out is not None and shares_memory(out, hidden)
        if copy is None:
            # A layer that begins to share memory with its output, in another mode for example, is retested.
            self._overwrites = None if shares and not self._shares else self._overwrites
            return None if self._overwrites is None else hidden
        if self._overwrites is None:
            self._overwrites = not torch.allclose(copy.float(), hidden.float(), 0, 0, equal_nan=True)
            self._shares = shares
        return copy
