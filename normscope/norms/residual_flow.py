"""Classifies residual blocks from their code: x + f(norm(x)), norm(x + f(x)), or neither.

The statements of a method are read in order, with a symbol for every value. Of an `if` on a flag of the
module, only the branch that the flag selects is read. No code runs, so the cost does not depend on the
size of the model.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import nn

# Parts of the names of functions, such as dropout, that are read as returning their one argument.
_PASSING = ("drop", "scale")
# Tensor methods that return the same numbers in another form.
_RESHAPING = ("contiguous", "expand", "flatten", "permute", "reshape", "to", "transpose", "type_as", "view")
# Tensor attributes that hold none of its numbers.
_METADATA = ("device", "dim", "dtype", "shape", "size")


@dataclass(frozen=True, eq=False)
class Value:
    """The value of an expression.

    `kind` is norm, add, pass (the result equals its input), tuple, call, or argument (of the method).
    """

    kind: str
    inputs: tuple["Value", ...] = ()

    def bare(self) -> "Value":
        """Return the value behind any functions that only pass a value on."""
        return self.inputs[0].bare() if self.kind == "pass" else self

    def terms(self) -> "list[Value]":
        """List the terms of a sum; a term that is a sum itself is followed by its own terms."""
        terms = []
        for term in (value.bare() for value in self.inputs):
            terms += [term, *(term.terms() if term.kind == "add" else ())]
        return terms

    def comes_from(self, other: "Value") -> bool:
        """Whether this value is `other` or was computed from it."""
        ahead, seen = [self], set()
        while ahead:
            value = ahead.pop()
            if value is other:
                return True
            if id(value) not in seen:
                seen.add(id(value))
                ahead += value.inputs
        return False


def side_of(module: nn.Module, name: str) -> str:
    """Return whether `module` applies its norm `self.name` before or after a residual addition.

    "pre-norm" and "post-norm" are those of `flow_of`, and a "branch-norm" is post-norm, too. "" is for
    neither.
    """
    flow = flow_of(module, name)
    return "post-norm" if flow == "branch-norm" else flow


def flow_of(module: nn.Module, name: str) -> str:
    """Return how the residual stream passes the norm `self.name` in the code of `module`.

    "pre-norm": the norm's input is also added to a value computed from its output, x + f(norm(x)).
    "post-norm": the norm's input is a sum, norm(x + f(x)). "branch-norm": its output is a term of one, x
    + norm(f(x)), and its input is no sum. "" is for none of these.
    """
    kind: Any = type(module)
    sides = (_Reader(module, name).side(method) for method in _methods(kind))
    return next(filter(None, sides), "")


@lru_cache(maxsize=512)
def _methods(kind: type[nn.Module]) -> tuple[ast.FunctionDef, ...]:
    """Parse the methods that a class adds to torch's, `forward` first; skip those without source code."""
    own = {
        name: function
        for name, function in inspect.getmembers(kind, inspect.isfunction)
        # `__init__` creates the parts and calls none of them.
        if name != "__init__" and not (function.__module__ or "").startswith("torch.")
    }
    parsed = (_parse(own[name]) for name in sorted(own, key=lambda name: name != "forward"))
    return tuple(code for code in parsed if isinstance(code, ast.FunctionDef))


def _parse(function: Callable[..., Any]) -> ast.stmt | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, SyntaxError):
        return None


