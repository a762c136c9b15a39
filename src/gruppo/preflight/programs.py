"""Programs that must not pass: nearly right ones, and ones that do nothing but please."""

import ast
import re
from collections.abc import Iterator
from typing import Any

from gruppo.data.forms import called_function, fenced
from gruppo.data.gold import TESTS
from gruppo.types import Problem

_BLOCK = re.compile(r"```[^\n`]*\n(.*?)\n?```", re.DOTALL)

_OFF = """def off_by_one(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float, complex)):
        return value + 1
    if isinstance(value, (str, list, tuple)):
        return value + type(value)("1")
    return None
"""


def unfenced(completion: str) -> str:
    """The program in the last fenced block, or the text as it is."""
    blocks = _BLOCK.findall(completion)
    return blocks[-1] if blocks else completion


def trivial_programs(problem: Problem) -> Iterator[tuple[str, str]]:
    """Programs that solve nothing, by name."""
    name = called_function(problem.columns.get(TESTS), problem.columns.get("entry_point")) or "solution"
    yield "empty program", fenced("pass")
    anything = (
        f"class Anything:\n    def __eq__(self, other):\n        return True\n\n    __hash__ = None\n\n\ndef {name}"
    )
    yield "equals anything", fenced(f"{anything}(*args, **kwargs):\n    return Anything()")
    yield "quits", fenced("import sys\n\nsys.exit(0)")


def off_by_one(problem: Problem, gold: str) -> str | None:
    """The reference program with every result of the function under test, or everything printed, changed a little."""
    try:
        tree = ast.parse(unfenced(gold))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    name = called_function(problem.columns.get(TESTS), problem.columns.get("entry_point"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    chosen = [node for node in functions if node.name == name] or functions[-1:]
    returns = _Returns()
    for function in chosen:
        function.body = [returns.visit(statement) for statement in function.body]
    prints = _Prints()
    if not returns.changed:
        tree = prints.visit(tree)
    if not returns.changed and not prints.changed:
        return None
    try:
        changed = ast.unparse(ast.fix_missing_locations(tree))
    except (ValueError, RecursionError):
        return None
    return fenced(f"{_OFF}\n\n{changed}")


class _Returns(ast.NodeTransformer):
    """Sends what is returned through `off_by_one`; functions within the function are left alone."""

    changed = False

    def visit_Return(self, node: ast.Return) -> Any:
        if node.value is None:
            return node
        self.changed = True
        call = ast.Call(ast.Name("off_by_one", ast.Load()), [node.value], [])
        return ast.Return(call)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        return node

    def visit_Lambda(self, node: ast.Lambda) -> Any:
        return node


class _Prints(ast.NodeTransformer):
    """Prints a 1 behind everything that is printed."""

    changed = False

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "print":
            self.changed = True
            node.args.append(ast.Constant(1))
        return node
