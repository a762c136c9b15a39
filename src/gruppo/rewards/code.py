"""Programs against tests, in the sandbox: the share of the tests that pass.

The program and the tests never share a process. The program answers calls with plain typed values; a second process
holds the tests and a stand-in for the program, and alone says what passed (see sandbox/candidate.py and judge.py).

How it differs from running program and tests in one interpreter:

1. Only plain values and handles cross. The tests see the program's top-level names; an object of one of its classes
   stays with the program and is asked. A comparison with a plain value is made by the tests' process alone, so a
   returned object equals no number, text or list, whatever its `__eq__` says (see sandbox/proxies.py).
2. The tests' own `sorted`, `abs`, `all`... are Python's, even where the program defines them (sandbox/subjects.py).
3. A failed test does not end the others, and a statement of set-up that fails fails all tests after it.
4. CPU time decides: `test_seconds` for a test, `seconds` for the program over all of its tests. The wall clock is a
   backstop at twice as much and two seconds, for a program that sleeps.
"""

import atexit
import functools
import json
import re
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gruppo.errors import RewardError
from gruppo.rewards.code_program import MAX_CHARACTERS, defines, extract_program, parse, prelude
from gruppo.rewards.code_tests import Asserts, Calls, Scripts, Tests, read_tests
from gruppo.rewards.result import RewardResult
from gruppo.rewards.sandbox import subjects, wire
from gruppo.rewards.sandbox.job import Job, Limits, Outcome, Program
from gruppo.rewards.sandbox.sandbox import Sandbox
from gruppo.rewards.sandbox.shared import SharedTable
from gruppo.rewards.sandbox.values import Values

Score = Literal["share", "all", "first_failure"]
_CANDIDATE = "gruppo.rewards.sandbox.candidate:serve"
_JUDGE = "gruppo.rewards.sandbox.judge:judge"
_SCRIPT = "gruppo.rewards.sandbox.script:run"
_NO_PROGRAM = 97
_CLASS = re.compile(r"\bclass\s+`?([A-Za-z_]\w*)`?\s*[:(]|\bclass\s+`?([A-Z]\w*)")
_CALLED = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
_REASON = 400
_ENDS = {
    "cpu": "it took more than its CPU time",
    "wall": "it did not end in time",
    "memory": "it ran out of memory",
    "signal": "it was ended by a signal",
    "output": "it printed too much",
    "killed": "it was ended",
}
_lock = threading.Lock()
warnings.filterwarnings("ignore", module=subjects.FILENAME)  # what compiling a row's tests has to say of their style


@dataclass(frozen=True)
class _Verdict:
    """What came of all tests of a program."""

    passed: Sequence[bool]
    compiled: bool
    reason: str
    """Why the first failing test failed."""


def code_reward(
    completion: str,
    tests: Any,
    entry_point: str | None = None,
    prompt: str = "",
    *,
    score: Score = "share",
    test_seconds: float = 2.0,
    seconds: float = 10.0,
    memory_mb: int = 512,
    sandbox: Sandbox | None = None,
) -> RewardResult:
    """The score of the program in a completion, from 0 to 1, with `compiled`, `passed` (share) and `tests` as parts.

    Args:
        completion: Text with a program in it (see `extract_program`).
        tests: Asserts as a list or one script, inputs and outputs, or calls (see `read_tests`); also as JSON text.
        entry_point: The function under test, where the tests do not name it (HumanEval's `check(candidate)`).
        prompt: The problem; a prompt that ends in a signature is continued by the completion.
        score: The share of tests that pass, 1 only if "all" do, or those before the "first_failure" over all.
        test_seconds: CPU seconds for one test.
        seconds: CPU seconds for the program over all of its tests.
        memory_mb: MiB of memory for the program.
        sandbox: Where to run it; unset, one that the whole process shares, started at the first call.

    Raises:
        RewardError: the tests are of no form that is known.

    >>> code_reward("def double(n): return 2 * n", ["assert double(2) == 4", "assert double(3) == 5"])  # doctest: +SKIP
    RewardResult(0.5, parts={...}, reason="1 of 2 tests passed; test 2 failed: assert double(3) == 5: got 6")
    """
    wanted = read_tests(tests, entry_point)
    source, how = _program(completion, wanted, prompt, entry_point)
    if parse(source) is None:
        count = len(wanted.sources if isinstance(wanted, Asserts) else wanted.tests)
        return _result(_Verdict([False] * count, False, _syntax_error(source)), score, how)
    room = sandbox or default_sandbox()
    limits = Limits(seconds, _wall(seconds), memory_mb)
    if isinstance(wanted, Scripts):
        return _result(_run_scripts(source, wanted, room, limits, test_seconds), score, how)
    return _result(_run_judged(source, wanted, room, limits, test_seconds, entry_point, prompt), score, how)


