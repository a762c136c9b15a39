"""New weights to the engine, the version that says which, and the proof that the engine computes with them.

An engine with a copy of its own is probed after every load: it samples a few tokens from fixed prompts, and the trainer
computes the log-probs of the same tokens. A load that was left out or done by halves shows there, and so does a prefix
cache that was not reset, since one of the prompts is longer than a block of it and the same every time. What moves
log-probs less than the limit does not show: for that the engine's own version has to be right.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gruppo.errors import EngineError
from gruppo.rollout.engine import RolloutEngine
from gruppo.training.packing import Row
from gruppo.training.policy import Policy
from gruppo.types import GroupRequest, SamplingParams

LIMITS: Mapping[str, float] = {"float32": 2e-4, "bfloat16": 0.5}
"""By the precision, nats. In float32 kernels differ by 1e-6 to 2e-5, wrong weights by far more; bfloat16 has 8 bits."""
PROBE_TOKENS = 16
PROBE_SAMPLES = 2


@dataclass(frozen=True, slots=True)
class ParityRule:
    """What the engine's log-probs are held to."""

    temperature: float
    limit: float
    """Nats between a token's log-probs, engine and trainer."""
    corrected: bool = False
    """Whether importance weights correct what differs, so that nothing is refused."""


@dataclass(frozen=True, slots=True)
class Published:
    """Weights that an engine holds."""

    version: int
    """What its completions carry."""
    difference: float | None = None
    """The largest difference of a log-prob on the probe; None where there is none."""


def publish(policy: Policy, engine: RolloutEngine, rule: ParityRule) -> Published:
    """Give the engine the policy's weights.

    Raises:
        EngineError: its log-probs are not those of the policy.
    """
    weights = policy.exported_weights() if engine.separate else policy.named_weights()
    engine.load_weights(weights, policy.version)
    difference = probe(policy, engine, rule.temperature)
    if difference is not None and not difference <= rule.limit and not rule.corrected:
        raise EngineError(
            f"the engine's log-probs are up to {difference:.2g} nats from the trainer's on the same tokens, at most "
            f"{rule.limit:g} are taken: it does not compute with the weights of version {policy.version}, or not "
            "as the trainer does. If its kernels are to differ so much, set sampler_correction, such as token_truncate"
        )
    return Published(policy.version, difference)


def probe(policy: Policy, engine: RolloutEngine, temperature: float) -> float | None:
    """The largest difference of a log-prob between engine and trainer on fixed prompts; None without prompts."""
    prompts = engine.probe_prompts
    if not prompts:
        return None
    sampling = SamplingParams(temperature=temperature, max_completion_length=PROBE_TOKENS)
    requests = [GroupRequest(i, f"probe {i}", ids, PROBE_SAMPLES, sampling, seed=0) for i, ids in enumerate(prompts)]
    drawn = engine.generate(requests)
    rows = [Row(ids, c.token_ids, c.mask, c.sampler_logprobs, 0.0) for ids, group in zip(prompts, drawn) for c in group]
    found = policy.logprobs(rows, temperature)
    differences = [np.abs(own.float().cpu().numpy() - row.sampler_logprobs) for own, row in zip(found, rows)]
    return float(np.max(np.concatenate(differences)))
