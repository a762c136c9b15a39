"""The tests' own text, read before anything untrusted runs: which statements are tests, and what they are about.

1. Steps. In one script each top-level statement with an assert in it, each call of a function that the script defines,
   and each call of something named `assert...` is a test; every other statement is set-up for those that follow. A
   `check(candidate)` with plain asserts is taken apart the same way, each of them a test. Functions `test_...()`
   that nothing calls and the methods of a `unittest.TestCase` are tests. Of a list, each item with a test in it is one.
2. Subjects. A name of the tests that nothing there defines is the program's, but not where it is a built-in:
   `sorted`, `all`, `abs` in tests are Python's own, whatever the program defines. Only where the tests use no other
   name of a program (`assert sum(10, 15) == 6`), the built-in that every test calls is; or the entry point.
   A library module that is used as `math.isclose` is Python's own too.
3. Operators. Where the text shows that a name is a class (`class Money` in the prompt, `isinstance(x, Money)`,
   `Money.zero()`, `Money(5).amount`), operators on `Money(5)`, or on a variable that only ever holds such, are what is
   tested, and ask the program whatever is on their other side (see `Direct` in proxies.py).
"""

import ast
import builtins
import marshal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import CodeType

from gruppo.rewards.sandbox import values

FILENAME = "<tests>"
DIRECT = "_gruppo_direct"
CASE = "_gruppo_case"
_PLAIN_NAMES = frozenset(
    name for kind in (*values.ATOMS, *values.KINDS, *values._PARTS, tuple, frozenset, range) for name in dir(kind)
) | {"send", "throw", "close"}
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_OWN_SCOPE = (*_DEFINITIONS, ast.Lambda)


@dataclass(frozen=True)
class Step:
    """A piece of the tests, run at the top level."""

    body: list[ast.stmt]
    test: bool
    label: str
    """Its text, shortened."""


@dataclass(frozen=True)
class Reading:
    """What the tests' text says."""

    steps: list[Step]
    builtin: frozenset[str]
    """Built-in names that are the program's nonetheless."""
    modules: frozenset[str]
    """Library modules that the tests use and leave to the program to import."""
    free: frozenset[str]
    """Names that the tests use and do not define."""


def read(sources: Sequence[str], entry_point: str | None, classes: Iterable[str]) -> Reading:
    """Read the tests: one script, or a list with a test in each item. Raises SyntaxError and its like."""
    trees = [ast.parse(source, FILENAME) for source in sources]
    whole = ast.Module([statement for tree in trees for statement in tree.body], [])
    builtin, modules, free = _names(trees, whole, entry_point)
    instances = _instances(whole, set(classes))
    defined = {node.name for node in whole.body if isinstance(node, _DEFINITIONS)}
    bodies = [tree.body for tree in trees] if len(trees) > 1 else [[node] for node in _script(whole.body, entry_point)]
    steps = [Step(body, any(_is_test(node, defined) for node in body), _label(body)) for body in bodies]
    steps += _uncalled(whole, defined)
    if instances:
        rewrite = _Operators(instances)
        steps = [Step([rewrite.visit(node) for node in step.body], step.test, step.label) for step in steps]
    return Reading(steps, builtin, modules, free)


Plain = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[tuple[bool, str, bytes], ...]]
"""A reading as plain values: names as in Reading, and of each step whether it is a test, its text, its code."""


def read_ahead(sources: Sequence[str], entry_point: str | None, classes: Iterable[str]) -> Plain | None:
    """Read and compile the tests where they are not run; None where they can't be, which the judge will say."""
    try:
        reading = read(sources, entry_point, classes)
        steps = [(step.test, step.label, marshal.dumps(compiled(step))) for step in reading.steps]
    except Exception:
        return None
    return tuple(reading.builtin), tuple(reading.modules), tuple(reading.free), tuple(steps)