def default_sandbox(unsafe: bool = False) -> Sandbox:
    """The sandbox that this process shares, started at the first call and closed at exit.

    Args:
        unsafe: where this machine has no walls, do without: programs may then do what the account may do.

    Raises:
        SandboxError: there are no walls to be had here.
    """
    with _lock:
        return _shared(unsafe)


@functools.cache
def _shared(unsafe: bool) -> Sandbox:
    sandbox = Sandbox(unsafe=unsafe)
    atexit.register(sandbox.close)
    return sandbox


def _wall(cpu_seconds: float) -> float:
    """Generous, so that a busy machine gives the same verdict."""
    return 2 * cpu_seconds + 2


def _program(completion: str, tests: Tests, prompt: str, entry_point: str | None) -> tuple[str, str]:
    """The program; of several blocks the last that defines what the tests call, where that is known."""
    if entry_point is not None or completion.count("```") < 4:
        return extract_program(completion, prompt, entry_point)
    names = [test[0] for test in tests.tests[:1]] if isinstance(tests, Calls) else []
    if isinstance(tests, Asserts):
        names = list(dict.fromkeys(_CALLED.findall(tests.sources[-1][:2000])))[:6]
    for name in names:
        found = extract_program(completion, prompt, name)
        if defines(found[0], name):
            return found
    return extract_program(completion, prompt)


