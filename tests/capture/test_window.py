"""Windows of a training: each is measured on its own, and compared with BatchNorm's running statistics."""

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

import normscope
from normscope.errors import UsageError
from tests.capture.test_watcher import hooks_of, padded
from tests.support import models
from tests.support.activations import vit
from tests.support.reports_alike import furthest

MOMENTUM = 0.3


def t5() -> Any:
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    return models.spread_norms(transformers.T5ForConditionalGeneration(config))


def ids(count: int) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield {"input_ids": torch.randint(5, 100, (4, 9), generator=generator)}


def inputs_of(name: str, count: int) -> Iterator[dict[str, Tensor]]:
    if name == "vit":
        generator = torch.Generator().manual_seed(0)
        return ({"pixel_values": torch.randn(3, 3, 16, 16, generator=generator)} for _ in range(count))
    if name == "t5":
        return ({**batch, "decoder_input_ids": batch["input_ids"].flip(1)} for batch in ids(count))
    return ids(count)


BUILD: dict[str, Any] = {
    "gpt2": models.gpt2,
    "llama": models.llama,
    "t5": t5,
    "vit": vit,
    "MiniLM": lambda: models.demo()[0],
}
RMS = ("llama", "t5")


def rows_of(model: Any, batch: dict[str, Tensor]) -> dict[str, Any]:
    """Return what enters each norm layer, (V, D) in float64, seen by hooks of the test's own."""
    rows: dict[str, Any] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: rows.update({name: args[0].detach().double().numpy()})
        )
        for name, module in model.named_modules()
        if "Norm" in type(module).__name__
    ]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return {name: x.reshape(-1, x.shape[-1]) for name, x in rows.items()}


def reference(windows: list[Any], eps: float, centred: bool) -> dict[str, float]:
    """Return the numbers of the last of a layer's windows, two passes over each."""
    mean, variance = windows[0].mean(0), windows[0].var(0, ddof=1)
    for before in windows[1:-1]:
        mean = (1 - MOMENTUM) * mean + MOMENTUM * before.mean(0)
        variance = (1 - MOMENTUM) * variance + MOMENTUM * before.var(0, ddof=1)
    x = windows[-1]
    centre = x.mean(1, keepdims=True) if centred else 0.0
    y = (x - centre) / np.sqrt(((x - centre) ** 2).mean(1, keepdims=True) + eps)
    z = (x - x.mean(0)) / np.sqrt(x.var(0) + eps)
    numbers = {
        "ln_variance": x.var(1).mean(),
        "bn_agreement": (y * z).sum() / np.sqrt((y**2).sum() * (z**2).sum()),
        "input_rms": np.sqrt((x**2).mean()),
        "largest_input": np.abs(x).max(),
    }
    if len(windows) > 1:
        scale = np.linalg.norm(np.sqrt(variance))
        numbers["bn_gap_mean"] = np.linalg.norm(x.mean(0) - mean) / scale
        numbers["bn_gap_variance"] = np.linalg.norm(x.std(0) - np.sqrt(variance)) / scale
    return numbers


@pytest.mark.parametrize("name", BUILD)
def test_every_number_is_that_of_the_reference(name: str) -> None:
    model: Any = BUILD[name]()
    watcher, rows = normscope.watch(model), []
    for batch in inputs_of(name, 3):
        with torch.no_grad(), watcher.window(momentum=MOMENTUM) as window:
            model(**batch)
        rows.append(rows_of(model, batch))
        got = window.scalars()
        layers = {key: [step[key] for step in rows] for key in rows[0]}
        want = {}
        for layer, windows in layers.items():
            module = model.get_submodule(layer)
            eps = next(getattr(module, n) for n in ("eps", "variance_epsilon") if hasattr(module, n))
            for metric, value in reference(windows, eps, name not in RMS).items():
                want[f"norms/{metric}/{layer}"] = value
        for metric in {key.split("/")[1] for key in want}:
            values = [value for key, value in want.items() if key.startswith(f"norms/{metric}/")]
            want[f"norms/{metric}/median"] = np.median(values)
        assert got.keys() == want.keys()
        for key, value in want.items():
            assert got[key] == pytest.approx(value, rel=2e-5, abs=1e-6), key


def test_padding_does_not_count() -> None:
    model, batch = models.bert(), padded("right")
    with torch.no_grad(), normscope.watch(model).window() as window:
        model(**batch)
    rows = rows_of(model, batch)["bert.embeddings.LayerNorm"][batch["attention_mask"].reshape(-1).bool()]
    got = window.scalars()["norms/ln_variance/bert.embeddings.LayerNorm"]
    assert got == pytest.approx(rows.var(1).mean(), rel=1e-5)


