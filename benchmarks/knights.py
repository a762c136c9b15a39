"""Knights and knaves: 3 people first, then 4, against both mixed, at equal compute: held-out pass@1 by people.

    python benchmarks/knights.py --data DIR [--seeds 0-2] [--steps 30] [--out DIR]

DIR holds 3ppl_train.parquet and 4ppl_train.parquet (`quiz`, `names`, `statements`). One model of 0.3 million weights
is made by SFT on generated puzzles in the data's own wordings, one in ten of them with 4 people, worked by trying one
assignment after another; the arms of every seed go on from it with the data's puzzles, which SFT never sees. The first
hundred puzzles of either file are held out. The sentences that every quiz has are left out of the prompt.

A person i of n is a digit: i as a knight, i + 5 as a knave (0 for the fifth). A completion names the people, restates
the statements, and tries: the assignment, then each statement as its speaker's digit with every literal's truth, `.`
if the speaker may say that and `!` if not, up to the first assignment without `!`.
"""

import argparse
import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from curriculum import arm, write
from results import ROOT, numbers, render, store

from gruppo.config.schema import Config, EvalConfig, SFTConfig
from gruppo.demo.model import Shape, save_untrained
from gruppo.demo.tokenizer import train_tokenizer
from gruppo.launch.pipeline import run
from gruppo.monitor.progress import SilentProgress

HELD_OUT = 100
SFT_BATCH = 32
SHAPE = Shape(64, 256, 3, 4, 2, 512, head_dim=32)
SIGNS = {"and": "&", "or": "|", "->": ">", "<=>": "="}
WORDS = {"telling-truth": "knight", "lying": "knave"}
Statement = tuple[Any, ...]


@dataclass(frozen=True)
class Start:
    """What the model of a benchmark is taught before GRPO."""

    people: tuple[int, ...] = (3, 4)
    """In the data's puzzles, for GRPO and the evaluation."""
    steps: int = 600
    share_of_4: float = 0.1
    """Of the generated puzzles those with 4 people; the others have 3."""
    bare_from: float = 1.0
    """Share of the steps from which on bare answers are shown beside worked ones."""
    bare_share: float = 0.0
    """Of the demonstrations from there on."""


def main() -> None:
    """Make the model and run what is not there yet, then store and render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the puzzles")
    parser.add_argument("--seeds", default="0-2", help="of GRPO, such as 0-2 or 0,3")
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps of each arm")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "knights", help="where the runs go")
    arguments = parser.parse_args()
    orders = Start()
    base = start(orders, arguments.data, arguments.out, arguments.steps)
    half = arguments.steps // 2
    in_order = ({"steps": f"1-{half}", "max_difficulty": 3}, {"steps": f"{half + 1}-", "min_difficulty": 4})
    rows: list[dict[str, Any]] = []
    for seed in numbers(arguments.seeds):
        own = base.model_copy(update={"seed": seed, "output_dir": str(arguments.out / f"seed-{seed}" / "any")})
        (arguments.out / f"seed-{seed}").mkdir(exist_ok=True)
        for name, values in (("3 and 4 mixed", {}), ("in order: 3, then 4", {"curriculum": in_order})):
            rows.append({"arm": name, "seed": seed, **arm(own, name, values, len(orders.people))})
            print(f"{name}, seed {seed}: {rows[-1]['before']} -> {rows[-1]['after']}", flush=True)
    store("knights", f"python benchmarks/knights.py --data DIR --steps {arguments.steps}", rows)
    render()


def start(taught: Start, data: Path, out: Path, steps: int) -> Config:
    """Data and model, made once per folder, and what the arms have in common."""
    if not (out / "start-model" / "config.json").exists():
        prepare(taught, data, out)
    sft = SFTConfig(
        data=(str(out / "sft.jsonl"),),
        steps=taught.steps,
        batch_size=SFT_BATCH,
        shuffle=False,
        optimizer="muon",
        muon_learning_rate=0.01,
        learning_rate=0.01,
        adam_beta2=0.98,
        weight_decay=0.05,
        warmup_ratio=0.05,
        lr_schedule="linear",
        min_lr_ratio=0.05,
    )
    config = Config(
        model=str(out / "start-model"),
        data=(str(out / "train.jsonl"),),
        output_dir=str(out / "sft"),
        threads=1,
        steps=steps,
        prompts_per_step=16,
        group_size=8,
        max_completion_length=320,
        rewards=({"name": "math", "strict": True},),
        learning_rate=5e-4,
        adam_beta2=0.95,
        warmup_steps=3,
        lr_schedule="constant",
        save_rollouts_every=0,
        sft=sft,
        eval=EvalConfig(data=(str(out / "test.jsonl"),), samples=4, greedy=False, before=False),
    )
    made = run(config, observer=SilentProgress(), stages=("sft",))
    return config.model_copy(update={"model": str(made.model), "sft": None})


def prepare(taught: Start, data: Path, out: Path) -> None:
    """Write `sft.jsonl`, `train.jsonl`, `test.jsonl` and the untrained `start-model/`."""
    out.mkdir(parents=True, exist_ok=True)
    tables = {people: pq.read_table(data / f"{people}ppl_train.parquet").to_pylist() for people in taught.people}
    held_out = [row for people in taught.people for row in tables[people][:HELD_OUT]]
    kept = [row for people in taught.people for row in tables[people][HELD_OUT:]]
    for name, rows in (("test", held_out), ("train", kept)):
        write(out / f"{name}.jsonl", [problem(row) for row in rows])
    real = {row["statements"] for row in held_out + kept}
    generated = list(demonstrations(np.random.default_rng((0, 20)), taught, kept, real))
    write(out / "sft.jsonl", generated)
    texts = (text for row in generated[:2000] for text in row.values())
    save_untrained(out / "start-model", train_tokenizer(texts, 640, 512), SHAPE, 0)


def problem(row: dict[str, Any]) -> dict[str, Any]:
    """A puzzle of the data as a problem, its number of people as its difficulty."""
    answer = "".join(literal(person, knight) for person, knight in enumerate(row["solution"]))
    assert worked(row["names"], ast.literal_eval(row["statements"])).endswith(f"#### {answer}")
    return {"question": said(row["quiz"]), "answer": answer, "difficulty": len(row["names"])}


def said(quiz: str) -> str:
    """A quiz without the sentences that all have: the names and what they say."""
    return quiz.split(" You meet ")[1].removesuffix(" So who is a knight and who is a knave?")


def demonstrations(
    rng: np.random.Generator, taught: Start, rows: list[dict[str, Any]], real: set[str]
) -> Iterator[dict[str, str]]:
    """Generated puzzles in the wordings of `rows`, none with the statements of a real one."""
    names = sorted({name for row in rows for name in row["names"]})
    frames = sorted({frame for row in rows for frame in wordings(row)})
    total = taught.steps * SFT_BATCH
    for index in range(total):
        people = 4 if rng.random() < taught.share_of_4 else 3
        statements: tuple[Statement, ...] = ()
        while not statements or str(statements) in real or len(solutions(statements)) != 1:
            statements = tuple(draw(rng, people) for _ in range(people))
        chosen = [names[i] for i in rng.choice(len(names), people, replace=False)]
        sentences = [
            frames[rng.integers(len(frames))].replace("{claim}", claim(statement, chosen)).replace("{name}", name)
            for name, statement in zip(chosen, statements, strict=True)
        ]
        question = f"{people} inhabitants: {', '.join(chosen[:-1])}, and {chosen[-1]}. {' '.join(sentences)}"
        completion = worked(chosen, statements)
        if index > taught.bare_from * total and rng.random() > 1 - taught.bare_share:
            completion = "#### " + completion.rsplit("#### ", 1)[1]
        yield {"question": question, "completion": completion}


def wordings(row: dict[str, Any]) -> Iterator[str]:
    """The sentences of a quiz, name and claim blanked."""
    rest = said(row["quiz"]).split(". ", 1)[1]
    for name, statement in zip(row["names"], ast.literal_eval(row["statements"]), strict=True):
        head, tail = rest.split(claim(statement, row["names"]), 1)
        end = re.match(r'.*?\."?(?=\s|$)', tail)
        assert end is not None
        yield (head + "{claim}" + end[0]).strip().replace(name, "{name}")
        rest = tail[end.end() :]


def draw(rng: np.random.Generator, people: int) -> Statement:
    """A statement, its kinds about as often as in the data."""
    one, other = ((list(WORDS)[rng.integers(2)], int(rng.integers(people))) for _ in range(2))
    kind = rng.random()
    if kind < 0.16:
        return one
    return ("not", one) if kind < 0.32 else (list(SIGNS)[rng.integers(4)], one, other)


def claim(statement: Statement, names: list[str]) -> str:
    """A statement in the data's words."""
    kind, *parts = statement
    if kind in WORDS:
        return f"{names[parts[0]]} is a {WORDS[kind]}"
    if kind == "not":
        return f"{names[parts[0][1]]} is not a {WORDS[parts[0][0]]}"
    one, other = (claim(part, names) for part in parts)
    return f"If {one} then {other}" if kind == "->" else f"{one} {'if and only if' if kind == '<=>' else kind} {other}"


