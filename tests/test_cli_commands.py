"""The commands on their good paths, and the parsing of arguments."""

import json

import pytest
import yaml

from command_line import Bench
from gruppo.cli.flags import Parser, add_options, overrides, spell
from gruppo.config.reference import options
from gruppo.config.schema import Config


def test_train_twice(bench: Bench) -> None:
    first = bench.train()
    assert first.code == 0
    assert first.out == "model          run/model\nreport         run/report.html\n"
    assert "problems.jsonl: 12 rows; prompt: column 'question'; answer: column 'answer'" in first.err
    assert "first prompt (problems.jsonl:1, 12 tokens): '<|user|>What is 3 + 4?<|end|><|assistant|>'" in first.err
    assert "warning: group_size: 2; so few completions leave most groups without a signal" in first.err
    run = bench.folder / "run"
    assert {path.name for path in run.iterdir()} == {
        "checkpoints",
        "config.yaml",
        "environment.json",
        "events.jsonl",
        "metrics.jsonl",
        "model",
        "report.html",
        "rollouts",
        "run.lock",
        "stages.json",
    }
    assert [path.name for path in sorted((run / "rollouts").iterdir())] == [
        "step-000001.parquet",
        "step-000002.parquet",
    ]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000002"]
    assert Config.model_validate(yaml.safe_load((run / "config.yaml").read_text())).group_size == 2

    kept = ("metrics.jsonl", "model/model.safetensors", "stages.json")
    before = [(run / name).read_bytes() for name in kept]
    second = bench.train()
    assert (second.code, second.out) == (0, first.out)
    assert second.err == "run: this run is done; for another, choose another --out\n"
    assert [(run / name).read_bytes() for name in kept] == before


def test_a_file_with_all_stages(bench: Bench) -> None:
    """SFT, evaluation, GRPO, evaluation, report, from one command; peers' names in the file."""
    bench.write(
        "run.yaml",
        f"model: {bench.model}\ndata: problems.jsonl\noutput_dir: run\nthreads: 1\nmax_steps: 1\n"
        "prompts_per_step: 2\nnum_generations: 4\nmax_new_tokens: 8\nlearning_rate: 1e-4\n"
        "sft: {data: problems.jsonl, steps: 1, batch_size: 4}\n"
        "eval: {data: problems.jsonl, samples: 2, max_problems: 3}\n",
    )
    outcome = bench.gruppo("train", "run.yaml", "--group-size", "2", "--no-check")
    assert outcome.code == 0
    for note in ("max_steps is steps", "num_generations is group_size", "max_new_tokens is max_completion_length"):
        assert f"note: {note} here" in outcome.err
    assert [line.split("  ")[0] for line in outcome.out.splitlines()] == [
        "pass@1 before",
        "pass@1 after",
        "difference",
        "model",
        "report",
    ]
    run = bench.folder / "run"
    assert yaml.safe_load((run / "config.yaml").read_text())["group_size"] == 2
    assert list(json.loads((run / "stages.json").read_text())) == ["sft", "grpo", "eval"]
    assert (run / "sft" / "model" / "model.safetensors").exists()
    assert json.loads((run / "eval" / "after.json").read_text())["problems"] == 3

    shown = bench.gruppo("show", "run")
    assert shown.code == 0
    assert "Evaluation on 3 held-out problems, 2 samples each" in shown.out
    again = bench.gruppo("train", "run.yaml", "--group-size", "2", "--no-check")
    assert (again.code, again.out) == (0, outcome.out)


def test_sft_then_eval(bench: Bench) -> None:
    trained = bench.gruppo(
        "sft", "--model", bench.model, "--data", "problems.jsonl", "--max-steps", 2, "--batch-size", 4, "--out", "sft"
    )
    assert (trained.code, trained.out) == (0, "model          sft/model\nreport         sft/report.html\n")
    assert "note: --max-steps is --steps here" in trained.err

    flags = ["--data", "problems.jsonl", "--samples", 2, "--max-completion-length", 8, "--max-problems", 5]
    found = bench.gruppo("eval", "--model", "sft/model", *flags, "--json", "--save", "results/eval.json")
    assert found.code == 0
    summary = json.loads(found.out)
    assert list(summary) == [
        "model",
        "problems",
        "samples",
        "temperature",
        "pass_at_1",
        "pass_at_1_greedy",
        "pass_at_2",
        "mean_length",
        "truncated_share",
        "seed",
    ]
    assert (summary["model"], summary["problems"], summary["samples"]) == ("sft/model", 5, 2)
    assert set(summary["pass_at_1"]) == {"value", "low", "high"}
    saved = json.loads((bench.folder / "results" / "eval.json").read_text())
    assert len(saved["per_problem"]) == 5

    table = bench.gruppo("eval", "--model", "sft/model", *flags)
    value, low, high = (summary["pass_at_1"][name] for name in ("value", "low", "high"))
    assert f"pass_at_1          {value:.3f} [{low:.3f}, {high:.3f}]" in table.out


