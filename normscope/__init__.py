"""normscope: BatchNorm-style beside LayerNorm-style statistics of every normalization layer of a model."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "BatchReport",
    "Batching",
    "Calibration",
    "Drawing",
    "Loading",
    "NormscopeError",
    "Outline",
    "Report",
    "SwapReport",
    "Swapping",
    "Watcher",
    "batch_noise",
    "calibrate",
    "explain",
    "inspect",
    "list_layers",
    "read_calibration",
    "read_report",
    "register",
    "swap",
    "swapped",
    "watch",
]

_HOMES = {
    "BatchReport": "normscope.batch_report",
    "Batching": "normscope.batches",
    "Calibration": "normscope.calibration",
    "Drawing": "normscope.draws",
    "Loading": "normscope.source",
    "NormscopeError": "normscope.errors",
    "Outline": "normscope.outline",
    "Report": "normscope.report",
    "SwapReport": "normscope.swap_report",
    "Swapping": "normscope.swap_plan",
    "Watcher": "normscope.watcher",
    "batch_noise": "normscope.batch_scan",
    "calibrate": "normscope.calibration_scan",
    "explain": "normscope.glossary.lookup",
    "inspect": "normscope.scan",
    "list_layers": "normscope.layer_list",
    "read_calibration": "normscope.calibration",
    "read_report": "normscope.report",
    "register": "normscope.registry",
    "swap": "normscope.swap_scan",
    "swapped": "normscope.swapping",
    "watch": "normscope.watcher",
}

if TYPE_CHECKING:
    from normscope.batch_report import BatchReport
    from normscope.batch_scan import batch_noise
    from normscope.batches import Batching
    from normscope.calibration import Calibration, read_calibration
    from normscope.calibration_scan import calibrate
    from normscope.draws import Drawing
    from normscope.errors import NormscopeError
    from normscope.glossary.lookup import explain
    from normscope.layer_list import list_layers
    from normscope.outline import Outline
    from normscope.registry import register
    from normscope.report import Report, read_report
    from normscope.scan import inspect
    from normscope.source import Loading
    from normscope.swap_plan import Swapping
    from normscope.swap_report import SwapReport
    from normscope.swap_scan import swap
    from normscope.swapping import swapped
    from normscope.watcher import Watcher, watch


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use, so that `import normscope` stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'normscope' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
