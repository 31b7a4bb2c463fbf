"""Finds every reader of a norm's output in one forward pass: Linears, and whatever else reads it.

Names decide nothing. While the model runs, a dispatch mode sees every operation, and an operation that
touches an output's memory is its reader, through whatever view. Tensors may be on torch's meta device.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from normscope.norms.detection import NormLayer
from normscope.norms.module_tree import named_modules

_ATEN = torch.ops.aten
# Operations that copy the same values into new memory.
_COPIES = (_ATEN.clone.default, _ATEN._to_copy.default)
# Names for operations in messages; others go by their own name.
_NAMES = {"add": "the addition", "mul": "the multiplication", "cat": "the concatenation"}


@dataclass(frozen=True)
class LinearReader:
    """A module that only computes x W + c from a layer's output x (..., D).

    `weight` and `bias` are the names of W and c in the model; c may not exist. If `transposed`, the
    module stores W as (out, D), as nn.Linear does, otherwise as (D, out), as transformers' Conv1D does.
    """

    module: nn.Module
    weight: str
    bias: str
    transposed: bool

    @property
    def name(self) -> str:
        """The module's name in the model, or that of W if the module has several weights."""
        return self.weight.removesuffix(".weight")


@dataclass(frozen=True)
class _Parameter:
    owner: str
    name: str
    module: nn.Module
    value: Tensor

    @property
    def path(self) -> str:
        return f"{self.owner}.{self.name}".lstrip(".")


