"""Padding of sounds and of decoders: what a padded batch gives is what its single samples give."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import normscope
from normscope.errors import UsageError
from tests.support import models
from tests.support.reference import layer_norm, measure, rms_norm, stack, worst_error

tf: Any = transformers
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
# Widths, kernels and strides as in the models, of fewer stages.
STAGES = {"conv_dim": (16, 16, 16), "conv_kernel": (10, 3, 2), "conv_stride": (5, 2, 2)}
SHIFTS = {
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "decoder_start_token_id": 0,
    "vocab_size": 100,
}
SOUNDS = [800, 301, 420]
SOURCES = [[5, 6, 7, 1], [9, 10, 11, 12, 13, 14, 1], [20, 1]]
TARGETS = [[30, 31, 32, 33, 34, 35, 1], [40, 41, 1], [50, 51, 52, 1]]

Inputs = dict[str, torch.Tensor]
Rows = Callable[[int, Inputs, int], int]


def all_rows(_sample: int, _inputs: Inputs, rows: int) -> int:
    return rows


def single_numbers(model: Any, name: str, samples: list[Inputs], rows: Rows = all_rows) -> dict[str, Any]:
    """Run every sample alone and measure what enters a layer, in float64: the independent way."""
    module, kept = model.get_submodule(name), []
    handle = module.register_forward_pre_hook(lambda _, args: kept.append(args[0][0].double().numpy()))
    with torch.no_grad():
        for sample in samples:
            model(**sample)
    handle.remove()
    kept = [x.T if isinstance(module, nn.GroupNorm) else x for x in kept]
    kept = [x[: rows(i, sample, len(x))] for i, (x, sample) in enumerate(zip(kept, samples, strict=True))]
    eps = getattr(module, "eps", None) or module.variance_epsilon
    norm = layer_norm if isinstance(module, nn.LayerNorm) else rms_norm
    return measure(stack([(x, norm(x, eps), np.arange(len(x))) for x in kept]), eps)


def watched(model: Any, batch: Inputs, **masks: Any) -> normscope.Report:
    with normscope.watch(model) as watcher, torch.no_grad():
        watcher.mask, watcher.decoder_mask = masks.get("mask"), masks.get("decoder_mask")
        model(**batch)
    return watcher.report()


def assert_as_alone(
    model: Any, batch: Inputs, samples: list[Inputs], rows: Rows = all_rows
) -> normscope.Report:
    """Compare all numbers of all layers."""
    report = watched(model, batch)
    for got in report.to_dict()["layers"]:
        error, where = worst_error(got, single_numbers(model, got["name"], samples, rows))
        assert error < 2e-5, (got["name"], where)
        assert got["own_error"] < 1e-5
    return report


# Sounds


def speech(kind: str) -> Any:
    """A small model whose convolutions have a norm for each frame, which padding does not reach."""
    torch.manual_seed(0)
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    config = getattr(tf, f"{kind}Config")(
        **SIZES, **STAGES, **positions, num_feat_extract_layers=3, feat_extract_norm="layer", vocab_size=10
    )
    return models.spread_norms(getattr(tf, f"{kind}ForCTC")(config))


def sounds() -> tuple[Inputs, list[Inputs]]:
    """A padded batch of sounds, and each sound alone."""
    torch.manual_seed(1)
    waves = [torch.randn(length) for length in SOUNDS]
    mask = (torch.arange(max(SOUNDS)) < torch.tensor(SOUNDS)[:, None]).long()
    padded = nn.utils.rnn.pad_sequence(waves, batch_first=True)
    return {"input_values": padded, "attention_mask": mask}, [{"input_values": wave[None]} for wave in waves]


@pytest.mark.filterwarnings("ignore:Support for mismatched:UserWarning")
@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert", "WavLM", "SEW"])
def test_padded_sounds_give_the_single_sounds_numbers(kind: str) -> None:
    """SEW pools two frames into one, and attends to one that is half padding: these sounds have none."""
    report = assert_as_alone(speech(kind), *sounds())
    assert report.warnings == ()


def moonshine() -> Any:
    torch.manual_seed(0)
    sizes = {
        f"{part}_num_{what}": 2
        for part in ("encoder", "decoder")
        for what in ("hidden_layers", "attention_heads")
    }
    config = tf.MoonshineConfig(hidden_size=16, intermediate_size=24, **sizes, **SHIFTS)
    return models.spread_norms(tf.MoonshineForConditionalGeneration(config))


def whisper() -> Any:
    torch.manual_seed(0)
    sizes = {"layers": 2, "attention_heads": 2, "ffn_dim": 24}
    parts = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in sizes.items()}
    config = tf.WhisperConfig(
        **parts, **SHIFTS, d_model=16, num_mel_bins=8, max_source_positions=50, max_target_positions=8
    )
    return models.spread_norms(tf.WhisperForConditionalGeneration(config))


def labels() -> torch.Tensor:
    rows = [torch.tensor(target) for target in TARGETS]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)


def test_padded_spectrograms_give_the_single_ones_numbers() -> None:
    """Whisper takes sounds of one length alone: a sound by itself is padded, too, and a mask says where."""
    torch.manual_seed(1)
    features, frames = torch.randn(3, 8, 100), [100, 31, 60]
    mask = (torch.arange(100) < torch.tensor(frames)[:, None]).long()
    samples = [
        {"input_features": features[i : i + 1], "labels": torch.tensor([target])}
        for i, target in enumerate(TARGETS)
    ]
    batch = {"input_features": features, "attention_mask": mask, "labels": labels()}
    half = [(length + 1) // 2 for length in frames]
    report = assert_as_alone(whisper(), batch, samples, lambda i, _, rows: half[i] if rows == 50 else rows)
    assert report.layers["model.encoder.layer_norm"].count == sum(half)
    assert report.layers["model.decoder.layer_norm"].count == 14
    assert report.warnings == ()


def test_moonshines_frames_are_as_many_as_of_the_single_sounds() -> None:
    """Its GroupNorm takes padding in: what comes after is held against the padded batch's own rows."""
    torch.manual_seed(1)
    model, lengths = moonshine(), [6000, 3000]
    waves = nn.utils.rnn.pad_sequence([torch.randn(n) for n in lengths], batch_first=True)
    mask = (torch.arange(6000) < torch.tensor(lengths)[:, None]).long()
    target = labels()[:2]
    batch = {"input_values": waves, "attention_mask": mask, "labels": target}
    samples = [
        {"input_values": waves[i : i + 1, :n], "labels": torch.tensor([TARGETS[i]])}
        for i, n in enumerate(lengths)
    ]
    report = watched(model, batch)
    got = next(layer for layer in report.to_dict()["layers"] if layer["name"] == "model.encoder.groupnorm")
    alone = single_numbers(model, got["name"], samples)
    for view in ("count", "token", "feature", "position", "sequence", "instance", "global", "explained"):
        error, where = worst_error({view: got[view]}, {view: alone[view]})
        assert error < 2e-5, (view, where)
    for name, layer in report.layers.items():
        if name != got["name"]:
            counts = [int(n) for n in single_numbers(model, name, samples)["position"]["count"]]
            assert layer.position is not None
            assert layer.position.count.tolist() == counts
            expected = batch_variance(model, name, batch, counts)
            np.testing.assert_allclose(layer.feature.variance, expected, rtol=2e-5)  # type: ignore[union-attr]


