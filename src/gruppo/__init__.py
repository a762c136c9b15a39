"""GRPO post-training for language models with verifiable rewards."""
