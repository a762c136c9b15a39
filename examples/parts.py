"""The parts by hand: an engine samples, a rubric scores, a trainer trains; each can be used without the others.

python examples/parts.py MODEL_FOLDER PROBLEMS OUT_FOLDER
"""

import sys

import torch

import gruppo
from gruppo.config.schedules import Curriculum
from gruppo.config.schema import DataFields
from gruppo.data import ProblemStream
from gruppo.monitor.progress import SilentProgress
from gruppo.monitor.recorder import Recorder
from gruppo.monitor.run_folder import RunFolder
from gruppo.rewards import Reward
from gruppo.training.controls import Controls
from gruppo.training.losses import LossSettings
from gruppo.training.models import load_model
from gruppo.training.optimizers import adamw

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
scores = rubric.score(first, texts, [c.truncated for c in completions], [len(c) for c in completions])
print("rewards   ", " ".join(f"{score.reward:.3f}" for score in scores))

# The trainer: the loop over all of them.
numbers = {"steps": 10, "prompts_per_step": 4, "max_completion_length": 12, "learning_rate": 2e-2, "warmup_ratio": 0}
config = gruppo.Config(model=model_folder, data=data, lr_schedule="constant", **numbers)
trainer = gruppo.Trainer(
    stream=ProblemStream(problems, seed=0),
    collector=gruppo.Collector(engine, rubric, renderer, sampling, group_size=8),
    policy=gruppo.LocalPolicy(loaded.model, adamw(loaded.model, config, config.learning_rate), token_budget=4096),
    recorder=Recorder(RunFolder.open(out, {"example": "parts"}), SilentProgress()),
    controls=Controls(config.steps),
    curriculum=Curriculum(config),
    loss=LossSettings(),
    seed=0,
)
trainer.run()
print("training  ", " ".join(f"{row['reward/digits']:.3f}" for row in RunFolder(out).read_metrics()))
