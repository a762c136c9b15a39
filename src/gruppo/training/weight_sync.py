"""New weights to the engine, and the version that says which."""

from gruppo.rollout.engine import RolloutEngine
from gruppo.training.policy import Policy


def publish(policy: Policy, engine: RolloutEngine) -> int:
    """Give the engine the policy's weights; returns the version that its completions will carry."""
    engine.load_weights(policy.named_weights(), policy.version)
    return policy.version
