"""Rules of a sentence for all that is no number and no reward: names, tasks, algorithms, evaluation, hardware."""

from gruppo.config.hardware import gpu, unnamed
from gruppo.config.presets import PRESETS
from gruppo.config.sentence_names import known_set
from gruppo.config.sentence_reading import Reading

_DET = r"(?:(?:the|a|an|my|our|some|these|those|all|its|of|given|following|own|local|hub) )*"
_DATA = r"(?:(?:training|train) )?(?:data ?-?sets?|data|(?:problem|question|puzzle|task) sets?|problems?|questions?|puzzles?|tasks?|examples?|exercises?|prompts|rows|samples|file|corpus|benchmark)"
_MODEL = r"(?:(?:base|starting|start|pre-?trained|language|instruct|policy|reasoning) )*(?:models?|checkpoints?|weights|policy|llm|adapter)"
_NAMED = r"(?: (?:called|named|at|in|from|is|=|:|of|file|folder|located|under|stored|be|dataset|data))*"
_TRAIN = r"(?:grpo-train|grpo-tune|train|training|fine-?tune|fine-?tuning|fine tune|post-?train|post-?training|tune|tuning|improve|improving|teach|optimi[sz]e|retrain)"
_ALGORITHM = r"(?:grpo|dapo|gspo|cispo|rloo|reinforce|dr (?:\. )?grpo|dr-grpo|dr\.grpo|deepseekmath)"
_EVALUATE = r"(?:evaluat(?:e|ed|ing|ion)|eval|test(?:ed|ing)?|validat(?:e|ed|ing|ion)|measur(?:e|ed|ing)|report(?:ed|ing)?|benchmark(?:ed|ing)?)"
_WHEN = r"(?: (?:it|the|model|result|results|this|afterwards|after|before|and|both|then|finally|training|during|progress|at|end|accuracy|pass@1|scores?|performance))*?"

TASK_PHRASES: tuple[tuple[str, str], ...] = (
    ("logic", r"knights?[- ]and[- ]knaves?"),
    ("instruction_following", r"instruction[- ]following|following instructions|follow instructions"),
    ("qa", r"question[- ]answering|answer(?:ing)? (?:factual|trivia|knowledge) questions|factual question[- ]answering"),
)  # fmt: skip
TASKS: tuple[tuple[str, str], ...] = (
    ("logic", r"logic(?:al)?(?:[- ]reasoning)?|reasoning puzzles"),
    ("qa", r"q&a|qa|trivia"),
    ("math", r"(?:grade[- ]school )?(?:math|maths|mathematics|mathematical|arithmetic)(?:[- ](?:reasoning|problem[- ]solving|word))?"),
    ("code", r"(?:python )?(?:code|coding|programming)(?:[- ](?:generation|reasoning))?"),
)  # fmt: skip
_TASK_BEFORE = (
    r"(?:(?:an?|the|better|good|get|become|is|be|at|in|for|to|on|how|solve|solving|do|doing|write|writing|reasoning|of|with|strong|"
    r"improve|capable|that|can|solves|writes|it|purpose) )*"
)
_TASK_AFTER = (
    r"(?:[- ](?:model|llm|solver|assistant|tutor|expert|generator|agent|skills?|abilit(?:y|ies)|capabilit(?:y|ies)|accuracy|reasoning|problems?|questions?|tasks?|puzzles?|exercises|"
    r"preset|performance|answers?))*"
)
_SPELLED = {"dr . grpo": "dr-grpo", "dr grpo": "dr-grpo", "dr.grpo": "dr-grpo"}


