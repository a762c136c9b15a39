"""The reward for knights-and-knaves puzzles: does the completion say of everyone, rightly, whether they always lie?

What counts as the claim (in the last 16,384 characters of what follows the reasoning):

1. the last `<answer>...</answer>`, where there is one: all that is said in it; else
2. the end of the text, back to the beginning of the sentence with which everyone has been spoken of: later claims go
   before earlier ones, so that working in front of the conclusion does no harm.

Within the claim, everyone has to be spoken of, and nobody both as a knight and as a knave. Saying the same twice does
no harm.

What is read as a claim: "Zoey is a knight", "(1) Zoey: knave", "Zoey - knight", "Zoey (knave)", "| Zoey | knight |",
"Zoey is not a knave", "Zoey and Owen are knights", "Knights: Zoey, Owen", "Zoey is a knight and Owen a knave". "Zoey is
a knight or a knave" claims both. "Might be" makes no claim, and nor does what follows "if", "assume", "says" and the
like in its sentence. A liar is a knave, a truth-teller a knight.

What is right, by the first of these columns that the problem has:

1. `solution` (a list of true and false, in the order of `names`, true for a knight);
2. `statements` with `names`: any assignment in which each knight's statement is true and each knave's false. The form
   is that of the K&K data: a tuple of one statement each, of ('telling-truth', i), ('lying', i), 'not', 'and', 'or',
   '->', '<=>';
3. the answer, or `solution_text`: the names and kinds are read from it as from a completion.
"""

import ast
import functools
import json
import re
from typing import Any

from gruppo.errors import RewardError
from gruppo.rewards.reading import ANSWER_TAIL, final_part, last_tagged
from gruppo.rewards.result import RewardResult

_MOST_PEOPLE = 100
_MOST_STATEMENTS = 20_000
_ROLES = {
    "knight": True,
    "knights": True,
    "truth-teller": True,
    "truth-tellers": True,
    "truth teller": True,
    "truth tellers": True,
    "knave": False,
    "knaves": False,
    "liar": False,
    "liars": False,
}
_NEGATIONS = {"not", "isn't", "isn’t", "aren't", "aren’t", "cannot", "can't", "can’t", "no"}
_DOUBTS = {"if", "suppose", "supposing", "assume", "assuming", "whether", "unless", "hypothetically", "would"}
_DOUBTS |= {"say", "says", "said", "claims", "claimed", "states", "stated", "asserts", "asserted", "told", "tells"}
_LINKS = {"is", "are", "was", "were", "be", "must", "has", "have", "to", ":", "=", "-", "–", "—", "→", "(", "|", ">"}
_FILLERS = {"a", "an", "the", "both", "all", "also", "indeed", "definitely", "therefore", "thus", "so", "then", "too"}
_ELIDED = {"a", "an"}
_MORE = {",", "and", "&"}
_HEADS = {":", "are", "is", "=", "-", "–", "—", "→", "|"}
_OTHER = {"or", "/", "and", "&", ",", "a", "an", "also"}
_PERSON_IN_TEXT = re.compile(r"([^\W\d_][\w'’.-]*(?: [^\W\d_a-z][\w'’.-]*)*) is an? (?:knight|knave)\b")

Token = tuple[str, Any]
Claim = tuple[int, bool | None, int]


def logic_reward(
    completion: str,
    names: Any = None,
    solution: Any = None,
    statements: Any = None,
    answer: Any = None,
    solution_text: Any = None,
) -> RewardResult:
    """1 where the completion says of everyone rightly who is a knight and who is a knave, else 0.

    Parts: `named`, the share of people that the claim speaks of without contradiction; `right`, the share of people of
    whom it is right. (Where only the statements are known: whose own statement agrees with the claim.)

    >>> logic_reward("(1) Zoey is a knight\\n(2) Owen is a knave", ["Zoey", "Owen"], [True, False]).value
    1.0
    >>> logic_reward("Zoey and Owen are knights.", answer="Zoey is a knight, and Owen is a knave.").reason
    'wrong about Owen'

    Args:
        completion: any text.
        names: the people, in order.
        solution: whether each is a knight, in that order.
        statements: what each says, as the literal structure above; used where there is no solution.
        answer: the solution as text.
        solution_text: the same, under the name that it has in the data.

    Raises:
        RewardError: for a problem with none of these, or with what is none.
    """
    people, truth, said = _puzzle(names, solution, statements, answer, solution_text)
    claim, problem = _claim(completion, people)
    if truth is not None:
        right = [claim.get(index) == role for index, role in enumerate(truth)]
    else:
        right = [_agrees(said[index], index, claim) for index in range(len(people))]
    parts = {"named": len(claim) / len(people), "right": sum(right) / len(people)}
    if problem:
        return RewardResult(0.0, parts, problem)
    wrong = [name for name, good in zip(people, right) if not good]
    if not wrong:
        return RewardResult(1.0, parts, f"right about all {len(people)}")
    shown = ", ".join(wrong[:5])
    return RewardResult(0.0, parts, f"wrong about {shown}" if truth is not None else f"the words of {shown} do not fit")


