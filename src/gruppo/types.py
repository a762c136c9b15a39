"""The words of gruppo as data: frozen, documented, numpy at most.

Legend of shapes, here and everywhere: P prompts, G completions in a group, T completion tokens, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

FinishReason = Literal["stop", "length"]
"""Why a completion ended: a stop token or stop string, or the length limit (then it is truncated)."""

PASS_SHARE = 0.99
"""A completion passes when its `success` reward is at least this share of that reward's full scale."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of a data set, its question found, its prompt rendered and tokenised."""

    id: str
    """Stable over runs: the name of the source and the row, such as `train.jsonl:17`."""
    prompt: str
    """The question as the user's data has it, after the `prompt` template of the config."""
    answer: str | None
    """The reference answer as text ("007" stays "007"), or None where the data has none."""
    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Every column of the row, under its own name, for reward functions."""
    prompt_text: str = ""
    """What the model sees: the prompt through the chat template or the prompt template."""
    prompt_ids: tuple[int, ...] = ()
    """Token ids of `prompt_text`."""
    difficulty: float | None = None
    """From the column `difficulty` or `level`; None where the data has none that can be read as a number."""
    source: str = ""
    """The data set that it is from: the path or hub name as given under `data:`."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How completions are drawn. temperature 0 is greedy (log-probs are then those at temperature 1)."""

    temperature: float = 1.0
    max_completion_length: int = 256
    """Tokens; the stop token counts."""
    top_k: int = 0
    """Draw among the k likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that hold this probability together; 1: all."""
    stop_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    """Strings that end a completion once its text contains one."""


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """G completions asked of an engine for one prompt. Draws are keyed by (seed, problem_id, sample, position)."""

    id: int
    problem_id: str
    prompt_ids: tuple[int, ...]
    group_size: int
    sampling: SamplingParams
    seed: int


@dataclass(frozen=True, slots=True)
class Completion:
    """Tokens that an engine drew for one sample of a group."""

    request_id: int
    problem_id: str
    sample: int
    """Which of the group, 0 to G - 1."""
    token_ids: NDArray[np.int64]
    """[T], the stop token included."""
    sampler_logprobs: NDArray[np.float32]
    """[T], log-probs of the tokens at logits / temperature over the whole vocabulary (top-k and top-p left out)."""
    mask: NDArray[np.bool_]
    """[T], True for what the policy itself sampled; only these tokens carry a loss."""
    finish_reason: FinishReason
    version: int
    """The policy version (optimizer steps published to the engine) that drew it."""

    @property
    def truncated(self) -> bool:
        """Whether the length limit ended it."""
        return self.finish_reason == "length"

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Score:
    """What a rubric says of one completion."""

    reward: float
    """The weighted sum of the rewards, times `reward_scale`."""
    parts: Mapping[str, float | None]
    """Each reward by name, unweighted; None where it does not apply."""
    passed: bool
    """Whether the reward named `success` is at least 0.99 of its full scale."""
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why, by reward name, where the reward said."""
    errors: Mapping[str, str] = field(default_factory=dict[str, str])
    """What went wrong, by reward name: `took longer than 2 s on it`. Empty where nothing did."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """A scored completion."""

    completion: Completion
    text: str
    score: Score


@dataclass(frozen=True, slots=True)
class Group:
    """A problem and its G rollouts."""

    problem: Problem
    rollouts: tuple[Rollout, ...]

    @property
    def rewards(self) -> NDArray[np.float64]:
        """[G], the rewards of the rollouts."""
        return np.array([rollout.score.reward for rollout in self.rollouts], dtype=np.float64)

    @property
    def has_signal(self) -> bool:
        """Whether the rewards differ; equal rewards give advantages of exactly zero."""
        rewards = self.rewards
        return bool(np.any(rewards != rewards[0]))


class Stateful(Protocol):
    """A part of a run that a checkpoint holds."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on from here."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state that `state_dict` gave."""
        ...


class Scorer(Protocol):
    """What collecting and evaluating need of a rubric."""

    def submit(
        self,
        problem: Problem,
        texts: Sequence[str],
        truncated: Sequence[bool],
        lengths: Sequence[int],
        token_ids: Sequence[Sequence[int]] | None = None,
    ) -> Callable[[], list[Score]]:
        """Begin to score a group: its texts, whether each was cut off, its length in tokens, the tokens themselves.
        What it gives waits for the scores, in order."""
        ...

    def notes(self) -> list[str]:
        """What is worth a warning and was not said yet."""
        ...


class TextDecoder(Protocol):
    """What turns a completion's tokens into the text that rewards see."""

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of a completion, special tokens left out."""
        ...


class ProgressObserver(Protocol):
    """Who is told how a stage goes on: a terminal display, a log of plain lines, a notebook, nobody."""

    def start(self, stage: str, total: int, done: int = 0) -> None:
        """A stage of `total` steps begins, `done` of them behind it already."""
        ...

    def step(self, stage: str, done: int, values: Mapping[str, float | None]) -> None:
        """`done` steps are behind; `values` are the figures worth showing."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line: a warning, a mapping of columns, a checkpoint."""
        ...

    def finish(self, stage: str) -> None:
        """The stage is over."""
        ...


TensorStream = Iterator[tuple[str, Any]]
"""Named tensors on their way to an engine; `Any` because this room knows no torch."""
