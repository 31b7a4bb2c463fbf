"""What every test runs under: no network; `--overwrite` rewrites the golden files."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from normscope.results.json_schema import RESULTS, json_schema
from tests.support.digits import Digits, train
from tests.support.preloaded import preloaded

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are small, and threads that wait are slow

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--overwrite` and `--one-pass`."""
    parser.addoption(
        "--overwrite", action="store_true", help="rewrite the golden files from what is rendered now"
    )
    parser.addoption(
        "--one-pass",
        action="store_true",
        help="take calls of layers in one pass of compiled loops from their second call on",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Follow `--one-pass`, in workers, too."""
    if config.getoption("--one-pass"):
        from normscope.capture import fused_sums as one_pass

        one_pass.AFTER = 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a file's tests to one worker, so that fixtures of a module and compiled loops are made once."""
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    return LoadFileScheduling(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture(autouse=True, scope="session")
def _everything_written_is_valid() -> Iterator[None]:
    """Hold every result that a test turns into JSON against the schema that the package ships."""
    with pytest.MonkeyPatch.context() as patch:
        for name, (_, kind) in RESULTS.items():
            patch.setattr(kind, "to_dict", _validated(kind.to_dict, Draft202012Validator(json_schema(name))))
        yield


def _validated(write: Callable[[Any], dict[str, Any]], validator: Any) -> Callable[[Any], dict[str, Any]]:
    def to_dict(self: Any) -> dict[str, Any]:
        data = write(self)
        validator.validate(data)
        return data

    return to_dict


@pytest.fixture(scope="session")
def preloaded_commands() -> Iterator[Path]:
    """The folder of the commands `normscope` and `python` that start without importing anything."""
    with preloaded() as commands:
        yield commands


@pytest.fixture(scope="session")
def digits(preloaded_commands: Path, tmp_path_factory: pytest.TempPathFactory) -> Digits:
    """The network of `digits_cnn.py --quick` and its images, trained once."""
    return train(preloaded_commands / "python", tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def one_block(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first block of the demo."""
    from tests.support import models

    folder = tmp_path_factory.mktemp("one_block")
    for part in models.demo(blocks=1):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """A function that compares text with a golden file, or rewrites the file under `--overwrite`."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--overwrite"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), (
            f"{name} changed; if that is meant, run with --overwrite"
        )

    return check
