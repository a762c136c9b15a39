"""The answer that a completion states: where it stands and how it was found. `gruppo.rewards.math` has the policy.

Everything here is linear in the text (the last 16,384 characters of it) and total.
"""

import re
from dataclasses import dataclass

from gruppo.rewards.math_numbers import number

TAIL = 16_384
STRICT_FORMS = ("boxed", "####")
NO_ANSWER = "no answer found"

_OPENS = re.compile(r"<(?:think|thinking|thought|reasoning|scratchpad)>|\[THINK\]|<\|begin_of_thought\|>|◁think▷")
_CLOSES = re.compile(
    r"</(?:think|thinking|thought|reasoning|scratchpad)>|\[/THINK\]|<\|end_of_thought\|>|◁/think▷"
    r"|<\|channel\|>final<\|message\|>"
)
_TOKENS = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_ANSWER_IS = re.compile(
    r"answer\b\**(?:\s+(?:to|of|for)(?:\s+[\w']{1,20}){1,5}?)?\s*(?:\bis\b|\bwould be\b|[:=])[\s:*]*", re.IGNORECASE
)
_MOST_MARKS = 64
_HEADING = re.compile(
    r"(?:step|part|case|conclusion|explanation|verification|check|solution)\b|[0-9]+[.)]\s+[A-Za-z]", re.IGNORECASE
)
_ANSWER_PREFIX = re.compile(r"(?:the\s+)?(?:final\s+)?answer\b\**\s*(?:is\b|:|=)?[\s:*]*", re.IGNORECASE)
_SENTENCE_END = re.compile(
    r"(?<![A-Z])(?<!\b[ap]\.m)(?<!\bMr)(?<!\bMs)(?<!\bMrs)(?<!\bDr)(?<!\bSt)(?<!\bvs)(?<!\bNo)[.!?]\**\s++(?![a-z])"
)
_NEGATION = re.compile(r"\b(?:not|cannot|never|unknown|incorrect|wrong)\b|n't\b", re.IGNORECASE)
_BECAUSE = re.compile(r",?\s(?:because|since)\s", re.IGNORECASE)
_VERB = re.compile(
    r"\s(?:is|are|was|were|be|equals?|gives?|get|gets|got|has|have|had|needs?|costs?|at|on|in)\s+(?:about\s+)?"
)
_EQUALS = re.compile(r"(?<![<>!:\\])=|\\approx|≈")
_MATH = re.compile(r"\\\((.{1,2000}?)\\\)|\\\[(.{1,2000}?)\\\]|\$\$?(?![ 0-9]+ )([^$]{0,2000}[^$ ])\$\$?")
_NUMBERS = re.compile(
    r"(?<![\w.])[-\N{MINUS SIGN}]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?::[0-9]+)*(?:\.[0-9]+)?(?:\s?/\s?[0-9]+)?"
)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_NO_PROSE = re.compile(
    r"or|and|pi|sin|cos|tan|sec|csc|cot|log|ln|exp|sqrt|frac|mod|cup|in|text|mathrm|infty", re.IGNORECASE
)
_SHORT_WORDS = frozenset(("is", "it", "he", "we", "my", "to", "so", "of"))
_VOWEL = re.compile(r"[aeiouy]", re.IGNORECASE)
_LONGEST_LINE = 1000
_MOST_WORDS = 8


@dataclass(frozen=True, slots=True)
class Statement:
    """What a completion states as its answer."""

    form: str
    """How it was found: boxed, ####, the answer is, answer tag, last line; `in the reasoning` may follow."""
    text: str
    """The answer; nothing where there is none."""
    whole: str = ""
    """The sentence that a plain answer was taken from, where that is more."""
    problem: str = ""
    """Why there is no answer."""

    @property
    def strict(self) -> bool:
        """Whether it has the form that the strict score demands."""
        return self.form in STRICT_FORMS


