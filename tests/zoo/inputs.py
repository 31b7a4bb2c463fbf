"""Random inputs for a tiny model: texts of 7, 5 and 3 tokens, images, sound."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES, LENGTH, DECODER_LENGTH = 3, 7, 5
LENGTHS, DECODER_LENGTHS = (7, 5, 3), (5, 4, 2)
IDS = (5, 95)


def mask_of(lengths: tuple[int, ...]) -> Tensor:
    """Return the (B, T) mask of right-padded texts of these lengths."""
    return (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()


def ids_of(lengths: tuple[int, ...], padding: int, words: int = IDS[1]) -> Tensor:
    """Return random tokens (B, T), numbers under `words`, of texts of these lengths."""
    ids = torch.randint(IDS[0], min(IDS[1], words), (len(lengths), max(lengths)))
    return ids.masked_fill(mask_of(lengths) == 0, padding)


def candidates(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Give inputs that the model may take, the likeliest first: text alone, text and others, others."""
    names = set(inspect.signature(model.forward).parameters)
    others = [{**other, **_company(names, other)} for other in _others(model, names)]
    if "input_ids" in names:
        text = _text(model, names)
        yield text
        short = {k: v for k, v in text.items() if not k.startswith("decoder_")}
        if len(short) < len(text):
            yield short
            yield {**short, "decoder_input_ids": ids_of(DECODER_LENGTHS * 4, 1)}  # Four codebooks.
        yield from ({**text, **other} for other in others)
        yield {**text, "use_cache": False}
        yield {"input_ids": text["input_ids"]}
    yield from others
    for name in ("hidden_states", "inputs_embeds", "input_features"):
        if name in names:
            mask = {"attention_mask": mask_of(LENGTHS)} if "attention_mask" in names else {}
            for width in dict.fromkeys(_sizes(model, "hidden_size", "d_model", "n_embd", "embed_dim", "dim")):
                yield {name: torch.randn(SAMPLES, LENGTH, width), **mask}
                yield {name: torch.randn(SAMPLES, LENGTH, width)}


def _text(model: nn.Module, names: set[str]) -> dict[str, Any]:
    padding = next((v for v in _sizes(model, "pad_token_id") if v >= 0), 1)
    words = min([v for v in _sizes(model, "vocab_size") if v > 2 * IDS[0]], default=IDS[1])
    given: dict[str, Any] = {"input_ids": ids_of(LENGTHS, padding, words)}
    if "attention_mask" in names or any("kwargs" in n for n in names):
        given["attention_mask"] = mask_of(LENGTHS)
    if "decoder_input_ids" in names:
        given["decoder_input_ids"] = ids_of(DECODER_LENGTHS, padding, words)
        if "decoder_attention_mask" in names:
            given["decoder_attention_mask"] = mask_of(DECODER_LENGTHS)
    if "bbox" in names:
        given["bbox"] = torch.tensor([1, 2, 9, 12]).expand(SAMPLES, LENGTH, 4)
    if "qformer_input_ids" in names:
        given["qformer_input_ids"] = given["input_ids"]
    if "visual_feats" in names:
        given.update(visual_feats=torch.randn(SAMPLES, 4, 2048), visual_pos=torch.rand(SAMPLES, 4, 4))
    return given


def _others(model: nn.Module, names: set[str]) -> Iterator[dict[str, Any]]:
    """Give images, sounds and series in the shapes that models ask for."""
    decoder = {"decoder_input_ids": ids_of(DECODER_LENGTHS, 1)} if "decoder_input_ids" in names else {}
    for name in ("pixel_values", "pixel_values_images", "pixel_values_videos", "x", "hidden_states"):
        if name in names:
            yield from ({**image, **decoder} for image in _images(model, name, names))
    for name in ("input_features", "input_values", "audio_values", "audio_features", "spectrogram"):
        if name in names:
            yield from ({name: sound, **decoder} for sound in _sounds(model, name == "input_values"))
    if "past_values" in names:
        yield from _series(model, names)


