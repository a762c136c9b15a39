"""Every option of gruppo, each with its unit, range and default: the one source of all three.

A file has the options of the GRPO stage at its top level and those of the other stages under `sft:` and `eval:`.
Within a stage every name is unique, so that a flag (`--learning-rate 1e-6`, `--sft.epochs 2`) reaches it.
There are no batch sizes to divide: prompts per step and group size are said, everything else is derived.
"""

from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, field_validator, model_validator

from gruppo.config.checks import conflicts
from gruppo.config.complaints import Conflicts
from gruppo.config.fields import (
    DataFields,
    LRSchedule,
    OptimizerFields,
    OptimizerName,
    OrOne,
    Precision,
    Section,
    Strings,
    Text,
    as_tuple,
)
from gruppo.config.presets import canonical, filled, unknown
from gruppo.config.rewards import MathReward, RewardConfig, Rewards
from gruppo.config.sections import DataSource, EvalConfig, SFTConfig, Sources, Span

__all__ = [
    "Config",
    "DataFields",
    "DataSource",
    "EvalConfig",
    "LRSchedule",
    "OptimizerFields",
    "OptimizerName",
    "Precision",
    "RewardConfig",
    "SFTConfig",
    "Section",
    "Span",
]

AdvantageScale = Literal["std", "none", "batch", "leave_one_out"]
LossName = Literal["clip", "policy_gradient", "gspo", "cispo"]
Aggregation = Literal["tokens", "sequences", "constant"]
SamplerCorrection = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
KLEstimator = Literal["k1", "k2", "k3", "k3_weighted", "exact", "exact_forward"]
DEFAULT_REFRESH = 500
"""Steps between refreshes of the reference policy where they are on without a number."""


