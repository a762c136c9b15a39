"""Rewards for how a completion is written: literal values, hostile texts, and the range of each."""

import doctest
import importlib
import json
import math
import random
import sys
import time
from pathlib import Path

import pytest

from gruppo.errors import ConfigError
from gruppo.rewards.language import language_of
from gruppo.rewards.reading import final_part, last_box, last_tagged, reasoning_part
from gruppo.rewards.text import (
    format_reward,
    keywords_reward,
    language_reward,
    length_reward,
    overlong_reward,
    reflection_reward,
    repetition_reward,
)

TAGS = ["think", "answer"]
SCHEMA = '{"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}'


@pytest.mark.parametrize("module", ["format", "language", "length", "overlong", "reading", "text"])
def test_the_examples_in_the_docstrings(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"gruppo.rewards.{module}"), optionflags=doctest.ELLIPSIS)
    assert outcome.failed == 0
    assert outcome.attempted >= 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<think>a</think><answer>b</answer>", "as demanded (tags)"),
        ("\n<think>\na</think>\n\n<answer>b</answer>\n", "as demanded (tags)"),
        ("<think>a</think>so <answer>b</answer>", "tags: text before <answer>"),
        ("Well <think>a</think><answer>b</answer>", "tags: text before <think>"),
        ("<think>a</think><answer>b</answer>.", "tags: text after the last tag"),
        ("<think>a</think><answer> \n</answer>", "tags: nothing in <answer>...</answer>"),
        ("<answer>b</answer><think>a</think>", "tags: text before <think>"),
        ("<think>a<answer>b</think></answer>", "tags: <answer>...</answer> is out of order"),
        ("</think>a<think><answer>b</answer>", "tags: <think>...</think> is out of order"),
        ("<think>a</think><answer>b</answer><answer>c</answer>", "tags: <answer> stands 2 times, not once"),
        ("<think>see <answer></think><answer>c</answer>", "tags: <answer> stands 2 times, not once"),
        ("<think>a</think><answer>b", "tags: </answer> stands 0 times, not once"),
        ("<THINK>a</THINK><answer>b</answer>", "tags: <think> stands 0 times, not once"),
        ("", "tags: <think> stands 0 times, not once"),
    ],
)
def test_tags_in_order_once_each(text: str, reason: str) -> None:
    result = format_reward(text, tags=TAGS)
    assert result.reason == reason
    assert result.value == float(reason.startswith("as demanded"))


def test_the_first_tag_may_be_the_prompts() -> None:
    assert format_reward("a</think><answer>b</answer>", tags=TAGS, opened=True).value == 1.0
    assert format_reward("<think>a</think><answer>b</answer>", tags=TAGS, opened=True).value == 0.0


def test_every_demand_has_its_part() -> None:
    result = format_reward("<think>a</think><answer>b</answer>", tags=TAGS, pattern="[a-z]+")
    assert (result.value, dict(result.parts)) == (0.0, {"pattern": 0.0, "tags": 1.0})
    assert result.reason == "pattern: does not match"
    assert format_reward("a\nb", pattern="a.b").value == 1.0


@pytest.mark.parametrize(
    ("demand", "message"),
    [
        ({}, "demands nothing; give it a pattern, tags or a json_schema"),
        ({"pattern": "a(b"}, r"pattern: 'a\(b' is no regular expression: .* at position 1"),
        ({"tags": ["<think>"]}, "wanted different names without brackets"),
        ({"tags": ["a", "a"]}, "wanted different names without brackets"),
    ],
)
def test_a_demand_that_is_none_is_refused(demand: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        format_reward("", **demand)


def test_json_of_a_schema(tmp_path) -> None:
    pytest.importorskip("jsonschema", reason="the package jsonschema is not installed")
    path = tmp_path / "schema.json"
    path.write_text(SCHEMA)
    for schema in (SCHEMA, str(path)):
        for text, value in (
            ('{"a": 1}', 1.0),
            ('<think>{"a": "x"}</think>\n{"a": 1}', 1.0),
            ('<think>x</think> So: <answer>{"a": 1}</answer>', 1.0),
            ('```json\n{"a": "x"}\n```\nbetter:\n```json\n{"a": 1}\n```\nThere.', 1.0),
            ('```json\n{"a": 1}\n```\n```python\nx\n```\n', 1.0),
            ('```json\n{"a": 1}\n```\nor\n```json\n{}\n```', 0.0),
            ('{"a": 1} and more', 0.0),
            ('{"a": 1.5}', 0.0),
            ('{"a": NaN}', 0.0),
            ('<think>{"a": 1}', 0.0),
            ("[" * 60_000, 0.0),
            ('{"a": ' + "9" * 5000 + "}", 0.0),
        ):
            assert format_reward(text, json_schema=schema).value == value, text
    assert format_reward('{"a": "x"}', json_schema=SCHEMA).reason == "json: at $.a: 'x' is not of type 'integer'"
    for wrong in ('{"type": "objct"}', "{", str(tmp_path / "none.json")):
        with pytest.raises(ConfigError, match="json_schema: "):
            format_reward("", json_schema=wrong)
    remote = format_reward("1", json_schema='{"$ref": "http://127.0.0.1:9/x.json"}')
    assert remote.reason == "json: could not be validated (_WrappedReferencingError)"


def test_a_schema_without_the_package_names_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema.validators", None)
    with pytest.raises(ConfigError, match="pip install jsonschema"):
        format_reward("{}", json_schema='{"title": "without the package"}')


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ("cap", [1.0, 1.0, 1.0, 0.0, 0.0]),
        ("budget", [0.0, 0.0, 0.0, -0.1, -1.0]),
        ("cosine", [1.0, 0.5, 0.0, 0.0, 0.0]),
    ],
)
def test_length(shape, values: list[float]) -> None:
    lengths = [0, 50, 100, 110, 900]
    given = [length_reward("", length, shape=shape, budget=100, rate=0.01).value for length in lengths]
    assert given == pytest.approx(values, abs=1e-12)