def _images(model: nn.Module, name: str, names: set[str]) -> Iterator[dict[str, Any]]:
    side, channels = (
        _size(model, 64, "image_size", "img_size"),
        _size(model, 3, "num_channels", "in_channels"),
    )
    patch, merged = _size(model, 16, "patch_size"), _size(model, 1, "temporal_patch_size")
    grids: dict[str, Any] = {
        k: torch.tensor([[1, 4, 8]]) for k in ("grid_thw", "image_grid_thw") if k in names
    }
    if grids:
        yield {name: torch.randn(32, channels * merged * patch * patch), **grids}
    if "spatial_shapes" in names:
        shapes = {
            "pixel_attention_mask": torch.ones(SAMPLES, 16),
            "spatial_shapes": torch.full((SAMPLES, 2), 4),
        }
        yield {name: torch.randn(SAMPLES, 16, channels * patch * patch), **shapes}
    if name != "hidden_states":
        yield {name: torch.randn(SAMPLES, channels, side, side)}
        for frames in (_size(model, 4, "num_frames"), 2):
            yield {name: torch.randn(SAMPLES, frames, channels, side, side)}


def _sounds(model: nn.Module, wave_first: bool) -> Iterator[Tensor]:
    mels = _size(model, 80, "num_mel_bins", "feature_size", "input_feat_size", "n_mels", "input_dim")
    waves = [torch.randn(SAMPLES, 3840), torch.randn(SAMPLES, 1, 3840)]
    frames = [2 * _size(model, 50, "max_source_positions"), _size(model, 1024, "max_length")]
    spectra = [s for n in frames for s in (torch.randn(SAMPLES, mels, n), torch.randn(SAMPLES, n, mels))]
    square = [torch.randn(SAMPLES, 1, 1024, 64)]
    yield from (*waves, *spectra, *square) if wave_first else (*spectra, *square, *waves)


def _series(model: nn.Module, names: set[str]) -> Iterator[dict[str, Any]]:
    context, ahead = _size(model, 8, "context_length"), _size(model, 4, "prediction_length")
    known = context + 7  # The longest lag.
    past = {
        "past_values": torch.randn(SAMPLES, known),
        "past_time_features": torch.randn(SAMPLES, known, 1),
        "past_observed_mask": torch.ones(SAMPLES, known),
    }
    future = {
        "future_values": torch.randn(SAMPLES, ahead),
        "future_time_features": torch.randn(SAMPLES, ahead, 1),
    }
    yield {k: v for k, v in {**past, **future}.items() if k in names}
    yield {"past_values": torch.randn(SAMPLES, context, _size(model, 1, "num_input_channels"))}
    yield {"past_values": torch.randn(SAMPLES, context)}


def _company(names: set[str], other: dict[str, Any]) -> dict[str, Any]:
    """Return the masks that sounds and pictures need beside them."""
    sound = other.get("input_features")
    if sound is None or "input_features_mask" not in names:
        return {}
    return {"input_features_mask": torch.ones(sound.shape[0], sound.shape[-1], dtype=torch.long)}


def _size(model: nn.Module, default: int, *names: str) -> int:
    return next(iter(_sizes(model, *names)), default)


def _sizes(model: nn.Module, *names: str) -> Iterator[int]:
    """Give the sizes that the configuration and the ones inside it hold under these names."""
    config: Any = getattr(model, "config", None)
    inner = [v for v in vars(config).values() if hasattr(v, "model_type")] if config is not None else []
    for holder in (config, *inner, *(v for c in inner for v in vars(c).values() if hasattr(v, "model_type"))):
        for name in names:
            try:
                value = getattr(holder, name, None)
            except Exception:  # One value a layer.
                continue
            value = value[0] if isinstance(value, list | tuple) and value else value
            if isinstance(value, int) and not isinstance(value, bool):
                yield value
