"""The zoo: model types of transformers, tiny and random, whose every norm layer is found and right.

The types here stand for the rest; `python -m tests.zoo` runs all of them and writes a table, and
`pytest -m slow tests/zoo/test_zoo.py` asks the same of each.
"""

import pytest

from tests.zoo.__main__ import reasons, run
from tests.zoo.build import build, types
from tests.zoo.check import Record, check

# Encoders, decoders, both; LayerNorm, RMSNorm by w and by 1 + w; heads, experts, state spaces; images, sound.
FEW = (
    "albert",
    "bert",
    "bloom",
    "bridgetower",
    "clip",
    "cohere",
    "convnext",
    "deberta-v2",
    "deepseek_v3",
    "distilbert",
    "electra",
    "esm",
    "falcon",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "jamba",
    "llama",
    "longformer",
    "mamba",
    "mamba2",
    "mixtral",
    "modernbert",
    "musicgen",
    "olmo2",
    "opt",
    "phi3",
    "qwen3",
    "qwen3_moe",
    "qwen3_next",
    "roberta",
    "swin",
    "t5",
    "vit",
    "whisper",
    "xlnet",
    "xlstm",
)


@pytest.mark.parametrize("kind", FEW)
def test_every_norm_layer_of_a_type_is_found_and_right(kind: str) -> None:
    record = check(build(kind))
    assert record.ran, record.error
    assert record.layers
    assert_covered(record)


@pytest.mark.slow
@pytest.mark.parametrize("kind", types())
def test_every_norm_layer_of_all_types_is_found_and_right(kind: str) -> None:
    record = run(kind)
    if not record.ran:
        pytest.skip(f"{kind} does not run from a small configuration: {record.error}")
    assert_covered(record)


def assert_covered(record: Record) -> None:
    """Fail with what normscope missed or got wrong, the first of it in full."""
    assert record.covered, f"{reasons(record.failures)}; first: {record.failures[0]}"
