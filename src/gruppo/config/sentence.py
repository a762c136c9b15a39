"""Plain English to a plan: `Train a math model using GRPO on openai/gsm8k based on Qwen/Qwen2.5-0.5B.`

1. The sentence is cut into words, names and numbers (sentence_words.py, sentence_names.py).
2. Rules read it (sentence_values.py, sentence_rewards.py, sentence_rules.py). Each takes the words that it understands,
   and no word is taken twice.
3. What is left is put together here: which name is what, defaults that the words ask for, and what must be asked.

Nothing is guessed. Words that are left over, a negation, two values for one option, or a name that could be two things
are questions. The same sentence gives the same plan; nothing but the existence of files by the names in it is looked at.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from gruppo.config.configure import LORA_RANK
from gruppo.config.hardware import Machine, fitted
from gruppo.config.plan import Plan, Question, Slot, flags_of
from gruppo.config.presets import PRESETS, canonical, layer, unknown
from gruppo.config.ranges import LORA_FACTOR
from gruppo.config.reference import options
from gruppo.config.schema import Config
from gruppo.config.sentence_names import Exists, known_set, near_set, with_owner
from gruppo.config.sentence_reading import Claim, Reading
from gruppo.config.sentence_roles import Roles, assign
from gruppo.config.sentence_rewards import read_reward_models, read_rewards
from gruppo.config.sentence_rules import clause, read_hardware, read_mentions, read_names, read_task_phrases, read_tasks
from gruppo.config.sentence_values import read_amounts, read_values
from gruppo.config.sentence_words import EXCEPT, GLUE, NEGATIONS, VERBS, Words
from gruppo.errors import ConfigError

LONGEST = 1000
"""Characters of a sentence: rules take time that grows faster than its length."""
EXAMPLE = "Train a math model using GRPO on openai/gsm8k based on Qwen/Qwen2.5-0.5B."
_ORDER = ("model", "data", "preset", "rewards", "steps", "group_size", "prompts_per_step", "learning_rate")
_REWARD_OF = {"math": "math", "code": "code", "qa": "qa"}
"""By task, the reward that it is always about. Others depend on the data."""


def here(name: str) -> bool:
    """Whether a file or folder of this name is at hand."""
    return Path(name).expanduser().exists()


def is_sentence(argument: str) -> bool:
    """Whether an argument is a sentence rather than the path of a config: it has white space, and is no file."""
    return len(argument.split()) > 1 and not Path(argument).exists()


def read_sentence(sentence: str, given: Mapping[str, Any] | None = None, exists: Exists = here) -> Plan:
    """The plan that a sentence describes.

    Args:
        sentence: plain English.
        given: values beside it, by dotted name, which stand over the sentence and answer its questions; also answers
            to `partial_at` (a number) and `scale` (true).
        exists: whether there is a file or folder of a name.

    Raises:
        ConfigError: it is no English sentence about a run, or a value in it is out of range.
    """
    if len(sentence) > LONGEST:
        raise ConfigError(f"the sentence has {len(sentence):,} characters, wanted at most {LONGEST:,}: write a YAML config")
    reading = Reading(Words(sentence, exists))
    read_amounts(reading)
    read_task_phrases(reading)
    read_reward_models(reading)
    read_hardware(reading)
    read_names(reading)
    read_rewards(reading)
    read_values(reading)
    read_tasks(reading)
    roles = assign(reading)
    read_mentions(reading)
    _refuse_foreign(reading)
    draft = _Draft(reading, roles, dict(given or {}), exists)
    return draft.plan()


def _left_over(reading: Reading) -> list[int]:
    """Words and numbers that nothing has used, and that matter."""
    tokens = reading.words.tokens
    return [
        index
        for index, token in enumerate(tokens)
        if index not in reading.used
        and (token.kind == "number" or (token.kind == "word" and token.text not in GLUE and token.text not in NEGATIONS))
    ]


def _refuse_foreign(reading: Reading) -> None:
    """Refuse what is no English, or not about a run."""
    tokens = reading.words.tokens
    plain = [index for index, token in enumerate(tokens) if token.kind == "word"]
    left = [index for index in _left_over(reading) if tokens[index].kind == "word"]
    verb = any(token.text in VERBS for token in tokens)
    something = reading.claims or reading.words.names() or reading.facts
    if something and (verb or len(left) * 2 <= len(plain)):
        return
    path = " There is no file of this name either." if reading.words.sentence.endswith((".yaml", ".yml")) else ""
    what = ", ".join(f"'{reading.words.text([index])}'" for index in left[:6])
    raise ConfigError(
        f"this is not understood{f' ({what})' if what else ''}: gruppo reads plain English about a run, such as "
        f'"{EXAMPLE}", or the path of a YAML config.{path}'
    )


class _Draft:
    """A plan on its way: slots by option, and questions."""

    def __init__(self, reading: Reading, roles: Roles, given: dict[str, Any], exists: Exists) -> None:
        self._reading = reading
        self._words = reading.words
        self._roles = roles
        self._given = given
        self._flags = flags_of(given)
        self._exists = exists
        self._slots: dict[str, Slot] = {}
        self._questions: list[Question] = []
        self._notes: list[str] = []
        self._claims: list[Claim] = []

    def plan(self) -> Plan:
        """Put it together."""
        self._negations()
        for option, value in self._flags.items():
            self._slots[option] = Slot(option, _typed(option, value), "flag", "")
        self._names()
        self._values()
        self._task_and_presets()
        self._rewards()
        self._evaluation()
        self._lora()
        self._machine()
        self._asked()
        self._words_left()
        order = sorted(self._slots, key=lambda option: (_ORDER + (option,)).index(option))
        plan = Plan(
            self._words.sentence, tuple(self._slots[option] for option in order), tuple(self._questions), tuple(self._notes)
        )
        if not any(question.about in ("words", "not") for question in self._questions):
            self._check(plan)
        return plan

    # ---- putting and asking

    def _say(self, option: str, value: Any, tokens: range) -> None:
        if option not in self._slots:
            self._slots[option] = Slot(option, value, "said", self._words.text(tokens))

    def _assume(self, option: str, value: Any, why: str, tokens: range = range(0)) -> None:
        if option not in self._slots:
            self._slots[option] = Slot(option, value, "assumed", self._words.text(tokens), why)

    def _ask(self, about: str, text: str, tokens: range | list[int] = range(0)) -> None:
        if about not in self._given and not any(question.about == about for question in self._questions):
            self._questions.append(Question(about, text, self._words.text(tokens)))

    # ---- the parts

    def _negations(self) -> None:
        """Ask about each negation, and take nothing from its clause."""
        tokens = self._words.tokens
        denied: set[int] = set()
        for index, token in enumerate(tokens):
            but = token.text == "but" and index > 0 and tokens[index - 1].text in EXCEPT
            if (token.text in NEGATIONS or but) and index not in self._reading.used and index not in denied:
                part = clause(self._reading, index)
                denied |= set(part)
                text = f"'{self._words.text(part)}': say what is wanted, not what is not; or leave it out, if that is all"
                self._ask("not", text, part)
        self._claims = [claim for claim in self._reading.claims if not set(claim.tokens) & denied]
        self._roles = self._roles.without(denied)
        self._denied = denied

    def _names(self) -> None:
        for index, text in self._roles.open.items():
            both = "model" in self._flags and "data" in self._flags
            if not both and self._words.tokens[index].text not in _texts(self._flags):
                self._ask(self._words.tokens[index].text, text, [index])
        self._model()
        self._data()
        self._one("eval.data", self._roles.of("eval"))
        self._one("output_dir", self._roles.of("output"))

    def _one(self, option: str, names: list[int]) -> None:
        values = {self._words.tokens[index].text for index in names}
        if len(values) > 1:
            self._ask(option, f"{_quoted(sorted(values))}: which of them?", names)
        elif names:
            self._say(option, self._words.tokens[names[0]].text, range(names[0], names[0] + 1))

    def _model(self) -> None:
        names = self._roles.of("model")
        values = sorted({self._words.tokens[index].text for index in names})
        facts = self._reading.facts
        mine = facts["my model"] if "my model" in facts else None
        if "family" in facts and not values:
            word = self._words.text(facts["family word"])
            self._ask("model", f"which {word}? Its folder or whole name, such as Qwen/Qwen2.5-0.5B", facts["family"])
        elif len(values) > 1:
            self._ask("model", f"two models, {_quoted(values)}: which of them is trained?", names)
        elif mine is not None and (not values or _is_another(self._words.text(mine))):
            self._ask("model", f"which folder is {_yours(self._words.text(mine))}?", mine)
        elif not values and not self._roles.open:
            self._ask("model", "which folder or hub name is the model to train?")
        elif not values:
            return
        else:
            self._found_model(values[0], names[0])

    def _found_model(self, written: str, index: int) -> None:
        tokens = range(index, index + 1)
        name = with_owner(written, self._exists)
        spoken = self._words.text(tokens)
        if name != written or spoken != written:
            self._assume("model", name, f"'{spoken.rstrip('.')}' is {name} on the hub", tokens)
        elif index in self._roles.by_elimination:
            self._assume("model", name, "the other name is the data", tokens)
        else:
            self._say("model", name, tokens)

    def _data(self) -> None:
        names = self._roles.of("data")
        values = list(dict.fromkeys(self._words.tokens[index].text for index in names))
        if len(values) > 1:
            text = f"two data sets, {_quoted(values)}: which of them, or all as one set (--data {' '.join(values)})?"
            self._ask("data", text, names)
        elif not values and self._roles.open and "my data" not in self._reading.facts:
            return
        elif not values:
            mine = self._reading.facts["my data"] if "my data" in self._reading.facts else range(0)
            self._ask("data", "which file, folder or hub name has the problems?", mine)
        else:
            self._found_data(values[0], names[0])

    def _found_data(self, written: str, index: int) -> None:
        tokens = range(index, index + 1)
        known, near = known_set(written), near_set(written)
        if self._exists(written) or (known is None and near is None):
            if index in self._roles.by_elimination:
                self._assume("data", written, "the other name is the model", tokens)
            else:
                self._say("data", written, tokens)
        elif known is None:
            self._ask("data", f"'{written}' is not known, {near} is: which is meant?", tokens)
        else:
            name, colon, rest = written.partition(":")
            whole = known.hub_name + colon + rest
            if name != known.hub_name:
                self._assume("data", whole, f"'{name}' is {known.hub_name} on the hub", tokens)
            else:
                self._say("data", whole, tokens)

    def _values(self) -> None:
        special = ("task", "preset", "rewards", "machine")
        for option in dict.fromkeys(claim.option for claim in self._claims if claim.option not in special):
            claims = [claim for claim in self._claims if claim.option == option]
            values = list(dict.fromkeys(_tidy(claim.value) for claim in claims))
            if any(str(value).startswith("cuda:") for value in values):
                values = [value for value in values if value != "cuda"]
            if len(values) > 1:
                tokens = [index for claim in claims for index in claim.tokens]
                self._ask(option, f"{option} is both {' and '.join(map(str, values))}: which?", sorted(tokens))
            else:
                self._say(option, values[0], claims[0].tokens)

    def _task_and_presets(self) -> None:
        tasks = [claim for claim in self._claims if claim.option == "task"]
        papers = [claim for claim in self._claims if claim.option == "preset"]
        names = list(dict.fromkeys(str(claim.value) for claim in tasks))
        if len(names) > 1:
            self._ask("preset", f"two tasks, {_quoted(names)}: which preset is to be taken?", _all(tasks))
            return
        wanted = [*names, *dict.fromkeys(str(claim.value) for claim in papers)]
        wrong = [name for name in wanted if canonical(name) is None]
        if wrong:
            self._ask("preset", unknown(wrong[0]), _all(papers))
            return
        said = [canonical(name) or name for name in wanted]
        kinds = [PRESETS[name].kind for name in dict.fromkeys(said)]
        if kinds.count("paper") > 1:
            self._ask("preset", f"two algorithms, {_quoted(said)}: which?", _all(papers))
        elif said:
            own = list(dict.fromkeys(said))
            self._say("preset", own[0] if len(own) == 1 else own, _span([*tasks, *papers]))

    def _rewards(self) -> None:
        claims = [claim for claim in self._claims if claim.option == "rewards"]
        tasks = [claim for claim in self._claims if claim.option == "task"]
        values = [value for number, value in enumerate(claim.value for claim in claims) if value not in [c.value for c in claims[:number]]]
        if values:
            rewards = [self._with_answer(value) for value in values]
            levels = any(isinstance(value, dict) and cast(dict[str, Any], value).get("mode") == "levels" for value in rewards)
            if levels and "partial_at" not in self._given and len(rewards) == 1 and "rewards" not in self._flags:
                why = "qa is the built-in reward that has three levels; it compares short answers"
                self._assume("rewards", rewards, why, _span(claims))
            elif levels:
                why = "qa is the built-in reward that has three levels; it compares short answers"
                self._assume("rewards", rewards, why, _span(claims))
            else:
                self._say("rewards", rewards, _span(claims))
        elif len({claim.value for claim in tasks}) == 1 and (reward := self._reward_of(tasks[0])):
            self._say("rewards", [reward], tasks[0].tokens)
        elif "correct" in self._reading.facts and "rewards" not in self._flags:
            said = self._words.text(self._reading.facts["correct"])
            self._notes.append(f'"{said}": 1 for right and 0 for wrong is what every built-in reward gives; which one, the form of the data says')

    def _reward_of(self, task: Claim) -> str | None:
        if task.value == "logic":
            return "logic" if "knights" in self._reading.facts else None
        return _REWARD_OF[task.value] if task.value in _REWARD_OF else None

    def _with_answer(self, reward: Any) -> Any:
        if isinstance(reward, dict) and "partial_at" in self._given:
            return {**cast(dict[str, Any], reward), "partial_at": self._given["partial_at"]}
        return reward

    def _evaluation(self) -> None:
        """Held-out problems: those named, or the test split of a known data set."""
        facts = self._reading.facts
        data = self._slots["data"].value if "data" in self._slots else None
        known = known_set(data) if isinstance(data, str) and not self._exists(data) else None
        test = known.test if known is not None else None
        if "eval.data" in self._slots or any(question.about == "eval.data" for question in self._questions):
            return
        if test is not None and data != test:
            if "test split" in facts:
                self._say("eval.data", test, facts["test split"])
            else:
                self._assume("eval.data", test, "the held-out problems of the same data set, before and after")
        elif "evaluation" in facts and not any(claim.option == "eval.data" for claim in self._claims):
            self._ask("eval.data", "on which held-out problems is it evaluated?", facts["evaluation"])

    def _lora(self) -> None:
        facts = self._reading.facts
        if "lora" in facts and not set(facts["lora"]) & self._denied:
            self._assume("lora_rank", LORA_RANK, f"LoRA of rank {LORA_RANK}, where none is said", facts["lora"])
        rank = self._slots["lora_rank"].value if "lora_rank" in self._slots else 0
        if rank and str(rank) != "0":
            values = layer(self._presets())
            rate = values["learning_rate"][0] if "learning_rate" in values else Config.model_fields["learning_rate"].default
            self._assume("learning_rate", float(f"{rate * LORA_FACTOR:g}"), f"ten times {rate:g}, for LoRA")

    def _presets(self) -> list[str]:
        value = self._slots["preset"].value if "preset" in self._slots else []
        return [value] if isinstance(value, str) else list(value)

    def _machine(self) -> None:
        machines = [claim for claim in self._claims if claim.option == "machine"]
        if len({claim.value for claim in machines}) != 1:
            if machines:
                self._ask("device", "two kinds of GPU: which?", _all(machines))
            return
        found = cast(Machine, machines[0].value)
        own = {option: slot.value for option, slot in self._slots.items() if "." not in option and option in Config.model_fields}
        own = {option: value for option, value in own.items() if option not in ("model", "data", "preset", "rewards")}
        for option, (value, why) in fitted(found, self._presets(), own).items():
            self._assume(option, value, why)

    def _asked(self) -> None:
        for ask in self._reading.asks:
            reward = ask.about in ("partial_at", "scale")
            if not (reward and "rewards" in self._flags) and not set(ask.tokens) & self._denied:
                self._ask(ask.about, ask.text, ask.tokens)

    def _words_left(self) -> None:
        left = [index for index in _left_over(self._reading) if index not in self._denied]
        if not left:
            return
        groups: list[list[int]] = []
        for index in left:
            if groups and index == groups[-1][-1] + 1:
                groups[-1].append(index)
            else:
                groups.append([index])
        what = ", ".join(f"'{self._words.text(group)}'{self._hint(group)}" for group in groups)
        self._ask("words", f"not understood: {what}. Say it in other words, give it as a flag, or leave it out", left)

    def _hint(self, group: list[int]) -> str:
        """A nearer word for one that is mistyped, or what to do about one that is known."""
        words = [self._words.tokens[index].text for index in group]
        for word in words:
            if word in _HINTS:
                return f" ({_HINTS[word]})"
        close = difflib.get_close_matches(words[0], _MEANT, n=1, cutoff=0.8) if len(words) == 1 else []
        return f" (did you mean '{close[0]}'?)" if close and close[0] != words[0] and len(words[0]) > 3 else ""

    def _check(self, plan: Plan) -> None:
        """Refuse a value that is out of range, whatever else is open."""
        from gruppo.config.load import check

        check(Config, {"model": "unnamed", "data": "unnamed", **plan.values}, "the sentence")


_MEANT = sorted(
    {word for word in (*GLUE, *VERBS) if len(word) > 3}
    | set(
        """math reasoning model steps completions learning rate group size problems questions temperature prompts based
        coding evaluate reward correct function iterations dataset""".split()
    )
)
"""What a mistyped word may have been."""
_HINTS = {
    "ppo": "gruppo trains with GRPO and its relatives: dapo, dr-grpo, gspo, cispo, rloo, reinforce",
    "dpo": "gruppo trains on problems that can be checked, not on preferences",
    "rlhf": "gruppo trains on problems that can be checked; a reward model is the reward `model`",
    "sft": "an SFT stage before GRPO is --sft.data FILE",
    "vllm": "the local engine samples; there is no other yet",
    "or": "one of them has to be said",
    "hours": "a run is as long as its steps",
    "tokens": "of the completion (max_completion_length) or of the prompt (max_prompt_length)?",
    "fp16": "precision is float32 or bfloat16",
    "float16": "precision is float32 or bfloat16",
}


def _typed(option: str, value: Any) -> Any:
    """A flag's text as what its option is, so that a file says 300 and not "300"."""
    kind = next(known.type for known in options() if known.name == option)
    if not isinstance(value, str) or kind not in ("INT", "NUMBER", "true|false"):
        return value
    try:
        return _tidy(float(value)) if kind != "true|false" else {"true": True, "false": False}[value.lower()]
    except (ValueError, KeyError):
        return value  # the schema says what is wrong with it


def _texts(flags: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for value in flags.values():
        found |= {str(item) for item in cast(list[Any], value)} if isinstance(value, (list, tuple)) else {str(value)}
    return found


def _is_another(words: str) -> bool:
    """Whether "my fine-tuned model" is meant beside a name, rather than the name itself."""
    return any(part in words.lower() for part in ("tuned", "sft", "own", "trained", "existing", "previous", "last"))


def _yours(words: str) -> str:
    """The words turned to the one who is asked."""
    kept = [word for word in words.split() if word.lower() not in ("using", "with", "from", "use", "on", "of", "take", "to")]
    turned = {"my": "your", "our": "your", "i": "you", "we": "you"}
    return " ".join(turned.get(word.lower(), word) for word in kept).rstrip(".,")


def _quoted(values: list[str]) -> str:
    return " and ".join(f"'{value}'" for value in values)


def _all(claims: list[Claim]) -> list[int]:
    return sorted({index for claim in claims for index in claim.tokens})


def _span(claims: list[Claim]) -> range:
    found = _all(claims)
    return range(found[0], found[-1] + 1)


def _tidy(value: Any) -> Any:
    """A whole number as one, so that a file says 300."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
