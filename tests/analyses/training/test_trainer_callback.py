"""NormCallback in real runs of transformers' Trainer."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, TrainerCallback

import normscope
from normscope.errors import UsageError
from tests.analyses.training.runs import Remembering, norm_logs, trainer
from tests.capture.test_watcher import hooks_of
from tests.capture.test_window import tensor_memory
from tests.support import models

# Accelerate 1.2 lacks an argument that the Trainer passes to it.
pytest.importorskip("accelerate", minversion="1.3")


def trained(folder: Path, *callbacks: Any, **options: Any) -> Any:
    one = trainer(folder, *callbacks, **options)
    one.train()
    return one


def assert_close(got: dict[str, float], want: dict[str, float]) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name


def test_numbers_are_those_of_the_steps_own_batches(tmp_path: Path) -> None:
    # The model does not change at a learning rate of 0, so that its batches can be run again.
    one = trained(tmp_path, normscope.NormCallback(3), learning_rate=0.0)
    logs, watcher = norm_logs(one), normscope.watch(one.model)
    assert list(logs) == [1, 3, 6]
    for step, numbers in logs.items():
        with torch.no_grad(), watcher.window() as window:
            for batch in one.kept[step]:
                one.model(**batch)
        assert_close(numbers, window.scalars())


def test_the_run_is_bit_equal_to_one_without(tmp_path: Path) -> None:
    options = {"logging_steps": 1, "eval_strategy": "steps", "eval_steps": 2, "dropout": 0.1}
    plain = trained(tmp_path / "plain", **options)
    callback = normscope.NormCallback(2, save=tmp_path / "norms.jsonl")
    measured = trained(tmp_path / "measured", callback, **options)
    for name in ("loss", "grad_norm", "learning_rate", "eval_loss"):
        curves = [[e[name] for e in one.state.log_history if name in e] for one in (plain, measured)]
        assert len(curves[0]) >= 3
        assert curves[0] == curves[1]
    weights = zip(plain.model.parameters(), measured.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)
    assert hooks_of(measured.model) == hooks_of(plain.model)


def test_all_batches_of_an_accumulated_step_count(tmp_path: Path) -> None:
    options = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 0.0}
    one = trained(tmp_path, normscope.NormCallback(4), **options)
    assert [len(batches) for batches in one.kept.values()] == [2] * 6
    with torch.no_grad(), normscope.watch(one.model).window() as window:
        for batch in one.kept[1]:
            one.model(**batch)
    assert_close(norm_logs(one)[1], window.scalars())


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_counts_a_forward_once(tmp_path: Path, reentrant: bool) -> None:
    file = tmp_path / "norms.jsonl"
    options = {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": reentrant},
        "learning_rate": 0.0,
    }
    one = trained(tmp_path, normscope.NormCallback(6, save=file), **options)
    plain = trained(tmp_path, normscope.NormCallback(6), learning_rate=0.0)
    assert_close(norm_logs(one)[6], norm_logs(plain)[6])
    assert {json.loads(line)["calls"] for line in file.read_text().splitlines()} == {1}


def test_mixed_precision_is_measured(tmp_path: Path) -> None:
    half = norm_logs(trained(tmp_path, normscope.NormCallback(6), bf16=True))[1]
    whole = norm_logs(trained(tmp_path, normscope.NormCallback(6)))[1]
    assert half.keys() == whole.keys()
    for name, value in whole.items():
        assert half[name] == pytest.approx(value, rel=0.05), name


def test_an_evaluation_has_a_prefix_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "norms.jsonl"
    callback = normscope.NormCallback(3, eval_batches=1, save=file)
    options = {"eval_strategy": "steps", "eval_steps": 3, "per_device_eval_batch_size": 4}
    one = trained(tmp_path, callback, learning_rate=0.0, **options)
    logs = norm_logs(one, "eval_norms")
    assert list(logs) == [3, 6]
    first = {name: torch.stack([row[name] for row in one.eval_dataset[:4]]) for name in one.eval_dataset[0]}
    with torch.no_grad(), normscope.watch(one.model).window() as window:
        one.model(**first)
    want = window.scalars("eval_norms", ["ln_variance", "input_rms"])
    assert_close({name: logs[3][name] for name in want}, want)
    # Evaluations are compared with the running statistics of training, and do not change them.
    assert logs[3]["eval_norms/bn_gap_mean/median"] > 0
    without = norm_logs(trained(tmp_path, normscope.NormCallback(3), learning_rate=0.0))
    assert norm_logs(one) == without
    assert {json.loads(line)["split"] for line in file.read_text().splitlines()} == {"train", "eval"}


def test_an_evaluation_before_any_training_is_measured(tmp_path: Path) -> None:
    one = trainer(tmp_path, normscope.NormCallback())
    one.evaluate()
    assert "eval_norms/ln_variance/median" in norm_logs(one, "eval_norms")[0]
    one.predict(one.eval_dataset)
    assert len(norm_logs(one, "eval_norms")) == 1


def test_a_resumed_training_goes_on(tmp_path: Path) -> None:
    def run(name: str, **options: Any) -> Any:
        folder = tmp_path / name
        callback = normscope.NormCallback(2, save=tmp_path / f"{name}.jsonl")
        return trainer(folder, callback, save_strategy="steps", save_steps=3, **options)

    whole, half = run("whole"), run("half")
    whole.train()
    half.train()
    resumed = run("half")
    resumed.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoint-3"))
    assert norm_logs(resumed) == norm_logs(whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "half.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == [1, 2, 4, 6]
    assert (tmp_path / "half.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


class Failing(Remembering):
    """A Trainer whose model fails in a measured step."""

    error: type[BaseException] = ValueError

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if self.state.global_step == 1:
            raise self.error
        return loss


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_no_hook_stays_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    one = trainer(tmp_path, normscope.NormCallback(2), kind=Failing)
    one.error = error
    with pytest.raises(error):
        one.train()
    assert hooks_of(one.model) == hooks_of(models.gpt2())
    one.error = ValueError
    one.compute_loss = lambda model, inputs, **_: model(**inputs).loss
    one.train()
    assert list(norm_logs(one)) == [1, 2, 4, 6]


class Stopping(TrainerCallback):
    """Stops in the middle of a measured step."""

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = True


def test_an_early_stop_leaves_no_hook(tmp_path: Path) -> None:
    one = trained(tmp_path, normscope.NormCallback(1), Stopping(), gradient_accumulation_steps=2)
    assert one.state.global_step < 6
    assert hooks_of(one.model) == hooks_of(models.gpt2())
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    options |= {"metric_for_best_model": "eval_loss", "load_best_model_at_end": True, "learning_rate": 1.0}
    one = trained(tmp_path, normscope.NormCallback(1), EarlyStoppingCallback(1), **options)
    assert one.state.global_step < 6
    assert hooks_of(one.model) == hooks_of(models.gpt2())


def test_a_callback_may_be_added_later(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    one.add_callback(normscope.NormCallback(3, per_layer=False, metrics=["input_rms"], layers=["*ln_f"]))
    one.train()
    assert {name for logs in norm_logs(one).values() for name in logs} == {"norms/input_rms/median"}


def test_the_steps_loss_is_logged_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = trained(tmp_path, normscope.NormCallback(2, per_layer=False), logging_steps=2)
    assert [entry["step"] for entry in one.state.log_history if "loss" in entry] == [2, 4, 6]
    console = capsys.readouterr().out
    assert console.count("'norms/bn_agreement/median'") == 4
    assert console.count("'loss'") == 3


def test_wrong_options_are_refused() -> None:
    for options, message in (
        ({"every": 0}, "every is 0; expected 1 or more"),
        ({"eval_batches": -1}, "eval_batches is -1; expected 0 or more"),
        ({"metrics": ["ln_varianse"]}, "is it ln_variance"),
        ({"layers": ["nothing"]}, "no layer matches 'nothing'"),
    ):
        with pytest.raises(UsageError, match=message):
            trained(Path("unused"), normscope.NormCallback(**options))
    with pytest.raises(UsageError, match="called by no Trainer"):
        normscope.NormCallback().on_init_end()


def test_tensorboard_has_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    one = trained(tmp_path, normscope.NormCallback(3), report_to=["tensorboard"])
    file = events.EventAccumulator(str(tmp_path / "events")).Reload()
    logs = norm_logs(one)
    names = {f"train/{name}" for name in logs[6]}
    assert names == {tag for tag in file.Tags()["scalars"] if tag.startswith("train/norms/")}
    for name in logs[6]:
        points = {event.step: event.value for event in file.Scalars(f"train/{name}")}
        want = {step: numbers[name] for step, numbers in logs.items() if name in numbers}
        assert points == pytest.approx(want, rel=1e-6)


def test_wandb_has_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    logged: list[dict[str, Any]] = []
    one = trainer(tmp_path, normscope.NormCallback(3, per_layer=False), report_to=["wandb"])
    with wandb.init(mode="offline", dir=str(tmp_path)) as run:
        log = run.log

        def keep(data: dict[str, Any]) -> None:
            logged.append(dict(data))
            log(data)

        monkeypatch.setattr(wandb, "log", keep)
        one.train()
        summary = dict(run.summary)
    name = "norms/bn_agreement/median"
    assert summary[f"train/{name}"] == norm_logs(one)[6][name]
    assert [data[f"train/{name}"] for data in logged if f"train/{name}" in data] == [
        numbers[name] for numbers in norm_logs(one).values()
    ]


def test_the_import_stays_light() -> None:
    code = "import sys, normscope; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


RANK = """
import sys, json
from pathlib import Path
import normscope
from tests.analyses.training.runs import norm_logs, trainer
folder = Path(sys.argv[1])
one = trainer(folder, normscope.NormCallback(2, save=folder / "norms.jsonl"),
    per_device_train_batch_size=2, ddp_backend="gloo", eval_strategy="steps", eval_steps=3,
    per_device_eval_batch_size=4, learning_rate=0.0)
