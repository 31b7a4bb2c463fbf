"""Base classes of results: equality by plain values, and tables in notebooks."""

from importlib import import_module

from normscope.results.json_codec import to_plain


class Shown:
    """A base for results that Jupyter shows as tables: `normscope.render.notebook` has how."""

    def _repr_html_(self) -> str:
        # Found by name when it is asked for: what is shown does not depend on what shows it.
        return str(import_module("normscope.render.notebook").render_html(self))


class Record:
    """A base for dataclasses of numbers and arrays: equal when their plain values are, so NaN equals NaN."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return bool(to_plain(self) == to_plain(other))
