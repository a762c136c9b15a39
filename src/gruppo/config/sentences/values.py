"""Rules of a sentence for values: every option of the schema under its own name, and under what people call it."""

from gruppo.config.load import ALIASES
from gruppo.config.reference import Option, options
from gruppo.config.sentences.reading import Reading, any_of

_OF = (
    r"(\( (beta | epsilon | g | lr | r | t | mu | alpha | kl | tau | [a-z]+_[a-z_]+) \))? (of | to | is | at | = | "
    ": | as | set | equal | value | should | must | will | shall | be)*"
)
_THE = "(an? | the | peak | random | max | maximum | sampling)*"
_EACH = "(per | for each | for every | in each | in every | an? | each | of each | /)"
_ROW = "(prompts? | problems? | questions? | puzzles? | tasks? | examples? | rows? | group | one)"
_TEXT = "(completions? | answers? | responses? | outputs? | solutions? | generations?)"
_UP_TO = "(at most | up to | no more than | not more than | max | maximum | a maximum of | no longer than)"
_LIMIT = f"({_UP_TO} | limited to | capped at | cut at | cut off at | truncated at)"
_DRAW = (
    "(at most | up to | maximum | exactly | a total of | sampling | samples? | drawing | draws? | generating | "
    "generates? | taking)?"
)
_STEPS = "(training | optimi[sz]er | grpo | update | gradient)? (steps? | iterations?)"

BEFORE: tuple[tuple[str, str], ...] = (
    ("lora_alpha", "(lora)? alpha"),
    ("learning_rate", "(peak)? (learning~rate | lr | step size)"),
    ("beta", "(kl | kl-divergence) (divergence | penalty | coefficient | coef | weight | term | loss)* (with "
             "(weight | coefficient))?"),
    ("max_grad_norm", "(gradient | grad | gradient~norm) (clip | clipping | norm)"),
    ("epsilon", "(ppo)? (clip | clipping) (range | ratio | epsilon | parameter)?"),
    ("temperature", "(sampling | rollout)? (temperature | temp)"),
    ("group_size", "(groups? | g) (size | count)?"),
    ("seed", "(random)? seed"),
    ("updates_per_batch", "(mu | inner epochs)"),
    ("max_completion_length", "(max | maximum | longest)? (completion | response | output | answer) length"),
    ("max_prompt_length", "(max | maximum | longest)? prompt length"),
)  # fmt: skip
"""Phrases before a number, beside each option's own name."""

AFTER: tuple[tuple[str, str], ...] = (
    ("warmup_steps", "(steps of warm~up | warm~up steps | warm~up)"),
    ("prompts_per_step", f"(prompts? | problems? | questions?) {_EACH} (training)? step"),
    ("group_size", f"(samples? | rollouts? | {_TEXT}) {_EACH} {_ROW}"),
    ("max_completion_length", f"(new)? tokens {_EACH} {_TEXT}"),
    ("max_completion_length", "new tokens"),
    ("steps", f"{_STEPS} (of grpo | long)?"),
    ("group_size", "(completions | generations | rollouts) (each)?"),
    ("threads", "(cpu)? threads?"),
    ("updates_per_batch", f"((updates | passes) {_EACH} batch | passes over (each | every | the) batch)"),
    ("minibatches", f"mini-?batches ({_EACH} (batch | step))?"),
)
"""Phrases after a number."""

AROUND: tuple[tuple[str, str], ...] = (
    ("max_completion_length", f"{_TEXT} (lengths?)? (of | with | that have | have | are | be)? {_LIMIT} NUM tokens"),
    ("max_completion_length", f"{_UP_TO} NUM tokens ({_EACH} | in the | in an?) {_TEXT}"),
    ("max_completion_length", f"(with | of)? {_UP_TO} NUM new tokens"),
    ("max_completion_length", f"NUM tokens? {_TEXT}"),
    ("max_completion_length", f"(limit | limiting) (the)? {_TEXT} to NUM tokens"),
    ("max_prompt_length", f"prompts (of | with)? {_LIMIT} NUM tokens"),
    (
        "warmup_steps",
        "(the)? (learning~rate | lr | rate)? (is)? (warm~up | warmed~up | warming~up | warms~up) (the (learning)? "
        "rate)? (over | for | of | during) (the)? (first)? NUM steps",
    ),
    ("lora_rank", r"lora (adapters?)? (\( | ,)? (of | with | at)? (an?)? (rank | r) (of | = | : | is)* NUM (\))?"),
    ("lora_rank", "(an?)? rank (of | = | :)* NUM lora (adapters?)?"),
    ("lora_rank", "(NUM rank lora | lora NUM | r = NUM)"),
    (
        "prompts_per_step",
        "(each | every | per | an?) (training)? step (should | will | uses? | has | have | takes? | with | sees | "
        "of | to)* NUM (prompts | problems | questions)",
    ),
)
"""Phrases with the number inside."""

