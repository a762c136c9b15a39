"""`gruppo init`: a first config, from answers or flags."""

import json
from argparse import Namespace
from pathlib import Path

from gruppo.cli.asking import ask, at_a_terminal, yes
from gruppo.cli.flags import say
from gruppo.config.hardware import machine
from gruppo.config.load import load_config
from gruppo.config.schema import Config
from gruppo.config.starting import TASKS, starting_config
from gruppo.errors import ConfigError, nearest

SCHEMA = "gruppo.schema.json"
"""Beside the config, for editors."""


def init(parsed: Namespace) -> int:
    """Write a config; its path on standard output."""
    file = Path(parsed.output_dir or "run.yaml")
    if file.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--out: got '{file}', wanted the path of a YAML file, such as run.yaml")
    _need(parsed)
    _keep(file, parsed.overwrite)
    task = _task(parsed.task) if parsed.task else ask(f"task ({', '.join(TASKS)})", _task, "math")
    model = parsed.model or ask("model (a folder, or a name on the hub)", str)
    data = parsed.data or ask("data (files, folders or hub names)", str.split)
    hardware = "hardware (cpu, mps, gpu, t4, a100-40, 24GB, ...)"
    on = machine(parsed.hardware) if parsed.hardware else ask(hardware, machine, "gpu")
    text = starting_config(task, model, data, on, SCHEMA, str(file))
    _write(file, text)
    load_config(file, {})
    _write_schema(file.parent / SCHEMA)
    say(f"Look at it: gruppo config explain {file}. Start it: gruppo train {file}")
    print(file)
    return 0


def _need(parsed: Namespace) -> None:
    """Refuse where something is missing and nobody can be asked."""
    missing = [f"--{name}" for name in ("task", "model", "data", "hardware") if not getattr(parsed, name)]
    if missing and not at_a_terminal():
        raise ConfigError(f"gruppo init: give {', '.join(missing)}: there is no terminal to ask at")


def _keep(file: Path, overwrite: bool) -> None:
    """Never write over a file unasked."""
    if not file.exists() or overwrite:
        return
    if not at_a_terminal() or not yes(f"{file} is there already. Write over it?"):
        raise ConfigError(f"{file} is there already and is kept; name another --out, or give --overwrite")


def _task(text: str) -> str:
    plain = text.strip().lower().replace("-", "_")
    if plain not in TASKS:
        raise ConfigError(f"--task: got '{text}', wanted one of {', '.join(TASKS)}.{nearest(plain, list(TASKS))}")
    return plain


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out: {file} can't be written: {error.strerror}") from error


def _write_schema(file: Path) -> None:
    """The schema beside the config; one that differs is another version's, or somebody's own, and is kept."""
    text = json.dumps(Config.model_json_schema(), indent=2) + "\n"
    if not file.exists():
        _write(file, text)
    elif file.read_text(encoding="utf-8") != text:
        say(f"note: {file} differs from this version's and is kept; renew it with: gruppo config schema > {file}")
