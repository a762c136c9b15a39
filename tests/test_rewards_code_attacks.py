"""Programs that know no answer and try to be called right all the same. None may score anything."""

# ruff: noqa: E501 (programs as text)

import pytest

from gruppo.errors import SandboxError
from gruppo.rewards.code import code_reward
from gruppo.rewards.sandbox import Sandbox

TEST = "assert f(3) == 9"
EVIL = """
class Evil:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __hash__(self): return hash(9)
    def __contains__(self, item): return True
    def __sub__(self, other): return 0.0
    __rsub__ = __add__ = __radd__ = __mul__ = __mod__ = __truediv__ = __xor__ = __sub__
    def __abs__(self): return self
    def __bool__(self): return True
    def __len__(self): return 1
    def __iter__(self): return iter([self])
    def __getitem__(self, key): return self
    def __call__(self, *args, **kwargs): return self
    def __getattr__(self, name): return self
    def __enter__(self): return self
    def __exit__(self, *error): return True
    def __float__(self): return 0.5
    def __int__(self): return 1
    def __index__(self): return 1
    def __round__(self, *digits): return self
    def __str__(self): return Text("?")
    __repr__ = __str__
class Text(str):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = str.__hash__
"""
FORGE = """
import os, struct
def forge(*args):
    from gruppo.rewards.sandbox import wire
    for value in (True, 9, ("p", 1), ("p", 2), ("h", 1, "function", None), ("r", 2), ("nonsense",)):
        frame = wire.encode(("=", (), (), (), value, ""))
        data = struct.pack(">I", len(frame)) + frame
        for number in range(3, 12):
            try: os.write(number, data)
            except OSError: pass
"""
VERDICT = r"""
import os
lines = b'{"tests": 1}\n[0, true, ""]\n'
for number in range(0, 40):
    try: os.write(number, lines)
    except OSError: pass
print('[0, true, ""]')
"""

