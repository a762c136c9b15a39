"""The built-in demonstration: a small model, made here, that learns arithmetic word problems by GRPO."""
