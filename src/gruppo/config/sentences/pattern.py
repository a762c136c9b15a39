r"""A notation for phrases, in which the rules of sentences are written; compiled to regular expressions.

| written | matches |
|---|---|
| `learning rate` | these words, one after the other; a word is a regular expression without brackets or white space |
| `data~set` | joined in any way: dataset, data-set, data set, data_set |
| `(the \| a good)` | one of these; with `?` behind it or nothing, with `*` any number of them, with `+` one or more |
| `<math \| code>` | one of these, remembered |
| `NAME`, `NUM`, `FAMILY` | a token of that kind, whose number is remembered |
| `&(steps)`, `!(steps)` | before these words, or before others; they are not used |

The line that is matched has one space behind each of its tokens, and so has each word of a pattern.
"""

import functools
import re

_PIECES = re.compile(r"\s+|[&!]?\(|<|\)[?*+]?|>[?*+]?|\||(?:\\.|[^\s()<>|\\])+")
_TOKENS = {"NAME": r"<n(\d+)> ", "NUM": r"<#(\d+)> ", "FAMILY": r"<f(\d+)> "}
_OPENING = {"(": "(?:", "<": "(", "&(": "(?=", "!(": "(?!"}


@functools.cache
def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression of a pattern, for a line with a space behind each token."""
    return re.compile(r"(?<!\S)" + "".join(_translated(piece) for piece in _PIECES.findall(pattern)))


def _translated(piece: str) -> str:
    if piece.isspace():
        return ""
    if piece in _OPENING:
        return _OPENING[piece]
    if piece[0] in ")>":
        return ")" + piece[1:]
    if piece == "|":
        return "|"
    return _TOKENS[piece] if piece in _TOKENS else piece.replace("~", "[-_ ]?") + " "
