"""Rules of a sentence for tasks and algorithms, hardware, and for what is spoken of without a name."""

from gruppo.config.hardware import gpu, unnamed
from gruppo.config.presets import PRESETS
from gruppo.config.sentences.reading import Reading, any_of

PHRASES: tuple[tuple[str, str], ...] = (
    ("knights and knaves", "(knight~and~knave | knights~and~knaves | knight~and~knaves)"),
    ("instruction_following", "(instruction~following | following instructions | follow instructions)"),
    ("qa", "(question~answering | (answer | answering) (factual | trivia | knowledge) questions)"),
)
"""Tasks whose words would mean something else by themselves: "question answering" names no data."""

TASKS: tuple[tuple[str, str], ...] = (
    ("logic", "(logic | logical | logic~reasoning | logical~reasoning | reasoning puzzles)"),
    ("qa", "(q&a | qa | trivia)"),
    (
        "math",
        "(grade~school)? ((math | maths | mathematics | mathematical | arithmetic) (reasoning | problem~solving | "
        "word)? | math-reasoning | math-word)",
    ),
    ("code", "(python)? (code~generation | code~reasoning | code | coding | programming)"),
)
_BEFORE = (
    "(an? | the | better | good | get | become | is | be | at | in | for | to | on | how | solve | solving | do | "
    "doing | write | writing | reasoning | of | with | strong | improve | capable | that | can | solves | writes | "
    "it | purpose | factual)*"
)
_MODEL = "models? | llm | solver | assistant | tutor | expert | generator | agent | system"
_SKILL = "skills? | ability | abilities | capability | capabilities | accuracy | performance"
_AFTER = f"({_MODEL} | {_SKILL} | reasoning | problems? | questions? | tasks? | puzzles? | exercises | answers?)*"
_BY = "(with | using | use | the | and | by | via | run | apply | as | in)*"
_VARIANT = r"dapo | gspo | cispo | rloo | deepseekmath | dr (\.)? grpo | dr[-.]grpo"
_KNOWN = any_of([name.replace("_", "~") for name in PRESETS])
_SPELLED = {"dr . grpo": "dr-grpo", "dr grpo": "dr-grpo", "dr.grpo": "dr-grpo"}


def read_task_phrases(reading: Reading) -> None:
    """The tasks that go before everything else."""
    for task, pattern in PHRASES:
        for match in reading.find(
            f"(for | at | in | on | do | to | an? | good | factual)* {pattern} ({_MODEL} | {_SKILL})?"
        ):
            reading.claim("task", task, match.tokens)


def read_tasks(reading: Reading) -> None:
    """What the model is to be good at, as a preset; and algorithms beside GRPO, as presets too."""
    patterns = (
        f"{_BY} <{_KNOWN}> presets?",
        f"{_BY} presets? (is | = | : | called | of | from)* <{_VARIANT} | {_KNOWN} | !(and | or | to | for | in | "
        "on | with | it | train | the) [a-z][a-z_-]+>",
        f"(following)? {_BY} <{_VARIANT} | deepseek-r1 | reinforce> (paper)? ('s)? (settings | hyperparameters | "
        "recipe | configuration | values | paper)",
        f"{_BY} <{_VARIANT}> (algorithm | loss | variant | method | training)?",
        "(with | using | use | by | via | run | apply) <reinforce> (algorithm | loss)?",
    )
    for match in reading.find(*patterns):
        spelled = match.first or ""
        reading.claim("preset", _SPELLED.get(spelled, spelled), match.tokens)
    algorithm = (
        r"group relative policy optimi[sz]ation (\( grpo \))?",
        r"(with | using | by | via)? (reinforcement learning | rl | rlvr) (training | run | fine-tuning)? (\( grpo "
        r"\))?",
        "(grpo-train | grpo-tune | grpo-training | grpo-tuning)",
        "(the)? grpo (algorithm | method | training | run | style)?",
    )
    for match in reading.find(*algorithm):
        reading.facts.setdefault("algorithm", match.tokens)
    for task, pattern in TASKS:
        for match in reading.find(f"{_BEFORE} {pattern} {_AFTER}"):
            reading.claim("task", task, match.tokens)


# ---- spoken of without a name