_LOG = (
    "((log | logging | logs | report | reporting | mirror) (it | metrics | everything | the)*)? (to | with | in | on)"
)
WORDS: tuple[tuple[str, object, str], ...] = (
    ("precision", "bfloat16", "(in)? (bf16 | bfloat16 | bfloat) (precision)?"),
    ("precision", "float32", "(in)? (fp32 | float32 | single precision) (precision)?"),
    ("quantize", "4bit", "(with)? 4-?bit (quanti[sz]ation | weights | base | precision | base weights)?"),
    ("lora_rank", 0, "full (parameter)? (fine~tuning | training)"),
    ("lora_rank", 0, "(full-parameter | all (the)? (weights | parameters))"),
    ("optimizer", "muon", "(the)? muon (optimi[sz]er)?"),
    ("optimizer", "adamw_8bit", "((the)? 8-?bit adamw? (optimi[sz]er)? | adamw? (in | with) 8-?bit)"),
    ("optimizer", "adamw", "(the)? adamw (optimi[sz]er)?"),
    ("lr_schedule", "cosine", "(an?)? cosine (lr | learning~rate)? (schedule | decay | annealing)"),
    ("lr_schedule", "linear", "(an?)? linear (lr | learning~rate)? (schedule | decay)"),
    ("lr_schedule", "constant", "(an?)? constant (schedule | &((peak)? (lr | learning~rate)))"),
    ("report_to", "wandb", f"{_LOG} (wandb | weights (and | &) biases)"),
    ("report_to", "tensorboard", f"{_LOG} tensorboard"),
    ("report_to", "trackio", f"{_LOG} trackio"),
)
"""Phrases that stand for a value. They go before the numbers, whose phrases would use "learning rate" up."""

_APART = "!(steps? | iterations? | epochs? | tokens | prompts? | completions? | samples?)"


def read_amounts(reading: Reading) -> None:
    """`the first 500 problems of X`, before anything takes the problems for the data."""
    reading.pass_over(
        "((the)? (number | count | amount) of | (for)? a total of)",
        "(stop | stopping) (after | at) &(NUM (training)? steps)",
    )
    rows = "(problems? | questions? | rows | lines | examples? | puzzles? | tasks)"
    for match in reading.find(f"(the)? (first | top | only) NUM &({rows})"):
        reading.claim("max_problems", reading.number(match.first), match.tokens)


def read_values(reading: Reading) -> None:
    """Numbers, switches and choices. A phrase before its number goes first: "group size 16 steps 300" has two."""
    _asked(reading)
    _switches(reading)
    _numbers(reading, AROUND, "{}")
    _checkpoints(reading)
    for option in options():
        if "." not in option.name and not option.repeated:
            _own_name(reading, option)
    _numbers(reading, BEFORE, f"{_THE} {{}} {_OF} NUM (tokens)? {_APART}")
    _numbers(reading, AFTER, f"{_DRAW} NUM {{}}")
    _numbers(reading, BEFORE, f"{_THE} {{}} {_OF} NUM")
    _numbers(reading, (("steps", _STEPS), ("lora_rank", "(an?)? rank")), f"{{}} {_OF} NUM")
    _numbers(reading, BEFORE, f"{_THE} NUM {{}}")
    _lora(reading)


def _numbers(reading: Reading, phrases: tuple[tuple[str, str], ...], form: str) -> None:
    for option, phrase in phrases:
        for match in reading.find(form.format(phrase)):
            reading.claim(option, reading.number(match.first), match.tokens)


def _own_name(reading: Reading, option: Option) -> None:
    """An option under its own name or an alias, whichever way its words are joined."""
    for name in (option.name, *(alias for alias, own in ALIASES.items() if own == option.name)):
        phrase = name.replace("_", "~")
        if option.type in ("INT", "NUMBER") and name not in ("steps", "iterations"):
            for match in reading.find(f"{_THE} {phrase} {_OF} NUM (tokens)?"):
                reading.claim(option.name, reading.number(match.first), match.tokens)
        elif option.choices:
            choices = f"<{any_of(option.choices)}>"
            for match in reading.find(f"(the)? {phrase} {_OF} {choices}", f"{choices} {phrase}"):
                reading.claim(option.name, match.first, match.tokens)
        elif option.type == "true|false":
            for match in reading.find(f"{phrase} ((= | :) true | (turned | switched)? on | enabled)?"):
                reading.claim(option.name, True, match.tokens)


def _checkpoints(reading: Reading) -> None:
    """`save a checkpoint every 20 steps to X`."""
    saved = (
        "(save | saving | write | writing | keep | with | and)* (an?)? (checkpoints? | checkpointing | save | "
        "saving) (is saved)? every NUM (steps?)? ((to | in | into | under) NAME)?"
    )
    for match in reading.find(saved):
        number, place = match.groups
        reading.claim("checkpoint_every", reading.number(number), match.tokens)
        reading.cue(place, "output")


def _asked(reading: Reading) -> None:
    """What people say that gruppo has no option for."""
    for match in reading.find("(for)? NUM epochs?"):
        reading.ask("steps", "gruppo counts optimizer steps, not epochs: how many steps?", match.tokens)
    batch = f"(an? | the)? (global | train | training)? batch~size {_OF} NUM"
    for match in reading.find(batch, "(batch | batches) of NUM"):
        text = "there is no batch size: how many problems per step (each has group_size completions)?"
        reading.ask("prompts_per_step", text, match.tokens)


def _switches(reading: Reading) -> None:
    for option, value, phrase in WORDS:
        for match in reading.find(phrase):
            reading.claim(option, value, match.tokens)
    for match in reading.find("(in)? NUM bits?"):
        if reading.number(match.first) == 4:
            reading.claim("quantize", "4bit", match.tokens)
        else:
            reading.ask("quantize", "only 4-bit weights are there: take 4bit, or none?", match.tokens)


def _lora(reading: Reading) -> None:
    """LoRA without a rank."""
    for match in reading.find("(with | using)? qlora"):
        reading.claim("quantize", "4bit", match.tokens)
        reading.facts["lora"] = match.tokens
    for match in reading.find(
        "(with | using | by | via | an?)? (lora | low-rank) (adapters? | fine-tuning | training)?"
    ):
        reading.facts["lora"] = match.tokens
