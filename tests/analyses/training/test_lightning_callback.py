"""LightningNormCallback in real runs of Lightning's Trainer."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import normscope
from tests.analyses.training.runs import examples
from tests.capture.test_watcher import hooks_of
from tests.support import models

lightning = pytest.importorskip("lightning")
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger  # noqa: E402


class Model(lightning.LightningModule):  # type: ignore[name-defined]
    """A tiny GPT-2 that keeps its batches, and fails at a step if it is told to."""

    def __init__(self, lr: float = 1e-2, error: type[BaseException] | None = None) -> None:
        super().__init__()
        self.model = models.gpt2(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0).train()
        self.lr, self.error = lr, error
        self.losses: list[Tensor] = []
        self.kept: dict[int, list[dict[str, Tensor]]] = {}

    def training_step(self, batch: dict[str, Tensor], _: int) -> Any:
        self.kept.setdefault(self.global_step + 1, []).append(batch)
        loss = self.model(**batch).loss
        self.losses.append(loss.detach())
        if self.error is not None and self.global_step == 1:
            raise self.error
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        self.log("val_loss", self.model(**batch).loss)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def loader(batches: int = 12) -> Any:
    return DataLoader(examples(4 * batches), batch_size=4)  # type: ignore[arg-type]


def fit(
    folder: Path, model: Model, *callbacks: Any, resume: Path | None = None, batches: int = 12, **options: Any
) -> Any:
    settings: dict[str, Any] = {"max_steps": 6, "accelerator": "cpu", "enable_progress_bar": False}
    settings |= {"enable_model_summary": False, "logger": CSVLogger(str(folder), flush_logs_every_n_steps=1)}
    trainer = lightning.Trainer(default_root_dir=folder, callbacks=[*callbacks], **{**settings, **options})
    trainer.fit(model, loader(batches), loader(), ckpt_path=resume)
    return trainer


def logged(folder: Path) -> Iterator[dict[str, float]]:
    """Yield what the CSV logger has of each step."""
    import csv

    (file,) = folder.rglob("metrics.csv")
    with file.open() as stream:
        for row in csv.DictReader(stream):
            yield {name: float(value) for name, value in row.items() if value}


def norms(folder: Path, prefix: str = "norms") -> dict[int, dict[str, float]]:
    rows = (row for row in logged(folder) if any(name.startswith(f"{prefix}/") for name in row))
    return {
        int(row["step"]): {name: value for name, value in row.items() if name.startswith(f"{prefix}/")}
        for row in rows
    }


def test_numbers_are_those_of_the_steps_own_batches(tmp_path: Path) -> None:
    model = Model(lr=0.0)
    trainer = fit(tmp_path, model, normscope.LightningNormCallback(2), accumulate_grad_batches=2)
    logs, watcher = norms(tmp_path), normscope.watch(model)
    assert list(logs) == [1, 2, 4, 6]
    for step, numbers in logs.items():
        with torch.no_grad(), watcher.window() as window:
            for batch in model.kept[step]:
                model.model(**batch)
        assert len(model.kept[step]) == 2
        want = window.scalars()
        assert numbers.keys() == want.keys()
        assert numbers == pytest.approx(want, rel=1e-5, abs=1e-7)
    assert "norms/bn_agreement/median" in trainer.callback_metrics
    assert hooks_of(model) == 0


def test_the_run_is_bit_equal_to_one_without(tmp_path: Path) -> None:
    plain, measured = Model(), Model()
    fit(tmp_path / "plain", plain)
    fit(tmp_path / "measured", measured, normscope.LightningNormCallback(1))
    assert len(plain.losses) == 6
    assert torch.equal(torch.stack(plain.losses), torch.stack(measured.losses))
    pairs = zip(plain.parameters(), measured.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_validation_has_a_prefix_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "norms.jsonl"
    callback = normscope.LightningNormCallback(2, eval_batches=1, save=file)
    model = Model(lr=0.0)
    fit(tmp_path, model, callback, val_check_interval=3)
    logs = norms(tmp_path, "eval_norms")
    assert list(logs) == [3, 6]
    with torch.no_grad(), normscope.watch(model).window() as window:
        model.model(**next(iter(loader())))
    want = window.scalars("eval_norms", ["ln_variance"])
    assert {name: logs[3][name] for name in want} == pytest.approx(want, rel=1e-5)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {(line["step"], line["split"]) for line in lines} == {
        *((step, "train") for step in (1, 2, 4, 6)),
        *((step, "eval") for step in (3, 6)),
    }
    assert normscope.track(file).steps.tolist() == [1, 2, 4, 6]


def test_a_resumed_training_goes_on(tmp_path: Path) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    # An epoch has three batches, because Lightning goes on from the end of an epoch.
    fit(whole, Model(), normscope.LightningNormCallback(1), batches=3)
    first = fit(half / "a", Model(), normscope.LightningNormCallback(1), batches=3, max_steps=3)
    first.save_checkpoint(half / "a.ckpt")
    fit(half / "b", Model(), normscope.LightningNormCallback(1), batches=3, resume=half / "a.ckpt")
    resumed, want = norms(half / "b"), norms(whole)
    assert list(resumed) == [4, 5, 6]
    for step, numbers in resumed.items():
        assert numbers == pytest.approx(want[step], rel=1e-9)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_no_hook_stays_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    model = Model(error=error)
    with pytest.raises((ValueError, SystemExit)):
        fit(tmp_path, model, normscope.LightningNormCallback(2))
    assert hooks_of(model) == 0


def test_tensorboard_has_the_numbers(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(str(tmp_path))
    callback = normscope.LightningNormCallback(3, metrics=["input_rms"], per_layer=False)
    fit(tmp_path, Model(), callback, logger=logger)
    file = events.EventAccumulator(logger.log_dir).Reload()
    assert [event.step for event in file.Scalars("norms/input_rms/median")] == [1, 3, 6]


def test_a_missing_package_is_said_in_one_line() -> None:
    code = "import sys; sys.modules['lightning'] = None; import normscope; normscope.LightningNormCallback"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: LightningNormCallback needs the package lightning; run pip install")
