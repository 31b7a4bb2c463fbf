"""Finds the norms that read the residual stream, each with its block and its stack of blocks.

A stack is a ModuleList of blocks that run one after the other. In a pre-norm block, x + f(norm(x)), and in a
post-norm block, norm(x + f(x)), the norm's input is the stream. The norm of a branch, x + norm(f(x)), reads
the branch. Structure and code alone tell; nothing runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from normscope.norms.placement import Places, is_stack
from normscope.norms.residual_flow import flow_of

_UNCLEAR = "their code does not show whether they read the residual stream"
_REASONS = {"pre-norm": "", "post-norm": "", "branch-norm": "they normalise a branch before it is added"}


@dataclass(frozen=True)
class StackNorm:
    """One norm of a stack: the stack's name, its number of blocks, and the norm's block from 0.

    `block` is None behind the blocks. `flow` is that of `flow_of` in a block. `left_out` says why its input
    is not known to be the stream; it is empty where the norm reads the stream.
    """

    name: str
    stack: str
    blocks: int
    block: int | None
    flow: str
    left_out: str


def stack_norms(model: nn.Module, norms: Mapping[str, int]) -> list[StackNorm]:
    """Return those of the `norms`, numbers of features by name, that are in or behind a stack of blocks.

    Norms of heads of attention, of embeddings and of the model's head are not among them, and neither are
    names that the model does not have.
    """
    places, stacks = Places(model), _Stacks(model)
    sites = {name: places.of(name, features) for name, features in norms.items()}
    known = {name for name, _ in model.named_modules()}
    inside = [
        _in_block(name, stack, stacks, places)
        for name, site in sites.items()
        if name in known and site != "per-head" and (stack := stacks.of(name))
    ]
    behind = [_behind(name, stacks, inside) for name, site in sites.items() if site == "final"]
    return [*inside, *(norm for norm in behind if norm)]


class _Stacks:
    """The stacks of a model by name."""

    def __init__(self, model: nn.Module) -> None:
        self._lists = {name: module for name, module in model.named_modules() if is_stack(module)}

    def of(self, name: str) -> str | None:
        """Return the stack whose block a module is in: the innermost list of blocks of one class.

        The list of a block's parts, such as attention and feed-forward, has several classes. If no list has
        one class, the outermost one is the stack.
        """
        above = [stack for stack in self._lists if name.startswith(f"{stack}.")]
        alike = [stack for stack in above if len({type(block) for block in self._lists[stack]}) == 1]
        return max(alike, key=len) if alike else min(above, key=len, default=None)

    def blocks(self, stack: str) -> int:
        """Return the number of blocks of a stack."""
        return len(self._lists[stack])


def _in_block(name: str, stack: str, stacks: _Stacks, places: Places) -> StackNorm:
    block = int(name.removeprefix(f"{stack}.").partition(".")[0])
    flow = flow_of(*places.owner(name))
    return StackNorm(name, stack, stacks.blocks(stack), block, flow, _REASONS.get(flow, _UNCLEAR))


def _behind(name: str, stacks: _Stacks, inside: Sequence[StackNorm]) -> StackNorm | None:
    """Return a norm behind the blocks as one of the stack next to it; None if there is no stack."""
    above, _, _ = name.rpartition(".")
    near = [norm for norm in inside if norm.stack.startswith(f"{above}." if above else "")]
    if not near:
        return None
    stack, reason = near[-1].stack, ""
    if len({norm.stack for norm in near}) > 1:
        reason = "several stacks of blocks come before them"
    elif all(norm.flow == "post-norm" for norm in near):
        reason = "the blocks before them end with a norm"
    return StackNorm(name, stack, stacks.blocks(stack), None, "", reason)