def statement(completion: str) -> Statement:
    """The answer that a completion states, by the policy of `gruppo.rewards.math`."""
    text = completion[-TAIL:]
    thoughts, answer, open_ended = _parts(completion, text)
    if open_ended:
        found = _formal(thoughts)
        return _in_reasoning(found) if found else Statement("", "", problem=f"{NO_ANSWER}: the reasoning has no end")
    found = _stated(answer)
    if found is None or (not found.text and not answer.strip()):
        inner = _formal(thoughts)
        found = _in_reasoning(inner) if inner else found
    return found or Statement("", "", problem=NO_ANSWER)


def _parts(completion: str, text: str) -> tuple[str, str, bool]:
    """The reasoning, what follows it, and whether the reasoning was opened and never closed."""
    start = end = 0
    opened: re.Match[str] | None = None
    if "<" in text or "THINK]" in text or "think▷" in text:
        for match in _CLOSES.finditer(text):
            start, end = match.span()
        opened = _OPENS.search(text, end)
    if not end and len(completion) > TAIL:
        before = completion[:-TAIL]
        if before.rfind("<think>") > before.rfind("</think>"):
            return text, "", True
    if opened is None:
        return text[:start], text[end:], False
    answer = text[end : opened.start()]
    return (text[:start], answer, False) if answer.strip() else (text[opened.end() :], "", True)


def _in_reasoning(found: Statement) -> Statement:
    return Statement(f"{found.form} in the reasoning", found.text, found.whole, found.problem)


def _stated(text: str) -> Statement | None:
    """The answer in the text after the reasoning."""
    tagged = _tagged(text)
    if tagged is not None:
        return _formal(tagged) or _plain_answer("answer tag", tagged)
    found = _formal(text)
    if found is None and "box" in text and _BOX.search(text):
        return Statement("boxed", "", problem=f"{NO_ANSWER}: an unclosed box")
    found = found or _after_answer_is(text)
    if found is not None:
        return found
    return _plain_answer("last line", _last_line(text))


