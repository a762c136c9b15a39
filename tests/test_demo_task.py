"""The demo's task: the split holds, the working is right, and every process makes the same tokens."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gruppo.demo.task import (
    OPERATIONS,
    PROBLEM_DIGITS,
    WORDINGS,
    ArithmeticProblem,
    held_out_problems,
    is_worked,
    make_problem,
    pair_held_out,
    sft_examples,
    templates,
    training_problems,
)

STEP = re.compile(r"(\d)([-+*])(\d)([-+])(\d)=(\d)(\d)")
APPLY = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


def draw(seed: int, n: int, held_out: bool) -> list[ArithmeticProblem]:
    rng = np.random.default_rng(seed)
    return [make_problem(rng, (1, 3), held_out) for _ in range(n)]


def check_worked(worked: str) -> None:
    """Recompute every step of a worked text and read the answer off its digits."""
    working, _, answer = worked.partition(" #### ")
    task, _, steps = working.partition(": ")
    a, operation, b = re.fullmatch(r"(\d+)([-+*])(\d+)", task).groups()  # pyright: ignore[reportOptionalMemberAccess]
    carry, digits = 0, ""
    rows = steps.split("; ")
    assert len(rows) == max(len(a), len(b))
    for place, row in enumerate(rows):
        left, sign, right, carry_sign, carry_in, carry_out, digit = STEP.fullmatch(row).groups()  # pyright: ignore[reportOptionalMemberAccess]
        assert (sign, carry_sign) == (operation, "-" if operation == "-" else "+")
        assert left == a[::-1][place : place + 1] or (left == "0" and place >= len(a))
        if operation == "*":
            assert right == b
        else:
            assert right == b[::-1][place : place + 1] or (right == "0" and place >= len(b))
        assert int(carry_in) == carry
        value = APPLY[operation](int(left), int(right))
        if operation == "-":
            assert value - carry == int(digit) - 10 * int(carry_out)
        else:
            assert value + carry == int(digit) + 10 * int(carry_out)
        carry, digits = int(carry_out), digit + digits
    assert int(str(carry) + digits if operation != "-" else digits) == int(answer)
    assert operation != "-" or carry == 0
    assert int(answer) == APPLY[operation](int(a), int(b))
    assert answer == str(int(answer))


def test_golden_problems():
    problems = held_out_problems(seed=0, n=200)
    assert [problems[i].question for i in (0, 4)] == [
        "David has 20 jars of books. Every jar has 2 books in it. How many books are there in all?",
        "There are 479 marbles in Anna's room. Then Anna loses 64. How many marbles are left?",
    ]
    assert [problems[i].worked for i in (1, 4, 10)] == [
        "45*5: 5*5+0=25; 4*5+2=22 #### 225",
        "479-64: 9-4-0=05; 7-6-0=01; 4-0-0=04 #### 415",
        "71+14: 1+4+0=05; 7+1+0=08 #### 85",
    ]
    assert problems[4].bare == "#### 415"
    assert problems[4].answer == "415"


def test_worked_texts_are_right_for_every_operation():
    problems = draw(seed=1, n=6000, held_out=False) + draw(seed=2, n=2000, held_out=True)
    for problem in problems:
        check_worked(problem.worked)
    counts = [sum(p.template.operation == operation for p in problems) for operation in OPERATIONS]
    assert min(counts) > 2500


def test_the_check_of_worked_texts_can_fail():
    check_worked("95-59: 5-9-0=16; 9-5-1=03 #### 36")
    for wrong in (
        "95-59: 5-9-0=16; 9-5-1=03 #### 37",
        "95-59: 5-9-0=06; 9-5-0=04 #### 46",
        "95+59: 5+9+0=14; 9+5+1=15 #### 1054",
        "47*6: 7*6+0=42; 4*6+3=27 #### 272",
    ):
        with pytest.raises(AssertionError):
            check_worked(wrong)


def test_held_out_and_training_problems_share_no_pair_and_no_template():
    held_out = held_out_problems(seed=3, n=1000)
    training = training_problems(seed=3, n=3200) + draw(seed=4, n=8000, held_out=False)
    assert not {frozenset(p.operands) for p in held_out} & {frozenset(p.operands) for p in training}
    assert not {p.template for p in held_out} & {p.template for p in training}
    assert not {p.question for p in held_out} & {p.question for p in training}
    assert len({(p.template.operation, p.operands) for p in held_out}) == 1000


def test_sft_demonstrations_use_no_held_out_pair():
    for example in sft_examples(seed=5, steps=200, batch_size=16):
        numbers = [int(number) for number in re.findall(r"\d+", example.question)]
        assert len(numbers) == 2
        assert not pair_held_out(*numbers)


def test_a_fifth_is_held_out_and_every_sentence_is_trained_on():
    pairs = [pair_held_out(a, b) for a in range(10, 310) for b in range(a, 310)]
    assert np.mean(pairs) == pytest.approx(0.2, abs=0.01)
    assert pair_held_out(59, 95) == pair_held_out(95, 59)
    for operation in OPERATIONS:
        held_out, training = templates(operation, True), templates(operation, False)
        assert len(held_out) + len(training) == 100
        assert 14 <= len(held_out) <= 26
        wording = WORDINGS[operation]
        assert {t.opening for t in training} == set(range(len(wording.openings)))
        assert {t.action for t in training} == set(range(len(wording.actions)))
        assert {t.question for t in training} == set(range(len(wording.questions)))


def test_numbers_have_the_digits_asked_for():
    for problem in training_problems(seed=6, n=500):
        a, b = problem.operands
        assert 10 <= a <= 999
        assert (2 <= b <= 9) if problem.template.operation == "*" else (10 <= b <= 999)
        assert int(problem.answer) >= 0
        assert PROBLEM_DIGITS == (2, 3)


def test_curriculum_goes_from_short_and_worked_to_long_and_mixed():
    examples = list(sft_examples(seed=0, steps=200, batch_size=32))
    assert len(examples) == 6400
    digits = [max(len(number) for number in re.findall(r"\d+", e.question)) for e in examples]
    worked = [is_worked(e.completion) for e in examples]
    assert max(digits[: 70 * 32]) == 2
    assert max(digits[70 * 32 : 71 * 32]) == 3
    assert all(worked[: 150 * 32])
    assert np.mean(worked[150 * 32 :]) == pytest.approx(0.35, abs=0.03)


@pytest.mark.parametrize(
    ("text", "worked"),
    [
        ("95-59: 5-9-0=16; 9-5-1=03 #### 36", True),
        ("95-59: 5-9-0=99 #### 1", True),
        ("47*6: 7*6+0=42; 4*6", True),
        ("#### 36", False),
        ("", False),
        ("#### 36 95-59: 5-9-0=16", False),
        ("95-59: #### 36", False),
    ],
)
def test_is_worked(text: str, worked: bool):
    assert is_worked(text) is worked


def test_draws_depend_on_the_seed_alone():
    assert training_problems(seed=7, n=50) == training_problems(seed=7, n=50)
    assert training_problems(seed=7, n=50) != training_problems(seed=8, n=50)
    assert training_problems(seed=7, n=50)[:20] == training_problems(seed=7, n=20)


BUILD = """
import sys
from pathlib import Path
from gruppo.demo.model import build_model
build_model(Path(sys.argv[1]), seed=11)
"""


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same model built by two processes with different hash seeds."""
    made = []
    for hash_seed in ("1", "2"):
        folder = tmp_path_factory.mktemp("demo") / hash_seed
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", BUILD, str(folder)], env=environment, check=True, timeout=300)
        made.append(folder)
    return made


