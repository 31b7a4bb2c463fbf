"""The place of a norm in its model, from structure and code: before, inside or after the blocks."""

import inspect
import math
import re
from collections.abc import Iterator
from typing import Any, TypeGuard

from torch import nn

from normscope.norms.residual_flow import side_of

# The attribute names that transformers' classes give to the norms of queries and keys.
_QUERY_OR_KEY = re.compile(r"(q|k|qk|query|key)_?(layer_?)?(norm|ln|layernorm)|norm_?(q|k|query|key)")
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_HEAD_SIZES = re.compile(r"head_dim|head_size|d_kv$|kv_channels$")


class Places:
    """Finds the place of each norm of a model.

    Blocks are the modules in the model's ModuleLists. A norm outside of blocks belongs to the
    "embeddings" if the code calls it before the blocks, and is "final" if the code calls it after them.
    In a part on top of the base model, it belongs to the "head". A norm in a block is "per-head" if it is
    in an attention module and is as wide as one head. It is "pre-norm" if the code computes x +
    f(norm(x)), and "post-norm" if the code computes norm(x + f(x)) or x + norm(f(x)). Otherwise the place
    is "other".
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self._stacks = {name: module for name, module in self._modules.items() if _is_stack(module)}
        self._base = getattr(model, "base_model_prefix", "")
        self._head_sizes = head_sizes(getattr(model, "config", None))
        configs = _members(getattr(model, "config", None))
        widths = [size for members in configs for size in _sizes(members, _WIDTHS)]
        self._width = max(widths, default=math.inf)

    def of(self, name: str, features: int) -> str:
        """Return the place of the norm `name` with `features` features (0: unknown)."""
        if name not in self._modules:
            return "other"  # The model itself is a norm.
        owner, attribute = self.owner(name)
        if self._is_per_head(owner, attribute, features):
            return "per-head"
        if not any(isinstance(self._modules[above], nn.ModuleList) for above in _above(name)):
            return self._outside(name)
        return side_of(owner, attribute) or "other"

    def owner(self, name: str) -> tuple[nn.Module, str]:
        """Return the module whose code calls the norm, and the attribute's name in that code.

        For a norm in a list, the name is that of the list.
        """
        above, _, attribute = name.rpartition(".")
        while isinstance(self._modules[above], nn.ModuleList | nn.ModuleDict) and above:
            above, _, attribute = above.rpartition(".")
        return self._modules[above], attribute

    def stack_of(self, name: str) -> str | None:
        """Return the stack whose block a module is in: the innermost list of blocks of one class.

        The list of a block's parts, such as attention and feed-forward, has several classes. If no list has
        one class, the outermost one is the stack.
        """
        above = [stack for stack in self._stacks if name.startswith(f"{stack}.")]
        alike = [stack for stack in above if len({*map(type, self._stacks[stack])}) == 1]
        return max(alike, key=len) if alike else min(above, key=len, default=None)

    def blocks(self, stack: str) -> int:
        """Return the number of blocks of a stack."""
        return len(self._stacks[stack])

    def _is_per_head(self, owner: nn.Module, attribute: str, features: int) -> bool:
        is_named = bool(_QUERY_OR_KEY.fullmatch(attribute.lower()))
        in_attention = "attention" in type(owner).__name__.lower()
        if not features or not self._head_sizes:
            return is_named
        return features in self._head_sizes and (is_named or (in_attention and features < self._width))

    def _outside(self, name: str) -> str:
        """Compare with the blocks of the nearest module that contains the norm and has blocks."""
        for above in reversed([*_above(name)]):
            start = f"{above}." if above else ""
            stacks = {self._branch(start, stack) for stack in self._stacks if stack.startswith(start)}
            if stacks:
                return self._next_to_stacks(above, self._branch(start, name), stacks)
        return "other"

    def _branch(self, start: str, name: str) -> str:
        return name.removeprefix(start).split(".", maxsplit=1)[0]

    def _next_to_stacks(self, above: str, branch: str, stacks: set[str]) -> str:
        order = _order(self._modules[above])
        sides = {order.index(branch) < order.index(stack) for stack in stacks - {branch}}
        if len(sides) != 1:
            return "other"
        if sides == {True}:
            return "embeddings"
        on_top = above == "" and self._base in order and branch != self._base
        return "head" if on_top else "final"


def _is_stack(module: nn.Module) -> TypeGuard[nn.ModuleList]:
    """Whether a module is a list of blocks: of modules that have children."""
    return isinstance(module, nn.ModuleList) and any(next(m.children(), None) is not None for m in module)


def _above(name: str) -> Iterator[str]:
    """Yield the names of the modules that contain a module, starting with the outermost, ""."""
    parts = name.split(".")
    yield from (".".join(parts[:i]) for i in range(len(parts)))


def _order(module: nn.Module) -> list[str]:
    """Return a module's children in the order in which `forward` first names them."""
    children = [name for name, _ in module.named_children()]
    names = inspect.unwrap(type(module).forward).__code__.co_names
    order = [name for name in names if name in children]
    # A child that `forward` does not name comes after the child that was registered before it.
    for i, name in enumerate(children):
        if name not in order:
            order.insert(order.index(children[i - 1]) + 1 if i else 0, name)
    return order


def head_sizes(config: Any) -> set[int]:
    """Return every size of an attention head in a configuration and in those nested in it."""
    sizes = set()
    for members in _members(config):
        sizes |= {value for name, value in members.items() if _HEAD_SIZES.search(name) and _is_size(value)}
        heads = _sizes(members, ("num_attention_heads", "n_head", "num_heads"))
        sizes |= {width // count for width in _sizes(members, _WIDTHS) for count in heads}
    return sizes


def _sizes(members: dict[str, Any], names: tuple[str, ...]) -> list[int]:
    return [members[name] for name in names if _is_size(members.get(name))]


def _members(config: Any) -> Iterator[dict[str, Any]]:
    """Yield the members of a configuration, and those of each configuration nested in it."""
    members: dict[str, Any] = getattr(config, "__dict__", {})
    yield members
    for value in members.values():
        if hasattr(value, "model_type"):
            yield from _members(value)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
