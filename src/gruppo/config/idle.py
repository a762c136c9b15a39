"""Fields that do nothing where they stand, or another thing than meant: a table, each row with its cure.

A row of `WARNINGS` is told at the start of a run, and only of what the user has set: what a preset brings along is the
preset's business.
"""

import math
from typing import TYPE_CHECKING

from gruppo.config.checks import Check, own
from gruppo.config.complaints import Conflict
from gruppo.config.presets import PRESETS

if TYPE_CHECKING:
    from gruppo.config.schema import Config


def _has_task_range(config: "Config", name: str) -> bool:
    """Whether a preset recommends a range of its own, which advice.py then speaks of."""
    return any(name in PRESETS[preset].ranges for preset in config.preset)


def _once(config: "Config") -> bool:
    """Whether each batch gives one optimizer step, at which every policy ratio is 1."""
    return config.optimizer_steps_per_batch == 1


_NOTHING_TO_CLIP = (
    "no effect: with one optimizer step per batch every policy ratio is 1; raise updates_per_batch or minibatches, or "
    "leave it out"
)
_BIASED = (
    "draws from another distribution than the one that is trained, and policy ratios and importance weights are biased "
    "by it; {} leaves it off"
)
_NO_PENALTY = "no effect: beta is 0 at every step; set beta above 0, or leave it out"

WARNINGS: tuple[Check, ...] = (
    Check(("epsilon",), lambda c: own(c, "epsilon") and _once(c), _NOTHING_TO_CLIP),
    Check(("epsilon_high",), lambda c: own(c, "epsilon_high") and _once(c), _NOTHING_TO_CLIP),
    Check(("dual_clip",), lambda c: own(c, "dual_clip") and _once(c), _NOTHING_TO_CLIP),
    Check(
        ("curriculum",),
        lambda c: any(span.epsilon or span.epsilon_high for span in c.curriculum) and _once(c),
        f"its epsilon has {_NOTHING_TO_CLIP}",
    ),
    Check(
        ("epsilon",),
        lambda c: (
            own(c, "epsilon")
            and c.epsilon > 1
            and c.loss in ("clip", "gspo")
            and not (_once(c) or _has_task_range(c, "epsilon"))
        ),
        "above 1 the low side never clips, for no ratio is below 0; 0.2 is PPO's, 10 DeepSeek-R1's",
    ),
    Check(
        ("epsilon", "loss"),
        lambda c: c.loss == "gspo" and c.clip_high > 0.01 and not _once(c),
        "a whole completion's ratio, a mean over its tokens, hardly moves so far; the paper's are 3e-4 and, for "
        "epsilon_high, 4e-4",
    ),
    Check(
        ("loss_aggregation", "loss"),
        lambda c: c.loss == "gspo" and c.loss_aggregation != "sequences",
        "weighs long completions more, while GSPO's ratio is one per completion; take sequences",
    ),
    Check(
        ("top_p",),
        lambda c: c.top_p < 1 and not (_once(c) and c.sampler_correction == "none"),
        f"below 1 {_BIASED.format(1)}",
    ),
    Check(
        ("top_k",),
        lambda c: c.top_k > 0 and not (_once(c) and c.sampler_correction == "none"),
        f"above 0 {_BIASED.format(0)}",
    ),
    Check(
        ("kl_estimator",),
        lambda c: c.kl_estimator == "k1" and c.kl_in == "loss" and c.wants_reference,
        "in the loss its gradient is zero on average, so it holds nothing; take k3, k2 or exact, or kl_in reward",
    ),
    Check(("kl_estimator",), lambda c: own(c, "kl_estimator") and not c.wants_reference, _NO_PENALTY),
    Check(
        ("reward_scale",),
        lambda c: (
            own(c, "reward_scale")
            and c.advantage_scale in ("std", "batch")
            and not (c.kl_in == "reward" and c.wants_reference)
        ),
        "no effect: advantages are divided by the rewards' std, which scales with them; leave it out",
    ),
    Check(
        ("advantage_clip",),
        lambda c: (
            own(c, "advantage_clip")
            and c.advantage_clip is not None
            and c.advantage_scale == "std"
            and c.advantage_clip >= math.sqrt(_largest_group(c) - 1)
        ),
        "no effect: advantages divided by their group's std are at most the root of group_size - 1; lower it",
    ),
    Check(
        ("sampler_correction", "rollout_precision", "precision"),
        lambda c: c.rollouts_differ and c.sampler_correction == "none",
        "leaves it uncorrected that rollouts in {rollout_precision} are drawn from another distribution than the one "
        "that is trained in {precision}; take token_truncate, or leave it out",
    ),
    Check(
        ("lora_alpha",),
        lambda c: own(c, "lora_alpha") and c.lora_rank == 0,
        "no effect without LoRA; set lora_rank, or leave it out",
    ),
    Check(
        ("lora_targets",),
        lambda c: own(c, "lora_targets") and c.lora_rank == 0,
        "no effect without LoRA; set lora_rank, or leave it out",
    ),
    Check(
        ("muon_learning_rate",),
        lambda c: own(c, "muon_learning_rate") and c.optimizer != "muon",
        "no effect: the optimizer is not muon; leave it out",
    ),
    Check(
        ("min_lr_ratio",),
        lambda c: own(c, "min_lr_ratio") and c.lr_schedule == "constant",
        "no effect: a constant rate doesn't fall; leave it out",
    ),
)
"""Each is told at the start of a run; the field and its value stand before the text."""


def warnings(config: "Config") -> list[Conflict]:
    """What has no effect, or another than meant."""
    return [check.conflict(config) for check in WARNINGS if check.applies(config)]


def _largest_group(config: "Config") -> int:
    return round(max(config.group_size, *(max(span.group_size or (0,)) for span in config.curriculum), 0))
