"""Trains a small GPT-2 with transformers' Trainer, with LayerNorm and with BatchNorm, and watches its norms.

The data are the bytes of Python's documentation, in blocks of equal length without padding: the easiest
case for BatchNorm. NormCallback hands two numbers to the Trainer's loggers: the gap between a batch's means
and the running ones, which is batch noise and, while the model still moves, that movement; and the agreement
of each layer with BatchNorm. In training BatchNorm also sees later tokens, so that its loss is not that of a
language model.

Run: python examples/train_gpt2.py [--quick] [--picture training.png] [--folder runs]     (three minutes)
"""

import argparse
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import normscope
from _common import lines
from _data import sentences
from normscope.render.page.vega import ON_PAPER

BLOCK, BATCH = 64, 16
# The curves of the picture, by the names that are logged.
CURVES = {
    "loss": "loss of the training step",
    "norms/bn_gap_mean/median": "gap of batch from running means",
    "norms/bn_agreement/median": "agreement of the layer with BN",
}


class TokenBatchNorm(nn.Module):
    """BatchNorm over the features of tokens: (batch, tokens, features) in and out."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features)

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise each feature over all tokens of the batch."""
        normalised: Tensor = self.norm(hidden.transpose(1, 2)).transpose(1, 2).contiguous()
        return normalised


def model_with(norm: str) -> Any:
    """Return a GPT-2 of four layers on bytes, its LayerNorms replaced if the norm is BatchNorm."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=256, n_embd=96, n_layer=4, n_head=4, n_positions=BLOCK, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config)
    if norm == "BatchNorm":
        for module in [*model.modules()]:
            for name, child in module.named_children():
                if isinstance(child, nn.LayerNorm):
                    setattr(module, name, TokenBatchNorm(config.n_embd))
    return model


def blocks() -> list[dict[str, Tensor]]:
    """Return the documentation as blocks of bytes, each its own label."""
    text = torch.tensor(list(" ".join(sentences()).encode()))
    rows = text[: len(text) // BLOCK * BLOCK].view(-1, BLOCK)
    return [{"input_ids": row, "labels": row} for row in rows]


def train(norm: str, folder: Path, steps: int) -> Iterator[Mapping[str, Any]]:
    """Train with a norm, and yield each logged number of `CURVES` with its step."""
    every = max(1, steps // 40)
    arguments = TrainingArguments(
        str(folder / norm),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        logging_steps=every,
        save_strategy="no",
        report_to=["tensorboard"] if find_spec("tensorboard") else [],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    callback = normscope.NormCallback(every, per_layer=False, save=folder / f"{norm}.jsonl")
    trainer = Trainer(model_with(norm), arguments, train_dataset=blocks(), callbacks=[callback])
    trainer.train()
    for entry in trainer.state.log_history:
        for name in CURVES.keys() & entry.keys():
            yield {"norm": norm, "step": entry["step"], "curve": name, "value": entry[name]}


def main() -> None:
    """Train both models, print the last numbers of each, and draw the curves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a reduced form, in seconds")
    parser.add_argument("--picture", type=Path, default=Path("training.png"), help="picture file")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="folder of logs and windows")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    steps = 20 if options.quick else 800
    rows = [row for norm in ("LayerNorm", "BatchNorm") for row in train(norm, options.folder, steps)]
    for norm in ("LayerNorm", "BatchNorm"):
        last = {row["curve"]: row["value"] for row in rows if row["norm"] == norm}
        print(f"{norm}: " + ", ".join(f"{about} {last[name]:.3g}" for name, about in CURVES.items()))
    drawn = [
        lines([row for row in rows if row["curve"] == name], "step, step", "value, ", "norm", title)
        for name, title in CURVES.items()
    ]
    picture = drawn[0] | drawn[1] | drawn[2]
    picture.configure(**ON_PAPER).save(options.picture, scale_factor=2)
    print(f"picture: {options.picture}")
    print(f"which layers moved: normscope track {options.folder / 'LayerNorm.jsonl'}")


if __name__ == "__main__":
    main()
