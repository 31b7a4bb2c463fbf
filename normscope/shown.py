"""Results that show themselves in a notebook."""

from importlib import import_module


class Shown:
    """A base for results that Jupyter shows as tables: `normscope.render.html` has how."""

    def _repr_html_(self) -> str:
        # Found by name when it is asked for: what is shown does not depend on what shows it.
        return str(import_module("normscope.render.html").render_html(self))
