"""Names in a sentence: which words are names, and whether a name looks like a model, a data set or a function.

What is sure is sure by its form: a `.jsonl` is no model, and `Qwen2.5-0.5B` no data. What is likely
("my-org/sums-test") gives way to what the sentence says of it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Role = Literal["model", "data", "eval", "output", "reward", "reward model"]
Exists = Callable[[str], bool]
"""Whether a file or folder of this name is at hand."""


def bag(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class KnownSet:
    """A data set known by name."""

    hub_name: str
    also: tuple[str, ...]
    """What it is called besides, in lower case."""
    test: str | None
    """Its held-out problems, as a source; None: it has none of its own."""


DATA_SETS = (
    KnownSet("openai/gsm8k", ("gsm8k",), "openai/gsm8k:main/test"),
    KnownSet("google-research-datasets/mbpp", ("mbpp",), "google-research-datasets/mbpp:full/test"),
    KnownSet("openai/openai_humaneval", ("openai_humaneval", "openai/humaneval", "humaneval"), None),
    KnownSet("google-research-datasets/nq_open", ("nq_open",), "google-research-datasets/nq_open:nq_open/validation"),
    KnownSet(
        "DigitalLearningGmbH/MATH-lighteval",
        ("hendrycks/competition_math", "competition_math", "hendrycks/math", "hendrycks_math", "lighteval/math"),
        "DigitalLearningGmbH/MATH-lighteval:default/test",
    ),
    KnownSet("metr-evals/apps", ("bigcode/apps", "hendrycks/apps"), None),
)
"""Those of docs/data.md that people ask for; a test compares them with `gruppo.data.known`."""

_BY_NAME: Mapping[str, KnownSet] = {
    name: known for known in DATA_SETS for name in (known.hub_name.lower(), *known.also)
}


def known_set(source: str) -> KnownSet | None:
    """The known data set of a source such as `gsm8k` or `openai/gsm8k:main/train`, in any case."""
    return _BY_NAME.get(source.partition(":")[0].lower())


def near_set(source: str) -> str | None:
    """The known data set that a name is nearly, and is not."""
    import difflib

    name = source.partition(":")[0].lower()
    close = difflib.get_close_matches(name, list(_BY_NAME), n=1, cutoff=0.88)
    return _BY_NAME[close[0]].hub_name if close and close[0] != name and not is_path(source) else None


_OWNERS = (
    (r"qwen", "Qwen"),
    (r"(?:meta-)?llama-[234]", "meta-llama"),
    (r"smollm", "HuggingFaceTB"),
    (r"gemma-", "google"),
    (r"(?:mistral|ministral|mixtral)-", "mistralai"),
    (r"phi-\d", "microsoft"),
    (r"pythia-|gpt-neo|gpt-j", "EleutherAI"),
    (r"(?:distil)?gpt2", "openai-community"),
    (r"olmo-", "allenai"),
    (r"tinyllama", "TinyLlama"),
    (r"deepseek-(?:r1-distill|math|coder|llm)", "deepseek-ai"),
    (r"falcon", "tiiuae"),
    (r"granite-", "ibm-granite"),
)
"""Families of models by the start of their names, and who publishes them."""

_FAMILY = re.compile("|".join(pattern for pattern, _ in _OWNERS), re.IGNORECASE)
_SIZE = re.compile(r"(?:^|[-_])\d+(?:\.\d+)?[bm](?:$|[-_])", re.IGNORECASE)
_GPT2 = re.compile(r"(?:distil)?gpt2(?:-medium|-large|-xl)?", re.IGNORECASE)
_BARE_MODEL = re.compile(r"[A-Za-z][\w.]*(?:-[\w.]+)*-\d+(?:\.\d+)?[bBmM](?:-[\w.]+)*")
_FILE = re.compile(r".+\.(?:jsonl|json|parquet|csv|tsv)", re.IGNORECASE)
_FUNCTION = re.compile(r"[\w./~-]+\.py:\w+|[A-Za-z_]\w*(?:\.\w+)+:\w+")
_NAME = re.compile(r"[~.]{0,2}/?[\w.+@-]+(?:/[\w.+@-]+)*/?(?::[\w.-]+(?:/[\w.-]+)*)?", re.ASCII)
_DATA_PARTS = bag(
    "data dataset datasets problem problems puzzle puzzles question questions train test validation eval tasks task "
    "examples exercises corpus prompts benchmark bench qa"
)
_MODEL_PARTS = bag("model models checkpoint checkpoints instruct base chat sft adapter lora finetuned llm")
_PARTS = re.compile(r"[a-z]+|[0-9]+")


def is_path(name: str) -> bool:
    """Whether a name can only be a place on this machine."""
    return name.startswith(("/", "./", "../", "~/")) or bool(_FILE.fullmatch(name)) or name.count("/") > 1


def is_name(text: str, ordinary: Callable[[str], bool], exists: Exists) -> bool:
    """Whether a word is a name.

    Args:
        text: without the marks around it.
        ordinary: whether a word is one that the reader has a use for, so that `correct/wrong` is no name.
        exists: whether there is a file or folder of a name.
    """
    if known_set(text) is not None or _FUNCTION.fullmatch(text) or text.startswith("reasoning-gym:"):
        return True
    if "=" in text or not (_NAME.fullmatch(text) or is_path(text)) or not re.search("[a-zA-Z]", text):
        return False
    parts = [part for part in text.lower().split("/") if part]
    if "/" in text and not text.startswith((".", "/", "~")) and all(ordinary(part) for part in parts):
        return False
    if "/" in text or is_path(text) or bare_model(text):
        return True
    return bool(re.search(r"[-_.0-9]", text)) and not ordinary(text.lower()) and exists(text)


def bare_model(text: str) -> bool:
    """Whether a word is a model's name without its owner."""
    return "/" not in text and bool(_BARE_MODEL.fullmatch(text) or _GPT2.fullmatch(text))


