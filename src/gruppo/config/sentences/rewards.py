"""Rules of a sentence for rewards: built-in ones, functions of the user's own, numbers for right, partial and wrong."""

from typing import Any

from gruppo.config.checks import shown
from gruppo.config.sentences.names import is_function
from gruppo.config.sentences.reading import Reading

_CHECK = (
    "(verify | verified | verifying | verification | checks? | checked | checking | test | tested | testing | "
    "graded? | grading | scored? | scores | scoring | judged? | judging | measured? | measuring | rewards? | "
    "rewarded | rewarding | assess | assessed | assessing | validated? | validating | compared? | comparing | "
    "evaluated? | evaluating)"
)
_OBJECT = (
    "(correctness | answers? | solutions? | programs? | code | completions? | responses? | outputs? | results? | "
    "model's | generated | the | its | their | them | it | each | every | of | final | correct | right | that | "
    "whether | is | are | be | should | will | must | all | for | only)"
)
_VERIFY = f"{_OBJECT}* {_CHECK} {_OBJECT}*"
"""With its object before it or behind it: "answers are scored by", "verify correctness by"."""
_BY = "(by | with | using | use | via | on | through | against | an? | the)*"
_RUN = "(running | run | runs | executing | execute | executed | passing | pass | passes | passed)"
_TESTS = (
    "(the | all | its | their | of | problem's | given)* (unit | hidden)? (test~cases? | test~suites? | "
    "unit-tests? | tests?)"
)
_HOW = (
    "(by | with | using | via | through | against | that | which | if | when | they | it | on | whether | programs "
    "| code | solutions | and | how | many | share | the | of | an?)*"
)
_WHAT = "(generated | model's | its | each | programs? | code | solutions? | it | them | against | on | the)*"
_TO_SCORE = (
    "((to | and) (compute | get | give | determine | assign | score | set) (the | an? | as)* (rewards? | scores? | "
    "answers?)?)?"
)
_EQUAL = "(verification | verifier | checking | checker | equivalence)"

BUILT_IN: tuple[tuple[Any, str], ...] = (
    ("code", f"({_VERIFY})? {_HOW} {_RUN} {_WHAT} {_TESTS} {_TO_SCORE}"),
    ("code", "(the | score | rewards? | is | = | should | be | by | with | pay | for)* (fraction | share | "
             f"number | percentage | proportion) of {_TESTS} (passed | that pass | that are passed | it passes | "
             "passing)"),
    ("code", f"{_VERIFY} {_HOW} (executing | running) (the | generated | model's | its)* (code | programs? | "
             f"solutions?)"),
    ("code", f"{_VERIFY} (by | with | using | via | through | against) {_TESTS}"),
    ("code", "(with | using | by | use | via | from)? (the | their)? (unit tests? | unit-tests? | test cases) "
             "((as | for) (the)? rewards?)?"),
    ("math", f"({_VERIFY})? {_BY} math-verify"),
    ("math", f"{_BY} (math | symbolic | mathematical) {_EQUAL} ((as | for | is) (the)? (rewards? | signal))*"),
    ("math", f"{_VERIFY} (by | with | using | via) (the)? (math | mathematical) ({_EQUAL} | reward)"),
    ("qa", f"({_VERIFY})? {_BY} (exact~match | exact~matches | exact~matching) (reward)?"),
    ({"name": "qa", "mode": "f1"}, f"({_VERIFY})? {_BY} (token)? (f1 | f1-score) (score)? (reward)?"),
)  # fmt: skip
"""What the words about checking come to."""

_RESULT = "(correctness | answers? | solutions? | completions? | responses? | outputs? | results?)"
CORRECT = (
    f"{_OBJECT}* {_CHECK} {_OBJECT}* {_RESULT} {_OBJECT}* ((with | to | against | by | using) (the)? (reference | "
    "gold | known | true | expected) (answers? | solutions? | ones?)?)?",
    "(with | using | use | by | the | final)* (correctness | accuracy | answer) (as | is | for) (the | an? | "
    "only)* rewards? (signal)?",
    "(with | using | an? | the)* (verifiable | correctness | accuracy | outcome | rule-based) (based)? rewards?",
)
"""What every built-in reward does: right answers are paid for."""