def _syntax_error(source: str) -> str:
    if len(source) > MAX_CHARACTERS:
        return f"the program is longer than {MAX_CHARACTERS} characters"
    try:
        compile(source, "<program>", "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"it does not compile: {error.msg} (line {error.lineno})"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"it does not compile: {type(error).__name__}"
    return "it does not compile"


def _run_judged(
    source: str,
    tests: Asserts | Calls,
    room: Sandbox,
    limits: Limits,
    test_seconds: float,
    entry: str | None,
    prompt: str,
) -> _Verdict:
    """Candidate and judge, one job for all tests."""
    classes = tuple(sorted({one or other for one, other in _CLASS.findall(prompt[:100_000])}))
    if isinstance(tests, Asserts):
        read = _read_ahead(tuple(tests.sources), entry, classes)
        kind, what = ("asserts", tests.sources) if read is None else ("read", read)
        body: tuple[Any, ...] = (kind, what, entry, prelude(prompt, entry), classes)
    else:
        body = ("calls", _packed(tests), entry, "", classes)
    judge = Program(_JUDGE, wire.encode((*body, float(test_seconds), float(limits.wall_seconds))))
    text = source.encode("utf-8", "replace").decode()
    candidate = Program(_CANDIDATE, wire.encode((text, float(test_seconds))))
    return _read_verdict(room.run(Job(candidate, limits, judge)))


@functools.lru_cache(128)
def _read_ahead(sources: tuple[str, ...], entry: str | None, classes: tuple[str, ...]) -> subjects.Plain | None:
    """The tests read, but not run, once for all programs of a group; a judge would take as long as it takes to start.

    Very long ones are left to the judge, and its limits.
    """
    if sum(map(len, sources)) > MAX_CHARACTERS:
        return None
    return subjects.read_ahead(sources, entry, classes)


def _packed(tests: Calls) -> tuple[Any, ...]:
    values = Values(SharedTable(0), _no_plain_value, _no_plain_value)
    return tuple(tuple(values.pack(part) for part in test) for test in tests.tests)


def _no_plain_value(value: Any) -> Any:
    raise RewardError(f"the code reward can't use a {type(value).__name__} in a test's arguments or expected value.")


def _read_verdict(outcome: Outcome) -> _Verdict:
    """What the judge wrote, as far as it came; what it never came to has failed."""
    count, passed, compiled, failed, reason = 1, {}, True, False, ""
    for line in (outcome.verdict or b"").splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        event = json.loads(line)
        if isinstance(event, list):
            passed[event[0]] = event[1]
            if not event[1] and not reason:
                reason = f"test {event[0] + 1} failed: {event[2]}"
        elif "broken" in event:
            raise RewardError(f"the tests of the row can't be run: {event['broken']}")
        elif "tests" in event:
            count = event["tests"]
            if not count:
                raise RewardError("the tests of the row hold no test: no assert, no call of a checking function.")
        else:
            compiled, failed = event["compiled"], True
            reason = f"it {'failed before the tests' if compiled else 'does not compile'}: {event['failed']}"
    verdict = [passed.get(index, False) for index in range(count)]
    if not all(verdict) and not failed and (not reason or len(passed) < count):
        ended = outcome.candidate.how if outcome.candidate.how != "killed" else getattr(outcome.judge, "how", "killed")
        told = _ENDS.get(ended, "") or "it ended before its tests did"
        reason = f"{reason}; {told}" if reason else told
    return _Verdict(verdict, compiled, reason)


def _run_scripts(source: str, tests: Scripts, room: Sandbox, limits: Limits, test_seconds: float) -> _Verdict:
    """A process for each test, until the program's time is spent."""
    program = Program(_SCRIPT, source.encode("utf-8", "replace"))
    passed: list[bool] = []
    reason, compiled, cpu, wall = "", True, limits.cpu_seconds, limits.wall_seconds
    for index, (given, expected) in enumerate(tests.tests):
        if cpu <= 0 or wall <= 0 or not compiled:
            passed.append(False)
            reason = reason or f"test {index + 1} failed: the program's time was spent"
            continue
        one = Limits(min(test_seconds, cpu), min(_wall(test_seconds), wall), limits.memory_mb, _room_for(expected))
        outcome = room.run(Job(program, one, stdin=given.encode("utf-8", "surrogatepass")))
        cpu -= outcome.candidate.cpu_seconds
        wall -= outcome.wall_seconds
        compiled = outcome.candidate.code != _NO_PROGRAM
        why = _script_failure(outcome, expected)
        passed.append(not why)
        if why and not reason:
            reason = f"test {index + 1} failed: {why}" if compiled else f"it does not compile: {why}"
    return _Verdict(passed, compiled, reason)


def _room_for(expected: str) -> int:
    return max(1 << 20, 4 * len(expected) + 4096)


def _script_failure(outcome: Outcome, expected: str) -> str:
    """Why a run is not the expected one: how it ended, or the first line that differs. Empty where it is."""
    if outcome.candidate.how in _ENDS:
        return _ENDS[outcome.candidate.how]
    if outcome.candidate.how == "error":
        lines = outcome.stderr.decode("utf-8", "replace").strip().splitlines()
        return (lines[-1] if lines else f"it ended with code {outcome.candidate.code}")[:200]
    if outcome.stdout_truncated:
        return "it printed too much"
    got, wanted = _lines(outcome.stdout.decode("utf-8", "replace")), _lines(expected)
    for number, (line, other) in enumerate(zip(got, wanted, strict=False), start=1):
        if line != other:
            return f"line {number} is {line[:60]!r}, expected {other[:60]!r}"
    if len(got) != len(wanted):
        return f"{len(got)} lines instead of {len(wanted)}"
    return ""


def _lines(text: str) -> list[str]:
    """The lines without white space at their ends, and without empty ones at the end of all."""
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _result(verdict: _Verdict, score: Score, how: str) -> RewardResult:
    passed, count = sum(verdict.passed), len(verdict.passed)
    share = passed / count
    first = verdict.passed.index(False) if passed < count else count
    value = {"share": share, "all": float(passed == count), "first_failure": first / count}[score]
    parts = {"compiled": float(verdict.compiled), "passed": share, "tests": float(count)}
    reason = f"{passed} of {count} tests passed ({how})"
    if verdict.reason and passed < count:
        reason = f"{passed} of {count} tests passed; {verdict.reason}"
    return RewardResult(value, parts, reason[:_REASON])
