"""What the text rewards and the answer verifiers read a completion with: its parts, and its words.

All of it is total (any string is read) and takes linear time.

1. Where a limit is given, only the last so many characters are looked at: what a completion concludes stands at its
   end, and so does a loop that it got stuck in.
2. Unicode's normal forms sort runs of combining marks in quadratic time; a run is cut at 30, as the stream-safe text
   format of Unicode (UAX 15) has it.
3. A word is a run of letters, digits and the marks on them; Han, kana, Thai, Lao, Khmer and Burmese, which are written
   without spaces, count as one word per character; every other visible sign is a word of its own.
"""

import functools
import re
import unicodedata

TAIL = 2**18
"""Characters, from the end, that the text rewards look at: some 65,000 tokens of English."""
ANSWER_TAIL = 2**14
"""Characters, from the end, in which the answer is looked for."""

REASONING_TAGS = ("think", "thinking", "thought", "reasoning")

_MARKS_END = 0x1F000
_LONGEST_WORD = 24
_INVISIBLE = dict.fromkeys(
    [0xAD, 0x61C, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF]
)
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
UNSPACED += "\U00020000-\U0003ffff"
"""The inside of a character class with the scripts that are written without spaces."""
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'"})
_BOX = ("\\boxed{", "\\fbox{")


def final_part(text: str) -> str | None:
    """What stands after the last reasoning tag that closes; None where the reasoning never ends.

    >>> final_part("<think>1? 2?</think> 2")
    ' 2'
    """
    end = _reasoning_end(text)
    opened = max(text.rfind(f"<{tag}>") for tag in REASONING_TAGS)
    return None if opened >= end else text[end:]


def reasoning_part(text: str) -> str:
    """What stands before the last reasoning tag that closes; all of the text where none does."""
    end = _reasoning_end(text)
    return text[:end] if end > 0 else text


def _reasoning_end(text: str) -> int:
    """Where the text after the reasoning begins."""
    ends = [(text.rfind(f"</{tag}>"), len(tag) + 3) for tag in REASONING_TAGS]
    at, length = max(ends)
    return at + length if at >= 0 else 0


def last_tagged(text: str, tag: str) -> str | None:
    """What stands in the last `<tag>` that closes, or None."""
    end = text.rfind(f"</{tag}>")
    begin = text.rfind(f"<{tag}>", 0, max(end, 0))
    return text[begin + len(tag) + 2 : end] if 0 <= begin < end else None


def last_box(text: str) -> tuple[str, int] | None:
    r"""Content and place of the last `\boxed{}`; None where there is none or it never closes."""
    begin, length = max((text.rfind(mark), len(mark)) for mark in _BOX)
    if begin < 0:
        return None
    depth = 1
    for match in re.finditer(r"\\.|[{}]", text[begin + length :], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[begin + length : begin + length + match.start()], begin
    return None


@functools.lru_cache(maxsize=1)
def mark_class() -> str:
    """The inside of a character class with all combining marks."""
    ranges: list[list[int]] = []
    for code in range(0x300, _MARKS_END):
        if unicodedata.category(chr(code))[0] == "M":
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


@functools.lru_cache(maxsize=1)
def _long_mark_runs() -> re.Pattern[str]:
    return re.compile(f"([{mark_class()}]{{30}})[{mark_class()}]+")


def folded(text: str, limit: int = TAIL) -> str:
    """The last characters of a text in one form: compatible signs alike, without case or invisible signs.

    >>> folded("\\uff26u\\u00dfball\\u200b")
    'fussball'
    """
    text = _long_mark_runs().sub(r"\1", text[-limit:].translate(_INVISIBLE))
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())[-limit:].translate(
        _APOSTROPHES
    )


@functools.lru_cache(maxsize=1)
def _word() -> re.Pattern[str]:
    inner = f"(?:(?![{UNSPACED}])[\\w{mark_class()}])"
    return re.compile(f"[{UNSPACED}]|{inner}{{1,{_LONGEST_WORD}}}|[^\\w\\s{mark_class()}]")


def words(folded_text: str) -> list[str]:
    """The words of a folded text. One of more than 24 letters counts as several, so that no text is a single word.

    >>> words("don't: \\u6771\\u4eac 3.5")
    ['don', "'", 't', ':', '\\u6771', '\\u4eac', '3', '.', '5']
    """
    return _word().findall(folded_text)


def spaced(text: str, limit: int = TAIL) -> str:
    """The words of a text with one space around each, in which `' word '` finds whole words only.

    >>> spaced("Wait\\u2026 C++!")
    ' wait . . . c + + ! '
    """
    return f" {' '.join(words(folded(text, limit)))} "
