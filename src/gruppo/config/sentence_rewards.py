"""Rules of a sentence for rewards: built-in ones, functions of the user's own, numbers for right, partial and wrong."""

from typing import Any

from gruppo.config.checks import shown
from gruppo.config.sentence_names import is_function
from gruppo.config.sentence_reading import Reading

_CHECK = (
    r"(?:verif(?:y|ied|ying|ication)|check(?:ed|ing|s)?|test(?:ed|ing)?|grad(?:e|ed|ing)|scor(?:e|ed|es|ing)"
    r"|judg(?:e|ed|ing)|measur(?:e|ed|ing)|reward(?:ed|ing|s)?|assess(?:ed|ing)?|validat(?:e|ed|ing)|compar(?:e|ed|ing)"
    r"|evaluat(?:e|ed|ing))"
)
_OBJECT = (
    r"(?:correctness|answers?|solutions?|programs?|code|completions?|responses?|outputs?|results?|model's|generated|"
    r"the|its|their|them|it|each|every|of|final|correct|right|that|whether|is|are|be|should|will|must|all|for|only)"
)
_RUN = r"(?:running|run|runs|executing|execute|executed|passing|pass|passes|passed)"
_TESTS = r"(?:(?:the|all|its|their|of|problem's|given) )*(?:unit[- ]?|hidden )?tests?(?: cases?| suites?)?"
_VERIFY = rf"(?:{_OBJECT} )*{_CHECK}"
"""With its object before it or, elsewhere, behind it: "answers are scored by"."""
_HOW = r"(?:by|with|using|via|through|against|that|which|if|when|they|it|on|whether|programs|code|solutions|and|how|many|share|the|of|a)"

CODE = (
    rf"(?:{_VERIFY}(?: {_OBJECT})* )?(?:{_HOW} )*{_RUN} (?:(?:generated|model's|its|each|programs?|code|solutions?|it|them|against|on|the) )*{_TESTS}(?: (?:to|and) (?:compute|get|give|determine|assign|score|set)(?: (?:the|a|as))*(?: (?:rewards?|scores?|answers?))?)?",
    rf"(?:(?:the|score|reward|rewards|is|=|should|be|by|with|pay|for) )*(?:fraction|share|number|percentage|proportion) of {_TESTS} (?:passed|that pass|that are passed|it passes|passing)",
    rf"(?:{_VERIFY}(?: {_OBJECT})* )(?:{_HOW} )*(?:executing|running)(?: (?:the|generated|model's|its))* (?:code|programs?|solutions?)",
    rf"(?:{_VERIFY}(?: {_OBJECT})* )(?:by|with|using|via|through|against) {_TESTS}",
    r"(?:(?:with|using|by|use|via|from) )?(?:the |their )?(?:unit[- ]tests?|test cases)(?: (?:as|for) (?:the )?rewards?)?",
)  # fmt: skip
QA_EXACT = (rf"(?:{_VERIFY}(?: {_OBJECT})* )?(?:(?:by|with|using|on|an?|use|via) )*exact[- ]match(?:es|ing)?(?: reward)?",)
QA_F1 = (rf"(?:{_VERIFY}(?: {_OBJECT})* )?(?:(?:by|with|using|on|an?|the|use|via) )*(?:token )?f1(?:[- ]score)?(?: reward)?",)
MATH = (
    rf"(?:{_VERIFY}(?: {_OBJECT})* )?(?:(?:by|with|using|via|an?|the) )*math-verify",
    r"(?:(?:with|using|by|via|the) )*(?:math|symbolic|mathematical) (?:verification|verifier|checking|checker|equivalence)(?: (?:as|for|is) (?:the )?(?:rewards?|signal))*",
    rf"(?:{_VERIFY}(?: {_OBJECT})* )(?:(?:by|with|using|via) )(?:the )?math(?:ematical)? (?:verifier|checker|verification|equivalence|reward)",
)  # fmt: skip
CORRECT = (
    rf"(?:{_VERIFY}(?: {_OBJECT})+)(?: (?:with|to|against|by|using) (?:the )?(?:reference|gold|known|true|expected)(?: (?:answers?|solutions?|ones?))?)?",
    r"(?:(?:with|using|use|by|the|final) )*(?:correctness|accuracy|answer)(?: (?:as|is|for) (?:(?:the|a|only) )*rewards?(?: signal)?)",
    r"(?:(?:with|using|an?|the) )*(?:verifiable|correctness|accuracy|outcome|rule-based)(?: based)? rewards?",
)  # fmt: skip
"""What every built-in reward does: right answers are paid for."""

