"""Rewards measured: math against trl's `accuracy_reward`, reference answers in every form, hostile answers.

    python benchmarks/rewards.py --data DIR [--only speed,labels,golds,hostile] [--seed 0]

DIR holds gsm8k/train.jsonl, math/math_train.jsonl, math/deepscaler_aime_train.json, arith/*.jsonl and
verifier/qwen_outputs_30.jsonl. The result is written to benchmarks/rewards.md.
"""

import argparse
import json
import os
import platform
import random
import re
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

from gruppo.rewards.math import math_fast, math_reward, reference_answer
from gruppo.rewards.math_extract import is_prose
from gruppo.rewards.math_numbers import number

PAGE = Path(__file__).with_name("rewards.md")
FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda answer: answer,
    "####": lambda answer: f"First this, then that.\n#### {answer}",
    "boxed": lambda answer: f"So we get $\\boxed{{{answer}}}$.",
    "sentence": lambda answer: f"We add both.\nThe answer is {answer}.",
}
GOLDS = {
    "gsm8k": ("gsm8k/train.jsonl", "answer"),
    "math": ("math/math_train.jsonl", "answer"),
    "aime": ("math/deepscaler_aime_train.json", "answer"),
    "mawps": ("arith/mawps_70.jsonl", "target"),
    "asdiv": ("arith/asdiv_70.jsonl", "answer"),
    "svamp": ("arith/svamp_70.jsonl", "Answer"),
}


def rows(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def golds(data: Path, name: str) -> list[str]:
    """The reference answers of a data set, those that are there."""
    file, column = GOLDS[name]
    return [str(row[column]) for row in rows(data / file) if row[column] is not None]


def perturbed(answer: str) -> tuple[str, str]:
    """A wrong answer like the right one, and the kind of change."""
    value = number(answer)
    if value is not None:
        whole = value.value + 1
        return (str(whole) if whole.denominator == 1 else f"{whole.numerator}/{whole.denominator}"), "number + 1"
    letter = re.fullmatch(r"(?:\\text\{)?\(?([A-J])\)?\}?", answer)
    if letter:
        return answer.replace(letter[1], "B" if letter[1] == "A" else "A"), "another letter"
    digits = list(re.finditer(r"[0-9]+", answer))
    if digits:
        last = digits[-1]
        return f"{answer[: last.start()]}{int(last[0]) + 1}{answer[last.end() :]}", "last integer + 1"
    if is_prose(answer.replace("\\text", "")) and "\\" not in answer.replace("\\text", ""):
        return re.sub(r"[A-Za-z]{3,}", "zebra", answer.replace("\\text", "").strip("{}"), count=1), "another word"
    if "\\infty" in answer:
        return answer.replace("\\infty", "7", 1), "infinity to 7"
    ending = re.search(r"[A-Za-z0-9}]+(?=[)\]]*$)", answer)
    return (f"{answer}+1" if ending is None else f"{answer[: ending.end()]}+1{answer[ending.end() :]}"), "+ 1"


def gold_check(answers: list[str], forms: dict[str, Callable[[str], str]] = FORMS) -> tuple[list, list, Counter]:
    """Reference answers that are not accepted, wrong ones that are, and the kinds of change."""
    refused, accepted, kinds = [], [], Counter()
    for answer in answers:
        gold = reference_answer(answer)
        wrong, kind = perturbed(gold)
        kinds[kind] += 1
        for name, form in forms.items():
            if math_reward(form(gold), answer) != 1.0:
                refused.append((name, gold))
            if math_reward(form(wrong), answer) != 0.0:
                accepted.append((name, gold, wrong))
    return refused, accepted, kinds
