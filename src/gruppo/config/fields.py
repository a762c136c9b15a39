"""What every section of the config is made of: the base class, shared types, the fields of several stages."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

Precision = Literal["float32", "bfloat16"]
LRSchedule = Literal["cosine", "linear", "constant"]
OptimizerName = Literal["adamw", "adamw_8bit", "muon"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


def as_tuple(value: Any) -> Any:
    """A lone item where a list is wanted is a list of one."""
    if value is None or isinstance(value, (list, tuple)):
        return value  # pyright: ignore[reportUnknownVariableType]
    return (value,)


class OrOne:
    """Says in the JSON schema, which knows no validators, that a lone item will do for a list of one."""

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        schema: dict[str, Any] = handler(core)
        return {"anyOf": [schema["items"], schema]}


Text = Annotated[str, Field(min_length=1)]
Paths = Annotated[tuple[Text, ...], BeforeValidator(as_tuple), Field(min_length=1), OrOne()]
Strings = Annotated[tuple[Text, ...], BeforeValidator(as_tuple), OrOne()]


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


class DataFields(Section):
    """How rows become prompts; the same words in every stage."""

    prompt: str | None = None
    """The question as a template over the columns ("{body} {question}"). Unset: the column of a known name."""
    answer: str | None = None
    """The reference answer as a template over the columns. Unset: the column of a known name."""
    max_problems: int | None = Field(default=None, ge=1)
    """Use the first so many problems of the data. Unset: all."""


class OptimizerFields(Section):
    """The optimizer and its schedule; the same words in every stage that trains."""

    optimizer: OptimizerName = "adamw"
    """adamw_8bit: its moments in 8 bits; needs the extra `quant`. muon: Muon on the layers' matrices, AdamW on the
    rest; for training from scratch."""
    muon_learning_rate: float = Field(default=0.01, gt=0, le=1)
    """Peak rate of Muon (scaled to AdamW's RMS)."""
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
    warmup_steps: int | None = Field(default=None, ge=0)
    """Steps over which the rate rises from 0, in place of warmup_ratio. Unset: from warmup_ratio."""
    lr_schedule: LRSchedule = "cosine"
    """How the rate falls after the warm-up."""
    min_lr_ratio: Share = 0.0
    """Share of the peak rate that is left at the last step."""