def test_length_options_that_are_none() -> None:
    with pytest.raises(ConfigError, match="shape 'linear' is none of cap, budget, cosine"):
        length_reward("", 1, shape="linear")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="wanted a budget of 1 or more and a rate above 0"):
        length_reward("", 1, budget=0)


def test_overlong() -> None:
    values = [overlong_reward("", tokens, limit=20, buffer=4).value for tokens in (1, 16, 17, 18, 20, 25)]
    assert values == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


@pytest.mark.parametrize(
    ("text", "ngram", "value"),
    [
        ("one two three four five", 4, 0.0),
        ("one two three", 4, 0.0),
        ("", 4, 0.0),
        ("a b c d a b c d", 4, -1 / 5),
        ("a b a b a b", 2, -3 / 5),
        ("A, b. a, B.", 2, -3 / 7),
        ("加上加上加上", 2, -3 / 5),
        ("!!!!!!!!!!!", 4, -7 / 8),
        ("a" * 24_000, 4, -996 / 997),
        ("the same line again\n" * 250, 4, -993 / 997),
    ],
)
def test_repetition(text: str, ngram: int, value: float) -> None:
    assert repetition_reward(text, ngram=ngram).value == pytest.approx(value, abs=1e-12)


def test_reflection() -> None:
    assert reflection_reward("So 54. Wait, let me re-check: 56. On second thought, yes.").value == 1.0
    assert reflection_reward("WAIT… the waiter waits").value == pytest.approx(1 / 3)
    assert reflection_reward("wait. " * 100).value == 1.0
    assert reflection_reward("Moment, nein. Moment!", phrases=["Moment"], most=4).value == 0.5
    assert reflection_reward("").value == 0.0
    assert reflection_reward("Wait.").reason == "1 reflections, 3 count (wait); words are paid for, not checking"
    for wrong in ({"phrases": []}, {"phrases": [" "]}, {"most": 0}):
        with pytest.raises(ConfigError, match="reflection: "):
            reflection_reward("", **wrong)


@pytest.mark.parametrize(
    ("text", "keywords", "value"),
    [
        ("Supply and demand set the price.", ["demand", "Price", "cost"], 2 / 3),
        ("Supply and demand set the price.", "demand; price", 1.0),
        ("The cost of costumes", "costume", 0.0),
        ("It is the rule of law.", "rule of law,law of rule", 0.5),
        ("In C++ it is so", ["C++"], 1.0),
        ("In C it is so", ["C++"], 0.0),
        ("ΟΔΟΣ", ["οδός", "οδος"], 0.5),
        ("हिन्दी में", ["हिन्द"], 0.0),
        ("हिन्दी में", ["हिन्दी"], 1.0),
        ("東京へ行く", ["東京"], 1.0),
        ("cafe\u0301 \u202edon’t", ["café", "don't"], 1.0),
        ("42 in all", [42, None], 1.0),
        ("x", None, None),
        ("x", " , ", None),
        ("x", [], None),
        ("x", {"x": 1}, 0.0),
    ],
)
def test_keywords(text: str, keywords, value: float | None) -> None:
    result = keywords_reward(text, keywords)
    assert (None if result is None else result.value) == value


