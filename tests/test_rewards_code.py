"""The code reward: which program, which tests, what passes, and that tests behave as in a bare interpreter."""

# ruff: noqa: E501 (programs as text)

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest

from gruppo.errors import RewardError
from gruppo.rewards.code import code_reward
from gruppo.rewards.code_program import extract_program
from gruppo.rewards.code_tests import Asserts, Calls, Scripts, read_tests
from gruppo.rewards.sandbox import Sandbox, subjects

ROOT = Path(__file__).resolve().parents[1]
MBPP = ROOT.parent / "shared" / "data" / "mbpp"
HUMANEVAL = (
    'from typing import List\n\ndef helper(x):\n    return x + 1\n\ndef total(xs: List[int]) -> int:\n    """Sum."""\n'
)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as room:
        yield room


# -- the program


@pytest.mark.parametrize(
    ("completion", "program", "how"),
    [
        ("x = 1", "x = 1", "whole text"),
        ("no program here, sorry", "no program here, sorry", "whole text"),
        ("", "", "whole text"),
        ("Sure:\n```python\nx = 1\n```\nbye", "x = 1\n", "block"),
        ("```\nx = 1\n```", "x = 1\n", "block"),
        ("~~~py\nx = 1\n~~~", "x = 1\n", "block"),
        ("```python\nx = 1\n```\n```python\nx = 2\n```", "x = 2\n", "block"),
        ("```python\nx = 1\n```\n```python\nx = = 2\n```", "x = 1\n", "block"),
        ("```python\nx = = 1\n```\n```python\nx = = 2\n```", "x = = 2\n", "block"),
        ("```python\nx = 1\n```\n```bash\nls\n```", "x = 1\n", "block"),
        ("```python\nx = 1\n```\n```python\nx = 2", "x = 1\n", "block"),
        ("```python\nx = 2\n", "x = 2\n", "unclosed block"),
        ("<think>```python\nx = 1\n```</think>```python\nx = 2\n```", "x = 2\n", "block"),
        ("<think>so</think>\nx = 3", "\nx = 3", "whole text"),
        ('````python\ns = """\n```\n"""\n````', 's = """\n```\n"""\n', "block"),
        ("1. First\n   ```python\n   x = 1\n   ```\n", "x = 1\n", "block"),
    ],
)
def test_the_program_of_a_completion(completion: str, program: str, how: str) -> None:
    assert extract_program(completion) == (program, how)


def test_the_block_that_defines_the_entry_point() -> None:
    text = "```python\ndef f(): return 1\n```\nUse it:\n```python\nprint(f())\n```"
    assert extract_program(text, entry_point="f") == ("def f(): return 1\n", "block")
    assert extract_program(text) == ("print(f())\n", "block")


@pytest.mark.parametrize(
    ("completion", "how"),
    [
        ("    return sum(xs)\n", "continuation"),
        ("return sum(xs)\n", "continuation"),
        ("    return sum(xs)\n\nThat is all there is to say.", "continuation"),
        ("```python\n    return sum(xs)\n```", "continuation"),
        ("```python\ndef total(xs: List[int]) -> int:\n    return helper(sum(xs)) - 1\n```", "block"),
        (HUMANEVAL + "    return sum(xs)\n", "whole text"),
    ],
)
def test_a_signature_is_continued(completion: str, how: str, sandbox: Sandbox) -> None:
    source, found = extract_program(completion, HUMANEVAL, "total")
    assert found == how
    check = "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n"
    result = code_reward(completion, check, "total", HUMANEVAL, sandbox=sandbox)
    assert (result, result.parts["tests"]) == (1.0, 2), (source, result)


