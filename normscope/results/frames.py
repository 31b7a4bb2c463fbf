"""Results as pandas tables, where pandas is installed."""

from typing import TYPE_CHECKING, Any

import numpy as np

from normscope.errors import UsageError
from normscope.escaping import quoted
from normscope.results.tidy import table

if TYPE_CHECKING:
    import pandas as pd

_COUNTED = ("position", "feature", "batch_size", "replaced")


def tidy_frame(result: Any) -> "pd.DataFrame":
    """Return the tidy table of a result, which --format csv writes: one row per known number."""
    pandas = _pandas()
    columns, rows = table(result)
    # A number that does not apply is missing, and the others stay whole numbers.
    whole = {name: "Int64" for name in columns if name in _COUNTED}
    frame: pd.DataFrame = pandas.DataFrame.from_records(list(rows), columns=list(columns)).astype(whole)
    return frame


def view_frame(layer: Any, view: str) -> "pd.DataFrame":
    """Return a view of a layer's report: a row per position or feature, a column per statistic."""
    pandas = _pandas()
    axes = {"position": "position", "feature": "feature", "own_output": "feature"}
    part = getattr(layer, view) if view in axes else None
    if part is None:
        measured = [name for name in axes if getattr(layer, name) is not None]
        raise UsageError(
            f"{quoted(layer.name)} has no table by {quoted(view)}; "
            f"expected {' or '.join(measured) or 'a layer that was measured'}; name another"
        )
    arrays = {name: values for name, values in vars(part).items() if isinstance(values, np.ndarray)}
    first = arrays.pop("first", None)
    length = len(next(iter(arrays.values())))
    index = pandas.Index(np.arange(length) if first is None else first, name=axes[view])
    frame: pd.DataFrame = pandas.DataFrame(arrays, index=index)
    return frame


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise UsageError("to_frame needs pandas, which is not installed; run: pip install pandas") from error
    return pandas
