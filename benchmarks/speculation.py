"""Would drafts, checked exactly, make generation quicker? A replay of recorded batches with measured costs.

    python benchmarks/speculation_record.py --kk DIR    # once: the recordings
    python benchmarks/speculation.py [--measure] [--rounds 11] [--batches 4]

A row's token at a position is a function of its logits and its own random number, so a drafted token is right exactly
if it is the token that the row draws, and a replay of recorded completions tells exactly what would be accepted.

Drafts are looked up by the last four, three, two tokens, the longest that is known; of several continuations the most
frequent one is drafted, token by token. Where the sources come from:
    finished   the group's completions that have ended
    siblings   all that the group has drawn so far, the row's own too
    earlier    the same problem's completions of the epoch before (runs in which problems come again)
    last step  all completions of the step before
    all        the group, the epoch before and, where they know nothing, the last step
    oracle     always right: what no source can exceed

Rows decode in lock step, all from the start. While more rows live than the gate, a step is a decode step; below it,
every row gets as many tokens as the longest draft has (`padded`), or each its own (`ragged`, a lower bound of the cost,
interpolated). Drafts have up to 2, 4, 8 tokens, or up to 8 while each is sure enough; of these and of the gates the
best is taken, with hindsight. Costs of calls are CPU time (`speculation_cost.py`: attention with the bits of decoding);
they are kept in RUNS/costs.json and measured where that is missing (--measure: measured, and nothing else). The
prompts' prefill and the seconds of looking up are counted.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import ROOT, store
from speculation_cost import QUERIES, Bench, Costs, bench
from speculation_replay import SOURCES, Batch, Replay, batches

DRAFTS = ((2, 0.0), (4, 0.0), (8, 0.0), (8, 0.5), (8, 0.7), (8, 0.85))
"""Tokens of a draft at most, and how sure each has to be."""
GATES = (1, 2, 4, 8, 16, 32, 64, 256)
BATCH = {"demo": None, "g": 64, "b": 32}
"""Rows of a batch by shape, as many whole groups of a recorded step; None: all of them."""


class Cost:
    """Milliseconds of a call, interpolated between those measured."""

    def __init__(self, costs: Costs) -> None:
        self.rows = sorted({rows for rows, _ in costs})
        self.table = {queries: [costs[rows, queries] for rows in self.rows] for queries in QUERIES}

    def __call__(self, rows: int, queries: float) -> float:
        """Of rows with so many tokens each."""
        return float(np.interp(queries, QUERIES, [np.interp(rows, self.rows, self.table[q]) for q in QUERIES]))

    def of(self, replays: Sequence[Replay], *, ragged: bool) -> float:
        """Of all calls of some replays."""
        return sum(
            count * self(rows, total / rows if ragged else longest)
            for replay in replays
            for (rows, longest, total), count in replay.calls.items()
        )


def accepted(found: Sequence[Batch]) -> dict[str, list[float]]:
    """Tokens that a verification gives, by source and length of drafts, where every row always speculates."""
    table: dict[str, list[float]] = {}
    for source in SOURCES:
        replays = [[Replay(batch, source, most, 10**6).run() for batch in found] for most in (2, 4, 8)]
        # Rows without a draft draw one token all the same.
        tokens = sum(len(row) for batch in found for group in batch.groups for row in group)
        table[source] = [tokens / sum(_row_steps(each) for each in those) for those in replays]
    return table


def _row_steps(replay: Replay) -> int:
    return sum(rows * count for (rows, _, _), count in replay.calls.items())


def gains(found: Sequence[Batch], cost: Cost, prefill: float) -> list[dict[str, Any]]:
    """Every source with the best length of drafts and gate for it.

    Args:
        found: the batches.
        cost: of calls.
        prefill: milliseconds of a prompt.
    """
    fixed = prefill * sum(len(batch.groups) for batch in found)
    base = fixed + cost.of([Replay(batch, "oracle", 0, 0).run() for batch in found], ragged=False)
    rows: list[dict[str, Any]] = []
    for source in SOURCES:
        tried = {
            (most, sure, gate): [Replay(batch, source, most, gate, sure).run() for batch in found]
            for most, sure in DRAFTS
            for gate in GATES
            if source != "oracle" or not sure
        }
        for ragged in (False, True):
            totals = {key: fixed + cost.of(those, ragged=ragged) for key, those in tried.items()}
            best = min(totals, key=totals.__getitem__)
            looking_up = 1000 * sum(each.looking_up_s for each in tried[best])
            rows.append(
                {
                    "source": source,
                    "ragged": ragged,
                    "draft": best[0],
                    "sure": best[1],
                    "gate": best[2],
                    "decoding_alone": (base - fixed) / (totals[best] - fixed),
                    "speed_up": base / totals[best],
                    "with_looking_up": base / (totals[best] + looking_up),
                    "per_verification": _ratio(tried[best]),
                    "by_gate": " ".join(
                        f"{base / min(total for key, total in totals.items() if key[2] == gate):.2f}" for gate in GATES
                    ),
                    "base_ms": base / len(found),
                }
            )
    return rows


def _ratio(replays: Sequence[Replay]) -> float:
    return sum(each.gained for each in replays) / max(1, sum(each.checked for each in replays))


def measure(model: Path, rounds: int) -> dict[str, Any]:
    """Costs of calls and of a prompt's prefill by shape, as JSON has them; prints them."""
    kept: dict[str, Any] = {}
    print("CPU milliseconds, medians", flush=True)
    for shape in BATCH:
        made: Bench = bench(shape, str(model))
        found = made.costs(rounds)
        kept[shape] = {"prefill": made.prefill_ms, "calls": [[n, q, cost] for (n, q), cost in found.items()]}
        print(f"{shape}: prefill {made.prefill_ms:.1f} ms a prompt; a call of n rows x q tokens, ms", flush=True)
        print("   n " + "".join(f"  q = {q}   " for q in QUERIES))
        for n in sorted({rows for rows, _ in found}):
            print(f"{n:4} " + " ".join(f"{found[n, q]:9.2f}" for q in QUERIES), flush=True)
        equal = {f"{n}x{q}": made.equal_bits(n, q)[0] for n, q in ((1, 3), (2, 5), (8, 5), (5, 9))}
        print(f"     logits with the bits of decoding: {json.dumps(equal)}", flush=True)
    return kept


