"""The tokens that are left in have the numbers of a plain float64 reference with a mask of its own."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import normscope
from normscope.analyses.why import nulls
from normscope.data.batching import Batching
from normscope.errors import UsageError
from normscope.models.loading import Loaded
from tests.data.test_batching import WORDS, encoder
from tests.support import chats, models
from tests.support.command import ended, error_of
from tests.support.reference import layer_norm, measure, rms_norm, stack, worst_error

tf: Any = transformers
Inputs = dict[str, Any]
TEXTS = ["alpha beta gamma", "delta alpha alphas beta a b c", "gamma", "a alpha", "b beta d e f"]


def inputs_at(model: Any, name: str, runs: Sequence[Inputs]) -> list[Any]:
    """Run inputs one by one and return what enters a layer, (B, T, D) float64 each."""
    seen: list[Any] = []
    module = model.get_submodule(name)
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].double().numpy()))
    with torch.no_grad():
        for inputs in runs:
            model(**inputs)
    handle.remove()
    return seen


def measured(model: Any, name: str, rows: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    """Measure texts x (T, D) at a layer, of which the tokens of a mask (T,) count."""
    module = model.get_submodule(name)
    eps = getattr(module, "eps", None) or module.variance_epsilon
    norm = layer_norm if isinstance(module, torch.nn.LayerNorm) else rms_norm
    samples = [(x[mask], norm(x[mask], eps), np.arange(len(x))[mask]) for x, mask in rows if mask.any()]
    return measure(stack(samples), eps)


def assert_as_measured(report: normscope.Report, reference: Callable[[str], dict[str, Any]]) -> None:
    layers = report.to_dict()["layers"]
    assert layers
    for got in layers:
        error, where = worst_error(got, reference(got["name"]))
        assert error < 2e-5, (got["name"], where)
        assert got["own_error"] < 1e-5


def untyped(ids: list[int]) -> Inputs:
    return {"input_ids": torch.tensor([ids])}


def text_reference(
    model: Any,
    rows: Sequence[list[int]],
    counts: Sequence[list[bool]],
    inputs: Callable[[list[int]], Inputs] = untyped,
) -> Callable[[str], dict[str, Any]]:
    """Return the reference of a layer over texts that run one by one, of which some tokens count."""

    def of_layer(name: str) -> dict[str, Any]:
        runs = [inputs(ids) for ids in rows]
        masks = [np.array(mask) for mask in counts]
        return measured(
            model, name, [(x[0], m) for x, m in zip(inputs_at(model, name, runs), masks, strict=True)]
        )

    return of_layer


# MiniLM


@pytest.fixture(scope="module")
def minilm() -> tuple[Any, Any]:
    return models.demo()


def test_ids_and_first_positions_on_minilm(minilm: tuple[Any, Any]) -> None:
    model, tokenizer = minilm
    texts = models.prose(24)
    batching = Batching(batch_size=8, max_length=40, exclude_tokens=("[SEP]", "the", 1010), skip_first=2)
    report = normscope.inspect(model, texts, tokenizer=tokenizer, batching=batching)
    rows = tokenizer(texts, truncation=True, max_length=40)["input_ids"]
    out = {102, tokenizer.convert_tokens_to_ids("the"), 1010}
    counts = [[t >= 2 and token not in out for t, token in enumerate(ids)] for ids in rows]
    assert_as_measured(report, text_reference(model, rows, counts))
    run = report.run
    excluded = sum(token in out for ids in rows for token in ids)
    first = sum(token not in out for ids in rows for token in ids[:2])
    assert run.left_out is not None
    assert vars(run.left_out) == {
        "special": 0,
        "excluded": excluded,
        "first": first,
        "roles": 0,
        "massive": 0,
    }
    assert run.tokens == sum(map(sum, counts)) == sum(map(len, rows)) - excluded - first
    assert run.selection is not None
    assert run.selection.exclude_tokens == tuple(sorted(out))
    assert (
        f"tokens left out: {excluded} of the excluded ids, {first} at the first 2 positions; "
        in (report.warnings[0])
    )


def test_the_numbers_depend_on_no_batch(minilm: tuple[Any, Any]) -> None:
    model, tokenizer = minilm
    rules: dict[str, Any] = {"exclude_tokens": ("the",), "skip_first": 1, "drop_massive": True}
    one, other = (
        normscope.inspect(
            model,
            models.prose(9),
            tokenizer=tokenizer,
            batching=Batching(size, 32, **rules),
            layers=["*0.out*"],
        ).to_dict()
        for size in (1, 4)
    )
    assert one["run"]["left_out"] == other["run"]["left_out"]
    error, where = worst_error(one["layers"][0]["feature"], other["layers"][0]["feature"])
    assert error < 1e-6, where


def test_nothing_is_massive_in_minilm(minilm: tuple[Any, Any]) -> None:
    model, tokenizer = minilm
    texts = models.prose(12)
    report = normscope.inspect(model, texts, tokenizer=tokenizer, batching=Batching(drop_massive=True))
    plain = normscope.inspect(model, texts, tokenizer=tokenizer)
    assert report.run.left_out is not None
    assert sum(vars(report.run.left_out).values()) == 0
    assert [
        layer.to_plain() if hasattr(layer, "to_plain") else layer for layer in report.layers.values()
    ] == [*plain.layers.values()]


@pytest.mark.parametrize("rules", [{"exclude_tokens": ("the", "[CLS]")}, {"skip_first": 3}])
def test_shards_merge_to_the_whole(minilm: tuple[Any, Any], rules: dict[str, Any]) -> None:
    model, tokenizer = minilm
    batching, texts = Batching(max_length=32, **rules), models.prose(15)

    def part(shard: normscope.Shard | None) -> normscope.Report:
        return normscope.inspect(
            model, texts, tokenizer=tokenizer, batching=batching, shard=shard, moments=True, layers=["emb*"]
        )

    whole, merged = part(None), normscope.merge([part(normscope.Shard(i, 3)) for i in (1, 2, 3)])
    assert merged.run.left_out == whole.run.left_out
    assert merged.run.selection == whole.run.selection
    assert merged.warnings == whole.warnings
    error, where = worst_error(
        merged.to_dict()["layers"][0]["feature"], whole.to_dict()["layers"][0]["feature"]
    )
    assert error < 1e-6, where
    other = normscope.inspect(
        model, texts, tokenizer=tokenizer, batching=Batching(max_length=32), layers=["emb*"], moments=True
    )
    with pytest.raises(UsageError, match=r"run\.selection"):
        normscope.merge([whole, other])


# An encoder and its decoder


def t5() -> Any:
    torch.manual_seed(0)
    config = tf.T5Config(
        vocab_size=100, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return models.spread_norms(tf.T5ForConditionalGeneration(config))


@pytest.mark.parametrize(
    "rules",
    [
        {"exclude_tokens": ("alpha", 0)},
        {"skip_first": 2},
        {"skip_first": 1, "exclude_tokens": ("beta",), "special_tokens": "exclude"},
    ],
)
def test_an_encoder_and_its_decoder(rules: dict[str, Any]) -> None:
    model, tokenizer = t5(), encoder()
    report = normscope.inspect(model, TEXTS, tokenizer=tokenizer, batching=Batching(3, **rules))
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    read = [[0, *ids[:-1]] for ids in rows]
    out = {WORDS.index(t) if isinstance(t, str) else t for t in rules.get("exclude_tokens", ())}
    special = {2, 3, 0} if "special_tokens" in rules else set()
    first = rules.get("skip_first", 0)
    masks = [
        [[t >= first and token not in out | special for t, token in enumerate(ids)] for ids in side]
        for side in (rows, read)
    ]

    def reference(name: str) -> dict[str, Any]:
        runs = [
            {"input_ids": torch.tensor([ids]), "decoder_input_ids": torch.tensor([shifted])}
            for ids, shifted in zip(rows, read, strict=True)
        ]
        counts = masks[name.startswith("decoder")]
        seen = inputs_at(model, name, runs)
        return measured(model, name, [(x[0], np.array(m)) for x, m in zip(seen, counts, strict=True)])

    assert_as_measured(report, reference)
    assert {layer.split(".")[0] for layer in report.layers} == {"encoder", "decoder"}
    assert report.run.tokens == sum(map(sum, masks[0]))


# Massive activations


def planted() -> Any:
    """A GPT-2 whose first position is massive, and other tokens only from the second block on."""
    model = models.gpt2()
    with torch.no_grad():
        model.transformer.wpe.weight[0, 5] = 3000.0
        model.transformer.h[0].mlp.c_proj.weight[:, 7] *= 40000.0
    return model


def typed(ids: list[int]) -> Inputs:
    """Return a text's inputs with the token types of this tokenizer, which GPT-2 embeds."""
    return {"input_ids": torch.tensor([ids]), "token_type_ids": torch.zeros(1, len(ids), dtype=torch.int64)}


