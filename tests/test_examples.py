"""The examples run, on a few texts."""

import subprocess
import sys
from pathlib import Path

from tests import models

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_special_tokens(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(models.prose(60)), encoding="utf-8")
    command = [sys.executable, str(EXAMPLES / "special_tokens.py"), "demo", str(texts)]
    head, *rows = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert head.split() == ["what", "position", "explains", "with", "special", "tokens", "without"]
    shares = {name: (float(a.rstrip("%")), float(b.rstrip("%"))) for name, a, b in map(str.split, rows)}
    assert len(shares) == 13
    included, excluded = shares["encoder.layer.0.output.LayerNorm"]
    assert included > 50 > excluded
