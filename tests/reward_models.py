"""A tiny reward model of random weights, and judges that misbehave."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForSequenceClassification

from gruppo.demo.tokenizer import build_tokenizer

CONTEXT = 256

PROMPTS = ["What is 3 + 4?", "What is 12 + 5?", "Say a number.", "What is 8 + 7?", "?"]
COMPLETIONS = ["3 + 4 = 7", "17", "a long answer, " * 9 + "and 42", "", "8 + 7 = 15. The answer is 15"]


def save_reward_model(
    folder: Path, *, labels: int = 1, template: bool = True, pad: bool = True, **settings: Any
) -> Path:
    """A Qwen2 of two layers with one label, as a folder that transformers loads; a large spread gives uneven scores."""
    tokenizer = build_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0 if pad else None,
        num_labels=labels,
        **settings,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2ForSequenceClassification(config)
    model.save_pretrained(folder)
    if not template:
        tokenizer.chat_template = None
    if not pad:
        tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    return folder


class Judge:
    """A model for the server that scores by length, or as it is told to."""

    path = "judge"

    def __init__(self, score: Callable[[Sequence[str]], list[float]] | None = None, seconds: float = 0.0) -> None:
        self._score = score
        self.seconds = seconds
        self.calls = 0

    def score(self, prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        self.calls += 1
        time.sleep(self.seconds)
        return [float(len(text)) for text in completions] if self._score is None else self._score(completions)
