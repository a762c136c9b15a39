"""`gruppo train "a sentence"`: show the plan, ask what is open, start after a yes."""

import shlex
from collections.abc import Mapping
from typing import Any

from gruppo.cli.asking import ask, at_a_terminal, yes
from gruppo.cli.flags import say
from gruppo.config.plan import Plan, Question
from gruppo.config.reference import options
from gruppo.config.schema import Config
from gruppo.config.sentence import read_sentence
from gruppo.errors import ConfigError


def confirmed(sentence: str, flags: Mapping[str, Any], sure: bool) -> Config | None:
    """The config of a sentence, once somebody has said yes to its plan; None: they said no.

    Args:
        sentence: plain English.
        flags: given beside it; they stand over it and answer its questions.
        sure: `--yes` was given, which will do where nothing is assumed, asked or left over.

    Raises:
        ConfigError: it isn't understood, a question is open, or there is nobody to say yes.
    """
    plan = read_sentence(sentence, flags)
    say(str(plan))
    if plan.questions:
        plan = _answered(plan, dict(flags))
    config = plan.config()
    if sure and plan.sure:
        return config
    if sure:
        what = ", ".join(slot.option for slot in plan.assumed)
        raise ConfigError(f"--yes will not do: {what} was assumed, not said. Say it, or run the plan's command line")
    if not at_a_terminal():
        raise ConfigError(
            "not started: there is no terminal to say yes at. Run the plan's command line, or give --yes, which will "
            "do where nothing is assumed"
        )
    return config if yes("Start it?") else None


def _answered(plan: Plan, given: dict[str, Any]) -> Plan:
    """The plan once its questions are answered at the terminal.

    Raises:
        ConfigError: there is no terminal, or a question wants another sentence.
    """
    hard = [question for question in plan.questions if not question.answer_is_a_value]
    if hard or not at_a_terminal():
        count = "a question is" if len(plan.questions) == 1 else f"{len(plan.questions)} questions are"
        how = "put the sentence differently" if hard else "answer in the sentence, or by flags"
        abouts = ", ".join(question.about for question in plan.questions)
        raise ConfigError(f"not started: {count} open ({abouts}); {how}")
    while plan.questions:
        for question in plan.questions:
            given[question.about] = ask(f"{question.about}: {question.text}", _reader(question))
        plan = read_sentence(plan.sentence, given)
        say(str(plan))
    return plan


def _reader(question: Question) -> Any:
    """What makes a value of an answer."""
    repeated = {option.name for option in options() if option.repeated}

    def read(text: str) -> Any:
        if question.about == "scale":
            if text.lower() not in ("y", "yes"):
                raise ConfigError("then the numbers have to be others: Ctrl-C, and say them")
            return True
        if question.about == "partial_at":
            try:
                return float(text)
            except ValueError:
                raise ConfigError(f"got '{text}', wanted a number above 0 and up to 1") from None
        return shlex.split(text) if question.about in repeated else text

    return read
