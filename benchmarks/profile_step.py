"""Where the time of gruppo's step goes: the operators of generation and of the update, by their own CPU time.

    taskset -c 0 python benchmarks/profile_step.py [--shape b] [--precision float32] [--rows 12]

The second step of a run, under torch's profiler, which slows small operators: read the shares, not the seconds.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from contestants import Job, gruppo_trainer, pin
from shapes import SHAPES
from speed_page import table
from torch.profiler import ProfilerActivity, profile


def main() -> None:
    """Print a table per part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="b")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=12)
    asked = parser.parse_args()
    pin(asked.threads)
    torch.set_num_threads(asked.threads)
    shape, began, lengths = SHAPES[asked.shape], list[int](), list[int]()

    def begin() -> None:
        began.append(len(began))
        if len(began) == 3:
            raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as out:
        shape.save(Path(folder))
        job = Job(asdict(shape), asked.precision, asked.threads)
        trainer = gruppo_trainer(job, Path(folder), Path(out), begin, lengths)
        profiles: dict[str, profile] = {}
        trainer._collect = profiled(trainer._collect, "generation", profiles)
        trainer.policy.update = profiled(trainer.policy.update, "update", profiles)
        with contextlib.suppress(KeyboardInterrupt):
            trainer.run()
    print(f"{asked.shape} {asked.precision}, {sum(lengths):,} tokens generated\n")
    for part, found in profiles.items():
        print(f"{part}\n\n{operators(found, asked.rows)}")


def profiled(call: Callable[..., Any], part: str, profiles: dict[str, profile]) -> Callable[..., Any]:
    """The call under the profiler; the last one's profile is kept."""

    def run(*given: Any, **named: Any) -> Any:
        with profile(activities=[ProfilerActivity.CPU]) as found:
            result = call(*given, **named)
        profiles[part] = found
        return result

    return run


def operators(found: profile, rows: int) -> str:
    """The operators with the most time of their own."""
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    own = [(event, event.self_cpu_time_total) for event in events[:rows]]
    lines = [[event.key, f"{time / 1e6:.2f}", f"{time / total:.1%}", f"{event.count:,}"] for event, time in own]
    return table(["operator", f"seconds of {total / 1e6:.2f}", "share", "calls"], lines)


if __name__ == "__main__":
    main()
