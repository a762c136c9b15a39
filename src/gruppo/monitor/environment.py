"""Where and with what a run was made, found without importing any of it."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "gruppo", "torch", "transformers", "accelerate", "peft", "safetensors", "tokenizers", "numpy", "pyarrow",
    "pydantic", "datasets", "math-verify",
)  # fmt: skip


def now() -> str:
    """The time in UTC to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Installed versions by package name; a package that is absent is left out."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe(command: list[str] | None = None) -> dict[str, Any]:
    """The content of environment.json: versions, python, machine, git commit, command line, start time."""
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": _cores(),
        "memory_bytes": _memory(),
        "gpus": _gpus(),
        "git_commit": _git_commit(),
        "command": sys.argv if command is None else command,
        "started": now(),
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def available_memory() -> int | None:
    """Bytes of the host's memory that programs may still take, within the container's limit; None where nobody says."""
    found = [bytes_left for bytes_left in (_available_by_kernel(), _available_by_group()) if bytes_left is not None]
    return min(found, default=None)


def _available_by_kernel() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _available_by_group(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the control group of a container leaves (version 2), cached files counted as free: the kernel drops them."""
    try:
        limit, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        if limit == "max":
            return None
        cached = [line.split()[1] for line in (folder / "memory.stat").read_text().splitlines() if line[:5] == "file "]
        return max(0, int(limit) - int(used) + sum(map(int, cached)))
    except (OSError, ValueError, IndexError):
        return None


def _gpus() -> list[str]:
    """Names of NVIDIA GPUs, from the driver's files."""
    names: list[str] = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        names += [line.split(":", 1)[1].strip() for line in lines if line.startswith("Model:")]
    return names


def _git_commit() -> str | None:
    """The commit checked out in the working directory, or None."""
    try:
        result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
