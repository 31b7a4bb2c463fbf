"""Conversations are what the template writes, and each token has the role of its message."""

import json
from pathlib import Path
from typing import Any

import pytest

from normscope.data.batching import Batches, Batching
from normscope.data.conversations import ChatTemplate, as_text, messages_of, rewritten
from normscope.data.hub_dataset import read_dataset
from normscope.data.text_files import read_texts
from normscope.errors import ModelError, TextError, UsageError
from tests.support import chats

CHATS = chats.conversations()
TEXTS = [json.dumps(chat) for chat in CHATS]


def written(chat: Any, *, upto: int | None = None) -> str:
    """The template written out by hand."""
    return "".join(f"<|start|>{m['role']}\n{m['content']}<|end|>\n" for m in chat[:upto])


def by_hand(tokenizer: Any, chat: Any, roles: set[str]) -> list[bool]:
    """Say which tokens are of the roles, by the characters that they come from."""
    text = written(chat)
    spoken = [False] * len(text)
    for number, message in enumerate(chat):
        start, end = len(written(chat, upto=number)), len(written(chat, upto=number + 1))
        if message["role"] == "assistant" and number:
            start += len("<|start|>assistant\n")
        if message["role"] in roles:
            spoken[start:end] = [True] * (end - start)
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [spoken[start] for start, _ in spans]


@pytest.mark.parametrize("roles", [{"assistant"}, {"user"}, {"system", "user"}, {"assistant", "system"}])
def test_prefixes_tell_the_tokens_of_a_role(roles: set[str]) -> None:
    tokenizer = chats.tokenizer()
    template = ChatTemplate(tokenizer, sorted(roles))
    for chat, text in zip(CHATS, TEXTS, strict=True):
        turns = template.write(text, 0)
        assert turns.ids == tokenizer(written(chat), add_special_tokens=False)["input_ids"]
        assert turns.spoken == by_hand(tokenizer, chat, roles)


def test_markers_tell_the_assistants_tokens() -> None:
    """The markers of this template leave out the line end behind an answer; prefixes do not."""
    tokenizer = chats.tokenizer(chats.MARKED)
    end = tokenizer("\n", add_special_tokens=False)["input_ids"]
    for chat, text in zip(CHATS, TEXTS, strict=True):
        turns = ChatTemplate(tokenizer, ["assistant"]).write(text, 0)
        assert turns.spoken is not None
        expected = by_hand(tokenizer, chat, {"assistant"})
        stops = [i for i in range(1, len(turns.ids)) if turns.ids[i] == end[0] and turns.ids[i - 1] == 2]
        for i in stops:
            expected[i] = False
        assert turns.spoken == expected
        assert any(turns.spoken)


def test_other_roles_of_a_marked_template_are_told_by_prefixes() -> None:
    tokenizer = chats.tokenizer(chats.MARKED)
    for chat, text in zip(CHATS, TEXTS, strict=True):
        spoken = ChatTemplate(tokenizer, ["user"]).write(text, 0).spoken
        assert spoken == by_hand(tokenizer, chat, {"user"})


def test_an_answer_that_does_not_begin_with_the_prompt_has_its_header() -> None:
    """As of templates whose prompt opens a thought that a written answer does not have."""
    template = chats.PLAIN.replace("'<|start|>assistant\n'", "'<|start|>assistant\n<think>'")
    tokenizer = chats.tokenizer(template)
    chat = CHATS[1]
    spoken = ChatTemplate(tokenizer, ["assistant"]).write(TEXTS[1], 0).spoken
    user = written(chat, upto=1)
    answer = [False] * len(tokenizer(user, add_special_tokens=False)["input_ids"])
    assert spoken is not None
    assert spoken[: len(answer)] == answer
    assert spoken[len(answer)]


def test_without_roles_all_tokens_count() -> None:
    assert ChatTemplate(chats.tokenizer()).write(TEXTS[0], 0).spoken is None


def test_the_template_comes_first_then_the_cut_then_the_masks() -> None:
    tokenizer = chats.tokenizer()
    options = Batching(chat_template=True, roles=["assistant"], max_length=60, skip_first=45, order="given")
    batches = Batches(TEXTS, tokenizer, options, max_length=None)
    made = list(batches)
    expected = {}
    for index, chat in enumerate(CHATS):
        ids = tokenizer(written(chat), add_special_tokens=False)["input_ids"][:60]
        spoken = by_hand(tokenizer, chat, {"assistant"})[:60]
        counted = [said and i >= 45 for i, said in enumerate(spoken)]
        if any(counted):
            expected[index] = ids, counted
    got = {
        source: (ids[mask].tolist(), valid[mask].tolist())
        for batch in made
        for source, ids, mask, valid in zip(
            batch.sources, batch.inputs["input_ids"], batch.mask, batch.valid, strict=True
        )
    }
    assert got == expected
    assert 0 < len(got) < len(CHATS)
    assert batches.truncated == sum(len(ids) == 60 for ids, _ in got.values()) > 0
    assert batches.skipped == len(CHATS) - len(got)


