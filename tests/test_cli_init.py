"""`gruppo init`: a config for each task that loads, is explained, and fits its own schema."""

import json
from pathlib import Path

import pytest
import yaml

from command_line import Bench
from gruppo.config.hardware import GPUS, machine
from gruppo.config.load import load_config
from gruppo.config.starting import TASKS
from gruppo.errors import ConfigError
from test_cli_sentence import types

FLAGS = ["--model", "my-org/tiny-0.5B", "--data", "problems.jsonl", "--hardware", "t4"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("hardware", ["cpu", "a100-80"])
def test_what_is_written_loads_and_is_explained(bench: Bench, task: str, hardware: str) -> None:
    flags = ["--model", bench.model, "--data", "problems.jsonl", "--hardware", hardware]
    outcome = bench.gruppo("init", "--task", task, *flags, "--out", "first.yaml")
    assert (outcome.code, outcome.out) == (0, "first.yaml\n")
    config, notes = load_config(bench.folder / "first.yaml", {})
    assert (config.preset, notes) == (() if task == "other" else (task,), [])
    assert (config.model, config.data_paths) == (str(bench.model), ("problems.jsonl",))
    assert config.output_dir == "runs/first"
    assert (config.device, config.precision) == (("cpu", "float32") if hardware == "cpu" else ("cuda", "bfloat16"))
    told = bench.gruppo("config", "explain", "first.yaml")
    assert told.code == 0
    assert "warning" not in told.out


def test_the_whole_file(bench: Bench) -> None:
    bench.gruppo("init", "--task", "math", *FLAGS)
    assert (bench.folder / "run.yaml").read_text() == (
        "# yaml-language-server: $schema=gruppo.schema.json\n"
        "# A GRPO run for math. Start it, or go on with it: gruppo train run.yaml\n"
        "# Every option, its value and where that is from: gruppo config explain run.yaml\n"
        "\n"
        "model: my-org/tiny-0.5B  # a folder, or a name on the hub\n"
        "data: problems.jsonl     # files, folders or hub names; how columns are found: docs/data.md\n"
        "preset: math             # epsilon 12, beta 0.001, group_size 16, temperature 1, ... (docs/presets.md)\n"
        "rewards: [math]          # the stated answer equals the reference\n"
        "steps: 200               # optimizer steps of GRPO\n"
        "output_dir: runs/run     # the same command on the same folder goes on where it stopped\n"
        "\n"
        "device: cuda            # t4\n"
        "prompts_per_step: 64    # twice 32, for as many completions: a GPU of 16 GB, under 24\n"
        "group_size: 8           # half of 16: a GPU of 16 GB, under 24\n"
        "learning_rate: 5.0e-06  # models below 1B parameters want 5e-06 to 1e-05\n"
        "\n"
        "# eval:                        # pass@1 and pass@k before and after, on held-out problems\n"
        "#   data: held-out.jsonl\n"
    )


@pytest.mark.parametrize("task", TASKS)
def test_it_fits_the_schema_beside_it(bench: Bench, task: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed (the extra `schema`)")
    bench.gruppo("init", "--task", task, *FLAGS, "--out", "configs/first.yaml")
    folder = bench.folder / "configs"
    text = (folder / "first.yaml").read_text()
    schema = json.loads((folder / "gruppo.schema.json").read_text())
    assert text.startswith("# yaml-language-server: $schema=gruppo.schema.json\n")
    assert schema == json.loads(bench.gruppo("config", "schema").out)
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(text))


def test_known_data_is_evaluated_on_its_test_split(bench: Bench) -> None:
    bench.gruppo("init", "--task", "math", "--model", "m", "--data", "openai/gsm8k", "--hardware", "cpu")
    config, _ = load_config(bench.folder / "run.yaml", {})
    assert config.eval is not None
    assert config.eval.data == ("openai/gsm8k:main/test",)


def test_what_no_flag_says_is_asked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    types(monkeypatch, "maths", "", "my-org/m", "a.jsonl b.jsonl", "abacus", "24 GB")
    outcome = bench.gruppo("init")
    assert (outcome.code, outcome.out) == (0, "run.yaml\n")
    assert "--task: got 'maths', wanted one of math, code" in outcome.err
    assert "--hardware: got 'abacus', wanted cpu, mps, gpu" in outcome.err
    config, _ = load_config(bench.folder / "run.yaml", {})
    assert (config.preset, config.model, config.data_paths) == (("math",), "my-org/m", ("a.jsonl", "b.jsonl"))


def test_without_a_terminal_every_missing_flag_is_named(bench: Bench) -> None:
    assert bench.gruppo("init", "--model", "m").error == (
        "gruppo init: give --task, --data, --hardware: there is no terminal to ask at"
    )
    assert not (bench.folder / "run.yaml").exists()


def test_a_file_is_never_written_over_unasked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    file = bench.write("run.yaml", "mine\n")
    flags = ["--task", "math", *FLAGS]
    kept = "run.yaml is there already and is kept; name another --out, or give --overwrite"
    assert bench.gruppo("init", *flags).error == kept
    types(monkeypatch, "no")
    assert bench.gruppo("init", *flags).code == 2
    assert file.read_text() == "mine\n"
    types(monkeypatch, "yes")
    assert bench.gruppo("init", *flags).code == 0
    assert "\npreset: math " in file.read_text()
    assert bench.gruppo("init", "--task", "code", *FLAGS, "--overwrite").code == 0
    assert "\npreset: code " in file.read_text()


def test_another_schema_is_kept_and_told(bench: Bench) -> None:
    schema = bench.write("gruppo.schema.json", "{}\n")
    outcome = bench.gruppo("init", "--task", "math", *FLAGS)
    assert "note: gruppo.schema.json differs from this version's and is kept; renew it with:" in outcome.err
    assert schema.read_text() == "{}\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "cooking"], "--task: got 'cooking', wanted one of math, code, qa, format,"),
        (["--hardware", "h1000"], "--hardware: got 'h1000', wanted cpu, mps, gpu, the memory of a GPU such as 24GB"),
        (["--out", "run.json"], "--out: got 'run.json', wanted the path of a YAML file, such as run.yaml"),
    ],
)
def test_wrong_flags(bench: Bench, flags: list[str], message: str) -> None:
    assert bench.gruppo("init", "--task", "math", *FLAGS, *flags).error.startswith(message)
    assert [path.name for path in Path(bench.folder).glob("*.yaml")] == []


@pytest.mark.parametrize(
    ("text", "device", "memory", "bfloat16"),
    [
        ("cpu", "cpu", None, False),
        ("MPS", "mps", None, False),
        ("gpu", "cuda", None, False),
        ("24GB", "cuda", 24.0, False),
        ("T4", "cuda", 16, False),
        ("A100-80", "cuda", 80, True),
        ("a100 80GB", "cuda", 80, True),
        ("RTX 4090", "cuda", 24, True),
        ("H100", "cuda", 80, True),
    ],
)
def test_machines(text: str, device: str, memory: float | None, bfloat16: bool) -> None:
    found = machine(text)
    assert (found.device, found.gpu_memory, found.bfloat16) == (device, memory, bfloat16)


def test_every_gpu_is_found_by_its_name() -> None:
    assert [machine(name).gpu_memory for name in GPUS] == list(GPUS.values())
    with pytest.raises(ConfigError, match="0GB"):
        machine("0GB")
