"""Windows: a few forward passes of a training, measured on their own."""

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from normscope.capture.recorder import Recorder
from normscope.capture.scalars import WindowMoments, scalars
from normscope.errors import UsageError
from normscope.results.inspect import Report
from normscope.statistics.running_statistics import RunningByLayer, RunningStatistics
from normscope.statistics.views import cells


class Window:
    """The forward passes within this context, measured on their own; made by `Watcher.window`.

    It may be entered several times, for the parts of one step; its numbers then add up.
    """

    def __init__(self, recorder: Recorder, before: RunningByLayer, momentum: float) -> None:
        if not 0 <= momentum <= 1:
            raise UsageError(f"momentum is {momentum!r}; expected 0 to 1; leave it out for the default")
        self._recorder, self._before, self._momentum = recorder, before, momentum

    def __enter__(self) -> "Window":
        self._recorder.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._recorder.__exit__()

    def scalars(
        self, prefix: str = "norms", metrics: Sequence[str] = (), *, per_layer: bool = True
    ) -> dict[str, float]:
        """Return a flat dictionary of numbers for a logger.

        Its names are "prefix/metric/layer", unless `per_layer` is false, and "prefix/metric/median" over
        the layers. Undefined numbers are left out. The `metrics` are, without a choice, all of these:

        - ln_variance: the mean of the tokens' own variances, as LayerNorm takes them;
        - bn_agreement: the cosine between the layer's own output and BatchNorm's, of the window's statistics;
        - bn_gap_mean, bn_gap_variance: how far the window's mean and standard deviation per feature are from
          BatchNorm's running ones over the windows before, relative to the running standard deviations
          (Training Inference Discrepancy, arXiv 2210.05153); undefined in the first window;
        - input_rms: the root mean square of the layer's input;
        - largest_input: the largest |x| of the layer's input.

        Raises UsageError for another metric.
        """
        return scalars(self._layers(), prefix, metrics, per_layer=per_layer)

    def report(self, *, moments: bool = False) -> Report:
        """Return the full report on the window; see `Watcher.report`."""
        return self._recorder.report(moments=moments)

    def running(self) -> dict[str, RunningStatistics]:
        """Return BatchNorm's running statistics of each layer after this window, by the layer's name."""
        after = dict(self._before)
        for name, layer in self._layers().items():
            batch = cells(layer.moments, "feature").x
            before = layer.running
            after[name] = before.updated(batch, self._momentum) if before else RunningStatistics.of(batch)
        return after

    def gaps(self) -> dict[str, tuple[float, float]]:
        """Return bn_gap_mean and bn_gap_variance of each layer; NaN in the first window."""
        return {name: layer.bn_gap() for name, layer in self._layers().items()}

    def gather(self) -> bool:
        """Merge the parts of all processes of torch.distributed; return whether this one has the result.

        Every process calls it after its part, the same number of times. Without torch.distributed, the one
        process has the result already.
        """
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return True
        recorder, is_main = self._recorder, dist.get_rank() == 0
        part = recorder.tally, [[capture.state.copy() for capture in x.captures] for x in recorder.layers]
        parts: list[Any] | None = [None] * dist.get_world_size() if is_main else None
        dist.gather_object(part, parts)
        for tally, states in (parts or [])[1:]:
            recorder.merge(tally, states)
        return is_main

    def _layers(self) -> dict[str, WindowMoments]:
        """Return the moments of each layer that was called, by its name."""
        layers = {}
        for layer in self._recorder.layers:
            for name, _, capture in layer.named():
                capture.state.flush()
                if capture.state.moments is not None and capture.state.moments.count:
                    layers[name] = WindowMoments(capture.state.moments, self._before.get(name))
        return layers