def batch_variance(model: Any, name: str, batch: Inputs, counts: list[int]) -> Any:
    """The variance per feature of two samples' first rows, of which there are so many at each position."""
    kept: list[Any] = []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda _, args: kept.append(args[0].double())
    )
    with torch.no_grad():
        model(**batch)
    handle.remove()
    x, shorter = kept[0].numpy(), counts.count(2)
    return np.concatenate([x[0, : len(counts)], x[1, :shorter]]).var(0)


@pytest.mark.parametrize("stage", ["frames", "wave"])
def test_a_mask_of_ones_own_says_which_frames_count(stage: str) -> None:
    model, (batch, _) = speech("Wav2Vec2"), sounds()
    frames = model._get_feature_vector_attention_mask(39, batch["attention_mask"])
    mask = frames if stage == "frames" else batch["attention_mask"]
    mine = watched(model, {"input_values": batch["input_values"]}, mask=mask)
    layer = mine.layers["wav2vec2.encoder.layer_norm"]
    want = watched(model, batch).layers["wav2vec2.encoder.layer_norm"]
    assert layer.count == want.count == int(frames.sum())


def test_a_mask_that_fits_no_frames_is_refused() -> None:
    model, (batch, _) = speech("Wav2Vec2"), sounds()
    with pytest.raises(UsageError, match=r"watcher.mask is \(3, 11\) and layers have rows of \(3, 159\), "):
        watched(model, batch, mask=torch.ones(3, 11))