def test_a_window_is_as_a_watcher_of_its_forwards_alone() -> None:
    model = models.gpt2()
    watcher = normscope.watch(model)
    windows = []
    for batch in ids(3):
        with torch.no_grad(), watcher.window() as window:
            model(**batch)
        windows.append(window)
    for batch, window in zip(ids(3), windows, strict=True):
        with torch.no_grad(), normscope.watch(model) as alone:
            model(**batch)
        # The first window has settled each layer, whose error is then measured in the same way.
        assert furthest(alone.report().to_dict(), window.report().to_dict(), ("seconds",)) < 1e-6
    assert furthest(watcher.report().to_dict(), windows[-1].report().to_dict(), ("seconds",)) == 0


def test_a_window_that_is_entered_again_adds_up() -> None:
    model, (one, two) = models.gpt2(), ids(2)
    window = normscope.watch(model).window()
    for batch in (one, two):
        with torch.no_grad(), window:
            model(**batch)
    with torch.no_grad(), normscope.watch(model).window() as whole:
        model(input_ids=torch.cat([one["input_ids"], two["input_ids"]]))
    assert window.report().run.tokens == 72
    for name, value in whole.scalars().items():
        assert window.scalars()[name] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_no_hook_stays_after_an_error(error: type[BaseException]) -> None:
    model, before = models.gpt2(), hooks_of(models.gpt2())
    watcher = normscope.watch(model)

    def fail(*_: Any) -> None:
        raise error

    handle = model.transformer.h[1].register_forward_pre_hook(fail)
    with pytest.raises(error), watcher.window():
        model(**next(ids(1)))
    handle.remove()
    assert hooks_of(model) == before
    with watcher.window() as window:
        model(**next(ids(1)))
    assert window.report().run.tokens == 36


def test_outputs_and_gradients_are_bit_equal() -> None:
    results = []
    for measured in (False, True):
        model = models.gpt2().train()
        watcher, losses = normscope.watch(model), []
        for batch in ids(3):
            torch.manual_seed(1)
            inputs = {**batch, "labels": batch["input_ids"]}
            if measured:
                with watcher.window() as window:
                    loss = model(**inputs).loss
                    loss.backward()
                assert window.scalars()
            else:
                loss = model(**inputs).loss
                loss.backward()
            losses.append(loss.detach())
        results.append([*losses, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_metrics_and_layers_are_chosen() -> None:
    model = models.gpt2()
    watcher = normscope.watch(model, layers=["*ln_f"])
    with watcher.window() as window:
        model(**next(ids(1)))
    got = window.scalars("mine", ["input_rms"])
    assert list(got) == ["mine/input_rms/transformer.ln_f", "mine/input_rms/median"]
    assert list(window.scalars(metrics=["input_rms"], per_layer=False)) == ["norms/input_rms/median"]
    with pytest.raises(UsageError, match=r"no metric 'ln_varianse' .* \(is it ln_variance\?\)"):
        window.scalars(metrics=["ln_varianse"])
    with pytest.raises(UsageError, match="momentum is 2"):
        watcher.window(momentum=2)


def test_an_empty_window_has_no_numbers() -> None:
    model = models.gpt2()
    with normscope.watch(model).window() as window:
        pass
    assert window.scalars() == {}


def test_a_window_of_an_open_watcher_is_refused() -> None:
    model = models.gpt2()
    watcher = normscope.watch(model)
    with watcher, pytest.raises(UsageError, match="already open"):
        watcher.window()


class FullyShardedDataParallel(nn.Sequential):
    """A module of the name that FSDP gives to its wrapper."""


def test_sharded_weights_are_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"^the model's weights are sharded by FSDP; expected whole ones; "):
        normscope.watch(FullyShardedDataParallel(nn.LayerNorm(3)))
    model = nn.Sequential(nn.LayerNorm(3))
    model[0].weight.ds_id = 0  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="sharded by DeepSpeed ZeRO-3; expected whole ones"):
        normscope.watch(model)


def tensor_memory() -> tuple[int, int]:
    """Return the number of all tensors that live, and their bytes."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) is Tensor]
    return len(tensors), sum(each.numel() * each.element_size() for each in tensors)


@pytest.mark.slow
def test_memory_is_flat_over_2000_windows() -> None:
    model, batch = models.gpt2(), next(ids(1))
    watcher, memory = normscope.watch(model), []
    for step in range(2000):
        with torch.no_grad(), watcher.window() as window:
            model(**batch)
        window.scalars()
        if step in (200, 1999):
            memory.append(tensor_memory())
    assert memory[0] == memory[1]
