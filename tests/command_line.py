"""Running `gruppo` in process, for the tests of the command line."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gruppo.cli.main import main

REWARDS = '''
def digits(completion):
    """The share of digits: it varies from the first step on."""
    return sum(character.isdigit() for character in completion) / max(1, len(completion))


def says_good(completion):
    return "good"


def one_value(completions):
    return [1.0]


def raises(completion, answer):
    return {"3": 1.0}[answer + "?"]


def wants_level(completion, level):
    return 1.0


def scores(completion):
    return [1.0]


number = 3
'''


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one message of a refusal, checked for its manners."""
        assert self.code == 2, self.err
        assert "Traceback" not in self.err
        assert self.out == ""
        assert self.err.count("error: ") == 1, self.err
        return self.err.partition("error: ")[2].rstrip("\n")


Command = Callable[..., Outcome]


class Bench:
    """A working folder with a data file, reward functions and a model, and commands to run in it."""

    def __init__(self, folder: Path, model: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.model = model
        self._capture = capture
        self.write("rewards.py", REWARDS)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def gruppo(self, *arguments: object) -> Outcome:
        self._capture.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = self._capture.readouterr()
        return Outcome(code, out, err)

    def train(self, *more: object, **options: object) -> Outcome:
        """A run of two steps with two problems and two completions each, with options changed or added."""
        values: dict[str, object] = {
            "model": self.model,
            "data": "problems.jsonl",
            "rewards": "rewards.py:digits",
            "steps": 2,
            "prompts_per_step": 2,
            "group_size": 2,
            "max_completion_length": 12,
            "learning_rate": 1e-3,
            "threads": 1,
            "out": "run",
        }
        flags: list[object] = []
        for name, value in {**values, **options}.items():
            flags += [f"--{name.replace('_', '-')}", *(value if isinstance(value, list) else [value])]
        return self.gruppo("train", *more, *flags, "--no-check")
