"""From what rules have read to a plan: each value once, what the words ask for besides, and what must be asked."""

from typing import Any, cast

from gruppo.config.configure import LORA_RANK
from gruppo.config.hardware import Machine, fitted
from gruppo.config.load import check
from gruppo.config.plan import Plan, Question, Slot, is_option
from gruppo.config.presets import PRESETS, canonical, layer, unknown
from gruppo.config.ranges import LORA_FACTOR
from gruppo.config.schema import Config
from gruppo.config.sentences.names import Exists, known_set, near_set, with_owner
from gruppo.config.sentences.reading import Claim, Reading
from gruppo.config.sentences.roles import Roles
from gruppo.config.sentences.telling import left_over_question, quoted, typed, whole, yours
from gruppo.config.sentences.words import EXCEPT, GLUE, NEGATIONS, VERBS

_ORDER = ("model", "data", "preset", "rewards", "steps", "group_size", "prompts_per_step", "learning_rate")
_REWARD_OF = {"math": "math", "code": "code", "qa": "qa", "knights and knaves": "logic"}
"""By task, the reward that it is always about. Others depend on the data."""
_PRESET_OF = {"knights and knaves": "logic"}
"""The preset of a task that has another name."""
_PUT_TOGETHER = frozenset({"task", "preset", "rewards", "machine"})
"""Claims that are no plain values."""
_OF_FORM = frozenset({"length", "language", "repetition", "reflection", "keywords"})
"""Rewards that look at the form alone: another has to say what is right."""
_ANOTHER = ("tuned", "sft", "own", "trained", "existing", "previous", "last")
"""Words of "my fine-tuned model" that tell it from a model named in the same sentence."""


def left_over(reading: Reading) -> list[int]:
    """Words and numbers that nothing has used, and that matter."""
    return [
        index
        for index, token in enumerate(reading.words.tokens)
        if index not in reading.used
        and (token.kind == "number" or (token.kind == "word" and token.text not in GLUE | NEGATIONS))
    ]