class _Reader:
    """Reads one method from top to bottom.

    The body of a loop is read once. If a test cannot be decided, both branches are read.
    """

    def __init__(self, module: nn.Module, norm: str) -> None:
        self.module, self.norm = module, norm
        self.variables: dict[str, Value] = {}
        self.values: list[Value] = []

    def side(self, code: ast.FunctionDef) -> str:
        """Return the side that the first use of the norm in a method shows, "" if no use shows one."""
        arguments = [*code.args.posonlyargs, *code.args.args, *code.args.kwonlyargs]
        self.variables = {
            argument.arg: self._make("argument") for argument in arguments if argument.arg != "self"
        }
        self._block(code.body)
        sums = [value for value in self.values if value.kind in ("add", "call")]
        return next((side for n in self.values if n.kind == "norm" and (side := _side(n, sums))), "")

    def _block(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.If):
            flag = self._flag(node.test)
            self._block(() if flag is False else node.body)
            self._block(() if flag is True else node.orelse)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                self._bind(target, self._value(node.value))
        elif isinstance(node, ast.AugAssign):
            value = self._binary(node.target, node.op, node.value)
            if isinstance(node.target, ast.Name) and value:
                self.variables[node.target.id] = value
        elif isinstance(node, ast.AnnAssign) and node.value:
            self._bind(node.target, self._value(node.value))
        elif isinstance(node, ast.Return | ast.Expr) and node.value:
            self._value(node.value)
        elif isinstance(node, ast.For):
            self._bind(node.target, self._value(node.iter))
            self._block(node.body)
        elif isinstance(node, ast.While | ast.With | ast.Try):
            self._block(node.body)

    def _flag(self, test: ast.expr) -> bool | None:
        """Return the value of a test on the module's own flags; None for any other test."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = self._flag(test.operand)
            return None if inner is None else not inner
        if isinstance(test, ast.Attribute) and (path := _path(test)):
            value: object = self.module
            for name in path:
                value = getattr(value, name, None)
            return value if isinstance(value, bool) else None
        return None

    def _bind(self, target: ast.expr, value: Value | None) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            for item in target.elts:
                self._bind(item, value)
        elif isinstance(target, ast.Name):
            self.variables.pop(target.id, None)
            if value:
                self.variables[target.id] = value

    def _value(self, node: ast.expr) -> Value | None:
        if isinstance(node, ast.Name):
            return self.variables.get(node.id)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.BinOp):
            return self._binary(node.left, node.op, node.right)
        if isinstance(node, ast.IfExp):
            flag = self._flag(node.test)
            first, second = (node.orelse, node.body) if flag is False else (node.body, node.orelse)
            return self._value(first) or (self._value(second) if flag is None else None)
        if isinstance(node, ast.Attribute | ast.Subscript):
            is_metadata = isinstance(node, ast.Attribute) and node.attr in _METADATA
            return None if is_metadata or _path(node) else self._value(node.value)
        values = self._values(ast.iter_child_nodes(node))
        return self._make("tuple", values) if values else None

    def _values(self, nodes: "Iterator[ast.AST] | Sequence[ast.AST]") -> list[Value]:
        values = (self._value(node) for node in nodes if isinstance(node, ast.expr))
        return [value for value in values if value]

    def _binary(self, left: ast.expr, op: ast.operator, right: ast.expr) -> Value | None:
        values = self._values([left, right])
        if len(values) < 2:
            return values[0] if values else None
        return self._make("add" if isinstance(op, ast.Add | ast.Sub) else "call", values)

    def _call(self, node: ast.Call) -> Value | None:
        path = _path(node.func)
        inputs = self._values([*node.args, *(keyword.value for keyword in node.keywords)])
        if path == [self.norm]:
            return self._make("norm", inputs[:1]) if inputs else None
        name = path[-1] if path else _name(node.func)
        if isinstance(node.func, ast.Attribute) and not path and (owner := self._value(node.func.value)):
            # A method of a tensor, such as x.to(...) or x.view(...).
            if not inputs or name in _RESHAPING:
                return self._make("pass", [owner])
            inputs = [owner, *inputs]
        passes = len(inputs) == 1 and any(part in name.lower() for part in _PASSING)
        return self._make("pass" if passes else "call", inputs)

    def _make(self, kind: str, inputs: Sequence[Value] = ()) -> Value:
        value = Value(kind, tuple(inputs))
        self.values.append(value)
        return value


def _side(norm: Value, sums: Sequence[Value]) -> str:
    x = norm.inputs[0].bare()
    # A module that is called with both x and f(norm(x)) is assumed to add them inside.
    summed = [value.terms() for value in sums]
    if any(x in terms and any(t is not x and t.comes_from(norm) for t in terms) for terms in summed):
        return "pre-norm"
    terms_with = [value.terms() for value in sums if value.kind == "add" and norm in value.terms()]
    if x.kind == "add":
        return "post-norm"
    return "branch-norm" if any(not t.comes_from(norm) for terms in terms_with for t in terms) else ""


def _name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _path(node: ast.AST) -> list[str]:
    """Return the attributes that lead from `self` to a part, without indices; empty for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
        node = node.value
    return names if isinstance(node, ast.Name) and node.id == "self" else []