PROSE = {
    "en": "First we add the apples that she has. Then we take away what he gave to them, so there are seven of them.",
    "de": "Zuerst zählen wir die Äpfel, die sie hat. Dann ziehen wir ab, was er ihnen gegeben hat, also sind es 7.",
    "fr": "D'abord on ajoute les pommes qu'elle a. Puis on enlève ce qu'il leur a donné, donc il y en a sept.",
    "es": "Primero sumamos las manzanas que tiene. Luego quitamos lo que él les dio, entonces son siete en la cesta.",
    "it": "Prima sommiamo le mele che ha. Poi togliamo quello che lui ha dato, quindi sono sette nel cesto.",
    "pt": "Primeiro somamos as maçãs que ela tem. Depois tiramos o que ele deu, então são sete na cesta da avó.",
    "zh": "首先我们把她的苹果加起来，然后减去他给别人的，所以一共是七个。",
    "ja": "まず彼女が持っているりんごを足します。次に彼があげた分を引くので、七つです。",
    "ko": "먼저 그녀가 가진 사과를 더합니다. 그런 다음 그가 준 것을 빼면 일곱 개입니다.",
    "ru": "Сначала сложим яблоки, которые у неё есть. Затем вычтем то, что он отдал, и получим семь.",
    "ar": "أولا نجمع التفاح الذي لديها ثم نطرح ما أعطاه لهم فيكون سبعة",
    "he": "קודם נחבר את התפוחים שיש לה ואז נחסיר את מה שהוא נתן להם",
    "hi": "पहले हम उसके सेब जोड़ते हैं फिर जो उसने दिया उसे घटाते हैं",
    "el": "Πρώτα προσθέτουμε τα μήλα που έχει και μετά αφαιρούμε όσα έδωσε",
    "th": "ก่อนอื่นเรารวมแอปเปิลที่เธอมี แล้วลบสิ่งที่เขาให้ไป",
}


@pytest.mark.parametrize("language", PROSE)
def test_each_language_is_itself_and_no_other(language: str) -> None:
    assert language_of(PROSE[language]) == language
    values = {other: language_reward(PROSE[language], language=other) for other in PROSE}
    assert {other: result.value for other, result in values.items() if result is not None and result.value} == {
        language: 1.0
    }
    asked = language_reward(f"<think>{PROSE[language]}</think> 7, the answer", PROSE[language])
    assert asked is not None
    assert asked.value == 1.0


@pytest.mark.parametrize(
    ("prompt", "language"),
    [
        ("What is 2+2?", "en"),
        ("Wie viel ist 3+4?", "de"),
        ("Quanto é 2+2?", "pt"),
        ("Quanto fa 2+2, per cui?", "it"),
        ("¿Cuánto es 2+2?", "es"),
        ("日本の首都は？", "ja"),
        ("中国的首都是哪里？", "zh"),
        ("Find $x+y$ if \\(x=\\text{two}\\).", "en"),
        ("Janet sells eggs", "latin"),
        ("Compute sin 0", "latin"),
        ("Compute the sine", "en"),
        ("২ আর ২ কত", "bengali"),
        ("1 + 1 = x", None),
        ("", None),
    ],
)
def test_the_language_of_a_prompt(prompt: str, language: str | None) -> None:
    assert language_of(prompt) == language


def test_the_language_of_real_questions_and_answers() -> None:
    path = Path(__file__).resolve().parents[2] / "shared" / "data" / "gsm8k" / "train.jsonl"
    if not path.exists():
        pytest.skip("gsm8k of the shared data is absent")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sum(language_of(row["question"]) == "en" for row in rows) == 7473
    results = [language_reward(row["answer"], row["question"]) for row in rows]
    assert sum(result is not None and result.value > 0.99 for result in results) == 7471


def test_the_language_of_the_reasoning_counts_without_code_and_formulas() -> None:
    def value(text: str, prompt: str = "Wie viel ist das?", language: str = "prompt") -> float | None:
        result = language_reward(text, prompt, language=language)
        return None if result is None else result.value

    assert value("<think>" + PROSE["en"] + "</think>" + PROSE["de"]) == 0.0
    assert value("<think>" + PROSE["de"] + "</think>" + PROSE["en"]) == 1.0
    assert value("所以 $\\text{total} = x$ 是 \\(abc\\) 和 `print` 七", language="zh") == 1.0
    assert value("所以\n```python\nprint(first)\n```\n是七 https://example.org/about x", language="zh") == 1.0
    assert value("$5 and not $6 or so", language="en") == 1.0
    assert value("我们 add", language="zh") == 2 / 5
    assert value("#### 36") == 0.0
    assert value("") == 0.0
    assert value(PROSE["de"], prompt="1+1") is None
    assert value("Zoë sold 7 eggs", prompt="Janet sells eggs") == 1.0
    # Half in another language, in windows of 40 words: 77 of 77 + 80 letters, but for the window on the border.
    german, english = (sum(map(str.isalpha, PROSE[code])) for code in ("de", "en"))
    assert (german, english) == (77, 80)
    assert value(" ".join([PROSE["de"]] * 20 + [PROSE["en"]] * 20)) == pytest.approx(77 / 157, abs=0.03)
    with pytest.raises(ConfigError, match=r"'eng' is none of prompt, en, .* Did you mean 'en'\?"):
        value("", language="eng")


