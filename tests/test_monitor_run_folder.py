"""The run folder: what it refuses, what a kill leaves, what a resume drops."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gruppo.errors import RunFolderError
from gruppo.monitor import files
from gruppo.monitor.run_folder import RunFolder, is_run
from test_monitor_metrics import two_groups

CONFIG = {"model": "m", "learning_rate": 1e-06, "steps": 200, "rewards": [{"name": "math"}], "sft": {"epochs": 1.0}}


def test_a_new_run_holds_its_config_and_environment(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "a" / "run", CONFIG, command=["gruppo", "train"]) as run:
        assert not run.resumed
        assert run.read_config() == CONFIG
        environment = json.loads((run.path / "environment.json").read_text())
    assert environment["command"] == ["gruppo", "train"]
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["versions"]["numpy"] == np.__version__
    assert environment["cores"] >= 1
    assert is_run(run.path)
    assert [event["kind"] for event in run.read_events()] == ["start"]


def test_the_same_config_goes_on_and_what_may_differ_may(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "run", CONFIG).close()
    changed = {**CONFIG, "report_to": "tensorboard", "output_dir": "elsewhere", "keep_checkpoints": 5}
    with RunFolder.open(tmp_path / "run", changed) as run:
        assert run.resumed
        assert run.read_config()["keep_checkpoints"] == 5
        assert run.read_events()[-1]["changed"] == [
            "report_to: the folder has unset, now tensorboard",
            "output_dir: the folder has unset, now elsewhere",
            "keep_checkpoints: the folder has unset, now 5",
        ]


def test_another_config_is_refused_field_by_field(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", CONFIG) as run:
        run.append_metrics({"step": 1})
    other = {**CONFIG, "learning_rate": 3e-06, "sft": {"epochs": 2.0}, "rewards": [{"name": "format"}]}
    with pytest.raises(RunFolderError) as caught:
        RunFolder.open(tmp_path / "run", other)
    assert str(caught.value) == (
        f"output_dir: {tmp_path / 'run'} holds a run of another config:\n"
        "  learning_rate: the folder has 1e-06, now 3e-06\n"
        "  rewards: the folder has [{'name': 'math'}], now [{'name': 'format'}]\n"
        "  sft.epochs: the folder has 1.0, now 2.0\n"
        "Choose another with --out, go back to the folder's values to go on with that run, "
        "or delete the folder to start afresh"
    )
    assert RunFolder(tmp_path / "run").read_config() == CONFIG
    RunFolder.open(tmp_path / "run", CONFIG).close()  # the refusal let go of the lock


def test_before_anything_is_computed_the_config_may_change(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, CONFIG).close()
    with RunFolder.open(tmp_path, {**CONFIG, "steps": 300}) as run:
        assert run.read_config()["steps"] == 300
        assert run.read_events()[-1]["changed"] == ["steps: the folder has 200, now 300"]


def test_a_yaml_text_is_a_config_too(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "learning_rate: 1.0e-06\nsteps: 3\n") as run:
        run.append_metrics({"step": 1})
    with pytest.raises(RunFolderError, match="steps: the folder has 3, now 4"):
        RunFolder.open(tmp_path, {"learning_rate": 1e-6, "steps": 4})


def test_a_folder_of_something_else_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine: true\n")
    with pytest.raises(RunFolderError, match=r"holds config\.yaml, and is no run of gruppo"):
        RunFolder.open(tmp_path, CONFIG)
    assert sorted(os.listdir(tmp_path)) == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_text() == "mine: true\n"


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(RunFolderError, match="out is a file; wanted a folder, choose another with --out"):
        RunFolder.open(tmp_path / "out", CONFIG)
    with pytest.raises(RunFolderError, match="can't write"):
        RunFolder.open(tmp_path / "out" / "run", CONFIG)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_disk_that_refuses_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    real = os.open

    def refuse(path, flags, mode=0o777, **rest):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(code, os.strerror(code))
        return real(path, flags, mode, **rest)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(RunFolderError) as caught:
        RunFolder.open(tmp_path / "run", CONFIG)
    assert str(caught.value) == (
        f"output_dir: can't write {tmp_path / 'run' / 'run.lock'}: {os.strerror(code)}. Wanted a folder that this user "
        "can write, on a disk with space left; choose another with --out"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(RunFolderError, match="Permission denied"):
        RunFolder.open(tmp_path / "run", CONFIG)


HOLDER = """
import os, sys, time
os.register_at_fork(after_in_child=lambda: time.sleep(0.5))  # the child has the lock for so long, as on a loaded core
from gruppo.monitor.run_folder import RunFolder
run = RunFolder.open(sys.argv[1], {"steps": 1})
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
time.sleep(60)
"""


def test_a_run_in_use_is_refused_until_its_process_is_killed_whatever_its_children_do(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        with pytest.raises(RunFolderError) as caught:
            RunFolder.open(tmp_path, {"steps": 1})
        assert str(caught.value) == (
            f"output_dir: {tmp_path} is in use by process {process.pid}. Wait for it, stop it, "
            "or choose another with --out"
        )
        assert files.holder(tmp_path) == process.pid
        process.kill()
        process.wait()
        assert files.holder(tmp_path) is None
        with RunFolder.open(tmp_path, {"steps": 1}) as run:
            assert run.resumed
            assert files.holder(tmp_path) == os.getpid()
            with pytest.raises(RunFolderError, match="in use by this very process"):
                RunFolder.open(tmp_path, {"steps": 1})
        assert files.holder(tmp_path) is None
    finally:
        process.kill()
        os.kill(child, 9)
        process.stdout.close()


def test_a_half_written_line_is_not_read_and_not_built_upon(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG) as run:
        run.append_metrics({"step": 1, "loss": math.nan, "reward_mean": np.float32(0.5)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert run.read_metrics() == [{"step": 1, "loss": None, "reward_mean": 0.5}]
    with RunFolder.open(tmp_path, CONFIG) as run:
        run.append_metrics({"step": 2})
    assert (tmp_path / "metrics.jsonl").read_text() == ('{"step": 1, "loss": null, "reward_mean": 0.5}\n{"step": 2}\n')


def test_a_broken_line_within_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl:2 is no JSON object"):
        RunFolder(tmp_path).read_metrics()


def test_a_resume_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG) as run:
        for step in (1, 2, 3, 4):
            run.append_metrics({"step": step})
            run.write_rollouts(step, two_groups())
        run.truncate_after(2)
        assert [row["step"] for row in run.read_metrics()] == [1, 2]
        assert run.rollout_steps() == [1, 2]
        assert (run.read_events()[-1]["kind"], run.read_events()[-1]["dropped"]) == ("rewind", 2)


def test_checkpoints_are_pruned_oldest_first_and_strangers_are_no_checkpoints(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (50, 100, 1000150):
        run.checkpoint_path(step).mkdir(parents=True)
        (run.checkpoint_path(step) / "weights").write_text("w")
    (tmp_path / "checkpoints" / ".step-000200.tmp").mkdir()
    assert run.checkpoint_path(50).name == "step-000050"
    assert run.checkpoint_steps() == [50, 100, 1000150]
    assert run.prune_checkpoints(keep=1) == [50, 100]
    assert sorted(os.listdir(tmp_path / "checkpoints")) == [".step-000200.tmp", "step-1000150"]


def test_stages_are_done_for_later_processes_too(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert not run.is_done("sft")
    run.mark_done("sft")
    run.mark_done("grpo")
    assert RunFolder(tmp_path).is_done("sft")
    assert list(RunFolder(tmp_path).done_stages()) == ["sft", "grpo"]


def test_a_stage_keeps_its_metrics_and_shares_the_events(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG) as run:
        stage = run.sub("sft")
        stage.append_metrics({"step": 1})
        stage.append_event("note", text="hello")
        assert (tmp_path / "sft" / "metrics.jsonl").read_text() == '{"step": 1}\n'
        assert {"kind": "note", "stage": "sft", "text": "hello"}.items() <= run.read_events()[-1].items()


def test_rollouts_are_one_row_each_and_pandas_reads_them(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    advantages = np.array([[1.0, -1.0], [0.0, 0.0]])
    path = run.write_rollouts(120, two_groups(), advantages)
    assert path == tmp_path / "rollouts" / "step-000120.parquet"
    table = pd.read_parquet(path)
    assert list(table.columns) == [
        "step", "problem_id", "sample", "prompt_text", "completion", "answer", "reward", "advantage", "passed",
        "finish_reason", "completion_length", "token_ids", "sampler_logprobs", "policy_version", "reasons",
        "reward/math", "reward/format",
    ]  # fmt: skip
    assert table["step"].tolist() == [120] * 4
    assert table["advantage"].tolist() == [1.0, -1.0, 0.0, 0.0]
    assert table["completion"].tolist() == ["xx", "xxxx", "xxxxxx", "xxxxxxxx"]
    assert table["reward/format"].isna().tolist() == [False, True, False, False]
    assert table["finish_reason"].tolist() == ["stop", "stop", "length", "stop"]
    assert table["token_ids"][1].tolist() == [0, 1, 2, 3]
    assert table["sampler_logprobs"][0].tolist() == [-0.5, -0.5]
    assert table["policy_version"].tolist() == [3] * 4
    assert os.listdir(path.parent) == ["step-000120.parquet"]


def test_rollouts_take_any_text_and_refuse_the_wrong_number_of_advantages(tmp_path: Path) -> None:
    from dataclasses import replace

    (group, _) = two_groups()
    odd = replace(group, rollouts=tuple(replace(r, text="a\ud800\0b") for r in group.rollouts))
    path = RunFolder(tmp_path).write_rollouts(1, [odd])
    assert pd.read_parquet(path)["completion"].tolist() == ["a?\0b"] * 2
    with pytest.raises(ValueError, match="got 1 advantages for 2 rollouts"):
        RunFolder(tmp_path).write_rollouts(1, [odd], [[1.0]])


def test_atomic_writes_leave_nothing_beside_them(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_json("eval/before.json", {"x": math.inf, "y": np.int64(3), "z": (1, Path("a"))})
    run.write_json("eval/before.json", {"x": math.inf, "y": np.int64(3), "z": (1, Path("a"))})
    assert json.loads((tmp_path / "eval" / "before.json").read_text()) == {"x": None, "y": 3, "z": [1, "a"]}
    assert os.listdir(tmp_path / "eval") == ["before.json"]


def test_the_room_comes_up_without_the_heavy_libraries() -> None:
    modules = ("metrics", "run_folder", "recorder", "diagnosis", "mirrors", "progress", "report", "charts", "summary")
    code = "import sys\n" + "".join(f"import gruppo.monitor.{name}\n" for name in modules)
    code += "import gruppo.evaluation.statistics\n"
    code += (
        "print([m for m in ('torch', 'transformers', 'datasets', 'accelerate', 'rich', 'pyarrow') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