def test_any_text_gives_a_result(sandbox: Sandbox) -> None:
    texts = [
        "(" * 5000,
        "```python\n" * 300,
        "\x00",
        "\ud800",
        "x" * 300_000,
        "-" * 90_000 + "1",
        "```python\n\ud800=1\n```",
    ]
    texts += [
        "def f(:\n",
        "f = 1" + "\n" * 50_000,
        "lambda: " * 20_000,
        '"' * 1001,
        "1" * 50_000,
        "\ufeffx = 1",
        "𝒻 = 1",
    ]
    for text in texts:
        for prompt in ("", "def f(x):\n" + "\x00", text, HUMANEVAL):
            result = code_reward(text, "assert f(1) == 2", prompt=prompt, sandbox=sandbox)
            assert result == 0.0, text[:40]
            assert 0 < len(result.reason) <= 400


# -- the tests


@pytest.mark.parametrize(
    ("tests", "form"),
    [
        ("assert f(1) == 2", Asserts(("assert f(1) == 2",))),
        (["assert f(1) == 2", "assert f(2) == 3"], Asserts(("assert f(1) == 2", "assert f(2) == 3"))),
        ('["assert f(1) == 2"]', Asserts(("assert f(1) == 2",))),
        ({"inputs": ["1\n"], "outputs": ["2\n"]}, Scripts((("1\n", "2\n"),))),
        ('{"inputs": [["1", "2"]], "outputs": [["3"]]}', Scripts((("1\n2", "3"),))),
        ([{"input": "1", "output": "2"}, {"input": 3, "output": 4}], Scripts((("1", "2"), ("3", "4")))),
        ({"fn_name": "f", "inputs": [[1, 2]], "outputs": [[3]]}, Calls((("f", [1, 2], {}, ([3], 3)),))),
        (
            {"fn_name": "f", "inputs": [[1], [2]], "outputs": [3, 4]},
            Calls((("f", [1], {}, (3,)), ("f", [2], {}, (4,)))),
        ),
        ([{"function": "f", "args": [1], "expected": [2]}], Calls((("f", [1], {}, ([2],)),))),
        ([{"call": "f", "args": [1], "kwargs": {"b": 2}, "expected": 3}], Calls((("f", [1], {"b": 2}, (3,)),))),
        ([{"args": [1], "expected": 3}], Calls((("g", [1], {}, (3,)),))),
    ],
)
def test_forms_of_tests(tests: object, form: object) -> None:
    assert read_tests(tests, "g") == form


@pytest.mark.parametrize(
    "tests", [None, "", [], 5, [1], {"a": 1}, {"inputs": ["1"], "outputs": []}, ["assert 1", {"input": 1, "output": 2}]]
)
def test_tests_of_no_form_are_an_error(tests: object) -> None:
    with pytest.raises(RewardError, match=r"wanted|wants"):
        code_reward("x = 1", tests)


def test_tests_that_do_not_parse_or_hold_none_are_an_error(sandbox: Sandbox) -> None:
    with pytest.raises(RewardError, match="can't be run: SyntaxError"):
        code_reward("x = 1", "assert (", sandbox=sandbox)
    with pytest.raises(RewardError, match="hold no test"):
        code_reward("x = 1", "import math\ny = 2", sandbox=sandbox)


# -- the score


def test_the_literal_row(sandbox: Sandbox) -> None:
    solution = "def is_prime(n):\n    if n < 2: return False\n    ..."
    result = code_reward(solution, "assert is_prime(7) == True", sandbox=sandbox)
    assert (result, dict(result.parts)) == (0.0, {"compiled": 1.0, "passed": 0.0, "tests": 1.0})
    assert result.reason == "0 of 1 tests passed; test 1 failed: assert is_prime(7) == True: got None"


@pytest.mark.parametrize(("score", "value"), [("share", 0.75), ("all", 0.0), ("first_failure", 0.25)])
def test_scores(score, value: float, sandbox: Sandbox) -> None:
    program = "def f(n): return n if n != 2 else 0"
    for tests in (
        [f"assert f({n}) == {n}" for n in (1, 2, 3, 4)],
        "\n".join(f"assert f({n}) == {n}" for n in (1, 2, 3, 4)),
    ):
        result = code_reward(program, tests, score=score, sandbox=sandbox)
        assert (result, result.parts["passed"]) == (value, 0.75)
        assert "test 2 failed: assert f(2) == 2: got 0" in result.reason


