"""The size of batches of texts: a number of texts, or a number of tokens that adapts to the memory."""

from collections.abc import Iterable

# The first size of a batch with "auto", in tokens: enough to keep a processor busy, and few enough for any.
AUTO_TOKENS = 4096
_MAX_AUTO_TOKENS = 64 * AUTO_TOKENS
# The maximum number of texts in a batch with "auto".
_AUTO_TEXTS = 4096


class BatchSize:
    """The size of a run's batches, the one place where it changes.

    `asked` is the number of texts that was asked for, None for "auto". `texts` is the current maximum of
    texts in a batch; `tokens` that of token slots, padding included, with "auto", else None.
    """

    def __init__(self, asked: int | None) -> None:
        self.asked = asked
        self.texts = asked or _AUTO_TEXTS
        self.tokens = AUTO_TOKENS if asked is None else None

    def one_by_one(self) -> None:
        """Put one text into each batch."""
        self.asked, self.texts, self.tokens = 1, 1, None

    def shrink(self, texts: int, tokens: int) -> None:
        """Limit later batches to half of this many texts or, with "auto", token slots."""
        if self.tokens is None:
            self.texts = max(1, texts // 2)
        else:
            self.tokens = max(1, tokens // 2)

    def grow(self) -> None:
        """Allow twice as many tokens in later batches, with "auto"."""
        if self.tokens is not None:
            self.tokens = min(2 * self.tokens, _MAX_AUTO_TOKENS)

    def fill(self, lengths: Iterable[int]) -> int:
        """Return how many texts of these lengths fill a batch; more than there are if they do not."""
        if self.tokens is None:
            return self.texts
        longest = count = 0
        for count, length in enumerate(lengths, start=1):
            longest = max(longest, length)
            if count > self.texts or (count > 1 and count * longest > self.tokens):
                return count - 1
        return count + 1
