"""Presets as data: what papers used, and what tasks want. `preset: [math, dapo]` fills what a file leaves unset.

Order: the file's and the flags' own values, then the presets, the last named over those before it, then gruppo's
defaults. The clip range is one thing: a preset that sets `epsilon` alone sets its high side too.

Where a paper is silent the preset is silent. The names are resolved once, where a `Config` is made; its resolved
file says every value, so that reading it again changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from gruppo.config.ranges import Range
from gruppo.errors import nearest

Kind = Literal["paper", "task"]


@dataclass(frozen=True, slots=True)
class Preset:
    """Values for some options, where they are from, and why they are so."""

    name: str
    kind: Kind
    source: str
    """The paper's address; for a task, whose practice it is."""
    values: Mapping[str, Any]
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])
    """By option; an option without one is as the source has it."""
    ranges: Mapping[str, Range] = field(default_factory=dict[str, Range])
    """Recommended ranges, by option."""

    def why(self, option: str) -> str:
        """The reason of a value."""
        return self.reasons.get(option, "as in the paper" if self.kind == "paper" else self.source)


_ONE_RANGE = "ratios up to {} count in full; none is below 0, so the low side never clips"

_PAPERS = (
    Preset(
        "deepseek-r1",
        "paper",
        "https://arxiv.org/abs/2501.12948, Nature: https://doi.org/10.1038/s41586-025-09422-z",
        {
            "epsilon": 10.0,
            "beta": 0.001,
            "group_size": 16,
            "temperature": 1.0,
            "learning_rate": 3e-6,
            "prompts_per_step": 32,
            "minibatches": 16,
            "max_completion_length": 32768,
            "reference_refresh_every": 400,
        },
        {
            "epsilon": _ONE_RANGE.format(11),
            "prompts_per_step": "32 questions x 16 outputs = 512 outputs an optimizer step",
            "minibatches": "8,192 outputs are drawn and split at random into 16 minibatches, each used once; with "
            "prompts_per_step 512 they have the paper's 512 outputs each",
            "max_completion_length": "65,536 in the paper from step 8,200 on",
        },
    ),
    Preset(
        "deepseekmath",
        "paper",
        "https://arxiv.org/abs/2402.03300",
        {
            "group_size": 64,
            "beta": 0.04,
            "learning_rate": 1e-6,
            "loss_aggregation": "sequences",
            "prompts_per_step": 16,
            "max_completion_length": 1024,
        },
        {
            "prompts_per_step": "a batch of 1,024 outputs, 64 a question",
            "loss_aggregation": "each output's mean over its tokens first",
        },
    ),
    Preset(
        "dr-grpo",
        "paper",
        "https://arxiv.org/abs/2503.20783",
        {"advantage_scale": "none", "loss_aggregation": "constant", "beta": 0.0},
        {
            "advantage_scale": "the std weighs questions by how easy or hard they are",
            "loss_aggregation": "a division by each output's length favours long wrong outputs",
            "beta": "a verifiable reward needs no penalty for leaving the start",
        },
    ),
    Preset(
        "dapo",
        "paper",
        "https://arxiv.org/abs/2503.14476",
        {
            "epsilon": 0.2,
            "epsilon_high": 0.28,
            "loss_aggregation": "tokens",
            "max_sampling_factor": 3.0,
            "truncated": "mask",
            "beta": 0.0,
            "group_size": 16,
            "prompts_per_step": 512,
            "minibatches": 16,
            "learning_rate": 1e-6,
            "max_completion_length": 20480,
        },
        {
            "epsilon_high": "Clip-Higher: unlikely tokens may rise further, which keeps the entropy up",
            "loss_aggregation": "every token weighs the same, also in long outputs",
            "max_sampling_factor": "dynamic sampling; the paper sets no bound, its released run draws batches of "
            "1,536 for 512",
            "truncated": "overlong filtering; the paper's soft overlong punishment is the reward `overlong`, not an "
            "option",
            "minibatches": "16 gradient updates for each batch of rollouts",
            "max_completion_length": "16,384, and 4,096 more in which the paper's punishment grows",
        },
    ),
    Preset(
        "gspo",
        "paper",
        "https://arxiv.org/abs/2507.18071",
        {
            "loss": "gspo",
            "epsilon": 3e-4,
            "epsilon_high": 4e-4,
            "loss_aggregation": "sequences",
            "minibatches": 4,
        },
        {
            "loss": "one ratio for each output, the geometric mean of its tokens'",
            "epsilon": "a mean over tokens moves far less than a token's ratio",
            "minibatches": "each batch of rollouts is split into four",
        },
    ),
    Preset(
        "cispo",
        "paper",
        "https://arxiv.org/abs/2506.13585",
        {"loss": "cispo", "epsilon": 10.0, "epsilon_high": 4.0},
        {
            "loss": "the clipped ratio is a weight, so that no token loses its gradient",
            "epsilon": "the paper sets the low side so large that it never clips, and gives no number; any of 1 "
            "or more does the same",
            "epsilon_high": "the paper tunes it and gives no number; other implementations take up to 5 times the "
            "gradient, which is 1 + 4",
        },
    ),
    Preset(
        "rloo",
        "paper",
        "https://arxiv.org/abs/2402.14740",
        {"advantage_scale": "leave_one_out", "loss": "policy_gradient"},
        {
            "advantage_scale": "the mean of the other completions is a baseline without bias",
            "loss": "REINFORCE needs no clipping where the policy moves once per batch",
        },
    ),
    Preset(
        "reinforce",
        "paper",
        "https://doi.org/10.1007/BF00992696",
        {"advantage_scale": "none", "loss": "policy_gradient"},
        {"advantage_scale": "rewards less their group's mean, the plain baseline"},
    ),
)


