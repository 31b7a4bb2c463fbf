"""Conversations: lists of messages as JSON texts, and as tokens by the chat template of a tokenizer."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from normscope.data.text_lines import lone_surrogate
from normscope.errors import ModelError, TextError, UsageError
from normscope.escaping import counted, quoted, reason

ASSISTANT, MESSAGES = "assistant", "messages"
_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")  # as transformers recognises it
EXPECTED = 'expected messages, such as [{"role": "user", "content": "Hi"}]'

Messages = list[dict[str, Any]]


def as_text(value: object) -> str | None:
    """Return a conversation as the JSON text that stands for it; None if a value is no conversation.

    A conversation is a list of messages, each with a "role", or an object of lists, one for each member.
    """
    if isinstance(value, dict) and isinstance(value.get("role"), list):
        columns = {name: column for name, column in value.items() if isinstance(column, list)}
        value = [dict(zip(columns, row, strict=False)) for row in zip(*columns.values(), strict=False)]
    if not isinstance(value, list) or not value:
        return None
    if not all(isinstance(each, dict) and isinstance(each.get("role"), str) for each in value):
        return None
    text = json.dumps(value, ensure_ascii=False)
    return None if lone_surrogate(text) is not None else text


def messages_of(text: str, index: int) -> Messages:
    """Return the messages of a conversation in JSON: a list, or an object with "messages".

    Raises TextError for anything else; `index` is the place of the text in the corpus.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    value = value.get(MESSAGES, value) if isinstance(value, dict) else value
    if as_text(value) is None:
        raise TextError(
            f"the text at index {index} is no conversation: {quoted(text[:40])}; {EXPECTED}; "
            "name the field that has them, or leave out --chat-template"
        )
    messages: Messages = value
    return messages


def rewritten(text: str, rewrite: Callable[[str], str]) -> str:
    """Return a conversation in JSON with what `rewrite` makes of the text of each message, in order."""
    messages = messages_of(text, 0)
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            message["content"] = rewrite(content)
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                part["text"] = rewrite(part["text"])
    return json.dumps(messages, ensure_ascii=False)


class Turns(NamedTuple):
    """The tokens of a conversation: `ids`, token type ids if there are any, and which are `spoken`.

    `spoken` marks the tokens of the chosen roles; it is None if all roles count.
    """

    ids: list[int]
    types: list[int] | None
    spoken: list[bool] | None


class ChatTemplate:
    """Writes conversations as tokens, and tells the tokens of the `roles` that count (all if empty).

    For the role "assistant" alone, a template with generation markers tells its tokens. Otherwise the
    tokens of a message are those by which the template of the messages up to it is longer than that of
    the messages before it. An assistant's message begins behind the generation prompt, if the template
    writes the same there. Text before the first message belongs to that message.

    Raises ModelError for a tokenizer without a chat template.
    """

    def __init__(self, tokenizer: Any, roles: Sequence[str] = ()) -> None:
        self._tokenizer, self._roles = tokenizer, frozenset(roles)
        try:
            template = tokenizer.get_chat_template()
        except (AttributeError, ValueError) as error:
            raise ModelError(
                "the tokenizer has no chat template; expected one, as chat models have; leave out "
                "--chat-template, or set tokenizer.chat_template in Python"
            ) from error
        fast = getattr(tokenizer, "is_fast", False)
        self._marked = self._roles == {ASSISTANT} and fast and _MARKER.search(template) is not None

    def write(self, text: str, index: int) -> Turns:
        """Return the tokens of a conversation in JSON; TextError if the template cannot write it.

        Raises UsageError if neither markers nor prefixes tell the tokens of the roles.
        """
        messages = messages_of(text, index)
        encoded = self._encode(messages, index, return_assistant_tokens_mask=self._marked)
        ids: list[int] = encoded["input_ids"]
        spoken = None
        if self._marked:
            spoken = [bool(flag) for flag in encoded["assistant_masks"]]
        elif self._roles:
            spoken = self._by_prefixes(messages, ids, index)
        return Turns(ids, encoded.get("token_type_ids"), spoken)

    def _by_prefixes(self, messages: Messages, ids: list[int], index: int) -> list[bool]:
        spoken, end = [False] * len(ids), 0
        for number, message in enumerate(messages, 1):
            start, written = end, self._prefix(messages[:number], index)
            if written is None or ids[: len(written)] != written or len(written) < end:
                raise UsageError(
                    f"what the chat template writes of the first {counted(number, 'message')} of the text at "
                    f"index {index} is not the beginning of the whole, so no token's role is known; expected "
                    "that, or generation markers; leave out --roles, or set a template with {% generation %}"
                )
            end = len(written)
            if message["role"] in self._roles:
                if message["role"] == ASSISTANT and number > 1:
                    start += self._prompt_length(messages[: number - 1], ids[start:end], start, index)
                spoken[start:end] = [True] * (end - start)
        return spoken

    def _prompt_length(self, before: Messages, own: list[int], start: int, index: int) -> int:
        """Return how many of a message's `own` tokens, which begin at `start`, are the generation prompt."""
        prompt = (self._prefix(before, index, add_generation_prompt=True) or [])[start:]
        return len(prompt) if own[: len(prompt)] == prompt else 0

    def _prefix(self, messages: Messages, index: int, **options: Any) -> list[int] | None:
        """Return the ids of the first messages; None if the template refuses them alone."""
        try:
            ids: list[int] = self._encode(messages, index, **options)["input_ids"]
        except TextError:
            return None
        return ids

    def _encode(self, messages: Messages, index: int, **options: Any) -> Any:
        prompt = options.pop("add_generation_prompt", False)
        try:
            return self._tokenizer.apply_chat_template(
                messages,
                add_generation_prompt=prompt,
                tokenize=True,
                return_dict=True,
                tokenizer_kwargs={"verbose": False},
                **options,
            )
        except Exception as error:  # Templates are code: they raise what they like.
            raise TextError(
                f"the chat template failed on the text at index {index} ({reason(error)}); expected messages "
                "that it takes; correct or leave out this text"
            ) from error