def _tagged(text: str) -> str | None:
    """What stands in the last whole `<answer>...</answer>`."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    return text[start + 8 : end] if start >= 0 else None


def _formal(text: str) -> Statement | None:
    """What the last `####` or whole box marks as the answer, whichever comes later."""
    box = last_box(text) if "\\boxed" in text or "\\fbox" in text else None
    position = text.rfind("####")
    for _ in range(_MOST_MARKS):
        if position < 0 or (box is not None and position < box[1]):
            break
        line = text[position + 4 :].lstrip(" \t#").split("\n", 1)[0]
        if not _HEADING.match(line):
            inner = last_box(line) if "box" in line else None
            marked = tidy(_ANSWER_PREFIX.sub("", line, count=1) if inner is None else inner[0])
            return _checked("####", marked)
        position = text.rfind("####", 0, position)
    return None if box is None else _checked("boxed", tidy(box[0]))


def _checked(form: str, text: str) -> Statement:
    if not text:
        return Statement(form, "", problem=f"{NO_ANSWER}: {form} with nothing in it")
    if _BOX.search(text):
        return Statement(form, "", problem=f"{NO_ANSWER}: an unclosed box")
    return Statement(form, text)


def last_box(text: str) -> tuple[str, int] | None:
    """Content and end of the box that closes last, unwrapped; an unclosed box is none. One pass over the text."""
    stack: list[int | None] = []
    found: tuple[int, int] | None = None
    for token in _TOKENS.finditer(text):
        if token[0] == "}":
            start = stack.pop() if stack else None
            if start is not None and (found is None or found[0] <= start):  # of nested boxes the inner one counts
                found = (start, token.start())
        elif token[0] == "{":
            stack.append(None)
        elif token[0].endswith("{") and len(token[0]) > 2:
            stack.append(token.end())
    return None if found is None else (text[found[0] : found[1]], found[1])


def _after_answer_is(text: str) -> Statement | None:
    """What follows the last "the answer is" (or "answer:") up to the end of the sentence."""
    end = len(text)
    for _ in range(_MOST_MARKS):
        at = text.rfind("nswer", 0, end)
        if at < 1:
            return None
        match = _ANSWER_IS.match(text, at - 1)
        if match is not None and (at < 2 or not text[at - 2].isalpha()):
            rest = text[match.end() :]
            if rest.strip():
                line = rest.split("\n", 1)[0]
                opened = rest.startswith(("\\[", "$$"))
                return _plain_answer("the answer is", rest if opened and len(line.strip()) <= 2 else line)
        end = at
    return None


def _last_line(text: str) -> str:
    """The last line with a letter or digit on it."""
    end = len(text)
    for _ in range(_MOST_MARKS):
        start = text.rfind("\n", 0, end)
        line = text[start + 1 : end]
        if any(sign.isalnum() for sign in line):
            return line
        if start < 0:
            break
        end = start
    return ""


def _plain_answer(form: str, text: str) -> Statement | None:
    """The one answer that plain text states. Text that states several, or denies one, states none."""
    text = undelimited(text)
    if not text:
        return None
    if _BOX.search(text):
        return Statement(form, "", problem=f"{NO_ANSWER}: an unclosed box")
    parts = [part for part in _SENTENCE_END.split(text) if part.strip()]
    if form == "the answer is" and parts:
        parts[0] = _BECAUSE.split(parts[0], maxsplit=1)[0]
    if parts:
        text = undelimited(parts[0] if form == "the answer is" else parts[-1])
    if len(text) > _LONGEST_LINE:
        return Statement(form, "", problem=f"{NO_ANSWER}: {form} goes on for {len(text)} characters")
    if not is_prose(text) or number(text) is not None:
        return Statement(form, text)
    if _NEGATION.search(text):
        return Statement(form, "", text, f"{NO_ANSWER}: a denial")
    return _from_prose(form, text)


def _from_prose(form: str, text: str) -> Statement:
    """The one value that a sentence is about."""
    segments = {part.strip() for match in _MATH.finditer(text) for part in match.groups() if part}
    tails = [undelimited(pattern.split(text)[-1]) for pattern in (_EQUALS, _VERB) if pattern.search(text)]
    for tail in tails:
        if tail and (number(tail) is not None or not is_prose(tail)):
            return Statement(form, tail, text)
    if len(segments) == 1:
        return Statement(form, undelimited(segments.pop()), text)
    numbers = {found.replace(",", "") for found in _NUMBERS.findall(text)}
    if len(numbers) == 1:
        return Statement(form, numbers.pop(), text)
    if not numbers and len(text.split()) <= _MOST_WORDS:
        tail = tails[-1] if tails else ""
        return Statement(form, tail or text, text)
    return Statement(form, "", text, f"{NO_ANSWER}: {form} has {len(numbers)} different numbers")


def is_prose(text: str) -> bool:
    """Whether a text has words of a sentence in it, beside mathematics."""
    return any(
        (len(word) > 2 and _VOWEL.search(word)) or word.lower() in _SHORT_WORDS
        for word in _WORD.findall(text)
        if not _NO_PROSE.fullmatch(word)
    )


_DELIMITERS = (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$"), ("**", "**"), ("`", "`"), ("*", "*"))


def undelimited(text: str) -> str:
    """A text without the marks around it: of mathematics, of emphasis, and a full stop."""
    for _ in range(6):
        before = text
        text = tidy(text)
        for opening, closing in _DELIMITERS:
            if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
                inner = text[len(opening) : len(text) - len(closing)]
                if opening not in inner:
                    text = inner
        if text == before:
            break
    return text


def tidy(text: str) -> str:
    """A text without space, emphasis and full stop at its ends."""
    text = text.strip().strip("*").strip()
    return text if text.endswith("...") else text.removesuffix(".").strip()
