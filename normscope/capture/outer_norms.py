"""Finds norms that wrap a measured norm and change its output further."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from normscope.norms.detection import is_around

# Sums with a relative difference below this are of the same numbers in some order; rounding adds to it.
_CLOSE = 1e-6


class OuterNorms:
    """The modules of a model that are norms by name and contain one of the measured `norms`.

    In its first forward, the output of each is compared with the outputs of the norms inside. If they
    hold the same numbers, in any order, the outer module does nothing more. `names` has all modules.
    """

    def __init__(
        self, model: nn.Module, norms: Iterable[nn.Module], names: Iterable[tuple[str, nn.Module]]
    ) -> None:
        measured = set(norms)
        self._inner = {
            outer: [module for module in outer.modules() if module in measured]
            for outer in model.modules()
            if outer not in measured and is_around(outer, measured)
        }
        self._names = {module: name for name, module in names if module in self._inner}
        self._sums_inside: dict[nn.Module, list[Tensor]] = {}
        self._differ: dict[nn.Module, bool] = {}

    def hooks(self, hook: Callable[[Callable[..., None]], Any]) -> Iterator[RemovableHandle]:
        """Register the hooks that compare the outputs; `hook` wraps the function of each."""
        for outer, inner in self._inner.items():
            yield outer.register_forward_pre_hook(hook(self._begin))
            for norm in inner:
                yield norm.register_forward_hook(hook(self._keeper(outer)))
            yield outer.register_forward_hook(hook(self._compare))

    def notes(self) -> list[str]:
        """Return one sentence for each class whose modules do more than the norms inside."""
        names: dict[type[nn.Module], list[str]] = {}
        for module, name in self._names.items():
            if self._differ.get(module):
                names.setdefault(type(module), []).append(name)
        return [_sentence(kind.__name__, *of_kind) for kind, of_kind in names.items()]

    def _begin(self, outer: nn.Module, _: Any) -> None:
        if outer not in self._differ:
            self._sums_inside[outer] = []

    def _keeper(self, outer: nn.Module) -> Callable[..., None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            if outer in self._sums_inside and isinstance(output, Tensor):
                self._sums_inside[outer].append(_sums(output))

        return keep

    def _compare(self, outer: nn.Module, _: Any, output: Any) -> None:
        inside = self._sums_inside.pop(outer, [])
        if not inside or not isinstance(output, Tensor):
            return
        want, got = torch.stack([sums.cpu() for sums in inside]).sum(0), _sums(output).cpu()
        # Count, sum and sum of squares. The sum may cancel to 0, so its scale is from the other two.
        scale = torch.stack([want[0], (want[0] * want[2]).sqrt(), want[2]])
        rounding = max(_CLOSE, torch.finfo(output.dtype).eps / 10) if output.is_floating_point() else _CLOSE
        self._differ[outer] = bool(((got - want).abs() > rounding * scale).any())


def _sentence(kind: str, first: str, *others: str) -> str:
    more = f" and {len(others)} more like it" if others else ""
    return f"{first}{more}: {kind} does more than the norm within it, which alone is measured"


def _sums(values: Tensor) -> Tensor:
    with torch.no_grad():
        wide = values.detach().double()
        return torch.stack([wide.new_tensor(wide.numel()), wide.sum(), wide.square().sum()])
