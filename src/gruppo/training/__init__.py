"""Training: the policy and its update, the loops of SFT and GRPO, checkpoints, controls."""