def massive_by_hand(model: Any, rows: Sequence[list[int]]) -> list[list[bool]]:
    """Say which tokens have a massive element at the input of any norm, in float64."""
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)]
    massive = [np.zeros(len(ids), bool) for ids in rows]
    for name in names:
        runs = [typed(ids) for ids in rows]
        for flags, x in zip(massive, inputs_at(model, name, runs), strict=True):
            size = np.abs(x[0])
            flags[((size > 100) & (size >= 1000 * np.median(size))).any(1)] = True
    return [flags.tolist() for flags in massive]


def test_massive_tokens_are_left_out_at_all_layers() -> None:
    model, tokenizer = planted(), encoder()
    texts = [*TEXTS, *(f"{a} beta {b} gamma {a} {b} delta" for a in "abcd" for b in "efgh")]
    rows = [tokenizer(text)["input_ids"] for text in texts]
    massive = massive_by_hand(model, rows)
    batching = Batching(4, drop_massive=True)
    report = normscope.inspect(model, texts, tokenizer=tokenizer, batching=batching)
    counts = [[not flag for flag in flags] for flags in massive]
    assert_as_measured(report, text_reference(model, rows, counts, typed))
    assert report.run.left_out is not None
    assert report.run.left_out.massive == sum(map(sum, massive))
    assert all(flags[0] for flags in massive)
    later = sum(sum(flags[1:]) for flags in massive)
    assert 0 < later < sum(map(len, rows)) - len(rows)
    # A choice of layers changes no token.
    few = normscope.inspect(
        model, texts, tokenizer=tokenizer, batching=batching, layers=["transformer.h.0.ln_1"]
    )
    assert few.run.tokens == report.run.tokens


