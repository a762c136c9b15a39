"""The mathematics of GRPO: pure functions of tensors, one formula each."""
