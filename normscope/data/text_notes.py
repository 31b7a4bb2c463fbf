"""Warnings and errors about the texts of a run: unknown tokens, exact repeats, no text at all."""

from typing import TYPE_CHECKING

from normscope.errors import TextError

if TYPE_CHECKING:
    from normscope.results.common import RunInfo

# From this share on it is said.
SHARE = 0.05


def notes_on_texts(run: "RunInfo") -> list[str]:
    """Say what is amiss with the texts of a run, a sentence each."""
    notes = []
    if run.unknown_tokens and run.unknown_tokens >= SHARE * run.tokens:
        notes.append(
            f"{run.unknown_tokens / run.tokens:.1%} of the tokens are the tokenizer's unknown token: all "
            "words that it cannot read are one token to the model; give texts in a language that it reads"
        )
    if run.repeated_texts and run.repeated_texts >= SHARE * run.texts:
        notes.append(
            f"{run.repeated_texts / run.texts:.1%} of the texts repeat an earlier one exactly, and count "
            "each time; --unique (Batching(unique=True)) leaves them out"
        )
    return notes


def no_text(blank: int) -> TextError:
    """Return the error to raise for a corpus of blank texts alone, of which there were `blank`."""
    return TextError(f"no text to measure ({blank} blank); expected at least one text with a word in it")
