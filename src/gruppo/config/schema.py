"""Every option of gruppo, each with its unit, range and default: the one source of all three.

A file has the options of the GRPO stage at its top level and those of the other stages under `sft:` and `eval:`.
Within a stage every name is unique, so that a flag (`--learning-rate 1e-6`, `--sft.epochs 2`) reaches it.
There are no batch sizes to divide: prompts per step and group size are said, everything else is derived.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Precision = Literal["float32", "bfloat16"]
LRSchedule = Literal["cosine", "linear", "constant"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _as_tuple(value: Any) -> Any:
    """A lone item where a list is wanted is a list of one."""
    if value is None or isinstance(value, (list, tuple)):
        return value  # pyright: ignore[reportUnknownVariableType]
    return (value,)


Text = Annotated[str, Field(min_length=1)]
Paths = Annotated[tuple[Text, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
Strings = Annotated[tuple[Text, ...], BeforeValidator(_as_tuple)]


def _whole(text: str) -> int | str:
    """`1e3` as 1000; any other text as it is."""
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if "e" in text.lower() and number.is_integer() else text


class Section(BaseModel):
    """Typed, frozen, no unknown fields; the text under a field is its help."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's `yes` is no 1, and its `1e3`, which it takes for text, is a whole number."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = get_args(annotation) or (annotation,)
        if isinstance(value, bool) and bool not in kinds and (int in kinds or float in kinds):
            raise ValueError(f"got {str(value).lower()}, wanted a number")
        if isinstance(value, str) and int in kinds:
            return _whole(value)
        return value


class RewardConfig(Section):
    """One reward of the rubric."""

    name: str
    """A built-in (math, format) or your function as `file.py:function` or `module:function`."""
    weight: float = 1.0
    """Factor of this reward in the sum. Negative punishes."""
    full_scale: float = Field(default=1.0, gt=0)
    """The value of a perfect completion; a completion passes at 0.99 of it."""
    pattern: str | None = None
    """For format: the regular expression that the whole completion must match."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _pattern_for_format(self) -> "RewardConfig":
        if self.name == "format" and not self.pattern:
            raise ValueError("the reward 'format' needs a `pattern`, such as '.*####.*'")
        if self.name != "format" and self.pattern:
            raise ValueError(f"`pattern` belongs to the reward 'format', not to '{self.name}'")
        return self


class DataFields(Section):
    """How rows become prompts; the same words in every stage."""

    prompt: str | None = None
    """The question as a template over the columns ("{body} {question}"). Unset: the column of a known name."""
    answer: str | None = None
    """The reference answer as a template over the columns. Unset: the column of a known name."""
    max_problems: int | None = Field(default=None, ge=1)
    """Use the first so many problems of the data. Unset: all."""


class OptimizerFields(Section):
    """AdamW and its schedule; the same words in every stage that trains."""

    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """AdamW's decoupled weight decay, per step and unit of rate."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's decay of the gradient's mean."""
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """AdamW's decay of the gradient's square."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this L2 norm."""
    warmup_ratio: Share = 0.1
    """Share of the steps over which the rate rises from 0."""
    lr_schedule: LRSchedule = "cosine"
    """How the rate falls after the warm-up."""
    min_lr_ratio: Share = 0.0
    """Share of the peak rate that is left at the last step."""


class SFTConfig(DataFields, OptimizerFields):
    """The SFT stage: supervised fine-tuning on demonstrations, before GRPO."""

    data: Paths
    """Demonstrations: a file (JSONL, JSON, Parquet, CSV), a folder, a hub name (name:config/split), or a list."""
    completion: str | None = None
    """The demonstrated completion as a template over the columns. Unset: the column of a known name, or the answer."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the demonstrations; ignored where steps is set."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps. Unset: from epochs."""
    batch_size: int = Field(default=32, ge=1)
    """Demonstrations per optimizer step."""
    shuffle: bool = True
    """Shuffle every epoch; false keeps the order of the data, for a curriculum."""
    learning_rate: float = Field(default=1e-5, gt=0, le=1)
    """Peak rate of AdamW."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: Muon on the matrices of the layers, AdamW on the rest. For training from scratch."""
    muon_learning_rate: float = Field(default=0.01, gt=0, le=1)
    """Peak rate of Muon (scaled to AdamW's RMS)."""
    max_length: int = Field(default=2048, ge=2)
    """Longest prompt and completion together, in tokens; longer demonstrations are left out and counted."""