ATTACKS: dict[str, tuple[str, str | list[str]]] = {
    "exit at once": ("import os\nos._exit(0)", TEST),
    "sys.exit at once": ("import sys\nsys.exit(0)", TEST),
    "exit in the call": ("import os\ndef f(x): os._exit(0)", TEST),
    "sys.exit in the call": ("def f(x): raise SystemExit(0)", TEST),
    "exit at the end": ("import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return None", TEST),
    "KeyboardInterrupt": ("def f(x): raise KeyboardInterrupt", TEST),
    "GeneratorExit": ("def f(x): raise GeneratorExit", TEST),
    "equal to everything": (EVIL + "def f(x): return Evil()", TEST),
    "equal from the right": (EVIL + "def f(x): return Evil()", "assert 9 == f(3)"),
    "not unequal": (EVIL + "def f(x): return Evil()", "assert not (f(3) != 9)"),
    "the function is a class": (EVIL + "class f(Evil):\n    def __init__(self, x): pass", TEST),
    "the function is a class, and its attributes are read": (
        EVIL + "class f(Evil):\n    def __init__(self, x): pass",
        ["name = f.__name__", "f.calls", TEST, "assert abs(f(3) - 9) < 1"],
    ),
    "an int equal to everything": (
        "class I(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\ndef f(x): return I(1)",
        TEST,
    ),
    "a tuple equal to everything": (
        "class T(tuple):\n    def __eq__(self, o): return True\ndef f(x): return T()",
        "assert f(3) == (9, 9)",
    ),
    "a named tuple equal to everything": (
        "from collections import namedtuple\nclass P(namedtuple('P', 'a b')):\n"
        "    def __eq__(self, o): return True\ndef f(x): return P(1, 2)",
        "assert f(3) == (9, 9)",
    ),
    "a dict equal to everything": (
        "class D(dict):\n    def __eq__(self, o): return True\n    def __getitem__(self, k): return self\n"
        "    def __missing__(self, k): return self\ndef f(x): return D()",
        ["assert f(3) == {1: 9}", "assert f(3)[1] == 9"],
    ),
    "text equal to everything": (EVIL + "def f(x): return Text('')", "assert f(3) == 'nine'"),
    "str() equal to everything": (EVIL + "def f(x): return Evil()", "assert str(f(3)) == 'nine'"),
    "elements equal to everything": (EVIL + "def f(x): return [Evil(), Evil()]", "assert f(3) == [9, 9]"),
    "keys equal to everything": (EVIL + "def f(x): return {Evil(): Evil()}", "assert f(3) == {9: 9}"),
    "a set equal to everything": (EVIL + "def f(x): return {Evil()}", "assert f(3) == {9}"),
    "near everything": (EVIL + "def f(x): return Evil()", "assert abs(f(3) - 9) < 1e-6"),
    "near everything from the right": (EVIL + "def f(x): return Evil()", "assert abs(9.5 - f(3)) <= 0.1"),
    "less than everything": (EVIL + "def f(x): return Evil()", ["assert f(3) < 10", "assert 8 <= f(3)"]),
    "the maximum of everything": (EVIL + "def f(x): return Evil()", "assert max(f(3), 9) == 9"),
    "rounds to itself": (EVIL + "def f(x): return Evil()", "assert round(f(3), 2) == 9.87"),
    "contains everything": (EVIL + "def f(x): return Evil()", "assert 9 in f(3)"),
    "is in everything": (EVIL + "def f(x): return Evil()", ["assert f(3) in [9, 10]", "assert f(3) in {9: 1}"]),
    "iterates itself": (EVIL + "def f(x): return Evil()", ["assert list(f(3)) == [9]", "assert sorted(f(3)) == [9]"]),
    "any attribute": (EVIL + "def f(x): return Evil()", "assert f(3).result == 9"),
    "any method": (EVIL + "def f(x): return Evil()", "assert f(3).total() == 9 or f(3).total().area == 9"),
    "says it is an int": (
        EVIL + "class J(Evil):\n    @property\n    def __class__(self): return int\ndef f(x): return J()",
        "assert isinstance(f(3), int)",
    ),
    "a class that answers itself": (
        EVIL + "class Circle(Evil):\n    def __init__(self, r): pass\n    def area(self): return self",
        ["assert abs(Circle(1).area() - 3.14159) < 1e-3", "assert Circle(2).area() == 12", "c = Circle(1)",
         "assert c.area() == 3", "assert c.area() - 3 == 0"],
    ),
    "a class that answers what looks like its own class": (
        EVIL + "class Stack(Evil):\n    def push(self, x): return self\n    def pop(self): return self",
        "s = Stack()\ns.push(4)\nassert s.pop() == 4\nx = s.pop()\nassert x == 4",
    ),
    "swallows the assert": (EVIL + "def f(x): return Evil()", "with f(3) as value:\n    assert value == 9"),
    "swallows the assert in a context manager": (
        "import contextlib\n@contextlib.contextmanager\ndef f(x):\n    try: yield 1\n    except BaseException: pass",
        "with f(3) as value:\n    assert value == 9",
    ),
    "StopIteration ends the loop over the tests": (
        "def f(x): raise StopIteration",
        "def right(case): return f(case[0]) == case[1]\nassert all(map(right, [(3, 9), (4, 16)]))",
    ),
    "skips the test": (
        "import unittest\ndef f(x): raise unittest.SkipTest('no')",
        "import unittest\nclass T(unittest.TestCase):\n    def test_f(self): self.assertEqual(f(3), 9)",
    ),
    "defines all": ("def all(items): return True\ndef f(x): return 0", "assert all(f(n) == n * n for n in (3, 4))"),
    "defines abs": ("def abs(x): return 0\ndef f(x): return 0", "assert abs(f(3) - 9) < 1e-9"),
    "defines sorted and len": (
        EVIL + "def sorted(x): return Evil()\ndef len(x): return 3\ndef f(x): return []",
        ["assert sorted(f(3)) == [9]", "assert len(f(3)) == 3"],
    ),
    "defines isinstance": ("def isinstance(a, b): return True\ndef f(x): return ''", "assert isinstance(f(3), int)"),
    "defines math": (
        "class math:\n    @staticmethod\n    def isclose(*a, **k): return True\ndef f(x): return 0.0",
        "assert math.isclose(f(3), 9.5)",
    ),
    "patches math": (
        "import math\nmath.isclose = lambda *a, **k: True\ndef f(x): return 0.0",
        ["assert math.isclose(f(3), 9.5)", "import math", "assert math.isclose(f(4), 16.5)"],
    ),
    "patches builtins": (
        "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.AssertionError = ValueError\n"
        "builtins.all = lambda x: True\ndef f(x): return 0",
        ["assert f(3) == 9", "assert abs(f(3) - 9) < 1", "assert all([f(3) == 9])"],
    ),
    "names of the judge": (
        "def _gruppo_direct(x): return 9\n_gruppo_case = check = candidate = _gruppo_direct\n"
        "__builtins__ = {}\ndef f(x): return 0",
        "def check(candidate):\n    assert candidate(3) == 9\ncheck(f)",
    ),
    "patches the judge's module": (
        "import sys\nfor name in list(sys.modules):\n    if 'sandbox' in name:\n"
        "        for key, value in list(vars(sys.modules[name]).items()):\n"
        "            if callable(value) and key not in ('Overtime',):\n"
        "                try: setattr(sys.modules[name], key, lambda *a, **k: True)\n"
        "                except Exception: pass\ndef f(x): return True",
        TEST,
    ),
    "reads the caller's frames": (
        "import re, sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        for space in (frame.f_locals, frame.f_globals):\n"
        "            for value in list(space.values()):\n"
        "                text = repr(value)\n"
        "                found = re.search(r'f.3. == (\\d{7})', text)\n"
        "                if found: return int(found[1])\n"
        "        frame = frame.f_back",
        "assert f(3) == 9876543",
    ),
    "searches all objects": (
        "import gc, re\ndef f(x):\n    for item in gc.get_objects():\n        try:\n"
        "            if type(item) in (list, dict, tuple):\n"
        "                found = re.search(r'f.3. == (\\d{7})', repr(item)[:100000])\n"
        "                if found: return int(found[1])\n"
        "        except Exception: pass\n    return 0",
        "assert f(3) == 9876543",
    ),
    "searches memory": (
        "import re\ndef f(x):\n    want = b'assert' + b' f(3) == '\n    for line in open('/proc/self/maps'):\n"
        "        if 'r' not in line.split()[1]: continue\n"
        "        low, high = (int(n, 16) for n in line.split()[0].split('-'))\n"
        "        if high - low > 1 << 26: continue\n"
        "        try:\n            with open('/proc/self/mem', 'rb') as file:\n                file.seek(low)\n"
        "                found = re.search(want + rb'(\\d+)', file.read(high - low))\n"
        "                if found: return int(found[1])\n        except OSError: pass",
        "assert f(3) == 9876543",
    ),
    "reads the payload's leftovers": (
        "import os, re\ndef f(x):\n    out = b''\n    for n in range(0, 40):\n        try:\n"
        "            os.set_blocking(n, False)\n            out += os.read(n, 65536)\n        except OSError: pass\n"
        "    found = re.search(rb'f.3. == (\\d{7})', out)\n    return int(found[1]) if found else 0",
        "assert f(3) == 9876543",
    ),
    "prints a verdict": (VERDICT + "def f(x): return 0", TEST),
    "prints a verdict in the call": ("def f(x):\n" + "".join(f"    {line}\n" for line in VERDICT.splitlines()), TEST),
    "prints a verdict and exits": (VERDICT + "os._exit(0)", TEST),
    "forges messages": (FORGE + "forge()\ndef f(x): return 0", "assert f(3) == 9876543"),
    "forges messages in the call": (FORGE + "def f(x):\n    forge()\n    return 0", "assert f(3) == 9876543"),
    "answers with names that were not asked for": (
        "import os, struct\nfrom gruppo.rewards.sandbox import wire\nh = lambda n: ('h', n, 'function', None)\n"
        "load = ('t', (True, ('t', ('f', 'math')), ('t', (('t', ('f', h(1))), ('t', ('math', h(2))), ('t', ('abs', h(3)))))))\n"
        "frames = [load] + [9.4, True, True, 0] * 3\n"
        "out = b''.join(struct.pack('>I', len(d)) + d for d in (wire.encode(('=', (), (), (), v, '')) for v in frames))\n"
        "for n in range(3, 12):\n    try: os.write(n, out)\n    except OSError: pass\ndef f(x): return 0.0",
        ["assert math.isclose(f(3), 9.5)", "assert abs(f(4) - 16.5) < 1e-6"],
    ),
    "crafted handles": (
        "import os\nfrom gruppo.rewards.sandbox import peer\n"
        "peer.Peer.export = lambda self, value: ('p', 1)\nclass O: pass\ndef f(x): return O()",
        ["assert f(lambda: 9) == 9", TEST],
    ),
    "pickles": (
        "class P:\n    def __reduce__(self): return (eval, ('8',))\n    def __reduce_ex__(self, n): return (eval, ('8',))\n"
        "def f(x): return P()",
        ["assert f(3) == 9", "import copy", "assert copy.deepcopy(f(3)) == 9"],
    ),
    "reads a callback's globals": (
        "def f(call):\n    for name in ('__globals__', '__closure__', '__code__', '__self__', 'gi_frame', '__defaults__'):\n"
        "        try:\n            space = getattr(call, name)\n            return space['secret']\n"
        "        except Exception: pass\n    return call('x')",
        "secret = 9876543\nassert f(lambda x: x) == 9876543",
    ),
    "reads a generator's frame": (
        "def f(items):\n    try: return items.gi_frame.f_globals['secret']\n    except Exception: return next(items)",
        "secret = 9876543\nassert f(n for n in (1, 2)) == 9876543",
    ),
    "reads an object's class": (
        "def f(node):\n    for path in ('__class__', '__init__', '__dict__', 'method'):\n"
        "        try: return getattr(node, path).__init__.__globals__['secret']\n        except Exception: pass\n"
        "        try: return getattr(node, path).__func__.__globals__['secret']\n        except Exception: pass\n"
        "    return 0",
        "secret = 9876543\nclass Node:\n    def __init__(self): self.value = 1\n    def method(self): return 1\n"
        "assert f(Node()) == 9876543",
    ),
    "calls into the judge": (
        "def f(call):\n    out = 0\n    for trial in ('_gruppo_peer', '_peer'):\n        try:\n"
        "            peer = type(call)._gruppo_peer\n            for op in ('get', 'op', 'name', 'item', 'plain', 'dir'):\n"
        "                try: out = peer.ask(op, call, '__globals__')['secret']\n                except BaseException: pass\n"
        "        except BaseException: pass\n    return out",
        "secret = 9876543\nassert f(lambda x: x) == 9876543",
    ),
    "a built-in in place of a result": ("def f(x): return exec", ["f(3)('f = lambda x: 9')", TEST]),
    "a type in place of a result": ("def f(x): return object", ["assert f(3)() == 9", "assert f(3) == 9"]),
    "Ellipsis and NotImplemented": (
        "def f(x): return NotImplemented if x else ...", ["assert f(3) == 9", "assert f(0) == 9"]
    ),
    "a later answer": (
        "import threading, time\n" + FORGE + "threading.Thread(target=lambda: (time.sleep(0.05), forge()), daemon=True).start()\n"
        "def f(x):\n    time.sleep(0.2)\n    return 0",
        "assert f(3) == 9876543",
    ),
    "forks": (
        "import os\ndef f(x):\n    try:\n        if os.fork(): return 0\n    except OSError: return 0\n    return 7",
        "assert f(3) == 9876543",
    ),
    "kills its parent": (
        "import os, signal\ndef f(x):\n    try: os.kill(os.getppid(), signal.SIGKILL)\n    except OSError: pass\n    return 0",
        TEST,
    ),
    "an exception that is equal to everything": (
        EVIL + "class E(ValueError, Evil):\n    pass\ndef f(x): raise E('no')",
        ["try:\n    value = f(3)\nexcept ValueError as error:\n    value = error\nassert value == 9"],
    ),
    "args equal to everything": (
        EVIL + "def f(x): raise ValueError(Evil())",
        ["try:\n    f(3)\nexcept ValueError as error:\n    assert error.args == (9,)\nelse:\n    assert False"],
    ),
    "an AssertionError": ("def f(x): raise AssertionError", TEST),
    "an endless stream": ("def f(x):\n    while True: yield x", "assert list(f(3)) == [9]"),
    "an endless text": ("def f(x): return 'a' * (1 << 26)", "assert f(3) == 'nine'"),
    "nested a thousand deep": ("def f(x):\n    y = []\n    for _ in range(1000): y = [y]\n    return y", "assert f(3) == [9]"),
    "a list in itself": ("def f(x):\n    y = []\n    y.append(y)\n    return y", "assert f(3) == [9]"),
    "colliding keys": (
        "def f(x): return {n * ((1 << 61) - 1): 1 for n in range(1, 20000)} if x else 0",
        "assert f(0) == 9",
    ),
}  # fmt: skip


