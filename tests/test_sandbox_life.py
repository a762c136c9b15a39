"""The sandbox's life: what it leaves behind, what it survives, who dies with whom, and what a program sees in it."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gruppo.errors import SandboxError
from gruppo.rewards.sandbox import Exit, Job, Level, Limits, Outcome, Probe, Program, Sandbox, frames, probe, seccomp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox's walls are Linux's")
ENTRY = "gruppo.rewards.sandbox.bare:run_source"
RUNS = int(os.environ.get("GRUPPO_SANDBOX_RUNS", "300"))
"""How many runs must leave nothing behind; `make results` asks for 10,000."""


@pytest.fixture(scope="module", params=["best", pytest.param("landlock", marks=pytest.mark.slow)])
def level(request: pytest.FixtureRequest) -> Level:
    found = probe()
    if request.param == "best" and found.best != "unsafe":
        return found.best
    if found.landlock or found.best == "landlock":
        pytest.skip(f"this machine has no level, or no second one: {found}")
    return "landlock"


@pytest.fixture(scope="module")
def shared(level: Level) -> Iterator[Sandbox]:
    with Sandbox(level=level) as it:
        yield it


@pytest.fixture
def sandbox(level: Level) -> Iterator[Sandbox]:
    with Sandbox(level=level) as it:
        yield it


def run(
    sandbox: Sandbox, code: str, judge: str | None = None, stdin: bytes = b"", limits: Limits | None = None
) -> Outcome:
    return sandbox.run(
        Job(
            Program(ENTRY, code.encode()),
            limits or Limits(cpu_seconds=5, wall_seconds=30),
            judge=None if judge is None else Program(ENTRY, judge.encode()),
            stdin=stdin,
        )
    )


def session(leader: int) -> list[int]:
    """The processes of a session: a zygote leads one, and all that it forks are in it."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rsplit(")", 1)[1].split()[3]) == leader:
                found.append(int(entry.name))
        except (OSError, IndexError):
            continue
    return found


