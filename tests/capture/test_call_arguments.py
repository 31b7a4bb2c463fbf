"""However a forward is given tokens and mask: padding does not count, or it is said that it does."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import normscope
from normscope.errors import UsageError
from tests.capture.test_padding import seq2seq
from tests.capture.test_token_scopes import mask_of
from tests.capture.test_watcher import TEXTS, expected, padded
from tests.support import models
from tests.support.reference import layer_norm, measure, stack, worst_error

UNLESS = "padding counts unless watcher.mask is set"


class Tagger(nn.Module):
    """A model of one's own: its tokens and their mask have no names that are known."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm = nn.Embedding(100, 8), nn.LayerNorm(8)

    def forward(self, ids: torch.Tensor, kept: torch.Tensor | None = None) -> Any:
        return self.norm(self.embed(ids))


class OneDictionary(Tagger):
    def forward(self, batch: dict[str, Any]) -> Any:  # type: ignore[override]
        return super().forward(batch["input_ids"])


class Keywords(Tagger):
    def forward(self, inputs: Any, **options: Any) -> Any:  # type: ignore[override]
        return super().forward(inputs)


class Positional(Tagger):
    def forward(self, *args: Any) -> Any:
        return super().forward(args[0] if isinstance(args[0], torch.Tensor) else args[0]["input_ids"])


class Wrapper(nn.Module):
    """Hands on what it is given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


def watched(model: nn.Module, *args: Any, mask: Any = None, **kwargs: Any) -> normscope.Report:
    with normscope.watch(model) as watcher, torch.no_grad():
        watcher.mask = mask
        model(*args, **kwargs)
    return watcher.report()


IDS, MASK = torch.arange(1, 15).reshape(2, 7), mask_of(7, 3)
BATCH = {"input_ids": IDS, "attention_mask": MASK}


@pytest.mark.parametrize(
    ("model", "args", "kwargs"),
    [
        (OneDictionary, (BATCH,), {}),
        (Positional, (BATCH,), {}),
        (Keywords, (IDS,), {"attention_mask": MASK}),
        (Keywords, (IDS,), {"options": {"deep": {"attention_mask": MASK}}}),
    ],
)
def test_a_mask_in_a_dictionary_is_found(model: type[nn.Module], args: Any, kwargs: Any) -> None:
    if model is Keywords:
        kwargs = {**kwargs, "input_ids": IDS}
    report = watched(model(), *args, **kwargs)
    assert (report.layers["norm"].count, report.run.tokens, report.warnings) == (10, 10, ())


@pytest.mark.parametrize("model", [Tagger, Positional])
def test_a_mask_that_has_no_name_is_missed_and_that_is_said(model: type[nn.Module]) -> None:
    report = watched(model(), IDS, MASK)
    assert report.layers["norm"].count == 14
    assert report.warnings == (f"{model.__name__}'s forward has no attention_mask: {UNLESS}",)
    masked = watched(model(), IDS, MASK, mask=MASK)
    assert (masked.layers["norm"].count, masked.warnings) == (10, ())


def test_a_wrapper_of_a_model_that_takes_a_mask_says_nothing() -> None:
    report = watched(Wrapper(models.bert()), IDS, MASK)
    assert report.layers["inner.bert.embeddings.LayerNorm"].count == 10
    assert report.warnings == ()
    assert watched(Wrapper(models.bert()), IDS).warnings == ()
    assert watched(Tagger(), IDS[:1]).warnings == ()


def test_an_argument_may_be_called_kwargs() -> None:
    class Odd(Tagger):
        def forward(self, input_ids: torch.Tensor, kwargs: torch.Tensor) -> Any:  # type: ignore[override]
            return super().forward(input_ids)

    assert watched(Odd(), IDS, MASK).layers["norm"].count == 14


@pytest.mark.parametrize("lowest", [-1e4, float("-inf"), torch.finfo(torch.float32).min])
def test_an_additive_mask_is_negative_at_padding(lowest: float) -> None:
    mask = torch.zeros(2, 7).masked_fill(MASK == 0, lowest)
    model = Tagger()
    model.forward = lambda input_ids, attention_mask: model.norm(model.embed(input_ids))  # type: ignore
    report = watched(model, input_ids=IDS, attention_mask=mask)
    assert (report.layers["norm"].count, report.run.tokens) == (10, 10)
    whole = watched(model, input_ids=IDS, attention_mask=torch.zeros(2, 7))
    assert whole.layers["norm"].count == 14


def test_a_mask_of_fewer_tokens_is_said() -> None:
    model = OneDictionary()
    report = watched(model, {"input_ids": IDS, "attention_mask": MASK[:, :5]})
    assert report.layers["norm"].count == 14
    assert report.warnings == (f"attention_mask is (2, 5) and the tokens are (2, 7): {UNLESS}",)


@pytest.mark.parametrize("name", ["mask", "decoder_mask"])
@pytest.mark.parametrize(
    ("mask", "got"),
    [([[1, 0]], "list"), (np.ones((2, 7)), "ndarray"), (torch.ones(7), r"\(7,\)"), (1, "int")],
)
def test_what_is_no_mask_is_refused(name: str, mask: Any, got: str) -> None:
    with normscope.watch(models.bert()) as watcher:
        setattr(watcher, name, mask)
        with pytest.raises(
            UsageError, match=rf"^watcher.{name} is {got}; expected a tensor \(batch, tokens\)"
        ):
            watcher.model(**BATCH)


@pytest.mark.parametrize("model", [Tagger(), Wrapper(models.bert())])
def test_a_mask_of_another_shape_is_refused_without_names_too(model: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"watcher.mask is \(2, 5\) and "):
        watched(model, IDS, mask=torch.ones(2, 5))


def test_a_translation_counts_its_source_once() -> None:
    """Each step of the decoder is given what the encoder has made, beside the mask of the source."""
    model = seq2seq("T5")
    with normscope.watch(model) as watcher, torch.no_grad():
        model.generate(**BATCH, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    report = watcher.report()
    assert (report.run.texts, report.run.tokens) == (2, 10)
    counts = [report.layers[f"{part}.final_layer_norm"].count for part in ("encoder", "decoder")]
    assert counts == [10, 8]


# Batches of nothing


@pytest.mark.parametrize("empty", ["no texts", "no tokens", "padding alone"])
def test_a_batch_of_nothing_counts_as_nothing(empty: str) -> None:
    model = OneDictionary()
    nothing = {
        "no texts": {name: values[:0] for name, values in BATCH.items()},
        "no tokens": {name: values[:, :0] for name, values in BATCH.items()},
        "padding alone": {**BATCH, "attention_mask": torch.zeros_like(MASK)},
    }[empty]
    with normscope.watch(model) as watcher, torch.no_grad():
        model(nothing)
        model(BATCH)
        model(nothing)
    report, want = watcher.report(), watched(model, BATCH)
    assert report.to_dict()["layers"] == want.to_dict()["layers"]
    got = {**report.to_dict()["run"], "seconds": 0}
    assert got == {**want.to_dict()["run"], "seconds": 0}


def test_a_batch_of_no_images_counts_as_nothing() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(12))
    with normscope.watch(model) as watcher, torch.no_grad():
        model(torch.ones(0, 3, 4))
        model(torch.randn(2, 3, 4))
    assert (watcher.report().run.batches, watcher.report().layers["1"].calls) == (1, 1)


# Texts that share rows


def packed(rows: list[list[list[int]]]) -> dict[str, torch.Tensor]:
    """Texts one after the other, as transformers' DataCollatorWithFlattening writes them."""
    ids = [[token for text in row for token in text] for row in rows]
    positions = [[position for text in row for position in range(len(text))] for row in rows]
    return {"input_ids": torch.tensor(ids), "position_ids": torch.tensor(positions)}