def read_mentions(reading: Reading) -> None:
    """Models and data that have no name, and turns of phrase, once all else has been read."""
    own = (
        "(fine-?tuned | sft | own | existing | trained | pre-?trained | last | previous | latest | local | custom "
        "| best | current | base | language | instruct | supervised | post-?trained | saved | already)*"
    )
    model = "(models? | checkpoints? | weights | llm | policy | adapter)"
    trained = (
        "((that)? (i | we | i've | we've) (have)? (trained | fine-?tuned | saved | made) (before | yesterday | "
        "already | earlier)?)?"
    )
    lead = "(using | with | from | use | on | of | take | to)*"
    for match in reading.find(f"{lead} (my | our | this | that | the | an existing) {own} {model} {trained}"):
        reading.facts.setdefault("my model", match.tokens)
    reading.pass_over(
        "(an? | the | one) (good | better | reasoning | language | strong | capable | new)* (model | llm | reasoner)"
    )
    data = "(data~sets? | data | problems | questions | puzzles | tasks | examples | exercises)"
    whose = "(on | with | from | using | in | over | my | our | own | the | some | these | those | training | local)*"
    for match in reading.find(f"{whose} {data}"):
        reading.facts.setdefault("my data", match.tokens)
    of = "(an? | the | with | using | some | my | our | fine-?tuned | sft | own | trained)*"
    for match in reading.find(f"{of} FAMILY (base | instruct | models? | checkpoint)*"):
        reading.facts["family"] = range(int(match.first or 0), int(match.first or 0) + 1)
    reading.pass_over(
        "(and)? (then | afterwards | finally | first) &(, | train | run | apply | use | fine~tune | do | start | "
        "improve | NAME)",
        "(would | i'd | we'd) like (you | us | it)? (to)?",
        "(fine~tune | fine~tuned | fine~tuning | in order to | such that | as follows | with the following | as well)",
        "(create | build | produce | develop | obtain | begin) !(NAME)",
        "over &(NAME)",
        "(go ahead | set up | set to | kick off | kicking off | fire up | spin up | start off | set off | at the)",
        "(during | in | for) (the)? training",
        "(do | perform | performs | be | get | become) (much)? better",
        "(to)? (solve | solving) (them | it | these | those)",
    )


# ---- hardware

_GPU = (
    "t4s? | v100s? | l4s? | a10g?s? | a100s? | a100-40s? | a100-80s? | h100s? | h200s? | b200s? | l40s? | a6000s? "
    "| rtx3090s? | rtx4090s?"
)
_MEMORY = r"((\()? (with | of | which | that | has)* NUM (gb | gib) (of | vram | memory | ram)* (\))?)?"


def read_hardware(reading: Reading) -> None:
    """The device, and the GPU by name or memory."""
    lead = (
        "(on | using | with | use | run | it | in | for | has | my | the | an? | single | nvidia | tesla | i | "
        "have | we | machine)*"
    )
    for match in reading.find(f"{lead} (NUM (x)?)? (NUM gb)? <{_GPU}> {_MEMORY} (gpus?)?"):
        count, size, name, later = match.groups
        _gpu(reading, name or "", count, later or size, match.tokens)
    for match in reading.find(f"{lead} (NUM (x)?)? (NUM gb)? <gpus | gpu> {_MEMORY}"):
        count, size, name, later = match.groups
        _gpu(reading, name or "", count, later or size, match.tokens)
    for match in reading.find("(on | device | = | : | using | gpu)* cuda (: NUM)?"):
        device = "cuda" if match.first is None else f"cuda:{reading.number(match.first):g}"
        reading.claim("device", device, match.tokens)
    for match in reading.find("(on | using | with | device | = | : | the | an? | my | only)* cpus? (only)?"):
        reading.claim("device", "cpu", match.tokens)
    for match in reading.find("(on | using | with | device | = | : | the | an? | my)* (mps | apple silicon)"):
        reading.claim("device", "mps", match.tokens)


def _gpu(reading: Reading, name: str, count: str | None, memory: str | None, tokens: range) -> None:
    single = name.removesuffix("s") if gpu(name) is None else name
    many = (1 if name == single else 2) if count is None else reading.number(count)
    if many != 1:
        text = "a run is one process on one device: which one? Such as --device cuda:0"
        reading.ask("device", text, tokens)
        return
    size = None if memory is None else reading.number(memory)
    reading.claim("device", "cuda", tokens)
    found = gpu(single, size) or (None if size is None else unnamed(size))
    if found is not None:
        reading.claim("machine", found, tokens)
