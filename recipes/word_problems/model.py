"""The tokenizer and the small Qwen2 of the recipe: the demo's builders at another size."""

from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from gruppo.demo.model import Shape, save_untrained
from gruppo.demo.tokenizer import train_tokenizer

VOCABULARY_SIZE = 1536
CONTEXT_LENGTH = 512
SHAPE = Shape(128, 384, 3, 4, 2, CONTEXT_LENGTH)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer(texts: Iterable[str], vocabulary_size: int = VOCABULARY_SIZE) -> PreTrainedTokenizerFast:
    """Byte-level BPE, each digit a token."""
    return train_tokenizer(texts, vocabulary_size, CONTEXT_LENGTH, CHAT_TEMPLATE)


def save_model(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int) -> int:
    """Write the model folder; returns the number of parameters."""
    return save_untrained(folder, tokenizer, SHAPE, seed)
