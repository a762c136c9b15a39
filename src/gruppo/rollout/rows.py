"""One sample of one request, and what every way of decoding it shares."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gruppo.errors import EngineError
from gruppo.rollout.draws import uniforms
from gruppo.types import Completion, FinishReason, GroupRequest, TextDecoder


class Row(NamedTuple):
    """One sample of one request."""

    request: GroupRequest
    sample: int

    def completion(
        self, tokens: ArrayLike, logprobs: ArrayLike, finish_reason: FinishReason, version: int
    ) -> Completion:
        """The completion of these tokens, which are copied."""
        token_ids = np.array(tokens, dtype=np.int64)
        return Completion(
            request_id=self.request.id,
            problem_id=self.request.problem_id,
            sample=self.sample,
            token_ids=token_ids,
            sampler_logprobs=np.array(logprobs, dtype=np.float32),
            mask=np.ones(len(token_ids), dtype=np.bool_),
            finish_reason=finish_reason,
            version=version,
        )


def row_uniforms(row: Row, length: int) -> NDArray[np.float32]:
    """The row's random numbers: [length]."""
    return uniforms(row.request.seed, row.request.problem_id, row.sample, length)


def holds_stop_string(decoder: TextDecoder, stop: Sequence[str], tokens: Sequence[int]) -> bool:
    """Whether the end of the text holds a stop string; a token is at least one byte of it, or special."""
    if not stop:
        return False
    reach = max(len(each.encode()) for each in stop) + 8
    text = decoder.decode(tokens[-reach:])
    return any(each in text for each in stop)


def not_finite(row: Row, place: int) -> EngineError:
    """The error of logits that are NaN or infinite."""
    return EngineError(
        f"problem {row.request.problem_id}: the model's logits are not finite at completion token {place}; "
        "the weights are broken, or too large for this precision (try precision: float32)"
    )