@pytest.mark.parametrize(
    "program", ["def f(:", "def f():\nreturn", "return 1", "x = 1\n nonlocal y", "\x00", "f(" * 300]
)
def test_what_does_not_compile(program: str, sandbox: Sandbox) -> None:
    for tests in ("assert True", {"inputs": [""], "outputs": [""]}):
        result = code_reward(f"```python\n{program}\n```", tests, sandbox=sandbox)
        assert (result, result.parts["compiled"]) == (0.0, 0.0)
        assert "does not compile" in result.reason


def test_a_program_that_fails_before_its_tests(sandbox: Sandbox) -> None:
    result = code_reward("x = 1 / 0", ["assert True", "assert x == 1"], sandbox=sandbox)
    assert (result, result.parts["compiled"], result.parts["tests"]) == (0.0, 1.0, 2.0)
    assert result.reason == "0 of 2 tests passed; it failed before the tests: ZeroDivisionError: division by zero"


def test_set_up_that_fails_fails_what_follows(sandbox: Sandbox) -> None:
    result = code_reward("def f(): return 1", "assert f() == 1\ny = g()\nassert f() == 1", sandbox=sandbox)
    assert result == 0.5
    assert "in the set-up: y = g()" in result.reason


def test_a_slow_test_fails_alone(sandbox: Sandbox) -> None:
    program = "def f(n):\n    while n == 2: pass\n    return n"
    began = time.monotonic()
    result = code_reward(program, [f"assert f({n}) == {n}" for n in (1, 2, 3)], test_seconds=0.3, sandbox=sandbox)
    assert result == pytest.approx(2 / 3)
    assert "test 2 failed: assert f(2) == 2: it took more than its CPU time" in result.reason
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "body",
    [
        "while True:\n        try:\n            while True: pass\n        except BaseException: pass",
        "import time\n    time.sleep(60)",
        "return sum(range(10**12))",
        "return 7 ** (7 ** 12)",
    ],
)
def test_what_can_not_be_interrupted_is_ended(body: str, sandbox: Sandbox) -> None:
    began = time.monotonic()
    tests = ["assert 1 + 1 == 2", "assert f(1) == 1", "assert True"]
    result = code_reward(f"def f(n):\n    {body}", tests, test_seconds=0.3, seconds=0.8, sandbox=sandbox)
    assert result in (pytest.approx(1 / 3), pytest.approx(2 / 3))  # the third runs where the second let go
    assert result.reason.startswith(f"{round(3 * result)} of 3 tests passed; test 2 failed")
    assert time.monotonic() - began < 7


def test_tests_are_read_ahead_where_they_can_be(sandbox: Sandbox) -> None:
    names = subjects.read_ahead(("assert f(1) == 2", "x = 1"), None, ())
    assert names is not None
    assert (names[:3], [step[:2] for step in names[3]]) == (
        ((), (), ("f",)),
        [(True, "assert f(1) == 2"), (False, "x = 1")],
    )
    assert subjects.read_ahead(("assert f(1) ==",), None, ()) is None
    long = f"assert f(1) == 2, {'x' * 300_000!r}"
    assert code_reward("def f(n): return n + 1", [long], sandbox=sandbox) == 1.0


def test_memory_is_limited(sandbox: Sandbox) -> None:
    program = "def f(n): return len([0] * (n << 27))"
    result = code_reward(program, ["assert f(0) == 0", "assert f(40) == 1"], memory_mb=256, sandbox=sandbox)
    assert result == 0.5


# -- input and output


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ("6", 1.0),
        ("6\n\n", 1.0),
        ("6  ", 1.0),
        ("6\n7", 0.0),
        ("", 0.0),
        ("\n6", 0.0),
        (" 6", 0.0),
        ("6.0", 0.0),
        ("66", 0.0),
    ],
)
def test_all_lines_are_compared(output: str, value: float, sandbox: Sandbox) -> None:
    program = f"n = int(input())\nprint({output!r} if n == 3 else 8, end='')"
    tests = {"inputs": ["3\n", "4\n"], "outputs": ["6\n", "8"]}
    assert code_reward(program, tests, sandbox=sandbox) == (value + 1) / 2