@dataclass(frozen=True)
class _Product:
    """A call that computes x W + c: its tensors, W as (D, out)."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None


class Readers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that records which operations read the outputs of a model's layers `norms`.

        readers = Readers(model, find(model))
        with readers.watching():
            readers.returns(model(**inputs).values())
        readers.linears(name), readers.others(name), readers.obstacle(name)

    The result holds for the recorded forward: a model that branches on its inputs may have other readers
    on other inputs.
    """

    def __init__(self, model: nn.Module, norms: Sequence[NormLayer]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model, self._norms = model, norms
        self._stack: list[tuple[str, nn.Module]] = []
        self._outputs: dict[int, tuple[NormLayer, Tensor]] = {}
        """Outputs of layers and their copies, by their memory; kept alive, so that it is not reused."""
        self._linears: dict[str, dict[str, LinearReader]] = {norm.name: {} for norm in norms}
        self._others: dict[str, dict[str, dict[str, None]]] = {norm.name: {} for norm in norms}
        """Other operations that read a layer's output, by the module in which they run."""
        self._obstacles: dict[str, str] = {}
        self._parameters: dict[int, list[_Parameter]] = {}
        """All parameters by their memory: tied ones share it."""
        self._uses: dict[str, set[str | None]] = {}
        """The layers whose outputs meet each parameter, None for any other input."""
        for owner, module in named_modules(model):
            for name, value in module._parameters.items():
                if value is not None:
                    parameter = _Parameter(owner, name, module, value)
                    self._parameters.setdefault(_memory(value), []).append(parameter)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow the model's modules and operations until the context ends."""
        with ExitStack() as hooks:
            for name, module in named_modules(self._model):
                hooks.enter_context(module.register_forward_pre_hook(partial(self._push, name), prepend=True))
                hooks.enter_context(module.register_forward_hook(self._pop, always_call=True))
            for norm in self._norms:
                record = partial(self._record_output, norm)
                hooks.enter_context(norm.module.register_forward_hook(record, with_kwargs=True))
            hooks.enter_context(self)
            yield

    def returns(self, tensors: Iterable[Tensor]) -> None:
        """Record what the model returned: its caller reads that."""
        for value in tensors:
            if _memory(value) in self._outputs:
                norm = self._outputs[_memory(value)][0]
                self._others[norm.name]["the caller of the model"] = {}
                self._refuse(norm, "the model returns it")

    def linears(self, name: str) -> list[LinearReader]:
        """Return the modules that multiply the layer's output with all of a weight of their own."""
        return list(self._linears[name].values())

    def others(self, name: str) -> list[str]:
        """Return what else reads the layer's output, one phrase for each module."""
        readers = self._others[name].items()
        return [
            f"{', '.join(operations)} in {where}" if operations else where for where, operations in readers
        ]

    def obstacle(self, name: str) -> str | None:
        """Say why the layer cannot be folded into its readers, None if it can."""
        if name in self._obstacles:
            return self._obstacles[name]
        for weight in self._linears[name]:
            if self._uses.get(weight, set()) != {name}:
                return f"{weight} is used with another input, too"
        if not self._linears[name]:
            was_called = any(norm.name == name for norm, _ in self._outputs.values())
            return "nothing reads it" if was_called else "it was never called"
        return None

    def _push(self, name: str, module: nn.Module, _args: Any) -> None:
        self._stack.append((name, module))

    def _pop(self, *_: Any) -> None:
        if self._stack:
            self._stack.pop()

    def _record_output(
        self, norm: NormLayer, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if not isinstance(output, Tensor):
            self._refuse(norm, "its output is not one tensor")
            return
        features_last = output.movedim(1, -1) if norm.feature_axis == 1 else output
        if len(args) != 1 or kwargs:
            self._refuse(norm, "it is called with more than its input")
        elif norm.per_head or not _holds_rows(features_last, norm.features or output.shape[-1]):
            self._refuse(norm, "its features are not the last axis of its output")
        self._outputs[_memory(output)] = (norm, output)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation and record the parameters and outputs that it reads."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        operands = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        written = {_memory(value) for value in tree_leaves(result) if isinstance(value, Tensor)}
        product = _product(func, args, kwargs)
        source = self._outputs.get(_memory(product.x)) if product else None
        for value in operands:
            # Memory and not identity: a Linear may get a reshaped view of the output.
            memory = _memory(value)
            if written == {memory} and not func._schema.is_mutable:
                continue  # The result is a view of the operand, and nothing was read.
            for parameter in self._parameters.get(memory, ()):
                self._uses.setdefault(parameter.path, set()).add(source[0].name if source else None)
            if memory in self._outputs:
                self._read(func, self._outputs[memory][0], value, product, result)
        return result

    def _read(self, func: Any, norm: NormLayer, value: Tensor, product: _Product | None, result: Any) -> None:
        """Record one operation that reads an output through the view `value`."""
        features = norm.features or value.shape[-1]
        if func in _COPIES and _holds_rows(value, features) and _holds_rows(result, features):
            self._outputs[_memory(result)] = (norm, result)
        elif product is None or value is not product.x:
            operation = str(func._schema.name).rpartition("::")[2].strip("_")
            self._read_by_other(norm, _NAMES.get(operation, operation))
        elif not _holds_rows(value, features):
            self._read_by_other(norm, "a product that takes it in part or turned round")
        else:
            self._read_by_product(norm, product)

    def _read_by_other(self, norm: NormLayer, operation: str) -> None:
        self._others[norm.name].setdefault(self._where(), {})[operation] = None
        self._refuse(norm, f"read by {operation} in {self._where()}")

    def _read_by_product(self, norm: NormLayer, product: _Product) -> None:
        """Record the module that owns a product's W, and what keeps a fold from its W and c."""
        where = self._where()
        owners = self._parameters.get(_memory(product.weight), [])
        if not owners:
            self._read_by_other(norm, "a product with a weight that is no parameter")
            return
        weight, *tied = sorted(owners, key=lambda owner: owner.owner != where)
        transposed = weight.value.dim() == 2 and _same(product.weight, weight.value.mT)
        if not transposed and not _same(product.weight, weight.value):
            self._read_by_other(norm, f"a product with a part of {weight.path}")
            return
        bias = self._bias(weight, product)
        if tied:
            self._refuse(norm, f"{weight.path} is tied to {tied[0].path}: untie them first")
        elif bias is None:
            self._refuse(norm, f"read by a product without a bias of its own in {where}")
        reader = LinearReader(weight.module, weight.path, bias or "", transposed)
        self._linears[norm.name][weight.path] = reader

    def _bias(self, weight: _Parameter, product: _Product) -> str | None:
        """Return the name of c, which belongs to the module of W; None if there is no place for it."""
        is_linear = self._is_linear(weight.module)
        bias = weight.module._parameters.get("bias") if is_linear else product.bias
        if bias is None:
            return f"{weight.owner}.bias".lstrip(".") if is_linear else None
        biases = self._parameters.get(_memory(bias), [])
        return biases[0].path if len(biases) == 1 and biases[0].module is weight.module else None

    def _is_linear(self, module: nn.Module) -> bool:
        """Whether a module is a Linear whose forward runs now.

        Then its own bias is the c of the product, even where the operation does not show it.
        """
        runs = bool(self._stack) and self._stack[-1][1] is module
        return runs and isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward

    def _where(self) -> str:
        name = self._stack[-1][0] if self._stack else ""
        return name or type(self._model).__name__

    def _refuse(self, norm: NormLayer, reason: str) -> None:
        self._obstacles.setdefault(norm.name, reason)


def _memory(value: Tensor) -> int:
    """Return the identity of a tensor's storage; all of its views share it, on the meta device too."""
    return int(value.untyped_storage()._cdata)


def _holds_rows(value: Tensor, features: int) -> bool:
    """Whether a view (..., D) of memory that holds rows of D features consists of whole rows, in order."""
    if value.shape[-1:] != (features,) or (features > 1 and value.stride(-1) != 1):
        return False
    strides = [stride for size, stride in zip(value.shape[:-1], value.stride(), strict=False) if size > 1]
    return all(step % features == 0 for step in (value.storage_offset(), *strides))


def _same(view: Tensor, value: Tensor) -> bool:
    """Whether a view of a parameter's memory is all of the parameter, with its axes in the same order."""
    one, other = ((v.shape, v.stride(), v.storage_offset()) for v in (view, value))
    return one == other


def _product(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Product | None:
    """Return an operation's x, W and c if it computes x W + c."""
    if func is _ATEN.mm.default:
        return _Product(args[0], args[1], None)
    if func is _ATEN.addmm.default and not kwargs:
        return _Product(args[1], args[2], args[0])
    if func is _ATEN.linear.default:
        return _Product(args[0], args[1].mT, args[2] if len(args) > 2 else None)
    return None