_PLAIN = "math|code|qa|logic|reasoning_gym|language|repetition|reflection|keywords|length"
_NEEDS = {
    "format": "which tags or pattern? Such as --rewards '{name: format, tags: [think, answer]}'",
    "overlong": "over how many tokens? Such as --rewards math '{name: overlong, buffer: 256, weight: 0.5}'",
}
_RIGHT = r"(?:(?:fully |completely |entirely )?(?:correct|right|true)(?:ly)?|success|solved)"
_PARTIAL = r"(?:(?:partial(?:ly)?|partly|half|nearly|almost)(?: (?:correct|right|credit))?)"
_WRONG = r"(?:wrong|incorrect|false|otherwise|else|everything else|anything else|failed|failures?)"
_NOUN = r"(?: (?:final )?(?:answers?|ones?|solutions?|completions?|responses?|outputs?|results?|credit))?"
_LEVELS = (("partial", _PARTIAL), ("wrong", _WRONG), ("right", _RIGHT))
"""In this order, since a partially correct answer is no correct one."""
_FOR = r"(?: points?)?(?: (?:for|if|when|to|reward|on))?(?: (?:an?|the|any|model's|final|answers?|completions?|is|are|it|it's|its|they|every|each))*"
_GETS = r"(?: (?:gets?|get|scores?|score|earns?|earn|is|are|=|:|receives?|worth))*"

_AND = r"(?: (?:/|,|and))+"
_LIST = (
    rf"(?:(?:rewards?|of|is|:|with|are|use|using) )*NUM{_AND} NUM{_AND} NUM (?:for|if|to) {_RIGHT}{_NOUN}{_AND} {_PARTIAL}{_NOUN}"
    rf"{_AND} {_WRONG}{_NOUN}"
)
"""`1/0.5/0 for correct/partial/wrong`."""


def read_rewards(reading: Reading) -> None:
    """Everything about rewards. The numbers go first: "1 for correct" has a word that others look for."""
    _levels(reading)
    for match in reading.find(r"(?:(?:using|use|with|by|the|an?|my|our|own|custom|and) )*(?:rewards?|scor(?:e|er|ing)|verifier)(?: (?:function|functions|is|=|:|called|by|from|in|with|it|the))* NAME"):
        if _is_function(reading, match.groups[0]):
            reading.facts["reward"] = match.tokens
    for match in reading.find(rf"{_VERIFY}(?: {_OBJECT})* (?:by|with|using|via)(?: the)?(?: function)? NAME"):
        if not _is_function(reading, match.groups[0]):
            reading.ask("rewards", "by which function? Such as my_rewards.py:brevity", match.tokens)
    for match in reading.find(r"NAME (?:as|for) (?:the |my |our )?(?:rewards?|verifier|scorer)(?: function)?"):
        if not _is_function(reading, match.groups[0]):
            reading.ask("rewards", "which function is the reward? Such as my_rewards.py:brevity", match.tokens)
    for index in reading.words.names():
        if _is_function(reading, str(index)):
            reading.claim("rewards", _name(reading, str(index)), range(index, index + 1))
    _named(reading)
    for patterns, value in ((CODE, "code"), (MATH, "math"), (QA_EXACT, "qa"), (QA_F1, {"name": "qa", "mode": "f1"})):
        for pattern in patterns:
            for match in reading.find(pattern):
                reading.claim("rewards", value, match.tokens)
    for pattern in CORRECT:
        for match in reading.find(pattern):
            reading.facts.setdefault("correct", match.tokens)
    _own(reading)


def read_reward_models(reading: Reading) -> None:
    """`the reward model X`, before anything takes it for the model."""
    for match in reading.find(r"(?:(?:using|with|by|score|scored|scoring|reward|from|and|the|an?) )*reward model(?: (?:called|at|in|:|=|from))? NAME"):
        reading.cue(match.groups[0], "reward model")
        reading.claim("rewards", {"name": "model", "path": _name(reading, match.groups[0])}, match.tokens)


def _own(reading: Reading) -> None:
    """A function that is spoken of and not named."""
    mention = r"(?:(?:using|use|with|by|the|an?|my|our) )*(own|custom|my|our)? ?(?:rewards?|scoring) functions?"
    for match in reading.find(mention):
        if not reading.values("rewards") and "levels" not in reading.facts:
            text = "which function is the reward? Write my_rewards.py:function, and --rewards my_rewards.py:function"
            reading.ask("rewards", text, match.tokens)
    for _ in reading.find(r"(?:the )?rewards?(?: (?:is|are|be|of|=|:))*"):
        pass  # the noun alone: what it is about has been read, or is left over


