"""The house: who may import whom, what is public, what is documented, what stays unloaded."""

import ast
import importlib
import importlib.metadata
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import normscope
from tests import reports

PACKAGE = Path(normscope.__file__).parent
CORE = {"torch"}

# A row says what a module of the package may import: modules of rows above its own, and third parties.
# `render` and `cli` are one row each; their own files may import each other.
ARROWS: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "printable": (set(), set()),
    "files": ({"errors"}, set()),
    "file_kinds": (set(), {"safetensors"}),
    "plain": ({"errors", "printable"}, {"numpy"}),
    "shown": (set(), set()),
    "tidy": ({"plain"}, set()),
    "report": ({"errors", "file_kinds", "files", "plain", "printable", "shown"}, {"numpy", "safetensors"}),
    "batch_report": ({"errors", "files", "plain", "printable", "report", "shown"}, set()),
    "swap_report": ({"errors", "files", "plain", "printable", "report", "shown"}, set()),
    "comparison": ({"errors", "files", "plain", "printable", "report", "shown"}, set()),
    "drift": ({"comparison", "errors", "printable", "report"}, {"numpy"}),
    "outline": ({"errors", "files", "plain", "printable", "shown"}, set()),
    "glossary": ({"errors", "files", "printable"}, set()),
    "why_report": ({"files", "plain", "report", "shown"}, set()),
    "plan_report": ({"files", "plain", "report"}, set()),
    "json_schema": (
        {
            "batch_report",
            "comparison",
            "errors",
            "glossary",
            "outline",
            "plain",
            "plan_report",
            "printable",
            "report",
            "swap_report",
            "why_report",
        },
        {"numpy"},
    ),
    "saved": (
        {"batch_report", "comparison", "errors", "printable", "report", "swap_report", "why_report"},
        set(),
    ),
    "recurring": ({"report"}, set()),
    "text_notes": ({"report"}, set()),
    "repeats": (set(), {"numpy"}),
    "text_lines": ({"errors"}, set()),
    "texts": ({"errors", "printable", "text_lines"}, set()),
    "corpus": (set(), set()),
    "stopping": (set(), set()),
    "dataset": ({"errors", "printable"}, {"datasets", "huggingface_hub"}),
    "kinds": ({"errors"}, set()),
    "media": ({"errors", "kinds", "printable"}, {"PIL", "numpy", "soundfile", "soxr"}),
    "shards": ({"errors", "media", "printable", "repeats"}, set()),
    "source": ({"errors", "printable"}, {"huggingface_hub"}),
    "device_maps": ({"errors", "printable"}, CORE | {"accelerate"}),
    "refusals": ({"errors", "printable", "source"}, {"huggingface_hub"}),
    "sizes": ({"errors", "printable", "source"}, {"transformers"}),
    "weights": ({"errors", "printable", "sizes", "source"}, {"transformers"}),
    "loading": (
        {"device_maps", "errors", "kinds", "printable", "refusals", "sizes", "source", "weights"},
        {"huggingface_hub", "torch", "transformers"},
    ),
    "lengths": ({"errors"}, set()),
    "encoding": ({"lengths"}, set()),
    "samples": ({"encoding", "text_notes"}, {"transformers"}),
    "batches": ({"corpus", "encoding", "errors", "printable", "repeats"}, {"torch", "transformers"}),
    "media_batches": ({"batches", "errors", "kinds", "media", "printable"}, CORE),
    "draws": ({"batches", "errors"}, {"numpy"}),
    "filling": ({"draws", "report"}, {"numpy"}),
    "scratch": (set(), CORE),
    "backlog": (set(), CORE),
    "moments": ({"scratch"}, CORE),
    "layout": (set(), CORE),
    "bins": ({"errors"}, CORE),
    "alignment": ({"bins", "layout", "moments", "scratch"}, CORE),
    "kept": ({"alignment", "batches", "draws", "errors", "moments"}, CORE | {"numpy"}),
    "noise": ({"moments"}, CORE),
    "registry": ({"errors"}, CORE),
    "arithmetic": (set(), CORE),
    "trial": ({"arithmetic"}, CORE | {"numpy"}),
    "wrappers": ({"errors"}, CORE),
    "formulas": ({"moments", "registry"}, CORE),
    "gates": (set(), CORE),
    "hooks": ({"errors"}, CORE),
    "watched": ({"errors", "report"}, CORE),
    "layers": ({"errors", "formulas", "gates", "moments", "registry", "trial", "wrappers"}, CORE),
    "outliers": ({"alignment", "moments"}, CORE),
    "words": ({"moments"}, CORE),
    "accumulator": ({"moments", "outliers", "words"}, CORE),
    "batch_sums": ({"alignment", "moments", "scratch"}, CORE),
    "kernels": (set(), {"numba", "numpy"}),
    "one_pass": (
        {"alignment", "batch_sums", "kernels", "layers", "moments", "outliers", "scratch"},
        CORE | {"numpy"},
    ),
    "running": (
        {"accumulator", "alignment", "backlog", "batch_sums", "moments", "one_pass", "scratch"},
        CORE,
    ),
    "packed": ({"accumulator", "errors", "printable"}, CORE),
    "seen": ({"accumulator", "packed", "plain"}, CORE),
    "gap": ({"backlog", "seen"}, CORE),
    "views": ({"accumulator", "moments"}, CORE),
    "metrics": ({"accumulator", "moments", "outliers", "report", "views"}, CORE),
    "capture": (
        {
            "accumulator",
            "alignment",
            "formulas",
            "gates",
            "gap",
            "kept",
            "layers",
            "layout",
            "moments",
            "one_pass",
            "packed",
            "running",
            "scratch",
            "seen",
            "words",
        },
        CORE,
    ),
    "calls": ({"capture", "layers", "scratch", "words"}, set()),
    "summary": (
        {
            "accumulator",
            "bins",
            "capture",
            "formulas",
            "layers",
            "layout",
            "metrics",
            "moments",
            "printable",
            "report",
            "seen",
            "views",
        },
        CORE | {"numpy"},
    ),
    "arguments": (set(), CORE),
    "frames": ({"alignment"}, CORE),
    "scope": ({"alignment", "frames"}, CORE),
    "tokens": ({"alignment", "arguments", "bins", "errors", "frames", "scope"}, CORE),
    "swap_plan": ({"batches", "errors"}, set()),
    "replacements": (
        {"capture", "errors", "formulas", "layers", "layout", "moments", "swap_plan", "views"},
        CORE,
    ),
    "digests": (set(), CORE),
    "saving": ({"files"}, CORE | {"safetensors"}),
    "tensor_folder": ({"errors", "files", "printable", "saving"}, CORE | {"safetensors"}),
    "calibration": ({"replacements", "report", "tensor_folder"}, CORE),
    "batch_statistics": ({"errors", "moments"}, CORE),
    "swapping": (
        {
            "batch_statistics",
            "calibration",
            "capture",
            "errors",
            "frames",
            "layers",
            "layout",
            "printable",
            "replacements",
            "report",
            "scope",
            "swap_plan",
            "tokens",
            "wrappers",
        },
        CORE,
    ),
    "tally": ({"alignment", "report"}, CORE),
    "degrees": (set(), CORE),
    "functional_norms": ({"degrees"}, CORE),
    "outer_norms": ({"layers"}, CORE),
    "watcher": (
        {
            "hooks",
            "printable",
            "watched",
            "bins",
            "calls",
            "capture",
            "device_maps",
            "errors",
            "frames",
            "functional_norms",
            "layers",
            "lengths",
            "outer_norms",
            "recurring",
            "report",
            "scope",
            "scratch",
            "seen",
            "summary",
            "tally",
            "tokens",
            "words",
            "wrappers",
        },
        CORE,
    ),
    "moments_file": (
        {"digests", "errors", "packed", "plain", "printable", "report", "saving", "seen"},
        CORE | {"safetensors"},
    ),
    "merging": (
        {
            "errors",
            "moments_file",
            "printable",
            "recurring",
            "report",
            "seen",
            "shards",
            "summary",
            "text_notes",
        },
        set(),
    ),
    "tensors_file": ({"moments_file", "plain", "report", "saving", "seen"}, CORE),
    "ranks": ({"errors", "merging", "moments_file", "printable", "report", "shards"}, CORE),
    "run_state": (
        {
            "calls",
            "capture",
            "errors",
            "formulas",
            "gates",
            "layers",
            "moments_file",
            "plain",
            "printable",
            "registry",
            "seen",
            "watcher",
        },
        CORE,
    ),
    "checkpoint": (
        {"corpus", "digests", "errors", "plain", "printable", "run_state", "saving", "watcher"},
        CORE | {"safetensors"},
    ),
    "course": (
        {
            "watched",
            "batches",
            "bins",
            "checkpoint",
            "corpus",
            "errors",
            "kept",
            "loading",
            "report",
            "shards",
            "stopping",
            "watcher",
        },
        set(),
    ),
    "forward": ({"errors", "kinds", "printable"}, CORE),
    "consumers": ({"forward", "layers", "wrappers"}, CORE),
    "folds": ({"errors", "printable", "tensor_folder", "wrappers"}, CORE),
    "folding": (
        {
            "calibration",
            "consumers",
            "folds",
            "forward",
            "replacements",
            "report",
            "swap_plan",
            "swapping",
            "wrappers",
        },
        CORE,
    ),
    "parts": ({"batches", "errors", "printable"}, CORE),
    "snapshot": ({"run_state", "watcher"}, set()),
    "runner": ({"batches", "errors", "forward", "kept", "parts", "snapshot", "watcher"}, CORE),
    "scan": (
        {
            "watched",
            "batches",
            "bins",
            "checkpoint",
            "corpus",
            "course",
            "errors",
            "forward",
            "kinds",
            "layers",
            "lengths",
            "loading",
            "media",
            "media_batches",
            "printable",
            "report",
            "runner",
            "shards",
            "source",
            "stopping",
            "tally",
            "text_notes",
            "watcher",
            "wrappers",
        },
        CORE,
    ),
    "dry_run": (
        {
            "watched",
            "batches",
            "bins",
            "errors",
            "forward",
            "lengths",
            "loading",
            "plan_report",
            "runner",
            "scan",
            "watcher",
        },
        CORE,
    ),
    "calibration_scan": (
        {
            "batches",
            "calibration",
            "course",
            "errors",
            "kinds",
            "loading",
            "media",
            "moments",
            "replacements",
            "report",
            "scan",
            "source",
            "watcher",
        },
        CORE,
    ),
    "readout": ({"batches", "errors", "forward", "runner"}, CORE),
    "bootstrap": ({"why_report"}, CORE),
    "likeness": (set(), CORE),
    "effects": ({"bootstrap", "likeness", "readout", "swap_report"}, CORE),
    "held_out": ({"errors", "printable", "repeats"}, set()),
    "prefix": (set(), CORE),
    "swap_trial": (
        {
            "alignment",
            "batches",
            "bootstrap",
            "calibration_scan",
            "course",
            "effects",
            "errors",
            "folding",
            "folds",
            "held_out",
            "loading",
            "parts",
            "prefix",
            "readout",
            "runner",
            "scan",
            "swap_plan",
            "swap_report",
            "swapping",
            "tally",
        },
        CORE,
    ),
    "swap_scan": (
        {
            "batches",
            "calibration_scan",
            "course",
            "errors",
            "folding",
            "forward",
            "held_out",
            "kinds",
            "loading",
            "scan",
            "source",
            "swap_plan",
            "swap_report",
            "swap_trial",
            "wrappers",
        },
        CORE,
    ),
    "batch_scan": (
        {
            "batch_report",
            "batches",
            "course",
            "draws",
            "errors",
            "filling",
            "kept",
            "kinds",
            "loading",
            "media",
            "moments",
            "noise",
            "report",
            "scan",
            "source",
            "summary",
            "watcher",
        },
        CORE | {"numpy"},
    ),
    "claims": ({"why_report"}, set()),
    "evidence": ({"moments"}, CORE),
    "kept_tokens": ({"alignment", "batches", "errors", "evidence", "kept"}, CORE),
    "findings": (
        {
            "bootstrap",
            "claims",
            "draws",
            "evidence",
            "filling",
            "likeness",
            "noise",
            "why_report",
        },
        CORE,
    ),
    "why_scan": (
        {
            "batches",
            "course",
            "draws",
            "encoding",
            "errors",
            "evidence",
            "findings",
            "kept_tokens",
            "kinds",
            "loading",
            "media",
            "printable",
            "report",
            "scan",
            "source",
            "watcher",
            "why_report",
        },
        CORE | {"numpy"},
    ),
    "flow": (set(), CORE),
    "places": ({"flow"}, CORE),
    "layer_list": (
        {"layers", "loading", "outline", "places", "source", "trial", "watcher"},
        CORE,
    ),
    "render": (
        {
            "batch_report",
            "comparison",
            "glossary",
            "outline",
            "plan_report",
            "printable",
            "report",
            "swap_report",
            "why_report",
        },
        {"numpy", "rich"},
    ),
    "page": (
        {
            "batch_report",
            "comparison",
            "errors",
            "files",
            "glossary",
            "printable",
            "render",
            "report",
            "saved",
            "swap_report",
            "why_report",
        },
        {"altair", "numpy", "vl_convert"},
    ),
    "cli": (
        {
            "batch_report",
            "batch_scan",
            "batches",
            "checkpoint",
            "comparison",
            "course",
            "dataset",
            "draws",
            "drift",
            "dry_run",
            "errors",
            "files",
            "glossary",
            "json_schema",
            "layer_list",
            "layers",
            "loading",
            "media",
            "merging",
            "moments_file",
            "outline",
            "page",
            "printable",
            "ranks",
            "render",
            "report",
            "samples",
            "scan",
            "shards",
            "source",
            "stopping",
            "swap_plan",
            "swap_report",
            "swap_scan",
            "tensors_file",
            "texts",
            "tidy",
            "why_report",
            "why_scan",
        },
        {"rich", "typer"},
    ),
    "__main__": ({"cli"}, set()),
    "__init__": (set(), set()),
}
WITHOUT_TORCH = {
    "batch_report", "cli", "comparison", "corpus", "dataset", "device_maps", "draws", "drift", "encoding",
    "errors", "files", "filling", "glossary",
    "held_out", "json_schema", "kinds", "lengths", "media", "outline", "page", "plain", "plan_report",
    "printable", "recurring",
    "render", "report", "samples", "saved", "shards", "shown", "source", "stopping", "swap_plan",
    "swap_report", "texts", "tidy",
}  # fmt: skip


