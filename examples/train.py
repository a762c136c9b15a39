"""Train a model on your own problems, with rewards that are Python functions: one with a name, and a lambda.

    python examples/train.py MODEL_FOLDER PROBLEMS OUT_FOLDER

The same command on the same OUT_FOLDER goes on where it stopped.
"""

import sys

import gruppo

model, problems, out = sys.argv[1:]
longest = 12


def digits(completion: str) -> float:
    """The share of digits: something that even an untrained model can learn in a few steps."""
    return sum(letter.isdigit() for letter in completion) / max(1, len(completion))


config = gruppo.Config(
    model=model,
    data=problems,
    output_dir=out,
    steps=15,
    prompts_per_step=8,
    group_size=8,
    max_completion_length=longest,
    learning_rate=2e-2,  # for a tiny untrained model; 1e-6 for a real one
    lr_schedule="constant",
    threads=1,
)
result = gruppo.train(config, rewards=[digits, lambda completion: -0.01 * abs(len(completion) - longest)])

for row in result.metrics:
    print(f"step {row['step']:2d}  reward {row['reward_mean']:.3f}  digits {row['reward/digits']:.3f}")
print(f"model  {result.model}")