def _puzzle(
    names: Any, solution: Any, statements: Any, answer: Any, solution_text: Any
) -> tuple[tuple[str, ...], tuple[bool, ...] | None, tuple[Any, ...]]:
    """The people, who is a knight (None: any assignment that fits), and what each says."""
    people = tuple(str(name) for name in _list(names))
    roles = _list(solution) or _list(answer)
    if people and len(roles) == len(people) and all(role in (True, False) for role in roles):
        return _checked(people), tuple(bool(role) for role in roles), ()
    if people and statements is not None:
        return _checked(people), None, _statements(str(statements), len(people))
    for text in (answer, solution_text, solution):
        if isinstance(text, str):
            named = people or tuple(dict.fromkeys(_PERSON_IN_TEXT.findall(_without_and(text))))
            claim = _claim(text, _checked(named))[0] if named else {}
            if named and len(claim) == len(named):
                return named, tuple(claim[index] for index in range(len(named))), ()
    raise RewardError(
        f"logic: no solution: names {str(names)[:80]!r}, solution {str(solution)[:80]!r}, answer {str(answer)[:80]!r}; "
        "wanted the columns names and solution (true for a knight), names and statements, or an answer such as "
        "'Zoey is a knight, and Owen is a knave.'"
    )


def _without_and(text: str) -> str:
    """The text with sentences in place of lists, so that "and Owen" is no name."""
    return re.sub(r",? and ", ". ", text, flags=re.IGNORECASE)


def _list(value: Any) -> list[Any]:
    """A cell as a list; also from JSON and from arrays."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    if isinstance(value, (str, bytes, dict)) or value is None:
        return []
    try:
        return list(value)
    except TypeError:
        return []


def _checked(people: tuple[str, ...]) -> tuple[str, ...]:
    folded = {name.casefold().strip() for name in people}
    if len(folded) < len(people) or "" in folded or len(people) > _MOST_PEOPLE:
        raise RewardError(f"logic: names {list(people)[:8]}; wanted up to {_MOST_PEOPLE} different names.")
    return people


@functools.lru_cache(maxsize=4096)
def _statements(text: str, people: int) -> tuple[Any, ...]:
    """What each says, with every person an index in range."""
    try:
        if len(text) > _MOST_STATEMENTS:
            raise ValueError(f"more than {_MOST_STATEMENTS} characters")
        said = ast.literal_eval(text)
        if not isinstance(said, tuple) or len(said) != people:
            raise ValueError(f"not one statement for each of the {people} people")
        for statement in said:
            _holds(statement, dict.fromkeys(range(people), True))
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise RewardError(
            f"logic: statements {text[:80]!r}: {type(error).__name__}: {error}; wanted a tuple with one for each "
            'person, such as (("lying", 1), ("and", ("telling-truth", 0), ("lying", 1))).'
        ) from error
    return said


def _holds(statement: Any, claim: dict[int, bool]) -> bool:
    """Whether a statement is true where these people are knights. Raises KeyError where it speaks of another."""
    match statement:
        case ("telling-truth", int(person)):
            return claim[person]
        case ("lying", int(person)):
            return not claim[person]
        case ("not", part):
            return not _holds(part, claim)
        case ("and", *parts) if parts:
            return all(_holds(part, claim) for part in parts)
        case ("or", *parts) if parts:
            return any(_holds(part, claim) for part in parts)
        case ("->", first, second):
            return _holds(second, claim) | (not _holds(first, claim))
        case ("<=>", first, second):
            return _holds(first, claim) == _holds(second, claim)
    raise ValueError(f"{str(statement)[:60]} is no statement")


def _agrees(statement: Any, person: int, claim: dict[int, bool]) -> bool:
    """Whether a person's statement is as true as the person is."""
    try:
        return person in claim and _holds(statement, claim) == claim[person]
    except (KeyError, RecursionError):  # it speaks of someone of whom the claim does not
        return False


def _claim(completion: str, people: tuple[str, ...]) -> tuple[dict[int, bool], str]:
    """Who is said to be a knight, without those of whom both is said; and what is wrong with the claim, if anything."""
    final = final_part(completion)
    if final is None:
        return {}, "the reasoning never ends"
    text = final[-ANSWER_TAIL:]
    tagged = last_tagged(text, "answer")
    said = _said(text if tagged is None else tagged, people)
    if tagged is None:
        said = _last_of_everyone(said, len(people))
    claim: dict[int, bool] = {}
    both = {person for person, role, _ in said if role is None}
    for person, role, _ in said:
        if role is not None and claim.setdefault(person, role) != role:
            both.add(person)
    for person in both:
        claim.pop(person, None)
    if both:
        return claim, f"{', '.join(people[person] for person in sorted(both)[:5])}: both a knight and a knave"
    missing = [name for index, name in enumerate(people) if index not in claim]
    return claim, f"nothing about {', '.join(missing[:5])}" if missing else ""