class Draft:
    """A plan on its way: slots by option, and questions."""

    def __init__(self, reading: Reading, roles: Roles, given: dict[str, Any], exists: Exists) -> None:
        self._reading = reading
        self._words = reading.words
        self._roles = roles
        self._given = given
        self._flags = {name: value for name, value in given.items() if is_option(name)}
        self._exists = exists
        self._denied: set[int] = set()
        self._slots: dict[str, Slot] = {}
        self._questions: list[Question] = []
        self._notes: list[str] = []

    def plan(self) -> Plan:
        """Put it together.

        Raises:
            ConfigError: a value is out of range.
        """
        self._slots = {name: Slot(name, typed(name, value), "flag", "") for name, value in self._flags.items()}
        self._negations()
        self._names()
        self._values()
        self._presets()
        self._rewards()
        self._evaluation()
        self._lora()
        self._machine()
        self._asked()
        if left := [index for index in left_over(self._reading) if index not in self._denied]:
            self._ask("words", left_over_question(self._words, left), left)
        order = sorted(self._slots, key=lambda option: (*_ORDER, option).index(option))
        slots = tuple(self._slots[option] for option in order)
        plan = Plan(self._words.sentence, slots, tuple(self._questions), tuple(self._notes))
        if not any(question.about in ("words", "not") for question in plan.questions):
            check(Config, {"model": "unnamed", "data": "unnamed", **plan.values}, "the sentence")
        return plan

    # ---- putting and asking

    def _say(self, option: str, value: Any, tokens: range) -> None:
        self._slots.setdefault(option, Slot(option, value, "said", self._words.text(tokens)))

    def _assume(self, option: str, value: Any, why: str, tokens: range = range(0)) -> None:
        self._slots.setdefault(option, Slot(option, value, "assumed", self._words.text(tokens), why))

    def _ask(self, about: str, text: str, tokens: range | list[int] = range(0)) -> None:
        if about not in self._given and all(question.about != about for question in self._questions):
            self._questions.append(Question(about, text, self._words.text(tokens)))

    def _value(self, option: str, default: Any) -> Any:
        return self._slots[option].value if option in self._slots else default

    def _claims(self, option: str) -> list[Claim]:
        """What is claimed of an option outside of negations."""
        return [claim for claim in self._reading.values(option) if not self._denied & set(claim.tokens)]

    def _fact(self, name: str) -> range | None:
        facts = self._reading.facts
        return facts[name] if name in facts and not self._denied & set(facts[name]) else None

    # ---- negations and names

    def _negations(self) -> None:
        """Ask about each negation, and take nothing from its clause."""
        tokens = self._words.tokens
        for index, token in enumerate(tokens):
            but = token.text == "but" and index > 0 and tokens[index - 1].text in EXCEPT
            if (token.text in NEGATIONS or but) and index not in self._reading.used | self._denied:
                part = self._clause(index)
                self._denied |= set(part)
                what = self._words.text(part)
                self._ask(
                    "not", f"'{what}': say what is wanted, not what is not; or leave it out, if that is all", part
                )
        self._roles = self._roles.without(self._denied)

    def _clause(self, at: int) -> range:
        """The tokens from a negation to the end of its clause."""
        tokens = self._words.tokens
        ends = (
            index
            for index in range(at + 1, len(tokens))
            if tokens[index].text in ("but", "and", "then")
            or (tokens[index].kind == "mark" and tokens[index].text in ".;!?,")
        )
        return range(at, next(ends, len(tokens)))

    def _names(self) -> None:
        settled = "model" in self._flags and "data" in self._flags
        for index in sorted(self._roles.open):
            name = self._words.tokens[index].text
            if not settled and name not in self._flag_texts():
                text = f'is \'{name}\' the model or the data? Say "the model {name}", or "the data {name}"'
                self._ask(name, text, [index])
        self._model()
        self._data()
        for option, names in (("eval.data", self._roles.of("eval")), ("output_dir", self._roles.of("output"))):
            found = sorted({self._words.tokens[index].text for index in names})
            if len(found) > 1:
                self._ask(option, f"{quoted(found)}: which of them?", names)
            elif names:
                self._say(option, found[0], range(names[0], names[0] + 1))

    def _flag_texts(self) -> set[str]:
        """The values of flags, each item of a list by itself."""
        texts: set[str] = set()
        for value in self._flags.values():
            texts |= set(map(str, cast(list[Any], value))) if isinstance(value, list) else {str(value)}
        return texts

    def _model(self) -> None:
        names = self._roles.of("model")
        values = sorted({self._words.tokens[index].text for index in names})
        mine, family = self._fact("my model"), self._fact("family")
        if len(values) > 1:
            self._ask("model", f"two models, {quoted(values)}: which of them is trained?", names)
        elif family is not None and not values:
            text = f"which {self._words.text(family)}? Its folder or whole name, such as Qwen/Qwen2.5-0.5B"
            self._ask("model", text, family)
        elif mine is not None and (not values or any(word in self._words.text(mine).lower() for word in _ANOTHER)):
            self._ask("model", f"which folder is {yours(self._words.text(mine))}?", mine)
        elif values:
            self._found_model(values[0], names[0])
        elif not self._roles.open:
            self._ask("model", "which folder or hub name is the model to train?")

    def _found_model(self, written: str, index: int) -> None:
        tokens = range(index, index + 1)
        name = with_owner(written, self._exists)
        spoken = self._words.text(tokens).strip("\"'`")
        if name != written or spoken != written:
            self._assume("model", name, f"'{spoken}' is {name} on the hub", tokens)
        elif index in self._roles.by_elimination:
            self._assume("model", name, "the other name is the data", tokens)
        else:
            self._say("model", name, tokens)

    def _data(self) -> None:
        names = self._roles.of("data")
        values = list(dict.fromkeys(self._words.tokens[index].text for index in names))
        mine = self._fact("my data")
        if len(values) > 1:
            text = f"two data sets, {quoted(values)}: which of them, or all as one set (--data {' '.join(values)})?"
            self._ask("data", text, names)
        elif values:
            self._found_data(values[0], names[0])
        elif mine is not None or not self._roles.open:
            self._ask("data", "which file, folder or hub name has the problems?", mine or range(0))

    def _found_data(self, written: str, index: int) -> None:
        tokens = range(index, index + 1)
        known, near = known_set(written), near_set(written)
        if not self._exists(written) and known is not None:
            name, colon, rest = written.partition(":")
            if name != known.hub_name:
                why = f"'{name}' is {known.hub_name} on the hub"
                self._assume("data", known.hub_name + colon + rest, why, tokens)
        elif not self._exists(written) and near is not None:
            self._ask("data", f"'{written}' is not known, {near} is: which is meant?", tokens)
            return
        if index in self._roles.by_elimination:
            self._assume("data", written, "the other name is the model", tokens)
        self._say("data", written, tokens)

    # ---- values

    def _values(self) -> None:
        for option in dict.fromkeys(claim.option for claim in self._reading.claims):
            claims = self._claims(option)
            if option in _PUT_TOGETHER or not claims:
                continue
            values = list(dict.fromkeys(whole(claim.value) for claim in claims))
            if any(str(value).startswith("cuda:") for value in values):
                values = [value for value in values if value != "cuda"]
            if not option.startswith("eval.") and self._said_of_evaluation(claims[0].tokens):
                text = f"is this the run's, or the evaluation's? Give --{option.replace('_', '-')}, or --eval.*"
                self._ask(option, text, claims[0].tokens)
            elif len(values) > 1:
                self._ask(option, f"{option} is both {' and '.join(map(str, values))}: which?", _all(claims))
            else:
                self._say(option, values[0], claims[0].tokens)

    def _said_of_evaluation(self, tokens: range) -> bool:
        """Whether a value stands behind the evaluation in its clause, as in "evaluate on X at temperature 0.5"."""
        said = self._fact("evaluation")
        if said is None or tokens.start < said.stop:
            return False
        between = [token.text for token in self._words.tokens[said.stop : tokens.start]]
        return not any(text in VERBS or text in ("and", "then") or text in ".;!?," for text in between)

    def _presets(self) -> None:
        """The task's and the algorithm's; what wins goes last."""
        tasks, papers = self._claims("task"), self._claims("preset")
        names = list(dict.fromkeys(_PRESET_OF.get(str(claim.value), str(claim.value)) for claim in tasks))
        wanted = list(dict.fromkeys([*names, *(str(claim.value) for claim in papers)]))
        wrong = [name for name in wanted if canonical(name) is None]
        own = list(dict.fromkeys(canonical(name) or name for name in wanted))
        kinds = [PRESETS[name].kind for name in own if name in PRESETS]
        if wrong:
            self._ask("preset", unknown(wrong[0]), _all(papers))
        elif kinds.count("task") > 1 or kinds.count("paper") > 1:
            what = "tasks" if kinds.count("task") > 1 else "algorithms"
            self._ask("preset", f"two {what}, {quoted(own)}: which preset is to be taken?", _all([*tasks, *papers]))
        elif own:
            self._say("preset", own[0] if len(own) == 1 else own, _span([*tasks, *papers]))

    def _rewards(self) -> None:
        claims, tasks = self._claims("rewards"), self._claims("task")
        rewards: list[Any] = []
        for claim in claims:
            if claim.value not in rewards:
                rewards.append(claim.value)
        formal = all(_name_of(reward) in _OF_FORM for reward in rewards)
        implied = {_REWARD_OF[claim.value] for claim in tasks if claim.value in _REWARD_OF}
        correct = self._fact("correct")
        levels = self._fact("levels")
        if levels is not None and rewards:
            why = "qa is the built-in reward that has three levels; it compares short answers"
            self._assume("rewards", [self._with_answer(reward) for reward in rewards], why, _span(claims))
        elif rewards and formal and not implied:
            text = f"which reward says that an answer is right? Such as --rewards math {_name_of(rewards[0])}"
            self._ask("rewards", text, _span(claims))
        elif rewards:
            self._say("rewards", [*(sorted(implied) if formal else ()), *rewards], _span(claims))
        elif len(implied) == 1 and len({claim.value for claim in tasks}) == 1:
            self._say("rewards", [implied.pop()], tasks[0].tokens)
        elif correct is not None and "rewards" not in self._slots:
            said = self._words.text(correct).strip(" ,:;.")
            note = f'"{said}": built-in rewards give 1 for right and 0 for wrong; the form of the data says which it is'
            self._notes.append(note)

    def _with_answer(self, reward: Any) -> Any:
        """A reward with what was answered to the question about partial answers."""
        if isinstance(reward, dict) and "partial_at" in self._given:
            return {**cast(dict[str, Any], reward), "partial_at": self._given["partial_at"]}
        return cast(Any, reward)

    def _evaluation(self) -> None:
        """Held-out problems: those named, or the test split of a known data set."""
        data = self._value("data", None)
        known = known_set(data) if isinstance(data, str) and not self._exists(data) else None
        test = known.test if known is not None else None
        split, wanted = self._fact("test split"), self._fact("evaluation")
        if "eval.data" in self._slots or any(question.about == "eval.data" for question in self._questions):
            return
        if test is not None and data != test:
            if split is not None:
                self._say("eval.data", test, split)
            else:
                self._assume("eval.data", test, "the held-out problems of the same data set, before and after")
        elif wanted is not None and not self._roles.of("eval"):
            self._ask("eval.data", "on which held-out problems is it evaluated?", wanted)

    # ---- what the words ask for besides

    def _lora(self) -> None:
        """A rank where none is said, and the rate that LoRA wants."""
        said = self._fact("lora")
        if said is not None:
            self._assume("lora_rank", LORA_RANK, f"LoRA of rank {LORA_RANK}, where none is said", said)
        if self._value("lora_rank", 0) != 0:
            values = layer(self._preset_names())
            default = Config.model_fields["learning_rate"].default
            rate = values["learning_rate"][0] if "learning_rate" in values else default
            self._assume("learning_rate", float(f"{rate * LORA_FACTOR:g}"), f"ten times {rate:g}, for LoRA")

    def _preset_names(self) -> list[str]:
        value = self._value("preset", [])
        return [value] if isinstance(value, str) else list(value)

    def _machine(self) -> None:
        """What a GPU's memory wants changed."""
        claims = self._claims("machine")
        if len({claim.value for claim in claims}) > 1:
            self._ask("device", "two kinds of GPU: which?", _all(claims))
        elif claims:
            apart = {"model", "data", "preset", "rewards"}
            plain = {name: slot.value for name, slot in self._slots.items() if "." not in name and name not in apart}
            for option, (value, why) in fitted(cast(Machine, claims[0].value), self._preset_names(), plain).items():
                self._assume(option, value, why)

    def _asked(self) -> None:
        """What rules could not decide."""
        for ask in self._reading.asks:
            answered = ask.about in ("partial_at", "scale") and "rewards" in self._flags
            if not answered and not self._denied & set(ask.tokens):
                self._ask(ask.about, ask.text, ask.tokens)


def _name_of(reward: Any) -> str:
    return str(cast(dict[str, Any], reward)["name"] if isinstance(reward, dict) else reward)


def _all(claims: list[Claim]) -> list[int]:
    return sorted({index for claim in claims for index in claim.tokens})


def _span(claims: list[Claim]) -> range:
    found = _all(claims)
    return range(found[0], found[-1] + 1)