def rests(zygote: int, most: int = 4, seconds: float = 20) -> bool:
    """Whether there come to be but the zygote and at most so many idle guards, which hold nothing of a job."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            others = [pid for pid in session(zygote) if pid != zygote]
            parents = {Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1] for pid in others}
            held = {len(os.listdir(f"/proc/{pid}/fd")) for pid in others if os.access(f"/proc/{pid}/fd", os.R_OK)}
            if len(others) <= most and parents <= {str(zygote)} and len(held) <= 1:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)


def becomes(wanted: list[int], leader: int, seconds: float = 20) -> bool:
    """Whether a session comes to hold just these processes."""
    deadline = time.monotonic() + seconds
    while sorted(session(leader)) != sorted(wanted):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def zygote_of(sandbox: Sandbox) -> int:
    return sandbox._zygote._process.pid


def test_candidate_and_judge_talk(shared: Sandbox) -> None:
    judge = "pipe.write(b'abc')\npipe.give_verdict(pipe.read_exactly(6))\npipe.give_verdict(b'!')"
    outcome = run(shared, "pipe.write(pipe.read_exactly(3) * 2)", judge)
    assert outcome.verdict == b"abcabc!"
    assert outcome.judge is not None
    assert outcome.judge.how == "ok"


def test_standard_streams(shared: Sandbox) -> None:
    outcome = run(
        shared, "import sys\nprint(sum(map(int, sys.stdin)))\nprint('é', file=sys.stderr)", stdin=b"1\n" * 50_000
    )
    assert outcome.stdout == b"50000\n"
    assert outcome.stderr == "é\n".encode()
    assert outcome.candidate.code == 0


@pytest.mark.parametrize(
    ("code", "stdout"),
    [
        ("print(open(0).read())", b"a b\n\n"),
        ("import os\nprint(os.read(0, max(os.fstat(0).st_size, 9)))", b"b'a b\\n'\n"),
        ("import sys\nprint(sys.stdin.buffer.readline())", b"b'a b\\n'\n"),
        ("print(input().split())", b"['a', 'b']\n"),
        ("import atexit\natexit.register(print, 'last')\nprint('first')", b"first\nlast\n"),
        ("print('x')\nexit()", b"x\n"),
        ("import os\nprint(os.path.exists('/etc/passwd'), os.environ.get('HOME'), os.getcwd())", b"False None /\n"),
        ("try: open('input.txt')\nexcept FileNotFoundError as e: print(e)",
         b"[Errno 2] No such file or directory: 'input.txt'\n"),
        ("import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return n and 1 + f(n - 1)\nprint(f(50_000))", b"50000\n"),
        ("import random\nprint(random.random())", b"0.8444218515250481\n"),
        ("import email.message, http.client, xml.dom.minidom, difflib, sched\nprint(sched.__name__)", b"sched\n"),
        ("import signal, time\nsignal.signal(14, lambda *_: print('late'))\nsignal.setitimer(0, 0.1)\ntime.sleep(0.2)",
         b"late\n"),
        ("import sys, threading\nthreading.stack_size(1 << 26)\nsys.setrecursionlimit(10**6)\ndef main(): print(1)\n"
         "t = threading.Thread(target=main)\nt.start()\nt.join()\nprint(t.is_alive())", b"1\nFalse\n"),
        ("import threading\nthreading.Thread(target=lambda: 1 / 0).start()\nprint(2)", b"2\n"),
        ("print('a'.encode('utf-16'), bytes('é', 'cp1252'))", b"b'\\xff\\xfea\\x00' b'\\xe9'\n"),
    ],
)  # fmt: skip
def test_a_program_finds_what_it_would_in_a_bare_interpreter(shared: Sandbox, code: str, stdout: bytes) -> None:
    outcome = run(shared, code, stdin=b"a b\n")
    assert outcome.stdout == stdout, outcome.stderr


@pytest.mark.parametrize(
    ("code", "how", "exit_code", "number"),
    [
        ("", "ok", 0, None),
        ("1 / 0", "error", 1, None),
        ("import sys\nsys.exit(7)", "error", 7, None),
        ("import os\nos._exit(3)", "error", 3, None),
        ("x = bytearray(1 << 40)", "memory", 86, None),
        ("import ctypes\nctypes.string_at(1)", "signal", None, signal.SIGSEGV),
    ],
)
def test_how_a_program_ended(shared: Sandbox, code: str, how: str, exit_code: int | None, number: int | None) -> None:
    exit = run(shared, code).candidate
    assert (exit.how, exit.code, exit.signal) == (how, exit_code, number)


def test_output_is_cut_and_the_end_of_errors_kept(shared: Sandbox) -> None:
    limits = Limits(cpu_seconds=5, wall_seconds=30, output_bytes=1000)
    outcome = run(
        shared,
        "import sys, time\nsys.stderr.write('a' * 5000 + 'b' * 1999 + '\\n')\ntime.sleep(0.2)\nprint('x' * 5000)",
        limits=limits,
    )
    assert outcome.stdout == b"x" * 1000
    assert outcome.stdout_truncated
    assert outcome.stderr == b"a" * 2096 + b"b" * 1999 + b"\n"


def test_what_a_judge_wrote_before_its_time_was_over_stays(shared: Sandbox) -> None:
    limits = Limits(cpu_seconds=5, wall_seconds=0.5)
    outcome = run(shared, "pipe.read()", "pipe.give_verdict(b'1')\nimport time\ntime.sleep(60)", limits=limits)
    assert outcome.verdict == b"1"
    assert outcome.judge is not None
    assert (outcome.candidate.how, outcome.judge.how) == ("wall", "wall")
    assert outcome.wall_seconds < 0.5 + 0.25 + 2.5


def test_a_judge_hears_of_its_candidates_end(shared: Sandbox) -> None:
    limits = Limits(cpu_seconds=0.3, wall_seconds=30)
    judge = "pipe.read()\npipe.give_verdict(b'it ended')"
    outcome = run(shared, "while True: pass", judge, limits=limits)
    assert (outcome.verdict, outcome.candidate.how) == (b"it ended", "cpu")


def test_a_programs_input_ends_even_where_the_trainer_forks_meanwhile(shared: Sandbox) -> None:
    """A forked process has copies of the trainer's ends of the pipes, and keeps them."""
    with ThreadPoolExecutor(1) as pool:
        code = "import sys, time\ntime.sleep(0.3)\nprint(len(sys.stdin.read()))"
        job = pool.submit(run, shared, code, stdin=b"x" * 200_000)
        time.sleep(0.1)
        pid = os.fork()
        if pid == 0:
            time.sleep(30)
            os._exit(0)
        try:
            assert job.result(timeout=20).stdout == b"200000\n"
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_a_word_that_comes_too_late_is_passed_over() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        frames.send(ours, b"c")
        frames.send_request(ours, Job(Program("a:b", b""), Limits(1, 2, 3)), [0])
        request, ends = frames.receive_request(theirs)
        os.close(*ends)
        assert request == (1.0, 2.0, 3, "a:b", "")
        exits = (Exit("cpu", None, 9, 1.5), Exit("error", 1, None, 0.25))
        frames.send_report(ours, frames.Report(0.5, True, exits))
        assert frames.read_report(frames.receive(theirs)) == (0.5, True, exits)