def read_names(reading: Reading) -> None:
    """Cues to what each name is. Those with a noun go first, for they use it."""
    for match in reading.find(rf"(?:(?:and|also|then|finally) )*(?:sav(?:e|ing)|writ(?:e|ing)|stor(?:e|ing)|put(?:ting)?|output)(?: (?:it|the|run|model|results?|everything|output|to|in|into|under|at|folder|directory))* NAME|output[-_ ]?(?:dir|directory|folder)(?: (?:=|:|is|to|at))* NAME|(?:with )?(?:the )?(?:output|results?|run)(?: (?:goes?|should|going|go|be|saved))* (?:in|at|to|into|under) NAME"):
        reading.cue(next(filter(None, match.groups), None), "output")
    _evaluation(reading)
    for match in reading.find(rf"{_DET}(?:(?:base )?model|base|data(?: ?set)?|training data)(?: (?:=|:|is))+ NAME"):
        reading.cue(match.groups[0], "data" if "data" in reading.words.text(match.tokens[:-1]).lower() else "model")
    for match in reading.find(rf"(?:(?:to )?(?:solve|answer|do|handle|work on)(?: the)? )?(?:problems?|questions?|puzzles?|tasks?|examples?|exercises?|rows) (?:from|in|of) (?:{_DET}(?:{_DATA} )?)NAME"):
        reading.cue(match.groups[0], "data")
    for match in reading.find(r"(?:the )?train(?:ing)? (?:split|set|part|half|portion) (?:of|from|in) NAME"):
        reading.cue(match.groups[0], "data")
    for match in reading.find(rf"(?:based|building|built) (?:on|upon|off) (?:{_DET}(?:{_MODEL}{_NAMED} )?)NAME|on top of NAME"):
        reading.cue(match.groups[0] or match.groups[1], "model")
    for match in reading.find(rf"(?:start|starting|started|beginning|begin|initiali[sz]ed?|initiali[sz]ing|continue|continuing|going on) (?:from|with|at) (?:{_DET}(?:{_MODEL}{_NAMED} )?)NAME"):
        reading.cue(match.groups[0], "model")
    for match in reading.find(rf"NAME (?:as|is|for|to be) {_DET}(?:{_MODEL}|base|start|starting point)|(?:use|take|with|using) NAME as {_DET}(?:{_MODEL}|base)"):
        reading.cue(match.groups[0] or match.groups[1], "model")
    for match in reading.find(rf"NAME (?:as|is|to be) {_DET}(?:{_DATA})|NAME for {_DET}training"):
        reading.cue(match.groups[0] or match.groups[1], "data")
    for match in reading.find(rf"{_DET}{_MODEL}{_NAMED} NAME"):
        reading.cue(match.groups[0], "model")
    for match in reading.find(rf"NAME (?:{_MODEL})"):
        reading.cue(match.groups[0], "model")
    for match in reading.find(rf"{_DET}{_DATA}{_NAMED} NAME"):
        reading.cue(match.groups[0], "data")
    for match in reading.find(rf"NAME (?:{_DATA})"):
        reading.cue(match.groups[0], "data")
    _prepositions(reading)


def _prepositions(reading: Reading) -> None:
    """What verbs and prepositions say, which is less; the words may serve others too."""
    for match in reading.find(rf"{_TRAIN} (?:(?:of|the|up|my|our) )*NAME", keep=True):
        reading.cue(match.groups[0], "model")
    for match in reading.find(rf"(?:make|making|teach|help|get|give) NAME", keep=True):
        reading.cue(match.groups[0], "model")
    for match in reading.find(r"with NAME on NAME", keep=True):
        reading.facts[f"with {match.groups[0]} on {match.groups[1]}"] = match.tokens
    for match in reading.find(r"from NAME", keep=True):
        reading.cue(match.groups[0], "model", strong=False)
    neutral = {
        match.groups[0]
        for match in reading.find(rf"(?:run|apply|do|use|start|launch|running|applying|try|trying) (?:the )?{_ALGORITHM} (?:on|to) NAME", keep=True)
    }
    for match in reading.find(r"(?:on|over|against) NAME", keep=True):
        if match.groups[0] in neutral:
            reading.facts[f"object {match.groups[0]}"] = match.tokens
        else:
            reading.cue(match.groups[0], "data", strong=False)
    for name in neutral:
        reading.facts.setdefault(f"object {name}", range(int(name or 0), int(name or 0) + 1))


