"""The seam between training and sampling, and the fake that ships with it.

Tokens in, tokens out: no engine ever sees text, and text is never tokenised again.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing

import numpy as np

from gruppo.errors import EngineError
from gruppo.types import Completion, GroupRequest, TensorStream


class RolloutEngine(ABC):
    """Draws completions. `submit` queues, `completed` yields as they finish, `generate` is the plain call over both."""

    separate: bool = False
    """Whether it holds a copy of the weights, under the names and in the form of a saved model (LoRA merged in)."""

    @property
    def probe_prompts(self) -> Sequence[tuple[int, ...]]:
        """Prompts to sample from after new weights, to compare log-probs with the trainer's. None where the engine
        samples from the trainer's own weights."""
        return ()

    @abstractmethod
    def submit(self, request: GroupRequest) -> None:
        """Queue a group; returns at once.

        Raises:
            EngineError: the request can't be served (no room for the completion in the context, an empty prompt).
        """

    @abstractmethod
    def completed(self) -> Generator[Completion, None, None]:
        """Yield completions as they finish, in any order, until nothing that was submitted is left.

        More may be submitted while this is being iterated. A caller that may leave early (a reward that raises)
        iterates under `contextlib.closing`: closed early, the engine forgets what was submitted.
        """

    @abstractmethod
    def load_weights(self, tensors: TensorStream, version: int) -> None:
        """Take new weights by name; completions drawn from now on carry `version`."""

    def generate(self, requests: Sequence[GroupRequest]) -> list[list[Completion]]:
        """All completions of all requests: one list per request, in its order, by sample."""
        for request in requests:
            self.submit(request)
        groups: dict[int, list[Completion]] = {request.id: [] for request in requests}
        with closing(self.completed()) as completions:
            for completion in completions:
                groups[completion.request_id].append(completion)
        return [sorted(groups[request.id], key=lambda completion: completion.sample) for request in requests]

    def sleep(self) -> None:  # noqa: B027  an engine without memory of its own has nothing to do
        """Give memory back until `wake`."""

    def wake(self) -> None:  # noqa: B027
        """Be ready to sample again."""

    def close(self) -> None:  # noqa: B027
        """Release everything; the engine can't be used afterwards."""


class ScriptedEngine(RolloutEngine):
    """An engine that answers what a script says; for tests, yours too.

    The script gets a request and a sample's number and returns the completion's token ids. Its log-probs are 0,
    and it records the versions of weights that it was given.
    """

    def __init__(self, script: Callable[[GroupRequest, int], Sequence[int]]) -> None:
        self._script = script
        self._queue: deque[GroupRequest] = deque()
        self.requests: list[GroupRequest] = []
        self.versions: list[int] = []

    def submit(self, request: GroupRequest) -> None:
        """Queue a group."""
        if not request.prompt_ids:
            raise EngineError(f"problem {request.problem_id}: the prompt has no tokens")
        self.requests.append(request)
        self._queue.append(request)

    def completed(self) -> Generator[Completion, None, None]:
        """Yield what the script says, sample by sample."""
        try:
            while self._queue:
                request = self._queue.popleft()
                for sample in range(request.group_size):
                    yield self._completion(request, sample)
        finally:
            self._queue.clear()

    def load_weights(self, tensors: TensorStream, version: int) -> None:
        """Note the version; weights mean nothing to a script."""
        self.versions.append(version)

    def _completion(self, request: GroupRequest, sample: int) -> Completion:
        tokens = np.asarray(self._script(request, sample), dtype=np.int64)
        limit = request.sampling.max_completion_length
        stopped = len(tokens) <= limit and len(tokens) > 0 and int(tokens[-1]) in request.sampling.stop_token_ids
        tokens = tokens[:limit]
        return Completion(
            request_id=request.id,
            problem_id=request.problem_id,
            sample=sample,
            token_ids=tokens,
            sampler_logprobs=np.zeros(len(tokens), dtype=np.float32),
            mask=np.ones(len(tokens), dtype=np.bool_),
            finish_reason="stop" if stopped else "length",
            version=self.versions[-1] if self.versions else 0,
        )