def _task(name: str, values: tuple[float, float, int, float, float, int], low_high: tuple[int, int] | None) -> Preset:
    """A row of the table of tasks; those with a recommended range of epsilon clip hardly, the others carefully."""
    names = ("epsilon", "beta", "group_size", "temperature", "learning_rate", "max_completion_length")
    epsilon, beta = values[:2]
    if low_high is None:
        source = "a rule of the trade, careful; not measured here"
        reasons = {"epsilon": "PPO's clip range", "beta": f"{beta:g} holds the policy near its start"}
        ranges: dict[str, Range] = {}
    else:
        source = "a rule of the trade where rewards are verifiable; not measured here"
        reasons = {
            "epsilon": _ONE_RANGE.format(f"{1 + epsilon:g}"),
            "beta": "a light penalty, since the reward can be trusted",
        }
        ranges = {"epsilon": Range(*low_high, "a wide clip range goes with a light penalty and a reward that is sure")}
    return Preset(name, "task", source, dict(zip(names, values)), reasons, ranges)


_TASKS = (
    _task("math", (12.0, 0.001, 16, 1.0, 3e-6, 2048), (10, 15)),
    _task("code", (10.0, 0.0015, 16, 1.0, 3e-6, 1024), (8, 12)),
    _task("qa", (6.0, 0.002, 8, 0.9, 2e-6, 256), (5, 8)),
    _task("format", (15.0, 0.0005, 8, 1.2, 5e-6, 512), (12, 15)),
    _task("math_reasoning", (0.2, 0.05, 16, 1.0, 1e-5, 500), None),
    _task("instruction_following", (0.2, 0.1, 8, 1.0, 5e-6, 200), None),
    Preset(
        "logic",
        "task",
        "measured on knights and knaves with a small model, but for the rate: docs/results.md, benchmarks/logic.py",
        {
            "epsilon": 0.2,
            "beta": 0.0,
            "group_size": 8,
            "temperature": 1.0,
            "learning_rate": 3e-6,
            "max_completion_length": 2048,
        },
        {
            "epsilon": "PPO's clip range; with four updates per batch 0.2 gained, and 10 lost",
            "beta": "0.001 and 0.04 ended where 0 does, and cost a reference policy",
            "group_size": "16 with half as many problems ended where 8 does",
            "temperature": "0.8 and 1.2 gained a little less",
            "learning_rate": "as for math; not measured: a small model's 5e-4 says nothing of a large one's rate",
            "max_completion_length": "worked solutions for 7 people take some 1,500 tokens at the 99th percentile",
        },
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in (*_PAPERS, *_TASKS)})
"""All of them, by name."""


def canonical(name: str) -> str | None:
    """A preset's own name, however its words are joined; None: there is no such preset."""
    plain = name.strip().lower().replace("_", "-")
    return next((own for own in PRESETS if own.replace("_", "-") == plain), None)


def unknown(name: str) -> str:
    """What to say of a name that is none."""
    return f"there is no preset '{name}', only {', '.join(PRESETS)}.{nearest(name.lower(), [*PRESETS])}"


def layer(names: Sequence[str]) -> dict[str, tuple[Any, Preset]]:
    """What presets set together, by option: the value, and the preset that has the last word. Unknown names are
    passed over."""
    merged: dict[str, tuple[Any, Preset]] = {}
    for name in names:
        own = canonical(name)
        if own is None:
            continue
        preset = PRESETS[own]
        if "epsilon" in preset.values:
            merged.pop("epsilon_high", None)
        merged |= {option: (value, preset) for option, value in preset.values.items()}
    return merged


def filled(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config with its presets' under them."""
    names = given.get("preset", ())
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, (list, tuple)):
        return dict(given)
    texts = [name for name in names if isinstance(name, str)]  # pyright: ignore[reportUnknownVariableType]
    return {**{option: value for option, (value, _) in layer(texts).items()}, **given}
