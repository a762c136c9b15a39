"""The rewards of a rubric: what every reward may say, and what each built-in one asks for besides.

The keys that a built-in reward has of its own are the keyword options of its public function (`gruppo.rewards`), with
the same names, ranges and defaults. The rubric passes them on as they are.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, Union, cast

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from gruppo.config.fields import OrOne, Section, Strings, Text, as_tuple

YOURS = "your own"
"""The kind of a reward that is no built-in one."""


class RewardConfig(Section):
    """One reward of the rubric; by itself, one of the user's own."""

    name: str = Field(json_schema_extra={"pattern": ":"})
    """A built-in (docs/rewards.md) or your function as `file.py:function` or `module:function`."""
    weight: float = 1.0
    """Factor of this reward in the sum. Negative punishes."""
    full_scale: float = Field(default=1.0, gt=0)
    """The value of a perfect completion; a completion passes at 0.99 of it."""
    data: Strings = ()
    """Only for problems of these data sets, named as under `data:`. Unset: for all."""
    gate: str | None = None
    """Counts only where this other reward of the rubric passes; elsewhere it adds 0."""
    time_limit: float | None = Field(default=None, gt=0, le=3600)
    """Seconds that one call may compute, and as many that it may wait. Unset: 2 for math, 10 for all others."""
    on_error: Literal["zero", "skip", "stop"] = "zero"
    """A call that hangs, dies, raises or returns no number counts 0, or takes its completion out of the update, or
    stops the run. Above 5 % of such calls the run stops in any case."""
    isolation: Literal["full", "inline", "unsafe"] = "full"
    """full: in processes that can be killed, programs in the sandbox. inline: in the trainer, to debug your own.
    unsafe: programs without the sandbox, on a machine that offers none."""

    @model_validator(mode="after")
    def _isolation_fits(self) -> "RewardConfig":
        if self.isolation == "unsafe" and self.name != "code":
            raise ValueError("isolation: unsafe is for the reward 'code' alone; inline runs yours in the trainer")
        if self.isolation == "inline" and self.name == "code":
            raise ValueError("isolation: inline is not for 'code': programs never run in the trainer")
        return self

    @model_validator(mode="after")
    def _limit_is_kept(self) -> "RewardConfig":
        if self.time_limit is not None and self.name in UNLIMITED:
            why = "it has limits of its own" if self.name == "model" else "it is quick by construction"
            raise ValueError(f"time_limit: '{self.name}' takes none, {why}; leave it out")
        return self

    @property
    def own_options(self) -> dict[str, Any]:
        """What the reward has besides the keys of every reward, by name."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in RewardConfig.model_fields}


def _named(name: str) -> Any:
    """The field `name` of a built-in reward; editors tell the kinds of rewards by it."""
    return Field(default=name, json_schema_extra={"const": name})


class MathReward(RewardConfig):
    """The stated answer equals the reference answer."""

    name: str = _named("math")
    strict: bool = False
    r"""Only an answer in `\boxed{}` or after `####` counts."""
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    """Relative difference up to which numbers are equal. Unset: exact, but for rounding at the 6th decimal."""


class CodeReward(RewardConfig):
    """The completion's program passes the problem's tests."""

    name: str = _named("code")
    score: Literal["share", "all", "first_failure"] = "share"
    """Share of the tests passed, all or nothing, or the share before the first failure."""
    test_seconds: float = Field(default=2.0, gt=0, le=600)
    """CPU seconds for one test; time_limit is for all tests of a program."""
    memory_mb: int = Field(default=512, ge=16)
    """MiB that a program may take."""


class FormatReward(RewardConfig):
    """The completion has the form that is asked for."""

    name: str = _named("format")
    pattern: str | None = None
    """The regular expression that the whole completion must match."""
    tags: Strings = ()
    """Tags that must stand once each, in this order, such as think, answer."""
    json_schema: str | None = None
    """A JSON schema, as text or as a file, that the completion must satisfy."""
    opened: bool = False
    """The prompt has written the first opening tag already."""

    @model_validator(mode="after")
    def _asks_something(self) -> "FormatReward":
        if not (self.pattern or self.tags or self.json_schema):
            raise ValueError(
                "the reward 'format' needs a `pattern`, such as '.*####.*', or `tags`, such as [think, answer], or a "
                "`json_schema`"
            )
        return self


class OverlongReward(RewardConfig):
    """DAPO's soft overlong penalty."""

    name: str = _named("overlong")
    buffer: int = Field(ge=1)
    """Tokens before max_completion_length over which the penalty grows from 0 to -1."""


