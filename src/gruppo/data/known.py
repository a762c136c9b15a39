"""Data sets known by name: where they are on the hub now, what they were called, and which form their rows have.

Where a name was taken down or never was (as of November 2026, from the hub's pages and projects' issue threads), a live
copy stands in for it, and a note says so. A copy may be somebody else's: look at it, or name another.

1. Names without an owner (`gsm8k`) are looked up here and nowhere else.
2. A data set that is a loading script can't be read: `datasets` runs none since version 4. It is refused with the
   reason and a copy in Parquet.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

AS_OF = "November 2026"


@dataclass(frozen=True, slots=True)
class KnownData:
    """A data set on the hub."""

    name: str
    form: str
    """The form of its rows, by its name in `gruppo.data.forms`; it says which built-in reward fits."""
    former: tuple[str, ...] = ()
    """Names under which it is asked for, and no longer (or never was) on the hub."""
    config: str | None = None
    """The config to take where none is named; None: by the rule of `gruppo.data.hub`."""
    splits: Mapping[str, str] = field(default_factory=dict[str, str])
    """By purpose (train, test), the split to take where none is named and the rule would not find it."""
    script_copy: str | None = None
    """It is a loading script; this is the same data in Parquet."""
    note: str = ""
    """What to say whenever it is read."""


_BENCHMARK = "has only a test split: after training on it, it measures nothing"
_TAKEN_DOWN = "hendrycks/competition_math was taken down from the hub in January 2025 after a notice of copyright"

KNOWN: tuple[KnownData, ...] = (
    KnownData("openai/gsm8k", "GSM8K", former=("gsm8k",), config="main"),
    KnownData(
        "DigitalLearningGmbH/MATH-lighteval", "MATH", config="default", note=_TAKEN_DOWN,
        former=("hendrycks/competition_math", "competition_math", "hendrycks/math", "hendrycks/MATH",
                "hendrycks_math", "lighteval/MATH"),
    ),
    KnownData("EleutherAI/hendrycks_math", "MATH"),
    KnownData("qwedsacf/competition_math", "MATH"),
    KnownData("google-research-datasets/mbpp", "MBPP", former=("mbpp",), config="full"),
    KnownData(
        "openai/openai_humaneval", "HumanEval", former=("openai_humaneval", "openai/humaneval", "humaneval"),
        config="openai_humaneval", splits={"train": "test", "test": "test"}, note=_BENCHMARK,
    ),
    KnownData("metr-evals/apps", "APPS", former=("bigcode/apps", "hendrycks/apps")),
    KnownData("codeparrot/apps", "APPS", script_copy="metr-evals/apps"),
    KnownData(
        "google-research-datasets/nq_open", "questions with accepted answers", former=("nq_open",), config="nq_open"
    ),
)  # fmt: skip
"""Every data set known by name."""

_BY_NAME = {name: known for known in KNOWN for name in (known.name, *known.former)}


def look_up(name: str) -> KnownData | None:
    """What is known of a name, present or former; None: nothing."""
    return _BY_NAME.get(name)


def is_known_source(source: str) -> bool:
    """Whether a source such as `gsm8k:main/test` is a known name, with an owner or without."""
    return source.partition(":")[0] in _BY_NAME


def renamed_note(name: str, known: KnownData) -> str | None:
    """What to say where the name asked for is a former one."""
    if name == known.name:
        return None
    return f"'{name}' is not on the hub (as of {AS_OF}); read instead: '{known.name}', which holds the same data"
