"""Sentences and their plans: golden files, and what must hold of every plan."""

import contextlib
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from gruppo.cli.flags import overrides, spell
from gruppo.cli.main import train_parser
from gruppo.config.load import check, load_config
from gruppo.config.plan import Plan
from gruppo.config.reference import options
from gruppo.config.schema import Config
from gruppo.config.sentence import is_sentence, read_sentence
from gruppo.config.sentences.names import DATA_SETS
from gruppo.data.known import KNOWN, look_up
from gruppo.errors import ConfigError

HERE = Path(__file__).parent
Case = Mapping[str, Any]


def cases(name: str) -> list[Case]:
    return yaml.safe_load((HERE / name).read_text(encoding="utf-8"))


GOLDEN = cases("golden_sentences.yaml")
HELD_OUT = cases("golden_sentences_held_out.yaml")
EVERY = [*GOLDEN, *HELD_OUT]
PLANNED = [case for case in EVERY if "plan" in case and "ask" not in case]


def read(case: Case) -> Plan:
    return read_sentence(case["say"], exists=lambda name: name in case.get("here", []))


def verdict(case: Case) -> str:
    """`right`; `wrong: ...` for a plan that would start and should not; else what is different."""
    try:
        plan = read(case)
    except ConfigError as error:
        return "right" if "refuse" in case and case["refuse"] in str(error) else f"refused: {error}"
    asked = sorted(question.about for question in plan.questions)
    if not asked and ("plan" not in case or plan.values != case["plan"]):
        return f"wrong: {plan.values}"
    if asked != sorted(case.get("ask", [])) or "refuse" in case:
        return f"asked {asked}"
    known = {name: value for name, value in plan.values.items() if name in case["plan"]} if "plan" in case else {}
    if known != case.get("plan", {}):
        return f"planned {plan.values}"
    assumed = sorted(slot.option for slot in plan.assumed)
    return "right" if "ask" in case or assumed == sorted(case.get("assumed", [])) else f"assumed {assumed}"


def plan_of(sentence: str, **given: Any) -> Plan:
    return read_sentence(sentence, given, exists=lambda name: False)


# ---- the golden files


@pytest.mark.parametrize("case", EVERY, ids=lambda case: case["say"][:60])
def test_golden(case: Case) -> None:
    assert verdict(case) == "right"


def test_there_are_enough_of_each_kind() -> None:
    asked = [case for case in EVERY if "ask" in case]
    assert (len(GOLDEN) >= 80, len(HELD_OUT) >= 40) == (True, True)
    assert len({case["say"] for case in EVERY}) == len(EVERY)
    assert min(len(PLANNED), len(asked), len([case for case in EVERY if "refuse" in case])) >= 10


@pytest.mark.parametrize("case", PLANNED, ids=lambda case: case["say"][:60])
def test_a_plan_is_its_yaml_and_its_command_line(case: Case, tmp_path: Path) -> None:
    """Three spellings of one config: the values, the file, the flags."""
    plan = read(case)
    file = tmp_path / "run.yaml"
    file.write_text(plan.yaml, encoding="utf-8")
    words, notes = spell(shlex.split(plan.command)[2:])
    flags = overrides(train_parser().parse_strictly(words), options())
    assert notes == []
    assert plan.config() == load_config(file, {})[0] == load_config(None, flags)[0]


def test_the_same_sentence_gives_the_same_plan() -> None:
    for case in PLANNED[:20]:
        assert read(case) == read(case)


# ---- the three of the first page

FIRST, SECOND, THIRD = (case["say"] for case in GOLDEN[:3])


def test_the_first_sentence_says_where_each_value_is_from() -> None:
    plan = plan_of(FIRST)
    assert [(slot.option, slot.source, slot.words) for slot in plan.slots] == [
        ("model", "assumed", "Qwen2.5-0.5B"),
        ("data", "said", "openai/gsm8k"),
        ("preset", "said", "a math reasoning model"),
        ("rewards", "said", "a math reasoning model"),
        ("eval.data", "assumed", ""),
    ]
    assert plan.slots[0].why == "'Qwen2.5-0.5B' is Qwen/Qwen2.5-0.5B on the hub"
    assert plan.command == (
        "gruppo train --model Qwen/Qwen2.5-0.5B --data openai/gsm8k --preset math --rewards math "
        "--eval.data openai/gsm8k:main/test"
    )
    assert not plan.sure


def test_the_second_sentence_asks_for_the_model() -> None:
    plan = plan_of(SECOND)
    assert [question.text for question in plan.questions] == ["which folder is your fine-tuned model?"]
    rewards = next(slot for slot in plan.slots if slot.option == "rewards")
    assert rewards.words == "Verify correctness by running unit tests"
    answered = plan_of(SECOND, model="runs/sft/model")
    assert (answered.questions, answered.sure) == ((), True)
    assert answered.values == {"model": "runs/sft/model", "data": "my-org/coding-problems", "rewards": ["code"]}


