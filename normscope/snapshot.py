"""What a watcher had measured before a batch, so that one that was counted in part can be taken back."""

from copy import deepcopy

from normscope.run_state import COUNTS, NormState
from normscope.watcher import Watcher


class Snapshot:
    """A copy of all that a watcher has measured, in main memory; nothing before the first batch."""

    def __init__(self, watcher: Watcher) -> None:
        self._counts = {name: getattr(watcher.tally, name) for name in COUNTS}
        self._layers = [
            (
                layer.per_forward,
                [(NormState.of(c.norm), c.seen.copy(), deepcopy(c.scales)) for c in layer.captures],
            )
            for layer in watcher.layers
        ]

    def restore(self, watcher: Watcher) -> None:
        """Let the watcher go on from there, once more or again and again."""
        for name, count in self._counts.items():
            setattr(watcher.tally, name, count)
        for layer, (per_forward, captures) in zip(watcher.layers, self._layers, strict=True):
            layer.per_forward = per_forward
            del layer.captures[len(captures) :]
            for capture, (norm, seen, scales) in zip(layer.captures, captures, strict=True):
                norm.give(capture.norm)
                capture.take(seen.copy())
                capture.scales = deepcopy(scales)
