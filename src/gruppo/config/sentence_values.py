"""Rules of a sentence for values: every option of the schema under its own name, and under what people call it."""

from gruppo.config.load import ALIASES
from gruppo.config.reference import Option, options
from gruppo.config.sentence_reading import Reading

_OF = r"(?: \( (?:beta|epsilon|g|lr|r|t|mu|alpha|kl|tau|[a-z]+_[a-z_]+) \))?(?: (?:of|to|is|at|=|:|as|set|equal|value|should|must|will|shall|be))*"
_PER = r" (?:per|for each|for every|in each|in every|a|each|of each|/)"
_DRAW = r"(?:at most|up to|maximum|exactly|a total of|sampling|sample|samples|drawing|draw|draws|generating|generate|generates|taking)"
_TEXTS = r"(?:completions?|answers?|responses?|outputs?|solutions?|generations?)"

BEFORE: tuple[tuple[str, str], ...] = (
    ("lora_alpha", r"(?:lora )?alpha"),
    ("learning_rate", r"(?:peak )?(?:learning[- ]rate|lr|step size)"),
    ("beta", r"(?:the )?kl(?:[- ]divergence)?(?: (?:penalty|coefficient|coef|weight|term|loss))*(?: with)?(?: (?:weight|coefficient))?"),
    ("max_grad_norm", r"gradient(?:[- ]norm)? clip(?:ping)?|grad clip(?:ping)?|gradient norm"),
    ("epsilon", r"(?:ppo )?clip(?:ping)?(?: (?:range|ratio|epsilon|parameter))?"),
    ("temperature", r"(?:sampling |rollout )?(?:temperature|temp)"),
    ("group_size", r"(?:groups?|g)(?: (?:size|count))?"),
    ("prompts_per_step", r"(?:prompts|problems|questions)[- ]per[- ]step"),
    ("seed", r"(?:random )?seed"),
    ("updates_per_batch", r"(?:mu|inner epochs)"),
    ("max_completion_length", r"(?:max(?:imum)? |longest )?(?:completion|response|output|answer) length"),
    ("max_prompt_length", r"(?:max(?:imum)? |longest )?prompt length"),
)  # fmt: skip
"""Phrases before a number, beside each option's own name."""

AFTER: tuple[tuple[str, str], ...] = (
    ("warmup_steps", r"(?:steps of )?warm-?up(?: steps)?|warm up steps"),
    ("prompts_per_step", rf"(?:prompts?|problems?|questions?){_PER} (?:training )?step"),
    ("group_size", rf"(?:samples?|rollouts?|{_TEXTS}){_PER} (?:prompts?|problems?|questions?|puzzles?|tasks?|examples?|rows?|group|one)"),
    ("max_completion_length", rf"(?:new )?tokens{_PER} {_TEXTS}|new tokens"),
    ("steps", r"(?:training |optimi[sz]er |grpo |update |gradient )?(?:steps?|iterations?)(?: of grpo| long)?"),
    ("group_size", r"(?:completions|generations|rollouts)(?: each)?"),
    ("threads", r"(?:cpu )?threads?"),
    ("updates_per_batch", rf"(?:updates|passes){_PER} batch|passes over (?:each|every|the) batch"),
    ("minibatches", rf"mini-?batches(?:{_PER} (?:batch|step))?"),
)
"""Phrases after a number."""