def joined_names(reading: Reading) -> list[tuple[int, int]]:
    """Pairs of names with "and", a comma or the like between them."""
    pairs: list[tuple[int, int]] = []
    for match in reading.find(r"NAME(?: (?:,|and|&|\\+|plus|or|then|as well as|together with|along with))+(?: (?:on|the|also|then))* NAME", keep=True):
        first, second = (int(group or 0) for group in match.groups)
        pairs.append((first, second))
    for match in reading.find(r"(?:plus|as well as|together with|along with|both)"):
        reading.facts["joined"] = match.tokens
    return pairs


# ---- evaluation


def _evaluation(reading: Reading) -> None:
    """`evaluate on X`; `X for evaluation`; `evaluate on the test split`; `evaluate it`."""
    held = rf"(?:(?:the|a|an|some|its|held[- ]?out|unseen|evaluation|eval|validation|test|separate) )*(?:(?:{_DATA}|set|split)(?: (?:from|in|of|at))? )?"
    lead = r"(?:(?:and|then|also|finally|please|afterwards) )*"
    split = r"(?:the |its |their )?(?:held[- ]?out |official )?test(?:[- ](?:split|set|part|data|problems|questions))"
    for match in reading.find(rf"{lead}{_EVALUATE}{_WHEN} (?:on|with|using|against|over) {split}(?: (?:of|from) (?:NAME|it|the data|the same data))?"):
        _test_split(reading, match.groups[0], match.tokens)
    for match in reading.find(rf"{lead}{_EVALUATE}{_WHEN} (?:on|with|using|against|over|from|=|:) {held}NAME"):
        reading.cue(match.groups[0], "eval")
        reading.facts["evaluation"] = match.tokens
    for match in reading.find(rf"(?:with |using |and )*NAME (?:is )?(?:as|for|held[- ]?out for|held[- ]?out as|reserved for|kept for) {_DET}(?:held[- ]?out )?(?:evaluation|eval|testing|validation|test)(?: (?:set|data|problems|split))?"):
        reading.cue(match.groups[0], "eval")
        reading.facts["evaluation"] = match.tokens
    for match in reading.find(rf"{lead}{_DET}(?:held[- ]?out|evaluation|eval|validation|test)(?: (?:set|data|problems|questions|split))+{_NAMED} NAME"):
        reading.cue(match.groups[0], "eval")
        reading.facts["evaluation"] = match.tokens
    for match in reading.find(rf"(?:with|using|draw|drawing|and|,)* ?NUM samples (?:per|for each|a) (?:problem|question|prompt) (?:in|for|during|at) (?:the )?(?:evaluation|eval)"):
        reading.claim("eval.samples", reading.number(match.groups[0]), match.tokens)
    for match in reading.find(rf"{lead}(?:evaluate|evaluated|evaluating|evaluation)(?: (?:with|using|of|at|from|and))* NUM samples(?: (?:per|for each|a|each)(?: (?:problem|question|prompt))?)?"):
        reading.claim("eval.samples", reading.number(match.groups[0]), match.tokens)
        reading.facts.setdefault("evaluation", match.tokens)
    greedy = rf"{lead}(?:evaluate|evaluating|evaluated)(?: (?:it|the model|the result|afterwards|after training|before and after(?: training)?|before|after|then|both|at the end))*"
    for match in reading.find(greedy):
        reading.facts.setdefault("evaluation", match.tokens)


def _test_split(reading: Reading, name: str | None, tokens: range) -> None:
    """The test split of a data set: of that named, or of the one trained on."""
    reading.facts["evaluation"] = tokens
    if name is None:
        reading.facts["test split"] = tokens
        return
    text = reading.words.tokens[int(name)].text
    known = known_set(text)
    if known is not None and known.test is not None:
        reading.claim("eval.data", known.test, tokens)
        reading.facts[f"cited {name}"] = tokens
    else:
        reading.ask("eval.data", f"how is the test split of {text} called? Write name:config/split", tokens)
        reading.facts[f"cited {name}"] = tokens


# ---- tasks and algorithms


