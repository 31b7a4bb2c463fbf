"""Models that accelerate spreads over devices: the same numbers, read on the device of each layer."""

from pathlib import Path
from typing import Any

import pytest
import torch

import normscope
from normscope.data.batching import Batching
from normscope.errors import ModelError, UsageError
from normscope.models.device_map import keep_vectors, require_accelerate
from normscope.models.loading import load
from normscope.models.location import Loading
from normscope.norms.module_tree import is_spread
from normscope.results.inspect import Report
from tests.data.test_batching import encoder
from tests.support import models
from tests.support.reports_alike import furthest

TEXTS = ["alpha beta", "gamma delta alpha beta a b c", "a b"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    models.bert(pad_token_id=0).save_pretrained(folder)
    encoder().save_pretrained(folder)
    return folder


def inspected(model: Any) -> Report:
    return normscope.inspect(model, TEXTS, tokenizer=encoder(), batching=Batching(batch_size=2))


@pytest.mark.parametrize("device_map", ["auto", "cpu", "balanced", "sequential"])
def test_a_device_map_gives_the_same_numbers(folder: Path, device_map: str) -> None:
    plain = inspected(load(folder, Loading(device="cpu")))
    spread = inspected(load(folder, Loading(device_map=device_map)))
    assert furthest(plain.to_dict(), spread.to_dict()) == 0.0


def test_weights_that_come_and_go() -> None:
    """Only matrices are offloaded: the vectors of norms stay, and hooks read them after the forward."""
    from accelerate import cpu_offload

    plain, model = inspected(models.bert(pad_token_id=0)), models.bert(pad_token_id=0)
    cpu_offload(model, torch.device("cpu"))
    keep_vectors(model)
    norm = model.bert.encoder.layer[0].output.LayerNorm
    assert model.bert.encoder.layer[0].output.dense.weight.is_meta
    assert not norm.weight.is_meta
    offloaded = inspected(model)
    assert offloaded.model.device == "offloaded and cpu"
    # Tied weights are two on the meta device.
    own = ("seconds", "device", "parameters")
    assert furthest(plain.to_dict(), offloaded.to_dict(), own) == 0.0
    assert model.bert.encoder.layer[0].output.dense.weight.is_meta


def test_an_input_that_comes_from_another_device() -> None:
    """The meta device stands for it: its numbers cannot be read, so the layer's own device must be used."""
    from normscope.capture.layer_capture import _on_output_device

    given, output = torch.zeros(2, 3, device="cpu"), torch.empty(2, 3, device="meta")
    assert _on_output_device(given, (output, None)).device.type == "meta"
    assert _on_output_device(given, None) is given


def test_accelerate_that_is_missing_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normscope.models.device_map.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the package accelerate.*pip install '\.\[accelerate\]'"):
        load(folder, Loading(device_map="auto"))
    monkeypatch.undo()
    require_accelerate("auto")


def test_a_device_and_a_map_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="device 'cpu' and device map 'auto' were both given"):
        Loading(device="cpu", device_map="auto")


@pytest.mark.parametrize("device_map", ["nowhere", "cuda:99"])
def test_a_map_that_there_is_not_is_one_line(folder: Path, device_map: str) -> None:
    said = f"^device '{device_map}' is not available here .*; expected a device of this machine; use 'auto'"
    with pytest.raises(ModelError, match=said) as caught:
        load(folder, Loading(device_map=device_map))
    assert "\n" not in str(caught.value)


def test_hooks_that_come_several_to_a_module() -> None:
    """As accelerate adds its own hook to an existing one."""
    from accelerate import cpu_offload
    from accelerate.hooks import ModelHook, add_hook_to_module

    model = models.bert(pad_token_id=0)
    norm = model.bert.encoder.layer[0].output.LayerNorm
    cpu_offload(model, torch.device("cpu"))
    add_hook_to_module(norm, ModelHook(), append=True)
    assert is_spread(model)
    assert not is_spread(models.bert())
    keep_vectors(model)
    assert not norm.weight.is_meta
    assert torch.equal(norm.weight, models.bert(pad_token_id=0).bert.encoder.layer[0].output.LayerNorm.weight)


def test_a_module_with_a_matrix_and_a_vector_goes_whole() -> None:
    from accelerate import cpu_offload

    model = models.bert(pad_token_id=0)
    cpu_offload(model, torch.device("cpu"))
    keep_vectors(model)
    dense = model.bert.encoder.layer[0].output.dense
    assert (dense.weight.is_meta, dense.bias.is_meta) == (True, True)
