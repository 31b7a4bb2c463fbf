"""Caches the outputs of all blocks before the first replaced layer, so that trials skip them.

A block is an item of a ModuleList, as a Transformer's layers are. A block that ends before a layer is called
has the same output when only that layer and later ones are replaced.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from normscope.errors import OutOfMemoryError, RunError


@dataclass
class _Block:
    """One block of a forward: its output, the time of its end, and its number of calls."""

    module: nn.Module
    output: Any = None
    end: int = 0
    calls: int = 0


class Prefix:
    """The blocks of one model, and their outputs in the last recorded forward.

    `layers` are the layers that may be replaced, by name.
    """

    def __init__(self, model: nn.Module, layers: dict[str, nn.Module]) -> None:
        lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        self._blocks = [_Block(block) for blocks in lists for block in blocks]
        self._layers = layers
        self._begun: dict[str, int] = {}
        self._time = 0
        self._exact: bool | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the blocks' outputs in the next forward."""
        self._begun.clear()
        with ExitStack() as hooks:
            for block in self._blocks:
                block.calls, block.output = 0, None
                hooks.enter_context(block.module.register_forward_hook(partial(self._end_block, block)))
            for name, layer in self._layers.items():
                hooks.enter_context(layer.register_forward_pre_hook(partial(self._begin_layer, name)))
            yield

    def _end_block(self, block: _Block, _module: nn.Module, _args: Any, output: Any) -> None:
        self._time += 1
        block.calls, block.end, block.output = block.calls + 1, self._time, _copy(output)

    def _begin_layer(self, name: str, _module: nn.Module, _args: Any) -> None:
        self._time += 1
        self._begun.setdefault(name, self._time)

    def saw(self, name: str) -> bool:
        """Whether the recorded forward called the layer of this name."""
        return name in self._begun

    def check(self, repeats: Callable[[], bool]) -> None:
        """Test once whether the recorded forward `repeats` exactly when as many blocks as possible replay.

        A model may read more than its blocks' outputs: without an exact repetition nothing is replayed.
        """
        if self._exact is not None or not self._layers:
            return
        last = max(self._layers, key=lambda name: self._begun.get(name, 0))
        try:
            with self.replaying([last]):
                self._exact = repeats()
        except OutOfMemoryError:
            raise
        except RunError:
            self._exact = False

    @contextmanager
    def replaying(self, replaced: Collection[str]) -> Iterator[None]:
        """Replay the recorded outputs of the blocks that end before the first `replaced` layer is called."""
        first = min((self._begun.get(name, 0) for name in replaced), default=0)
        first = 0 if self._exact is False else first
        with ExitStack() as forwards:
            for block in self._blocks:
                # A shared block gets a different input at each call, so one output cannot stand for all.
                if block.calls == 1 and block.end < first and "forward" not in vars(block.module):
                    block.module.forward = _replay(block.output)
                    forwards.callback(block.module.__delattr__, "forward")
            yield

    def clear(self) -> None:
        """Release the recorded outputs."""
        for block in self._blocks:
            block.output = None


def _replay(output: Any) -> Any:
    return lambda *_args, **_kwargs: _copy(output)


def _copy(output: Any) -> Any:
    """Copy tensors, also in tuples and lists: later operations may write into them."""
    if isinstance(output, Tensor):
        return output.clone()
    return type(output)(map(_copy, output)) if type(output) in (tuple, list) else output
