"""What rules take from a sentence: claims of values, cues to what a name is, questions; and which words are used up.

A pattern is a regular expression over `Words.line`, matched at whole tokens, in which NAME, NUM and FAMILY stand for a
token of that kind (a group each, its index). A word is used once. Names may be cited by several rules: what a name is
is decided at the end, from all that was said of it.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gruppo.config.sentence_names import Role
from gruppo.config.sentence_words import Words


@dataclass(frozen=True, slots=True)
class Claim:
    """A value for an option, and the tokens that say so."""

    option: str
    value: Any
    tokens: range


@dataclass(frozen=True, slots=True)
class Cue:
    """What the words around a name say that it is."""

    name: int
    role: Role
    strong: bool
    """A noun ("the model X") rather than a preposition ("on X")."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Something that has to be asked."""

    about: str
    text: str
    tokens: range


@dataclass(frozen=True, slots=True)
class Match:
    """A match of a pattern: its groups, and the tokens that it covers."""

    groups: tuple[str | None, ...]
    tokens: range


@dataclass(slots=True)
class Reading:
    """A sentence on its way to a plan."""

    words: Words
    used: set[int] = field(default_factory=set[int])
    claims: list[Claim] = field(default_factory=list[Claim])
    cues: list[Cue] = field(default_factory=list[Cue])
    asks: list[Ask] = field(default_factory=list[Ask])
    facts: dict[str, range] = field(default_factory=dict[str, range])
    """What was said that is no value by itself, and where: `task`, `lora`, `evaluation`, `reward`, ..."""

    def find(self, pattern: str, *, keep: bool = False) -> Iterator[Match]:
        """The matches on words that no rule has used; they are used then, unless they are to be kept."""
        for match in _compiled(pattern).finditer(self.words.line_without(self.used)):
            tokens = self.words.between(match.start(), match.end())
            if not keep:
                self.used |= {index for index in tokens if self.words.tokens[index].kind in ("word", "number")}
            yield Match(match.groups(), tokens)

    def claim(self, option: str, value: Any, tokens: range) -> None:
        """A value is said."""
        self.claims.append(Claim(option, value, tokens))

    def cue(self, name: str | None, role: Role, *, strong: bool = True) -> None:
        """A name is said to be something."""
        if name is not None:
            self.cues.append(Cue(int(name), role, strong))

    def ask(self, about: str, text: str, tokens: range) -> None:
        """Something has to be asked."""
        self.asks.append(Ask(about, text, tokens))

    def number(self, index: str | None) -> float:
        """The number of a group."""
        return self.words.number(int(index or 0))

    def values(self, option: str) -> list[Claim]:
        """What is claimed of an option."""
        return [claim for claim in self.claims if claim.option == option]


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    full = re.sub(r"\bNAME\b", r"<n(\\d+)>", pattern)
    full = re.sub(r"\bNUM\b", r"<#(\\d+)>", full)
    full = re.sub(r"\bFAMILY\b", r"<f(\\d+)>", full)
    return re.compile(rf"(?<!\S)(?:{full})(?!\S)")