def test_a_guard_does_many_jobs_and_makes_room_for_another(shared: Sandbox) -> None:
    zygote, guards = zygote_of(shared), set()
    for _ in range(66):
        assert run(shared, "print(1)").stdout == b"1\n"
        guards |= {pid for pid in session(zygote) if pid != zygote}
    assert 2 <= len(guards) <= 3
    assert len(shared._zygote.idle) == 1


def test_a_judge_is_jailed_too(shared: Sandbox) -> None:
    judge = """
import os, socket
for attempt in (os.fork, lambda: os.listdir("/"), socket.socket, lambda: os.kill(-1, 9)):
    try: attempt(); pipe.give_verdict(b"escaped")
    except OSError: pipe.give_verdict(b".")
"""
    assert run(shared, "", judge).verdict == b"...."


def test_what_the_kernel_says_of_a_jailed_process(sandbox: Sandbox) -> None:
    zygote = zygote_of(sandbox)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(run, sandbox, "pipe.read()", "import time\ntime.sleep(1)")
        processes: list[str] = []
        while not job.done() and sum("Seccomp:\t2" in text for text in processes) < 2:
            with contextlib.suppress(OSError):
                processes = [Path(f"/proc/{pid}/status").read_text() for pid in session(zygote)]
        job.result(timeout=60)
    jailed = [dict(line.split(":\t", 1) for line in text.splitlines()) for text in processes if "Seccomp:\t2" in text]
    assert len(jailed) == 2
    for status in jailed:
        assert status["NoNewPrivs"] == "1"
        assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
        assert ("0" in status["Uid"].split()) is False
        assert len(status["NSpid"].split()) == (2 if sandbox.level == "namespaces" else 1)


def test_two_zygotes_hash_alike(level: Level) -> None:
    hashes = set()
    for _ in range(2):
        with Sandbox(level=level) as sandbox:
            hashes.add(run(sandbox, "print(hash('a'), list({'x', 'y', 'z', 'w'}))").stdout)
    assert len(hashes) == 1
    assert hashes != {b""}


def test_many_threads_at_once(shared: Sandbox) -> None:
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(lambda n: run(shared, f"print({n} ** 2)").stdout, range(40)))
    assert outcomes == [f"{n**2}\n".encode() for n in range(40)]


@pytest.mark.slow
def test_runs_leave_nothing_behind(sandbox: Sandbox) -> None:
    """Processes but for idle guards, descriptors of the trainer, the zygote and the guards, temporary files."""
    zygote = zygote_of(sandbox)
    run(sandbox, "")
    assert rests(zygote)
    folders = [Path(name) for name in ("/", "/tmp", "/var/tmp", "/dev/shm", ".")]

    def traces() -> tuple[int, int]:
        theirs = len(os.listdir(f"/proc/{zygote}/fd")) if os.access(f"/proc/{zygote}/fd", os.R_OK) else 0
        return len(os.listdir("/proc/self/fd")), theirs

    programs = [
        "print('x')",
        "1 / 0",
        "import os\nos.abort()",
        "pipe.write(b'x' * 9)",
        "import os\nos.closerange(0, 9)",
    ]
    judge = "pipe.read()\npipe.give_verdict(b'x')"
    before, files = traces(), [set(os.listdir(folder)) for folder in folders]
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda n: run(sandbox, programs[n % 5], judge).verdict, range(RUNS)))
    assert outcomes == [b"x"] * RUNS
    assert rests(zygote)
    ours, theirs = traces()
    guards = len(sandbox._zygote.idle)
    assert (ours - before[0], theirs) == (guards - 1, before[1])  # a socket for each guard beyond the first
    assert 1 <= guards <= 4
    new = {name for folder, old in zip(folders, files) for name in set(os.listdir(folder)) - old}
    assert [name for name in new if "gruppo" in name] == []
    assert zygote_of(sandbox) == zygote


def test_the_zygote_killed_in_the_middle_costs_nothing_but_time(sandbox: Sandbox) -> None:
    first = zygote_of(sandbox)
    code = "import time\ntime.sleep(0.4)\nprint({})"
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(run, sandbox, code.format(n)) for n in range(8)]
        time.sleep(0.3)
        os.kill(first, signal.SIGKILL)
        assert [job.result(timeout=60).stdout for job in jobs] == [f"{n}\n".encode() for n in range(8)]
    assert becomes([], first)
    assert zygote_of(sandbox) != first
    assert rests(zygote_of(sandbox))


@pytest.mark.slow
def test_a_guard_killed_in_the_middle_costs_nothing_but_time(sandbox: Sandbox) -> None:
    zygote = zygote_of(sandbox)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(run, sandbox, "import time\ntime.sleep(1)\nprint(5)")
        time.sleep(0.4)
        (guard,) = [pid for pid in session(zygote) if Path(f"/proc/{pid}/stat").read_text().split()[3] == str(zygote)]
        os.kill(guard, signal.SIGKILL)
        assert job.result(timeout=60).stdout == b"5\n"
    assert rests(zygote)


