"""What 8-bit moments, a 4-bit base and recomputed activations save and cost, on a random model of 8 layers of 512.

Run: python benchmarks/adapters.py
adapters.md has the results.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from gruppo.config.schema import OptimizerFields
from gruppo.training.logprobs import token_logprobs
from gruppo.training.optimizers import build_optimizers
from gruppo.training.packing import MicroBatch, Row, micro_batches
from gruppo.training.quantization import four_bit_settings, keep_differentiable
from gruppo.training.recompute import recompute_activations

CPU = torch.device("cpu")
ROWS, PROMPT, COMPLETION, VOCABULARY = 8, 64, 192, 1000
REPEATS = 5
MIB = 2**20


def model(folder: Path, four_bit: bool = False) -> nn.Module:
    settings = four_bit_settings(torch.bfloat16) if four_bit else None
    loaded = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16 if four_bit else torch.float32, quantization_config=settings
    )
    keep_differentiable(loaded)
    return loaded.eval()


def batch() -> MicroBatch:
    generator = np.random.default_rng(0)
    rows = [
        Row(
            prompt_ids=tuple(generator.integers(0, VOCABULARY, PROMPT).tolist()),
            token_ids=generator.integers(0, VOCABULARY, COMPLETION),
            mask=np.ones(COMPLETION, dtype=np.bool_),
            sampler_logprobs=np.zeros(COMPLETION, dtype=np.float32),
            advantage=1.0,
        )
        for _ in range(ROWS)
    ]
    (micro,) = micro_batches(rows, 10**6, CPU)
    return micro


def size(state: object) -> int:
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list) else ()
    return sum(map(size, parts))


def median_seconds(action: Callable[[], object]) -> float:
    """Of CPU time, on one thread: a busy machine tells little by its clock."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return statistics.median(times)


def moments(folder: Path, optimizer: str, micro: MicroBatch) -> None:
    net = model(folder)
    built = build_optimizers(net, OptimizerFields.model_validate({"optimizer": optimizer}), 1e-3)
    token_logprobs(net, micro, 1.0).logprobs.sum().backward()
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]

    def step() -> None:
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter.grad = gradient
        built.step(1.0)

    seconds = median_seconds(step)
    print(f"{optimizer:<16} moments     {size(built.state_dict()['optimizers']) / MIB:7.1f} MiB  step {seconds:.2f} s")


def activations(folder: Path, recompute: bool, micro: MicroBatch) -> None:
    net = model(folder)
    if recompute:
        recompute_activations(net)
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    kept: dict[int, Tensor] = {}  # by storage: one that several keep is counted once

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_logprobs(net, micro, 1.0).logprobs.sum().backward()
    held = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    seconds = median_seconds(lambda: token_logprobs(net, micro, 1.0).logprobs.sum().backward())
    name = "recomputed" if recompute else "kept"
    print(f"{name:<16} activations {held / MIB:7.1f} MiB  forward and backward {seconds:.2f} s")


def base(folder: Path, four_bit: bool, micro: MicroBatch) -> None:
    net = model(folder, four_bit)
    net = net if four_bit else net.to(torch.bfloat16)
    with torch.no_grad():
        seconds = median_seconds(lambda: token_logprobs(net, micro, 1.0))
    name = "4 bits" if four_bit else "bfloat16"
    print(f"{name:<16} weights     {size(net.state_dict()) / MIB:7.1f} MiB  forward {seconds:.2f} s")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=2048, num_hidden_layers=8, num_attention_heads=8
    )
    micro = batch()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        LlamaForCausalLM(shape).save_pretrained(folder)
        for optimizer in ("adamw", "adamw_8bit"):
            moments(folder, optimizer, micro)
        for recompute in (False, True):
            activations(folder, recompute, micro)
        for four_bit in (False, True):
            base(folder, four_bit, micro)


if __name__ == "__main__":
    main()
