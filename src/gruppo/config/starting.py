"""A first config for a task, a model, data and a machine: short, commented, ready to run or to be changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gruppo.config.hardware import Machine, fitted
from gruppo.config.model_shape import read_shape
from gruppo.config.presets import PRESETS
from gruppo.config.schema import Config
from gruppo.config.sentences.names import known_set, size_of
from gruppo.config.yaml_text import flow, lines

OTHER = "other"
TASKS = (*(name for name, preset in PRESETS.items() if preset.kind == "task"), OTHER)
"""What a config can be started for: the presets by task, or none of them."""

_REWARDS: Mapping[str, tuple[Sequence[Any] | None, str]] = {
    "math": (["math"], "the stated answer equals the reference"),
    "math_reasoning": (["math"], "the stated answer equals the reference"),
    "code": (["code"], "the program passes the row's tests, in a sandbox"),
    "qa": (["qa"], "the short answer is an accepted one"),
    "format": ([{"name": "format", "tags": ["think", "answer"]}], "the form alone; put the answer's own before it"),
    "logic": (None, "by the form of the data: `logic` for knights and knaves, else qa or math"),
    "instruction_following": (None, "by the form of the data; for instructions name your own: [my_rewards.py:reward]"),
    OTHER: (None, "by the form of the data: code, qa, logic or math"),
}


def starting_config(task: str, model: str, data: Sequence[str], on: Machine, schema: str, file: str) -> str:
    """The text of a config.

    Args:
        task: one of `TASKS`.
        model: a folder or hub name.
        data: where the problems are.
        on: the machine that it is for.
        schema: where an editor finds the JSON schema, relative to the file.
        file: the file's own name, for the commands in its head.
    """
    preset = [] if task == OTHER else [task]
    shape = read_shape(model)
    rewards, reward_why = _REWARDS[task]
    values: dict[str, Any] = {"model": model, "data": data[0] if len(data) == 1 else list(data)}
    comments = {
        "model": "a folder, or a name on the hub",
        "data": "files, folders or hub names; how columns are found: docs/data.md",
        "rewards": reward_why,
        "steps": "optimizer steps of GRPO",
        "output_dir": "the same command on the same folder goes on where it stopped",
    }
    if preset:
        values["preset"] = task
        shown_first = list(PRESETS[task].values.items())[:4]
        comments["preset"] = (
            ", ".join(f"{name} {flow(value)}" for name, value in shown_first) + ", ... (docs/presets.md)"
        )
    if rewards is not None:
        values["rewards"] = list(rewards)
    default = Config.model_fields["steps"].default
    values |= {"steps": default, "output_dir": f"runs/{Path(file).stem}"}
    hardware: dict[str, Any] = {"device": on.device}
    comments["device"] = on.name
    for name, (value, why) in fitted(on, preset, {}, size_of(model) if shape is None else shape.parameters).items():
        hardware[name], comments[name] = value, why if len(why) < 80 else why.partition(": ")[0]
    head = [
        f"# yaml-language-server: $schema={schema}",
        f"# A GRPO run{'' if task == OTHER else f' for {task}'}. Start it, or go on with it: gruppo train {file}",
        f"# Every option, its value and where that is from: gruppo config explain {file}",
        "",
    ]
    asked = [] if rewards is not None else [f"# rewards: {reward_why}"]
    parts = [*head, *lines(values, comments), *asked, "", *lines(hardware, comments), "", *_evaluation(data)]
    return "\n".join(parts) + "\n"


def _evaluation(data: Sequence[str]) -> list[str]:
    """The stage of evaluation: live where held-out problems are known, else to be filled in."""
    known = known_set(data[0]) if len(data) == 1 else None
    if known is not None and known.test is not None and not Path(data[0]).exists():
        return lines({"eval": {"data": known.test}}, {"eval": "before and after, on the same held-out problems"})
    return [
        "# eval:                        # pass@1 and pass@k before and after, on held-out problems",
        "#   data: held-out.jsonl",
    ]