AROUND: tuple[tuple[str, str], ...] = (
    ("max_completion_length", rf"{_TEXTS}(?: lengths?)?(?: (?:of|with|that have|have|are|be))? (?:at most|up to|no more than|not more than|max|maximum|limited to|capped at|cut (?:off )?at|truncated at|a maximum of|no longer than) NUM tokens"),
    ("max_completion_length", rf"(?:at most|up to|no more than|max|maximum|a maximum of) NUM tokens(?:{_PER}| in (?:the|an?)) {_TEXTS}"),
    ("max_completion_length", r"(?:(?:with|of) )?(?:at most|up to|max|maximum|a maximum of) NUM new tokens"),
    ("max_completion_length", rf"NUM[- ]tokens? {_TEXTS}"),
    ("max_completion_length", rf"limit(?:ing)? (?:the )?{_TEXTS} to NUM tokens"),
    ("max_prompt_length", r"prompts(?: (?:of|with))? (?:at most|up to|no more than|max|maximum|limited to) NUM tokens"),
    ("warmup_steps", r"(?:(?:the )?(?:learning[- ]rate|lr|rate) )?(?:is )?warm(?:ing|ed|s)?[- ]?up(?: the (?:learning )?rate)? (?:over|for|of|during)(?: the)?(?: first)? NUM steps"),
    ("lora_rank", r"lora(?: adapters?)?(?: [(,])?(?: (?:of|with|at))?(?: an?)? (?:rank|r)(?: (?:of|=|:|is))* NUM(?: \))?"),
    ("lora_rank", r"(?:a )?rank(?: (?:of|=|:))* NUM lora(?: adapters?)?"),
    ("lora_rank", r"NUM rank lora(?: adapters?)?"),
    ("lora_rank", r"lora NUM"),
    ("lora_rank", r"r = NUM"),
    ("prompts_per_step", r"(?:each|every|per|a) (?:training )?step(?: (?:should|will|uses?|has|have|takes?|with|sees|of|to))* NUM (?:prompts|problems|questions)"),
)  # fmt: skip
"""Phrases with the number inside."""

WORDS: tuple[tuple[str, object, str], ...] = (
    ("precision", "bfloat16", r"(?:in )?(?:bf16|bfloat16|bfloat)(?: precision)?"),
    ("precision", "float32", r"(?:in )?(?:fp32|float32|single precision)(?: precision)?"),
    ("quantize", "4bit", r"(?:with )?(?:4-bit|4bit)(?: (?:quantization|quantisation|weights|base|precision|base weights))?|(?:in )?NUM bits?"),
    ("lora_rank", 0, r"full(?:[- ]parameter)? (?:fine-tuning|finetuning|fine tuning|training)|full-parameter|all (?:the )?(?:weights|parameters)"),
    ("optimizer", "muon", r"(?:the )?muon(?: optimi[sz]er)?"),
    ("optimizer", "adamw_8bit", r"(?:the )?(?:8-bit|8bit) adamw?(?: optimi[sz]er)?|adamw? (?:in|with) (?:8-bit|8bit)"),
    ("optimizer", "adamw", r"(?:the )?adamw(?: optimi[sz]er)?"),
    ("lr_schedule", "cosine", r"(?:an? )?cosine(?: (?:lr|learning[- ]rate))?(?: (?:schedule|decay|annealing))"),
    ("lr_schedule", "linear", r"(?:an? )?linear(?: (?:lr|learning[- ]rate))?(?: (?:schedule|decay))"),
    ("lr_schedule", "constant", r"(?:an? )?constant schedule"),
    ("report_to", "wandb", r"(?:(?:log(?:ging|s)?|report(?:ing)?|mirror(?:ed)?)(?: (?:it|metrics|everything|the))* )?(?:to|with|in|on) (?:wandb|weights (?:and|&) biases)"),
    ("report_to", "tensorboard", r"(?:(?:log(?:ging|s)?|report(?:ing)?|mirror(?:ed)?)(?: (?:it|metrics|everything|the))* )?(?:to|with|in|on) tensorboard"),
    ("report_to", "trackio", r"(?:(?:log(?:ging|s)?|report(?:ing)?|mirror(?:ed)?)(?: (?:it|metrics|everything|the))* )?(?:to|with|in|on) trackio"),
)  # fmt: skip
"""Phrases that stand for a value."""


def read_amounts(reading: Reading) -> None:
    """`the first 500 problems of X`, before anything takes the problems for the data."""
    for _ in reading.find(r"(?:the )?(?:number|count|amount) of|(?:for )?a total of|stop(?:ping)? (?:after|at)(?= <#\d+> (?:training )?steps)"):
        pass
    what = "(?=(?:problems?|questions?|rows|lines|examples?|puzzles?|tasks)(?: |$))"
    for match in reading.find(rf"(?:the )?(?:first|top|only) NUM(?= {what})"):
        reading.claim("max_problems", reading.number(match.groups[0]), match.tokens)