class ModelReward(RewardConfig):
    """What a reward model says."""

    name: str = _named("model")
    path: str | None = None
    """A folder or hub name of a sequence classifier with one label, loaded beside the trainer."""
    url: str | None = None
    """A scoring server (`gruppo serve-reward MODEL`), in place of `path`."""
    device: str = "auto"
    """Of the reward model: auto, cpu, cuda, cuda:N or mps."""
    offload: bool = False
    """Keep the reward model in CPU memory between scorings."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the reward model; auto: as it was saved."""
    max_length: int | None = Field(default=None, ge=8)
    """Tokens of prompt and completion; the prompt is cut at its start. Unset: the model's context."""
    squash: Literal["none", "sigmoid"] = "none"
    """The raw score, or 1 / (1 + exp(-score))."""
    normalize: Literal["none", "group"] = "none"
    """group: less the mean over the group, over its standard deviation, after the gate."""

    @model_validator(mode="after")
    def _one_place(self) -> "ModelReward":
        if (self.path is None) == (self.url is None):
            raise ValueError("the reward 'model' needs a `path` (folder or hub name), or the `url` of a server")
        if self.gate is not None and self.squash == "none":
            raise ValueError(
                "gate: a raw score may be below 0, the value of a shut gate; set `squash: sigmoid` beside it"
            )
        if self.url is not None:
            beside = [
                name for name in ("device", "offload", "precision", "max_length") if name in self.model_fields_set
            ]
            if beside:
                raise ValueError(f"`{beside[0]}` is the server's to say where `url` is given; leave it out")
        return self


class LengthReward(RewardConfig):
    """Short completions."""

    name: str = _named("length")
    shape: Literal["cap", "budget", "cosine"] = "budget"
    """cap: 1 up to the budget, then 0. budget: 0 up to it, then -rate per token. cosine: from 1 to 0 at it."""
    budget: int = Field(default=512, ge=1)
    """Tokens."""
    rate: float = Field(default=0.001, gt=0)
    """Penalty per token over the budget; at most 1 in all."""


class LanguageReward(RewardConfig):
    """One language throughout."""

    name: str = _named("language")
    language: Text = "prompt"
    """The prompt's, or a code such as en, de, zh."""


class RepetitionReward(RewardConfig):
    """Nothing said over and over."""

    name: str = _named("repetition")
    ngram: int = Field(default=8, ge=1, le=40)
    """Words of a sequence whose repeats are counted."""


class ReflectionReward(RewardConfig):
    """Phrases of checking one's own work, bounded."""

    name: str = _named("reflection")
    phrases: Strings = ()
    """What counts. Unset: "wait", "let me re-check" and the like."""
    most: int = Field(default=3, ge=1)
    """As many give the full reward."""


class KeywordsReward(RewardConfig):
    """Cites the words of the column `keywords`."""

    name: str = _named("keywords")


class QAReward(RewardConfig):
    """A short answer is one of the accepted ones."""

    name: str = _named("qa")
    mode: Literal["exact", "f1", "levels"] = "exact"
    """Equal after normalisation, the tokens' F1, or levels by it."""
    levels: tuple[float, float, float] = (1.0, 0.5, 0.0)
    """Values of a right, a partial and a wrong answer."""
    partial_at: float = Field(default=0.5, gt=0, le=1)
    """F1 from which an answer is partial."""
    aliases: tuple[Strings, ...] = ()
    """Lists of texts that mean the same, such as [United States, USA]."""


class LogicReward(RewardConfig):
    """Knights and knaves: everyone's role is right."""

    name: str = _named("logic")


class ReasoningGymReward(RewardConfig):
    """The verifier of the reasoning-gym task that the problem is from."""

    name: str = _named("reasoning_gym")
    partial: bool = True
    """Whether an answer that is nearly right gets a part, or nothing."""
    strict: bool = False
    """Only an answer in the demanded form counts."""


REWARDS: dict[str, type[RewardConfig]] = {
    str(section.model_fields["name"].default): section
    for section in (
        MathReward,
        CodeReward,
        FormatReward,
        OverlongReward,
        ModelReward,
        LengthReward,
        LanguageReward,
        RepetitionReward,
        ReflectionReward,
        KeywordsReward,
        QAReward,
        LogicReward,
        ReasoningGymReward,
    )
}
"""The built-in rewards by name."""

UNLIMITED = REWARDS.keys() - {"math", "code", "format", "reasoning_gym"}
"""Those that no limit of time is for."""
PUNISHING = frozenset({"overlong", "repetition"})
"""Those that are 0 at best, and so can't say that a completion passes."""


def _kind(value: Any) -> str:
    """Which section an item of `rewards:` is."""
    if isinstance(value, RewardConfig):
        kinds = [name for name, section in REWARDS.items() if type(value) is section]
        return kinds[0] if kinds else YOURS
    name = cast(dict[str, Any], value).get("name") if isinstance(value, dict) else value
    return name if isinstance(name, str) and name in REWARDS else YOURS


def _with_name(value: Any) -> Any:
    """A lone name stands for a reward with nothing else to say."""
    if type(value) is RewardConfig and value.name in REWARDS:
        return value.model_dump(exclude_unset=True)
    return {"name": value} if isinstance(value, str) else value


class _OrName:
    """Says in the JSON schema, which knows no validators, that a lone name will do."""

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(core)]}


if TYPE_CHECKING:
    Rewards: TypeAlias = tuple[RewardConfig, ...]
else:
    _Kinds = Union[tuple(Annotated[section, Tag(name)] for name, section in {**REWARDS, YOURS: RewardConfig}.items())]  # noqa: UP007
    Rewards = Annotated[
        tuple[Annotated[_Kinds, Discriminator(_kind), BeforeValidator(_with_name), _OrName()], ...],
        Field(min_length=1),
        BeforeValidator(as_tuple),
        OrOne(),
    ]
    """The items of `rewards:`, each read as the reward that its name says."""