def test_a_massive_first_token_is_left_out_as_the_first_position_is() -> None:
    model, tokenizer = models.gpt2(), encoder()
    with torch.no_grad():
        model.transformer.wpe.weight[0, 5] = 3000.0
    by_rule, by_place = (
        normscope.inspect(model, TEXTS, tokenizer=tokenizer, batching=Batching(**rules))
        for rules in ({"drop_massive": True}, {"skip_first": 1})
    )
    assert by_rule.layers == by_place.layers
    assert by_rule.run.left_out is not None
    assert by_rule.run.left_out.massive == len(TEXTS)
    assert by_rule.warnings[0] == f"tokens left out: 5 with a massive activation; {by_rule.run.tokens} count"
    assert all(layer.outliers is not None for layer in by_rule.layers.values())
    assert sum(layer.outliers.massive.count for layer in by_rule.layers.values() if layer.outliers) == 0


def test_the_median_is_over_the_tokens_that_other_rules_leave_in() -> None:
    """Of a text of large tokens and small ones, the large ones are massive where the small ones count."""
    model, tokenizer = models.gpt2(), encoder()
    with torch.no_grad():
        model.transformer.wte.weight[WORDS.index("alpha")] *= 4000.0
        model.transformer.wte.weight[WORDS.index("alpha"), 3] = 3000.0

    def massive(**rules: Any) -> int:
        batching = Batching(drop_massive=True, **rules)
        report = normscope.inspect(model, ["a b c d e alpha"], tokenizer=tokenizer, batching=batching)
        assert report.run.left_out is not None
        return report.run.left_out.massive

    assert massive() == 1
    assert massive(exclude_tokens=tuple("abcde"), special_tokens="exclude") == 0


