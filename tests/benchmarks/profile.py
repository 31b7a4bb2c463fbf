"""Where the hooks' time goes: operators of a hooked forward less those of a bare one, per layer call."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as recorded

from normscope.capture.recorder import Recorder
from tests.benchmarks.hooks import batches
from tests.support import models

SHOWN = 12


def show() -> None:
    """Print the operators that take most, in microseconds a call of a layer."""
    torch.set_num_threads(1)
    model, tokenizer = models.demo()
    inputs = batches(tokenizer, texts=256, size=32)
    recorder = Recorder(model)
    calls = len(inputs) * len(recorder.captures)

    def bare() -> None:
        for batch in inputs:
            model(**batch)

    def hooked() -> None:
        with recorder:
            bare()

    with torch.no_grad():
        hooked()
        less, more = _operators(bare), _operators(hooked)
    rows = {
        name: (time - less.get(name, (0.0, 0))[0], count - less.get(name, (0.0, 0))[1])
        for name, (time, count) in more.items()
    }
    print(f"{'operator':36} {'us a call':>9} {'times':>6}")
    for name, (time, count) in sorted(rows.items(), key=lambda row: -row[1][0])[:SHOWN]:
        print(f"{name:36} {time / calls:9.0f} {count / calls:6.1f}")


def _operators(run: Callable[[], None]) -> dict[str, tuple[float, int]]:
    """Return each operator's own processor time in microseconds, and how often it ran."""
    with recorded(activities=[ProfilerActivity.CPU]) as found:
        run()
    return {event.key: (event.self_cpu_time_total, event.count) for event in found.key_averages()}
