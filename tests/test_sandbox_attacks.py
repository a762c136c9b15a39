"""Programs that attack the sandbox, at both levels: none gets anything, and each is ended in time."""

import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import sandbox_attacks as attacks
from gruppo.rewards.sandbox import Job, Limits, Program, Sandbox, probe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox's walls are Linux's")
SLACK = 0.5
ATTEMPTS = 4
"""How often a program that was ended late is run again: a machine with other work may come late to what ends it."""
QUICK = ("spin", "sleep", "take all memory bit by bit", "flood its output", "crash")
"""Hogs of the quick tier."""


@pytest.fixture(scope="module")
def words() -> Iterator[dict[str, str]]:
    """Things of the trainer that an attack might reach: a file, its environment, its sockets, itself."""
    mark = f"gruppo-attack-{os.getpid()}"
    secret = Path(f"/var/tmp/{mark}")
    secret.write_text("secret")
    secret.chmod(0o644)
    os.environ["GRUPPO_TEST_SECRET"] = "environment-secret"
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as abstract:
        tcp.bind(("127.0.0.1", 0))
        abstract.bind(f"\0{mark}")
        datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        datagrams.bind(f"\0{mark}d")
        for listener in (tcp, abstract):
            listener.listen()
        yield {
            "SECRET_FILE": str(secret), "ENV_SECRET": "environment-secret", "TRAINER": str(os.getpid()),
            "PORT": str(tcp.getsockname()[1]), "ABSTRACT": mark, "MARK": mark,
        }  # fmt: skip
        datagrams.close()
    del os.environ["GRUPPO_TEST_SECRET"]
    assert secret.read_text() == "secret"
    secret.unlink()
    left = [
        path for folder in ("/", "/tmp", "/var/tmp", "/dev/shm", "/run", ".") for path in Path(folder).glob(f"*{mark}*")
    ]
    assert left == []


@pytest.fixture(scope="module", params=["namespaces", "landlock"])
def sandbox(request: pytest.FixtureRequest, words: dict[str, str]) -> Iterator[Sandbox]:
    reason = getattr(probe(), request.param)
    if reason:
        pytest.skip(f"this machine has no {request.param}: {reason}")
    with Sandbox(level=request.param) as it:
        yield it


@pytest.mark.parametrize("name", attacks.TRIES)
def test_a_try_gets_nothing(sandbox: Sandbox, words: dict[str, str], name: str) -> None:
    assert attacks.attempt(sandbox, name, words) == []


@pytest.mark.parametrize("name", [name for name, attack in attacks.TRIES.items() if attack.bare])
def test_a_try_works_without_a_sandbox(words: dict[str, str], name: str) -> None:
    """Else it would prove nothing that it fails inside."""
    code = attacks.PRELUDE + "\npipe = None\n" + attacks.fill(attacks.TRIES[name].code, words)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert b"ESCAPED" in done.stdout, done.stderr


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are x86-64's other ways to call the kernel")
@pytest.mark.parametrize("name", attacks.DEADLY)
def test_another_architectures_calls_are_deadly(sandbox: Sandbox, name: str) -> None:
    outcome = attacks.run(sandbox, attacks.PRELUDE + attacks.DEADLY[name].code, Limits(cpu_seconds=5, wall_seconds=20))
    assert outcome.candidate.how in attacks.DEADLY[name].how, outcome
    assert b"ESCAPED" not in outcome.stdout
    assert outcome.verdict == b"honest"


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in attacks.HOGS]
)
def test_a_hog_is_ended_in_time(sandbox: Sandbox, words: dict[str, str], name: str) -> None:
    wrong, late = attacks.hog(sandbox, name, words)
    for _ in range(ATTEMPTS - 1):
        if late and not wrong:
            wrong, late = attacks.hog(sandbox, name, words)
    assert (wrong, late) == ([], ""), name


@pytest.mark.parametrize(
    ("code", "how"),
    [("import time\ntime.sleep(100)", "wall"), pytest.param("while True: pass", "cpu", marks=pytest.mark.slow)],
)
def test_a_program_without_a_judge_or_descriptors_is_ended(sandbox: Sandbox, code: str, how: str) -> None:
    program = Program(attacks.ENTRY, f"import os\nos.closerange(0, 100)\n{code}".encode())
    outcome = sandbox.run(Job(program, Limits(cpu_seconds=0.3, wall_seconds=0.5 if how == "wall" else 8)))
    assert (outcome.candidate.how, outcome.verdict, outcome.judge) == (how, None, None)


def test_a_judge_that_waits_is_ended_in_time(sandbox: Sandbox) -> None:
    """It has a quarter of a second more than its candidate, to say what it has seen; the verdict is there in time."""
    waits = Program(attacks.ENTRY, b"import time\ntime.sleep(100)")
    taken = []
    while len(taken) < ATTEMPTS and min(taken, default=9.0) >= 0.4 + SLACK:
        start = time.monotonic()
        outcome = sandbox.run(Job(waits, Limits(cpu_seconds=5, wall_seconds=0.4), judge=waits))
        taken.append(time.monotonic() - start)
        assert outcome.judge is not None
        assert (outcome.candidate.how, outcome.judge.how) == ("wall", "wall")
    assert 0.4 + 0.25 <= min(taken) < 0.4 + SLACK


def test_the_judges_payload_is_not_in_the_candidates_memory(sandbox: Sandbox) -> None:
    """All memory that can be found is written out; the candidate's own payload is in it, the judge's is not."""
    earlier = "pipe.write(b'x')\nprint('earlier-' + 'output')  # earlier-source"
    for _ in range(3):  # at the same guard, whose memory the next job's processes begin with
        assert b"earlier-output" in attacks.run(sandbox, earlier, Limits(cpu_seconds=5, wall_seconds=30)).stdout
    code = "here = 'candidates' + '-own'\n" + attacks.DUMP
    outcome = attacks.run(sandbox, code, Limits(cpu_seconds=20, wall_seconds=60, output_bytes=1 << 28))
    assert outcome.candidate.how == "ok", outcome.stderr
    assert b"candidates-own" in outcome.stdout
    assert len(outcome.stdout) > 10_000_000
    assert b"the-judges-own" not in outcome.stdout
    assert b"environment-secret" not in outcome.stdout
    assert b"earlier-" not in outcome.stdout


def test_there_are_enough_attacks() -> None:
    assert len(attacks.TRIES) + len(attacks.DEADLY) + len(attacks.HOGS) + 1 >= 90
