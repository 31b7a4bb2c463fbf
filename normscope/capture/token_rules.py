"""The rules of a watcher that leave tokens out: checked, and as they apply to the tokens of a forward."""

from collections.abc import Sequence

from torch import nn

from normscope.data.token_selection import TokenRules, require_id, require_rules
from normscope.results.common import TokenSelection


def token_selection(
    model: nn.Module, exclude_tokens: Sequence[int], skip_first: int
) -> TokenSelection | None:
    """Return the rules of a watcher that leave tokens out, None without any.

    Raises UsageError for a value out of its range, and for an id outside of the model's vocabulary.
    """
    require_rules(exclude_tokens, skip_first, named=False)
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    excluded = {require_id(token, size if isinstance(size, int) else None) for token in exclude_tokens}
    return TokenSelection(tuple(sorted(excluded)), skip_first) if excluded or skip_first else None


def rules_of(selection: TokenSelection | None) -> TokenRules:
    """Return the rules on token ids and positions; the others need more than the forward's own inputs."""
    if selection is None:
        return TokenRules()
    return TokenRules(excluded=frozenset(selection.exclude_tokens), first=selection.skip_first)
