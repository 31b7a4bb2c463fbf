"""Assembles a report from the state of all layers of a recorder."""

from collections.abc import Sequence
from dataclasses import replace

from normscope._version import __version__
from normscope.capture.layer_calls import LayerCalls
from normscope.capture.layer_summary import headroom_notes, layer_report, notes_on, pooling_notes
from normscope.data.corpus import notes_on_left_out
from normscope.results.common import ModelInfo, RunInfo
from normscope.results.inspect import LayerReport, Report
from normscope.results.provenance import provenance_now
from normscope.statistics.layer_state import RunMoments
from normscope.statistics.outliers import outlier_features
from normscope.statistics.position_bins import TablePlan


def assemble(
    layers: Sequence[LayerCalls],
    tables: TablePlan,
    model: ModelInfo,
    run: RunInfo,
    notes: Sequence[str],
    carried: RunMoments | None,
    *,
    last: bool,
) -> Report:
    """Return the report on `layers`, with this description of the model and the run.

    `carried`, if given, is filled with the moments of all captures. With `last` these may be the layers'
    own moments, not copies.
    """
    reports: dict[str, LayerReport] = {}
    bins = _first_positions(tables, run)
    warnings = [*notes, *notes_on_left_out(run), *_note_on_bins(tables, bins)]
    for layer in layers:
        for name, call, capture in layer.named():
            capture.state.flush()
            measured = layer_report(capture)
            reports[name] = replace(measured, name=name, call=call, calls_per_forward=layer.per_forward)
            if carried:
                carried.layers[name] = capture.state.copy(share=last)
            warnings += [f"{name}: {note}" for note in notes_on(reports[name], capture.state)]
        warnings += layer.notes()
    warnings += [*pooling_notes(reports.values()), *headroom_notes(reports.values())]
    recurring = outlier_features(reports.values())
    run = replace(run, position_bins=bins)
    return Report(
        __version__, model, run, reports, tuple(warnings), recurring, carried, provenance=provenance_now()
    )


def _first_positions(tables: TablePlan, run: RunInfo) -> tuple[int, ...] | None:
    """Return the first position of each bin in use, None if no positions share a bin."""
    bins = tables.bins
    if bins is None or run.positions <= bins.exact:
        return None
    return tuple(bins.first(bins.rows(run.positions)))


def _note_on_bins(tables: TablePlan, first: tuple[int, ...] | None) -> list[str]:
    if first is None or tables.bins is None:
        return []
    return [
        f"positions from {tables.bins.exact} on share bins of 2, then 4, then 8, ...: tables of "
        f"every position may take {tables.exact_bytes:,} bytes; see --table-memory and --max-length"
    ]