def test_massive_tokens_of_a_decoder_are_its_own() -> None:
    model, tokenizer = t5(), encoder()
    with torch.no_grad():
        # The start token alone is large, and only the decoder reads it.
        model.shared.weight[0, 5] = 30000.0
    report = normscope.inspect(model, TEXTS, tokenizer=tokenizer, batching=Batching(drop_massive=True))
    plain = normscope.inspect(model, TEXTS, tokenizer=tokenizer)
    assert report.run.left_out is not None
    assert report.run.left_out.massive == 0
    for name, layer in report.layers.items():
        left_out = plain.layers[name].count - layer.count
        assert left_out == (len(TEXTS) if name.startswith("decoder") else 0)


def test_a_text_of_massive_tokens_alone_is_skipped() -> None:
    model, tokenizer = models.gpt2(), encoder()
    with torch.no_grad():
        model.transformer.wte.weight[WORDS.index("gamma"), 5] = 3000.0
    batching = Batching(special_tokens="exclude", drop_massive=True)
    texts = ["gamma", "a b c gamma"]
    report = normscope.inspect(model, texts, tokenizer=tokenizer, batching=batching)
    assert (report.run.texts, report.run.skipped_texts, report.run.tokens) == (1, 1, 3)


# Conversations


@pytest.mark.parametrize("template", [chats.PLAIN, chats.MARKED])
def test_answers_of_a_chat_model(template: str) -> None:
    model, tokenizer = chats.llama(), chats.tokenizer(template)
    made = chats.conversations()
    texts = [as_json(chat) for chat in made]
    batching = Batching(5, chat_template=True, roles=["assistant"])
    report = normscope.inspect(model, texts, tokenizer=tokenizer, batching=batching)
    rows, counts = [], []
    for chat in made:
        ids: list[int] = []
        flags: list[bool] = []
        for message in chat:
            # Markers end before the line end, as this template has them.
            marked = template == chats.MARKED
            pieces = [
                (f"<|start|>{message['role']}\n", False),
                (f"{message['content']}<|end|>", True),
                ("\n", not marked),
            ]
            for piece, answers in pieces:
                new = tokenizer(piece, add_special_tokens=False)["input_ids"]
                ids += new
                flags += [answers and message["role"] == "assistant"] * len(new)
        rows.append(ids)
        counts.append(flags)
    assert_as_measured(report, text_reference(model, rows, counts))
    assert report.run.left_out is not None
    assert report.run.left_out.roles == sum(map(len, rows)) - sum(map(sum, counts))


def as_json(chat: list[dict[str, str]]) -> str:
    return json.dumps(chat)


# watch


def test_watch_on_a_left_padded_batch() -> None:
    model = models.gpt2()
    torch.manual_seed(1)
    ids = torch.randint(3, 20, (4, 9))
    mask = torch.arange(9) >= torch.tensor([0, 2, 5, 8])[:, None]
    batch = {"input_ids": ids.where(mask, 0), "attention_mask": mask.long()}
    with normscope.watch(model, exclude_tokens=[4, 7, 11], skip_first=2) as watcher, torch.no_grad():
        model(**batch)
        model(**batch)
    report = watcher.report()
    rows = [ids[i, mask[i]].tolist() for i in range(4)] * 2
    counts = [[t >= 2 and token not in (4, 7, 11) for t, token in enumerate(row)] for row in rows]

    def reference(name: str) -> dict[str, Any]:
        x = inputs_at(model, name, [batch])[0]
        pairs = [(x[i][mask[i].numpy()], np.array(counts[i])) for i in range(4)]
        return measured(model, name, pairs * 2)

    assert_as_measured(report, reference)
    assert report.run.selection is not None
    assert (report.run.selection.exclude_tokens, report.run.selection.skip_first) == ((4, 7, 11), 2)
    assert report.run.left_out is not None
    assert report.run.left_out.excluded == sum(token in (4, 7, 11) for row in rows for token in row)
    assert report.run.tokens == sum(map(sum, counts))
    assert report.warnings[0].startswith("tokens left out: ")


