"""Models as judges: a sequence-classification model with one label, whose logit is the reward.

P prompts with a completion each, B rows and L columns of a micro-batch.

1. Pairs are sorted by length and scored in micro-batches of at most `token_budget` tokens with their padding. A score
   depends on what else is in its batch by rounding alone (1e-5 in float32); the same call gives the same bits.
2. The model runs in the trainer's process: its weights are tensors, never code (`trust_remote_code` is not to be had).
   No limit is set to the time a scoring takes; what bounds it is `max_length`.
3. `offload` keeps the weights in CPU memory and copies them to the device for each scoring; nothing is copied back,
   since scoring changes nothing.
4. What a completion may do to the text that the model reads: see `gruppo.rewards.reward_text`.
"""

import inspect
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gruppo.errors import RewardError
from gruppo.rewards import reward_loading as loading
from gruppo.rewards.result import RewardResult
from gruppo.rewards.reward_client import RewardClient
from gruppo.rewards.reward_text import Encoded, Prompt, RewardText

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

SQUASHES = ("none", "sigmoid")


class RewardModel:
    """A reward model that is loaded once and scores on demand, from any thread, one call at a time.

    >>> model = RewardModel("my/reward-model", device="cuda", offload=True)  # doctest: +SKIP
    >>> model.score(["What is 2 + 2?"], ["2 + 2 = 4"])  # doctest: +SKIP
    [3.25]
    """

    def __init__(
        self,
        path: str,
        device: str = "auto",
        offload: bool = False,
        max_length: int | None = None,
        token_budget: int = 8192,
        precision: str = "auto",
    ) -> None:
        """Load it.

        Args:
            path: a folder or a hub name.
            device: auto (the GPU where there is one), cpu, cuda, cuda:N or mps.
            offload: keep the weights in CPU memory between scorings.
            max_length: tokens of prompt and completion together; None: as many as the model takes.
            token_budget: tokens of a micro-batch, padding included; a longer text is one by itself.
            precision: auto (as the model is stored; float16 is float32 on a CPU), float32 or bfloat16.

        Raises:
            RewardError: no such model, one without a classification head, with several labels or without a padding
                token, or a device that is not there.
        """
        if token_budget < 1:
            raise RewardError(f"token_budget: got {token_budget}, wanted at least 1")
        self.path = path
        self.token_budget = token_budget
        self.device = loading.choose_device(device)
        model, tokenizer = loading.load(path, precision, self.device)
        self.max_length = loading.longest(path, max_length, model, tokenizer)
        self._pad = loading.padding(path, model, tokenizer)
        self._told_types = "token_type_ids" in inspect.signature(model.forward).parameters
        self._text = RewardText(tokenizer, self.max_length, self._pad)
        self._away = Offloaded(model) if offload and self.device.type != "cpu" else None
        self._model: PreTrainedModel | None = model if self._away else model.to(self.device)  # pyright: ignore
        self._lock = threading.Lock()

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """The model's logit for each completion, in order.

        Args:
            prompts: texts, or lists of chat messages, one for each completion.
            completions: texts.

        Raises:
            RewardError: the counts differ, a chat template fails, the memory is too small, or a score is not finite.
        """
        if len(prompts) != len(completions):
            raise RewardError(f"reward model: {len(prompts)} prompts, {len(completions)} completions; wanted as many.")
        with self._lock:
            encoded = [self._text.encode(prompt, completion) for prompt, completion in zip(prompts, completions)]
            scores = self._scores(encoded)
        for place, score in enumerate(scores):
            if not math.isfinite(score):
                raise RewardError(
                    f"the reward model '{self.path}' gave {score} for completion {place + 1} of {len(scores)}; "
                    "say precision: float32, or take another model."
                )
        return scores

    def close(self) -> None:
        """Let go of the model and its memory; `score` is no longer to be called."""
        with self._lock:
            self._model = None
            self._away = None
            if self.device.type == "cuda":
                import torch

                torch.cuda.empty_cache()

    def _scores(self, encoded: Sequence[Encoded]) -> list[float]:
        import torch

        if self._model is None:
            raise RewardError(f"the reward model '{self.path}' was closed; make another.")
        scores = [math.nan] * len(encoded)
        try:
            with self._at_work(), torch.no_grad():
                for rows in micro_batches([len(item.ids) for item in encoded], self.token_budget):
                    for row, score in zip(rows, self._forward([encoded[row] for row in rows])):
                        scores[row] = score
        except torch.OutOfMemoryError as error:
            raise RewardError(
                f"the reward model '{self.path}' ran out of memory on {self.device}; lower token_budget "
                f"({self.token_budget}) or max_length ({self.max_length}), or say offload: true, or device: cpu."
            ) from error
        return scores

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        if self._away is None:
            yield
            return
        with self._away.on(self.device):
            yield

    def _forward(self, batch: Sequence[Encoded]) -> list[float]:
        """The logits of a micro-batch, padded on the right to [B, L]."""
        import torch

        assert self._model is not None
        length = max(len(item.ids) for item in batch)
        ids = torch.full((len(batch), length), self._pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        types = torch.zeros_like(ids)
        for row, item in enumerate(batch):
            ids[row, : len(item.ids)] = torch.tensor(item.ids, dtype=torch.long)
            mask[row, : len(item.ids)] = 1
            if item.types is not None:
                types[row, : len(item.types)] = torch.tensor(item.types, dtype=torch.long)
        told: dict[str, Tensor] = {"input_ids": ids, "attention_mask": mask}
        if batch[0].types is not None and self._told_types:
            told["token_type_ids"] = types
        logits = self._model(**{name: tensor.to(self.device) for name, tensor in told.items()}).logits
        return logits.float().reshape(len(batch)).tolist()


class Offloaded:
    """A model's tensors at home in CPU memory, lent to a device for a while."""

    def __init__(self, model: "nn.Module") -> None:
        """`model` is on the CPU."""
        self._tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
        self._home = [tensor.data for tensor in self._tensors]

    @contextmanager
    def on(self, device: "torch.device") -> Iterator[None]:
        """The model is on the device meanwhile. What is done to the tensors there is lost."""
        import torch

        try:
            for tensor, home in zip(self._tensors, self._home):
                tensor.data = home.to(device, copy=True)
            yield
        finally:
            for tensor, home in zip(self._tensors, self._home):
                tensor.data = home
            if device.type == "cuda":
                torch.cuda.empty_cache()


class ModelReward:
    """A reward model as a reward: a batch function of a rubric. Loaded, or asked for, at the first call."""

    def __init__(
        self, path: str | None, url: str | None, squash: str, client: dict[str, Any], model: dict[str, Any]
    ) -> None:
        """See `reward_model_function`; `client` and `model` are the options of the two."""
        if (path is None) == (url is None):
            raise RewardError(f"reward 'model': give path or url, and one of them; got path: {path}, url: {url}")
        if squash not in SQUASHES:
            raise RewardError(f"squash: got '{squash}' for a reward model, wanted {' or '.join(SQUASHES)}")
        self.name = str(path or url)
        self.squash = squash
        self._model_options = model
        self._lock = threading.Lock()
        self._judge: RewardModel | RewardClient | None = None if url is None else RewardClient(url, **client)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Any], **columns: Any) -> list[RewardResult]:
        """A result for each completion; a completion is a text, or chat messages whose last is the answer."""
        del columns
        with self._lock:
            if self._judge is None:
                self._judge = RewardModel(self.name, **self._model_options)
        scores = self._judge.score(prompts, [_text_of(completion) for completion in completions])
        return [self._result(score) for score in scores]

    def close(self) -> None:
        """Let go of the model; the next call would load it again."""
        with self._lock:
            if isinstance(self._judge, RewardModel):
                self._judge.close()
                self._judge = None

    def _result(self, score: float) -> RewardResult:
        reason = f"{score:.4g} by {self.name}"
        if self.squash == "none":
            return RewardResult(score, reason=reason)
        return RewardResult(sigmoid(score), {"logit": score}, reason)


