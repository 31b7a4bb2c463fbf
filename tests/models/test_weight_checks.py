"""Configurations that describe more weights than a checkpoint holds, and the reverse."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from normscope.errors import ModelError
from normscope.models.location import Loading, Source
from normscope.models.weight_checks import left_out_note, require_buildable, require_fit
from tests.support import models


def source(origin: Path, *, is_folder: bool = True) -> Source:
    return Source("given", str(origin), is_folder, Loading())


def holding(folder: Path, name: str, size: int) -> Path:
    with (folder / name).open("wb") as stream:
        stream.truncate(size)
    return folder


def config(**changes: Any) -> Any:
    return transformers.BertConfig(hidden_size=8, num_attention_heads=2, intermediate_size=16, **changes)


def test_layers_are_counted_whatever_part_of_the_model_has_them(tmp_path: Path) -> None:
    require_buildable(source(tmp_path), config(num_hidden_layers=10_000, vocab_size=10**6))
    with pytest.raises(ModelError, match="num_hidden_layers is 10001; expected at most 10000; check"):
        require_buildable(source(tmp_path), config(num_hidden_layers=10_001))
    nested = transformers.CLIPConfig(text_config={"num_hidden_layers": 10**6}, vision_config={})
    with pytest.raises(ModelError, match="num_hidden_layers is 1000000"):
        require_buildable(source(tmp_path), nested)


def skeleton(weights: int) -> Any:
    with torch.device("meta"):
        return torch.nn.Linear(weights, 1, bias=False)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_checkpoint_holds_half_a_bit_of_each_weight_at_least(tmp_path: Path, name: str) -> None:
    size = 3 * 10**7
    origin, large = source(holding(tmp_path, name, size)), config(vocab_size=10**9)
    require_fit(origin, large, lambda: skeleton(16 * size))
    with pytest.raises(
        ModelError, match="describes 480,000,001 weights; its checkpoint of 30,000,000 bytes cannot hold them"
    ):
        require_fit(origin, large, lambda: skeleton(16 * size + 1))


def test_what_fits_everywhere_is_not_looked_at(tmp_path: Path) -> None:
    origin = source(holding(tmp_path, "model.safetensors", 9))
    require_fit(origin, config(vocab_size=10**9), lambda: skeleton(1 << 28))
    with pytest.raises(ModelError, match="cannot hold them"):
        require_fit(origin, config(vocab_size=10**9), lambda: skeleton((1 << 28) + 1))


def test_a_folder_with_weights_alone_is_looked_at(tmp_path: Path) -> None:
    def built() -> Any:
        raise AssertionError("it was built")

    require_fit(source(tmp_path), config(vocab_size=10**9), built)
    holding(tmp_path, "model.safetensors", 9)
    require_fit(source(tmp_path, is_folder=False), config(vocab_size=10**9), built)
    require_fit(source(tmp_path), config(vocab_size=1000), built)
    with pytest.raises(AssertionError):
        require_fit(source(tmp_path), config(vocab_size=10**9), built)


def test_weights_of_layers_that_there_are_none_of_are_named() -> None:
    model, prefix = models.bert(), "bert.encoder.layer"
    assert left_out_note(model, []) == left_out_note(model, ["a.head.weight"]) == ()
    one = [f"{prefix}.7.output.dense.bias", "a.head.weight"]
    assert left_out_note(model, one) == (
        "1 weight of the checkpoint has no layer in the model that config.json describes: "
        f"{prefix}.7.output.dense.bias",
    )
    (note,) = left_out_note(model, [f"{prefix}.{i}.output.dense.bias" for i in (8, 6, 7, 9)])
    assert note.startswith("4 weights of the checkpoint have no layer")
    assert note.endswith(f": {', '.join(f'{prefix}.{i}.output.dense.bias' for i in (6, 7, 8))}, ...")
