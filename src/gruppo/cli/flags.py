"""Flags from the schema, and argument lists back to overrides of a config."""

import argparse
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import yaml

from gruppo.config.load import ALIASES, GONE, STAGES
from gruppo.config.reference import Option
from gruppo.errors import ConfigError, nearest


class Parser(argparse.ArgumentParser):
    """argparse with our manners: no guessed abbreviations, errors as one ConfigError that names the cure."""

    stray = ""
    """What to say besides of an argument that is no flag and has no place."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _Formatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments."""
        raise ConfigError(f"{self.prog}: {message}; see {self.prog} --help")

    def parse_strictly(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse; unknown flags are named, all at once, each with the nearest known one."""
        parsed, unknown = self.parse_known_args(arguments)
        if unknown:
            known = [flag for action in self._actions for flag in action.option_strings]
            # What follows an unknown flag is its value, and no mistake of its own.
            flags = [argument.split("=")[0] for argument in unknown if _is_flag(argument)] or unknown[:1]
            lines = [f"{self.prog}: there is no flag or argument '{flag}'.{_instead(flag, known)}" for flag in flags]
            separator = "\n" if len(lines) > 1 else " "
            stray = self.stray if self.stray and not _is_flag(flags[0]) else ""
            raise ConfigError(separator.join([*lines, f"{stray}See {self.prog} --help"]))
        return parsed


def _instead(flag: str, known: list[str]) -> str:
    """What to say in place of an unknown flag."""
    gone = GONE.get(flag.removeprefix("--").replace("-", "_"))
    return nearest(flag, known) if gone is None else f" In its place {gone}."


def _is_flag(argument: str) -> bool:
    return argument.startswith("-") and not argument[1:2].isdigit()


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=min(110, _terminal_width()))

    def _split_lines(self, text: str, width: int) -> list[str]:
        """Lines of help that break at spaces alone: a name such as all-linear stays whole."""
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def _terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size((100, 24)).columns


def add_options(parser: Parser, options: Iterable[Option], title: str) -> None:
    """A flag for every option; nothing is set unless it is given."""
    group = parser.add_argument_group(title)
    for option in options:
        group.add_argument(
            option.flag,
            dest=option.name,
            metavar=option.type,
            nargs="+" if option.repeated else None,
            default=argparse.SUPPRESS,
            help=option.text.replace("%", "%%"),
        )


def overrides(parsed: argparse.Namespace, options: Iterable[Option]) -> dict[str, Any]:
    """The options that were given, by dotted name; `none` unsets, a list item in braces is a mapping."""
    given = vars(parsed)
    return {option.name: _value(given[option.name], option) for option in options if option.name in given}


def _value(given: str | list[str], option: Option) -> Any:
    if isinstance(given, list):
        return [_item(item, option) for item in given]
    return None if given.lower() in ("none", "null") and option.default == "unset" else given


def _item(text: str, option: Option) -> Any:
    """A list's item; `{name: math, weight: 2}` is a mapping."""
    if not text.startswith("{") or not text.endswith("}"):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{option.flag}: {text!r} is no mapping such as '{{name: math, weight: 2}}'") from error


def spell(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments with flags in our spelling: dashes for underscores, our names for peers'; and what was renamed.

    Raises:
        ConfigError: an option is given under two names.
    """
    spelled: list[str] = []
    named: dict[str, str] = {}
    notes: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return [*spelled, *arguments[position:]], notes
        if not argument.startswith("--"):
            spelled.append(argument)
            continue
        flag, equals, value = argument.partition("=")
        stage, dot, leaf = flag[2:].replace("-", "_").rpartition(".")
        own = ALIASES.get(leaf, leaf) if not stage or stage in STAGES else leaf
        other = named.setdefault(f"{stage}{dot}{own}", flag)
        if other.replace("-", "_") != flag.replace("-", "_"):
            raise ConfigError(f"{flag}: given twice, also as {other}; keep one")
        if own != leaf and leaf != "out":
            notes.append(f"{flag} is --{stage}{dot}{own.replace('_', '-')} here")
        spelled.append(f"--{stage}{dot}{own}".replace("_", "-") + equals + value)
    return spelled, notes


def say(text: str) -> None:
    """A line to the person at the terminal; standard output stays for results."""
    print(text, file=sys.stderr)
