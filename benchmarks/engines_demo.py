"""The demo's task with each engine, from one SFT model per seed: held-out pass@1 before and after GRPO.

    python benchmarks/engines_demo.py [--seeds 0-2] [--steps 50] [--engines local,colocated,server] [--out runs/engines]

Run it in an environment that has vLLM (`make test-vllm` makes one). The model is the demo's, as the llama that computes
the same: vLLM takes the heads of a qwen2 model for hidden size over heads wide. Runs go on where they stopped.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from results import store

from gruppo.demo.model import as_llama
from gruppo.demo.run import WORKED, demo_config, prepare
from gruppo.launch.pipeline import RunResult, run
from gruppo.monitor.progress import SilentProgress

ENGINES: dict[str, dict[str, Any]] = {
    "local": {"engine": "local"},
    "colocated": {"engine": "vllm"},
    "server": {"engine": "vllm", "vllm_url": "launch"},
}


def start_model(seed: int, out: Path) -> Path:
    """The demo's model after SFT, as a llama."""
    folder = out / f"seed-{seed}"
    if not (folder / "start-model-llama").exists():
        prepare(seed, folder)
        as_llama(folder / "start-model", folder / "start-model-llama")
    config = demo_config(seed, folder).model_copy(
        update={"model": str(folder / "start-model-llama"), "output_dir": str(folder / "sft")}
    )
    return run(config, observer=SilentProgress(), stages=["sft"]).model


def grpo(seed: int, engine: str, steps: int, model: Path, out: Path) -> RunResult:
    """GRPO and both evaluations with an engine."""
    folder = out / f"seed-{seed}"
    place = {"model": str(model), "output_dir": str(folder / engine), "sft": None, "steps": steps}
    config = demo_config(seed, folder).model_copy(update=place | ENGINES[engine])
    return run(config, observer=SilentProgress(), label=WORKED)


def row(result: RunResult) -> dict[str, float]:
    """What the table has of a run."""
    assert result.before
    assert result.after
    parities = [step["parity_difference_max"] or 0.0 for step in result.metrics]
    sampled = [step["sampler_logprob_difference_max"] or 0.0 for step in result.metrics]
    means = [step["sampler_logprob_difference_mean"] or 0.0 for step in result.metrics]
    rewards = [step["reward_mean"] for step in result.metrics]
    return {
        "before": result.before.pass_at_1.value,
        "after": result.after.pass_at_1.value,
        "reward_first": mean(rewards[:5]),
        "reward_last": mean(rewards[-5:]),
        "probe_difference": max(parities),
        "difference": max(sampled),
        "difference_mean": max(means),
        "seconds": result.seconds["grpo"],
    }


def main() -> None:
    """Run what is missing and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-2")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--out", type=Path, default=Path("runs/engines"))
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    rows = list[dict[str, Any]]()
    for seed in range(int(first), int(last or first) + 1):
        model = start_model(seed, arguments.out)
        for engine in arguments.engines.split(","):
            found = row(grpo(seed, engine, arguments.steps, model, arguments.out))
            rows.append({"seed": seed, "engine": engine, **found})
            print(json.dumps(rows[-1]), flush=True)
    store("engines_demo", f"python benchmarks/engines_demo.py --steps {arguments.steps}", rows)


if __name__ == "__main__":
    main()
