"""What stands against a run: reasons, each with its evidence and its cure as config lines."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

Level = Literal["stop", "slow", "note"]
"""stop: the run cannot learn as it is, or not what is meant. slow: it wastes much of its time, or its result can't be
believed. note: worth knowing."""
Verdict = Literal["ready", "will learn slowly", "cannot learn"]
_VERDICTS: Mapping[Level, Verdict] = {"stop": "cannot learn", "slow": "will learn slowly"}


@dataclass(frozen=True, slots=True)
class Cure:
    """What mends it: in words, and as lines of a config where lines can."""

    text: str
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options and their new values; None: leave the option out."""
    without_rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    """Rows to leave out of JSONL files of the training data, by file, counted from 1."""

    @property
    def lines(self) -> list[str]:
        """The changes as a config file has them."""
        return yaml_lines(self.changes)


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that stands against a run."""

    kind: str
    """A word to tell it by, as docs/check.md lists them."""
    level: Level
    what: str
    evidence: tuple[str, ...] = ()
    cures: tuple[Cure, ...] = ()
    """Best first; `--fix` takes the first that has lines."""

    @property
    def fix(self) -> Cure | None:
        """What `--fix` does about it."""
        return next((cure for cure in self.cures if cure.changes or cure.without_rows), None)


def verdict_of(reasons: Sequence[Reason]) -> Verdict:
    """What the reasons come to."""
    for level, verdict in _VERDICTS.items():
        if any(reason.level == level for reason in reasons):
            return verdict
    return "ready"


def in_order(reasons: Sequence[Reason]) -> list[Reason]:
    """The gravest first."""
    rank = {"stop": 0, "slow": 1, "note": 2}
    return sorted(reasons, key=lambda reason: rank[reason.level])


def yaml_lines(changes: Mapping[str, Any]) -> list[str]:
    """`name: value` lines; an option that is to be left out is said so."""
    lines: list[str] = []
    for name, value in changes.items():
        if value is None:
            lines.append(f"# without {name}")
        elif isinstance(value, str) and "\n" in value:
            lines.append(f"{name}: {json.dumps(value, ensure_ascii=False)}")  # which is YAML, on one line
        else:
            dumped = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
            lines.append(f"{name}: {dumped.splitlines()[0]}")  # a scalar has a `...` after it
    return lines