_PLAIN = "math | code | qa | logic | reasoning_gym | language | repetition | reflection | keywords | length"
_ANY = f"{_PLAIN} | format | overlong"
_NEEDS = {
    "format": "which tags or pattern? Such as --rewards '{name: format, tags: [think, answer]}'",
    "overlong": "over how many tokens? Such as --rewards math '{name: overlong, buffer: 256, weight: 0.5}'",
}


def read_rewards(reading: Reading) -> None:
    """Everything about rewards. The numbers go first: "1 for correct" has a word that others look for."""
    _levels(reading)
    _functions(reading)
    _named(reading)
    for value, pattern in BUILT_IN:
        for match in reading.find(pattern):
            reading.claim("rewards", value, match.tokens)
    for match in reading.find(*CORRECT):
        reading.facts.setdefault("correct", match.tokens)
    for match in reading.find(
        "(using | use | with | by | the | an? | my | our)* (own | custom)? (rewards? | scoring) functions?"
    ):
        if not reading.values("rewards") and "levels" not in reading.facts:
            text = "which function is the reward? Write my_rewards.py:function, and --rewards my_rewards.py:function"
            reading.ask("rewards", text, match.tokens)
    if reading.values("rewards") or reading.facts.keys() & {"correct", "levels"}:
        # The noun alone, once it is known what it is about.
        reading.pass_over("(the)? rewards? (is | are | be | of | = | :)*")


def read_reward_models(reading: Reading) -> None:
    """`the reward model X`, before anything takes it for the model."""
    lead = "(using | with | by | score | scored | scoring | reward | from | and | the | an?)*"
    for match in reading.find(f"{lead} reward model (called | at | in | : | = | from)? NAME"):
        reading.cue(match.first, "reward model")
        reading.claim("rewards", {"name": "model", "path": reading.text(match.first)}, match.tokens)


def _functions(reading: Reading) -> None:
    """Functions of the user's own, and the words around them."""
    lead = "(using | use | with | by | the | an? | my | our | own | custom | and)*"
    connecting = "(function | functions | is | = | : | called | by | from | in | with | it | the)*"
    around = (
        f"{lead} (rewards? | score | scorer | scoring | verifier) {connecting} NAME",
        f"{_VERIFY} (by | with | using | via) (the)? (function)? NAME",
        "NAME (as | for) (the | my | our)? (rewards? | verifier | scorer) (function)?",
    )
    for match in reading.find(*around):
        if not is_function(reading.text(match.first)):
            reading.ask("rewards", "by which function? Such as my_rewards.py:brevity", match.tokens)
    for index in reading.words.names():
        name = reading.words.tokens[index].text
        if is_function(name):
            reading.claim("rewards", name, range(index, index + 1))


def _named(reading: Reading) -> None:
    """`the math reward`, `rewards: math and repetition`."""
    more = f"((and | ,)+ (an? | the)? <{_ANY}>)?"
    patterns = (
        f"(with | using | use | by | an? | the | and | verifiable)* <{_ANY}> {more} {more} (verifiable)? (rewards? "
        "| penalty) (function)?",
        f"(the | with | using | use)* rewards? (functions? | is | are | = | : | by | with | be | called)* <{_ANY}> "
        f"{more} {more} (reward)?",
    )
    for match in reading.find(*patterns):
        for name in filter(None, match.groups):
            if name in _NEEDS:
                reading.ask("rewards", f"the reward '{name}': {_NEEDS[name]}", match.tokens)
            else:
                reading.claim("rewards", name, match.tokens)


# ---- numbers for right, partial and wrong

