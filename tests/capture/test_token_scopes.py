"""Whose mask a layer sees: encoders, decoders, towers, submodules alone; and sizes that coincide."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import normscope
from tests.support import models

SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def t5() -> Any:
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
    return models.spread_norms(transformers.T5Model(config))


def mask_of(*lengths: int) -> torch.Tensor:
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def feature_variance(model: nn.Module, name: str, kept: torch.Tensor, run: Any) -> Any:
    """The variance per feature of the kept rows of what enters a layer, by a hook of our own."""
    inputs: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        run()
    handle.remove()
    return inputs[0][kept.bool()].double().numpy().var(0)


def test_encoder_and_decoder_have_each_their_own_mask() -> None:
    model, source, target = t5(), mask_of(6, 2), mask_of(2, 6)
    inputs = {
        "input_ids": torch.randint(1, 100, (2, 6)),
        "attention_mask": source,
        "decoder_input_ids": torch.randint(1, 100, (2, 6)),
        "decoder_attention_mask": target,
    }
    with normscope.watch(model) as watcher, torch.no_grad():
        model(**inputs)
    for stack, mask in (("encoder", source), ("decoder", target)):
        name = f"{stack}.block.0.layer.0.layer_norm"
        layer = watcher.report().layers[name]
        assert layer.position is not None
        assert layer.feature is not None
        assert layer.position.count.tolist() == mask.sum(0).tolist()
        expected = feature_variance(model, name, mask, lambda: model(**inputs))
        np.testing.assert_allclose(layer.feature.variance, expected, rtol=1e-5)
    assert watcher.report().run.tokens == 8


def test_a_decoder_without_a_mask_of_its_own_has_no_padding() -> None:
    model = t5()
    with normscope.watch(model) as watcher, torch.no_grad():
        ids = torch.randint(1, 100, (2, 6))
        model(input_ids=ids, attention_mask=mask_of(6, 2), decoder_input_ids=ids)
    assert watcher.report().layers["decoder.final_layer_norm"].count == 12


def test_a_submodule_that_is_run_on_its_own_is_masked() -> None:
    model = t5()
    with normscope.watch(model) as watcher, torch.no_grad():
        model.encoder(input_ids=torch.randint(1, 100, (2, 6)), attention_mask=mask_of(6, 2))
    report = watcher.report()
    assert report.layers["encoder.final_layer_norm"].count == 8
    assert (report.run.batches, report.run.texts, report.run.tokens) == (1, 2, 8)


def test_an_image_tower_is_not_masked_by_the_text() -> None:
    sides = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.CLIPConfig(
        text_config={**sides, "vocab_size": 100, "eos_token_id": 99},
        vision_config={**sides, "image_size": 16, "patch_size": 4},
        projection_dim=32,
    )
    model = transformers.CLIPModel(config).eval()  # type: ignore[no-untyped-call]
    with normscope.watch(model) as watcher, torch.no_grad():
        ids = torch.randint(1, 100, (2, 17))  # as many tokens as the image has patches
        model(input_ids=ids, attention_mask=mask_of(17, 2), pixel_values=torch.randn(2, 3, 16, 16))
    layers = watcher.report().layers
    assert layers["text_model.encoder.layers.0.layer_norm1"].count == 19
    assert layers["vision_model.encoder.layers.0.layer_norm1"].count == 34


def test_generation_counts_texts_once() -> None:
    model = models.llama(num_hidden_layers=1)
    with normscope.watch(model) as watcher, torch.no_grad():
        model.generate(
            input_ids=torch.randint(3, 100, (2, 4)),
            attention_mask=torch.ones(2, 4, dtype=torch.long),
            max_new_tokens=3,
            min_new_tokens=3,
            do_sample=False,
            pad_token_id=0,
        )
    report = watcher.report()
    assert (report.run.texts, report.run.tokens) == (2, 12)
    position = report.layers["model.norm"].position
    assert position is not None
    assert position.count.tolist() == [2] * 6


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
def test_recomputation_in_the_backward_pass_is_not_counted() -> None:
    model = models.llama().train()
    model.gradient_checkpointing_enable()
    with normscope.watch(model) as watcher:
        ids = torch.randint(1, 100, (2, 6))
        model(input_ids=ids, attention_mask=mask_of(6, 2), labels=ids, use_cache=False).loss.backward()
    layer = watcher.report().layers["model.layers.0.input_layernorm"]
    assert (layer.calls, layer.count) == (1, 8)


def test_inference_mode_may_come_and_go() -> None:
    model = models.gpt2()
    ids = torch.randint(1, 100, (2, 6))
    with normscope.watch(model) as watcher:
        with torch.inference_mode():
            model(input_ids=ids)
        with torch.no_grad():
            model(input_ids=ids)
    assert watcher.report().layers["transformer.ln_f"].count == 24


class TimeFirst(nn.Module):
    """Works on (T, B, D) inside, as XLNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(100, 8), nn.LayerNorm(8)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        out: torch.Tensor = self.norm(self.embed(input_ids).transpose(0, 1))
        return out


