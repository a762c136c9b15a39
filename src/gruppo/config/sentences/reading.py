"""What rules take from a sentence: claims of values, cues to what a name is, questions; and which words are used up.

A word is used once. Names may be cited by several rules: what a name is is decided at the end, from all that was said
of it (roles.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gruppo.config.sentences.names import Role
from gruppo.config.sentences.pattern import compiled
from gruppo.config.sentences.words import Words


@dataclass(frozen=True, slots=True)
class Claim:
    """A value for an option, and the tokens that say so. Beside the options there are `task` and `machine`."""

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
    """A match of a pattern: what it was to remember, and the tokens that it covers."""

    groups: tuple[str | None, ...]
    tokens: range

    @property
    def first(self) -> str | None:
        """The first thing remembered."""
        return next((group for group in self.groups if group is not None), None)


@dataclass(slots=True)
class Reading:
    """A sentence on its way to a plan."""

    words: Words
    used: set[int] = field(default_factory=set[int])
    claims: list[Claim] = field(default_factory=list[Claim])
    cues: list[Cue] = field(default_factory=list[Cue])
    asks: list[Ask] = field(default_factory=list[Ask])
    facts: dict[str, range] = field(default_factory=dict[str, range])
    """What was said that is no value by itself, and where: `lora`, `evaluation`, `correct`, ..."""
    neutral: set[int] = field(default_factory=set[int])
    """Names that are the model or the data, as far as the words go: "run GRPO on X"."""

    def find(self, *patterns: str, keep: bool = False) -> Iterator[Match]:
        """The matches, pattern by pattern, on words that no rule has used; they are used then, unless kept."""
        for pattern in patterns:
            for match in compiled(pattern).finditer(self.words.line_without(self.used)):
                tokens = self.words.between(match.start(), match.end())
                if not keep:
                    self.used |= {index for index in tokens if self.words.tokens[index].kind in ("word", "number")}
                groups = match.groups()
                yield Match(tuple(None if group is None else group.strip() for group in groups), tokens)

    def pass_over(self, *patterns: str) -> None:
        """Use words up that say nothing."""
        for _ in self.find(*patterns):
            pass

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
        """The number that a group remembers."""
        return self.words.number(int(index or 0))

    def text(self, index: str | None) -> str:
        """The name that a group remembers."""
        return self.words.tokens[int(index or 0)].text

    def values(self, option: str) -> list[Claim]:
        """What is claimed of an option."""
        return [claim for claim in self.claims if claim.option == option]


def any_of(words: Sequence[str]) -> str:
    """Alternatives, for a pattern."""
    return " | ".join(words)
