"""Fields that can't stand together, and fields that do nothing where they stand: two tables, each row with its cure.

A row of `REFUSALS` is an error, all of them told at once with the other errors of a config. A row of `WARNINGS` is
told at the start of a run, and only of what the user has set: what a preset brings along is the preset's business.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gruppo.config.complaints import Conflict
from gruppo.config.presets import PRESETS, layer
from gruppo.config.rewards import PUNISHING, OverlongReward
from gruppo.config.span_checks import span_conflicts
from gruppo.errors import nearest

if TYPE_CHECKING:
    from gruppo.config.schema import Config


@dataclass(frozen=True, slots=True)
class Check:
    """One row: the fields, the first of which is complained of; when; and what is said, with {fields} filled in."""

    fields: tuple[str, ...]
    applies: "Callable[[Config], bool]"
    text: str

    def conflict(self, config: "Config") -> Conflict:
        """The complaint about this config."""
        values = {name: shown(getattr(config, name)) for name in self.fields}
        return Conflict(self.fields, self.text.format(**values))


def shown(value: Any) -> str:
    """A value as a file would have it."""
    if value is None or isinstance(value, bool):
        return "unset" if value is None else str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(shown(item) for item in value)}]"  # pyright: ignore[reportUnknownVariableType]
    return f"{value:g}" if isinstance(value, float) else str(value)


def changed(config: "Config", name: str) -> bool:
    """Whether an option is not at its default."""
    return getattr(config, name) != type(config).model_fields[name].default


def own(config: "Config", name: str) -> bool:
    """Whether an option is neither at its default nor as the config's presets have it."""
    preset = layer(config.preset)
    return changed(config, name) and not (name in preset and preset[name][0] == getattr(config, name))


