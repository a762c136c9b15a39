"""The parts by hand: an engine samples, a rubric scores, a trainer trains; each can be used without the others.

python examples/parts.py MODEL_FOLDER PROBLEMS OUT_FOLDER
"""

import sys

import torch

import gruppo
from gruppo.config.schema import DataFields, OptimizerFields
from gruppo.data import ProblemStream
from gruppo.monitor.progress import SilentProgress
from gruppo.monitor.recorder import Recorder
from gruppo.monitor.run_folder import RunFolder
from gruppo.rewards import Reward
from gruppo.training.controls import Controls
from gruppo.training.models import load_model
from gruppo.training.optimizers import adamw
from gruppo.training.policy import LossSettings

model_folder, data, out = sys.argv[1:]
torch.set_num_threads(1)

# Problems to tokens, with the model's own chat template.
loaded = load_model(model_folder, "float32", torch.device("cpu"))
renderer = gruppo.ChatRenderer(loaded.tokenizer)
problems, _ = renderer.encode_problems(gruppo.load_problems([data], DataFields()).problems)

# The engine: tokens in, tokens out, and the log-prob of each under the distribution it was drawn from.
engine = gruppo.LocalEngine(loaded.model, renderer, context_length=loaded.context_length)
sampling = gruppo.SamplingParams(max_completion_length=12, stop_token_ids=renderer.stop_token_ids(loaded.eos_token_ids))
first = problems[0]
request = gruppo.GroupRequest(0, first.id, first.prompt_ids, group_size=4, sampling=sampling, seed=0)
(completions,) = engine.generate([request])
texts = [renderer.decode(completion.token_ids) for completion in completions]
print("log-probs ", " ".join(f"{completion.sampler_logprobs.mean():.3f}" for completion in completions))

# The rubric: weighted rewards of texts.
digits = Reward("digits", lambda completion: sum(map(str.isdigit, completion)) / max(1, len(completion)))
rubric = gruppo.Rubric([digits, Reward("length", lambda completion: len(completion) / 100, weight=-0.1)])
scores = rubric.score(first, texts, [completion.truncated for completion in completions])
print("rewards   ", " ".join(f"{score.reward:.3f}" for score in scores))

# The trainer: the loop over all of them.
rate, steps = 2e-2, 10
loss = LossSettings(temperature=1.0, epsilon=0.2, epsilon_high=0.2, beta=0.0, updates_per_batch=1)
trainer = gruppo.Trainer(
    stream=ProblemStream(problems, seed=0),
    collector=gruppo.Collector(engine, rubric, renderer, sampling, group_size=8),
    policy=gruppo.LocalPolicy(loaded.model, adamw(loaded.model, OptimizerFields(), rate), loss, token_budget=4096),
    recorder=Recorder(RunFolder.open(out, {"example": "parts"}), SilentProgress()),
    controls=Controls(steps),
    learning_rate=rate,
    lr_factor=lambda step: 1.0,
    prompts_per_step=4,
    seed=0,
)
trainer.run()
print("training  ", " ".join(f"{row['reward/digits']:.3f}" for row in RunFolder(out).read_metrics()))
