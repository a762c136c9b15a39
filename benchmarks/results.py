"""Regenerate docs/results.md: the ten demos, and with data at hand the real word problems and the 0.5B run.

    python benchmarks/results.py [--seeds 0-9] [--jobs 1] [--words DIR] [--gsm8k train.jsonl] [--no-demo] [--render]

Each table's figures are kept in benchmarks/results/*.json with command, commit, hardware and date; the page is
rendered from whatever is there, so one table can be renewed by itself. A demo counts as failed when pass@1 rises by
less than 40 points or the intervals overlap; the exit code is then 1.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / "benchmarks" / "results"
RISE = 0.40


def main() -> int:
    """Run what was asked for, then render the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-9", help="of the demos, such as 0-9 or 0,3")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "results", help="where the runs go; they go on there"
    )
    parser.add_argument("--jobs", type=int, default=1, help="demos side by side; each uses one thread")
    parser.add_argument("--no-demo", action="store_true", help="leave the demos as they are")
    parser.add_argument("--words", metavar="DIR", help="folder of the real word problems")
    parser.add_argument("--gsm8k", metavar="FILE", help="GSM8K's train.jsonl")
    parser.add_argument("--render", action="store_true", help="only render the page")
    arguments = parser.parse_args()
    failed = False
    if not arguments.render:
        if not arguments.no_demo:
            failed = run_demos(numbers(arguments.seeds), arguments.jobs, arguments.out)
        if arguments.words:
            run_words(arguments.words, arguments.jobs, arguments.out)
        if arguments.gsm8k:
            run_first(arguments.gsm8k, arguments.out)
    render()
    return int(failed)


def run_demos(seeds: list[int], jobs: int, out: Path) -> bool:
    """The demos; True if one failed."""
    with ThreadPoolExecutor(jobs) as pool:
        rows = list(pool.map(lambda seed: demo(seed, out / f"demo-{seed}"), seeds))
    store("demo", f"python benchmarks/results.py --jobs {jobs}", rows)
    return not all(row["passed"] for row in rows)