def worked(names: list[str], statements: tuple[Statement, ...]) -> str:
    """The demonstration: names, statements, assignments tried, and the answer."""
    people = "".join(f" {name}{place}" for place, name in enumerate(names, start=1))
    told = "".join(f"{place}:{formula(statement)}." for place, statement in enumerate(statements, start=1))
    tried = ""
    for roles in product((True, False), repeat=len(names)):
        assignment = "".join(literal(person, role) for person, role in enumerate(roles))
        tried += f" {assignment}:"
        for person, statement in enumerate(statements):
            right = holds(statement, roles) == roles[person]
            tried += literal(person, roles[person]) + formula(statement, roles) + (" ." if right else " !")
            if not right:
                break
        else:
            return f"Names:{people}. {told}{tried} #### {assignment}"
    raise ValueError("no assignment fits")


def formula(statement: Statement, roles: tuple[bool, ...] | None = None) -> str:
    """`1>7`: if the first is a knight, the second is a knave; with roles each literal's truth behind it, `1t>7f`."""
    kind, *parts = statement
    if kind in SIGNS:
        return SIGNS[kind].join(formula(part, roles) for part in parts)
    word, person = parts[0] if kind == "not" else statement
    knight = (word == "telling-truth") != (kind == "not")
    truth = "" if roles is None else "t" if roles[person] == knight else "f"
    return literal(person, knight) + truth


def literal(person: int, knight: bool) -> str:
    """A person as knight or as knave, one digit."""
    return str((person + 1 + (0 if knight else 5)) % 10)


def holds(statement: Statement, roles: tuple[bool, ...]) -> bool:
    """Whether a statement is true."""
    kind, *parts = statement
    if kind in WORDS:
        return roles[parts[0]] == (kind == "telling-truth")
    one, *others = (holds(part, roles) for part in parts)
    if kind == "not":
        return not one
    return {"and": one and others[0], "or": one or others[0], "->": not one or others[0], "<=>": one == others[0]}[kind]


def solutions(statements: tuple[Statement, ...]) -> list[tuple[bool, ...]]:
    """Every assignment that fits."""
    every = product((True, False), repeat=len(statements))
    return [roles for roles in every if all(holds(s, roles) == roles[i] for i, s in enumerate(statements))]


if __name__ == "__main__":
    main()
