"""The network that `examples/digits_cnn.py --quick` trains, with its images."""

import subprocess
from pathlib import Path
from typing import NamedTuple

SCRIPT = Path(__file__).parents[2] / "examples" / "digits_cnn.py"


class Digits(NamedTuple):
    """What the example printed, and the folder with `digits-cnn` and `digits`; tests only read them."""

    printed: str
    folder: Path


def train(python: Path, folder: Path) -> Digits:
    """Run the example in a folder."""
    command = [str(python), str(SCRIPT), str(folder), "--quick"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Digits(done.stdout, folder)
