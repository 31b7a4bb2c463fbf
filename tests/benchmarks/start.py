"""What the command costs beside the least that could do its work, in processor time, in turn."""

import os
import resource
import subprocess
import sys

from tests.support import models

ROUNDS = 9
SMALLEST = """
import sys, torch
from transformers import AutoModel, AutoTokenizer
model = AutoModel.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
with torch.no_grad():
    model(**tokenizer(["one sentence"], return_tensors="pt"))
"""
INSPECT = [sys.executable, "-m", "normscope", "inspect", "demo", "one sentence"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def inspect_ratio() -> list[float]:
    smallest = [sys.executable, "-c", SMALLEST, str(models.demo_folder())]
    for command in (smallest, INSPECT):
        cpu_seconds(command)  # fills the disk cache
    return [cpu_seconds(INSPECT) / cpu_seconds(smallest) for _ in range(ROUNDS)]


def help_seconds() -> list[float]:
    command = [sys.executable, "-m", "normscope", "inspect", "--help"]
    return [cpu_seconds(command) for _ in range(ROUNDS)]


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