def reward_model_function(
    path: str | None = None,
    url: str | None = None,
    *,
    device: str = "auto",
    offload: bool = False,
    precision: str = "auto",
    max_length: int | None = None,
    token_budget: int = 8192,
    squash: str = "none",
    token: str | None = None,
    timeout: float = 120.0,
    patience: float = 60.0,
) -> ModelReward:
    """A reward of a rubric: `(prompts, completions, **columns) -> list[RewardResult]`, with `close()`.

    Args:
        path: a folder or hub name, to be loaded here at the first call.
        url: of a scoring server (`gruppo serve-reward`), instead of `path`.
        device: as `offload`, `precision`, `max_length`, `token_budget`: of `RewardModel`; a server has its own.
        offload: see there.
        precision: see there.
        max_length: see there.
        token_budget: see there.
        squash: `none`: the logit; `sigmoid`: 1 / (1 + exp(-logit)), from 0 to 1, the logit recorded beside it.
        token: as `timeout`, `patience`: of `RewardClient`.
        timeout: see there.
        patience: see there.

    Raises:
        RewardError: not one of path and url, or an option that is none.
    """
    own = {"device": "auto", "offload": False, "precision": "auto", "max_length": None, "token_budget": 8192}
    model = {
        "device": device,
        "offload": offload,
        "precision": precision,
        "max_length": max_length,
        "token_budget": token_budget,
    }
    theirs = [name for name in own if model[name] != own[name]]
    if url is not None and theirs:
        raise RewardError(f"reward 'model': {', '.join(theirs)} can't be set with url; they are gruppo serve-reward's")
    client = {"token": token, "timeout": timeout, "patience": patience}
    return ModelReward(path, url, squash, client, model)


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Places by ascending length, cut so that rows times the longest stays within the budget where one row does.

    >>> micro_batches([5, 2, 9, 2], 10)
    [[1, 3], [0], [2]]
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        if batches and (len(batches[-1]) + 1) * lengths[place] <= token_budget:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)), without overflow."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def _text_of(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])