def said(row: dict[str, Any]) -> str:
    """A source in a line."""
    return (
        f"{row['source']:9} {'ragged' if row['ragged'] else 'padded'}: {row['speed_up']:.2f}x "
        f"({row['with_looking_up']:.2f} with looking up in Python), {row['decoding_alone']:.2f} of decoding alone, "
        f"at k = {row['draft']}, sure {row['sure']}, gate {row['gate']}, "
        f"{row['per_verification']:.2f} tokens a verification; by gate {row['by_gate']}; "
        f"without {row['base_ms']:,.0f} ms"
    )


def main() -> None:
    """Measure, replay, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "speculation")
    parser.add_argument("--measure", action="store_true", help="measure the costs anew, and nothing else")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--batches", type=int, default=4)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path = asked.runs / "costs.json"
    if asked.measure or not path.exists():
        path.write_text(json.dumps(measure(asked.runs / "sft" / "model", asked.rounds)))
    if asked.measure:
        return
    kept = json.loads(path.read_text())
    costs = {shape: Cost({(n, q): ms for n, q, ms in kept[shape]["calls"]}) for shape in kept}
    rows: list[dict[str, Any]] = []
    for run in ("demo", "again", "knights"):
        if not (asked.runs / run / "rollouts").exists():
            continue
        for shape in costs:
            found = list(batches(asked.runs / run, BATCH[shape], asked.batches))
            lengths = [len(tokens) for batch in found for group in batch.groups for tokens in group]
            print(f"{run}, batches of {len(lengths) // len(found)} rows at {shape}'s costs, ", end="")
            print(f"lengths {np.quantile(lengths, (0, 0.25, 0.5, 0.75, 1)).astype(int).tolist()}", flush=True)
            if shape == next(iter(costs)):
                for source, tokens in accepted(found).items():
                    print(f"  {source}: tokens a step of a row " + ", ".join(f"{t:.2f}" for t in tokens), flush=True)
            for row in gains(found, costs[shape], kept[shape]["prefill"]):
                rows.append({"run": run, "shape": shape, **row})
                print(f"  {said(row)}", flush=True)
    store("speculation", f"python benchmarks/speculation.py --batches {asked.batches}", rows)


if __name__ == "__main__":
    main()
