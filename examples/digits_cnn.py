"""A CNN with BatchNorm for `normscope why --beside`: a small ResNet, trained on handwritten digits.

Writes two folders into FOLDER, by default the current one: digits-cnn, the network and its image processor as
transformers saves them, and digits, PNG files of the digits that are not trained on.

Run: python examples/digits_cnn.py [FOLDER]   (ten seconds)
Then: normscope why demo -f corpus.txt --beside digits-cnn --image digits/*.png
"""

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

from _data import Samples, digits

SIZE, TEST, BATCH = 32, 360, 64
tf: Any = transformers  # Its classes take more than their annotations say.


def picture(pixels: Tensor) -> Image.Image:
    """Return a digit (1, 8, 8) with values from 0 to 1 as a picture in grey."""
    return Image.fromarray((pixels[0] * 255).round().to(torch.uint8).numpy())


def network() -> Any:
    """Return a ResNet of ten BatchNorms with random weights."""
    config = tf.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic", num_labels=10
    )
    return tf.ResNetForImageClassification(config)


def processor(seen: Samples) -> Any:
    """Return a processor to SIZE x SIZE pixels in three channels, of mean 0 and variance 1 over `seen`."""
    mean, sd = seen.inputs.mean().item(), seen.inputs.std().item()
    size, kind = {"height": SIZE, "width": SIZE}, tf.ViTImageProcessorPil
    return kind(size=size, image_mean=[mean] * 3, image_std=[sd] * 3)


def processed(samples: Samples, by: Any) -> Samples:
    """Return the samples as the processor makes them from pictures, (N, 3, SIZE, SIZE)."""
    pictures = [picture(pixels).convert("RGB") for pixels in samples.inputs]
    return Samples(by(images=pictures, return_tensors="pt")["pixel_values"], samples.targets)


def train(model: Any, seen: Samples, rounds: int) -> None:
    """Train by Adam; the learning rate rises, then falls to zero."""
    steps = rounds * (len(seen) // BATCH)
    rule = torch.optim.Adam(model.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(rule, max_lr=0.01, total_steps=steps)
    model.train()
    for batch in islice(seen.batches(BATCH, seed=0), steps):
        rule.zero_grad()
        loss: Any = cross_entropy(model(batch.inputs).logits, batch.targets)
        loss.backward()
        rule.step()
        rate.step()
    model.eval()


def main() -> None:
    """Train and test the network; save it, and the digits of the test."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), metavar="FOLDER")
    parser.add_argument("--quick", action="store_true", help="a reduced form, in seconds")
    args = parser.parse_args()
    torch.manual_seed(0)
    seen, unseen = digits().split(TEST)
    by, model = processor(seen), network()
    train(model, processed(seen, by), rounds=2 if args.quick else 6)
    test = processed(unseen, by)
    with torch.no_grad():
        right = (model(test.inputs).logits.argmax(1) == test.targets).float().mean().item()
    tf.utils.logging.disable_progress_bar()
    for saved in (model, by):
        saved.save_pretrained(args.folder / "digits-cnn")
    (args.folder / "digits").mkdir(parents=True, exist_ok=True)
    shown = unseen.take(torch.arange(40 if args.quick else TEST))
    for i, (pixels, label) in enumerate(zip(shown.inputs, shown.targets.tolist(), strict=True)):
        picture(pixels).save(args.folder / "digits" / f"{i:03}-{label}.png")
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    print(f"digits-cnn: {norms} BatchNorms, test accuracy {right:.1%} on {TEST} digits")
    print(f"digits: {len(shown)} of those as PNG files")


main()
