"""From a folder of real word problems to everything a run needs: demonstrations, problems, held-out test, model."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from random import Random

from transformers import PreTrainedTokenizerFast

from .augment import Example, Vocabulary, augment, drill, original, vocabulary_of
from .model import build_tokenizer, save_model
from .rows import Row, as_decimal, read_rows, share_of, split_rows


@dataclass(frozen=True)
class Settings:
    """What the prepared files depend on, the data aside."""

    seed: int = 0
    sft_steps: int = 2500
    batch_size: int = 32
    easy: float = 0.19
    """The first share of the demonstrations is easy arithmetic alone: it costs little, and without it the model
    spends most of the run without having learnt to copy a number."""
    drills: float = 0.2
    """Share of bare arithmetic among the others."""
    unaltered: float = 0.1
    """Share of the real problems that stay as they are."""
    kept_for_grpo: float = 0.25
    """Share of the training problems that SFT never sees, so that GRPO meets wordings that are new to the model."""
    grpo_problems: int = 4096


@dataclass(frozen=True)
class Counts:
    """What was found in the data, and what needs no model."""

    rows: int
    held_out: int
    near_twins_removed: int
    shown_to_sft: int
    """Training problems with a formula of which SFT sees altered versions."""
    kept_for_grpo: int
    parameters: int
    baselines: dict[str, float]


def prepare(data: Path, folder: Path, settings: Settings) -> Counts:
    """Write sft.jsonl, train.jsonl, test.jsonl and model/ into the folder; the same settings give the same bytes.

    A folder that was prepared with these settings from this data is left as it is, so that a run can go on.
    """
    rows = read_rows(data)
    stamp = {**asdict(settings), "data": _digest(rows)}
    done = folder / "prepared.json"
    if done.exists():
        record = json.loads(done.read_text(encoding="utf-8"))
        if record["settings"] == stamp:
            return Counts(**record["counts"])
    folder.mkdir(parents=True, exist_ok=True)
    train, held_out, twins = split_rows(rows)
    kept = [row for row in train if share_of(f"grpo {row.id}") < settings.kept_for_grpo]
    shown = [row for row in train if share_of(f"grpo {row.id}") >= settings.kept_for_grpo]
    sft, problems = demonstrations(shown, settings), grpo_problems(kept, settings)
    tokenizer = build_tokenizer(text for example in sft[-20_000:] for text in (example.question, example.completion))
    parameters = save_model(folder / "model", tokenizer, settings.seed)
    ordered = batches_of_like_length(sft, tokenizer, settings)
    _write(folder / "sft.jsonl", ({"question": e.question, "completion": e.completion} for e in ordered))
    _write(folder / "train.jsonl", ({"question": e.question, "answer": e.answer} for e in problems))
    _write(folder / "test.jsonl", ({"question": row.text, "answer": row.answer, "id": row.id} for row in held_out))
    counts = Counts(len(rows), len(held_out), twins, len(shown), len(kept), parameters, baselines(held_out))
    done.write_text(json.dumps({"settings": stamp, "counts": asdict(counts)}, indent=1), encoding="utf-8")
    return counts


def demonstrations(rows: Sequence[Row], settings: Settings) -> list[Example]:
    """One worked example per place of every batch: easy drills, then problems with drills between."""
    rng, vocabulary = Random(f"sft {settings.seed}"), vocabulary_of(rows)
    total = settings.sft_steps * settings.batch_size
    examples: list[Example] = []
    for place in range(total):
        easy = place < settings.easy * total
        if easy or rng.random() < settings.drills:
            examples.append(drill(rng, easy))
            continue
        examples.append(_problem(rows, vocabulary, settings, rng))
    return examples


def grpo_problems(rows: Sequence[Row], settings: Settings) -> list[Example]:
    """Altered problems of their own for GRPO, without drills."""
    rng, vocabulary = Random(f"grpo {settings.seed}"), vocabulary_of(rows)
    return [_problem(rows, vocabulary, settings, rng) for _ in range(settings.grpo_problems)]


def _problem(rows: Sequence[Row], vocabulary: Vocabulary, settings: Settings, rng: Random) -> Example:
    row = rng.choice(rows)
    return original(row) if rng.random() < settings.unaltered else augment(row, vocabulary, rng)


def batches_of_like_length(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast, settings: Settings, window: int = 20
) -> list[Example]:
    """Within every 20 batches, examples of like length share a batch; the batches then come in any order.

    Half the time of a step would otherwise go to padding.
    """
    lengths = [
        len(encoding.ids)
        for encoding in tokenizer.backend_tokenizer.encode_batch([e.question + e.completion for e in examples])
    ]
    rng, size = Random(f"order {settings.seed}"), settings.batch_size
    order: list[int] = []
    for start in range(0, len(examples), window * size):
        near = sorted(range(start, min(start + window * size, len(examples))), key=lengths.__getitem__)
        batches = [near[i : i + size] for i in range(0, len(near), size)]
        rng.shuffle(batches)
        order += [place for batch in batches for place in batch]
    return [examples[place] for place in order]


def baselines(rows: Sequence[Row]) -> dict[str, float]:
    """Share of held-out problems that a rule without any reading solves."""

    def share(rule) -> float:
        return round(sum(rule(sorted(row.values)) == as_decimal(row.answer) for row in rows) / len(rows), 4)

    def product(values: Sequence[Decimal]) -> Decimal | None:
        return values[-1] * values[-2] if len(values) > 1 else None

    return {
        "largest two subtracted": share(lambda v: v[-1] - v[-2] if len(v) > 1 else None),
        "largest two added": share(lambda v: v[-1] + v[-2] if len(v) > 1 else None),
        "sum of all numbers": share(lambda v: sum(v) if v else None),
        "largest two multiplied": share(product),
        "largest two divided": share(lambda v: v[-1] / v[-2] if len(v) > 1 and v[-2] else None),
    }


def _digest(rows: Iterable[Row]) -> str:
    return hashlib.sha256("\n".join(f"{row.id} {row.text} {row.answer}" for row in rows).encode()).hexdigest()


def _write(path: Path, records: Iterable[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