_RIGHT = "((fully | completely | entirely)? (correct | right | true | correctly | rightly) | success | solved)"
_PARTIAL = "(partial | partially | partly | half | nearly | almost) (correct | right | credit)?"
_WRONG = "(wrong | incorrect | false | otherwise | else | everything else | anything else | failed | failures?)"
_NOUN = "((final)? (answers? | ones? | solutions? | completions? | responses? | outputs? | results? | credit))?"
_AND = "(/ | , | and)+"
_F1 = (
    "(an? | the | if | with | when | its | from | token)* (f1 | f1-score) (score)? (of | is | from | above | over "
    r"| at least | \>= | or more | with)* NUM"
)
LEVELS = (("partial", _PARTIAL), ("wrong", _WRONG), ("right", _RIGHT))
"""In this order, since a partially correct answer is no correct one."""
LEVEL_FORMS = (
    "(an? | the | and | model | policy | it | gets? | receives? | earns? | gives? | giving | pay | rewards? | of | "
    r"is | : | custom | function | use | using | with | be | score | full | points? | marks? | \()* NUM (\))? "
    "(points?)? (for | if | when | to | reward | on)? (an? | the | any | model's | final | answers? | completions? "
    f"| is | are | it | it's | its | they | every | each)* {{}} {_NOUN}",
    f"(and | rewards? | : | the | answers?)* {{}} {_NOUN} (gets? | scores? | earns? | is | are | = | : | receives? "
    "| worth)* NUM (points?)?",
)
"""`+1 for correct`, and `correct: +1`."""
LEVEL_LIST = (
    f"(rewards? | of | is | : | with | are | use | using)* NUM {_AND} NUM {_AND} NUM (for | if | to) {_RIGHT} "
    f"{_NOUN} {_AND} {_PARTIAL} {_NOUN} {_AND} {_WRONG} {_NOUN}"
)
"""`1/0.5/0 for correct/partial/wrong`."""
PARTIAL_AT = (
    "(and | where | an? | answer)* (partial | partially) (correct | right | credit | answers?)* (is | are | means? "
    f"| counts? | starts? | = | : | from | at)* {_F1} (or more | on | and more | or above)?",
    f"(count | counting)? {_F1} (counts? | is | are | or more)* (as)? (partial | partially) (correct)?",
)


def _levels(reading: Reading) -> None:
    """`+1 for correct, -0.5 for partial, 0 for wrong`, in either order of number and word."""
    partial_at = next((reading.number(match.first) for match in reading.find(*PARTIAL_AT)), None)
    found: dict[str, set[float]] = {}
    covered: list[range] = []
    for match in reading.find(LEVEL_LIST):
        for level, index in zip(("right", "partial", "wrong"), match.groups):
            found.setdefault(level, set()).add(reading.number(index))
        covered.append(match.tokens)
    for form in LEVEL_FORMS:
        for level, word in LEVELS:
            for match in reading.find(form.format(word)):
                found.setdefault(level, set()).add(reading.number(match.first))
                covered.append(match.tokens)
    if found:
        tokens = range(min(part.start for part in covered), max(part.stop for part in covered))
        reading.facts["levels"] = tokens
        _scale(reading, found, partial_at, tokens)


def _scale(reading: Reading, found: dict[str, set[float]], partial_at: float | None, tokens: range) -> None:
    """What the numbers come to, or what has to be asked of them."""
    if any(len(values) > 1 for values in found.values()):
        reading.ask("rewards", "two numbers for the same thing: which?", tokens)
        return
    levels = {level: value for level, values in found.items() for value in values}
    if set(levels) == {"right", "partial", "wrong"}:
        _three_levels(reading, levels, partial_at, tokens)
    elif levels in ({"right": 1.0, "wrong": 0.0}, {"right": 1.0}):
        reading.facts["correct"] = tokens
    else:
        text = (
            "built-in rewards give 1 for right and 0 for wrong, and their numbers for three levels are right, partial "
            "and wrong: say all three, or leave the numbers out, or name a function of your own"
        )
        reading.ask("rewards", text, tokens)


def _three_levels(reading: Reading, levels: dict[str, float], partial_at: float | None, tokens: range) -> None:
    right, partial, wrong = levels["right"], levels["partial"], levels["wrong"]
    numbers = [int(level) if level.is_integer() else level for level in (right, partial, wrong)]
    value: dict[str, Any] = {"name": "qa", "mode": "levels", "levels": numbers}
    if partial_at is None:
        text = (
            "what counts as partial? Say from which token F1 with the reference on, above 0 and up to 1, such as "
            '0.5: "partial is an F1 of at least 0.5"'
        )
        reading.ask("partial_at", text, tokens)
    else:
        value["partial_at"] = partial_at
    reading.claim("rewards", value, tokens)
    if partial < wrong:
        text = f"this scale ranks partial ({shown(partial)}) below wrong ({shown(wrong)}): meant so?"
        reading.ask("scale", text, tokens)
    elif right <= max(partial, wrong):
        text = f"this scale does not rank right ({shown(right)}) above the rest: meant so?"
        reading.ask("scale", text, tokens)