def is_function(name: str) -> bool:
    """Whether a name is a reward function's, `file.py:function` or `module:function`."""
    return bool(_FUNCTION.fullmatch(name))


def looks_like(name: str) -> tuple[Role | None, bool]:
    """What a name is by its form, and whether that is sure."""
    if is_function(name):
        return "reward", True
    if known_set(name) is not None or _FILE.fullmatch(name) or name.startswith("reasoning-gym:"):
        return "data", True
    last = name.rstrip("/").rpartition("/")[2]
    parts = frozenset(_PARTS.findall(name.lower()))
    data = bool(parts & _DATA_PARTS) or ":" in name
    if not data and _FAMILY.match(last) and (_SIZE.search(last) or _GPT2.fullmatch(last)):
        return "model", True
    model = bool(parts & _MODEL_PARTS or _SIZE.search(last) or _FAMILY.match(last))
    if data != model:
        return ("data" if data else "model"), False
    return None, False


# ---- models without their owner

_SPELLING = {"qwen": "Qwen", "llama": "Llama", "smollm": "SmolLM", "instruct": "Instruct", "base": "Base",
             "coder": "Coder", "math": "Math", "chat": "Chat"}  # fmt: skip
_SPOKEN = re.compile(
    r"\b(qwen|llama|smollm|gemma)[ -]?(\d(?:\.\d+)?)?[ -](?:(coder|math)[ -])?(\d+(?:\.\d+)?[bm])"
    r"(?:[ -](instruct|base|chat|it))?(?![\w/:.-]*[\w/])",
    re.IGNORECASE,
)
FAMILY_WORD = re.compile(r"(?:qwen|llama|smollm|gemma|mistral|phi|pythia|olmo)[-\d.]*", re.IGNORECASE)
"""A family without its size."""


_MATH_SET = re.compile(r"\bMATH(?= (?:data ?-?set|benchmark|corpus))")
"""In capitals, and with the noun: otherwise it is the subject."""


def spoken_names(text: str) -> list[tuple[int, int, str]]:
    """Models, and one data set, whose names are spoken as words, such as "Qwen 2.5 0.5B".

    Of each its start, its end, and the name as it is written. A family that is nothing without its version ("Qwen 7B")
    is none.
    """
    found = [(match.start(), match.end(), "hendrycks/math") for match in _MATH_SET.finditer(text)]
    for match in _SPOKEN.finditer(text):
        family, version, kind, size, tail = match.groups()
        before = text[match.start() - 1 : match.start()]
        if " " in match.group() and version and before not in ("/", "-"):
            joint = "" if family.lower() in ("qwen", "smollm") else "-"
            pieces = [f"{family}{joint}{version}", kind, size, tail]
            found.append((match.start(), match.end(), "-".join(piece for piece in pieces if piece)))
    return found


def with_owner(name: str, exists: Exists) -> str:
    """A model's name with its owner before it, where the family says who that is and no folder has the bare name."""
    if "/" in name or exists(name):
        return name
    owner = next((owner for pattern, owner in _OWNERS if re.match(pattern, name, re.IGNORECASE)), None)
    return f"{owner}/{_spelled(name)}" if owner else name


def _spelled(name: str) -> str:
    """As its publisher writes it: qwen2.5-0.5b-instruct is Qwen2.5-0.5B-Instruct."""
    if not name.lower().startswith(("qwen", "llama", "smollm")):
        return name
    words = re.sub(r"\d+(?:\.\d+)?[bm](?=$|-)", lambda size: size.group().upper(), name)
    return re.sub(r"[A-Za-z]{3,}", lambda word: _SPELLING.get(word.group().lower(), word.group()), words)


def size_of(model: str) -> str | None:
    """A model's size by its name, such as 0.5B; None: the name has none."""
    found = re.findall(r"(?:^|[-_])(\d+(?:\.\d+)?[bBmM])(?=$|[-_])", model.rstrip("/").rpartition("/")[2])
    return found[-1] if found else None
