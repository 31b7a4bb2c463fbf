"""normscope: BatchNorm-style beside LayerNorm-style statistics of every normalization layer of a model."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "BatchReport",
    "Batching",
    "Calibration",
    "Checkpoint",
    "Comparison",
    "Drawing",
    "Fold",
    "Loading",
    "NormscopeError",
    "Outline",
    "Report",
    "Shard",
    "Stop",
    "SwapReport",
    "Swapping",
    "Watcher",
    "WhyReport",
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
    "watch",
    "why",
    "write_moments",
    "write_page",
    "write_tensors",
]

_HOMES = {
    "BatchReport": "normscope.batch_report",
    "Batching": "normscope.batches",
    "Calibration": "normscope.calibration",
    "Checkpoint": "normscope.checkpoint",
    "Comparison": "normscope.comparison",
    "Drawing": "normscope.draws",
    "Fold": "normscope.folds",
    "Loading": "normscope.source",
    "NormscopeError": "normscope.errors",
    "Outline": "normscope.outline",
    "Report": "normscope.report",
    "Shard": "normscope.shards",
    "Stop": "normscope.stopping",
    "SwapReport": "normscope.swap_report",
    "Swapping": "normscope.swap_plan",
    "Watcher": "normscope.watcher",
    "WhyReport": "normscope.why_report",
    "batch_noise": "normscope.batch_scan",
    "calibrate": "normscope.calibration_scan",
    "compare": "normscope.drift",
    "explain": "normscope.glossary.lookup",
    "fold": "normscope.folding",
    "inspect": "normscope.scan",
    "list_layers": "normscope.layer_list",
    "read_calibration": "normscope.calibration",
    "read_fold": "normscope.folds",
    "read_report": "normscope.report",
    "register": "normscope.registry",
    "swap": "normscope.swap_scan",
    "swapped": "normscope.swapping",
    "watch": "normscope.watcher",
    "why": "normscope.why_scan",
    "merge": "normscope.merging",
    "write_moments": "normscope.moments_file",
    "write_page": "normscope.page.pages",
    "write_tensors": "normscope.tensors_file",
}

if TYPE_CHECKING:
    from normscope.batch_report import BatchReport
    from normscope.batch_scan import batch_noise
    from normscope.batches import Batching
    from normscope.calibration import Calibration, read_calibration
    from normscope.calibration_scan import calibrate
    from normscope.checkpoint import Checkpoint
    from normscope.comparison import Comparison
    from normscope.draws import Drawing
    from normscope.drift import compare
    from normscope.errors import NormscopeError
    from normscope.folding import fold
    from normscope.folds import Fold, read_fold
    from normscope.glossary.lookup import explain
    from normscope.layer_list import list_layers
    from normscope.merging import merge
    from normscope.moments_file import write_moments
    from normscope.outline import Outline
    from normscope.page.pages import write_page
    from normscope.registry import register
    from normscope.report import Report, read_report
    from normscope.scan import inspect
    from normscope.shards import Shard
    from normscope.source import Loading
    from normscope.stopping import Stop
    from normscope.swap_plan import Swapping
    from normscope.swap_report import SwapReport
    from normscope.swap_scan import swap
    from normscope.swapping import swapped
    from normscope.tensors_file import write_tensors
    from normscope.watcher import Watcher, watch
    from normscope.why_report import WhyReport
    from normscope.why_scan import why


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use, so that `import normscope` stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'normscope' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