def test_scripts_run_as_main_each_in_a_fresh_process(sandbox: Sandbox) -> None:
    program = "import sys\nseen = []\ndef main():\n    seen.append(1)\n    print(len(seen), sys.stdin.read().strip())\n"
    program += "if __name__ == '__main__':\n    main()\n"
    tests = [{"input": "a", "output": "1 a"}, {"input": ["b", "c"], "output": ["1 b", "c"]}]
    assert code_reward(program, tests, sandbox=sandbox) == 1.0


def test_the_reasons_of_scripts(sandbox: Sandbox) -> None:
    def reason(program: str) -> str:
        return code_reward(program, {"inputs": ["3"], "outputs": ["6\n7"]}, test_seconds=0.3, sandbox=sandbox).reason

    assert reason("print(6)\nprint(8)").endswith("test 1 failed: line 2 is '8', expected '7'")
    assert reason("print(6)").endswith("test 1 failed: 1 lines instead of 2")
    assert reason("raise ValueError('no')").endswith("test 1 failed: ValueError: no")
    assert reason("while True: pass").endswith("test 1 failed: it took more than its CPU time")


# -- calls


@pytest.mark.parametrize(
    ("returned", "expected", "value"),
    [
        ("3", 3, 1.0),
        ("3.0000001", 3, 1.0),
        ("3.001", 3, 0.0),
        ("(1, 2)", [1, 2], 1.0),
        ("[(1, 2.00000001)]", [[1, 2.0]], 1.0),
        ("[1, 2, 3]", [1, 2], 0.0),
        ("{1: 'a'}", {"1": "a"}, 1.0),
        ("'3'", 3, 0.0),
        ("None", None, 1.0),
        ("float('nan')", 1.0, 0.0),
        ("float('inf')", float("inf"), 1.0),
    ],
)
def test_calls(returned: str, expected: object, value: float, sandbox: Sandbox) -> None:
    tests = [{"function": "f", "args": [1], "expected": expected}]
    assert code_reward(f"def f(n): return {returned}", tests, sandbox=sandbox) == value