def run_time_first(*shapes: tuple[int, int]) -> normscope.Report:
    torch.manual_seed(0)
    model = TimeFirst()
    with normscope.watch(model) as watcher, torch.no_grad():
        for samples, length in shapes:
            mask = torch.ones(samples, length, dtype=torch.long)
            mask[1:, length // 2 :] = 0
            model(input_ids=torch.randint(1, 100, (samples, length)), attention_mask=mask)
    return watcher.report()


def test_square_sizes_are_read_as_an_earlier_call_was() -> None:
    report = run_time_first((3, 6), (6, 6))
    layer = report.layers["norm"]
    assert layer.layout == "(T, B, D)"
    assert layer.position is not None
    assert layer.position.count.tolist() == [9, 9, 9, 2, 2, 2]
    assert report.warnings == ()


def test_square_sizes_alone_are_read_with_a_warning() -> None:
    (warning,) = run_time_first((6, 6)).warnings
    assert warning == "norm: sizes coincide, so its axes were taken as (B, T, D), which may be wrong"


def test_square_sizes_that_a_later_call_contradicts_are_named() -> None:
    assert any("which may be wrong" in warning for warning in run_time_first((6, 6), (3, 6)).warnings)


class Lookup:
    """A tokenizer of single letters."""

    model_max_length = 64
    cls_token_id = sep_token_id = bos_token_id = eos_token_id = None
    pad_token_id = 0
    pad_token_type_id = 0

    def __call__(self, texts: Any, **_: Any) -> dict[str, Any]:
        if isinstance(texts, str):
            return {"input_ids": [ord(letter) % 90 + 1 for letter in texts]}
        return {"input_ids": [[ord(letter) % 90 + 1 for letter in text] for text in texts]}


@pytest.mark.parametrize("heads", [2, 4])
def test_inspect_settles_every_layout_by_a_probe(heads: int) -> None:
    """Queries are normalised per head, (B, H, T, d), and batches have as many tokens as heads or texts."""
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        hidden_size=32, head_dim=8, num_key_value_heads=2, **{**SIZES, "num_attention_heads": heads}
    )
    model = models.spread_norms(transformers.Gemma3ForCausalLM(config))
    texts, tokenizer = ["abcd", "ef", "wxyz", "gh"], Lookup()
    reports = [
        normscope.inspect(model, texts, tokenizer=tokenizer, batching=normscope.Batching(batch_size=size))  # type: ignore[arg-type]
        for size in (1, 4)
    ]
    one, four = (report.layers["model.layers.0.self_attn.q_norm"] for report in reports)
    assert one.layout == four.layout == "(B, H, T, D)"
    assert one.position is not None
    assert four.position is not None
    assert four.position.count.tolist() == [4 * heads, 4 * heads, 2 * heads, 2 * heads]
    np.testing.assert_allclose(four.position.variance, one.position.variance, rtol=1e-5)
    assert reports[1].warnings == ()
    assert reports[1].run.texts == 4


def test_a_layer_that_cannot_be_aligned_has_no_padding_either() -> None:
    class Windows(TimeFirst):
        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
        ) -> torch.Tensor:
            x = self.embed(input_ids)
            out: torch.Tensor = self.norm(nn.functional.pad(x, (0, 0, 0, 5)).reshape(-1, 8)[1:])
            return out

    model, texts = Windows(), ["abcd", "ef", "wxyz"]
    tokenizer: Any = Lookup()
    report = normscope.inspect(model, texts, tokenizer=tokenizer)
    assert report.run.batch_size == 1
    assert report.layers["norm"].position is None
    assert "texts were run one by one" in report.warnings[0]


def test_an_encoder_decoder_runs_from_text_alone() -> None:
    tokenizer: Any = Lookup()
    report = normscope.inspect(t5(), ["abcd", "ef"], tokenizer=tokenizer)
    encoder, decoder = (report.layers[f"{part}.final_layer_norm"] for part in ("encoder", "decoder"))
    assert (encoder.count, decoder.count) == (6, 6)
    assert decoder.own_error < 1e-5


def test_a_mask_that_cannot_be_read_is_said() -> None:
    model = models.bert()
    with normscope.watch(model) as watcher, torch.no_grad():
        model(input_ids=torch.ones(2, 3, dtype=torch.long), attention_mask=torch.ones(2, 1, 3, 3))
    (warning,) = watcher.report().warnings
    assert warning == "attention_mask has 4 axes, not 2: padding counts unless watcher.mask is set"
