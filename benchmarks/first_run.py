"""The shape of a user's first run: a 0.5B Qwen2 of random weights on GSM8K, two steps of GRPO, memory and seconds.

    python benchmarks/first_run.py --data train.jsonl [--out DIR] [--precision float32|bfloat16] [--lora-rank 8]

The reward is the share of digits in the completion: it varies even for random weights, so the weights really move,
which is asserted. Prints one JSON object.
"""

import argparse
import json
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

REWARD = '''def digits(completion: str) -> float:
    """Share of digits among the characters of a completion."""
    return sum(character.isdigit() for character in completion) / max(1, len(completion))
'''


def build_tokenizer(data: Path, vocabulary: int):
    """A word-level tokenizer as large as Qwen2's, of the data's words and numbers counted up."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<|endoftext|>", "<|user|>", "<|end|>", "<|assistant|>"]
    splitter = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    tokens = dict.fromkeys(special)
    for line in data.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        tokens |= dict.fromkeys(word for word, _ in splitter.pre_tokenize_str(row["question"] + " " + row["answer"]))
    number = 0
    while len(tokens) < vocabulary:
        tokens.setdefault(str(number))
        number += 1
    ids = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|endoftext|>")
    fast.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return fast


def build_model(folder: Path, data: Path, layers: int) -> None:
    """Qwen2-0.5B's shape with random weights: 494 million parameters, vocabulary 151,936."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = build_tokenizer(data, 151_936)
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def weights_moved(before: Path, after: Path) -> tuple[int, int]:
    """Weights that differ between two model folders, and all weights."""
    from safetensors import safe_open

    moved = total = 0
    with safe_open(before / "model.safetensors", "pt") as old, safe_open(after / "model.safetensors", "pt") as new:
        for name in old.keys():  # noqa: SIM118  not a dict
            first, second = old.get_tensor(name).float(), new.get_tensor(name).float()
            moved += int((first != second).sum())
            total += first.numel()
    return moved, total


def main() -> None:
    """Build the model, run `gruppo train` in a process of its own, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="GSM8K's train.jsonl")
    parser.add_argument("--out", type=Path, default=Path("runs/first-run"))
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--lora-rank", type=int, default=0)
    parser.add_argument("--layers", type=int, default=24, help="fewer, for a quick try")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--max-completion-length", type=int, default=64)
    arguments = parser.parse_args()
    model, run = arguments.out / "start-model", arguments.out / f"run-{arguments.precision}-{arguments.lora_rank}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not (model / "config.json").exists():
        subprocess.run(
            [sys.executable, __file__, "--build", str(model), str(arguments.data), str(arguments.layers)], check=True
        )
    shutil.rmtree(run, ignore_errors=True)
    reward = arguments.out / "digits.py"
    reward.write_text(REWARD)
    flags = {
        "model": model,
        "data": arguments.data,
        "out": run,
        "rewards": f"{reward}:digits",
        "steps": 2,
        "prompts-per-step": 2,
        "group-size": 4,
        "max-completion-length": arguments.max_completion_length,
        "learning-rate": 1e-5,
        "precision": arguments.precision,
        "lora-rank": arguments.lora_rank,
        "threads": arguments.threads,
    }
    command = [sys.executable, "-m", "gruppo", "train", "--no-check"]
    command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - start
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    moved, total = weights_moved(model, run / "model")
    assert moved > 0, "the weights did not move"
    keep = ("reward_mean", "reward_std", "grad_norm", "sampler_logprob_difference_max")
    keep += ("seconds_rollout", "seconds_update", "tokens_per_second")
    print(
        json.dumps(
            {
                "precision": arguments.precision,
                "lora_rank": arguments.lora_rank,
                "threads": arguments.threads,
                "python": platform.python_version(),
                "seconds_in_all": round(seconds, 1),
                "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
                "weights_moved_share": round(moved / total, 4),
                "steps": [{name: metric[name] for name in keep} for metric in metrics],
            }
        )
    )


if __name__ == "__main__":
    if len(sys.argv) == 5 and sys.argv[1] == "--build":
        build_model(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
