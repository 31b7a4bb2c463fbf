"""Selects the tokens that count: by token id, by position and by the role of a message."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normscope.errors import UsageError
from normscope.escaping import quoted

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TokenRules:
    """The rules that leave real tokens out: `special` and `excluded` token ids, and `first` positions.

    What is left out still runs through the model, and takes a position.
    """

    special: frozenset[int] = frozenset()
    excluded: frozenset[int] = frozenset()
    first: int = 0

    def __bool__(self) -> bool:
        return bool(self.special or self.excluded or self.first)

    def left_out(
        self, real: "Tensor", position: "Tensor", ids: "Tensor | None", spoken: "Tensor | None" = None
    ) -> "dict[str, Tensor]":
        """Return by rule which of the `real` tokens it leaves out, (B, T) bool; a token is under one rule.

        `position` (B, T) counts the real tokens of a text from 0. Without `ids` (B, T), no rule on ids
        applies. `spoken` (B, T) marks the tokens of the roles that count.
        """
        rules: dict[str, Tensor] = {}
        if ids is not None:
            rules["special"] = _is_one_of(ids, self.special)
            rules["excluded"] = _is_one_of(ids, self.excluded)
        rules["first"] = position < self.first
        if spoken is not None:
            rules["roles"] = ~spoken
        for name, rule in rules.items():
            rules[name] = real & rule
            real = real & ~rule
        return rules


def _is_one_of(ids: "Tensor", chosen: Iterable[int]) -> "Tensor":
    import torch

    return torch.isin(ids, torch.tensor(sorted(chosen), dtype=ids.dtype, device=ids.device))


def without(real: "Tensor", left_out: "dict[str, Tensor]") -> "Tensor":
    """Return the real tokens (B, T) that no rule leaves out."""
    for rule in left_out.values():
        real = real & ~rule
    return real


def require_rules(tokens: Sequence[int | str], first: int, *, named: bool = True) -> None:
    """Raise UsageError unless `tokens` are ids, or texts if `named`, and `first` is a whole number from 0."""
    kinds = int | str if named else int
    if isinstance(tokens, str) or not all(isinstance(t, kinds) and not isinstance(t, bool) for t in tokens):
        expected = "token ids or texts" if named else "token ids"
        raise UsageError(f"exclude tokens is {tokens!r}; expected a list of {expected}; change it")
    if not isinstance(first, int) or isinstance(first, bool) or first < 0:
        raise UsageError(f"skip first is {first!r}; expected a whole number from 0; change it")


def require_id(token: int, size: int | None) -> int:
    """Return a token id; UsageError for one outside of a vocabulary of `size` tokens (None: unknown)."""
    if token < 0 or (size is not None and token >= size):
        highest = "" if size is None else f" to {size - 1}"
        raise UsageError(
            f"exclude tokens names the id {token}; expected an id from 0{highest}, as in the vocabulary; "
            "change it"
        )
    return token


def token_ids(tokenizer: Any, tokens: Iterable[int | str]) -> frozenset[int]:
    """Return the ids of tokens that are given by id or by text.

    A text is an entry of the vocabulary, or else what the tokenizer reads as one token. Raises UsageError
    for an id outside of the vocabulary, and for a text of no token, of several, or of the unknown token.
    """
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    size = 1 + max(vocabulary.values()) if vocabulary else None
    return frozenset(
        require_id(token, size) if isinstance(token, int) else _id_of(tokenizer, token, vocabulary)
        for token in tokens
    )


def _id_of(tokenizer: Any, text: str, vocabulary: dict[str, int]) -> int:
    if text in vocabulary:
        return vocabulary[text]
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    unknown = getattr(tokenizer, "unk_token_id", None) in ids
    if len(ids) == 1 and not unknown:
        return ids[0]
    got = "the tokenizer cannot read" if unknown else f"is {len(ids)} tokens" if ids else "is no token"
    raise UsageError(
        f"exclude tokens names {quoted(text)}, which {got}; expected text of one token, or an id; change it"
    )
