"""The isolation once more, as an ordinary user: it must not hold only by what root may do, or fail for want of it.

Code and tests are copied to where such a user can read them; the packages beside them are shown to him if need be.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the sandbox's walls are Linux's"),
    pytest.mark.skipif(os.name == "posix" and os.geteuid() != 0, reason="this is an ordinary user: the others show it"),
]
USER = 65_534
REPOSITORY = Path(__file__).parent.parent
SCREEN = "test_rewards_reasoning_gym.py::test_past_the_screen_an_answer_can_only_read"
RERUN = [
    (["test_sandbox_life.py"], 46),
    (["test_rewards_workers.py", "test_rewards_sources.py", SCREEN], 19),
    (["test_rewards_code_attacks.py", "-m", "not slow"], 88),
]
"""What to run, and how many tests pass at the least: those of a second level are skipped where there is none."""
RUNS = "60"
TIMEOUT = 300.0
BIND = f'mount --bind "$0" packages && cd tests && exec setpriv --reuid={USER} --regid={USER} --clear-groups "$@"'
"""Shows a folder under another name, to the command that follows alone."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A copy of code and tests, readable for all, and a home folder and one for packages."""
    path = Path(tempfile.mkdtemp(prefix="gruppo-ordinary-", dir="/var/tmp"))
    for name in ("src", "tests"):
        shutil.copytree(REPOSITORY / name, path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", path)
    for each in [path, *path.rglob("*")]:
        each.chmod(0o755 if each.is_dir() else 0o644)
    (path / "packages").mkdir()
    (path / "home").mkdir()
    os.chown(path / "home", USER, USER)
    yield path
    shutil.rmtree(path)


def as_user(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Raises OSError where the user may not execute it."""
    return subprocess.run(
        command, cwd=folder, env=environment, user=USER, group=USER, extra_groups=[],
        capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip


def python_for_all(condition: str) -> str:
    """A Python that the user may execute, where the condition holds of `sys`: this one, or the system's."""
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            done = as_user([python, "-c", f"import sys; sys.exit(not ({condition}))"], Path("/"))
        except OSError:
            continue
        if done.returncode == 0:
            return python
    pytest.skip(f"an ordinary user can execute no Python with {condition} here")


def test_the_attacks_get_nothing(folder: Path) -> None:
    secret = folder / "secret"
    secret.write_text("secret")
    secret.chmod(0o644)
    command = [python_for_all("sys.version_info >= (3, 11)"), "sandbox_ordinary.py", str(folder / "src"), str(secret)]
    done = as_user(command, folder / "tests", GRUPPO_TEST_SECRET="environment-secret")
    report = json.loads(done.stdout or "{}")
    assert report["user"] == USER, done.stderr
    worked = [level for level in ("namespaces", "landlock") if not report[level]]
    assert {level: report[f"{level} wrong"] for level in worked} == {level: {} for level in worked}
    if len(worked) < 2:
        pytest.skip(f"an ordinary user has only {worked} here: {report}")


@pytest.mark.parametrize(("tests", "least"), RERUN, ids=[tests[0] for tests, _ in RERUN])
def test_these_pass(folder: Path, tests: list[str], least: int) -> None:
    python, packages = python_for_all(f"sys.version_info[:2] == {sys.version_info[:2]}"), sysconfig.get_path("purelib")
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "--basetemp=../home/tmp", *tests]
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder / "home"), "GRUPPO_SANDBOX_RUNS": RUNS,
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    if as_user(["/bin/ls", packages], folder).returncode == 0:
        done = as_user(command, folder / "tests", PYTHONPATH=f"{folder / 'src'}:{packages}", **environment)
    else:
        unshare = ["unshare", "--mount", "--propagation=private", "sh", "-c", BIND, packages, *command]
        environment["PYTHONPATH"] = f"{folder / 'src'}:{folder / 'packages'}"
        done = subprocess.run(unshare, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
        if done.stderr.startswith(("unshare:", "mount:")):
            pytest.skip(f"an ordinary user can't read {packages}, and it can't be shown to one: {done.stderr.strip()}")
    passed = re.search(r"^(\d+) passed(?:, \d+ (?:skipped|deselected))* in ", done.stdout, re.MULTILINE)
    assert passed is not None, done.stdout + done.stderr
    assert int(passed[1]) >= least