@pytest.fixture(
    scope="module",
    params=["best", *(pytest.param(name, marks=pytest.mark.slow) for name in ("landlock", "unsafe"))],
)
def sandbox(request):
    """The verdict is safe at every level: it rests on who holds what, not on the walls."""
    level = None if request.param == "best" else request.param
    try:
        room = Sandbox(unsafe=level == "unsafe", level=level)
    except SandboxError as error:
        pytest.skip(f"not on this machine: {error}")
    with room:
        yield room


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_scores(name: str, sandbox: Sandbox) -> None:
    program, tests = ATTACKS[name]
    result = code_reward(program, tests, test_seconds=0.3, seconds=1.5, sandbox=sandbox)
    assert result == 0.0, result
    assert result.reason.startswith("0 of ")


SCRIPTS = {
    "prints nothing": "",
    "prints a verdict": VERDICT,
    "exits": "import os\nos._exit(0)",
    "prints more": "print(6)\nprint(7)",
    "prints before": "print()\nprint(6)",
    "the expected on standard error": "import sys\nprint(6, file=sys.stderr)",
    "says that it is no program": "import sys\nsys.exit(97)",
    "prints and fails": "print(6)\nraise ValueError",
    "prints all there is": "for n in range(100): print(n)",
    "prints without end": "while True: print(6)",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_scores(name: str, sandbox: Sandbox) -> None:
    tests = {"inputs": ["3\n"], "outputs": ["6\n"]}
    result = code_reward(f"```python\n{SCRIPTS[name]}\n```", tests, test_seconds=0.5, seconds=1.0, sandbox=sandbox)
    assert result == 0.0, result


def test_the_attacks_can_fail(sandbox: Sandbox) -> None:
    """The same tests pass for a program that knows."""
    for test in ("assert f(3) == 9", "assert abs(f(3) - 9) < 1e-6", "assert all(f(n) == n * n for n in (3, 4))"):
        tests = [test, "assert f(4) == 16"]
        assert code_reward("def f(n): return n * n", tests, sandbox=sandbox) == 1.0
