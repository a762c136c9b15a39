"""Tiny random models and what tests need around them; everything from fixed seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from gruppo.rollout.local import LocalEngine
from gruppo.training.optimizers import OptimizerSet
from gruppo.training.packing import Row
from gruppo.types import Completion, Group, GroupRequest, Problem, Rollout, SamplingParams, Score

torch.set_num_threads(1)  # these models are too small for two, which wait for each other on a busy machine

FAMILIES = ("qwen2", "llama", "gpt2")
VOCABULARY = 61


def tiny(family: str = "qwen2", *, seed: int = 0, context: int = 128, spread: float = 0.15, **settings: object):
    """An untrained model in float32 and evaluation mode. A large `spread` gives peaked, uneven distributions."""
    common = {"vocab_size": VOCABULARY, "initializer_range": spread, "bos_token_id": None, "eos_token_id": None}
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if family == "qwen2":
            model = Qwen2ForCausalLM(Qwen2Config(**{**common, **shape, "tie_word_embeddings": True, **settings}))
        elif family == "llama":
            model = LlamaForCausalLM(LlamaConfig(**{**common, **shape, "tie_word_embeddings": False, **settings}))
        else:
            gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": context}
            model = GPT2LMHeadModel(GPT2Config(**{**common, **gpt2, **settings}))
    return model.eval()


class Letters:
    """A tokenizer of one character a token: 0 is `a`, 25 is `z`, 26 to 35 are digits, the rest are `.`."""

    def decode(self, token_ids: Iterable[int]) -> str:
        return "".join(chr(97 + t) if t < 26 else chr(22 + t) if t < 36 else "." for t in token_ids)


def request(
    prompt: Sequence[int],
    sampling: SamplingParams,
    *,
    id: int = 0,
    group_size: int = 1,
    seed: int = 0,
    problem_id: str | None = None,
) -> GroupRequest:
    return GroupRequest(id, problem_id or f"p{id}", tuple(prompt), group_size, sampling, seed)


def bits(completions: Iterable[Completion]) -> dict[tuple[int, int], tuple[bytes, bytes]]:
    """Tokens and log-probs by request and sample, to the bit."""
    return {(c.request_id, c.sample): (c.token_ids.tobytes(), c.sampler_logprobs.tobytes()) for c in completions}


def changed_meanwhile(
    engine: LocalEngine, model: nn.Module, other: nn.Module, prompt: tuple[int, ...], *, elsewhere: bool
) -> list[Completion]:
    """Two groups of two, of 4 and 20 tokens; after the first completion the engine's model has the other's weights.

    Args:
        engine: of the model.
        model: whose weights change.
        other: of its shape.
        prompt: of both groups.
        elsewhere: the weights are other tensors then; else they are copied into the old ones' place.
    """
    for i, length in enumerate((4, 20)):
        engine.submit(request(prompt, SamplingParams(max_completion_length=length), id=i, group_size=2))
    found: list[Completion] = []
    for completion in engine.completed():
        found.append(completion)
        if len(found) == 1:
            if elsewhere:
                for mine, new in zip(model.parameters(), other.parameters(), strict=True):
                    mine.data = new.data.clone()
            engine.load_weights(iter((model if elsewhere else other).named_parameters()), version=1)
    return found


def prompts_of(lengths: Sequence[int], seed: int = 0) -> list[tuple[int, ...]]:
    """One random prompt per length."""
    generator = np.random.default_rng(seed)
    return [tuple(int(t) for t in generator.integers(0, VOCABULARY, length)) for length in lengths]


def random_rows(
    lengths: Sequence[tuple[int, int]], advantages: Sequence[float], seed: int = 0, masked: bool = False
) -> list[Row]:
    """Rows of (prompt, completion) lengths; `masked` takes about a third of the completion tokens out of the loss."""
    generator = np.random.default_rng(seed)
    rows: list[Row] = []
    for (prompt, completion), advantage in zip(lengths, advantages, strict=True):
        mask = generator.random(completion) < 0.65 if masked else np.ones(completion, dtype=np.bool_)
        rows.append(
            Row(
                prompt_ids=tuple(int(t) for t in generator.integers(0, VOCABULARY, prompt)),
                token_ids=generator.integers(0, VOCABULARY, completion),
                mask=mask,
                sampler_logprobs=np.zeros(completion, dtype=np.float32),
                advantage=advantage,
            )
        )
    return rows


def rows_of(completions: Sequence[Completion], prompts: Sequence[Sequence[int]]) -> list[Row]:
    """Completions as rows of an update, one prompt each."""
    return [
        Row(tuple(prompt), c.token_ids, c.mask, c.sampler_logprobs, 1.0)
        for c, prompt in zip(completions, prompts, strict=True)
    ]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a model's parameters by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def scripted_group(rewards: Sequence[float], *, problem_id: str = "p0") -> Group:
    """A group whose completions are one token each."""
    problem = Problem(id=problem_id, prompt="?", answer="1", prompt_ids=(1, 2))
    one = np.ones(1)
    rollouts = [
        Rollout(
            Completion(0, problem_id, i, np.array([i]), -one.astype(np.float32), one.astype(np.bool_), "stop", 0),
            text=str(i),
            score=Score(reward, {"r": reward}, reward >= 0.99),
        )
        for i, reward in enumerate(rewards)
    ]
    return Group(problem, tuple(rollouts))


@dataclass
class Caught(OptimizerSet):
    """Keeps the gradients instead of stepping."""

    gradients: dict[str, Tensor] = field(default_factory=dict)

    def step(self, factor: float, *, loss: float = 0.0) -> tuple[float, bool]:
        self.gradients = {name: p.grad.clone() for name, p in self.masters.named if p.grad is not None}
        self.zero_grad()
        return 1.0, True


def logprobs_of(model: nn.Module, row: Row, temperature: float) -> Tensor:
    """[T] by a plain softmax of one row alone, every completion token."""
    ids = torch.tensor([[*row.prompt_ids, *row.token_ids]])
    spread = torch.softmax(model(input_ids=ids).logits[0] / temperature, dim=-1)
    return torch.stack([spread[len(row.prompt_ids) + t - 1, token] for t, token in enumerate(row.token_ids)]).log()


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """L2 norm of the difference over that of the second."""
    assert first.keys() == second.keys()
    off = sum(float((first[name].double() - second[name].double()).square().sum()) for name in second)
    return (off / sum(float(g.double().square().sum()) for g in second.values())) ** 0.5
