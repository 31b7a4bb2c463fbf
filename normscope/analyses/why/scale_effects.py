"""Effects of another scale at one layer on the similarities of texts at the model's end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from normscope.analyses.swap.calibration import Calibration
from normscope.analyses.swap.text_vectors import text_vectors
from normscope.data.batching import Batching
from normscope.models.loading import Loaded
from normscope.results.inspect import Report
from normscope.statistics.jackknife import groups_of, replicates
from normscope.statistics.similarity import likeness_kept

# Each text runs twice for every layer: so many are affordable, and so long.
TEXTS, LONGEST = 64, 32


@dataclass(frozen=True)
class ScaleEffects:
    """How well the similarities of texts at the model's end stay when one layer takes another scale.

    `sequence` and `feature` are (R,) by layer: the scale of the text, and BatchNorm's of each feature.
    """

    sequence: Mapping[str, Tensor]
    feature: Mapping[str, Tensor]

    def difference(self) -> dict[str, Tensor]:
        """Return what the scale of the text keeps less what BatchNorm's keeps, by layer."""
        return {name: self.sequence[name] - self.feature[name] for name in self.sequence}


def scale_effects(loaded: Loaded, texts: Sequence[str], batching: Batching, report: Report) -> ScaleEffects:
    """Measure both scales at every layer of a report that can be replaced.

    The scale of each feature is that of the report's texts.
    """
    calibration = Calibration.of_report(report)
    names = list(calibration.layers)
    own, replaced = text_vectors(
        loaded, texts, batching, ("scale-sequence", "scale-feature"), names, calibration
    )
    weights = replicates(groups_of(len(own)))
    sequence, feature = (
        {name: likeness_kept(own, vectors, weights) for name, vectors in replaced[kind].items()}
        for kind in ("scale-sequence", "scale-feature")
    )
    return ScaleEffects(sequence, feature)