@pytest.mark.parametrize("rows", [[TEXTS], [[TEXTS[0], TEXTS[3], [8]], [[2], TEXTS[1]]]])
def test_packed_texts_are_texts_of_their_own(rows: list[list[list[int]]]) -> None:
    model = models.gpt2()
    batch = packed(rows)
    texts = [text for row in rows for text in row]
    report = watched(
        model, **batch, use_cache=False
    )  # With a cache, transformers does not read positions so.
    assert (report.run.texts, report.run.tokens, report.run.positions) == (
        len(texts),
        sum(map(len, texts)),
        7,
    )
    assert report.warnings == ()
    alone: list[Any] = []
    for name in ("transformer.h.0.ln_1", "transformer.h.1.ln_2", "transformer.ln_f"):
        alone.clear()
        handle = model.get_submodule(name).register_forward_pre_hook(
            lambda _, args: alone.append(args[0][0].double().numpy())
        )
        with torch.no_grad():
            for text in texts:
                model(input_ids=torch.tensor([text]))
        handle.remove()
        layer = report.layers[name]
        rows_of = [(x, layer_norm(x, layer.eps), np.arange(len(x))) for x in alone]
        got = report.to_dict()["layers"][layer.index]
        error, where = worst_error(got, measure(stack(rows_of), layer.eps))
        assert error < 2e-5, (name, where)


def test_positions_that_padding_sets_back_begin_no_text() -> None:
    model, name = models.gpt2(), "transformer.ln_f"
    report = watched(model, **padded("left"))
    assert report.run.texts == len(TEXTS)
    layer = report.layers[name]
    got = report.to_dict()["layers"][layer.index]
    assert worst_error(got, expected(model, name, layer_norm, layer.eps))[0] < 2e-5


def test_positions_that_stand_still_begin_no_text() -> None:
    class Still(OneDictionary):
        pass

    report = watched(Still(), {**BATCH, "position_ids": torch.zeros_like(IDS)})
    assert report.run.texts == 2
