"""A reward for the language of the reasoning: is it that of the prompt, or the one named?

Letters are told apart by script (Unicode's names of characters); languages that share the Latin script by their
commonest words, in windows of 40 words.

1. The reasoning is what stands before the last reasoning tag that closes, all of the completion where none does. Code
   blocks, LaTeX, tags, addresses, and letters that stand alone and are no words (variables) are left out.
2. A language that is alone with its script here is known by it: Ukrainian passes for Russian (`ru`), Persian for Arabic
   (`ar`), Marathi for Hindi (`hi`). A prompt in any other script (Bengali, Georgian...) works too, by its script.
3. Han counts as Japanese where kana stand with it (1 in 10 or more), else as Chinese.
4. Latin text is taken for the wanted language unless a window has two more common words of another, or a whole window
   has none of it. So a few words, or words without grammar, pass in any of these languages.
5. Mixing in a few names or terms of another script costs their share only.
"""

import functools
import re
import unicodedata
from collections import Counter

from gruppo.errors import ConfigError, nearest
from gruppo.rewards.reading import TAIL, reasoning_part
from gruppo.rewards.result import RewardResult

_SCRIPTS = {
    "zh": "han",
    "ja": "japanese",
    "ko": "hangul",
    "ru": "cyrillic",
    "ar": "arabic",
    "he": "hebrew",
    "hi": "devanagari",
    "el": "greek",
    "th": "thai",
}
_COMMON_WORDS = {
    "en": "the and of to in is that it was for on are as with be at by this have from or an they which one you "
    "had not but what were when we there can your if will each how do then so than its he she his her has "
    "many much let first therefore because would must since get after a i who where why does did them "
    "their my me our am been could may more most some any no only also into over per up out about before "
    "through both plus equals don't it's",
    "de": "der die das und ist nicht ein eine einen zu mit von auf für im den dem des sich es wie auch als an "
    "aus bei nach wir ich sie er wird sind war hat haben dass wenn dann also aber oder nur noch viele "
    "wieviel was zuerst muss können kann um durch zum zur einer",
    "fr": "le la les des et est une un du que qui dans pour pas sur au avec ce il elle nous vous je son sa ses "
    "plus par sont mais ou donc alors cette aux comme on ne se être avoir a ont combien si ainsi puis "
    "d'abord doit tout deux fait de en l'on c'est y",
    "es": "el la los las de que y en un una es por con para no se del al lo como más pero sus le ya o este sí "
    "porque esta entre cuando muy sin sobre también hay entonces cuántos cuánto tiene son su cada si dos "
    "está hasta primero debe luego nos e",
    "it": "il lo la i gli le di che e è un una per qual non con del della dei delle al alla da in sono come ma "
    "si più anche questo questa nel nella quindi allora quanti quanto ha hanno ogni se dove deve prima "
    "poi abbiamo ci essere cui dal",
    "pt": "o a os as de que e é à do da em um uma para com não por mais dos das se na no como mas ao ele ela "
    "foi são está tem então quantos quanto qual cada isso também pelo pela ou quando muito nos já eu seu "
    "sua primeiro deve depois temos você",
}
LANGUAGES = (*_COMMON_WORDS, *_SCRIPTS)
"""The languages that can be named."""

_WINDOW = 40
_LEAD = 2
_NO_LETTERS = {
    "MATHEMATICAL",
    "MODIFIER",
    "MICRO",
    "OHM",
    "FEMININE",
    "MASCULINE",
    "DOUBLE-STRUCK",
    "SCRIPT",
    "CIRCLED",
}
_SAME_SCRIPT = {"cjk": "han", "fullwidth": "latin", "halfwidth": "katakana", "kelvin": "latin", "angstrom": "latin"}
_KANA = ("hiragana", "katakana")
_LATIN_WORD = re.compile(r"[A-Za-zªºÀ-ÖØ-öø-ɏḀ-ỿ]+(?:'[A-Za-zÀ-ÖØ-öø-ɏ]+)?")
_LATIN_OR_GREEK = "A-Za-zÀ-ÖØ-öø-ɏḀ-ỿͰ-Ͽ"

# Each stops at the next sign that could begin it anew, so that no sign is looked at from more than one beginning.
_NOT_PROSE = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"```(?:(?!```).)*+(?:```|$)",
        r"`[^`\n]*+`",
        r"\$\$[^$]*+\$\$",
        r"\$(?=[^\s$])[^$\n]*+(?<!\s)\$(?![0-9])",
        r"\\\((?:(?!\\[()]).)*+\\\)",
        r"\\\[(?:(?!\\[\[\]]).)*+\\\]",
        r"\\begin\{[^{}]*+\}(?:(?!\\begin\{|\\end\{).)*+\\end\{[^{}]*+\}",
        r"\\(?:boxed|fbox)\{[^{}]*+\}",
        r"\\[A-Za-z]++",
        r"</?[A-Za-z][A-Za-z0-9_-]*+>",
        r"https?://\S++",
        rf"(?<![{_LATIN_OR_GREEK}'])[b-df-hj-np-xzB-DF-HJ-NP-XZͰ-Ͽ](?![{_LATIN_OR_GREEK}'])",
    )
)


