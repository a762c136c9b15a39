"""benchmarks/speed.md from the figures in benchmarks/results/, and how they are kept: by row, each with its origin."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results import STORE, origin
from shapes import SHAPES

PAGE = Path(__file__).with_name("speed.md")
Row = dict[str, Any]


def keep(name: str, row: Row, key: Sequence[str], command: str) -> None:
    """Store a row in results/NAME.json in place of the one with the same key."""
    path = STORE / f"{name}.json"
    rows: list[Row] = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = [other for other in rows if any(other[part] != row[part] for part in key)]
    rows.append({**row, **origin(command)})
    rows.sort(key=lambda row: [row[part] for part in key])
    STORE.mkdir(exist_ok=True)
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def render() -> None:
    """Write the page from whatever is stored."""
    parts = ["# Speed\n\nMeasured; every row says when, where and by which command.\n"]
    for name, section in (
        ("speed", _steps),
        ("update", _update),
        ("decode", _decode),
        ("memory", _memory),
        ("sweep", _sweep),
    ):
        path = STORE / f"{name}.json"
        if path.exists():
            parts.append(section(json.loads(path.read_text())["rows"]))
    PAGE.write_text("\n".join(parts))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def sources(rows: Sequence[Row]) -> str:
    """Where rows come from, each origin once."""
    found = dict.fromkeys(
        f"- `{row['command']}`, commit {row['commit']}, {row['hardware']}, {row['date']}, load {row['load']} before"
        for row in rows
    )
    return "\n".join(found) + "\n"


def _steps(rows: Sequence[Row]) -> str:
    shapes = dict.fromkeys(row["shape"] for row in rows)
    titles = "\n".join(f"- {shape}: {SHAPES[shape].title}." for shape in shapes)
    ends, parts, limits = [], [], []
    for row in rows:
        name = [row["shape"], row["precision"], str(row["threads"])]
        ours, theirs, ratio, limit = row["gruppo"], row["trl"], row["ratio"], row["limit"]
        ends.append(
            [
                *name,
                f"{ours['rate']:,.0f}",
                f"{theirs['rate']:,.0f}",
                _spread({**row, **ratio}, ratio["median"]),
                f"{ratio['together']:.2f}",
                f"{ratio['cpu']:.2f}",
                f"{ours['peak_mib']:,.0f} / {theirs['peak_mib']:,.0f}",
                f"{theirs['peak_mib'] / ours['peak_mib']:.2f}",
                f"{ours['rest_mib']:,.0f} / {theirs['rest_mib']:,.0f}",
            ]
        )
        parts.append(
            [
                *name,
                *(f"{ours[part]:,.2f} / {theirs[part]:,.2f}" for part in _SECONDS),
                *(f"{ours[part]:,.0f} / {theirs[part]:,.0f}" for part in ("rollout_rate", "update_rate")),
            ]
        )
        limits.append(
            [
                *name,
                *(f"{limit[part]:.0%}" for part in ("rollout", "update", "step")),
                f"{limit['gflops']:.0f}",
                f"{limit['gbytes']:.1f}",
            ]
        )
    first = ["shape", "precision", "threads"]
    return "\n".join(
        [
            "## A GRPO step against TRL\n",
            f"{titles}\n\nTokens a second are generated tokens over the whole step: rollout, reward, update. gruppo "
            "and TRL 1.16 (the quickest settings found for it on a CPU, in float32 with oneDNN's products, which TRL "
            "does not set by itself; transformers' generation) in turns, one process each; medians, and the median of "
            "the ratios by pair. `benchmarks/speed.py` says what each does.\n",
            table(
                [
                    *first,
                    "gruppo, tokens/s",
                    "TRL, tokens/s",
                    "ratio",
                    "all steps together",
                    "by CPU seconds",
                    "peak memory, MiB, gruppo / TRL",
                    "ratio",
                    "before the first step, MiB",
                ],
                ends,
            ),
            "Parts, gruppo / TRL:\n",
            table([*first, *_SECONDS.values(), "rollout, tokens/s", "update, tokens/s"], parts),
            "gruppo's share of the physical limit (measured matrix rate and bandwidth, over the work that a step "
            "cannot do without: `benchmarks/limits.py`):\n",
            table([*first, "rollout", "update", "step", "GFLOP/s", "GB/s"], limits),
            sources(rows),
        ]
    )


_SECONDS = {
    "rollout_seconds": "rollout, s",
    "reward_seconds": "reward, s",
    "update_seconds": "update, s",
    "seconds": "step, s",
}


def _update(rows: Sequence[Row]) -> str:
    columns = ["shape", "precision", "way", "CPU seconds", "times ours"]
    lines = [
        [
            row["shape"],
            row["precision"],
            row["way"],
            f"{row['seconds']:.3f}",
            "" if row["way"] == "ours" else _spread(row, row["ratio"]),
        ]
        for row in sorted(rows, key=lambda row: (row["shape"], row["precision"], row["seconds"]))
    ]
    return "\n".join(
        [
            "## One update, way by way\n",
            "One thread, random completions of which each moves the weights, all ways in turns in one process; "
            "medians. `benchmarks/update.py` says what each way and shape is.\n",
            table(columns, lines),
            sources(rows),
        ]
    )


def _memory(rows: Sequence[Row]) -> str:
    columns = ["way", "precision", "peak memory, MiB", "before the step, MiB", "times gruppo's", "CPU seconds"]
    ours = {row["precision"]: row["peak_mib"] for row in rows if row["way"] == "gruppo"}
    lines = [
        [
            row["way"],
            row["precision"],
            f"{row['peak_mib']:,.0f}",
            f"{row['rest_mib']:,.0f}",
            f"{row['peak_mib'] / ours[row['precision']]:.2f}" if row["precision"] in ours else "",
            f"{row['cpu_seconds']:.0f}",
        ]
        for row in sorted(rows, key=lambda row: (row["precision"], row["peak_mib"]))
    ]
    return "\n".join(
        [
            "## Memory at a large vocabulary\n",
            f"- c: {SHAPES['c'].title}.\n\nThe first step of each, alone in its process (`benchmarks/memory.py`); its "
            "largest resident memory.\n",
            table(columns, lines),
            sources(rows),
        ]
    )


def _decode(rows: Sequence[Row]) -> str:
    columns = ["shape", "precision", "threads", "way", "tokens/s", "the local engine's rate over it", "clock"]
    lines = [
        [
            row["shape"],
            row["precision"],
            str(row["threads"]),
            row["way"],
            f"{row['rate']:,.0f}",
            "" if row["way"] == "slots" else _spread(row, row["ratio"]),
            row["clock"],
        ]
        for row in rows
    ]
    titles = "\n".join(f"- {shape}: {SHAPES[shape].title}." for shape in dict.fromkeys(row["shape"] for row in rows))
    return "\n".join(
        [
            "## Generation with log-probs\n",
            f"{titles}\n\nslots is the local engine; all ways in turns in one run (`benchmarks/decode.py` says what "
            "each does); medians.\n",
            table(columns, lines),
            sources(rows),
        ]
    )


def _spread(row: Row, median: float) -> str:
    return f"**{median:.2f}** ({row['least']:.2f} to {row['most']:.2f}, {row['pairs']} pairs)"


def _sweep(rows: Sequence[Row]) -> str:
    columns = [
        "threads",
        "steps",
        "seconds of a step",
        "CPU seconds",
        "times the one before",
        "rollout, s",
        "update, s",
        "peak memory, MiB",
        "before the first step, MiB",
    ]
    parts = [
        "## How the cost grows\n",
        "gruppo alone, one number at a time around a base of 3.5M parameters, vocabulary 4,096, 4 prompts of 256 "
        "tokens x 8 completions of exactly 128, float32 (`benchmarks/sweep.py`). Ratios are of CPU seconds; the parts "
        "are by the clock, and so are longer where other processes had the core. Steps 0: "
        "the figure is that of the first step, which warms up, since a second one would have passed the time limit of "
        "a point. A point that is not there was not measured, or one step of it takes longer than the limit.\n",
    ]
    for axis in ("group", "prompt", "completion", "vocabulary"):
        own = [row for row in rows if row["axis"] == axis]
        if own:
            parts.append(table([axis, *columns], _growing(sorted(own, key=lambda row: (row["threads"], row["value"])))))
    long = [row for row in rows if row["axis"] == "long"]
    if long:
        parts.append(
            "2 prompts of 2,048 tokens x 16 completions of 64, each way by itself, on the days below; TRL with torch's "
            "sdpa attention (with eager attention and oneDNN's products it took 214 CPU seconds and 12,171 MiB):\n"
        )
        parts.append(table(["way", *columns[:4], "times ours", *columns[5:]], _ways(long)))
    return "\n".join([*parts, sources(rows)])


def _growing(rows: Sequence[Row]) -> list[list[str]]:
    found: list[list[str]] = []
    for before, row in zip([None, *rows], rows, strict=False):
        same = before is not None and before["threads"] == row["threads"]
        growth = row["cpu_seconds"] / before["cpu_seconds"] if before and same else None
        found.append([f"{row['value']:,}", *_costs(row, growth)])
    return found


def _ways(rows: Sequence[Row]) -> list[list[str]]:
    ours = {row["threads"]: row["cpu_seconds"] for row in rows if row["way"] == "trees, slots"}
    found: list[list[str]] = []
    for row in sorted(rows, key=lambda row: (row["threads"], row["cpu_seconds"])):
        ratio = row["cpu_seconds"] / ours[row["threads"]] if row["threads"] in ours else None
        found.append([row["way"], *_costs(row, ratio)])
    return found


def _costs(row: Row, ratio: float | None) -> list[str]:
    return [
        str(row["threads"]),
        str(row["steps"]),
        f"{row['seconds']:.2f}",
        f"{row['cpu_seconds']:.2f}",
        "" if ratio is None else f"{ratio:.2f}",
        f"{row['rollout']:.2f}",
        f"{row['update']:.2f}",
        f"{row['peak_mib']:,.0f}",
        f"{row['rest_mib']:,.0f}",
    ]
