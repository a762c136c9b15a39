"""Questions to the person at the terminal: asked on standard error, since standard output is for results."""

import sys
from collections.abc import Callable
from typing import TypeVar

from gruppo.cli.flags import say
from gruppo.errors import ConfigError, GruppoError

_Answer = TypeVar("_Answer")


def at_a_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin is not None and sys.stdin.isatty()


def ask(question: str, read: Callable[[str], _Answer], default: str = "") -> _Answer:
    """Ask until the answer can be read; an empty one is the default.

    Args:
        question: without the mark behind it.
        read: the answer as a value; raises a GruppoError, which is shown, for one that will not do.
        default: what an empty answer means; empty: there is none, and it is asked again.

    Raises:
        ConfigError: the input ends.
    """
    while True:
        shown = f"{question} [{default}]: " if default else f"{question}: "
        print(shown, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise ConfigError(f"the input ended at the question: {question}")
        text = line.strip() or default
        if not text:
            continue
        try:
            return read(text)
        except GruppoError as error:
            say(str(error))


def yes(question: str) -> bool:
    """Whether the answer is yes; anything else is no, and so is the end of the input."""
    print(f"{question} [yes/no]: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
