"""The package beside a script by hand and beside other tools, on the same model and text, in turn."""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch

import normscope
from tests.benchmarks import by_hand
from tests.benchmarks.hooks import batches, seconds
from tests.support import models

ROUNDS = 5
TEXTS, SIZE, LONGEST = 1000, 32, 128


def whole_run() -> list[float]:
    """Return the script's time over the package's, tokenizing too, for 1,000 sentences as they come."""
    torch.set_num_threads(1)
    model, tokenizer = models.demo()
    texts = models.prose(TEXTS)
    found: dict[str, Any] = {}

    def ours() -> None:
        batching = normscope.Batching(batch_size=SIZE, max_length=LONGEST)
        found["report"] = normscope.inspect(model, texts, tokenizer=tokenizer, batching=batching)

    def script() -> None:
        given = [texts[start : start + SIZE] for start in range(0, TEXTS, SIZE)]
        padded = (
            tokenizer(part, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
            for part in given
        )
        with torch.no_grad():
            found["sums"] = by_hand.summed(model, padded, LONGEST)

    ratios = [seconds(script) / seconds(ours) for _ in range(ROUNDS)]
    _require_alike(found["report"], found["sums"])
    return ratios


def _require_alike(report: normscope.Report, sums: dict[str, by_hand.Sums]) -> None:
    """Both have measured the same."""
    for name, layer in report.layers.items():
        assert layer.feature is not None
        assert layer.position is not None
        mean, variance = sums[name].by_feature()
        for ours, theirs in ((layer.feature.mean, mean), (layer.feature.variance, variance)):
            gap = torch.from_numpy(ours) - theirs
            assert float(gap.abs().max()) < 1e-4 * float(theirs.abs().max()), name
        assert int(layer.position.count.sum()) == int(sums[name].count.sum())


def kept(tool: str) -> Callable[[], list[float]]:
    """Return what measures a tool's forward, and mean and variance per feature, over the bare forward."""

    def run() -> list[float]:
        if tool != "hooks" and importlib.util.find_spec(tool) is None:
            return []
        torch.set_num_threads(1)
        model, tokenizer = models.demo()
        inputs = batches(tokenizer, texts=256, size=SIZE)
        ready = {"hooks": by_hand.kept_by_hooks, "captum": by_hand.kept_by_captum}
        keep = ready[tool] if tool in ready else by_hand.kept_by_nnsight(model)

        def bare() -> None:
            for batch in inputs:
                model(**batch)

        def theirs() -> None:
            features = [module.normalized_shape[0] for module in by_hand.norms(model).values()]
            sums = [[torch.zeros(n, dtype=torch.float64) for n in (1, d, d)] for d in features]
            for batch in inputs:
                by_hand.reduced(keep(model, batch), batch["attention_mask"], sums)

        with torch.no_grad():
            theirs()
            return [seconds(theirs) / seconds(bare) for _ in range(ROUNDS)]

    return run


def script_over_bare() -> list[float]:
    """Return the script's hooks on length-sorted batches over the bare forward."""
    torch.set_num_threads(1)
    model, tokenizer = models.demo()
    inputs = batches(tokenizer, texts=256, size=SIZE)

    def bare() -> None:
        for batch in inputs:
            model(**batch)

    def script() -> None:
        by_hand.summed(model, inputs, LONGEST)

    with torch.no_grad():
        script()
        return [seconds(script) / seconds(bare) for _ in range(ROUNDS)]