one.train()
logs = {"train": norm_logs(one), "eval": norm_logs(one, "eval_norms")}
(folder / f"rank{one.args.process_index}.json").write_text(json.dumps(logs))
"""


def test_two_ranks_give_the_numbers_of_one_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    done = subprocess.run(
        [*command, "--rdzv-endpoint=localhost:0", str(script), str(tmp_path)],
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert ranks[1] == {"train": {}, "eval": {}}
    options: dict[str, Any] = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    options |= {"learning_rate": 0.0} | {
        "eval_strategy": "steps",
        "eval_steps": 3,
        "per_device_eval_batch_size": 4,
    }
    alone = tmp_path / "alone.jsonl"
    one = trained(tmp_path / "one", normscope.NormCallback(2, save=alone), **options)
    for split, prefix in (("train", "norms"), ("eval", "eval_norms")):
        logs = norm_logs(one, prefix)
        assert list(ranks[0][split]) == [str(step) for step in logs]
        for step, numbers in logs.items():
            assert_close(ranks[0][split][str(step)], numbers)
    lines, want = ((path.read_text().splitlines()) for path in (tmp_path / "norms.jsonl", alone))
    assert [json.loads(line)["count"] for line in lines] == [json.loads(line)["count"] for line in want]


class Unlogged(Remembering):
    """A Trainer that keeps no history: of itself, it grows with each logged number."""

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        assert logs

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
        self.kept.clear()  # type: ignore[attr-defined]
        if self.state.global_step in (200, 1999):
            vars(self).setdefault("memory", []).append(tensor_memory())
        return loss


@pytest.mark.slow
def test_memory_is_flat_over_2000_steps(tmp_path: Path) -> None:
    one = trainer(tmp_path, normscope.NormCallback(1), kind=Unlogged, max_steps=2000)
    one.train()
    (tensors, size), last = one.memory
    # The tables are as long as the longest text of the last measured batch.
    assert last[0] == tensors
    assert last[1] < 1.1 * size
