"""How long help takes: the median of 11 runs of each command's `--help`, each in a process of its own.

Run: python benchmarks/help_time.py [RUNS]
The limit is 0.7 s; help_time.md has the results.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("", "demo", "check", "train", "init", "sft", "eval", "show", "config", "plan")


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    gruppo = Path(sys.executable).with_name("gruppo")
    print(f"{'command':<24}{'median s':>9}{'slowest s':>11}")
    for name in COMMANDS:
        arguments = [name, "--help"] if name else ["--help"]
        times = [seconds([str(gruppo), *arguments]) for _ in range(runs)]
        print(f"{' '.join(['gruppo', *arguments]):<24}{statistics.median(times):>9.2f}{max(times):>11.2f}")


if __name__ == "__main__":
    main()
