"""Sentences and their plans: a golden file, held-out sentences, and what must hold of every plan."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from gruppo.cli.flags import overrides, spell
from gruppo.cli.main import train_parser
from gruppo.config.load import check, load_config
from gruppo.config.plan import Plan
from gruppo.config.reference import options
from gruppo.config.schema import Config
from gruppo.config.sentence import read_sentence
from gruppo.errors import ConfigError

HERE = Path(__file__).parent
GOLDEN: list[dict[str, Any]] = yaml.safe_load((HERE / "golden_sentences.yaml").read_text(encoding="utf-8"))


def read(case: Mapping[str, Any]) -> Plan:
    return read_sentence(case["say"], exists=lambda name: name in case.get("here", []))


def verdict(case: Mapping[str, Any]) -> str:
    """right; asked (a question too many); or wrong, with what."""
    try:
        plan = read(case)
    except ConfigError as error:
        return "right" if "refuse" in case and case["refuse"] in str(error) else f"refused: {error}"
    if "refuse" in case:
        return f"wrong: planned {plan.values}, asked {[q.about for q in plan.questions]}"
    asked = sorted(question.about for question in plan.questions)
    if "ask" in case:
        if not asked:
            return f"wrong: planned {plan.values}"
        if asked != sorted(case["ask"]):
            return f"asked otherwise: {asked}"
        known = {name: value for name, value in plan.values.items() if name in case.get("plan", {})}
        return "right" if known == case.get("plan", {}) else f"asked, with other values: {plan.values}"
    if asked:
        return f"asked: {[(q.about, q.text) for q in plan.questions]}"
    if plan.values != case["plan"]:
        return f"wrong: planned {plan.values}"
    if sorted(slot.option for slot in plan.assumed) != sorted(case.get("assumed", [])):
        return f"wrong: assumed {[slot.option for slot in plan.assumed]}"
    return "right"


if __name__ == "__main__":
    import sys

    for name in sys.argv[1:] or ["golden_sentences.yaml"]:
        cases = yaml.safe_load((HERE / name).read_text(encoding="utf-8"))
        for case in cases:
            said = verdict(case)
            if said != "right":
                print(f"- {case['say']}\n    {said}")
        verdicts = [verdict(case) for case in cases]
        print(sum(v == "right" for v in verdicts), "of", len(cases), "right;", sum(v.startswith("wrong") for v in verdicts), "wrong")