def test_calls_of_apps_find_the_method_of_a_solution(sandbox: Sandbox) -> None:
    tests = json.dumps({"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]]})
    assert code_reward("class Solution:\n    def add(self, a, b): return a + b", tests, sandbox=sandbox) == 1.0
    assert code_reward("def add(a, b): return a + b", tests, sandbox=sandbox) == 1.0
    result = code_reward("def ad(a, b): return a + b", tests, sandbox=sandbox)
    assert result.reason.endswith("add(1, 2): NameError: name 'add' is not defined")


# -- as in a bare interpreter

PROGRAM = '''
import collections, contextlib, dataclasses, enum, functools, math
from decimal import Decimal
from fractions import Fraction
import datetime

LIMIT = 10
TABLE = {"a": [1, 2]}
count = 0

def tick():
    global count
    count += 1
    print("tick", count)
    return count

class Empty(ValueError):
    def __init__(self, message, code):
        super().__init__(message)
        self.code = code

class Stack:
    """A stack."""
    made = 0
    def __init__(self, items=()):
        self.items = list(items)
        Stack.made += 1
    def push(self, item):
        self.items.append(item)
        return self
    def pop(self):
        if not self.items:
            raise Empty("nothing there", 7)
        return self.items.pop()
    @property
    def top(self):
        return self.items[-1]
    @classmethod
    def of(cls, *items):
        return cls(items)
    @staticmethod
    def name():
        return "stack"
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __getitem__(self, at): return self.items[at]
    def __setitem__(self, at, item): self.items[at] = item
    def __contains__(self, item): return item in self.items
    def __eq__(self, other): return isinstance(other, Stack) and self.items == other.items
    def __hash__(self): return len(self.items)
    def __lt__(self, other): return len(self) < len(other)
    def __add__(self, other): return Stack(self.items + list(other))
    def __repr__(self): return f"Stack({self.items})"
    def __call__(self, n): return n * 2
    def __enter__(self): return self
    def __exit__(self, kind, error, trace):
        self.items.append(kind and kind.__name__)
        return kind is KeyError

class Tall(Stack):
    pass

@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: int = 0
    def __mul__(self, n): return Point(self.x * n, self.y * n)
    __rmul__ = __mul__

class Colour(enum.Enum):
    RED = 1
    BLUE = 2

Pair = collections.namedtuple("Pair", "left right")

def counter(start=0):
    try:
        while True:
            got = yield start
            start = start + 1 if got is None else got
    finally:
        TABLE["closed"] = True

def sort(items): items.sort(); return items
def fill(table, keys):
    for key in keys: table.setdefault(key, []).append(1)
def grow(matrix): matrix[0].append(9); matrix.append([0])
def keep(items, kept=[]):
    kept.append(items); return kept
def apply(function, *args, **kwargs): return function(*args, **kwargs)
def echo(value): return value
def adder(n): return lambda m: n + m
def fail(kind): raise kind("no")
def both(a, b): return a is b
@contextlib.contextmanager
def opened(): yield "open"
def walk(node):
    total = 0
    while node is not None:
        total += node.value
        node.seen = True
        node = node.next
    return total
'''

SNIPPETS = [
    "assert LIMIT == 10 and TABLE['a'] == [1, 2] and Stack.__name__ == 'Stack' and tick.__name__ == 'tick'",
    "assert tick() == 1\nassert count == 1\ntick()\nassert count == 2",
    "s = Stack()\ns.push(1).push(2)\nassert len(s) == 2 and s.pop() == 2 and s.top == 1 and list(s) == [1] and s[0] == 1",
    "s = Stack([1, 2])\ns[0] = 5\nassert s.items == [5, 2]\ns.items.append(6)\nassert s.pop() == 6 and len(s) == 2",
    "s = Stack([1, 2])\ns.items = [7]\nassert s.pop() == 7\ns.label = 'x'\nassert s.label == 'x' and vars(s)['label'] == 'x'",
    "assert Stack([1]) == Stack([1]) and Stack([1]) != Stack([2]) and not Stack([1]) == Stack([2])",
    "assert Stack([1]) < Stack([1, 2]) and sorted([Stack([1, 2]), Stack([])])[0] == Stack([])",
    "assert Stack([1]) + Stack([2]) == Stack([1, 2]) and repr(Stack([1])) == 'Stack([1])' and str(Stack()) == 'Stack([])'",
    "assert len({Stack([1]), Stack([1]), Stack([2, 3])}) == 2 and {Stack([1]): 'a'}[Stack([1])] == 'a'",
    "assert isinstance(Stack(), Stack) and isinstance(Tall(), Stack) and not isinstance(Stack(), Tall)",
    "assert issubclass(Tall, Stack) and type(Tall()) is Tall and Tall.of(1, 2).pop() == 2 and Stack.name() == 'stack'",
    "assert not isinstance(Stack(), int) and callable(Stack()) and not callable(Point(1)) and Stack()(4) == 8",
    "before = Stack.made\nStack()\nassert Stack.made == before + 1",
    "assert 3 in Stack([1, 3]) and 4 not in Stack([1, 3])",
    "s = Stack([1, 3])\nassert 3 in s and 4 not in s and [n for n in s] == [1, 3] and max(s) == 3 and sum(s) == 4",
    "a, b = Stack([1, 2])\nassert (a, b) == (1, 2) and list(zip(Stack([1]), 'x')) == [(1, 'x')]",
    "try:\n    Stack().pop()\n    raise RuntimeError\nexcept Empty as error:\n"
    "    assert str(error) == 'nothing there' and error.code == 7 and isinstance(error, ValueError)\n"
    "    assert type(error) is Empty and error.args == ('nothing there',)",
    "import unittest\ncase = unittest.TestCase()\ncase.assertRaises(Empty, Stack().pop)\n"
    "with case.assertRaises(ValueError) as caught:\n    Stack().pop()\ncase.assertEqual(caught.exception.code, 7)\n"
    "with case.assertRaisesRegex(ValueError, 'nothing'):\n    Stack().pop()",
    "for kind in (ValueError, KeyError, TypeError, ZeroDivisionError, IndexError, RuntimeError, OSError):\n"
    "    try:\n        fail(kind)\n    except kind as error:\n        assert type(error) is kind and error.args == ('no',)\n"
    "    else:\n        assert False",
    "try:\n    echo()\nexcept TypeError as error:\n    assert 'positional argument' in str(error)\nelse:\n    assert False",
    "try:\n    Stack().nothing\nexcept AttributeError:\n    pass\nelse:\n    assert False\nassert not hasattr(Stack(), 'no')",
    "with Stack() as s:\n    s.push(1)\nassert s.items == [1, None]",
    "s = Stack()\nwith s:\n    raise KeyError('x')\nassert s.items == ['KeyError']",
    "try:\n    with Stack() as s:\n        raise IndexError\nexcept IndexError:\n    pass\nassert s.items == ['IndexError']",
    "with opened() as door:\n    assert door == 'open'",
    "assert Point(1, 2) == Point(1, 2) and Point(1) != Point(1, 2) and Point(1, 2) < Point(2, 0)\n"
    "assert repr(Point(1)) == 'Point(x=1, y=0)' and Point(1, 2).y == 2",
    "p = Point(1, 2)\nassert p.x == 1\nassert p * 3 == Point(3, 6) and 3 * p == Point(3, 6) and not p == 5 and p != 5",
    "p = Point(3)\nq = echo(p)\nassert q is p and both(p, q)\nq.x = 8\nassert p.x == 8",
    "import copy\np = Point(3)\nq = copy.copy(p)\nq.x = 4\nassert (p.x, q.x) == (3, 4) and copy.deepcopy(p) == p",
    "assert Colour.RED.value == 1 and Colour(2) is Colour.BLUE and Colour['RED'] is Colour.RED and Colour.RED != Colour.BLUE\n"
    "assert [c.name for c in Colour] == ['RED', 'BLUE'] and isinstance(Colour.RED, Colour) and len(Colour) == 2",
    "assert Pair(1, 2) == (1, 2) and Pair(1, 2).left == 1 and isinstance(Pair(1, 2), Pair) and isinstance(Pair(1, 2), tuple)\n"
    "p = echo(Pair(3, 4))\nassert p.right == 4 and type(p) is Pair and p._replace(left=1) == (1, 4) and p._asdict() == {'left': 3, 'right': 4}",
    "g = counter(5)\nassert next(g) == 5 and next(g) == 6 and g.send(20) == 20 and next(g) == 21\ng.close()\nassert TABLE['closed']",
    "import itertools, types\ng = counter()\nassert list(itertools.islice(g, 3)) == [0, 1, 2] and isinstance(g, types.GeneratorType)\n"
    "assert iter(g) is g and list(echo(n for n in range(3))) == [0, 1, 2]",
    "items = [3, 1, 2]\nassert sort(items) is items and items == [1, 2, 3] and sort(items) is not [1, 2, 3]",
    "table = {}\nfill(table, 'aab')\nassert table == {'a': [1, 1], 'b': [1]} and list(table) == ['a', 'b']",
    "row = [1]\nmatrix = [row, row]\ngrow(matrix)\nassert matrix == [[1, 9], [1, 9], [0]] and matrix[0] is row and matrix[1] is row",
    "a = [1]\nkept = keep(a)\na.append(2)\nassert keep([]) == [[1, 2], []] and keep([3])[0] is a and kept[0] is a",
    "items = set('ab')\napply(items.add, 'c')\nassert items == set('abc')\nb = bytearray(b'a')\nassert echo(b) is b",
    "assert apply(lambda x, y=1: x + y, 2) == 3 and apply(lambda x, y=1: x + y, 2, y=5) == 7 and apply(max, [1, 3], key=abs) == 3",
    "calls = []\ndef note(x):\n    calls.append(x)\n    return len(calls)\nassert apply(note, 'a') == 1 and calls == ['a']",
    "def bad(): raise LookupError('mine')\ntry:\n    apply(bad)\nexcept LookupError as error:\n    assert error.args == ('mine',)\nelse:\n    assert False",
    "class Mine(Exception): pass\ndef bad(): raise Mine(3)\ntry:\n    apply(bad)\nexcept Mine as error:\n    assert error.args == (3,)\nelse:\n    assert False",
    "assert adder(3)(4) == 7 and list(map(adder(1), [1, 2])) == [2, 3] and sorted([3, 1], key=adder(0)) == [1, 3]",
    "class Node:\n    def __init__(self, value, next=None):\n        self.value, self.next = value, next\n"
    "a = Node(1, Node(2))\nassert walk(a) == 3 and a.seen and a.next.seen and echo(a) is a",
    "import math\nfor x in (0.1, -0.0, 1e308, 5e-324, float('inf')):\n    assert echo(x) == x and str(echo(x)) == str(x)\n"
    "assert math.isnan(echo(float('nan'))) and echo(0.1) + echo(0.2) == 0.1 + 0.2 and type(echo(2.0)) is float",
    "for x in (2**200, -(2**64), True, None, 1j, b'x', '', (), (1, [2, {3}]), frozenset({1}), range(3), ..., {1: {2: 3}}):\n"
    "    assert echo(x) == x and type(echo(x)) is type(x)",
    "import datetime, decimal, fractions, uuid\nu = datetime.timezone.utc\n"
    "for x in (decimal.Decimal('1.10'), fractions.Fraction(1, 3), datetime.date(2020, 1, 2), datetime.timedelta(hours=3),\n"
    "          datetime.datetime(2020, 1, 2, 3, 4, 5, 6, u), datetime.time(1, 2), uuid.UUID(int=5)):\n"
    "    assert echo(x) == x and repr(echo(x)) == repr(x)",
    "from collections import *\nfor x in (Counter('aab'), deque([1, 2], 5), OrderedDict(a=1), defaultdict(list, {1: [2]})):\n"
    "    y = echo(x)\n    assert y == x and type(y) is type(x) and y is x",
    "from collections import *\nd = defaultdict(list)\nfill(d, 'ab')\nassert d == {'a': [1], 'b': [1]}\nd['q'].append(1)\nassert d['q'] == [1]",
    "assert echo({'a': 1}.keys()) == {'a'} and list(echo({'a': 1}.items())) == [('a', 1)] and echo(int) is int",
    "loop = []\nloop.append(loop)\nassert echo(loop) is loop and loop[0] is loop",
    "big = [[n, str(n)] for n in range(3000)]\nassert echo(big) == big and echo(big)[5][1] == '5'",
    "import contextlib, io\nout = io.StringIO()\nwith contextlib.redirect_stdout(out):\n    n = tick()\nassert out.getvalue() == f'tick {n}\\n'",
    "assert [echo(n) for n in range(3)] == [0, 1, 2] and (lambda: echo(4))() == 4\n"
    "def run():\n    return [echo(LIMIT) for _ in range(2)]\nassert run() == [10, 10]",
    "def test_echo():\n    assert echo(1) == 1\ndef test_stack():\n    assert Stack.of(1).top == 1",
    "import unittest\nclass T(unittest.TestCase):\n    def setUp(self): self.s = Stack([1])\n"
    "    def test_a(self): self.assertEqual(self.s.pop(), 1)\n    def test_b(self): self.assertTrue(len(self.s))\n"
    "if __name__ == '__main__':\n    unittest.main()",
]


def bare(snippet: str) -> None:
    """The program and a snippet in this interpreter, functions and cases of tests called too."""
    names: dict = {"__name__": "program"}
    module = type(sys)("program")
    module.__dict__.update(names)
    sys.modules["program"] = module
    try:
        exec(PROGRAM, module.__dict__)
        exec(snippet, module.__dict__)
    finally:
        del sys.modules["program"]


@pytest.mark.parametrize("index", range(len(SNIPPETS)))
def test_as_in_a_bare_interpreter(index: int, sandbox: Sandbox) -> None:
    bare(SNIPPETS[index])
    result = code_reward(PROGRAM, SNIPPETS[index], sandbox=sandbox)
    assert result == 1.0, result.reason


def test_a_built_in_name_is_the_programs_where_the_tests_use_no_other(sandbox: Sandbox) -> None:
    program = "def sum(a, b): return a * b"
    assert code_reward(program, ["assert sum(2, 5) == 10", "assert sum(3, 3) == 9"], sandbox=sandbox) == 1.0
    assert code_reward("def f(): pass", ["assert sum(2, 5) == 10"], sandbox=sandbox) == 0.0
    check = "def check(candidate):\n    assert candidate(2, 5) == 10"
    assert code_reward(program, check, "sum", sandbox=sandbox) == 1.0


def test_operators_of_a_class_with_plain_values(sandbox: Sandbox) -> None:
    """Asked of the program where the prompt or the tests show that it is a class; else no object equals a number."""
    program = "class Money:\n    def __init__(self, n): self.n = n\n    def __eq__(self, o): return self.n == getattr(o, 'n', o)\n"
    program += "    def __gt__(self, o): return self.n > o"
    assert code_reward(program, "assert Money(5) == 5", sandbox=sandbox) == 0.0
    assert code_reward(program, "assert Money(5) == 5", prompt="Write a class `Money`.", sandbox=sandbox) == 1.0
    assert code_reward(program, "m = Money(5)\nassert m.n == 5\nassert m == 5\nassert m > 4", sandbox=sandbox) == 1.0


def test_the_prompts_own_helpers_are_the_tests(sandbox: Sandbox) -> None:
    """HumanEval's find_zero is checked with the prompt's poly, not with the program's."""
    prompt = (
        "def poly(xs, x):\n    return sum(c * x ** i for i, c in enumerate(xs))\n\ndef root(xs):\n    '''Root.'''\n"
    )
    check = "def check(candidate):\n    assert abs(poly([-6, 2], candidate([-6, 2]))) < 1e-6\ncheck(root)"
    assert code_reward("    return -xs[0] / xs[1]", check, "root", prompt, sandbox=sandbox) == 1.0
    cheat = "def poly(xs, x): return 0\ndef root(xs): return 1"
    assert code_reward(f"```python\n{cheat}\n```", check, "root", prompt, sandbox=sandbox) == 0.0


def test_two_runs_agree(sandbox: Sandbox) -> None:
    tests = ["assert f() == 1", "assert sorted(f2()) == [1, 2]", "assert f() == 2"]
    program = "def f(): return len({1})\ndef f2(): return {2, 1}"
    results = {(r := code_reward(program, tests, sandbox=sandbox)).value: r.reason for _ in range(3)}
    assert len(results) == 1


# -- reference solutions and mutants of them


def judge_script():
    spec = importlib.util.spec_from_file_location("code_judge", ROOT / "benchmarks" / "code_judge.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mbpp_rows() -> list[dict]:
    path = MBPP / "mbpp_train.jsonl"
    if not path.exists():
        pytest.skip("mbpp_train.jsonl of the shared data is absent")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_references_pass_and_mutants_fail(sandbox: Sandbox) -> None:
    judge = judge_script()
    results = [judge.check(row, 1) for row in mbpp_rows()[::40]]
    assert [line for wrong, _, _ in results for line in wrong] == []
    assert sum(counted for _, counted, _ in results) == 12
    assert sum(judged for _, _, judged in results) == 12


@pytest.mark.slow
def test_all_references_pass(sandbox: Sandbox) -> None:
    judge = judge_script()
    results = [judge.check(row, 0) for row in mbpp_rows()]
    assert [line for wrong, _, _ in results for line in wrong] == []
    assert sum(counted for _, counted, _ in results) == 473