def spectrograms() -> tuple[Any, Inputs]:
    """A model that two convolutions leave a quarter of the frames of, and padded spectrograms for it."""
    torch.manual_seed(1)
    sizes = {"layers": 1, "attention_heads": 2, "ffn_dim": 24}
    parts = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in sizes.items()}
    config = tf.Speech2TextConfig(**parts, **SHIFTS, d_model=16, input_feat_per_channel=8, conv_channels=32)
    mask = (torch.arange(40) < torch.tensor([40, 21, 32])[:, None]).long()
    model = models.spread_norms(tf.Speech2TextForConditionalGeneration(config))
    return model, {"input_features": torch.randn(3, 40, 8), "attention_mask": mask, "labels": labels()}


def test_frames_are_followed_from_spectrograms_too() -> None:
    model, batch = spectrograms()
    report = watched(model, batch)
    encoder, decoder = (report.layers[f"model.{part}.layer_norm"] for part in ("encoder", "decoder"))
    assert (encoder.count, decoder.count, encoder.layout) == (10 + 6 + 8, 14, "(B, T, D)")
    chosen = watched(model, batch, mask=torch.ones(3, 10).triu())
    assert chosen.layers["model.encoder.layer_norm"].count == 10 + 5 + 6
    with pytest.raises(UsageError, match=r"watcher.mask is \(3, 9\) and layers have rows of"):
        watched(model, batch, mask=torch.ones(3, 9))


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(8, 8, 3, stride=2, padding=1), nn.LayerNorm(8)

    def forward(self, input_features: torch.Tensor) -> Any:
        return self.norm(self.conv(input_features).transpose(1, 2))