def test_the_parts_of_a_completion() -> None:
    assert final_part("<think>a</think> b <think>c</think> d") == " d"
    assert final_part("a </think> d") == " d"
    assert final_part("<think>a") is None
    assert final_part("<think>a</think> b <think>") is None
    assert final_part("plain") == "plain"
    assert reasoning_part("<think>a</think> b") == "<think>a</think>"
    assert reasoning_part("plain") == "plain"
    assert last_tagged("<answer>1</answer><answer>2</answer><answer>", "answer") == "2"
    assert last_tagged("</answer>1<answer>", "answer") is None
    assert last_box("\\boxed{1} \\boxed{\\frac{1}{2}\\}} so") == ("\\frac{1}{2}\\}", 10)
    assert last_box("\\boxed{1} \\boxed{2") is None


N = 10_000_000
HOSTILE = {
    "one letter": lambda: "a" * N,
    "spaces": lambda: " " * N,
    "NUL": lambda: "\0" * N,
    "right to left": lambda: "\u202e\u05d0" * (N // 2),
    "lone surrogates": lambda: "\ud800" * N,
    "marks": lambda: "a" + "\u0315\u0300" * (N // 2),
    "long compatible sign": lambda: "\ufdfa" * N,
    "many signs": lambda: "".join(map(chr, range(0x20, 0xD800))) * 180,
    "opened": lambda: "<think>" * (N // 7),
    "closed": lambda: "</think>" * (N // 8),
    "brackets": lambda: "[" * N,
    "fences": lambda: "```json\n" * (N // 8),
    "formulas": lambda: "\\(" * (N // 2),
    "environments": lambda: "\\begin{a}" * (N // 9),
    "dollars": lambda: "$a " * (N // 3),
    "boxes": lambda: "\\boxed{" * (N // 7),
    "words": lambda: "wait the of " * (N // 12),
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_ten_megabytes_take_less_than_a_second(hostile: str) -> None:
    text = HOSTILE[hostile]()
    assert len(text) >= 0.95 * N
    for function in (
        lambda: format_reward(text, tags=TAGS),
        lambda: repetition_reward(text),
        lambda: reflection_reward(text),
        lambda: keywords_reward(text, ["alpha", "beta gamma"]),
        lambda: language_reward(text, "What is it?"),
    ):
        # CPU time, so that a busy machine gives the same verdict.
        begin = time.thread_time()
        result = function()
        assert time.thread_time() - begin < 1.0
        assert result is not None


PIECES = [
    *"abé \n.,$`<>\\{}[]()#*|:;'\"-_0123\0\u202e\u0301\ud800\udfff東かแ🙂ß",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "\\boxed{",
    "```",
    "```json\n",
    "the answer is ",
    "wait",
    "\\begin{a}",
    "\\(",
    "$$",
]


def test_any_text_gives_a_number_in_the_range() -> None:
    draw = random.Random(20)
    for _ in range(3000):
        text = "".join(draw.choices(PIECES, k=draw.randrange(60)))
        other = "".join(draw.choices(PIECES, k=draw.randrange(12)))
        for result, low in (
            (format_reward(text, tags=TAGS), 0),
            (repetition_reward(text, ngram=draw.randrange(1, 6)), -1),
            (reflection_reward(text, most=draw.randrange(1, 4)), 0),
            (keywords_reward(text, other), 0),
            (keywords_reward(text, [other, 3]), 0),
            (language_reward(text, other), 0),
            (language_reward(text, language=draw.choice(list(PROSE))), 0),
            (length_reward(text, draw.randrange(2000)), -1),
            (overlong_reward(text, draw.randrange(2000), limit=900, buffer=300), -1),
        ):
            if result is None:
                continue
            assert low <= result.value <= low + 1, (text, other)
            assert result.reason
            assert all(math.isfinite(part) for part in result.parts.values())
