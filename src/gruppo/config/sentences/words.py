"""A sentence as tokens, and the words that carry no meaning of their own here.

Rules match on one line of text, in which names stand as `<n0>`, numbers as `<#1>`, families of models without a size
as `<f2>` and all else in lower case, with one space between (`Words.line`).
"""

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Literal

from gruppo.config.sentences.names import FAMILY_WORD, Exists, bag, is_name, spoken_names

Kind = Literal["word", "name", "number", "family", "mark"]

GLUE = bag(
    """a an the this that these those my our your its it i we you me us them they to of for and with using via by on in
    at from into as is are be am was were will would can could should shall may let please want wants need wish use
    used uses run runs running do does doing done make made take get give set have has start starts starting launch
    apply train training trained fine-tune finetune fine-tuning finetuning post-train posttrain tune teach improve
    optimize optimise practise practice retrain grpo algorithm method approach technique settings setting
    hyperparameters parameters following job session experiment also so just only simply called named located thanks
    thank hello hi hey ok okay gruppo here now lets let's i'd we'd i'll we'll i'm we're it's while when but where
    against further trains tunes applies improves teaches makes keep keeping upon needs help go ahead perform
    performing conduct execute carry out goal purpose aim boost enhance increase strengthen sharpen raise new project
    process pipeline procedure setup config configuration hugging face huggingface hub which been being trying try
    going plan planning looking kindly stored saved found available provided given contained post-training file folder
    directory path together model's hyperparameter configured sampled whose"""
)
"""Words that may be left over: none of them changes what is asked for."""

VERBS = bag(
    """train training trained retrain post-train posttrain post-training fine-tune finetune fine-tuning finetuning tune
    tuning teach improve optimize optimise practise practice apply applying run running runs use using uses make take
    get give do start starting launch trains tunes applies improves teaches"""
)
"""One of these, or an algorithm, stands in every sentence that asks for a run."""

NEGATIONS = bag(
    """not no never without except excluding exclude avoid skip neither nor disable disabled don't dont doesn't won't
    shouldn't isn't can't cannot instead rather nothing none off"""
)
"""What turns a meaning round; nothing is guessed beside one."""

EXCEPT = bag("all every each any everything anything everyone")
"""Before "but", what makes a negation of it."""

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NUMBER_WORDS = {word: str(value) for value, word in enumerate(_DIGITS)} | {
    "sixteen": "16",
    "twenty": "20",
    "thirty-two": "32",
    "fifty": "50",
    "sixty-four": "64",
}
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:e[+-]?\d+)?k?", re.IGNORECASE)
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:\.\d{3})+")
"""1.000 is one to some, a thousand to others; it stays a word, and is asked."""
_UNIT = re.compile(r"([+-]?\d+(?:\.\d+)?)-?([a-z][a-z-]*)", re.IGNORECASE)
_COUNTED = re.compile(r"([a-z]{2,})-(\d+)", re.IGNORECASE)
_QUOTED = re.compile(r"[\"“`]([^\"”`]+)[\"”`]|(?<!\w)'([^']*[/.][^']*)'(?!\w)")
_CARD = re.compile(r"\brtx[ -]?(\d{4})\b", re.IGNORECASE)
_MARKS = ".,;:!?()[]{}\"'`“”‘’«»=|&—–…。，"


@dataclass(frozen=True, slots=True)
class Token:
    """A word, name, number or mark, and where it stands."""

    kind: Kind
    text: str
    """As it counts: words in lower case, numbers in digits."""
    start: int
    end: int


class Words:
    """The tokens of a sentence, and the line that rules match on."""

    def __init__(self, sentence: str, exists: Exists) -> None:
        self.sentence = sentence
        self.tokens = tuple(_tokens(_plain(sentence), exists))
        self._starts: list[int] = []
        pieces: list[str] = []
        for index, token in enumerate(self.tokens):
            self._starts.append(sum(len(piece) + 1 for piece in pieces))
            pieces.append(_encoded(token, index))
        self.line = " ".join(pieces)

    def line_without(self, used: Set[int]) -> str:
        """The line, a space behind each token, with some words and numbers made unreadable and nothing moved."""
        line = [*self.line, " "]
        for index in used:
            start = self._starts[index]
            size = len(_encoded(self.tokens[index], index))
            line[start : start + size] = "\0" * size
        return "".join(line)

    def between(self, start: int, end: int) -> range:
        """The tokens of a part of the line."""
        inside = [index for index, at in enumerate(self._starts) if start <= at < end]
        return range(inside[0], inside[-1] + 1) if inside else range(0)

    def text(self, tokens: range | list[int]) -> str:
        """The words of tokens, as they were written."""
        inside = [self.tokens[index] for index in tokens]
        return " ".join(self.sentence[inside[0].start : inside[-1].end].split()) if inside else ""

    def names(self) -> list[int]:
        """The tokens that are names."""
        return [index for index, token in enumerate(self.tokens) if token.kind == "name"]

    def number(self, index: int) -> float:
        """What a number is."""
        text = self.tokens[index].text
        return float(text.removesuffix("k")) * (1000 if text.endswith("k") else 1)


def _plain(sentence: str) -> str:
    """The same length, with one kind of minus and apostrophe, and no white space but spaces."""
    return re.sub(r"\s", " ", sentence.translate(str.maketrans("−’‐‑", "-'--")))


