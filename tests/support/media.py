"""Tiny random models of images and sounds, saved with their processors; and files to feed them."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import transformers
from PIL import Image

from tests.support.hub import word_tokenizer
from tests.support.models import spread_norms

RATE = 16000

# Its classes take more than their annotations say.
tf: Any = transformers

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


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


# Models, each saved beside its processor


def save_vit(folder: Path) -> Path:
    processor = tf.ViTImageProcessorPil(size={"height": 16, "width": 16})
    config = tf.ViTConfig(image_size=16, patch_size=4, **SIZES)
    return _save(folder, tf.ViTForImageClassification, config, processor)


def save_resnet(folder: Path) -> Path:
    """Save a CNN of BatchNorms on feature maps."""
    processor = tf.ViTImageProcessorPil(size={"height": 32, "width": 32})
    config = tf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 2], layer_type="basic")
    return _save(folder, tf.ResNetForImageClassification, config, processor)


def save_convnext(folder: Path) -> Path:
    """Save a model of feature maps that takes images of any size, and a processor that leaves it."""
    processor = tf.ConvNextImageProcessorPil(do_resize=False)
    config = tf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    return _save(folder, tf.ConvNextModel, config, processor)


def save_clip(folder: Path) -> Path:
    tokenizer, size = word_tokenizer(), {"height": 16, "width": 16}
    ids = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id, "pad_token_id": 0}
    config = tf.CLIPConfig(
        text_config={**SIZES, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 32},
        vision_config={**SIZES, "image_size": 16, "patch_size": 4},
        projection_dim=8,
    )
    images = tf.CLIPImageProcessorPil(size=size, crop_size=size)
    return _save(folder, tf.CLIPModel, config, tf.CLIPProcessor(images, tokenizer))


def save_whisper(folder: Path) -> Path:
    sizes = {"layers": 1, "attention_heads": 2, "ffn_dim": 24}
    config = tf.WhisperConfig(
        **{f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in sizes.items()},
        d_model=16,
        num_mel_bins=20,
        max_source_positions=50,
        max_target_positions=8,
        vocab_size=60,
        decoder_start_token_id=3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    extractor = tf.WhisperFeatureExtractor(feature_size=20, chunk_length=1)
    return _save(folder, tf.WhisperForConditionalGeneration, config, extractor)


def save_wav2vec2(folder: Path) -> Path:
    convolutions = {"conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2)}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    config = tf.Wav2Vec2Config(**SIZES, **convolutions, **positions, num_feat_extract_layers=2, vocab_size=10)
    extractor = tf.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return _save(folder, tf.Wav2Vec2ForCTC, config, extractor)


def _save(folder: Path, head: Any, config: Any, processor: Any) -> Path:
    torch.manual_seed(0)
    spread_norms(head(config)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
