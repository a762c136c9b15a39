"""`gruppo plan`: time and money, devices and prices, what a trial corrects, settings that fit, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command_line import Bench
from gruppo.config.load import check
from gruppo.config.schema import Config
from gruppo.errors import ConfigError
from gruppo.planner import by_size, text
from gruppo.planner.devices import DEVICES, FLAVOURS, GIB, cpu, named_device, recognised
from gruppo.planner.fit import Limits, fit, read_limits
from gruppo.planner.forecast import CONTEXT, FRAGMENTS, Forecast, Request, forecast, gigabytes
from gruppo.planner.measured import Measured, read_measured
from gruppo.planner.models import find_shape, typical
from gruppo.planner.prices import PRICES, PriceList, read_prices

TRIAL = Measured(
    device="cpu",
    problems=2,
    group_size=8,
    prompt_tokens=100.0,
    completion_tokens=50.0,
    longest_completion=64,
    rollout_seconds=30.0,
    reward_seconds=0.8,
    update_seconds=40.0,
)


def config(**values: object) -> Config:
    return check(Config, {"model": "Qwen2.5-0.5B", "data": "d", **values}, "test")


def made(request: Request | None = None, **values: object) -> Forecast:
    return forecast(config(**values), request or Request(gpu="a10g"))


def planned(bench: Bench, *flags: object) -> dict[str, Any]:
    done = bench.gruppo("plan", "--model", "org/some-0.5B", "--json", *flags)
    assert done.code == 0, done.error
    return json.loads(done.out)


# ---- time and money


def test_a_step_is_sampling_and_scoring_of_all_completions_and_an_update() -> None:
    seconds = made().seconds
    assert seconds.step == seconds.sampling + seconds.reward + seconds.update
    assert made().hours == 200 * seconds.step / 3600
    assert made(steps=100).hours == made().hours / 2


def test_twice_the_group_is_twice_the_generating_and_scoring_once_the_slots_are_full() -> None:
    one, two = (made(group_size=size, max_live_completions=64).seconds for size in (8, 16))
    assert two.reward == 2 * one.reward
    assert 1.7 < two.sampling / one.sampling <= 2.0  # prompts are prefilled once a group
    assert two.sft == pytest.approx(2 * one.sft, rel=0.1)
    assert two.sft_of_prompts == one.sft_of_prompts


def test_lora_spares_the_gradients_of_the_weights_and_recomputing_costs_a_forward_pass() -> None:
    full, lora = made().seconds.update, made(lora_rank=16).seconds.update
    assert 0.7 < lora / full < 0.9
    assert 1.15 < made(gradient_checkpointing=True).seconds.update / full < 1.34


def test_money_is_hours_times_the_flavours_price() -> None:
    assert made(Request(gpu="a10g-large")).usd == pytest.approx(1.5 * made(Request(gpu="a10g-large")).hours)
    four = made(Request(gpu="4xa100-80"))
    assert four.usd == pytest.approx(4 * 2.5 * four.hours)
    two = made(Request(gpu="2xa10g-large"))
    assert two.usd == pytest.approx(2 * 1.5 * two.hours)
    assert made(Request(gpu="a100x4")).usd == pytest.approx(10 * four.hours)
    assert made(Request(gpu="b200")).usd is None
    own = PriceList({"b200": PRICES["t4"]})
    assert made(Request(gpu="b200", prices=own)).usd == pytest.approx(0.4 * made(Request(gpu="b200")).hours)


def test_what_has_to_be_there_is_the_larger_half_and_what_the_process_takes() -> None:
    found = made()
    assert found.memory.peak == max(sum(found.memory.sampling.values()), sum(found.memory.update.values()))
    assert found.needed == found.memory.peak * FRAGMENTS + CONTEXT
    assert found.fits
    assert not made(Request(gpu="t4"), model="Qwen2.5-1.5B").fits


# ---- a trial


def test_the_trial_itself_is_forecast_as_it_was() -> None:
    wanted = config(device="cpu", threads=1, prompts_per_step=2, group_size=8, max_completion_length=64)
    found = forecast(wanted, Request(measured=TRIAL))
    assert found.seconds.sampling == pytest.approx(30.0)
    assert found.seconds.reward == pytest.approx(0.8)
    assert found.seconds.update == pytest.approx(40.0)
    assert (found.work.prompt_tokens, found.work.completion_tokens) == (100.0, 50.0)
    assert found.assumed == ()


def test_more_problems_than_in_the_trial_take_more_by_what_is_computed() -> None:
    wanted = config(device="cpu", threads=1, prompts_per_step=8, group_size=8, max_completion_length=64)
    found = forecast(wanted, Request(measured=TRIAL))
    assert found.seconds.reward == pytest.approx(4 * 0.8)
    assert 60 < found.seconds.sampling < 120  # a wider decode step costs less by the row
    assert 130 < found.seconds.update < 160  # the optimizer's step does not grow


def test_a_trial_that_held_more_memory_raises_the_forecast_and_one_that_held_less_does_not() -> None:
    wanted = config(device="cpu", threads=1)
    plain = forecast(wanted, Request(measured=TRIAL))
    more, less = (
        forecast(wanted, Request(measured=Measured(**{**TRIAL.to_json()["measured"], "memory_bytes": size})))
        for size in (10**12, 10**6)
    )
    assert more.needed > 50 * plain.needed
    assert less.needed == plain.needed


def test_a_trial_goes_through_a_file(tmp_path: Path) -> None:
    TRIAL.save(tmp_path / "trial.json")
    assert read_measured(tmp_path / "trial.json") == TRIAL
    assert TRIAL.rollout_rate == 16 * 50 / 30


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "is not JSON"),
        ("[]", "has no object `measured`"),
        ('{"measured": {"device": "cpu"}}', "measured lacks problems, group_size, prompt_tokens"),
        (
            json.dumps({"measured": {**TRIAL.to_json()["measured"], "problems": 0}}),
            "problems: got 0, wanted a number above",
        ),
        (json.dumps({"measured": {**TRIAL.to_json()["measured"], "device": 3}}), "device: got 3, wanted a name"),
    ],
)
def test_what_is_no_trial_is_refused(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "trial.json").write_text(text)
    with pytest.raises(ConfigError, match=error):
        read_measured(tmp_path / "trial.json")


# ---- devices, prices, models


@pytest.mark.parametrize(
    ("name", "device", "count", "flavour"),
    [
        ("t4", "t4", 1, "t4"),
        ("T4-medium", "t4", 1, "t4-medium"),
        ("a10g-small", "a10g", 1, "a10g-small"),
        ("a10g-large", "a10g", 1, "a10g-large"),
        ("a100-large", "a100-80", 1, "a100-large"),
        ("a100", "a100-80", 1, "a100-80"),
        ("4xa100-40", "a100-40", 4, "a100-40"),
        ("h100:8", "h100", 8, "h100"),
        ("NVIDIA H200", "h200", 1, "h200"),
        ("l4x4", "l4", 4, "l4x4"),
    ],
)
def test_devices_by_every_name(name: str, device: str, count: int, flavour: str) -> None:
    found, called = named_device(name)
    assert (found.name, found.count, called) == (device, count, flavour)


def test_every_flavour_has_a_device_and_a_price() -> None:
    for flavour, (device, _) in FLAVOURS.items():
        assert device in DEVICES
        assert not PRICES[flavour].per_gpu


def test_a_gpu_is_recognised_by_its_drivers_name() -> None:
    assert recognised("NVIDIA A100-SXM4-40GB", 40 * GIB).name == "a100-40"
    assert recognised("NVIDIA A100-SXM4-80GB", 80 * GIB).name == "a100-80"
    assert recognised("Tesla T4", 15 * GIB).name == "t4"
    assert recognised("NVIDIA GeForce RTX 4090", 24 * GIB).name == "rtx-4090"
    with pytest.raises(ConfigError, match="'Voodoo 2' is not in the table"):
        recognised("Voodoo 2", GIB)


def test_prices_of_ones_own_go_over_the_table(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text("date: 2027-01-31\na10g-large: 9\ncpu: 0.02\n")
    own = read_prices(tmp_path / "prices.yaml")
    price = own.of("a10g-large", "a10g")
    assert price is not None
    assert (price.usd, price.date, price.per_gpu) == (9.0, "2027-01-31", False)
    assert own.of("a10g-small", "a10g") == PRICES["a10g-small"]
    (tmp_path / "prices.yaml").write_text("a10g: free\n")
    with pytest.raises(ConfigError, match="a10g: got 'free', wanted dollars an hour"):
        read_prices(tmp_path / "prices.yaml")


def test_a_models_sizes_from_its_folder_its_name_or_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert find_shape("Qwen/Qwen2.5-0.5B-Instruct")[0].parameters == 494_032_768
    assert find_shape("org/unknown", "7B")[0].parameters == 7_615_616_512
    assert typical("1B")[0].parameters == 10**9
    snapshot = tmp_path / "models--org--unknown" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    values = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 10}
    (snapshot / "config.json").write_text(json.dumps(values))
    assert find_shape("org/unknown")[0].hidden == 8
    with pytest.raises(ConfigError, match="say its size: --model-size"):
        find_shape("org/other")


# ---- settings that fit


def test_what_fits_is_left_alone() -> None:
    assert fit(config(), Request(gpu="h100"), Limits()).changes == ()


def test_memory_is_first_looked_for_where_the_update_stays_as_it_is() -> None:
    settings = {"precision": "bfloat16", "lora_rank": 16}
    needed = made(**settings).needed
    found = fit(config(**settings), Request(gpu="a10g"), Limits(memory=needed - 3e8))
    assert found.values == {"micro_batch_tokens": 441}
    assert found.after.needed <= needed - 3e8


def test_a_model_that_cannot_be_held_gets_adapters_at_ten_times_the_rate() -> None:
    found = fit(config(model="Qwen2.5-7B", precision="bfloat16"), Request(gpu="a10g"), read_limits("memory=24GB"))
    assert (found.values["lora_rank"], found.values["learning_rate"]) == (16, 1e-5)
    assert found.before.needed > 1e11
    assert found.after.needed <= 24e9


def test_hours_and_money_are_kept_by_doing_less() -> None:
    before = made()
    found = fit(config(), Request(gpu="a10g"), Limits(hours=before.hours / 3))
    assert found.after.hours <= before.hours / 3
    assert set(found.values) & {"steps", "max_completion_length", "group_size", "prompts_per_step", "precision"}


def test_what_cannot_fit_says_how_near_it_came() -> None:
    with pytest.raises(ConfigError, match=r"no settings keep to these limits; the nearest takes memory .* of 1\.00 GB"):
        fit(config(model="Qwen2.5-72B"), Request(gpu="a10g"), Limits(memory=1e9))


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("memory=24GB,hours=4,cost=20", Limits(24e9, 4.0, 20.0)),
        ("memory=16GiB", Limits(memory=16 * 2.0**30)),
        (" cost=$5 , hours=2h", Limits(hours=2.0, cost=5.0)),
    ],
)
def test_limits_as_they_are_said(text: str, limits: Limits) -> None:
    assert read_limits(text) == limits


@pytest.mark.parametrize("text", ["", "memory", "memory=lots", "hours=0", "time=4", "memory=-3GB", "cost=nan"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--fit: "):
        read_limits(text)


# ---- the command


def test_the_command_tells_everything_as_json(bench: Bench) -> None:
    found = planned(bench, "--gpu", "l4x1", "--steps", 10, "--completion-tokens", 200, "--prompt-tokens", 50)
    assert found["model"]["parameters"] == 494_032_768
    assert found["memory"]["peak"] == sum(found["memory"]["update"].values()) + found["memory"]["reward_models"]
    assert found["seconds"]["step"] * 10 / 3600 == pytest.approx(found["hours"])
    assert found["usd"] == pytest.approx(0.8 * found["hours"])
    assert found["price"]["date"] == "2026-11-27"
    assert found["assumed"] == []
    assert found["step"]["completion_tokens"] == 200.0


def test_the_command_in_words(bench: Bench) -> None:
    done = bench.gruppo("plan", "--model", "org/some-1.5B", "--gpu", "t4-medium", "--precision", "bfloat16")
    assert done.code == 0
    words = " ".join(done.out.split())
    assert "does not fit into 16.11 GB; --fit memory=16GB looks for settings that do" in words
    assert "a T4 has no bfloat16 units" in done.out
    assert all(len(line) <= 110 for line in done.out.splitlines())


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--model", "org/x"], "model: 'org/x' is no folder with a config.json here; say its size: --model-size 0.5B"),
        (["--model", "x-1b", "--gpus", "2"], "--gpus 2: no GPU is found here; say which ones are meant: --gpu a100-80"),
        (
            ["--model", "x-1b", "--gpu", "a100x4", "--gpus", "2"],
            "--gpu a100x4 is 4 GPUs, --gpus says 2; keep one of them",
        ),
        (["--model", "x-1b", "--prompt-tokens", "-1"], "--prompt-tokens: got -1, wanted a number above 0"),
        (["--model", "x-1b", "--prices", "none.yaml"], "--prices: none.yaml can't be read: No such file or directory"),
    ],
)
def test_what_is_wrong_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch, flags: list[str], error: str) -> None:
    monkeypatch.setenv("PATH", "")
    done = bench.gruppo("plan", *flags)
    assert (done.code, done.error) == (2, error)


def test_figures_of_a_cpu_say_nothing_of_a_gpu(bench: Bench) -> None:
    TRIAL.save(bench.folder / "trial.json")
    done = bench.gruppo("plan", "--model", "x-1b", "--gpu", "h100", "--measured", "trial.json")
    assert done.code == 2
    assert done.error.startswith("--measured: the figures are of a CPU and say nothing of NVIDIA H100 80 GB;")


def test_a_forecast_loads_no_framework(tmp_path: Path) -> None:
    """That it takes less than a second is measured in benchmarks/help_time.md."""
    code = """
import sys
from gruppo.cli.main import main
assert main(["plan", "--model", "x-7b", "--gpu", "h100", "--fit", "memory=24GB"]) == 0
heavy = {"torch", "transformers", "datasets", "peft", "accelerate", "pyarrow", "huggingface_hub"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_table_by_size_in_the_docs_is_the_planners() -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "planning.md"
    assert by_size.as_markdown() in page.read_text(encoding="utf-8")


def test_this_machines_cpu_is_taken_with_the_threads_that_are_asked_for() -> None:
    assert (cpu(3).threads, cpu(3).flops["float32"]) == (3, 3 * cpu(1).flops["float32"])


def test_a_terminal_gets_the_same_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = made(model="some[bold]-0.5B")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    text.show(found)
    out = capsys.readouterr().out
    assert "some[bold]-0.5B: 494,032,768 parameters" in out
    assert gigabytes(found.memory.update_peak) in out
