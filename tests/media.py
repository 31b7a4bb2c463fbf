"""Tiny random models of images and sounds, saved with their processors; and files to feed them."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import transformers
from PIL import Image

from tests.hub import word_tokenizer
from tests.models import spread_norms

RATE = 16000


# Files


def save_image(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    """Save an image of noise in RGB; the suffix says the format, `size` is (width, height)."""
    Image.fromarray(noise(seed, size)).save(path)
    return path


def noise(seed: int = 0, size: tuple[int, int] = (40, 30)) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Return pixels of noise, (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def save_sound(path: Path, seconds: float = 0.2, rate: int = RATE, channels: int = 1, seed: int = 0) -> Path:
    """Save a tone with noise as 16-bit samples."""
    time = np.arange(int(seconds * rate))[:, None] / rate
    loud = np.random.default_rng(seed).normal(0, 0.05, (len(time), channels))
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * (220 + 50 * seed) * time) + loud, rate, subtype="PCM_16")
    return path


# Models


def save_vit(folder: Path) -> Path:
    config = transformers.ViTConfig(image_size=16, patch_size=4, **_sizes())
    size = {"height": 16, "width": 16}
    return _save(folder, transformers.ViTForImageClassification(config), transformers.ViTImageProcessorPil(size=size))


def save_convnext(folder: Path) -> Path:
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32)
    # Without cropping, so that images of other sizes stay of other sizes.
    processor = transformers.ConvNextImageProcessorPil(size={"shortest_edge": 384})
    return _save(folder, transformers.ConvNextModel(config), processor)


def save_clip(folder: Path) -> Path:
    tokenizer = word_tokenizer()
    end = tokenizer.sep_token_id
    text = {**_sizes(), "vocab_size": len(tokenizer), "max_position_embeddings": 32, "eos_token_id": end}
    vision = {**_sizes(), "image_size": 16, "patch_size": 4}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    size = {"height": 16, "width": 16}
    images = transformers.CLIPImageProcessorPil(size=size, crop_size=size)
    processor = transformers.CLIPProcessor(images, tokenizer)
    return _save(folder, transformers.CLIPModel(config), processor)


def save_whisper(folder: Path) -> Path:
    config = transformers.WhisperConfig(
        vocab_size=60,
        num_mel_bins=20,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_source_positions=50,
        max_target_positions=8,
        decoder_start_token_id=3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    extractor = transformers.WhisperFeatureExtractor(feature_size=20, chunk_length=1)
    return _save(folder, transformers.WhisperForConditionalGeneration(config), extractor)


def save_wav2vec2(folder: Path) -> Path:
    config = transformers.Wav2Vec2Config(
        **_sizes(),
        conv_dim=(16, 16),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        vocab_size=10,
    )
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return _save(folder, transformers.Wav2Vec2ForCTC(config), extractor)


def _sizes() -> dict[str, int]:
    return {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def _save(folder: Path, model: Any, processor: Any) -> Path:
    torch.manual_seed(0)
    spread_norms(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