def _decreasing(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and low > high


def _highest_clip(config: "Config") -> float:
    """The widest high side of the clip range, over the whole run."""
    highs = [config.clip_high]
    for span in config.curriculum:
        ramp = span.epsilon_high or (span.epsilon if config.epsilon_high is None else None)
        highs += ramp or ()
    return max(highs)


def _fewest_completions(config: "Config") -> int:
    """The smallest step, over the whole run."""
    found = [config.completions_per_step]
    for span in config.curriculum:
        prompts = span.prompts_per_step or (config.prompts_per_step,)
        groups = span.group_size or (config.group_size,)
        found.append(round(min(prompts)) * round(min(groups)))
    return min(found)


def _is_place(url: str) -> bool:
    """Whether it names a server, or asks for one."""
    place = urlsplit(url)
    return url == "launch" or (place.scheme in ("http", "https") and bool(place.hostname))


_NO_BETA = "but beta is 0 at every step, so there is no KL penalty; set beta above 0"

REFUSALS: tuple[Check, ...] = (
    Check(
        ("min_difficulty", "max_difficulty"),
        lambda c: _decreasing(c.min_difficulty, c.max_difficulty),
        "min_difficulty: {min_difficulty} is above max_difficulty {max_difficulty}; no problem is left, swap them",
    ),
    Check(
        ("target_kl", "beta", "curriculum"),
        lambda c: c.target_kl is not None and not c.wants_reference,
        f"target_kl: got {{target_kl}}, {_NO_BETA} to start from, or leave target_kl out",
    ),
    Check(
        ("reference_refresh_every", "beta", "curriculum"),
        lambda c: c.reference_refresh_every is not None and not c.wants_reference,
        f"reference_refresh_every: got {{reference_refresh_every}}, {_NO_BETA}, or reference_refresh_every to null",
    ),
    Check(
        ("reference_decay", "beta", "curriculum"),
        lambda c: c.reference_decay > 0 and not c.wants_reference,
        f"reference_decay: got {{reference_decay}}, {_NO_BETA}, or leave reference_decay out",
    ),
    Check(
        ("reference_decay", "reference_refresh_every"),
        lambda c: c.reference_decay > 0 and c.reference_refresh_every is None,
        "reference_decay: got {reference_decay}, but the reference is never refreshed; set reference_refresh_every, or "
        "leave reference_decay out",
    ),
    Check(
        ("kl_in", "beta", "curriculum"),
        lambda c: c.kl_in == "reward" and not c.wants_reference,
        f"kl_in: got {{kl_in}}, {_NO_BETA}, or leave kl_in out",
    ),
    Check(
        ("kl_in", "kl_estimator"),
        lambda c: c.kl_in == "reward" and c.kl_estimator in ("exact", "exact_forward", "k3_weighted"),
        "kl_in: got {kl_in} with kl_estimator {kl_estimator}, which needs the loss's own pass; take kl_estimator k1, "
        "k2 or k3, or kl_in loss",
    ),
    Check(
        ("dual_clip", "loss"),
        lambda c: c.dual_clip is not None and c.loss != "clip",
        "dual_clip: got {dual_clip}, but it belongs to loss clip, not to {loss}; leave dual_clip out",
    ),
    Check(
        ("dual_clip", "epsilon", "epsilon_high", "curriculum"),
        lambda c: c.dual_clip is not None and c.dual_clip <= 1 + _highest_clip(c),
        "dual_clip: got {dual_clip}, wanted more than 1 + the high side of the clip range (epsilon {epsilon}, "
        "epsilon_high {epsilon_high}); raise it, or leave dual_clip out",
    ),
    Check(
        ("loss", "updates_per_batch", "minibatches"),
        lambda c: c.loss == "policy_gradient" and c.optimizer_steps_per_batch > 1,
        "loss: policy_gradient takes no old log-probs, so only the first optimizer step of a batch would be right, got "
        "updates_per_batch {updates_per_batch} and minibatches {minibatches}; set both to 1, or take loss clip",
    ),
    Check(
        ("minibatches", "prompts_per_step", "group_size", "curriculum"),
        lambda c: c.minibatches > _fewest_completions(c),
        "minibatches: got {minibatches}, more than the completions of a step (prompts_per_step {prompts_per_step} x "
        "group_size {group_size}, or fewer in the curriculum); lower it",
    ),
    Check(
        ("quantize", "lora_rank"),
        lambda c: c.quantize != "none" and c.lora_rank == 0,
        "quantize: got {quantize}, but 4-bit weights can't be trained; set lora_rank, such as 16, or quantize none",
    ),
    Check(
        ("rollout_precision", "quantize"),
        lambda c: c.rollout_precision is not None and c.quantize != "none",
        "rollout_precision: got {rollout_precision} with quantize {quantize}, whose 4-bit weights the rollouts share; "
        "leave one of them out",
    ),
    Check(
        ("rslora", "lora_rank"),
        lambda c: c.rslora and c.lora_rank == 0,
        "rslora: got true without LoRA; set lora_rank, such as 16, or leave rslora out",
    ),
    Check(
        ("optimizer", "lora_rank"),
        lambda c: c.optimizer == "muon" and c.lora_rank > 0,
        "optimizer: muon is for whole matrices, not for LoRA's (lora_rank {lora_rank}); take adamw, or lora_rank 0",
    ),
    Check(
        ("demonstrations_weight", "demonstrations"),
        lambda c: changed(c, "demonstrations_weight") and not c.demonstrations,
        "demonstrations_weight: got {demonstrations_weight} without demonstrations; name them, or leave it out",
    ),
    Check(
        ("sampler_correction_max", "sampler_correction"),
        lambda c: changed(c, "sampler_correction_max") and c.sampler_correction == "none",
        "sampler_correction_max: got {sampler_correction_max}, but sampler_correction is none; choose one, such as "
        "token_truncate, or leave it out",
    ),
    Check(
        ("vllm_url", "engine"),
        lambda c: c.vllm_url is not None and c.engine != "vllm",
        "vllm_url: got {vllm_url} with engine {engine}; set engine vllm, or leave vllm_url out",
    ),
    Check(
        ("vllm_url",),
        lambda c: c.vllm_url is not None and not _is_place(c.vllm_url),
        "vllm_url: got {vllm_url}, wanted launch, or http://host:port of a server that runs",
    ),
    Check(
        ("engine_memory", "engine", "vllm_url"),
        lambda c: c.engine_memory is not None and (c.engine != "vllm" or c.vllm_url not in (None, "launch")),
        "engine_memory: got {engine_memory}, but it is for a vLLM that the run starts (engine {engine}, vllm_url "
        "{vllm_url}); leave it out",
    ),
    Check(
        ("engine", "top_k", "top_p"),
        lambda c: c.engine == "vllm" and (c.top_k > 0 or c.top_p < 1),
        "engine: vllm gives log-probs of the tokens that top_k {top_k} and top_p {top_p} leave over, not of the whole "
        "vocabulary as the trainer's are; take engine local, or leave both off",
    ),
    Check(
        ("engine", "quantize"),
        lambda c: c.engine == "vllm" and c.quantize != "none",
        "engine: vllm with quantize {quantize} would sample from weights rounded otherwise than the trainer's; "
        "take engine local, or quantize none",
    ),
    Check(
        ("pool_weights",),
        lambda c: c.pool_weights is not None and (min(c.pool_weights) < 0 or c.pool_weights[1] == 0),
        "pool_weights: got {pool_weights}, wanted three weights of 0 or more for easy, normal and hard, and one above "
        "0 for normal, where every problem begins",
    ),
)
"""Each refuses a config."""


def conflicts(config: "Config") -> list[Conflict]:
    """Everything that is refused about a config whose fields are right each by itself."""
    rows = [check.conflict(config) for check in REFUSALS if check.applies(config)]
    return [*_names(config), *_reward_data(config), *rows, *_warmups(config), *span_conflicts(config)]


def _names(config: "Config") -> Iterator[Conflict]:
    names = [reward.name for reward in config.rewards]
    if len(set(names)) < len(names):
        yield Conflict(("rewards",), f"rewards: each reward may stand once, got {names}")
    if config.success is not None and config.success not in names:
        yield Conflict(("success", "rewards"), f"success: '{config.success}' is none of the rewards {names}")
    if config.success_name in PUNISHING:
        text = f"success: the reward '{config.success_name}' only punishes; put another first, or name it in success"
        yield Conflict(("success", "rewards"), text)
    for reward in config.rewards:
        if isinstance(reward, OverlongReward) and reward.buffer > config.max_completion_length:
            text = f"buffer: {reward.buffer} is above max_completion_length {config.max_completion_length}; lower it"
            yield Conflict(("rewards", "max_completion_length"), f"rewards: {text}")
        if reward.gate is not None and (reward.gate == reward.name or reward.gate not in names):
            text = f"rewards: gate: '{reward.gate}' of '{reward.name}' is no other reward of {names}"
            yield Conflict(("rewards",), text)
    if config.prompt_template is not None and "{prompt}" not in config.prompt_template:
        yield Conflict(("prompt_template",), "prompt_template: must contain {prompt}")


def _reward_data(config: "Config") -> Iterator[Conflict]:
    """The data sets that rewards are for must be some that there are."""
    known = [*config.data_paths, *(config.eval.data if config.eval is not None else ())]
    for reward in config.rewards:
        for path in reward.data:
            if path not in known:
                yield Conflict(
                    ("rewards", "data"),
                    f"rewards: '{reward.name}' is for '{path}', which is none of the data sets of data and eval.data, "
                    f"{known}.{nearest(path, known)}",
                )


def _warmups(config: "Config") -> Iterator[Conflict]:
    """The warm-up of each stage that trains."""
    for prefix, stage in (("", config), ("sft.", config.sft)):
        if stage is None or stage.warmup_steps is None:
            continue
        field = prefix + "warmup_steps"
        if stage.warmup_ratio != type(stage).model_fields["warmup_ratio"].default:
            yield Conflict(
                (field, prefix + "warmup_ratio"),
                f"{field}: got {stage.warmup_steps} beside warmup_ratio {stage.warmup_ratio:g}; keep one of them",
            )
        if stage.steps is not None and stage.warmup_steps >= stage.steps:
            yield Conflict(
                (field, prefix + "steps"),
                f"{field}: got {stage.warmup_steps}, but there are {stage.steps} steps; lower it, or the rate never "
                "reaches its peak",
            )


# ---- what has no effect, or another than meant


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