class Config(DataFields, OptimizerFields):
    """The GRPO stage, at the top level of a file, and the stages around it."""

    model: Text
    """A model folder or a hub name: any causal language model that transformers loads."""
    data: Sources
    """Problems: a file (JSONL, JSON, Parquet, CSV), a folder, a hub name (name:config/split), or a list of them.
    With weights (`{path: ..., weight: 2}`) each problem's data set is drawn by them; without, all data is one set."""
    output_dir: Text = "runs/grpo"
    """Where the run goes. The same command on the same folder goes on where it stopped."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of everything random."""

    steps: int = Field(default=200, ge=1)
    """Optimizer steps of GRPO."""
    prompts_per_step: int = Field(default=32, ge=1)
    """Problems per optimizer step."""
    group_size: int = Field(default=8, ge=2, le=4096)
    """Completions per prompt, G."""
    min_difficulty: float | None = Field(default=None, ge=0)
    """Problems of at least this difficulty, by the column `difficulty` or `level`. Unset: all."""
    max_difficulty: float | None = Field(default=None, ge=0)
    """Problems of at most this difficulty. Unset: all."""
    max_sampling_factor: float = Field(default=1.0, ge=1, le=64)
    """Dynamic sampling: groups without signal are replaced until this many times prompts_per_step were sampled; 1:
    never."""
    pool_weights: tuple[float, float, float] | None = None
    """How often a problem of the easy, normal and hard pool comes, relative to each other, by its rolling pass
    rate. Unset: every problem once per epoch."""
    drop_after: int | None = Field(default=None, ge=2)
    """Leave out a problem once its group was all passes, or all failures, this many times in a row. Unset: never."""
    demonstrations: Strings = ()
    """Demonstrations for an SFT term in the GRPO loss, as in sft.data, so that general abilities are kept."""
    demonstrations_weight: float = Field(default=0.1, gt=0)
    """Weight of the SFT term, a mean over the tokens of prompts_per_step demonstrations."""
    max_prompt_length: int | None = Field(default=None, ge=1)
    """Longest prompt, tokens. Unset: what the model's context leaves beside the completion."""
    long_prompts: Literal["skip", "refuse"] = "skip"
    """What becomes of a prompt that is too long: left out and counted, or the run refused."""
    max_completion_length: int = Field(default=256, ge=1)
    """Longest completion, tokens."""
    temperature: float = Field(default=1.0, ge=0.05, le=5)
    """Temperature of the rollouts; log-probs everywhere are at logits / temperature."""
    top_k: int = Field(default=0, ge=0)
    """Draw among the k likeliest tokens; 0: all. Anything but all biases the policy ratio (docs/algorithm.md)."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw among the likeliest tokens of this total probability; 1: all. As top_k."""
    stop: Strings = ()
    """Strings that end a completion, beside the model's own stop tokens."""

    prompt_template: str | None = None
    """Plain text around the prompt, with {prompt} in it. Unset: the model's chat template."""
    system_prompt: str | None = None
    """System message for the chat template."""

    rewards: Rewards = (MathReward(),)
    """The rubric: a list of rewards (docs/rewards.md); their weighted sum is the reward. Unset: by the form of the
    data: code where rows have tests, qa where they have lists of accepted answers, mostly math."""
    success: str | None = None
    """Which reward says that a completion passes. Unset: the first."""
    reward_scale: float = Field(default=1.0, gt=0)
    """Factor of the summed reward. Standardised advantages do not feel it."""

    learning_rate: float = Field(default=1e-6, gt=0, le=1)
    """Peak rate of AdamW. About 1e-6 for full fine-tuning, ten times as much for LoRA."""
    updates_per_batch: int = Field(default=1, ge=1, le=64)
    """Passes over each batch of rollouts; the clip range matters from 2 on."""
    minibatches: int = Field(default=1, ge=1, le=1024)
    """Optimizer steps per pass, each on its share of the batch's completions; the clip range matters from 2 on."""
    advantage_scale: AdvantageScale = "std"
    """What the centred rewards are divided by: the group's std, nothing (Dr. GRPO), the batch's std, or nothing with
    the mean of the others as baseline (RLOO)."""
    advantage_clip: float | None = Field(default=None, gt=0)
    """Advantages are clipped to plus and minus this. Unset: not clipped."""
    no_signal_groups: Literal["count", "leave_out"] = "count"
    """Whether groups of equal rewards count in the loss normaliser and the KL term, or are left out of both."""
    truncated: Literal["score", "mask"] = "score"
    """Truncated completions are scored as any other, or carry no loss (DAPO's overlong filtering)."""
    loss: LossName = "clip"
    """clip: PPO's surrogate. policy_gradient: REINFORCE on log-probs. gspo: the surrogate on the sequence's ratio.
    cispo: the clipped ratio as a weight of REINFORCE."""
    loss_aggregation: Aggregation = "tokens"
    """Mean over the step's tokens (DAPO), over tokens within each completion first (GRPO), or the sum over
    max_completion_length and completions (Dr. GRPO)."""
    epsilon: float = Field(default=0.2, gt=0)
    """Clip range of the policy ratio, low side: ratios below 1 - epsilon earn no more."""
    epsilon_high: float | None = Field(default=None, gt=0)
    """Clip range of the policy ratio, high side. Unset: as epsilon."""
    dual_clip: float | None = Field(default=None, gt=1)
    """With a negative advantage a ratio above this is clipped too. Unset: it isn't; 3 is usual."""
    sampler_correction: SamplerCorrection = "none"
    """Importance weights for an engine whose log-probs differ from the trainer's: truncated at
    sampler_correction_max, or masked outside its inverse to it; per token, or per completion."""
    sampler_correction_max: float = Field(default=2.0, gt=1)
    """The largest importance weight of sampler_correction."""
    beta: float = Field(default=0.0, ge=0, le=10)
    """Weight of the KL penalty to the reference policy; at 0 no reference policy is kept."""
    kl_estimator: KLEstimator = "k3"
    """The KL of a token: k1, k2, k3 of the sampled token, k3 weighted by the policy ratio, or exact over the
    vocabulary (exact: policy to reference; exact_forward: reference to policy)."""
    kl_in: Literal["loss", "reward"] = "loss"
    """The penalty stands in the loss, or is subtracted from each completion's reward."""
    target_kl: float | None = Field(default=None, gt=0)
    """KL to hold, nats per token, by changing beta: times 1.5 above it, times 0.9 below half of it. Unset: fixed."""
    reference_refresh_every: int | None = Field(default=None, ge=1)
    """Steps between refreshes of the reference policy with the trained weights; true means 500. Unset: never."""
    reference_decay: float = Field(default=0.0, ge=0, lt=1)
    """Share of the old reference that a refresh keeps; 0 copies the trained weights."""

    precision: Precision = "float32"
    """Arithmetic of the model. bfloat16 keeps float32 master weights in the optimizer."""
    rollout_precision: Precision | None = None
    """Arithmetic of the rollouts, on a copy of the weights. Unset: as precision. Where they differ and
    sampler_correction is unset, that is token_truncate."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of torch. Unset: torch's choice, the physical cores. Small models are quicker with 1."""
    lora_rank: int = Field(default=0, ge=0, le=1024)
    """Rank of LoRA adapters; 0: full fine-tuning."""
    lora_alpha: float | None = Field(default=None, gt=0)
    """Scale of LoRA, over the rank. Unset: twice the rank."""
    rslora: bool = False
    """Scale LoRA by alpha / sqrt(rank) in place of alpha / rank."""
    lora_targets: Strings = ("all-linear",)
    """Modules that get an adapter, by name; all-linear: every linear layer but the head."""
    quantize: Literal["none", "4bit"] = "none"
    """4bit: the frozen base under LoRA in 4 bits (QLoRA). Needs the extra `quant`."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens per forward and backward pass, padding counted. Unset: found from the memory that is free. Never changes
    the update but for rounding."""
    plain: bool = False
    """Everything the plain way: padded rows, decoding in waves; for debugging. Never changes the update but for
    rounding."""
    batch_invariant: bool = True
    """A completion's tokens and log-probs are the same to the bit whatever else is decoded beside it, for 3 to 6 % of
    the decoding. How is tried at start; on a machine where nothing helps the run says so and goes on without."""
    max_live_completions: int | None = Field(default=None, ge=1)
    """Completions that the engine decodes at a time; bounds its memory. Unset: found from the memory that is free, at
    most 256. Never changes what is drawn."""
    engine: Literal["local", "vllm"] = "local"
    """Who samples: the local engine, on the trainer's own model, or vLLM, which holds a copy of the weights
    (docs/engines.md). vllm needs the extra `vllm`."""
    vllm_url: str | None = None
    """Where vLLM is. Unset: in the trainer's process. launch: a server of its own on this machine, which the run starts
    and ends. http://host:port: a server that runs already."""
    engine_memory: float | None = Field(default=None, gt=0)
    """Memory of a vLLM that the run starts: on a GPU the share (0 to 1) for weights and KV cache, on a CPU GiB of KV
    cache, in whole numbers. Unset: 0.4 of the GPU, 1 GiB."""

    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between checkpoints; the last step always leaves one."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many checkpoints stay on disk."""
    save_rollouts_every: int = Field(default=1, ge=0)
    """Write every n-th step's rollouts to a Parquet file; 0: never."""
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Mirror the scalar metrics to a tracker."""

    preset: Strings = ()
    """Presets by paper and task (docs/presets.md), such as deepseek-r1, dapo, math, code: they fill what the file and
    the flags leave unset, the last named over those before it."""
    curriculum: Annotated[tuple[Span, ...], BeforeValidator(as_tuple), OrOne()] = ()
    """Spans of steps with problems and numbers of their own."""

    sft: SFTConfig | None = None
    """The SFT stage; runs first."""
    eval: EvalConfig | None = None
    """The evaluation stage; runs last, and before GRPO too."""

    @property
    def clip_high(self) -> float:
        """The high side of the clip range, resolved."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """Where the problems are, each with its weight."""
        return tuple(item if isinstance(item, DataSource) else DataSource(path=item) for item in self.data)

    @property
    def data_paths(self) -> tuple[str, ...]:
        """Where the problems are."""
        return tuple(source.path for source in self.sources)

    @property
    def completions_per_step(self) -> int:
        """P x G."""
        return self.prompts_per_step * self.group_size

    @property
    def lora_scale_alpha(self) -> float:
        """LoRA's alpha, resolved."""
        return 2.0 * self.lora_rank if self.lora_alpha is None else self.lora_alpha

    @property
    def success_name(self) -> str:
        """The reward that says whether a completion passes, resolved."""
        return self.success or self.rewards[0].name

    @property
    def wants_reference(self) -> bool:
        """Whether a reference policy is needed at some step."""
        return self.beta > 0 or any(span.beta is not None and max(span.beta) > 0 for span in self.curriculum)

    @property
    def longest_completion(self) -> int:
        """The largest max_completion_length of any step."""
        spans = [round(max(span.max_completion_length)) for span in self.curriculum if span.max_completion_length]
        return max([self.max_completion_length, *spans])

    @property
    def difficulty_bounds(self) -> list[tuple[float | None, float | None]]:
        """The lowest and highest difficulty between spans, then in each span, which may leave a bound to the former."""
        top = (self.min_difficulty, self.max_difficulty)
        pairs = [(span.min_difficulty, span.max_difficulty) for span in self.curriculum]
        return [top, *((top[0] if low is None else low, top[1] if high is None else high) for low, high in pairs)]

    @property
    def rollouts_differ(self) -> bool:
        """Whether rollouts are computed in another precision than the update."""
        return self.rollout_precision not in (None, self.precision)

    @property
    def optimizer_steps_per_batch(self) -> int:
        """Passes times minibatches: with more than one, old log-probs are taken and the clip range matters."""
        return self.updates_per_batch * self.minibatches

    @field_validator("preset")
    @classmethod
    def _known_presets(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if canonical(name) is None:
                raise ValueError(unknown(name))
        return tuple(canonical(name) or name for name in names)

    @model_validator(mode="before")
    @classmethod
    def _at_the_door(cls, value: Any) -> Any:
        """The presets' values under those given, and what stands for a number."""
        if not isinstance(value, dict):
            return value
        given = filled(cast(dict[str, Any], value))
        if given.get("reference_refresh_every") is True:
            given["reference_refresh_every"] = DEFAULT_REFRESH
        precision = given.get("precision", cls.model_fields["precision"].default)
        if given.get("rollout_precision", precision) not in (None, precision):
            given.setdefault("sampler_correction", "token_truncate")
        return given

    @model_validator(mode="after")
    def _fields_fit(self) -> "Config":
        if found := conflicts(self):
            raise Conflicts(found)
        return self