def read_task_phrases(reading: Reading) -> None:
    """Tasks whose words would mean something else by themselves: "question answering" names no data."""
    for task, pattern in TASK_PHRASES:
        for match in reading.find(f"(?:(?:for|at|in|on|do|to|an?|good) )*(?:{pattern})(?: (?:models?|llm|assistant|system|skills?|solver|abilit(?:y|ies)))?"):
            reading.claim("task", task, match.tokens)
            if task == "logic":
                reading.facts["knights"] = match.tokens


def read_tasks(reading: Reading) -> None:
    """What the model is to be good at, as a preset; and algorithms beside GRPO, as presets too."""
    known = "|".join(name.replace("_", "[-_ ]") for name in PRESETS)
    spelled = rf"(dr (?:\. )?grpo|dr\.grpo|{known}|(?!(?:and|or|to|for|in|on|with|it|train|the)\b)[a-z][a-z_-]+)"
    names = r"(dapo|gspo|cispo|rloo|deepseekmath|dr (?:\. )?grpo|dr-grpo|dr\.grpo)"
    verb = "(?:with|using|use|by|via|run|apply)"  # before `reinforce`, which is a word of English too
    for match in reading.find(rf"(?:(?:with|using|use|the|and) )*({known}) presets?"):
        _preset(reading, match.groups[0] or "", match.tokens)
    for match in reading.find(rf"(?:(?:with|using|use|the|and) )*presets?(?: (?:is|=|:|called|of|from))* {spelled}"):
        _preset(reading, match.groups[0] or "", match.tokens)
    for match in reading.find(rf"(?:(?:with|using|use|the|and|as|in|by) )*(?:{names}|(deepseek-r1|reinforce))(?: paper)?(?:'s)? (?:preset|settings|hyperparameters|recipe|configuration|values|paper)"):
        _preset(reading, match.groups[0] or match.groups[1] or "", match.tokens)
    for match in reading.find(rf"(?:(?:with|using|use|the|and|by|via|run|apply) )*{names}(?: (?:algorithm|loss|variant|method|training))?"):
        _preset(reading, match.groups[0] or "", match.tokens)
    for match in reading.find(rf"{verb} (reinforce)(?: (?:algorithm|loss))?"):
        _preset(reading, match.groups[0] or "", match.tokens)
    for match in reading.find(r"group relative policy optimi[sz]ation(?: \( grpo \))?|(?:(?:with|using|by|via) )?(?:reinforcement learning|rl|rlvr)(?: (?:training|run|fine-tuning))?(?: \( grpo \))?|grpo-(?:train|tune|training|tuning)|(?:the )?grpo(?:[- ](?:algorithm|method|training|run|style))?"):
        reading.facts.setdefault("algorithm", match.tokens)
    for task, pattern in TASKS:
        for match in reading.find(f"{_TASK_BEFORE}(?:{pattern}){_TASK_AFTER}"):
            reading.claim("task", task, match.tokens)


def _preset(reading: Reading, spelled: str, tokens: range) -> None:
    reading.claim("preset", _SPELLED[spelled] if spelled in _SPELLED else spelled, tokens)


