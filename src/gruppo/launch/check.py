"""The check before a run, from a config: what is loaded for it, and how its cures become another config."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from gruppo.config.schedules import Curriculum, StepNumbers
from gruppo.config.schema import Config
from gruppo.data.difficulty import difficulty_slice
from gruppo.data.problems import load_demonstrations, load_problems
from gruppo.errors import ConfigError
from gruppo.launch.build import Workbench, check_packages, is_model_folder, loss_settings
from gruppo.launch.memory import free_bytes
from gruppo.launch.rewards import sandboxes, with_default_rewards
from gruppo.launch.streams import load_limits, problem_stream
from gruppo.monitor.progress import SilentProgress
from gruppo.preflight.check import Check, check
from gruppo.preflight.memory import resident_bytes
from gruppo.preflight.of_data import candidate_templates
from gruppo.preflight.of_update import too_large
from gruppo.preflight.outputs import draw
from gruppo.preflight.reasons import Cure, Reason, in_order
from gruppo.preflight.subject import Budget, Subject, fitting
from gruppo.rewards.workers import WorkerPool
from gruppo.training.losses import LossSettings
from gruppo.training.models import choose_device
from gruppo.types import Problem

SECONDS = 120.0
"""The longest that a check takes, but for a wave of sampling that was begun."""
PROBLEMS = 64
SHARE_OF_RUN = 0.02
"""Of the run's expected seconds, for the check that `gruppo train` makes."""
_SHARED = frozenset({"loaded", "engine", "rollout_engine", "token_budget", "max_live"})
"""Of a workbench, what one with other options has too."""
_TAKEN = 4
"""Times as many problems are taken from the stream as are sampled from: some come twice."""
_MEASURED_DEMONSTRATIONS = 500
Tell = Callable[[str], None]


def _silent(text: str) -> None:
    """Nobody is told."""


def check_config(config: Config, *, seconds: float = SECONDS, problems: int = PROBLEMS, tell: Tell = _silent) -> Check:
    """Check a config by itself. Of a run folder nothing but the model that its SFT stage has left is looked at.

    Args:
        config: the resolved config.
        seconds: the budget.
        problems: the most to sample from.
        tell: is told what is being done.

    Raises:
        GruppoError: what would stop the run at its start: data, columns, model, rewards, the sandbox.
    """
    check_packages(config)
    config = with_default_rewards(config, config.data_paths, config, tell)
    for line, _ in sandboxes(config):
        tell(line)
    budget = Budget(seconds, problems)
    device = choose_device(config.device)
    doubt = too_large(config, device.type, free_bytes(device))
    if doubt is not None and doubt.level == "stop":
        return Check((doubt,), budget.spent)
    baseline = resident_bytes()
    trained = Path(config.output_dir) / "sft" / "model"
    after_sft = config.sft is not None and is_model_folder(trained)
    if after_sft and config.quantize != "none":
        trained = trained.with_name("adapter")
    before_sft = config.sft is not None and not after_sft
    config = _with_local_engine(config) if before_sft else config
    with WorkerPool() as pool:
        bench = Workbench(config, str(trained) if after_sft else config.model, {}, SilentProgress(), pool)
        with closing(bench):
            found = check_bench(bench, budget, before_sft=before_sft, baseline=baseline, tell=tell)
    return found if doubt is None else replace(found, reasons=tuple(in_order([doubt, *found.reasons])))


