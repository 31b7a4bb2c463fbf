"""normscope: BatchNorm-style next to LayerNorm-style statistics of every normalization layer of a model."""

from typing import TYPE_CHECKING, Any

from normscope._version import __version__ as __version__

__all__ = [
    "BatchReport",
    "Batching",
    "Calibration",
    "Checkpoint",
    "Comparison",
    "Drawing",
    "Fold",
    "LightningNormCallback",
    "Loading",
    "NormCallback",
    "NormscopeError",
    "Outline",
    "Report",
    "Shard",
    "Stop",
    "SwapReport",
    "Swapping",
    "Track",
    "Trajectory",
    "Watcher",
    "WhyReport",
    "Window",
    "batch_noise",
    "calibrate",
    "compare",
    "explain",
    "fold",
    "inspect",
    "list_layers",
    "merge",
    "read_calibration",
    "read_fold",
    "read_report",
    "register",
    "swap",
    "swapped",
    "track",
    "trajectory",
    "watch",
    "why",
    "write_moments",
    "write_page",
    "write_tensors",
]

_HOMES = {
    "BatchReport": "normscope.results.batches",
    "Batching": "normscope.data.batching",
    "Calibration": "normscope.analyses.swap.calibration",
    "Checkpoint": "normscope.engine.checkpoint",
    "Comparison": "normscope.results.compare",
    "Drawing": "normscope.data.batch_sampling",
    "Fold": "normscope.analyses.swap.fold_file",
    "LightningNormCallback": "normscope.analyses.training.lightning_callback",
    "Loading": "normscope.models.location",
    "NormCallback": "normscope.analyses.training.trainer_callback",
    "NormscopeError": "normscope.errors",
    "Outline": "normscope.results.layers",
    "Report": "normscope.results.inspect",
    "Shard": "normscope.data.shards",
    "Stop": "normscope.engine.stop",
    "SwapReport": "normscope.results.swap",
    "Swapping": "normscope.analyses.swap.options",
    "Watcher": "normscope.capture.watcher",
    "WhyReport": "normscope.results.why",
    "Window": "normscope.capture.window",
    "batch_noise": "normscope.analyses.batches",
    "calibrate": "normscope.analyses.swap.calibration",
    "compare": "normscope.analyses.compare",
    "explain": "normscope.results.glossary.lookup",
    "fold": "normscope.analyses.swap.folding",
    "inspect": "normscope.analyses.inspect",
    "list_layers": "normscope.analyses.layers",
    "read_calibration": "normscope.analyses.swap.calibration",
    "read_fold": "normscope.analyses.swap.fold_file",
    "read_report": "normscope.results.reading",
    "register": "normscope.norms.registry",
    "swap": "normscope.analyses.swap.analysis",
    "swapped": "normscope.analyses.swap.swapped",
    "Track": "normscope.results.track",
    "track": "normscope.analyses.training.track",
    "Trajectory": "normscope.results.trajectory",
    "trajectory": "normscope.analyses.trajectory",
    "watch": "normscope.capture.watcher",
    "why": "normscope.analyses.why.analysis",
    "merge": "normscope.analyses.merge",
    "write_moments": "normscope.statistics.moments_file",
    "write_page": "normscope.render.page.write",
    "write_tensors": "normscope.statistics.position_tables_file",
}

if TYPE_CHECKING:
    from normscope.analyses.batches import batch_noise
    from normscope.analyses.compare import compare
    from normscope.analyses.inspect import inspect
    from normscope.analyses.layers import list_layers
    from normscope.analyses.merge import merge
    from normscope.analyses.swap.analysis import swap
    from normscope.analyses.swap.calibration import Calibration, calibrate, read_calibration
    from normscope.analyses.swap.fold_file import Fold, read_fold
    from normscope.analyses.swap.folding import fold
    from normscope.analyses.swap.options import Swapping
    from normscope.analyses.swap.swapped import swapped
    from normscope.analyses.training.lightning_callback import LightningNormCallback
    from normscope.analyses.training.track import track
    from normscope.analyses.training.trainer_callback import NormCallback
    from normscope.analyses.trajectory import trajectory
    from normscope.analyses.why.analysis import why
    from normscope.capture.watcher import Watcher, watch
    from normscope.capture.window import Window
    from normscope.data.batch_sampling import Drawing
    from normscope.data.batching import Batching
    from normscope.data.shards import Shard
    from normscope.engine.checkpoint import Checkpoint
    from normscope.engine.stop import Stop
    from normscope.errors import NormscopeError
    from normscope.models.location import Loading
    from normscope.norms.registry import register
    from normscope.render.page.write import write_page
    from normscope.results.batches import BatchReport
    from normscope.results.compare import Comparison
    from normscope.results.glossary.lookup import explain
    from normscope.results.inspect import Report
    from normscope.results.layers import Outline
    from normscope.results.reading import read_report
    from normscope.results.swap import SwapReport
    from normscope.results.track import Track
    from normscope.results.trajectory import Trajectory
    from normscope.results.why import WhyReport
    from normscope.statistics.moments_file import write_moments
    from normscope.statistics.position_tables_file import write_tensors


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use, so that `import normscope` stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'normscope' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
