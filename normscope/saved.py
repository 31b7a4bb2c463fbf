"""A saved result of any command, read back as what its schema says it is."""

import os

from normscope.batch_report import BATCHES_SCHEMA, BatchReport
from normscope.comparison import COMPARE_SCHEMA, Comparison
from normscope.errors import ReportError
from normscope.printable import printable, quoted
from normscope.report import SCHEMA, Report, read_plain
from normscope.swap_report import SWAP_SCHEMA, SwapReport
from normscope.why_report import WHY_SCHEMA, WhyReport

Saved = Report | BatchReport | WhyReport | SwapReport | Comparison

_KINDS: dict[str, type[Report | BatchReport | WhyReport | SwapReport | Comparison]] = {
    SCHEMA: Report,
    BATCHES_SCHEMA: BatchReport,
    WHY_SCHEMA: WhyReport,
    SWAP_SCHEMA: SwapReport,
    COMPARE_SCHEMA: Comparison,
}


def read_saved(path: str | os.PathLike[str]) -> Saved:
    """Read what inspect, batches, why, swap or compare wrote with --json, or inspect with --moments.

    Raises ReportError when the file is missing, is not JSON, or is not such a result.
    """
    data = read_plain(path)
    schema = data.get("schema") if isinstance(data, dict) else type(data).__name__
    kind = _KINDS.get(schema) if isinstance(schema, str) else None
    if kind is None:
        raise ReportError(
            f"{quoted(path)}: its schema is {printable(repr(schema)[:200])}; expected a result of inspect, "
            "batches, why, swap or compare; write one with --json"
        )
    try:
        return kind.from_dict(data)
    except ReportError as error:
        raise ReportError(f"{quoted(path)}: {error}; make it anew with --json") from error
