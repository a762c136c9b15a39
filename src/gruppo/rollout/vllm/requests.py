"""Between the seam's words and vLLM's, the same for both forms.

A group is one request of vLLM's for `n` samples. Sample i draws with the seed `seed + i`, and the seed is derived from
(seed, problem): so draws are keyed by (seed, problem, sample) as everywhere, though vLLM's own generator makes the
numbers: they are not those of the local engine, and rounding may differ with what else is in the batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gruppo.errors import EngineError
from gruppo.rollout.draws import derive_seed
from gruppo.types import Completion, GroupRequest

NEUTRAL = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""Said with every request: a server may have other defaults."""

LOGITS_NOT_FINITE = (
    "vLLM's logits are not finite: the policy's weights are not, or the engine's precision has no room for them"
)

PROBE_ROOM = 32
"""Tokens that a probe leaves free for its completion."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """One sample as vLLM returns it."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    finish_reason: str | None


def check_request(request: GroupRequest, context_length: int | None) -> None:
    """Refuse what can't be served.

    Raises:
        EngineError: an empty prompt; no room for the completion; top-k or top-p.
    """
    where = f"problem {request.problem_id}"
    if not request.prompt_ids:
        raise EngineError(f"{where}: the prompt has no tokens")
    sampling = request.sampling
    needed = len(request.prompt_ids) + sampling.max_completion_length
    if context_length is not None and needed > context_length:
        raise EngineError(
            f"{where}: prompt ({len(request.prompt_ids)} tokens) and completion (up to "
            f"{sampling.max_completion_length}) exceed the engine's context of {context_length}; "
            "lower max_prompt_length or max_completion_length"
        )
    if sampling.top_k or sampling.top_p < 1.0:
        raise EngineError(
            f"{where}: vLLM's log-probs under top_k or top_p are those of the tokens left over, not of the whole "
            "vocabulary, so they can't be compared with the trainer's; take engine local, or leave both off"
        )


def probe_prompts(state: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Two prompts of random tokens, always the same: one longer than a block of the prefix cache, and a short one.

    Args:
        state: what a worker says of itself.
    """
    generator = np.random.default_rng(0)
    room = max(1, state["context_length"] - PROBE_ROOM)
    lengths = (min(state["block_size"] * 5 // 4, room), min(5, room))
    vocabulary = state["shape"]["vocab_size"]
    return tuple(tuple(int(token) for token in generator.integers(0, vocabulary, length)) for length in lengths)


def samples_of(request: GroupRequest) -> int:
    """Samples to ask for: greedy ones are all alike, and vLLM takes only one of them."""
    return 1 if request.sampling.temperature == 0 else request.group_size


def sampling_fields(request: GroupRequest) -> dict[str, Any]:
    """How to draw, in the words that `vllm.SamplingParams` and /v1/completions share."""
    sampling = request.sampling
    return {
        **NEUTRAL,
        "n": samples_of(request),
        "seed": derive_seed(request.seed, request.problem_id) >> 1,  # + n may not leave 64 bits
        "temperature": sampling.temperature,
        "top_k": 0,
        "top_p": 1.0,
        "max_tokens": sampling.max_completion_length,
        "stop": list(sampling.stop),
        "stop_token_ids": list(sampling.stop_token_ids),
        "ignore_eos": True,  # the stop tokens are all said
        "logprobs": 0,  # of the sampled token alone
        "skip_special_tokens": True,
    }


def completions_of(request: GroupRequest, samples: Sequence[Drawn], version: int) -> list[Completion]:
    """The completions of a group.

    Raises:
        EngineError: vLLM returned what was not asked for, or log-probs that are not finite.
    """
    where = f"problem {request.problem_id}"
    if len(samples) != samples_of(request):
        raise EngineError(f"{where}: vLLM returned {len(samples)} samples, asked for {samples_of(request)}")
    if len(samples) < request.group_size:
        samples = [samples[0]] * request.group_size
    return [_completion(request, number, drawn, version, where) for number, drawn in enumerate(samples)]


def _completion(request: GroupRequest, number: int, drawn: Drawn, version: int, where: str) -> Completion:
    tokens = np.asarray(drawn.token_ids, dtype=np.int64)
    logprobs = np.asarray(drawn.logprobs, dtype=np.float32)
    if not 0 < len(tokens) <= request.sampling.max_completion_length or len(logprobs) != len(tokens):
        raise EngineError(
            f"{where}, sample {number}: vLLM returned {len(tokens)} tokens with {len(logprobs)} log-probs, asked for "
            f"1 to {request.sampling.max_completion_length}"
        )
    if drawn.finish_reason not in ("stop", "length"):
        raise EngineError(f"{where}, sample {number}: vLLM ended it for the reason {drawn.finish_reason!r}")
    if not np.isfinite(logprobs).all():
        raise EngineError(f"{where}, sample {number}: {LOGITS_NOT_FINITE}")
    return Completion(
        request_id=request.id,
        problem_id=request.problem_id,
        sample=number,
        token_ids=tokens,
        sampler_logprobs=logprobs,
        mask=np.ones(len(tokens), dtype=np.bool_),
        finish_reason="stop" if drawn.finish_reason == "stop" else "length",
        version=version,
    )