def read_values(reading: Reading) -> None:
    """Numbers, switches and choices. A phrase before its number goes first: "group size 16 steps 300" has two."""
    _asked(reading)
    for match in reading.find(r"(?:an? )?(?:constant|fixed)(?= (?:peak )?(?:lr|learning[- ]rate))"):
        reading.claim("lr_schedule", "constant", match.tokens)
    for option, phrase in AROUND:
        _numbers(reading, option, phrase)
    saved = r"(?:(?:save|saving|write|writing|keep|with|and) )*(?:a )?(?:checkpoints?|checkpointing|save|saving) (?:is saved )?every NUM(?: steps?)?(?: (?:to|in|into|under) NAME)?"
    for match in reading.find(saved):
        reading.claim("checkpoint_every", reading.number(match.groups[0]), match.tokens)
        reading.cue(match.groups[1], "output")
    known = [option for option in options() if "." not in option.name and not option.repeated]
    for option in known:
        _own_name(reading, option)
    for option, phrase in BEFORE:
        _numbers(reading, option, f"(?:an? |the )?(?:{phrase}){_OF} NUM(?: tokens)?(?! (?:steps?|iterations?|epochs?|tokens|prompts?|completions?|samples?)\\b)")
    for option, phrase in AFTER:
        _numbers(reading, option, rf"(?:{_DRAW} )?NUM (?:{phrase})")
    for option, phrase in BEFORE:
        _numbers(reading, option, f"(?:an? |the )?(?:{phrase}){_OF} NUM")
    _numbers(reading, "steps", rf"(?:training |optimi[sz]er |grpo )?(?:steps|iterations){_OF} NUM")
    for option, phrase in BEFORE:
        _numbers(reading, option, f"(?:an? |the )?NUM (?:{phrase})")
    for match in reading.find(r"(?:an? )?rank(?: (?:of|=|:))* NUM"):
        reading.claim("lora_rank", reading.number(match.groups[0]), match.tokens)
    _switches(reading)


def _numbers(reading: Reading, option: str, pattern: str) -> None:
    for match in reading.find(pattern):
        reading.claim(option, reading.number(match.groups[-1]), match.tokens)


def _own_name(reading: Reading, option: Option) -> None:
    """An option under its own name or an alias, whichever way its words are joined."""
    for name in (option.name, *(alias for alias, own in ALIASES.items() if own == option.name)):
        phrase = name.replace("_", "[-_ ]")
        if option.type in ("INT", "NUMBER"):
            pattern = f"(?:(?:an?|the|peak|random|max|maximum|sampling) )*{phrase}{_OF} NUM(?: tokens)?"
            _numbers(reading, option.name, pattern) if name not in ("steps", "iterations") else None
        elif option.choices:
            choices = "|".join(option.choices)
            for match in reading.find(f"(?:the )?{phrase}{_OF} ({choices})|({choices}) {phrase}"):
                reading.claim(option.name, match.groups[0] or match.groups[1], match.tokens)
        elif option.type == "true|false":
            for match in reading.find(rf"{phrase}(?: (?:=|:) true| (?:turned |switched )?on| enabled)?"):
                reading.claim(option.name, True, match.tokens)


def _asked(reading: Reading) -> None:
    """What people say that gruppo has no option for."""
    for match in reading.find(r"(?:for )?NUM epochs?"):
        text = "gruppo counts optimizer steps, not epochs: how many steps?"
        reading.ask("steps", text, match.tokens)
    for match in reading.find(rf"(?:an? |the )?(?:global |train(?:ing)? )?batch[- _]?size{_OF} NUM|batch(?:es)? of NUM"):
        text = "there is no batch size: how many problems per step (each has group_size completions)?"
        reading.ask("prompts_per_step", text, match.tokens)


def _switches(reading: Reading) -> None:
    for option, value, phrase in WORDS:
        for match in reading.find(phrase):
            number = next((group for group in match.groups if group is not None), None)
            if number is not None and reading.number(number) != 4:
                reading.ask("quantize", "only 4-bit weights are there: take them, or 16-bit ones?", match.tokens)
            else:
                reading.claim(option, value, match.tokens)
    for match in reading.find(r"(?:with |using )?qlora"):
        reading.claim("quantize", "4bit", match.tokens)
        reading.facts["lora"] = match.tokens
    for match in reading.find(r"(?:(?:with|using|by|via|a) )?(?:lora|low-rank)(?: adapters?| fine-tuning| training)?"):
        reading.facts["lora"] = match.tokens
