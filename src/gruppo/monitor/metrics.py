"""The metrics of a step: name, unit, meaning, healthy range. One table; docs/metrics.md is made from it.

`python -m gruppo.monitor.metrics docs/metrics.md` renews the tables in that page.
"""

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gruppo.monitor.text import number


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of metrics.jsonl."""

    name: str
    """As it stands in the file; `reward/<name>` stands for one column per reward of the rubric."""
    unit: str
    """Unit of the value; 1 for a pure number."""
    meaning: str
    """One sentence."""
    low: float | None = None
    """Below this a run is seldom well; None: no such bound."""
    high: float | None = None
    """Above this a run is seldom well; None: no such bound."""

    def healthy(self, value: float | None) -> bool:
        """Whether a value is finite and inside the range; an absent value (None) is no worry."""
        if value is None:
            return True
        above = self.low is None or value >= self.low
        return math.isfinite(value) and above and (self.high is None or value <= self.high)

    @property
    def healthy_range(self) -> str:
        """The range in words: `0.02 to 0.8`, `at most 0.5`, or an empty text."""
        if self.low is not None and self.high is not None:
            return f"{number(self.low)} to {number(self.high)}"
        if self.high is not None:
            return f"at most {number(self.high)}"
        return "" if self.low is None else f"at least {number(self.low)}"


REWARD_PREFIX = "reward/"

GRPO_METRICS: tuple[Metric, ...] = (
    Metric("step", "steps", "The optimizer step, counted from 1."),
    Metric("reward_mean", "reward", "Mean reward of the step's completions (weighted sum, times reward_scale)."),
    Metric("reward_std", "reward", "Standard deviation of the reward over the step's completions.", low=1e-6),
    Metric("reward/<name>", "reward", "Mean of one reward of the rubric, unweighted, where it applies."),
    Metric("reward_errors", "completions", "Those of the step on which a reward hung, died, raised or gave no number."),
    Metric("no_signal_share", "share", "Groups whose rewards are all equal; they teach nothing.", high=0.8),
    Metric(
        "pass_at_1",
        "share",
        "Share of completions that pass, averaged over the step's problems.",
        low=0.02,
        high=0.98,
    ),
    Metric(
        "advantage_variance",
        "1",
        "Variance of the advantages; 1 when every group has signal.",
        low=0.1,
        high=1.1,
    ),
    Metric(
        "kl_to_reference",
        "nats/token",
        "KL to the reference policy by the `kl_estimator`, mean per token; null at beta 0.",
        high=0.5,
    ),
    Metric("policy_ratio_mean", "1", "Mean ratio of new to old policy over the tokens.", low=0.9, high=1.1),
    Metric("clipped_share", "share", "Tokens whose policy ratio the clip range cut off.", high=0.2),
    Metric("entropy", "nats/token", "Mean entropy of the policy where it sampled.", low=0.01),
    Metric("completion_length_mean", "tokens", "Mean length of the completions, stop token included."),
    Metric("completion_length_max", "tokens", "The longest completion."),
    Metric("truncated_share", "share", "Completions that max_completion_length cut off.", high=0.5),
    Metric("grad_norm", "1", "L2 norm of the gradient before clipping; null when no update was made.", high=100.0),
    Metric("learning_rate", "1", "Rate of the optimizer in this step."),
    Metric("loss", "1", "What an optimizer step minimised, KL term included; its size says little, near 0 is normal."),
    Metric(
        "sampler_logprob_difference_max",
        "nats",
        "Largest |trainer - sampler| of a token's log-prob before the update; 0.01 is the limit in float32.",
        high=0.05,
    ),
    Metric(
        "sampler_logprob_difference_mean",
        "nats",
        "Mean |trainer - sampler| of a token's log-prob before the update.",
        high=0.02,
    ),
    Metric(
        "sampler_kl",
        "nats/token",
        "KL of the sampler from the trainer's policy by k3, over the tokens that were sampled.",
        high=0.01,
    ),
    Metric(
        "parity_difference_max",
        "nats",
        "Largest |trainer - engine| of a log-prob on the probe after the update; null where the engine has the "
        "trainer's own weights. The run ends above 2e-4 in float32, 0.5 in bfloat16, without a sampler_correction.",
        high=0.5,
    ),
    Metric(
        "importance_weight_mean",
        "1",
        "Mean weight of `sampler_correction`; 1 where engine and trainer agree, null without a correction.",
        low=0.8,
        high=1.2,
    ),
    Metric("demonstrations_loss", "nats/token", "Negative log-likelihood of the SFT term's demonstrations."),
    Metric("temperature", "1", "Temperature of the rollouts in this step."),
    Metric("beta", "1", "Weight of the KL penalty in this step."),
    Metric("span", "1", "Which span of the curriculum the step is in, counted from 1; null outside of all."),
    Metric("tokens_per_second", "tokens/s", "Generated tokens over the seconds of the whole step."),
    Metric("generated_tokens", "tokens", "Tokens the policy sampled in the step."),
    Metric("seconds_rollout", "s", "Time in the engine."),
    Metric("seconds_reward", "s", "Time in the rewards, beyond what ran beside the engine."),
    Metric("seconds_update", "s", "Time in the policy update."),
    Metric("seconds_step", "s", "Time of the whole step."),
    Metric("optimizer_step", "0 or 1", "Whether the weights were updated; 0 when no group had signal."),
    Metric(
        "skipped_optimizer_steps",
        "steps",
        "Optimizer steps left out because loss or gradient was not finite.",
        high=0.0,
    ),
    Metric("policy_version", "1", "Version of the policy that sampled (updates published to the engine)."),
    Metric("epoch", "epochs", "Passes over the problems so far."),
    Metric("sampled_groups", "groups", "Groups sampled in the step, those that were replaced included."),
    Metric("pool_easy", "problems", "Problems in training whose rolling pass rate is 0.8 or more."),
    Metric("pool_normal", "problems", "Problems in training between the two, or without a group yet."),
    Metric("pool_hard", "problems", "Problems in training whose rolling pass rate is 0.2 or less."),
    Metric("problems_dropped", "problems", "Problems left out by `drop_after`; null without it."),
)

SFT_METRICS: tuple[Metric, ...] = (
    Metric("step", "steps", "The optimizer step, counted from 1."),
    Metric(
        "loss",
        "nats/token",
        "Mean negative log-likelihood of the demonstrated completions' tokens.",
        high=20.0,
    ),
    Metric("grad_norm", "1", "L2 norm of the gradient before clipping.", high=100.0),
    Metric("learning_rate", "1", "Rate of the optimizer in this step."),
    Metric("tokens_per_second", "tokens/s", "Tokens of prompts and completions over the seconds of the step."),
    Metric("tokens", "tokens", "Tokens of prompts and completions in the step."),
    Metric("optimizer_step", "0 or 1", "Whether the weights were updated."),
    Metric("epoch", "epochs", "Passes over the demonstrations so far."),
)

TABLES: dict[str, tuple[Metric, ...]] = {"grpo": GRPO_METRICS, "sft": SFT_METRICS}
"""The table of each stage that has metrics."""


def find(name: str, table: Iterable[Metric] = GRPO_METRICS) -> Metric | None:
    """The row for a column of metrics.jsonl (`reward/math` is `reward/<name>`), or None."""
    wanted = "reward/<name>" if name.startswith(REWARD_PREFIX) else name
    return next((metric for metric in table if metric.name == wanted), None)


def render_table(table: Iterable[Metric]) -> str:
    """A table of metrics as Markdown."""
    rows = ["| name | unit | meaning | healthy |", "|---|---|---|---|"]
    rows += [f"| `{m.name}` | {m.unit} | {_cell(m.meaning)} | {m.healthy_range} |" for m in table]
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def render_page(page: str) -> str:
    """docs/metrics.md with the tables between its markers renewed. Raises ValueError without a marker."""
    for name, table in (("grpo", GRPO_METRICS), ("sft", SFT_METRICS)):
        start, end = f"<!-- {name} table -->", f"<!-- end of {name} table -->"
        if start not in page or end not in page:
            raise ValueError(f"the page lacks the marker {start} or {end}")
        head, rest = page.split(start, 1)
        page = f"{head}{start}\n{render_table(table)}\n{end}{rest.split(end, 1)[1]}"
    return page


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(render_page(target.read_text()))