def test_a_cut_on_the_left_keeps_the_end() -> None:
    tokenizer = chats.tokenizer()
    tokenizer.truncation_side = "left"
    options = Batching(chat_template=True, roles=["assistant"], max_length=20)
    (batch,) = Batches(TEXTS[:1], tokenizer, options, max_length=None)
    ids = tokenizer(written(CHATS[0]), add_special_tokens=False)["input_ids"]
    assert batch.inputs["input_ids"][0].tolist() == ids[-20:]
    assert batch.valid[0].tolist() == by_hand(tokenizer, CHATS[0], {"assistant"})[-20:]


# Errors


def test_a_tokenizer_without_a_template_is_an_error() -> None:
    with pytest.raises(ModelError, match="the tokenizer has no chat template; expected one"):
        ChatTemplate(chats.tokenizer(None))


def test_a_template_that_is_not_written_message_by_message_is_an_error() -> None:
    template = ChatTemplate(chats.tokenizer(chats.BACKWARDS), ["user"])
    with pytest.raises(
        UsageError, match="of the first 1 message of the text at index 7 is not the beginning"
    ):
        template.write(TEXTS[1], 7)
    assert ChatTemplate(chats.tokenizer(chats.BACKWARDS)).write(TEXTS[1], 7).spoken is None


def test_a_template_that_refuses_a_conversation_is_an_error() -> None:
    refusing = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(TextError, match=r"the chat template failed on the text at index 3 .*must alternate"):
        ChatTemplate(chats.tokenizer(refusing)).write(TEXTS[0], 3)


@pytest.mark.parametrize(
    "text", ["hello", "[]", "{}", '["a"]', '[{"content": "a"}]', '{"messages": "a"}', "1"]
)
def test_a_text_that_is_no_conversation_is_an_error(text: str) -> None:
    with pytest.raises(
        TextError, match=r"the text at index 2 is no conversation: .*; expected messages, such"
    ):
        messages_of(text, 2)


def test_a_conversation_may_be_an_object_or_one_of_columns() -> None:
    chat = CHATS[0]
    assert messages_of(json.dumps({"messages": chat}), 0) == chat
    columns = {name: [message[name] for message in chat] for name in ("role", "content")}
    assert as_text(columns) == as_text(chat) == json.dumps(chat)
    assert as_text([{"role": "user", "content": "\ud800"}]) is None


def test_words_are_rewritten_message_by_message() -> None:
    chat = [{"role": "user", "content": "a b"}, {"role": "x", "content": [{"type": "text", "text": "c"}]}]
    assert json.loads(rewritten(json.dumps(chat), str.upper)) == [
        {"role": "user", "content": "A B"},
        {"role": "x", "content": [{"type": "text", "text": "C"}]},
    ]


# Files and datasets


def test_files_bring_conversations(tmp_path: Path) -> None:
    plain = chats.write_jsonl(tmp_path / "a.jsonl", CHATS)
    named = chats.write_jsonl(tmp_path / "b.jsonl", CHATS, "dialogue")
    bare = tmp_path / "c.jsonl"
    bare.write_text("\n".join([*TEXTS, "", "null"]), encoding="utf-8")
    array = tmp_path / "d.json"
    array.write_text(json.dumps([{"messages": chat} for chat in CHATS], indent=1), encoding="utf-8")
    expected = [as_text(chat) for chat in CHATS]
    assert list(read_texts([], [plain], chat=True)) == expected
    assert list(read_texts([], [named], field="dialogue", chat=True)) == expected
    assert list(read_texts([], [bare], chat=True)) == [*expected, "", ""]
    assert list(read_texts([], [array], chat=True)) == expected
    assert list(read_dataset(str(plain), chat=True)) == expected
    assert list(read_dataset(str(named), field="dialogue", chat=True)) == expected


def test_numbers_in_messages_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"messages": [{"role": "tool", "content": "x", "id": 12345678901234567890}]}')
    (text,) = read_texts([], [path], chat=True)
    assert '"id": 12345678901234567890' in text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            '{"text": "a"}',
            "line 1: no member 'messages'; expected one of \\['text'\\]; name one as the field",
        ),
        ('{"messages": []}', "line 1: the messages are \\[\\]; expected messages, such as"),
        ('{"messages": {"a": 1}}', "line 1: the messages are {'a': 1}; expected messages, such as"),
        ("3", "line 1: the messages are 3; expected messages, such as"),
    ],
)
def test_data_without_messages_are_an_error(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(line)
    with pytest.raises(TextError, match=said):
        list(read_texts([], [path], chat=True))


def test_a_dataset_without_messages_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": 3}')
    with pytest.raises(TextError, match="no field 'messages'; expected one of 'text'; name one with --field"):
        list(read_dataset(str(path), chat=True))
    with pytest.raises(TextError, match=r"'label' is int; expected messages, such as .*; name another with"):
        list(read_dataset(str(path), field="label", chat=True))
