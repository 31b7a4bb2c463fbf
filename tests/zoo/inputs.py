"""Random inputs for a tiny model: texts of 7, 5 and 3 tokens, images, sound."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES, LENGTH, DECODER_LENGTH = 3, 7, 5
LENGTHS, DECODER_LENGTHS = (7, 5, 3), (5, 4, 2)
IDS = (10, 95)


def mask_of(lengths: tuple[int, ...]) -> Tensor:
    """Return the (B, T) mask of right-padded texts of these lengths."""
    return (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()


def ids_of(lengths: tuple[int, ...], padding: int) -> Tensor:
    """Return random tokens (B, T) of texts of these lengths."""
    ids = torch.randint(*IDS, (len(lengths), max(lengths)))
    return ids.masked_fill(mask_of(lengths) == 0, padding)


def candidates(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Give inputs that the model may take, the likeliest first: text alone, text and others, others."""
    names = set(inspect.signature(model.forward).parameters)
    others = list(_others(model, names))
    if "input_ids" in names:
        text = _text(model, names)
        yield text
        short = {k: v for k, v in text.items() if not k.startswith("decoder_")}
        if len(short) < len(text):
            yield short
        yield from ({**text, **other} for other in others)
        yield {"input_ids": text["input_ids"]}
    yield from others
    for name in ("hidden_states", "inputs_embeds", "input_features"):
        if name in names:
            mask = {"attention_mask": mask_of(LENGTHS)} if "attention_mask" in names else {}
            for width in dict.fromkeys(_sizes(model, "hidden_size", "d_model", "n_embd", "embed_dim", "dim")):
                yield {name: torch.randn(SAMPLES, LENGTH, width), **mask}


def _text(model: nn.Module, names: set[str]) -> dict[str, Any]:
    config: Any = model.config
    padding = next((v for v in _sizes(model, "pad_token_id") if v >= 0), 1)
    given: dict[str, Any] = {"input_ids": ids_of(LENGTHS, padding)}
    if "attention_mask" in names or any("kwargs" in n for n in names):
        given["attention_mask"] = mask_of(LENGTHS)
    if "decoder_input_ids" in names:
        given["decoder_input_ids"] = ids_of(DECODER_LENGTHS, padding)
        if "decoder_attention_mask" in names:
            given["decoder_attention_mask"] = mask_of(DECODER_LENGTHS)
    if "bbox" in names:
        given["bbox"] = torch.tensor([1, 2, 9, 12]).expand(SAMPLES, LENGTH, 4)
    if "langs" in names and getattr(config, "n_langs", 1) > 1:
        given["langs"] = torch.zeros(SAMPLES, LENGTH, dtype=torch.long)
    return given


def _others(model: nn.Module, names: set[str]) -> Iterator[dict[str, Any]]:
    """Give images and sounds in the shapes that models ask for."""
    side = next(iter(_sizes(model, "image_size", "img_size")), 64)
    channels = next(iter(_sizes(model, "num_channels", "in_channels", "in_chans")), 3)
    mels = next(iter(_sizes(model, "num_mel_bins", "feature_size", "input_feat_size", "n_mels")), 80)
    frames = 2 * next(iter(_sizes(model, "max_source_positions")), 50)
    patch, merged = next(iter(_sizes(model, "patch_size")), 16), next(iter(_sizes(model, "temporal_patch_size")), 1)
    image = torch.randn(SAMPLES, channels, side, side)
    patches = torch.randn(32, channels * merged * patch * patch)
    decoder = {"decoder_input_ids": ids_of(DECODER_LENGTHS, 1)} if "decoder_input_ids" in names else {}
    grids = {k: torch.tensor([[1, 4, 8]]) for k in ("grid_thw", "image_grid_thw") if k in names}
    for name in ("pixel_values", "pixel_values_images", "x", "hidden_states"):
        if name in names and grids:
            yield {name: patches, **grids, **decoder}
        if name in names and name != "hidden_states":
            yield {name: image, **decoder}
            yield {name: torch.randn(SAMPLES, 4, channels, side, side), **decoder}
    if "pixel_values_videos" in names:
        yield {"pixel_values_videos": torch.randn(SAMPLES, 4, channels, side, side)}
    for name in ("input_features", "input_values", "audio_values", "audio_features", "spectrogram"):
        if name in names:
            sounds = (torch.randn(SAMPLES, mels, frames), torch.randn(SAMPLES, frames, mels))
            wave = torch.randn(SAMPLES, 4000), torch.randn(SAMPLES, 1, 4000)
            for sound in (*wave, *sounds) if name == "input_values" else (*sounds, *wave):
                yield {name: sound, **decoder}


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
