"""Real data that packages carry: scikit-learn's digits, and the prose of Python's own documentation."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pydoc_data.topics import topics

import torch
from torch import Tensor

LONGEST, WORDS = 24, 500
PADDING, UNKNOWN = 0, 1


@dataclass(frozen=True)
class Samples:
    """Inputs, their targets, and for texts a mask (N, T) that is False at padding."""

    inputs: Tensor
    targets: Tensor
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, chosen: Tensor) -> "Samples":
        """Return the samples `chosen` by number, cut to the longest text among them."""
        if self.mask is None:
            return Samples(self.inputs[chosen], self.targets[chosen])
        mask = self.mask[chosen]
        length = int(mask.sum(1).max())
        return Samples(self.inputs[chosen, :length], self.targets[chosen, :length], mask[:, :length])

    def batches(self, size: int, seed: int) -> Iterator["Samples"]:
        """Yield batches of `size`, in a new random order each time through the data, without end."""
        dice = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self), generator=dice)
            yield from (self.take(chosen) for chosen in torch.split(order, size) if len(chosen) == size)

    def split(self, test: int) -> "tuple[Samples, Samples]":
        """Return samples to train on, and `test` others; always the same split."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        return self.take(order[test:]), self.take(order[:test])


def digits() -> Samples:
    """Return 1,797 handwritten digits, (N, 1, 8, 8) from 0 to 1, and the digit of each."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return Samples(torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels))


def sentences(maximum: int = 1 << 30) -> list[str]:
    """Return different sentences of Python's documentation, at most so many, evenly spaced over all of it."""
    text = " ".join(" ".join(topics[name].split()) for name in sorted(topics))
    found = list(dict.fromkeys(part.strip() + "." for part in text.split(". ") if 20 < len(part) < 400))
    return found[:: -(-len(found) // maximum)]


def next_words() -> Samples:
    """Return the words of every sentence as numbers (N, T), and the word that follows each."""
    words = [re.findall(r"\w+|[^\w\s]", text.lower())[: LONGEST + 1] for text in sentences()]
    common = Counter(word for text in words for word in text).most_common(WORDS - 2)
    number = {word: i + 2 for i, (word, _) in enumerate(common)}
    ids = torch.full((len(words), LONGEST + 1), PADDING)
    for one, text in zip(ids, words, strict=True):
        one[: len(text)] = torch.tensor([number.get(word, UNKNOWN) for word in text])
    return Samples(ids[:, :-1], ids[:, 1:], ids[:, 1:] != PADDING)