def language_reward(completion: str, prompt: str = "", *, language: str = "prompt") -> RewardResult | None:
    """The share of the reasoning's letters that are of the prompt's language, or of the one named; in [0, 1].

    None (does not apply) where the language is to be the prompt's and the prompt has no words. 0 where the reasoning
    has no letters.

    >>> language_reward("Zuerst addieren wir die Äpfel.", "Wie viele Äpfel sind es?").value
    1.0
    >>> language_reward("First we add 3 and 4, 所以是七。", language="en").value
    0.7647058823529411

    Args:
        completion: any text.
        prompt: the question; needed for `language="prompt"`.
        language: `prompt`, or one of en, de, fr, es, it, pt, zh, ja, ko, ru, ar, he, hi, el, th.

    Raises:
        ConfigError: for a language that is none of them.
    """
    if language == "prompt":
        wanted = language_of(prompt)
        if wanted is None:
            return None
    elif language in LANGUAGES:
        wanted = language
    else:
        known = ["prompt", *LANGUAGES]
        raise ConfigError(
            f"language: '{language}' is none of {', '.join(known)}.{nearest(language, known)} Leave it out to take the "
            "prompt's."
        )
    text = _prose(reasoning_part(completion))
    if not any(map(str.isalpha, text)):
        text = _prose(completion)
    share, letters = _share(text, wanted)
    reason = f"{share:.0%} of {letters} letters are of the language {wanted}" if letters else "no letters"
    return RewardResult(share, {"letters": letters}, reason)


def language_of(text: str) -> str | None:
    """The language of a text (`en`), or its script where that is all that can be said (`latin`); None without words.

    >>> language_of("Combien font 2 et 2 ?"), language_of("1 + 1 = x")
    ('fr', None)
    """
    text = _prose(text)
    scripts = _letters(text)
    if not scripts:
        return None
    kana = sum(scripts[script] for script in _KANA)
    scripts["han"] += kana  # Japanese is both
    script = max(sorted(scripts), key=lambda name: scripts[name])
    if script in ("han", *_KANA):
        return "ja" if kana * 10 >= scripts["han"] else "zh"
    if script != "latin":
        return next((code for code, known in _SCRIPTS.items() if known == script), script)
    hits = _hits([word.casefold() for word in _LATIN_WORD.findall(text)])
    best = max(hits, key=lambda code: hits[code])
    # One common word of a few may be a name or a sign ("sin"); English is the likely one where that is all there is.
    return best if hits[best] >= (1 if best == "en" else 2) else "latin"


def _prose(text: str) -> str:
    """The text without code, formulas, tags, addresses and lone letters."""
    text = text[-TAIL:].replace("’", "'")
    for pattern in _NOT_PROSE:
        text = pattern.sub(" ", text)
    return text


def _letters(text: str) -> Counter[str]:
    """Letters by script."""
    scripts: Counter[str] = Counter()
    for sign, count in Counter(text).items():
        if sign.isalpha():
            name = unicodedata.name(sign, "").partition(" ")[0]
            if name and name not in _NO_LETTERS:
                script = name.casefold()
                scripts[_SAME_SCRIPT.get(script, script)] += count
    return scripts


def _share(text: str, wanted: str) -> tuple[float, int]:
    """The share of letters of the language, and how many letters there are."""
    scripts = _letters(text)
    letters = sum(scripts.values())
    if not letters:
        return 0.0, 0
    kana = sum(scripts[script] for script in _KANA)
    han = scripts["han"]
    japanese = kana * 10 >= kana + han
    if wanted == "ja":
        right: float = kana + han if japanese else 0
    elif wanted == "zh":
        right = han if not japanese or not kana else 0
    elif wanted in _COMMON_WORDS:
        right = scripts["latin"] * _latin_share(text, wanted)
    else:
        right = scripts[_SCRIPTS.get(wanted, wanted)]
    return right / letters, letters


def _latin_share(text: str, wanted: str) -> float:
    """The share of Latin letters that stand in windows of the wanted language."""
    row = [word.casefold() for word in _LATIN_WORD.findall(text)]
    good = total = 0
    for begin in range(0, len(row), _WINDOW):
        window = row[begin : begin + _WINDOW]
        letters = sum(map(len, window))
        hits = _hits(window)
        total += letters
        if max(hits.values()) < hits[wanted] + _LEAD and (hits[wanted] or len(window) < _WINDOW):
            good += letters
    return good / total if total else 1.0


@functools.lru_cache(maxsize=1)
def _languages_of_words() -> dict[str, tuple[str, ...]]:
    table: dict[str, tuple[str, ...]] = {}
    for code, common in _COMMON_WORDS.items():
        for word in common.split():
            table[word] = (*table.get(word, ()), code)
    return table


def _hits(row: list[str]) -> dict[str, int]:
    """Common words by language."""
    table = _languages_of_words()
    hits = dict.fromkeys(_COMMON_WORDS, 0)
    for word in row:
        for code in table.get(word, ()):
            hits[code] += 1
    return hits