def module_files() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


FILES = dict(module_files())


def row_of(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Yield every module imported anywhere in a file, less what only a type checker reads."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        return
    if isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names)
    if isinstance(tree, ast.ImportFrom):
        assert tree.level == 0, "write imports in full"
        yield from (
            f"normscope.{alias.name}" if tree.module == "normscope" else str(tree.module)
            for alias in tree.names
        )
    for child in ast.iter_child_nodes(tree):
        yield from imports_of(child)


def own_and_foreign(path: Path) -> tuple[set[str], set[str]]:
    """Return the rows of the package, and the third parties, that a file imports."""
    names = set(imports_of(ast.parse(path.read_text(encoding="utf-8")))) - {"normscope.__version__"}
    own = {name.split(".")[1] for name in names if name.startswith("normscope.")}
    foreign = {row_of(name) for name in names} - {"normscope"} - set(sys.stdlib_module_names)
    return own, foreign


# Arrows


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
from typing import TYPE_CHECKING
import torch.nn as nn, rich
from normscope import __version__, metrics
if TYPE_CHECKING:
    import transformers
def late():
    try:
        from normscope.render.tables import Screen
    except ImportError:
        import typer
"""
    assert set(imports_of(ast.parse(source))) == {
        "typing", "torch.nn", "rich", "normscope.__version__", "normscope.metrics",
        "normscope.render.tables", "typer",
    }  # fmt: skip


def test_every_module_has_its_row_and_every_row_a_module() -> None:
    assert {row_of(module) for module in FILES} == set(ARROWS)


def test_the_table_has_no_arrow_upward() -> None:
    above: set[str] = set()
    for row, (allowed, _) in ARROWS.items():
        assert allowed <= above, f"{row} may only use what stands above it"
        above.add(row)


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_only_what_its_row_allows(module: str) -> None:
    row = row_of(module)
    allowed, parties = ARROWS[row]
    own, foreign = own_and_foreign(FILES[module])
    assert own <= allowed | ({row} if "." in module else set())
    assert foreign <= parties


def test_each_heavy_library_has_its_place() -> None:
    users = {
        library: {row_of(module) for module in FILES if library in own_and_foreign(FILES[module])[1]}
        for library in ("torch", "transformers", "rich", "typer", "altair", "vl_convert", "numba")
    }
    assert users["transformers"] <= {"loading", "batches"}
    assert users["rich"] == {"render", "cli"}
    assert users["typer"] == {"cli"}
    assert users["numba"] == {"kernels"}
    assert users["altair"] == users["vl_convert"] == {"page"}
    assert users["torch"].isdisjoint(WITHOUT_TORCH)


# Public names


def test_public_names_are_all_and_nothing_else() -> None:
    assert sorted(normscope.__all__) == list(normscope.__all__)
    assert set(normscope._HOMES) == set(normscope.__all__)
    assert set(normscope.__all__) <= set(dir(normscope))
    namespace: dict[str, object] = {}
    exec("from normscope import *", namespace)
    assert namespace.keys() - {"__builtins__"} == set(normscope.__all__)


@pytest.mark.parametrize("name", normscope.__all__)
def test_a_public_name_comes_from_its_home(name: str) -> None:
    value = getattr(normscope, name)
    assert value is getattr(importlib.import_module(normscope._HOMES[name]), name)
    assert (value.__name__, value.__module__) == (name, normscope._HOMES[name])


def test_what_a_type_checker_sees_is_what_is_public() -> None:
    tree = ast.parse(FILES["__init__"].read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == normscope._HOMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'inspekt'"):
        _ = normscope.inspekt


def test_no_module_hides_a_public_name() -> None:
    # `import normscope.watch` would put the module where the function is looked up.
    modules = {module.name for module in pkgutil.iter_modules([str(PACKAGE)])}
    assert modules >= {"report", "watcher", "cli"}
    assert modules.isdisjoint(normscope.__all__)


def test_version_and_type_marker_are_the_packages() -> None:
    assert normscope.__version__ == importlib.metadata.version("normscope")
    assert (PACKAGE / "py.typed").is_file()


# Documentation


@pytest.mark.parametrize("module", FILES)
def test_a_module_opens_with_one_sentence(module: str) -> None:
    docstring = ast.get_docstring(ast.parse(FILES[module].read_text(encoding="utf-8")), clean=False)
    assert docstring, f"{module} has no docstring"
    first = docstring.split("\n", maxsplit=1)[0]
    assert first == first.strip()
    assert first.endswith((".", ":"))
    assert first[0].isalpha() or first[0] == "`"


def undocumented(body: list[ast.stmt], where: str) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield f"{where}.{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{where}.{node.name}")


def test_the_search_for_missing_docstrings_finds_them() -> None:
    source = "class A:\n  def b(self): ...\n  def _c(self): ...\ndef d():\n  'Say.'\ndef _e(): ..."
    assert list(undocumented(ast.parse(source).body, "m")) == ["m.A", "m.A.b"]


@pytest.mark.parametrize("module", FILES)
def test_every_public_function_class_and_method_is_documented(module: str) -> None:
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    assert list(undocumented(tree.body, module)) == []


def test_every_public_object_says_what_it_is() -> None:
    for name in normscope.__all__:
        value = getattr(normscope, name)
        assert value.__doc__, name
        # A dataclass without a docstring is given its signature for one.
        assert not value.__doc__.startswith(f"{name}("), name
        assert inspect.getdoc(value), name


# What stays unloaded


def loaded_by(program: str, *arguments: str) -> list[str]:
    """Run a program in a new interpreter; return what it prints, then which heavy libraries it loaded."""
    heavy = ("numpy", "rich", "torch", "transformers", "typer")
    code = f"import sys\n{program}\nprint(*(name for name in {heavy!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_importing_normscope_loads_nothing() -> None:
    program = "import normscope\nprint('inspect' in dir(normscope), normscope.__version__)"
    assert loaded_by(program) == [f"True {normscope.__version__}", ""]


def test_reading_and_rendering_a_report_needs_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    reports.minilm().to_json(path)
    program = """
import normscope
from normscope.render.tables import render_report
text = render_report(normscope.read_report(sys.argv[1]))
print("MiniLM" in text, len(text.splitlines()) > 13)
"""
    assert loaded_by(program, str(path)) == ["True True", "numpy rich"]
