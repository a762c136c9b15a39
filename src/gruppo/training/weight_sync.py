"""New weights to the engine, and the version that says which."""

from gruppo.rollout.engine import RolloutEngine
from gruppo.training.policy import Policy


def publish(policy: Policy, engine: RolloutEngine) -> int:
    """Give the engine the policy's weights; returns the version that its completions will carry."""
    weights = policy.exported_weights() if engine.separate else policy.named_weights()
    engine.load_weights(weights, policy.version)
    return policy.version
