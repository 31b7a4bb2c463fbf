"""Finds the norms that read the residual stream, each with its block and its stack of blocks.

A stack is a ModuleList of blocks that run one after the other. In a pre-norm block, x + f(norm(x)), and in a
post-norm block, norm(x + f(x)), the norm's input is the stream. The norm of a branch, x + norm(f(x)), reads
the branch. Structure and code alone tell; nothing runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from normscope.norms.placement import Places
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
    places = Places(model)
    sites = {name: places.of(name, features) for name, features in norms.items()}
    known = {name for name, _ in model.named_modules()}
    inside = [
        _in_block(name, stack, places)
        for name, site in sites.items()
        if name in known and site != "per-head" and (stack := places.stack_of(name))
    ]
    behind = [_behind(name, inside) for name, site in sites.items() if site == "final"]
    return [*inside, *(norm for norm in behind if norm)]


def _in_block(name: str, stack: str, places: Places) -> StackNorm:
    block = int(name.removeprefix(f"{stack}.").partition(".")[0])
    flow = flow_of(*places.owner(name))
    return StackNorm(name, stack, places.blocks(stack), block, flow, _REASONS.get(flow, _UNCLEAR))


def _behind(name: str, inside: Sequence[StackNorm]) -> StackNorm | None:
    """Return a norm behind the blocks as one of the stack next to it; None if there is no stack."""
    above, _, _ = name.rpartition(".")
    near = [norm for norm in inside if norm.stack.startswith(f"{above}." if above else "")]
    if not near:
        return None
    last, reason = near[-1], ""
    if len({norm.stack for norm in near}) > 1:
        reason = "several stacks of blocks come before them"
    elif all(norm.flow == "post-norm" for norm in near):
        reason = "the blocks before them end with a norm"
    return StackNorm(name, last.stack, last.blocks, None, "", reason)
