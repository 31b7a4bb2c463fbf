"""Tiny trainings for the tests of callbacks: data, a model, a Trainer that remembers its batches."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from tests.support import models

TOKENS = 12


def examples(count: int = 48) -> list[dict[str, Tensor]]:
    """Return random texts of unequal lengths, padded on the right, with labels for each."""
    generator, rows = torch.Generator().manual_seed(0), []
    for _ in range(count):
        length = int(torch.randint(4, TOKENS + 1, (), generator=generator))
        ids = torch.randint(5, 100, (TOKENS,), generator=generator)
        mask = (torch.arange(TOKENS) < length).long()
        rows.append({"input_ids": ids * mask, "attention_mask": mask, "labels": ids.where(mask > 0, -100)})
    return rows


class Remembering(Trainer):
    """A Trainer that keeps the inputs of all training batches, by the step that they belong to."""

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        kept = vars(self).setdefault("kept", {})
        kept.setdefault(self.state.global_step + 1, []).append({k: v.clone() for k, v in inputs.items()})
        return super().training_step(model, inputs, *args, **kwargs)


def trainer(
    folder: Path, *callbacks: Any, kind: type[Trainer] = Remembering, dropout: float = 0.0, **options: Any
) -> Any:
    """Return a trainer of a tiny GPT-2 on the CPU, whose steps are the same each time."""
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "logging_steps": 2,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "learning_rate": 1e-2,
    }
    data = examples()
    return kind(
        models.gpt2(resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout).train(),
        TrainingArguments(str(folder), **{**settings, **options}),
        train_dataset=data,
        eval_dataset=data[:8],
        callbacks=[*callbacks],
    )


def norm_logs(trained: Any, prefix: str = "norms") -> dict[int, dict[str, float]]:
    """Return the numbers that were logged at each step, by their names."""
    return {
        entry["step"]: {name: value for name, value in entry.items() if name.startswith(f"{prefix}/")}
        for entry in trained.state.log_history
        if any(name.startswith(f"{prefix}/") for name in entry)
    }