def read_mentions(reading: Reading) -> None:
    """Models and data that are spoken of without a name, once all that names them has been read."""
    own = r"(?:(?:fine-?tuned|finetuned|sft|own|existing|trained|pre-?trained|pretrained|last|previous|latest|local|custom|best|current|base|language|instruct|supervised|post-?trained|saved|already) )*"
    for match in reading.find(rf"(?:(?:using|with|from|use|on|of|take|to) )*((?:my|our|this|that|the|an existing) {own}(?:models?|checkpoints?|weights|llm|policy|adapter))(?: (?:that )?(?:i|we)(?:'ve)? (?:have )?(?:trained|fine-?tuned|saved|made)(?: (?:before|yesterday|already|earlier))?)?"):
        reading.facts.setdefault("my model", match.tokens)
    for match in reading.find(r"(?:an?|the|one) (?:(?:good|better|reasoning|language|strong|capable|new) )*(?:model|llm|reasoner)"):
        reading.facts.setdefault("a model", match.tokens)
    for match in reading.find(rf"(?:(?:on|with|from|using|in|over|my|our|own|the|some|these|those|training|local) )*(?:data ?-?sets?|data|problems|questions|puzzles|tasks|examples|exercises)"):
        reading.facts.setdefault("my data", match.tokens)
    for match in reading.find(r"(?:(?:an?|the|with|using|some|my|our|fine-?tuned|sft|own|trained) )*FAMILY(?: (?:base|instruct|models?|checkpoint))*"):
        reading.facts["family"] = match.tokens
        reading.facts["family word"] = range(int(match.groups[0] or 0), int(match.groups[0] or 0) + 1)
    for _ in reading.find(r"(?:would|i'd|we'd) like(?: (?:you|us|it))?(?: to)?|fine tun(?:e|ed|ing)|in order to|such that|as follows|with the following|i would|go ahead(?: and)?|as well|set (?:up|to)|(?:during|in|for) (?:the )?training|(?:do|perform|be|get|become|performs?) (?:much )?better|(?:and )?(?:then|afterwards|finally|first)(?= (?:,|train|run|apply|use|fine-?tune|do|start|improve|<n))|(?:to )?(?:solve|solving) (?:them|it|these|those)|kick(?:ing)? off|fire up|spin up|start(?:ing)? off|set off|at (?:an?|the)"):
        pass


# ---- hardware

_GPU = r"(t4|v100|l4|a10g?|a100|a100-40|a100-80|h100|h200|b200|l40s?|a6000|rtx3090|rtx4090)(s?)"


def read_hardware(reading: Reading) -> None:
    """The device, and the GPU by name or memory."""
    lead = r"(?:(?:on|using|with|use|run|it|in|for|has|my|the|a|an|single|nvidia|tesla|i|have|we|machine) )*"
    memory = r"(?:[- ](?:\( )?(?:(?:with|of|which|that|has) )*NUM ?(?:gb|gib|g)(?: (?:of|vram|memory|ram))*(?: \))?)?"
    cuda = r"(?:(?:on|device|=|:|using|gpu) )*cuda(?: : NUM)?"
    for match in reading.find(rf"{lead}(?:NUM (?:x )?)?(?:NUM ?gb )?{_GPU}{memory}(?: gpus?)?"):
        count, size, name, _, later = match.groups
        _gpu(reading, name or "", count, later or size, match.tokens)
    for match in reading.find(rf"{lead}(?:NUM (?:x )?)?(?:NUM gb )?gpus?{memory}"):
        count, size, later = match.groups
        _gpu(reading, "", count, later or size, match.tokens)
    for match in reading.find(cuda):
        number = match.groups[0]
        reading.claim("device", "cuda" if number is None else f"cuda:{reading.number(number):g}", match.tokens)
    for match in reading.find(r"(?:(?:on|using|with|device|=|:|the|a|my|only) )*cpus?(?: only)?"):
        reading.claim("device", "cpu", match.tokens)
    for match in reading.find(r"(?:(?:on|using|with|device|=|:|the|a|my) )*(?:mps|apple silicon)"):
        reading.claim("device", "mps", match.tokens)


def _gpu(reading: Reading, name: str, count: str | None, memory: str | None, tokens: range) -> None:
    many = 1.0 if count is None else reading.number(count)
    if many != 1:
        text = "a run is one process on one device: which one? Such as --device cuda:0"
        reading.ask("device", text, tokens)
        return
    size = None if memory is None else reading.number(memory)
    found = gpu(name, size)
    reading.claim("device", "cuda", tokens)
    if found is not None:
        reading.claim("machine", found, tokens)
    elif size is not None:
        reading.claim("machine", unnamed(size), tokens)


# ---- negation


def clause(reading: Reading, at: int) -> range:
    """The tokens from a negation to the end of its clause."""
    stop = at
    while stop < len(reading.words.tokens):
        token = reading.words.tokens[stop]
        if stop > at and (token.text in ("but", "and", "then") or (token.kind == "mark" and token.text in ".;!?,")):
            break
        stop += 1
    return range(at, stop)
