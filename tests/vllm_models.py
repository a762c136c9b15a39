"""Models that vLLM runs on a CPU: the demo's as a llama, and what the tests of vLLM share."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from gruppo.rollout.vllm.settings import installed_version

needs_vllm = pytest.mark.skipif(installed_version() is None, reason="vllm is not installed: scripts/setup-vllm")

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim")
KEPT = (
    *SIZES,
    *("num_key_value_heads", "max_position_embeddings", "tie_word_embeddings", "rms_norm_eps", "rope_parameters"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)


def as_llama(source: Path, target: Path) -> Path:
    """A qwen2 model as the llama that computes the same: vLLM takes heads of qwen2 for hidden size over heads wide."""
    model = AutoModelForCausalLM.from_pretrained(source)
    config = LlamaConfig(**{name: getattr(model.config, name) for name in KEPT}, attention_bias=True)
    llama = LlamaForCausalLM(config)
    for name, parameter in llama.named_parameters():
        if name.endswith("o_proj.bias"):  # qwen2 has none
            torch.nn.init.zeros_(parameter)
    missing, unexpected = llama.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected
    assert all(name.endswith("o_proj.bias") for name in missing)
    llama.generation_config = model.generation_config
    shutil.copytree(source, target)
    (target / "model.safetensors").unlink()
    llama.save_pretrained(target)
    return target
