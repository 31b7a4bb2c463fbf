"""The house: sub-packages and their imports, what is public, what is documented, what stays unloaded."""

import ast
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import normscope
from tests.support import reports

PACKAGE = Path(normscope.__file__).parent

# What a sub-package may import besides itself and the foundation, lowest first.
FOUNDATION = {"errors", "escaping", "_version"}
SUB_PACKAGES: dict[str, set[str]] = {
    "results": set(),
    "models": set(),
    "data": {"models"},
    "statistics": {"results"},
    "norms": {"statistics"},
    "capture": {"results", "models", "data", "statistics", "norms"},
    "engine": {"results", "models", "data", "statistics", "norms", "capture"},
    "analyses": {"results", "models", "data", "statistics", "norms", "capture", "engine"},
    "render": {"results"},
    "cli": {"results", "models", "data", "statistics", "norms", "engine", "analyses", "render"},
}
# Where each library is used: sub-packages, folders or modules.
LIBRARIES: dict[str, set[str]] = {
    "torch": {
        "models.device_map", "models.loading", "data.batch", "data.media_batches", "data.token_selection",
        "statistics", "norms", "capture", "engine", "analyses",
    },
    "transformers": {"models.weight_checks", "models.loading", "data.batching"},
    "huggingface_hub": {"data.hub_dataset", "models.load_errors", "models.loading", "models.location"},
    "accelerate": {"models.device_map"},
    "datasets": {"data.hub_dataset"},
    "PIL": {"data.media_files"},
    "soundfile": {"data.media_files"},
    "soxr": {"data.media_files"},
    "safetensors": {
        "results.file_kinds", "results.reading", "models", "statistics.moments_file",
        "statistics.safetensors_file", "engine.checkpoint",
    },
    "numba": {"capture.numba_kernels"},
    "pandas": {"results.frames"},
    "numpy": {"results", "data", "statistics", "norms.scale_invariance", "capture", "analyses", "render"},
    "altair": {"render.page"},
    "vl_convert": {"render.page"},
    "rich": {"render", "cli"},
    "typer": {"cli"},
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
        names = (f"{tree.module}.{alias.name}" for alias in tree.names)
        yield from (n if n.removeprefix("normscope.") in FILES else str(tree.module) for n in names)
    for child in ast.iter_child_nodes(tree):
        yield from imports_of(child)


def own_and_foreign(path: Path) -> tuple[set[str], set[str]]:
    """Return the modules of the package, and the third parties, that a file imports."""
    names = set(imports_of(ast.parse(path.read_text(encoding="utf-8"))))
    own = {name.removeprefix("normscope.") for name in names if name.startswith("normscope.")}
    foreign = {row_of(name) for name in names} - {"normscope"} - set(sys.stdlib_module_names)
    return own, foreign


# Arrows


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
from typing import TYPE_CHECKING
import torch.nn as nn, rich
from normscope._version import __version__
from normscope.statistics import metrics
if TYPE_CHECKING:
    import transformers
def late():
    try:
        from normscope.render.inspect import Screen
    except ImportError:
        import typer
"""
    assert set(imports_of(ast.parse(source))) == {
        "typing", "torch.nn", "rich", "normscope._version", "normscope.statistics.metrics",
        "normscope.render.inspect", "typer",
    }  # fmt: skip


def test_the_root_holds_the_sub_packages_and_five_files() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(SUB_PACKAGES)
    assert {path.stem for path in PACKAGE.glob("*.py")} == FOUNDATION | {"__init__", "__main__"}


def test_the_table_has_no_arrow_upward() -> None:
    above: set[str] = set()
    for row, allowed in SUB_PACKAGES.items():
        assert allowed <= above, f"{row} may only use what stands above it"
        above.add(row)


@pytest.mark.parametrize("module", [name for name in FILES if row_of(name) in SUB_PACKAGES])
def test_a_module_imports_only_what_its_row_allows(module: str) -> None:
    own, foreign = own_and_foreign(FILES[module])
    assert {row_of(name) for name in own} <= SUB_PACKAGES[row_of(module)] | FOUNDATION | {row_of(module)}
    for library in foreign:
        assert any(f"{module}.".startswith(f"{place}.") for place in LIBRARIES[library]), library


def test_no_files_import_each_other_in_a_loop() -> None:
    graph = {name: own_and_foreign(path)[0] for name, path in FILES.items() if name != "__init__"}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", FILES)
def test_a_file_is_no_longer_than_350_lines(module: str) -> None:
    lines = len(FILES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= 350, f"{module} has {lines} lines: does it hold two concepts?"


def test_a_class_name_means_one_thing() -> None:
    names = Counter(
        node.name
        for path in FILES.values()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, times in names.items() if times > 1] == []


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
    assert modules >= set(SUB_PACKAGES)
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
    assert not re.match(r"(What|Which|Who|Whose|How|Where|Why)\b", first), "say what it does, or what it is"


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


def test_every_public_object_says_kind_of_file() -> None:
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
from normscope.render.inspect import render_report
text = render_report(normscope.read_report(sys.argv[1]))
print("MiniLM" in text, len(text.splitlines()) > 13)
"""
    assert loaded_by(program, str(path)) == ["True True", "numpy rich"]