def _named(reading: Reading) -> None:
    joined = rf"(?:(?:with|using|use|by|an?|the|and|verifiable) )*({_PLAIN}|format|overlong)(?: (?:and|,) (?:an? |the )?({_PLAIN}))*[- ](?:verifiable )?(?:rewards?|penalty)(?: function)?"
    each = f"({_PLAIN}|format|overlong)"
    more = f"(?:(?: (?:and|,))+ {each})?"
    after = rf"(?:(?:the|with|using|use) )*rewards?(?: (?:functions?|is|are|=|:|by|with|be|called))* {each}{more}{more}(?: reward)?"
    for pattern in (joined, after):
        for match in reading.find(pattern):
            for name in filter(None, match.groups):
                if name in _NEEDS:
                    reading.ask("rewards", f"the reward '{name}': {_NEEDS[name]}", match.tokens)
                else:
                    reading.claim("rewards", name, match.tokens)


def _name(reading: Reading, index: str | None) -> str:
    return reading.words.tokens[int(index or 0)].text


def _is_function(reading: Reading, index: str | None) -> bool:
    return is_function(_name(reading, index))


# ---- numbers for right, partial and wrong


def _levels(reading: Reading) -> None:
    """`+1 for correct, -0.5 for partial, 0 for wrong`, in either order of number and word."""
    partial_at = _partial_at(reading)
    found: dict[str, set[float]] = {}
    covered: list[range] = []
    forms = (
        lambda word: rf"(?:(?:an?|the|and|model|policy|it|gets?|receives?|earns?|give|gives|giving|pay|rewards?|of|is|:|custom|function|use|using|with|be|score|full|points?|marks?|\() )*NUM(?: \))?{_FOR} (?:{word}){_NOUN}",
        lambda word: rf"(?:(?:and|rewards?|:|the|answers?) )*(?:{word}){_NOUN}{_GETS} NUM(?: points?)?",
    )
    for match in reading.find(_LIST):
        for level, index in zip(("right", "partial", "wrong"), match.groups):
            found.setdefault(level, set()).add(reading.number(index))
        covered.append(match.tokens)
    for form in forms:
        for level, word in _LEVELS:
            for match in reading.find(form(word)):
                found.setdefault(level, set()).add(reading.number(match.groups[0]))
                covered.append(match.tokens)
    if not found:
        return
    tokens = range(min(part.start for part in covered), max(part.stop for part in covered))
    reading.facts["levels"] = tokens
    if any(len(values) > 1 for values in found.values()):
        reading.ask("rewards", "two numbers for the same thing: which?", tokens)
        return
    levels = {level: values.copy().pop() for level, values in found.items()}
    if set(levels) == {"right", "partial", "wrong"}:
        _three(reading, [levels["right"], levels["partial"], levels["wrong"]], partial_at, tokens)
    elif levels == {"right": 1.0, "wrong": 0.0} or levels == {"right": 1.0}:
        reading.facts["correct"] = tokens
    else:
        text = (
            "built-in rewards give 1 for right and 0 for wrong, and their numbers for three levels are right, partial "
            "and wrong: say all three, or leave the numbers out, or name a function of your own"
        )
        reading.ask("rewards", text, tokens)


def _three(reading: Reading, levels: list[float], partial_at: float | None, tokens: range) -> None:
    right, partial, wrong = levels
    value: dict[str, Any] = {"name": "qa", "mode": "levels", "levels": [_plain(level) for level in levels]}
    if partial_at is not None:
        value["partial_at"] = partial_at
    else:
        text = (
            "what counts as partial? Say from which token F1 with the reference on, above 0 and up to 1, such as "
            "0.5: \"partial is an F1 of at least 0.5\""
        )
        reading.ask("partial_at", text, tokens)
    reading.claim("rewards", value, tokens)
    if partial < wrong:
        text = f"this scale ranks partial ({shown(partial)}) below wrong ({shown(wrong)}): meant so?"
        reading.ask("scale", text, tokens)
    elif right <= max(partial, wrong):
        text = f"this scale does not rank right ({shown(right)}) above the rest: meant so?"
        reading.ask("scale", text, tokens)


def _partial_at(reading: Reading) -> float | None:
    f1 = r"(?:(?:an?|the|if|with|when|its|from|token) )*f1(?:[- ]score)?(?: (?:of|is|from|above|over|at least|>=|>|or more|with))* NUM"
    patterns = (
        rf"(?:(?:and|where|an?|answer) )*partial(?:ly)?(?: (?:correct|right|credit|answers?))*(?: (?:is|are|means?|counts?|starts?|=|:|from|at))* {f1}(?: (?:or more|on|and more|or above))?",
        rf"(?:count(?:ing)? )?{f1} (?:(?:counts?|is|are|or more) )*(?:as )?partial(?:ly)?(?: correct)?",
    )
    for pattern in patterns:
        for match in reading.find(pattern):
            return reading.number(match.groups[0])
    return None


def _plain(number: float) -> float | int:
    return int(number) if number.is_integer() else number