def _encoded(token: Token, index: int) -> str:
    match token.kind:
        case "name":
            return f"<n{index}>"
        case "number":
            return f"<#{index}>"
        case "family":
            return f"<f{index}>"
        case _:
            return token.text


def _tokens(text: str, exists: Exists) -> Iterator[Token]:
    """Quoted names, names that are spoken and round numbers first, then what stands between white space."""
    whole = [(match.start(), match.end(), match[1] or match[2]) for match in _QUOTED.finditer(text)]
    whole = [part for part in whole if " " in part[2] and re.search(r"[/.]\w", part[2])]
    whole += [
        part for part in spoken_names(text) if not any(part[0] < end and start < part[1] for start, end, _ in whole)
    ]
    found = [Token("name", name, start, end) for start, end, name in whole]
    found += [Token("word", f"rtx{card[1]}", card.start(), card.end()) for card in _CARD.finditer(text)]
    at = 0
    for token in sorted([*found, *_round_numbers(text)], key=lambda token: token.start):
        start, end = token.start, token.end
        yield from _chunks(text, at, start, exists)
        yield token
        at = end
    yield from _chunks(text, at, len(text), exists)


def _round_numbers(text: str) -> Iterator[Token]:
    """`two hundred`, `a thousand`."""
    for match in re.finditer(r"\b(an?|\d+|[a-z]+) (hundred|thousand)\b(?! and)", text, re.IGNORECASE):
        first = match[1].lower()
        count = "1" if first in ("a", "an") else _NUMBER_WORDS.get(first, first)
        if count.isdigit():
            value = int(count) * (100 if match[2].lower() == "hundred" else 1000)
            yield Token("number", str(value), match.start(), match.end())


def _chunks(text: str, start: int, end: int, exists: Exists) -> Iterator[Token]:
    for match in re.finditer(r"\S+", text[start:end]):
        if match.group() in ("+", "-"):
            yield Token("mark", match.group(), start + match.start(), start + match.end())
            continue
        yield from _chunk(match.group(), start + match.start(), exists)


def _chunk(chunk: str, at: int, exists: Exists) -> Iterator[Token]:
    """The tokens of what stands between white space: marks at its ends, and a core."""
    core = chunk.lstrip("([{\"'`“‘«=|—–,;")
    for offset in range(len(chunk) - len(core)):
        yield Token("mark", chunk[offset], at + offset, at + offset + 1)
    at += len(chunk) - len(core)
    tail = core
    core = core.rstrip(_MARKS)
    if core:
        yield from _core(core, at, exists)
    for offset in range(len(core), len(tail)):
        yield Token("mark", tail[offset], at + offset, at + offset + 1)


def _core(core: str, at: int, exists: Exists) -> Iterator[Token]:
    bare = core.removeprefix("--")
    if bare.endswith("'s") and is_name(bare[:-2], ordinary, exists):
        bare = bare[:-2]
    lower = bare.lower()
    end = at + len(core) - (2 if core.endswith("'s") and not bare.endswith("'s") else 0)
    if lower in ("w/", "w/o"):
        yield Token("word", "with" if lower == "w/" else "without", at, end)
    elif lower in _NUMBER_WORDS:
        yield Token("number", _NUMBER_WORDS[lower], at, end)
    elif re.search(r"\d", bare) and _NUMBER.fullmatch(bare) and not _THOUSANDS.fullmatch(bare):
        yield Token("number", lower.replace(",", ""), at, end)
    elif is_name(bare, ordinary, exists):
        yield Token("name", bare, at, end)
    elif FAMILY_WORD.fullmatch(bare):
        yield Token("family", bare, at, end)
    elif (cut := re.search(r"[=:,]|/(?=[\w+-])|(?<=\w)[()]", bare)) is not None:
        offset = at + len(core) - len(bare)
        yield from _chunk(bare[: cut.start()], offset, exists)
        yield Token("mark", cut.group(), offset + cut.start(), offset + cut.end())
        yield from _chunk(bare[cut.end() :], offset + cut.end(), exists)
    elif (match := _UNIT.fullmatch(bare)) and lower not in _WHOLE:
        yield Token("number", match[1], at, at + match.end(1))
        yield Token("word", match[2].lower(), end - len(match[2]), end)
    elif (match := _COUNTED.fullmatch(bare)) and lower not in _WHOLE:
        yield Token("word", match[1].lower(), at, at + match.end(1))
        yield Token("number", match[2], end - len(match[2]), end)
    else:
        yield Token("word", lower, at, end)


_WHOLE = bag("4-bit 8-bit 4bit 8bit deepseek-r1 a100-40 a100-80 float-32 bfloat-16 fp-16 f1 top-1")
"""Words with a number in them that stay whole."""
_ORDINARY = bag(
    """and or with without correct right wrong incorrect partial partially partly true false math maths code coding
    logic qa format before after input output prompt prompts completion completions question questions answer answers
    problem problems step steps epoch batch group yes no h s"""
)
"""Words that come in pairs: `correct/wrong`, `and/or`, `16/prompt`."""


def ordinary(word: str) -> bool:
    """Whether a word before or behind a slash makes no name of it."""
    return word in _ORDINARY or bool(_NUMBER.fullmatch(word))