def test_sft_from_a_file_with_flags_over_it(bench: Bench) -> None:
    bench.write(
        "run.yaml", f"model: {bench.model}\ndata: problems.jsonl\nsft: {{data: problems.jsonl, max_steps: 9}}\n"
    )
    outcome = bench.gruppo("sft", "run.yaml", "--steps", 1, "--batch-size", 2, "--out", "one")
    assert outcome.code == 0
    assert yaml.safe_load((bench.folder / "one" / "config.yaml").read_text())["sft"]["steps"] == 1
    assert len((bench.folder / "one" / "sft" / "metrics.jsonl").read_text().splitlines()) == 1


def test_config_schema_is_json_schema(bench: Bench) -> None:
    schema = json.loads(bench.gruppo("config", "schema").out)
    assert schema["properties"]["group_size"] == {
        "default": 8,
        "description": "Completions per prompt, G.",
        "maximum": 4096,
        "minimum": 2,
        "title": "Group Size",
        "type": "integer",
    }
    assert schema["additionalProperties"] is False


def test_config_explain(bench: Bench) -> None:
    one = bench.gruppo("config", "explain", "group-size")
    assert one.out == (
        "group_size\n    Completions per prompt, G. [at least 2, at most 4096; default 8] "
        "Also: num_generations, samples_per_prompt, rollout_n.\n"
    )
    assert bench.gruppo("config", "explain").out.count("[") == len(list(options()))
    bench.write("run.yaml", "model: m\ndata: d\nprompts_per_step: 16\ntop_k: 50\nclip_ratio: 0.3\n")
    whole = bench.gruppo("config", "explain", "run.yaml")
    assert whole.err == "note: clip_ratio is epsilon here\n"
    assert "\nepsilon           0.3    file  Clip range of the policy ratio, low side: ratios below 1" in whole.out
    assert "per step: 128 completions (16 x 8)\n" in whole.out
    assert "\nwarning: top_k: 50; above 0 draws from another distribution than the one that is trained" in whole.out
    assert whole.out.endswith("raise\n    updates_per_batch or minibatches, or leave it out\n")


def test_help_names_the_commands(bench: Bench) -> None:
    outcome = bench.gruppo()
    assert outcome.code == 0
    for name in ("demo", "check", "train", "init", "sft", "eval", "show", "config", "reward", "serve-reward"):
        assert f"\n  {name} " in outcome.out


def test_train_help_has_every_option(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        bench.gruppo("train", "--help")
    assert left.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in options():
        assert option.flag in text
        assert option.help.split(".")[0] in text


# ---- arguments


@pytest.mark.parametrize(
    ("given", "spelled", "notes"),
    [
        (["train", "--learning_rate", "1"], ["train", "--learning-rate", "1"], []),
        (["train", "--num_generations=4"], ["train", "--group-size=4"], ["--num_generations is --group-size here"]),
        (["train", "--sft.max-steps", "4"], ["train", "--sft.steps", "4"], ["--sft.max-steps is --sft.steps here"]),
        (["train", "--out", "x"], ["train", "--output-dir", "x"], []),
        (["train", "--prompt", "--", "--out"], ["train", "--prompt", "--", "--out"], []),
        (["train", "--beta", "-3"], ["train", "--beta", "-3"], []),
    ],
)
def test_spelling(given: list[str], spelled: list[str], notes: list[str]) -> None:
    assert spell(given) == (spelled, notes)


def test_flags_to_overrides() -> None:
    parser = Parser(prog="gruppo test")
    add_options(parser, options(), "all")
    text = (
        "--data a b --learning-rate 3e-6 --epsilon-high none --sft.shuffle false --eval.data e --prompt {a} --rewards"
    )
    parsed = parser.parse_strictly([*text.split(), "math", "{name: format, pattern: 'x', weight: 2}"])
    assert overrides(parsed, options()) == {
        "data": ["a", "b"],
        "learning_rate": "3e-6",
        "epsilon_high": None,
        "prompt": "{a}",
        "rewards": ["math", {"name": "format", "pattern": "x", "weight": 2}],
        "sft.shuffle": "false",
        "eval.data": ["e"],
    }