def test_watch_and_inspect_leave_out_the_same() -> None:
    model, tokenizer = t5(), encoder()
    inspected = normscope.inspect(
        model, TEXTS, tokenizer=tokenizer, batching=Batching(8, exclude_tokens=(0, "alpha"), skip_first=1)
    )
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    with normscope.watch(model, exclude_tokens=[0, WORDS.index("alpha")], skip_first=1) as watcher:
        for ids in rows:
            read = torch.tensor([[0, *ids[:-1]]])
            model(input_ids=torch.tensor([ids]), decoder_input_ids=read)
    watched = watcher.report()
    assert watched.run.left_out == inspected.run.left_out
    for name, layer in inspected.layers.items():
        assert layer.count == watched.layers[name].count
        assert layer.feature is not None
        other = watched.layers[name].feature
        assert other is not None
        assert np.allclose(layer.feature.mean, other.mean, atol=1e-6)


def test_a_mask_of_the_users_own_comes_first() -> None:
    model = models.gpt2()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with normscope.watch(model, skip_first=2) as watcher, torch.no_grad():
        watcher.mask = torch.tensor([[0, 1, 1, 1, 0, 1]])
        model(ids)
    run = watcher.report().run
    assert run.tokens == 3
    assert run.left_out is not None
    assert run.left_out.first == 1


def test_steps_of_a_generation_count_their_positions() -> None:
    model = models.gpt2()
    with normscope.watch(model, skip_first=3) as watcher, torch.no_grad():
        cache = model(torch.tensor([[5, 6]]), use_cache=True).past_key_values
        for token in (7, 8):
            cache = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True).past_key_values
    run = watcher.report().run
    assert (run.tokens, run.positions) == (1, 4)