def check_before_training(bench: Workbench, *, before_sft: bool, log: Path) -> Check:
    """The check that a run makes of itself, on its own model, within a share of its expected time.

    Rewards run in processes of the check's own, so that what a function remembers of the check never reaches the run.
    """
    budget = Budget(SECONDS, PROBLEMS // 2, thorough=False, of_run=SHARE_OF_RUN)
    if before_sft:  # what is found from memory now is not for the run that comes after SFT
        config, folder = _with_local_engine(bench.config), None
    else:
        config, folder = bench.config, bench.folder
        _ = bench.rollout_engine, bench.token_budget  # started and found as without the check
    with WorkerPool(log=log) as pool:
        apart = varied(bench, config, pool=pool, observer=SilentProgress(), folder=folder)
        return check_bench(apart, budget, before_sft=before_sft)


def _with_local_engine(config: Config) -> Config:
    """The config without a server to start for a model that isn't the one to be checked."""
    return config.model_copy(update={"engine": "local", "vllm_url": None, "rollout_precision": None})


def check_bench(
    bench: Workbench, budget: Budget, *, before_sft: bool = False, baseline: int | None = None, tell: Tell = _silent
) -> Check:
    """Check what a workbench holds; a model without a chat template is tried with plain ones."""
    tell("loading the model and the data")
    loss = _first_loss(bench.config)
    if bench.config.prompt_template is not None or bench.loaded.tokenizer.chat_template:
        return check(subject_of(bench, before_sft=before_sft, baseline=baseline), budget, loss, tell)
    subject, reason = _with_a_template(bench, before_sft, baseline)
    found = check(subject, budget, loss, tell)
    return replace(found, reasons=tuple(in_order([reason, *found.reasons])))


def _with_a_template(bench: Workbench, before_sft: bool, baseline: int | None) -> tuple[Subject, Reason]:
    """The subject with the plain template that works best, and what there is to say."""
    candidates = candidate_templates(bench.loaded.tokenizer.get_vocab())
    with_system = bench.config.system_prompt is not None
    best: tuple[float, Subject] | None = None
    for template in candidates:
        config = varied_config(bench.config, {"prompt_template": template, "system_prompt": None})
        bench = varied(bench, config)  # of the one before, so that an engine is started once
        subject = subject_of(bench, before_sft=before_sft, baseline=baseline)
        if before_sft or not subject.first:
            best = (0.0, subject)
            break
        drawn = draw(subject, subject.first[:16], samples=8, purpose="template")
        score = drawn.pass_rate - 0.01 * drawn.truncated_share
        if best is None or score > best[0]:
            best = (score, subject)
    assert best is not None
    score, subject = best
    evidence = () if before_sft else (f"of {len(candidates)} plain ones tried, the one below does best",)
    changes = {"prompt_template": subject.config.prompt_template}
    if with_system:
        changes["system_prompt"] = None
    what = "the model's tokenizer has no chat template, and the config gives no prompt_template"
    cure = Cure("Give the form that the model was trained with:", changes)
    return subject, Reason("chat_template", "stop", what, evidence, (cure,))


def subject_of(bench: Workbench, *, before_sft: bool = False, baseline: int | None = None) -> Subject:
    """Everything that the run will load, put together.

    Raises:
        GruppoError: as the run would at its start.
    """
    config = bench.config
    found = load_problems(config.data_paths, config, split="train", limits=load_limits(config))
    problems, _ = bench.renderer.encode_problems(found.problems)
    bench.rubric.check(problems)
    limit = _prompt_limit(bench)
    numbers = Curriculum(config).at(0)
    held_out: tuple[Problem, ...] = ()
    if config.eval is not None:
        held_out = load_problems(config.eval.data, config.eval, split="test").problems
    return Subject(
        config=config,
        loaded=bench.loaded,
        renderer=bench.renderer,
        rubric=bench.rubric,
        collector=replace(
            bench.collector,
            sampling=bench.sampling(numbers.temperature, numbers.max_completion_length),
            group_size=numbers.group_size,
        ),
        problems=tuple(problems),
        prompt_limit=limit,
        first=_first_problems(config, fitting(problems, limit), numbers),
        held_out=held_out,
        unused=found.mapping.unused,
        token_budget=bench.token_budget,
        packing=bench.packing,
        vary=lambda changes: subject_of(
            varied(bench, varied_config(config, changes)), before_sft=before_sft, baseline=baseline
        ),
        before_sft=before_sft,
        demonstrations=_demonstration_lengths(bench) if before_sft else (),
        baseline_bytes=baseline,
    )


def varied(bench: Workbench, config: Config, **changes: Any) -> Workbench:
    """Another workbench with other options (not of model or engine) for the same model: it shares the model, and
    engines and what was found from memory once they are there."""
    other = replace(bench, config=config, **changes)
    vars(other).update({name: value for name, value in vars(bench).items() if name in _SHARED})
    return other


def varied_config(config: Config, changes: Mapping[str, Any]) -> Config:
    """The config with other values for some options, each checked by itself."""
    checked = Config.model_validate({"model": config.model, "data": config.data, **changes})
    return config.model_copy(update={name: getattr(checked, name) for name in changes})


def _first_loss(config: Config) -> LossSettings:
    numbers = Curriculum(config).at(0)
    return replace(loss_settings(config), temperature=numbers.temperature, beta=numbers.beta)


def _prompt_limit(bench: Workbench) -> int | None:
    """As a run has it; where a completion leaves no room at all, it is no error yet."""
    context, limit = bench.loaded.context_length, bench.config.max_prompt_length
    if context is None:
        return limit
    room = max(0, context - bench.config.longest_completion)
    return room if limit is None else min(limit, room)


def _first_problems(config: Config, problems: Sequence[Problem], numbers: StepNumbers) -> tuple[Problem, ...]:
    """The run's own first problems, each once, in its order."""
    if not problems:
        return ()
    stream = problem_stream(config, problems, _silent)
    slice = difficulty_slice(numbers.min_difficulty, numbers.max_difficulty)
    taken = stream.take(min(_TAKEN * PROBLEMS, 2 * len(problems)), slice)
    return tuple({problem.id: problem for problem in taken}.values())[:PROBLEMS]


def _demonstration_lengths(bench: Workbench) -> tuple[int, ...]:
    sft = bench.config.sft
    assert sft is not None
    every = load_demonstrations(sft.data, sft).demonstrations
    some = every[:: max(1, len(every) // _MEASURED_DEMONSTRATIONS)]
    return tuple(len(bench.renderer.encode_demonstration(one.problem, one.completion)[1]) for one in some)


# ---- cures


@dataclass(frozen=True, slots=True)
class Fixed:
    """A config with the cures in it."""

    path: Path
    values: dict[str, Any]
    cures: tuple[tuple[Reason, Cure], ...]


def write_fixed(values: Mapping[str, Any], found: Check, path: Path) -> Fixed | None:
    """Write the config with every reason's first cure that has lines; None where none has.

    Where two cures change one option, the graver reason's counts.

    Args:
        values: the config as it was given, file and flags together.
        found: the check, whose reasons stand in order.
        path: the new file.

    Raises:
        ConfigError: it can't be written.
    """
    new = dict(values)
    taken: set[str] = set()
    used: list[tuple[Reason, Cure]] = []
    for reason in found.reasons:
        cure = reason.fix if reason.level != "note" else None
        if cure is None or taken & set(cure.changes) or (cure.without_rows and "data" in taken):
            continue
        taken |= set(cure.changes)
        for name, value in cure.changes.items():
            new.pop(name, None)
            if value is not None:
                new[name] = value
        if cure.without_rows:
            taken.add("data")
            new["data"] = _without(new["data"], cure.without_rows, path.parent)
        used.append((reason, cure))
    if not used:
        return None
    head = "".join(f"# {reason.kind}: {cure.text} {'; '.join(cure.lines)}".rstrip() + "\n" for reason, cure in used)
    _write(path, f"# Cures by `gruppo check --fix`:\n{head}" + yaml.safe_dump(new, sort_keys=False, width=100))
    return Fixed(path, new, tuple(used))


def _without(data: Any, rows: Mapping[str, Sequence[int]], folder: Path) -> Any:
    """The value of `data:` with files in place of others that lack some rows."""
    if isinstance(data, (list, tuple)):
        return [_without(item, rows, folder) for item in data]
    if isinstance(data, dict):
        return {**data, "path": _without(data["path"], rows, folder)}
    if data not in rows:
        return data
    left_out = set(rows[data])
    lines = Path(data).read_text(encoding="utf-8").split("\n")
    new = folder / f"{Path(data).stem}.fixed.jsonl"
    _write(new, "\n".join(line for number, line in enumerate(lines, start=1) if number not in left_out))
    return str(new)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--fix: {path} can't be written: {error.strerror}") from error