def compiled(step: Step) -> CodeType:
    """A step's code."""
    return compile(ast.Module(step.body, []), FILENAME, "exec", dont_inherit=True)


def _label(body: list[ast.stmt]) -> str:
    text = " ".join(ast.unparse(body[-1]).split()) if body else ""
    return text if len(text) <= 120 else text[:117] + "..."


def _is_test(node: ast.stmt, defined: set[str]) -> bool:
    """Whether a top-level statement can fail by itself: an assert in it, or a call of a checking function."""
    if isinstance(node, _DEFINITIONS):
        return False
    for inner in _own(node):
        if isinstance(inner, ast.Assert):
            return True
        if isinstance(inner, ast.Call):
            name = inner.func.attr if isinstance(inner.func, ast.Attribute) else getattr(inner.func, "id", "")
            if name.lower().startswith("assert"):
                return True
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in defined


def _own(node: ast.AST) -> Iterable[ast.AST]:
    """A statement's nodes without those of functions and classes defined in it."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, _OWN_SCOPE):
            yield from _own(child)


def _script(body: list[ast.stmt], entry_point: str | None) -> list[ast.stmt]:
    """The statements to run: `check(candidate)` taken apart, called for the entry point where nothing calls it."""
    checks = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    calls = [node for node in body if _calls(node, "check")]
    out = [node for node in body if not _is_main_call(node)]
    if not checks:
        return out
    if not calls and entry_point is not None:
        call = ast.parse(f"check({entry_point})", FILENAME).body[0]
        calls, out = [call], [*out, call]
    if len(calls) != 1 or not _apart(checks[-1], calls[0]):
        return out
    at = out.index(calls[0])
    argument = calls[0].value.args[0]  # type: ignore[attr-defined]
    name = checks[-1].args.args[0].arg
    bind = ast.Assign([ast.Name(name, ast.Store())], argument)
    return [*out[:at], ast.fix_missing_locations(bind), *checks[-1].body, *out[at + 1 :]]


def _calls(node: ast.stmt, name: str) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == name


def _is_main_call(node: ast.stmt) -> bool:
    """`unittest.main()`: its cases are steps of their own."""
    return isinstance(node, ast.Expr) and ast.unparse(node.value).startswith("unittest.main(")


def _apart(check: ast.FunctionDef, call: ast.stmt) -> bool:
    """Whether a check's body means the same at the top level: one parameter, no return, nothing of a function's."""
    arguments = check.args
    one = len(arguments.args) == 1 and not (arguments.vararg or arguments.kwarg or arguments.kwonlyargs)
    value = call.value  # type: ignore[attr-defined]
    kinds = (ast.Return, ast.Yield, ast.YieldFrom, ast.Await, ast.Global, ast.Nonlocal)
    inner = [node for statement in check.body for node in _own(statement)]
    return (
        one
        and not check.decorator_list
        and len(value.args) == 1
        and not value.keywords
        and any(isinstance(node, ast.Assert) for node in check.body)
        and not any(isinstance(node, kinds) for node in inner)
        and not any(isinstance(node, (ast.Nonlocal, ast.Global)) for node in ast.walk(check))
    )


def _uncalled(whole: ast.Module, defined: set[str]) -> list[Step]:
    """Test functions that nothing calls, and the methods of test cases."""
    used = {node.id for node in ast.walk(whole) if isinstance(node, ast.Name)}
    out: list[str] = []
    for node in whole.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test") and node.name not in used:
            arguments = node.args
            if not (arguments.args or arguments.posonlyargs or arguments.kwonlyargs):
                out.append(f"{node.name}()")
        elif isinstance(node, ast.ClassDef) and any("TestCase" in ast.unparse(base) for base in node.bases):
            methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
            out += [f"{CASE}({node.name}, {name!r})" for name in methods if name.startswith("test")]
    return [Step(ast.parse(text, FILENAME).body, True, text.removeprefix(CASE)) for text in out]


def _names(
    trees: list[ast.Module], whole: ast.Module, entry_point: str | None
) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """The built-in names that are the program's, and the library modules left to it to import, all free names."""
    nodes = list(ast.walk(whole))
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    bound |= {node.name for node in nodes if isinstance(node, _DEFINITIONS)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in nodes
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    used = {node.id for node in nodes if isinstance(node, ast.Name)} - bound
    free = used - imported
    dotted = {node.value.id for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
    bare = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    modules = frozenset((used & dotted & sys.stdlib_module_names) - bare)
    known = set(dir(builtins))
    if entry_point is not None:
        return frozenset({entry_point} & known), modules - {entry_point}, frozenset({*free, entry_point})
    if free - known - modules:
        return frozenset(), modules, frozenset(free - known)
    return _called_everywhere(trees, free & known), modules, frozenset(free)


def _called_everywhere(trees: list[ast.Module], names: set[str]) -> frozenset[str]:
    """The built-in function that every test calls, the innermost of the first one's; none where there is none."""
    bodies = trees if len(trees) > 1 else [node for node in trees[0].body if isinstance(node, ast.Assert)]
    common = set(names)
    order: list[str] = []
    for body in bodies:
        called = [
            node.func.id for node in ast.walk(body) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
        common &= set(called)
        order = order or called
    inner = [name for name in order if name in common and isinstance(getattr(builtins, name), object)]
    return frozenset(inner[-1:])


def _instances(whole: ast.Module, classes: set[str]) -> set[str]:
    """Names of classes of the program, as the text shows, and of the variables that only ever hold their instances."""
    nodes = list(ast.walk(whole))
    local = {node.name for node in nodes if isinstance(node, _DEFINITIONS)}
    assigned: dict[str, list[ast.expr | None]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            assigned.setdefault(node.targets[0].id, []).append(node.value)
    stores = [node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)]
    stores += [node.arg for node in nodes if isinstance(node, ast.arg)]
    single = {name: values for name, values in assigned.items() if stores.count(name) == len(values)}
    made = {name: {_maker(value) for value in values} for name, values in single.items()}
    variables = {name: next(iter(makers)) for name, makers in made.items() if len(makers) == 1 and None not in makers}
    shown = set(classes)
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr not in _PLAIN_NAMES and not node.attr.startswith("__"):
            owner = node.value
            shown.add(_maker(owner) or "")
            if isinstance(owner, ast.Name) and owner.id[:1].isupper():  # a function has attributes too
                shown.add(owner.id)
            if isinstance(owner, ast.Name) and owner.id in variables:
                shown.add(variables[owner.id] or "")
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance" and len(node.args) == 2:
            shown |= {inner.id for inner in ast.walk(node.args[1]) if isinstance(inner, ast.Name)}
    shown -= {"", *local, *dir(builtins), *stores}
    return shown | {name for name, maker in variables.items() if maker in shown}


def _maker(value: ast.AST | None) -> str | None:
    """The name in `name(...)`."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return value.func.id
    return None


class _Operators(ast.NodeTransformer):
    """Wraps the operands that are instances of the program's classes by the text's own showing."""

    def __init__(self, instances: set[str]) -> None:
        self._instances = instances

    def _wrapped(self, node: ast.expr) -> ast.expr:
        name = node.id if isinstance(node, ast.Name) else _maker(node)
        if name not in self._instances or (isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)):
            return node
        call = ast.Call(ast.Name(DIRECT, ast.Load()), [node], [])
        return ast.fix_missing_locations(ast.copy_location(call, node))

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        node.left, node.right = self._wrapped(node.left), self._wrapped(node.right)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if any(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops):
            return node
        if isinstance(node.ops[0], (ast.In, ast.NotIn)):
            node.comparators[0] = self._wrapped(node.comparators[0])
            return node
        node.left = self._wrapped(node.left)
        node.comparators = [self._wrapped(item) for item in node.comparators]
        return node