class EvalConfig(DataFields):
    """The evaluation stage: pass@1 and pass@k on problems of its own, before and after training."""

    data: Paths
    """Held-out problems: a file (JSONL, JSON, Parquet, CSV), a folder, a hub name (name:config/split), or a list."""
    samples: int = Field(default=8, ge=1, le=1024)
    """Completions per problem; k of pass@k."""
    temperature: float = Field(default=1.0, ge=0.05, le=5)
    """Temperature of the sampled completions."""
    greedy: bool = True
    """Also take one greedy completion per problem."""
    before: bool = True
    """Evaluate before GRPO as well, on the same problems, and report the paired difference."""
    max_completion_length: int | None = Field(default=None, ge=1)
    """Longest completion, tokens. Unset: as in GRPO."""


class Config(DataFields, OptimizerFields):
    """The GRPO stage, at the top level of a file, and the stages around it."""

    model: Text
    """A model folder or a hub name: any causal language model that transformers loads."""
    data: Paths
    """Problems: a file (JSONL, JSON, Parquet, CSV), a folder, a hub name (name:config/split), or a list of them."""
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

    rewards: Annotated[tuple[RewardConfig, ...], BeforeValidator(_as_tuple)] = Field(
        default=(RewardConfig(name="math"),), min_length=1
    )
    """The rubric: a list of rewards; their weighted sum is the reward."""
    success: str | None = None
    """Which reward says that a completion passes. Unset: the first."""
    reward_scale: float = Field(default=1.0, gt=0)
    """Factor of the summed reward. Standardised advantages do not feel it."""

    learning_rate: float = Field(default=1e-6, gt=0, le=1)
    """Peak rate of AdamW. About 1e-6 for full fine-tuning, ten times as much for LoRA."""
    updates_per_batch: int = Field(default=1, ge=1, le=64)
    """Optimizer passes over each batch of rollouts; the clip range matters from 2 on."""
    epsilon: float = Field(default=0.2, gt=0)
    """Clip range of the policy ratio, low side: ratios below 1 - epsilon earn no more."""
    epsilon_high: float | None = Field(default=None, gt=0)
    """Clip range of the policy ratio, high side. Unset: as epsilon."""
    beta: float = Field(default=0.0, ge=0, le=10)
    """Weight of the KL penalty to the reference policy; at 0 no reference policy is kept."""

    precision: Precision = "float32"
    """Arithmetic of the model. bfloat16 keeps float32 master weights in the optimizer."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of torch. Unset: torch's choice, the physical cores. Small models are quicker with 1."""
    lora_rank: int = Field(default=0, ge=0, le=1024)
    """Rank of LoRA adapters; 0: full fine-tuning."""
    lora_alpha: float | None = Field(default=None, gt=0)
    """Scale of LoRA, over the rank. Unset: twice the rank."""
    lora_targets: Strings = ("all-linear",)
    """Modules that get an adapter, by name; all-linear: every linear layer but the head."""
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens per forward and backward pass, padding counted. Unset: from the vocabulary. Never changes the update."""
    max_live_completions: int = Field(default=256, ge=1)
    """Completions that the engine decodes at a time; bounds its memory. Never changes what is drawn."""

    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between checkpoints; the last step always leaves one."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many checkpoints stay on disk."""
    save_rollouts_every: int = Field(default=1, ge=0)
    """Write every n-th step's rollouts to a Parquet file; 0: never."""
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Mirror the scalar metrics to a tracker."""

    sft: SFTConfig | None = None
    """The SFT stage; runs first."""
    eval: EvalConfig | None = None
    """The evaluation stage; runs last, and before GRPO too."""

    @property
    def clip_high(self) -> float:
        """The high side of the clip range, resolved."""
        return self.epsilon if self.epsilon_high is None else self.epsilon_high

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

    @model_validator(mode="after")
    def _names_fit(self) -> "Config":
        names = [reward.name for reward in self.rewards]
        if len(set(names)) < len(names):
            raise ValueError(f"rewards: each reward may stand once, got {names}")
        if self.success is not None and self.success not in names:
            raise ValueError(f"success: '{self.success}' is none of the rewards {names}")
        if self.prompt_template is not None and "{prompt}" not in self.prompt_template:
            raise ValueError("prompt_template: must contain {prompt}")
        return self