class Listener(nn.Module):
    """A model of text that hears: its sounds have a mask of their own, as Qwen2Audio's do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tower, self.embed, self.norm = Tower(), nn.Embedding(100, 8), nn.LayerNorm(8)

    def forward(
        self,
        input_ids: torch.Tensor,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor,
        feature_attention_mask: torch.Tensor,
    ) -> Any:
        return self.norm(self.embed(input_ids)), self.tower(input_features)


def test_text_and_sounds_have_each_their_own_mask() -> None:
    batch, _ = translations()
    frames = (torch.arange(20) < torch.tensor([20, 7, 12])[:, None]).long()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    sounds_too = {**inputs, "input_features": torch.randn(3, 8, 20), "feature_attention_mask": frames}
    report = watched(Listener(), sounds_too)
    assert (report.layers["norm"].count, report.layers["tower.norm"].count) == (13, 10 + 4 + 6)
    assert report.warnings == ()


def test_rows_that_cannot_be_told_from_padding_are_said() -> None:
    """Padding on the left is at no border of the frames."""
    model, (batch, _) = speech("Wav2Vec2"), sounds()
    report = watched(model, {name: values.flip(1) for name, values in batch.items()})
    layer = report.layers["wav2vec2.encoder.layer_norm"]
    assert layer.count == 3 * 39
    assert sum("padding counts where there is any" in warning for warning in report.warnings) == len(
        report.layers
    )


# Decoders


def seq2seq(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "T5":
        config = tf.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, **SHIFTS)
        return models.spread_norms(tf.T5ForConditionalGeneration(config))
    sizes = {"layers": 2, "attention_heads": 2, "ffn_dim": 24}
    parts = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in sizes.items()}
    config = getattr(tf, f"{kind}Config")(**parts, **SHIFTS, d_model=16, max_position_embeddings=32)
    names = {"Bart": "BartForConditionalGeneration", "Marian": "MarianMTModel"}
    return models.spread_norms(getattr(tf, names[kind])(config))


def translations() -> tuple[Inputs, list[Inputs]]:
    """A padded batch of texts with labels, as it is trained on, and each text alone."""
    rows = [torch.tensor(source) for source in SOURCES]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    samples = [
        {"input_ids": torch.tensor([source]), "labels": torch.tensor([target])}
        for source, target in zip(SOURCES, TARGETS, strict=True)
    ]
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels()}, samples


@pytest.mark.parametrize("shifted", ["by the model", "by the collator"])
@pytest.mark.parametrize("kind", ["T5", "Bart", "Marian"])
def test_padded_labels_give_the_single_texts_numbers(kind: str, shifted: str) -> None:
    model, (batch, samples) = seq2seq(kind), translations()
    if shifted == "by the collator":
        batch["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
    report = assert_as_alone(model, batch, samples)
    assert report.warnings == ()


def test_padding_that_nothing_tells_is_said() -> None:
    model, (batch, _) = seq2seq("Bart"), translations()
    made = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
    report = watched(model, {"input_ids": batch["input_ids"], "decoder_input_ids": made})
    assert report.layers["model.decoder.layers.0.final_layer_norm"].count == 21
    assert report.warnings == (
        "input_ids hold the padding token and no attention_mask is given: padding counts unless "
        "watcher.mask is set",
        "decoder_input_ids end in the padding token, and neither labels nor a decoder_attention_mask are "
        "given: padding counts unless watcher.decoder_mask is set",
    )
    given = {"input_ids": batch["input_ids"], "decoder_input_ids": made}
    masks = {"mask": batch["attention_mask"], "decoder_mask": batch["labels"] != -100}
    report = watched(model, given, **masks)
    assert report.layers["model.decoder.layers.0.final_layer_norm"].count == 14
    assert report.warnings == ()


def test_labels_that_are_not_predicted_within_a_text_are_no_padding() -> None:
    model, (batch, _) = seq2seq("T5"), translations()
    batch["labels"][0, :3] = -100
    assert watched(model, batch).layers["decoder.final_layer_norm"].count == 14


def test_labels_of_an_encoder_are_no_padding() -> None:
    model, (batch, _) = models.bert(), translations()
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    masked = given["input_ids"].where(torch.arange(7) == 1, -100)
    assert (
        watched(model, {**given, "labels": masked}).to_dict()["layers"]
        == watched(model, given).to_dict()["layers"]
    )


def test_a_decoders_mask_of_another_shape_is_refused() -> None:
    model, (batch, _) = seq2seq("T5"), translations()
    message = r"watcher.decoder_mask is \(3, 5\) and the decoder's tokens are \(3, 7\); set a"
    with pytest.raises(UsageError, match=message):
        watched(model, batch, decoder_mask=torch.ones(3, 5))


# Norms over several rows


class Channels(nn.Module):
    """Gives a norm its features on axis 1, as convolutions do."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm = nn.Embedding(100, 8), norm

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
        return self.norm(self.embed(input_ids).transpose(1, 2))


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    ("norm", "whole"),
    [
        (nn.BatchNorm1d(8), "the whole batch"),
        (nn.GroupNorm(2, 8), "whole samples"),
        (nn.InstanceNorm1d(8), "whole samples"),
    ],
)
def test_norms_that_take_padding_in_are_named(norm: nn.Module, whole: str, before: bool) -> None:
    model, (batch, _) = Channels(norm), translations()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with normscope.watch(model) as watcher, torch.no_grad():
        if before:  # A batch without padding shows the formula.
            model(inputs["input_ids"])
            assert watcher.report().warnings == ()
        model(**inputs)
    effect = "its own output and agreement are approximate" if before else "only its input is measured"
    said = f"norm: it normalises by the statistics of {whole}, padding included, so {effect}"
    assert watcher.report().warnings == (said,)


def test_a_batchnorm_with_stored_statistics_takes_no_padding_in() -> None:
    model, (batch, _) = Channels(nn.BatchNorm1d(8)).eval(), translations()
    report = watched(model, {name: batch[name] for name in ("input_ids", "attention_mask")})
    assert (report.warnings, report.layers["norm"].own_error < 1e-6) == ((), True)