def test_a_forward_without_ids_or_tokens_is_noted() -> None:
    model = models.gpt2()
    hidden = torch.randn(2, 5, 32)
    with normscope.watch(model, exclude_tokens=[5], skip_first=1) as watcher, torch.no_grad():
        model(inputs_embeds=hidden)
    report = watcher.report()
    assert "a forward has no input_ids, so exclude_tokens left nothing out" in report.warnings
    assert report.run.tokens == 8
    with normscope.watch(torch.nn.LayerNorm(4), skip_first=1) as watcher:
        watcher.model(torch.randn(2, 3, 4))
    assert any(
        "has no tokens, so exclude_tokens and skip_first left nothing" in w for w in watcher.report().warnings
    )


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"exclude_tokens": [100]}, "names the id 100; expected an id from 0 to 99"),
        ({"exclude_tokens": ["a"]}, "expected a list of token ids"),
        ({"skip_first": -1}, "skip first is -1; expected a whole number from 0"),
    ],
)
def test_rules_that_cannot_be_are_errors(rules: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        normscope.watch(models.gpt2(), **rules)


# All commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("chat")
    chats.llama().save_pretrained(place)
    chats.tokenizer().save_pretrained(place)
    chats.write_jsonl(place / "chats.jsonl", chats.conversations(16))
    return place


@pytest.mark.parametrize("command", ["inspect", "batches --sizes 2,4", "why --samples 16", "swap"])
def test_every_command_that_reads_text_leaves_out_the_same(command: str, folder: Path) -> None:
    name, *more = command.split()
    rules = "--chat-template --roles assistant --skip-first 20 --drop-massive --exclude-tokens <|end|>"
    result = ended([name, folder, "-f", folder / "chats.jsonl", *more, *rules.split(), "--json"])
    assert result.exit_code == 0, result.stderr
    run = json.loads(result.stdout)["run"]
    assert run["selection"] == {
        "exclude_tokens": [2],
        "skip_first": 20,
        "drop_massive": True,
        "chat_template": True,
        "roles": ["assistant"],
    }
    assert run["left_out"]["roles"] > 0 < run["left_out"]["excluded"]
    assert "warning: tokens left out: " in result.stderr


@pytest.mark.parametrize("command", ["inspect", "batches", "why", "swap"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--exclude-tokens 300", "exclude tokens names the id 300; expected an id from 0 to 299"),
        ("--exclude-tokens hello-there", "exclude tokens names 'hello-there', which is "),
        ("--exclude-tokens 1,,2", "--exclude-tokens is '1,,2'; expected token ids or texts of one token"),
        ("--skip-first -1", "skip first is -1; expected a whole number from 0"),
        ("--roles assistant", "roles were given without a chat template"),
        ("--chat-template --roles ,", "--roles is ','; expected words with commas between them"),
        ("--chat-template --field id", "expected messages, such as"),
    ],
)
def test_every_command_refuses_the_same(command: str, options: str, said: str, folder: Path) -> None:
    field = [] if "--chat" in options else ["--field", "id"]
    texts = folder / "chats.jsonl"
    if field:
        texts = folder / "texts.txt"
        texts.write_text("one text\nanother text\n")
        field = []
    assert said in error_of([command, folder, "-f", texts, *field, *options.split()])


def test_a_chat_needs_messages_and_a_template(folder: Path, tmp_path: Path) -> None:
    texts = tmp_path / "a.txt"
    texts.write_text("Hello.")
    assert "the text at index 0 is no conversation" in error_of(
        ["inspect", folder, "-f", texts, "--chat-template"]
    )
    assert "no chat template" in error_of(
        ["inspect", "demo", "-f", folder / "chats.jsonl", "--chat-template"]
    )
    nobody = error_of(
        ["inspect", folder, "-f", folder / "chats.jsonl", "--chat-template", "--roles", "nobody"]
    )
    assert nobody.startswith("no token to measure in 16 texts; expected at least one that counts")


def test_a_resumed_run_counts_what_was_left_out_before(tmp_path: Path) -> None:
    model, tokenizer = planted(), encoder()
    loaded = Loaded(model, tokenizer, "x", None, None, ())
    batching = Batching(1, skip_first=1, exclude_tokens=("beta",), drop_massive=True, order="given")
    whole = normscope.inspect(loaded, TEXTS, batching=batching)
    path, stop = tmp_path / "run.ckpt", normscope.Stop()
    shown = 0

    def progress(_: Any) -> None:
        nonlocal shown
        shown += 1
        if shown > 4:
            stop.ask()

    first = normscope.inspect(
        loaded,
        TEXTS,
        batching=batching,
        checkpoint=normscope.Checkpoint(path, 0),
        stop=stop,
        progress=progress,
    )
    assert 0 < first.run.texts < whole.run.texts
    rest = normscope.inspect(
        loaded, TEXTS, batching=batching, checkpoint=normscope.Checkpoint(path, 0, resume=True)
    )
    assert rest.run.left_out == whole.run.left_out
    assert rest.run.tokens == whole.run.tokens


def test_words_of_conversations_are_shuffled_within_their_form() -> None:
    made = [as_json(chat) for chat in chats.conversations(6)]
    shuffled = nulls.shuffled(made, made, 3, chat=True)

    def words(texts: Sequence[str]) -> list[str]:
        said = [message["content"] for text in texts for message in json.loads(text)]
        return sorted(word for content in said for word in content.split())

    assert shuffled != made
    assert words(shuffled) == words(made)
    for before, after in zip(made, shuffled, strict=True):
        old, new = json.loads(before), json.loads(after)
        assert [m["role"] for m in old] == [m["role"] for m in new]
        assert [len(m["content"].split()) for m in old] == [len(m["content"].split()) for m in new]