def test_two_processes_build_the_same_folder(folders: list[Path]):
    first, second = (digests(folder) for folder in folders)
    assert first == second
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(first)


def test_the_folder_loads_as_any_model_does(folders: list[Path]):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folders[0])
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    assert sum(parameter.numel() for parameter in model.parameters()) == 177_472
    assert len(tokenizer) == model.config.vocab_size == 456
    assert tokenizer.eos_token_id == model.config.eos_token_id == model.generation_config.eos_token_id
    assert tokenizer.pad_token_id == model.config.pad_token_id == model.generation_config.pad_token_id
    assert model.model.layers[0].self_attn.q_proj.weight.std().item() == pytest.approx(0.05, rel=0.05)
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_the_loaded_tokenizer_splits_as_the_built_one(folders: list[Path]):
    """AutoTokenizer goes by the architecture, and puts Qwen2's own splitting in place of the folder's."""
    from transformers import AutoTokenizer

    from gruppo.demo.tokenizer import build_tokenizer

    loaded, built = AutoTokenizer.from_pretrained(folders[0]), build_tokenizer()
    for problem in held_out_problems(seed=9, n=20):
        text = built.apply_chat_template(
            [{"role": "user", "content": problem.question}], add_generation_prompt=True, tokenize=False
        )
        assert text == f"<|user|>{problem.question}<|end|><|assistant|>"
        ids = loaded(text + problem.worked)["input_ids"]
        assert ids == built(text + problem.worked)["input_ids"]
        assert loaded.decode(ids) == text + problem.worked
    assert loaded.tokenize("95-59: 5 #### 36<|end|>") == [
        *("9", "5", "-", "5", "9", ":", "Ġ", "5", "Ġ####", "Ġ", "3", "6"),
        "<|end|>",
    ]
    assert loaded.decode(loaded("é 漢 🎲")["input_ids"]) == "é 漢 🎲"
