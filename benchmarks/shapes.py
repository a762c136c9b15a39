"""The models and loads that the benchmarks measure: random weights, random prompts, tokens that are plain numbers.

A token's text is its id, so that any tokenizer-bound part (a chat template, decoding for a reward) costs little and the
same for everyone, and a reward can be computed from the text.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.models.auto.tokenization_auto import MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS

from gruppo.types import GroupRequest, Problem, SamplingParams

# Else the folder's own tokenizer would be read as Qwen2's, in whoever imports this module.
MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS.discard("qwen2")


@dataclass(frozen=True)
class Shape:
    """A model and one step's load."""

    model: dict[str, Any]
    """Arguments of Qwen2Config."""
    prompts: int
    group_size: int
    prompt_length: int
    new_tokens: int
    ends: int = 0
    """The first so many token ids end a completion; 0: every completion has `new_tokens` tokens."""
    lora_rank: int = 0
    title: str = ""

    @property
    def config(self) -> Qwen2Config:
        """What transformers builds the model from."""
        return Qwen2Config(max_position_embeddings=4096, tie_word_embeddings=True, **self.model)

    @property
    def vocabulary(self) -> int:
        """Tokens of the model."""
        return self.model["vocab_size"]

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a completion; without any, an id that no model draws."""
        return tuple(range(self.ends)) or (self.vocabulary,)

    @property
    def completions(self) -> int:
        """Completions of a step."""
        return self.prompts * self.group_size

    def build(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """The model, always the same weights."""
        torch.manual_seed(0)
        return Qwen2ForCausalLM(self.config).to(dtype).eval()  # pyright: ignore

    def save(self, folder: Path) -> None:
        """Model and tokenizer as a folder that transformers loads."""
        model = self.build()
        model.generation_config = GenerationConfig(eos_token_id=list(self.stop_token_ids), pad_token_id=0)
        model.save_pretrained(folder)
        self.tokenizer().save_pretrained(folder)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Ids as decimal numbers, spaces between."""
        words = {str(token): token for token in range(self.vocabulary)}
        plain = Tokenizer(models.WordLevel(words, unk_token="0"))
        plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="0", unk_token="0")

    def problems(self, count: int, seed: int = 0) -> list[Problem]:
        """Random prompts, all of the full length."""
        drawn = np.random.default_rng(seed).integers(self.ends, self.vocabulary, (count, self.prompt_length))
        texts = [" ".join(map(str, row)) for row in drawn.tolist()]
        return [
            Problem(f"p{n}", text, None, prompt_text=text, prompt_ids=tuple(row))
            for n, (text, row) in enumerate(zip(texts, drawn.tolist(), strict=True))
        ]

    def requests(self, seed: int) -> list[GroupRequest]:
        """What an engine is asked for, for one step."""
        sampling = SamplingParams(max_completion_length=self.new_tokens, stop_token_ids=self.stop_token_ids)
        return [
            GroupRequest(index, problem.id, problem.prompt_ids, self.group_size, sampling, seed)
            for index, problem in enumerate(self.problems(self.prompts, seed))
        ]


def token_reward(completion: str) -> float:
    """The last digit of the sum of the tokens, over 9: cheap, and different within any group."""
    return sum(map(int, completion.split())) % 10 / 9


def qwen2(vocabulary: int, hidden: int, feed_forward: int, layers: int, heads: int, kv_heads: int) -> dict[str, int]:
    """Arguments of Qwen2Config."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }


SHAPES = {
    "a": Shape(
        qwen2(512, 64, 144, 3, 4, 2),
        prompts=8,
        group_size=16,
        prompt_length=16,
        new_tokens=128,
        title="0.15M parameters, vocabulary 512, 8 prompts of 16 tokens x 16 completions of 128",
    ),
    "b": Shape(
        qwen2(16_384, 512, 1536, 6, 8, 2),
        prompts=4,
        group_size=8,
        prompt_length=256,
        new_tokens=256,
        ends=120,
        title="26.5M parameters, vocabulary 16,384, 4 prompts of 256 tokens x 8 completions of up to 256, "
        "lengths spread by 120 end tokens",
    ),
    "g": Shape(
        qwen2(4096, 256, 448, 4, 4, 4),
        prompts=64,
        group_size=1,
        prompt_length=32,
        new_tokens=128,
        title="3.48M parameters, vocabulary 4,096, 64 prompts of 32 tokens, a completion of 128 each",
    ),
    "c": Shape(
        qwen2(151_936, 896, 4864, 24, 14, 2),
        prompts=2,
        group_size=4,
        prompt_length=128,
        new_tokens=256,
        lora_rank=8,
        title="494M parameters (Qwen2-0.5B's shape), vocabulary 151,936, LoRA of rank 8, "
        "2 prompts of 128 tokens x 4 completions of 256",
    ),
}
