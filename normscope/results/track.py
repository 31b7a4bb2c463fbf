"""Result of `track`: the windows of a training, layer by layer over steps."""

from collections.abc import Mapping
from dataclasses import dataclass

from normscope.escaping import counted
from normscope.results.base import Record, Result, Shown, Tabular
from normscope.results.common import Counts, Floats
from normscope.results.compare import LayerDrift
from normscope.results.provenance import Provenance


@dataclass(frozen=True, eq=False)
class OverSteps(Record):
    """The numbers of one layer in each window; every array is (W,), NaN where a number is undefined.

    `drift_mean` and `drift_variance` are `bn_drift` of each window from the first; the others are those of
    `Window.scalars`.
    """

    drift_mean: Floats
    drift_variance: Floats
    ln_variance: Floats
    bn_agreement: Floats
    bn_gap_mean: Floats
    bn_gap_variance: Floats
    input_rms: Floats
    largest_input: Floats


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerTrack(LayerDrift):
    """One layer: the drift of its last window from its first, and its numbers over steps.

    `moved_at` is the first step whose drift is over twice the median drift between neighbouring windows:
    more than the noise of batches. None if there is none, or there are fewer than three windows.
    """

    over_steps: OverSteps
    moved_at: int | None


@dataclass(frozen=True, eq=False, repr=False)
class Track(Result, Shown, Tabular):
    """The windows of a training at `steps` (W,); the layers that moved most come first.

    `split` is "train", or "eval" for a file of evaluations alone.
    """

    SCHEMA = "normscope.track/1"
    EXPECTED = "a track of a training"
    WHERE = "track"

    normscope: str
    split: str
    steps: Counts
    layers: Mapping[str, LayerTrack]
    warnings: tuple[str, ...]
    provenance: Provenance | None = None

    def __repr__(self) -> str:
        return f"<Track of {counted(len(self.layers), 'layer')} over {counted(len(self.steps), 'window')}>"
