"""Whether the memory of a run grows with the corpus: its peak on few and on many short texts, piped in."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.support import models

FEW, MANY = 2_000, 100_000
ROUNDS = 3
# The command in a process of its own, which ends by telling its peak.
PEAK = """
import resource, sys
from normscope.cli.start import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def growth(command: str, rounds: int = ROUNDS) -> Callable[[], list[float]]:
    """Return what measures a command's peak on many texts over that on few, one ratio a round."""

    def run() -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            save_small_model(Path(folder))
            return [peak(command, folder, MANY) / peak(command, folder, FEW) for _ in range(rounds)]

    return run


def save_small_model(folder: Path) -> None:
    """Write a small random BERT, 2 layers of 32 features, with a real tokenizer."""
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(vocab_size=31000, **sizes)).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(models.demo_folder()).save_pretrained(folder)


def peak(command: str, model: str, texts: int) -> int:
    """Return the peak resident memory in bytes of a command over so many texts on its pipe."""
    arguments = [sys.executable, "-c", PEAK, command, model, "--json"]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        _, told = process.communicate("\n".join(sentences(texts)).encode())
    found = re.search(r"^(\d+)$", told.decode(), re.MULTILINE)
    assert found, told.decode()[-2000:]
    return int(found[1]) * (1 if sys.platform == "darwin" else 1024)


def sentences(count: int) -> Iterator[str]:
    """Give so many short texts, no two of them alike."""
    prose = models.prose(500)
    return (
        f"{number} {' '.join(prose[number % len(prose)].split()[: 4 + number % 9])}"
        for number in range(count)
    )
