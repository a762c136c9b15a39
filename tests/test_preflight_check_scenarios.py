"""Runs that could never have learned, each on a real small model: the named cause, a cure that then works, and a
healthy twin without an alarm.

Each takes some seconds, and they are many: those marked slow are left out of the quick tier.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gruppo
from gruppo.config.load import check as checked
from gruppo.config.schema import Config, EvalConfig
from gruppo.errors import ConfigError
from gruppo.launch import check as launch_check
from gruppo.launch.build import Workbench
from gruppo.launch.check import check_config, subject_of, varied_config
from gruppo.monitor.progress import SilentProgress
from gruppo.preflight.check import Check
from gruppo.preflight.numerics import compare_engine
from gruppo.preflight.of_update import of_engine, too_large
from gruppo.preflight.outputs import draw
from gruppo.preflight.reasons import Reason
from gruppo.rollout.local import LocalEngine
from gruppo.training.models import load_model
from preflight_models import World, build, rows_of

SECONDS, PROBLEMS = 60.0, 20
"""Enough for every scenario on a busy core."""


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("taught"))


@pytest.fixture
def world(taught: Path, tmp_path: Path) -> World:
    return World(taught, tmp_path)


def look(config: Config, problems: int = PROBLEMS) -> Check:
    return check_config(config, seconds=SECONDS, problems=problems)


def reason_of(found: Check, kind: str) -> Reason:
    kinds = [reason.kind for reason in found.reasons]
    assert kind in kinds, [(reason.kind, reason.what) for reason in found.reasons]
    return found.reasons[kinds.index(kind)]


def cured(config: Config, changes: Mapping[str, Any]) -> Check:
    return look(varied_config(config, changes))


def test_a_healthy_run_is_ready(world: World) -> None:
    found = look(world.config(rows_of(2), eval=EvalConfig(data=world.data("test.jsonl", rows_of(1)))), problems=64)
    assert found.verdict == "ready"
    assert found.reasons == ()
    assert found.signal is not None
    assert 0.25 < found.signal.pass_at_1.value < 0.6
    assert found.signal.pass_at_10.value > 0.85
    assert found.signal.share.low > 0.7
    assert sum(found.signal.histogram) == 64
    assert found.outputs is not None
    assert found.outputs.covering(0.99) == 4
    assert found.outputs.formats == {"####": 1.0}
    assert found.engine is not None
    assert found.engine.most < 1e-4
    assert found.update is not None
    assert found.update.real
    assert found.update.kl is not None
    assert 1e-5 < found.update.kl < 0.2
    assert found.measured is not None
    assert found.measured.group_size == 8


def test_all_truncated(world: World) -> None:
    config = world.config(rows_of(2), max_completion_length=2)
    found = look(config)
    reason = reason_of(found, "truncated")
    assert (found.verdict, reason.level) == ("cannot learn", "stop")
    assert reason.what == "100% of the completions are cut off at max_completion_length 2"
    assert reason.cures[0].changes == {"max_completion_length": 8}
    assert cured(config, reason.cures[0].changes).verdict == "ready"


@pytest.mark.slow
def test_the_first_ten_steps_lie_in_the_interval(world: World) -> None:
    """One of the runs of `benchmarks/check_interval.py`."""
    config = world.config(
        rows_of(2) + rows_of(3), group_size=4, steps=10, prompts_per_step=16, learning_rate=1e-12, save_rollouts_every=0
    )
    found = look(config, problems=64)
    assert found.signal is not None
    metrics = gruppo.train(config, observer=SilentProgress()).metrics
    seen = 1.0 - sum(row["no_signal_share"] for row in metrics) / 10
    interval = found.signal.share
    assert 0.2 < interval.low < seen < interval.high < 0.8


def reward_file(world: World, body: str) -> str:
    path = world.folder / "rewards.py"
    path.write_text(f"import re\n\ndef judge(completion, answer):\n    {body}\n")
    return f"{path}:judge"


def test_a_parser_that_finds_nothing(world: World) -> None:
    body = "return float(re.findall(r'final answer: (.+)', completion)[-1:] == [answer])"
    config = world.config(rows_of(2), rewards=[reward_file(world, body)])
    found = look(config)
    reason = reason_of(found, "parser")
    assert found.verdict == "cannot learn"
    assert reason.level == "stop"
    assert reason.what.startswith("no completion passes the reward '")
    assert reason.what.endswith(" of the same completions pass `math`")
    assert reason.cures[0].changes == {"rewards": ["math"], "success": None}
    assert cured(config, reason.cures[0].changes).verdict == "ready"


@pytest.mark.slow
def test_a_parser_that_works_is_no_alarm(world: World) -> None:
    body = "return float(re.findall(r'#### (.+)', completion)[-1:] == [answer.split()[-1]])"
    assert look(world.config(rows_of(2), rewards=[reward_file(world, body)])).verdict == "ready"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "named"),
    [("return 1.0", "garbage"), ("return float(completion.strip() in answer)", "empty")],
    ids=["always", "empty"],
)
def test_a_reward_that_pays_for_nothing(world: World, body: str, named: str) -> None:
    config = world.config(rows_of(2), rewards=[reward_file(world, body)])
    found = look(config)
    reason = reason_of(found, "reward_hack")
    assert found.verdict == "cannot learn"
    assert reason.level == "stop"
    assert f"'{named}' on 100%" in reason.what
    assert reason.cures[0].changes == {"rewards": ["math"], "success": None}
    assert cured(config, reason.cures[0].changes).verdict == "ready"


@pytest.mark.slow
def test_too_hard(world: World) -> None:
    config = world.config(rows_of(4) + rows_of(2)[:14])
    found = look(config, problems=48)
    reason = reason_of(found, "too_hard")
    assert found.verdict == "will learn slowly"
    assert "were never solved" in reason.what
    assert reason.cures[0].changes == {"max_difficulty": 2}
    assert cured(config, reason.cures[0].changes).verdict == "ready"
    alone = look(world.config(rows_of(4)), problems=32)
    assert alone.verdict == "cannot learn"
    assert reason_of(alone, "too_hard").cures[-1].text.startswith("Start with SFT")


@pytest.mark.slow
def test_too_easy(world: World) -> None:
    config = world.config(rows_of(1) + rows_of(2)[:14], temperature=0.7)
    found = look(config, problems=48)
    reason = reason_of(found, "too_easy")
    assert found.verdict == "will learn slowly"
    assert reason.cures[0].changes == {"min_difficulty": 2}
    assert cured(config, reason.cures[0].changes).verdict == "ready"


@pytest.mark.slow
def test_temperature_0(world: World) -> None:
    with pytest.raises(ConfigError, match=r"temperature: got 0, wanted 0\.05 or more"):
        checked(Config, {"model": "m", "data": "d", "temperature": 0}, "run.yaml")
    config = world.config(rows_of(2), temperature=0.05)
    found = look(config)
    reason = reason_of(found, "temperature")
    assert found.verdict in ("cannot learn", "will learn slowly")
    assert "every completion is the same text (temperature 0.05)" in reason.what
    assert cured(config, reason.cures[0].changes).verdict == "ready"


@pytest.mark.slow
def test_groups_of_two_that_rarely_pass(world: World) -> None:
    config = world.config(rows_of(3), group_size=2)
    found = look(config, problems=64)
    assert found.verdict in ("will learn slowly", "cannot learn")
    reason = found.reasons[0]
    assert reason.kind in ("too_hard", "few_signals")
    sizes = [cure.changes["group_size"] for cure in reason.cures if "group_size" in cure.changes]
    assert sizes
    assert sizes[0] >= 16
    better = look(varied_config(config, {"group_size": sizes[0]}), problems=64)
    assert found.signal is not None
    assert better.signal is not None
    assert better.signal.share.value > 3 * found.signal.share.value
    assert better.verdict == "ready"


def with_template(world: World, template: str | None) -> World:
    """The same model with another chat template."""
    from transformers import AutoTokenizer

    folder = world.folder / "model"
    shutil.copytree(world.model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True) if template is None else None
    return replace(world, model=folder)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OWN = "<|user|>{prompt}<|end|><|assistant|>"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "kind", "what"),
    [
        (None, "chat_template", "the model's tokenizer has no chat template, and the config gives no prompt_template"),
        (CHATML, "template", "the chat template is not this model's: <|im_end|>, <|im_start|> are no tokens of"),
        ("{{ 'Answer:' }}", "template", "the prompt that the model sees does not have the question in it"),
    ],
    ids=["missing", "another model's", "without the question"],
)
def test_chat_template(world: World, template: str | None, kind: str, what: str) -> None:
    config = with_template(world, template).config(rows_of(2))
    found = look(config)
    reason = reason_of(found, kind)
    assert found.verdict == "cannot learn"
    assert reason.what.startswith(what)
    assert reason.cures[0].changes["prompt_template"] == OWN
    assert cured(config, reason.cures[0].changes).verdict == "ready"


def bench_of(config: Config) -> Workbench:
    return Workbench(config, config.model, {}, SilentProgress())


def test_an_engine_with_stale_weights(world: World) -> None:
    bench = bench_of(world.config(rows_of(2)))
    subject = subject_of(bench)
    healthy = compare_engine(subject, draw(subject, subject.first[:8]))
    assert healthy.most < 1e-4
    assert list(of_engine(subject, healthy)) == []
    other = load_model(str(world.model), "float32", torch.device("cpu")).model
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    stale = replace(subject, collector=replace(subject.collector, engine=LocalEngine(other, bench.renderer)))
    (reason,) = of_engine(subject, compare_engine(subject, draw(stale, subject.first[:8])))
    assert (reason.kind, reason.level) == ("stale_weights", "stop")
    other.load_state_dict(bench.loaded.model.state_dict())
    assert list(of_engine(subject, compare_engine(subject, draw(stale, subject.first[8:16])))) == []


def test_a_rate_100_times_too_high(world: World) -> None:
    config = world.config(rows_of(2), learning_rate=5e-2)
    found = look(config)
    reason = reason_of(found, "learning_rate")
    assert found.verdict == "cannot learn"
    assert reason.what.startswith("one update at learning_rate 0.05 moves the policy by ")
    rate = reason.cures[0].changes["learning_rate"]
    assert 1e-4 <= rate <= 1e-2
    assert cured(config, {"learning_rate": rate}).verdict == "ready"


def test_test_data_in_training_data(world: World) -> None:
    rows = rows_of(2)
    test = world.data("test.jsonl", [*rows[:6], *rows_of(1)[:6]])
    config = world.config(rows, eval=EvalConfig(data=test))
    found = look(config)
    reason = reason_of(found, "overlap")
    assert found.verdict == "will learn slowly"
    assert reason.what.startswith("6 of 12 problems of eval.data (50%) are in the training data")
    given = {"model": config.model, "data": str(config.data[0]), "max_completion_length": 16}
    fixed = launch_check.write_fixed(given, found, world.folder / "run.fixed.yaml")
    assert fixed is not None
    data = fixed.values["data"]
    assert len(Path(data).read_text().split()) > 0
    assert Path(data).read_text().count("\n") == len(rows) - 6
    assert cured(config, {"data": data}).verdict == "ready"


@pytest.mark.slow
def test_prompts_longer_than_the_context(world: World) -> None:
    config = world.config(rows_of(2), max_completion_length=250)
    found = look(config)
    reason = reason_of(found, "long_prompts")
    assert found.verdict == "cannot learn"
    assert reason.what == "72 of 72 prompts (100%) are too long and left out"
    assert cured(config, reason.cures[0].changes).verdict == "ready"
    some = look(world.config([*rows_of(2), *({**row, "question": row["question"] * 40} for row in rows_of(2)[:9])]))
    assert reason_of(some, "long_prompts").what == "9 of 81 prompts (11%) are too long and left out"


@pytest.mark.slow
def test_story_text_that_the_prompt_leaves_out(world: World) -> None:
    config = world.config(rows_of(5))
    found = look(config, problems=32)
    reason = reason_of(found, "unused_column")
    assert (found.verdict, reason.level) == ("cannot learn", "stop")
    assert reason.what == "the prompt leaves out the column 'story', which holds text"
    assert reason.cures[0].changes == {"prompt": "{story} {question}"}
    assert cured(config, reason.cures[0].changes).verdict == "ready"


@pytest.mark.slow
def test_text_that_the_question_does_not_need_is_a_note(world: World) -> None:
    rows = [{**row, "origin": f"written by hand for level {row['level']}, row {i}"} for i, row in enumerate(rows_of(2))]
    found = look(world.config(rows))
    assert found.verdict == "ready"
    assert [reason.level for reason in found.reasons if reason.kind == "unused_column"] == ["note"]


def test_memory_that_will_not_fit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """177,472 parameters: 4 bytes of weight, 4 of gradient, 8 of moments each are 2.84 MB; the rest of the 7.31 MB are
    activations and logits of 256 tokens."""
    config = world.config(rows_of(2))
    monkeypatch.setattr(launch_check, "free_bytes", lambda device: 5_000_000)
    found = look(config)
    (reason,) = found.reasons
    assert (found.verdict, reason.kind) == ("cannot learn", "memory")
    assert reason.what == "the run does not fit into memory: it needs 7.31 MB at least, and there are 5 MB"
    parts = "activations 2.99 MB, optimizer 1.42 MB, on its way 1.05 MB, weights 0.71 MB"
    assert reason.evidence[0] == f"the largest parts: {parts}"
    changes = reason.cures[0].changes
    assert changes == {"gradient_checkpointing": True, "precision": "bfloat16", "lora_rank": 16, "learning_rate": 0.005}
    assert cured(config, changes).verdict == "ready"
    assert too_large(config, "cpu", 7_200_000) is None
    assert too_large(config, "cpu", 2_839_551).level == "stop"  # pyright: ignore[reportOptionalMemberAccess]


def test_micro_batches_that_will_not_fit_once_completions_are_long(world: World) -> None:
    config = world.config(rows_of(2), max_completion_length=200, micro_batch_tokens=65_536)
    reason = too_large(config, "cpu", 200_000_000)
    assert reason is not None
    assert reason.level == "slow"
    assert reason.what.startswith("the run does not fit into memory once a completion has 200 tokens: it needs 827 MB")
    assert reason.evidence[0].startswith("the largest parts: activations 629 MB")
    assert reason.cures[0].changes == {"micro_batch_tokens": 256}
    assert reason.cures[0].lines == ["micro_batch_tokens: 256"]
    assert too_large(varied_config(config, reason.cures[0].changes), "cpu", 200_000_000) is None
    assert too_large(varied_config(config, {"micro_batch_tokens": None}), "cpu", 200_000_000) is None


def test_a_cache_that_will_not_fit(world: World) -> None:
    """256 rows of 4,096 tokens and more, each 2 x 2 layers x 64 numbers of 4 bytes."""
    long: dict[str, Any] = {"max_completion_length": 4_000, "group_size": 64, "prompts_per_step": 4}
    config = world.config(rows_of(2), **long, max_live_completions=256)
    reason = too_large(config, "cpu", 500_000_000)
    assert reason is not None
    assert reason.level == "slow"
    assert reason.evidence[0].startswith("the largest parts: KV cache")
    assert reason.cures[0].changes == {"max_live_completions": 4}
    assert too_large(varied_config(config, reason.cures[0].changes), "cpu", 500_000_000) is None
    assert too_large(world.config(rows_of(2), **long), "cpu", 500_000_000) is None


def test_logits_that_will_not_fit(tmp_path: Path) -> None:
    """242 tokens (two groups) x a million x 4 bytes, of a model of 24M parameters."""
    sizes = {"model_type": "llama", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 1_000_000, "intermediate_size": 48, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(text))
    config = Config(model=str(tmp_path), data=("none.jsonl",))
    reason = too_large(config, "cpu", 1_000_000_000)
    assert reason is not None
    assert reason.level == "stop"
    assert reason.evidence[0].startswith("the largest parts: logits 968 MB")
    assert too_large(config, "cpu", 1_500_000_000) is None
    assert too_large(config, "cpu", None) is None


def test_an_update_that_runs_out_of_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from gruppo.training.policy import LocalPolicy

    def fails(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setattr(LocalPolicy, "update", fails)
    bench = bench_of(world.config(rows_of(2)))
    before = {name: p.clone() for name, p in bench.loaded.model.named_parameters()}
    found = launch_check.check_bench(bench, launch_check.Budget(SECONDS, 8))
    assert reason_of(found, "memory").cures[0].changes == {"micro_batch_tokens": 1024, "gradient_checkpointing": True}
    assert all(torch.equal(before[name], p) for name, p in bench.loaded.model.named_parameters())