def _last_of_everyone(said: list[Claim], people: int) -> list[Claim]:
    """The claims from the end back to the sentence with which everyone has been spoken of."""
    seen: set[int] = set()
    for person, _, sentence in reversed(said):
        seen.add(person)
        if len(seen) == people:
            return [claim for claim in said if claim[2] >= sentence]
    return said


@functools.lru_cache(maxsize=256)
def _pattern(people: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, int]]:
    """What takes a text apart into names, kinds, words and signs."""
    index = {" ".join(name.casefold().split()): number for number, name in enumerate(people)}
    known = sorted((re.escape(name).replace(r"\ ", r"\s{1,3}") for name in index), key=len, reverse=True)
    names = rf"(?P<name>(?<!\w)(?:{'|'.join(known)})(?![\w]|['’-][\w]))"
    kinds = r"(?P<role>\b(?:knights?|knaves?|liars?|truth[- ]tellers?)\b)"
    rest = r"(?P<skip>\\(?:text|textbf|textit|mathrm|mathbf|boxed)\b)|(?P<word>[\w'’]+)|(?P<end>[.;!?\n])"
    return re.compile(rf"{names}|{kinds}|{rest}|(?P<sign>[^\s*_`\"#{{}}])"), index


def _tokens(text: str, people: tuple[str, ...]) -> list[Token]:
    pattern, index = _pattern(people)
    tokens: list[Token] = []
    for match in pattern.finditer(text.casefold()):
        kind = str(match.lastgroup)
        value: Any = match[0]
        if kind == "skip":
            continue
        if kind == "name":
            value = index[" ".join(value.split())]
        elif kind == "role":
            value = _ROLES[value]
        tokens.append((kind, value))
    return tokens


class _Reader:
    """Reads claims off a row of tokens, one at a time.

    `people` are those whom the sentence is about so far; `linked` says that a word or sign has come which may stand
    between them and their kind; `last` are those whose kind has just come, while "or a knave" may follow; `head` is the
    kind in "Knights: ..." while its names follow. A claim is who, whether a knight (None: both), and in which sentence.
    """

    def __init__(self) -> None:
        self.said: list[Claim] = []
        self.sentence = 0
        self.doubt = False
        self.forget()

    def forget(self) -> None:
        """Begin a new sentence."""
        self.people: list[int] = []
        self.last: list[int] = []
        self.role: bool | None = None
        self.linked = self.negated = self.joined = False
        self.head: bool | None = None

    def read(self, kind: str, value: Any) -> None:
        """Take the next token."""
        if kind == "end":
            if value != "\n" or not (self.linked and self.people):
                self.forget()
                self.doubt = False
                self.sentence += 1
        elif kind == "name":
            self._name(value)
        elif kind == "role":
            self._role(value)
        elif value in _DOUBTS:
            self.forget()
            self.doubt = True
        else:
            self._word(value)

    def _claim(self, people: list[int], role: bool | None) -> None:
        if not self.doubt:
            self.said += [(person, role, self.sentence) for person in people]

    def _name(self, person: int) -> None:
        if self.head is not None:
            self._claim([person], self.head)
            return
        people = [*self.people, person] if self.joined and not self.linked else [person]
        self.forget()
        self.people = people

    def _role(self, role: bool) -> None:
        people = self.people if self.linked else []
        if people:
            self._claim(people, role != self.negated)
        else:
            self._claim(self.last, None)  # "a knight or a knave" claims both
        self.forget()
        if people:
            self.last = people
        else:
            self.role = role

    def _word(self, word: str) -> None:
        if self.head is not None and word not in _MORE:
            self.forget()
        elif self.people:
            self._after_people(word)
        elif self.last and word not in _OTHER:
            self.last = []
        elif self.role is not None:  # "Knights: ", "The knights are "
            self.head, self.role = (self.role if word in _HEADS else None), None

    def _after_people(self, word: str) -> None:
        if word in _MORE and not self.linked:
            self.joined = True
        elif word in _NEGATIONS:
            self.linked, self.negated = True, not self.negated
        elif word in _LINKS or word in _ELIDED:
            self.linked = True
        elif word not in _FILLERS and word != ")":
            self.forget()


def _said(text: str, people: tuple[str, ...]) -> list[Claim]:
    """Every claim of a text in order."""
    reader = _Reader()
    for kind, value in _tokens(text, people):
        reader.read(kind, value)
    return reader.said