def demo(seed: int, out: Path) -> dict:
    """One demo by its command line."""
    command = [sys.executable, "-m", "gruppo", "demo", "--seed", str(seed), "--out", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    before, after = result["before"]["pass_at_1"], result["after"]["pass_at_1"]
    result["passed"] = after["value"] - before["value"] >= RISE and after["low"] > before["high"]
    print(f"seed {seed}: {before['value']:.3f} -> {after['value']:.3f}", flush=True)
    for name in ("run_folder", "report"):
        del result[name]
    return result


def run_words(data: str, jobs: int, out: Path) -> None:
    """The real word problems, on three seeds that no setting was chosen on."""
    with ThreadPoolExecutor(jobs) as pool:
        rows = list(pool.map(lambda seed: words(data, seed, out / f"words-{seed}"), (3, 4, 5)))
    store(
        "words", f"python recipes/word_problems.py --data DIR --seed N (via benchmarks/results.py --jobs {jobs})", rows
    )


def words(data: str, seed: int, out: Path) -> dict:
    """One run of the recipe."""
    command = [sys.executable, str(ROOT / "recipes" / "word_problems.py"), "--data", data, "--seed", str(seed)]
    done = subprocess.run([*command, "--out", str(out), "--json"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_first(data: str, out: Path) -> None:
    """The 0.5B run in both precisions and with LoRA."""
    rows = []
    for extra in ([], ["--precision", "bfloat16"], ["--precision", "bfloat16", "--lora-rank", "8"]):
        command = [sys.executable, str(ROOT / "benchmarks" / "first_run.py"), "--data", data]
        done = subprocess.run(
            [*command, "--out", str(out / "first-run"), *extra], capture_output=True, text=True, check=True
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    store("first_run", "python benchmarks/first_run.py --data train.jsonl", rows)


def store(name: str, command: str, rows: list[dict], remark: str | None = None) -> None:
    """Keep a table's figures with where they come from."""
    data = {**origin(command), **({} if remark is None else {"remark": remark}), "rows": rows}
    STORE.mkdir(exist_ok=True)
    (STORE / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")


def origin(command: str) -> dict[str, str]:
    """Where figures come from."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "command": command,
        "commit": commit.stdout.strip(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, {_processor()}, no GPU",
        "date": date.today().isoformat(),
    }


def render() -> None:
    """docs/results.md from the stored figures."""
    parts = ["# Results\n\nMeasured, with the command beside each table; made by `make results`.\n"]
    for name, title, table in (
        ("demo", "The demo: arithmetic from scratch, ten seeds", demo_table),
        ("words", "Real word problems from scratch", words_table),
        ("variants", "Presets and disputed choices on the demo's task", variants_table),
        ("curriculum", "A curriculum of rising length against none, arithmetic", curriculum_table),
        ("knights", "Knights and knaves: 3 people first against 3 and 4 mixed", knights_table),
        ("logic", "Knights and knaves: the numbers of the preset `logic`, one at a time", logic_table),
        ("check_interval", "The check's interval against the first ten steps", check_interval_table),
        ("engines_demo", "The demo's task with each engine, three seeds", engines_demo_table),
        ("first_run", "0.5B parameters on GSM8K: the shape of a first run", first_table),
    ):
        path = STORE / f"{name}.json"
        if path.exists():
            data = json.loads(path.read_text())
            source = f"`{data['command']}`, commit {data['commit']}, {data['hardware']}, {data['date']}"
            remark = f" {data['remark']}" if "remark" in data else ""
            parts.append(f"## {title}\n\n{source}\n\n{table(data['rows'])}{remark}\n")
    (ROOT / "docs" / "results.md").write_text("\n".join(parts))


def demo_table(rows: list[dict]) -> str:
    """The ten runs."""
    lines = [
        "| seed | pass@1 sampled | rise, 95 % interval | greedy | pass@8 | worked out | accuracy if worked | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        old, new, rise = row["before"], row["after"], row["difference"]["pass_at_1"]
        cells = [
            str(row["seed"]),
            f"{_interval(old['pass_at_1'])} -> {_interval(new['pass_at_1'])}",
            f"{100 * rise['value']:+.1f} ({100 * rise['low']:+.1f} to {100 * rise['high']:+.1f})",
            *(f"{old[key]['value']:.3f} -> {new[key]['value']:.3f}" for key in ("pass_at_1_greedy", "pass_at_8")),
            *(f"{old[key]:.3f} -> {new[key]:.3f}" for key in ("share_worked", "accuracy_given_worked")),
            " + ".join(f"{row['seconds'][stage]:.0f}" for stage in ("sft", "grpo")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    note = "Intervals are 95 %, bootstrapped over the 200 held-out problems, 8 samples each. Seconds: SFT + GRPO."
    return "\n".join([*lines, "", note])


def words_table(rows: list[dict]) -> str:
    """Three seeds of the recipe beside the trivial baselines."""
    lines = [
        "| seed | after SFT | after GRPO | paired difference | greedy | pass@k | SFT core-minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        old, new, rise = row["before"], row["after"], row["difference"]["pass_at_1"]
        k = f"pass_at_{old['samples']}"
        cells = [
            str(row["seed"]),
            _interval(old["pass_at_1"]),
            _interval(new["pass_at_1"]),
            f"{rise['value']:+.4f} ({rise['low']:+.4f} to {rise['high']:+.4f})",
            *(f"{old[key]['value']:.3f} -> {new[key]['value']:.3f}" for key in ("pass_at_1_greedy", k)),
            f"{row['seconds']['sft'] / 60:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    trivial = ", ".join(f"{name} {value:.3f}" for name, value in rows[0]["baselines"].items())
    note = f"{rows[0]['before']['problems']} held-out real problems; sampled pass@1. Trivial baselines: {trivial}."
    return "\n".join([*lines, "", note])


def variants_table(rows: list[dict]) -> str:
    """Every variant's held-out pass@1 by seed."""
    seeds = sorted({row["seed"] for row in rows})
    before = {row["seed"]: row["before"] for row in rows}
    lines = [
        f"| variant | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | training reward | clipped share, most |",
        "|---|" + "---|" * (len(seeds) + 3),
        f"| before | {' | '.join(f'{before[seed]:.3f}' for seed in seeds)} "
        f"| {sum(before.values()) / len(before):.3f} | | |",
    ]
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = {row["seed"]: row for row in rows if row["variant"] == name}
        after = [own[seed]["after"] for seed in seeds if seed in own]
        start, end = (sum(row["reward"][i] for row in own.values()) / len(own) for i in (0, 1))
        cells = [
            name,
            *(f"{own[seed]['after']:.3f}" if seed in own else "" for seed in seeds),
            f"{sum(after) / len(after):.3f}",
            f"{start:.2f} -> {end:.2f}",
            f"{max(row['clipped_share'] for row in own.values()):.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    note = "Sampled pass@1 on 200 held-out problems. Training reward: mean of the first and of the last five steps."
    return "\n".join([*lines, "", note])


def curriculum_table(rows: list[dict]) -> str:
    """Arithmetic of rising length."""
    note = (
        "Sampled pass@1, mean +- standard deviation over the seeds; 100 held-out problems of each length, 8 samples "
        "each. Every arm: 60 steps of 32 problems x 8 from the same model of its seed."
    )
    return "\n".join([*_arms(rows, ["1 digit", "2 digits", "3 digits"]), "", note])


def knights_table(rows: list[dict]) -> str:
    """Puzzles of more and more people."""
    note = (
        "Sampled pass@1, mean +- standard deviation over the seeds of GRPO, all from one model; 100 held-out puzzles "
        "of each number of people, 4 samples each. Every arm: 16 puzzles x 8 a step."
    )
    return "\n".join([*_arms(rows, ["3 people", "4 people"]), "", note])


def logic_table(rows: list[dict]) -> str:
    """One change at a time."""
    lines = ["| arm | sampled pass@1 before -> after | gain | groups without signal |", "|---|---|---|---|"]
    for row in rows:
        (before,), (after,) = row["before"], row["after"]
        gain = f"{after - before:+.3f}"
        lines.append(f"| {row['arm']} | {before:.3f} -> {after:.3f} | {gain} | {row['no_signal_share']:.0%} |")
    note = (
        "100 held-out puzzles of 3 people, 4 samples each; 32 x 8 completions a step, the rate falling linearly to 0, "
        "seed 0 unless said."
    )
    return "\n".join([*lines, "", note])


def _arms(rows: list[dict], parts: list[str]) -> list[str]:
    """Every arm's held-out pass@1 by difficulty, and its difference to the first arm, seed by seed."""
    seeds = sorted({row["seed"] for row in rows})
    own = {(row["arm"], row["seed"]): row for row in rows}
    first, *others = dict.fromkeys(row["arm"] for row in rows)
    count = len(parts)
    lines = [
        f"| arm | {' | '.join(parts)} | all | {parts[-1]} - mixed, by seed | all - mixed, by seed | 1,000 tokens "
        "| groups without signal |",
        "|---|" + "---|" * (count + 5),
    ]
    before = [_figures(own[first, seed]["before"]) for seed in seeds]
    lines.append(f"| before | {' | '.join(_spread(f[i] for f in before) for i in range(count + 1))} | | | | |")
    mixed = [_figures(own[first, seed]["after"]) for seed in seeds]
    for name in (first, *others):
        after = [_figures(own[name, seed]["after"]) for seed in seeds]
        cells = [name, *(_spread(figures[i] for figures in after) for i in range(count + 1))]
        for i in (count - 1, count):
            gaps = [figures[i] - without[i] for figures, without in zip(after, mixed, strict=True)]
            cells.append(
                "" if name == first else f"{', '.join(f'{gap:+.3f}' for gap in gaps)} (mean {_spread(gaps, '+')})"
            )
        cells.append(f"{mean(own[name, seed]['tokens'] for seed in seeds) / 1000:.0f}")
        cells.append(f"{mean(own[name, seed]['no_signal_share'] for seed in seeds):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _figures(by_length: list[float]) -> list[float]:
    return [*by_length, sum(by_length) / len(by_length)]


def _spread(values: Iterable[float], sign: str = "") -> str:
    values = list(values)
    spread = f" +- {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):{sign}.3f}{spread}"


def check_interval_table(rows: list[dict]) -> str:
    """The share of groups with a signal, as the check said and as the run showed."""
    lines = [
        "| seed | kinds of question | group size | temperature | pass@1 | predicted | seen | inside |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            str(row["seed"]),
            ", ".join(map(str, row["levels"])),
            str(row["group_size"]),
            f"{row['temperature']:g}",
            f"{row['pass_at_1']:.3f}",
            f"{row['predicted']:.3f} [{row['low']:.2f}, {row['high']:.2f}]",
            f"{row['seen']:.3f}",
            "yes" if row["inside"] else "**no**",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    note = (
        f"{sum(row['inside'] for row in rows)} of {len(rows)} runs lie inside. Predicted: share of groups with a "
        "signal in the first ten steps of 32 problems, with its 95 % interval, from at most 64 problems; seen: that "
        "of the run at a rate of 1e-12."
    )
    return "\n".join([*lines, "", note])


def engines_demo_table(rows: list[dict]) -> str:
    """The demo's task, sampled by the local engine and by vLLM in both forms."""
    lines = [
        "| seed | engine | pass@1, held out | training reward | log-probs, probe | tokens of the run | on average |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            str(row["seed"]),
            row["engine"],
            f"{row['before']:.3f} -> {row['after']:.3f}",
            f"{row['reward_first']:.2f} -> {row['reward_last']:.2f}",
            f"{row['probe_difference']:.1e}" if row["probe_difference"] else "",
            f"{row['difference']:.1e}",
            f"{row['difference_mean']:.1e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    note = (
        "200 held-out problems, 8 samples each; training reward: mean of the first and of the last five steps. "
        "Log-probs: the largest difference, engine to trainer, nats, before any step (probe) and on the tokens that "
        "a step sampled; on average: the largest mean of a step. The model is the demo's as a llama, so its numbers "
        "are not those of the table of ten seeds; the engines draw with generators of their own."
    )
    return "\n".join([*lines, "", note])


def first_table(rows: list[dict]) -> str:
    """Memory and seconds of the first run."""
    lines = [
        "| precision | LoRA rank | threads | peak memory, GiB | seconds in all | rollout + update, seconds by step "
        "| reward by step | weights moved | trainer - sampler, largest |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        steps = row["steps"]
        cells = [
            row["precision"],
            str(row["lora_rank"] or "full"),
            str(row["threads"]),
            f"{row['peak_memory_gib']:.1f}",
            f"{row['seconds_in_all']:.0f}",
            ", ".join(f"{step['seconds_rollout']:.0f} + {step['seconds_update']:.0f}" for step in steps),
            ", ".join(f"{step['reward_mean']:.4f}" for step in steps),
            f"{row['weights_moved_share']:.1%}",
            f"{max(step['sampler_logprob_difference_max'] for step in steps):.1e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    note = (
        "Qwen2-0.5B's shape with random weights (494 million parameters, vocabulary 151,936), 2 prompts x 4 "
        "completions of 64 tokens, two steps; the reward is the share of digits."
    )
    return "\n".join([*lines, "", note])


def _interval(estimate: dict) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"


def numbers(text: str) -> list[int]:
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(part) for part in text.split(",")]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    sys.exit(main())