def test_the_third_sentence_asks_what_partial_is_and_whether_the_scale_is_meant() -> None:
    plan = plan_of(THIRD)
    assert [(q.about, q.text.split("?")[0]) for q in plan.questions] == [
        ("model", "which folder or hub name is the model to train"),
        ("partial_at", "what counts as partial"),
        ("scale", "this scale ranks partial (-0.5) below wrong (0): meant so"),
    ]
    answered = plan_of(THIRD, model="m", partial_at=0.6, scale=True)
    assert answered.questions == ()
    assert answered.values["rewards"] == [
        {"name": "qa", "mode": "levels", "levels": [1, -0.5, 0], "partial_at": 0.6},
    ]
    (reward,) = answered.config().rewards
    assert reward.own_options["levels"] == (1.0, -0.5, 0.0)


# ---- what is at hand, and what is given beside a sentence


def test_a_folder_of_the_name_goes_before_the_hub() -> None:
    here = {"Qwen2.5-0.5B", "openai/gsm8k"}
    plan = read_sentence(FIRST, exists=lambda name: name in here)
    assert plan.values == {"model": "Qwen2.5-0.5B", "data": "openai/gsm8k", "preset": "math", "rewards": ["math"]}
    assert plan.sure


def test_flags_stand_over_the_sentence_and_make_sure_of_it() -> None:
    plan = plan_of(FIRST, **{"model": "Qwen/Qwen2.5-0.5B", "eval.data": ["held.jsonl"], "steps": "3", "beta": "1e-2"})
    assert plan.sure
    assert (plan.values["steps"], plan.values["beta"], plan.values["eval"]) == (3, 0.01, {"data": ["held.jsonl"]})
    assert plan_of("Train m/a-model on d.jsonl with LoRA rank 8", learning_rate="3e-5").values["learning_rate"] == 3e-5


def test_a_flag_out_of_range_is_refused_as_ever() -> None:
    with pytest.raises(ConfigError, match="group_size: got 1, wanted 2 or more"):
        plan_of(FIRST, group_size="1")


def test_what_a_gpu_wants_is_assumed_with_its_reason() -> None:
    plan = plan_of("Train a math model on d.jsonl based on m/a-model on a T4")
    assert {slot.option: slot.why for slot in plan.assumed} == {
        "group_size": "half of 16: a GPU of 16 GB, under 24",
        "prompts_per_step": "twice 32, for as many completions: a GPU of 16 GB, under 24",
    }


def test_what_is_typed_wrong_is_named_with_what_was_meant() -> None:
    (question,) = plan_of("Train m/a-model on d.jsonl with tempreature 0.9").questions
    assert question.text.startswith("not understood: 'tempreature 0.9'")
    (question,) = plan_of("Train m/a-model on d.jsonl with 16 complections per prompt").questions
    assert "'complections'" in question.text or "complections" in question.words
    (question,) = plan_of("Train m/a-model on d.jsonl with PPO").questions
    assert "gruppo trains with GRPO and its relatives" in question.text


def test_the_known_data_sets_are_those_that_data_knows() -> None:
    names = {known.name: known for known in KNOWN}
    for mine in DATA_SETS:
        theirs = names[mine.hub_name]
        assert set(mine.also) <= {name.lower() for name in theirs.former}
        for name in mine.also:
            found = look_up(name) or look_up("lighteval/MATH")
            assert found is theirs
        if mine.test is not None:
            assert mine.test.startswith(f"{mine.hub_name}:{theirs.config}/")


# ---- a sentence or a path


def test_a_sentence_has_white_space_and_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my run.yaml").write_text("model: m\n")
    assert not is_sentence("my run.yaml")
    assert not is_sentence("run.yaml")
    assert not is_sentence("no-such-file.yaml")
    assert is_sentence("Train m on d.jsonl")
    assert is_sentence("other run.yaml")
    with pytest.raises(ConfigError, match=r"There is no file of this name either\.$"):
        read_sentence("other run.yaml")


# ---- any text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\0",
        "((((",
        "<n0> <#1> <f2>",
        "/",
        "-",
        "--",
        "'",
        '"',
        "1 2 3",
        "=",
        "a/b/c/d",
        "k",
        "e",
        "٣",
        "𝟛 steps",
    ],
)
def test_any_text_is_read_or_refused(text: str) -> None:
    for sentence in (text, f"Train {text} on d.jsonl with {text} steps"):
        with contextlib.suppress(ConfigError):
            assert plan_of(sentence).questions != () or "/" in text


def test_long_sentences_are_read_in_no_time() -> None:
    """Every pattern is tried on every word; none of them may take steps beyond a small power of the length."""
    for word in ("the ", "of ", "1 ", "a/b ", "reward ", "model ", "correct ", "for partial "):
        started = time.process_time()
        with contextlib.suppress(ConfigError):
            plan_of("Train m/a-model on d.jsonl " + (word * 999)[:900])
        assert time.process_time() - started < 5
    with pytest.raises(ConfigError, match="wanted at most 1,000"):
        plan_of("Train " + "the " * 1000)


def test_check_is_the_schemas(tmp_path: Path) -> None:
    plan = plan_of("Train m/a-model on d.jsonl")
    assert plan.config() == check(Config, plan.values, "here")