@pytest.mark.parametrize(
    "end",
    ["os.kill(os.getpid(), 9)", *(pytest.param(end, marks=pytest.mark.slow) for end in ("os._exit(0)", "sys.exit(0)"))],
)
def test_everything_ends_with_the_trainer(level: Level, end: str) -> None:
    code = f"""
import os, sys, threading, time
from gruppo.rewards.sandbox import *
sandbox = Sandbox(level={level!r})
job = Job(Program({ENTRY!r}, b"import time; time.sleep(1000)"), Limits(cpu_seconds=1000, wall_seconds=1000))
threading.Thread(target=sandbox.run, args=(job,), daemon=True).start()
time.sleep(0.5)
print(sandbox._zygote._process.pid, flush=True)
{end}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert becomes([], int(done.stdout))


def test_a_zygote_outlives_the_thread_that_started_it(level: Level) -> None:
    made: list[Sandbox] = []
    thread = threading.Thread(target=lambda: made.append(Sandbox(level=level)))
    thread.start()
    thread.join()
    with made[0] as sandbox:
        first = zygote_of(sandbox)
        time.sleep(0.3)
        assert run(sandbox, "print(1)").stdout == b"1\n"
        assert zygote_of(sandbox) == first


def test_a_fork_of_the_trainer_has_a_zygote_of_its_own(shared: Sandbox) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            stdout = run(shared, "print(2)").stdout
            os.write(writer, stdout if zygote_of(shared) != 0 else b"")
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.read(reader, 100) == b"2\n"
    os.close(reader)
    os.close(writer)
    assert run(shared, "print(3)").stdout == b"3\n"


def test_closing_ends_all(level: Level) -> None:
    sandbox = Sandbox(level=level)
    zygote = zygote_of(sandbox)
    sandbox.close()
    assert becomes([], zygote)
    with pytest.raises(SandboxError, match="has been closed"):
        run(sandbox, "")


def test_unsafe_is_said_aloud() -> None:
    with pytest.raises(SandboxError, match="say Sandbox\\(unsafe=True\\)"):
        Sandbox(level="unsafe")
    with Sandbox(unsafe=True, level="unsafe") as sandbox:
        assert sandbox.level == "unsafe"
        assert run(sandbox, "print(1)").stdout == b"1\n"


def test_without_isolation_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is made to refuse by a Python that can't be had: no level can be built with it."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(
        SandboxError, match=r"can't be run in isolation on this machine \(namespaces: .*; landlock: .*Cure"
    ):
        Sandbox()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make itself a poorer root")
@pytest.mark.parametrize(
    ("poorer", "level"),
    [
        ("setpriv --bounding-set=-all --inh-caps=-all", "landlock"),
        ('unshare -Urm sh -c \'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" "$@"\'', "namespaces"),
    ],
    ids=["root without capabilities", "root where user namespaces are refused"],
)
def test_what_is_chosen_where_less_is_granted(poorer: str, level: str) -> None:
    if shutil.which("setpriv") is None or shutil.which("unshare") is None or probe() != Probe("", ""):
        pytest.skip("this machine has no setpriv or unshare, or not both levels to begin with")
    code = f"""
from gruppo.rewards.sandbox import *
with Sandbox() as sandbox:
    job = Job(Program({ENTRY!r}, b"import os; print(len(os.listdir('/')))"), Limits(cpu_seconds=9, wall_seconds=60))
    print(sandbox.level, sandbox.run(job).candidate.how)
"""
    command = f"{poorer} {sys.executable} -c"
    done = subprocess.run([*shlex.split(command), code], capture_output=True, text=True, timeout=120)
    assert done.stdout == f"{level} error\n", done.stderr


def test_a_probe_in_words() -> None:
    assert str(Probe(namespaces="", landlock="old kernel")) == "namespaces (landlock: old kernel)"
    assert (
        str(Probe(namespaces="refused", landlock="old kernel")) == "unsafe (namespaces: refused; landlock: old kernel)"
    )
    assert Probe(namespaces="refused", landlock="").best == "landlock"


def test_the_filter_of_each_architecture() -> None:
    sizes = {name: [len(seccomp.filter_program(name, reads)) // 8 for reads in (False, True)] for name in SIZES}
    assert sizes == SIZES
    with pytest.raises(OSError, match="no table of system calls for riscv64"):
        seccomp.filter_program("riscv64")


SIZES = {"x86_64": [244, 252], "aarch64": [204, 208]}
"""Instructions, for the jailed and for those that may read files."""
