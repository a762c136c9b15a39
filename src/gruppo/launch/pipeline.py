"""The stages of a file, in order: SFT, evaluation before, GRPO, evaluation after, report. Each is done once.

RUN itself is the GRPO stage's folder, as its options are the top level of the file; `sft/` and `eval/` are the
other stages'. A stage that is done is not done again; one that was cut short goes on from its checkpoint.
"""

import json
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gruppo.config.advice import advise
from gruppo.config.rewards import REWARDS
from gruppo.config.schema import Config, EvalConfig, RewardConfig
from gruppo.data.duplicates import overlap_warning
from gruppo.errors import ConfigError, RunFolderError
from gruppo.evaluation.evaluate import Evaluation, Label, compare
from gruppo.evaluation.explain import learnt
from gruppo.evaluation.statistics import Estimate
from gruppo.launch.build import RewardFunction, Workbench, check_packages, is_model_folder
from gruppo.launch.gate import CheckGate
from gruppo.launch.rewards import sandboxes, with_default_rewards
from gruppo.monitor.progress import SilentProgress, make_progress
from gruppo.monitor.report import write_report
from gruppo.monitor.run_folder import RunFolder
from gruppo.rewards.binding import function_name
from gruppo.rewards.workers import WorkerPool
from gruppo.training.models import describe, save_model
from gruppo.types import Problem, ProgressObserver

ALL_STAGES = ("sft", "grpo", "eval")
PLAIN = {"lora_rank": 0, "quantize": "none", "gradient_checkpointing": False}
"""A finished model, to be evaluated alone."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to."""

    folder: Path
    finished: bool
    """False if it was asked to stop before its last step; the same call goes on."""
    metrics: list[dict[str, Any]]
    """The GRPO stage's metrics, a dict per step."""
    before: Evaluation | None
    after: Evaluation | None
    difference: dict[str, Estimate] | None
    """Paired differences after - before."""
    seconds: dict[str, float]
    """Wall-clock seconds by stage, over all calls that the run took."""

    @property
    def model(self) -> Path:
        """The final model, a folder that transformers loads."""
        return self.folder / "model"


def run(
    config: Config,
    *,
    rewards: Sequence[RewardFunction] = (),
    observer: ProgressObserver | None = None,
    stages: Collection[str] = ALL_STAGES,
    label: Label | None = None,
    check: bool = False,
    anyway: bool = False,
) -> RunResult:
    """Run the stages that the config has, going on where an earlier call with the same config stopped.

    Args:
        config: the resolved config.
        rewards: reward functions as Python objects, in place of (or named in) `config.rewards`.
        observer: who is told of progress; None: a display on a terminal, plain lines elsewhere.
        stages: which of sft, grpo and eval to run.
        label: a property of completions that evaluations count beside passing.
        check: look first whether it can learn, as `gruppo train` does: before SFT what can be told without the model
            that it makes, before GRPO everything. Not done again for a stage that has steps.
        anyway: go on whatever the check says.

    Raises:
        CannotLearnError: the check says that the run cannot learn.
        GruppoError: anything that the user can mend, from every room.
    """
    if observer is None:
        with make_progress() as progress:
            return run(
                config, rewards=rewards, observer=progress, stages=stages, label=label, check=check, anyway=anyway
            )
    functions = _named(rewards)
    config = _with_functions(config, functions)
    check_packages(config)
    config = with_default_rewards(config, config.data_paths, config, observer.note)
    with (
        RunFolder.open(config.output_dir, config.model_dump(mode="json")) as folder,
        WorkerPool(log=folder.path / "rewards.log") as pool,
    ):
        gate = CheckGate(folder, observer, anyway=anyway) if check else None
        result = _Pipeline(config, functions, observer, folder, stages, label, pool, gate).run()
    write_report(result.folder)  # after the lock is given back, or the page would say that the run goes on
    return result


def _named(rewards: Sequence[RewardFunction]) -> dict[str, RewardFunction]:
    """Functions by name: a lambda is `reward`, and a second one of a name, or one of a built-in's, `reward_2`."""
    functions: dict[str, RewardFunction] = {}
    for function in rewards:
        plain = function_name(function)
        plain = "reward" if plain == "lambda" else plain
        name, number = plain, 2
        while name in functions or name in REWARDS:
            name, number = f"{plain}_{number}", number + 1
        functions[name] = function
    return functions


def _with_functions(config: Config, functions: dict[str, RewardFunction]) -> Config:
    """The config with the functions named in its rewards; in place of the default if none were set."""
    named = {reward.name for reward in config.rewards}
    missing = tuple(RewardConfig(name=name) for name in functions if name not in named)
    if not missing:
        return config
    kept = config.rewards if "rewards" in config.model_fields_set or config.success in named else ()
    return Config.model_validate({**dict(config), "rewards": (*kept, *missing)})


def _seconds(events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Seconds by stage, summed over its calls."""
    totals: dict[str, float] = {}
    for event in events:
        if event["kind"] == "stage":
            totals[event["name"]] = totals.get(event["name"], 0.0) + event["seconds"]
    return totals


class _Pipeline:
    """One run of the stages."""

    def __init__(
        self,
        config: Config,
        functions: dict[str, RewardFunction],
        observer: ProgressObserver,
        folder: RunFolder,
        stages: Collection[str],
        label: Label | None,
        pool: WorkerPool,
        gate: CheckGate | None,
    ) -> None:
        self._gate = gate
        self._config = config
        self._functions = functions
        self._observer = observer
        self._folder = folder
        self._stages = stages
        self._label = label
        self._pool = pool
        self._engines = ExitStack()

    def run(self) -> RunResult:
        """The stages that are left; no engine outlives them."""
        with self._engines:
            return self._run()

    def _run(self) -> RunResult:
        if self._is_done:
            self._observer.note(f"{self._folder.path}: this run is done; for another, choose another --out")
        else:
            for line in advise(self._config):
                self._observer.note(f"warning: {line}")
            for line, described in sandboxes(self._config):
                self._observer.note(line)
                self._folder.describe({"sandbox": described})
        finished = self._sft()
        if finished and "grpo" in self._stages:
            finished = self._grpo()
        before, after = self._read_evaluation("before"), self._read_evaluation("after")
        difference = compare(before, after) if before and after else None
        if before and after and difference:
            self._write_summary(before, after, difference)
        return RunResult(
            folder=self._folder.path,
            finished=finished,
            metrics=self._folder.read_metrics(),
            before=before,
            after=after,
            difference=difference,
            seconds=_seconds(self._folder.read_events()),
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Record the wall-clock seconds of a stage in the events."""
        start = time.perf_counter()
        yield
        self._folder.append_event("stage", name=stage, seconds=round(time.perf_counter() - start, 3))

    def _workbench(self, model: str) -> Workbench:
        return self._opened(self._config, model)

    def _opened(self, config: Config, model: str) -> Workbench:
        bench = Workbench(config, model, self._functions, self._observer, self._pool, self._folder.path)
        self._engines.callback(bench.close)
        return bench

    # ---- the stages

    def _sft(self) -> bool:
        """SFT, if the file has it; True once it is done."""
        sft = self._config.sft
        if sft is not None and self._folder.is_done("sft"):
            self._make_room()
            return True
        if sft is None or "sft" not in self._stages:
            return True
        bench = self._workbench(self._config.model)
        if "grpo" in self._stages:
            bench.look_ahead()
        folder = self._folder.sub("sft")
        if self._gate is not None and "grpo" in self._stages and not folder.read_metrics():
            self._gate.pass_through(bench, before_sft=True)
        trainer = bench.sft_trainer(folder, sft, bench.demonstrations(sft))
        self._tell_model(bench)
        self._observer.start("sft", trainer.controls.steps, trainer.controls.step)
        with self._timed("sft"):
            trainer.run()
        trainer.recorder.close()
        self._observer.finish("sft")
        if not trainer.controls.finished:
            return self._stopped("sft", trainer.controls.step, trainer.controls.steps)
        save_model(bench.loaded, self._sft_model)
        self._folder.mark_done("sft")
        return True

    def _grpo(self) -> bool:
        """Evaluation before, GRPO, evaluation after; True once all of it is done."""
        if self._folder.is_done("grpo"):
            return self._evaluate_after(None)
        bench = self._workbench(self._start_of_grpo)
        config = self._config
        held_out = self._held_out(bench)
        problems = bench.problems(config.data_paths, config, "train", config.longest_completion)
        self._tell_first_prompt(problems)
        overlap = overlap_warning(problems, held_out)
        if overlap is not None:
            self._observer.note(f"warning: {overlap}")
        self._tell_model(bench)
        if self._gate is not None and not self._folder.read_metrics():
            self._gate.pass_through(bench, before_sft=False)
        if config.eval is not None and config.eval.before:
            self._evaluate(bench, held_out, "before")
        trainer = bench.trainer(self._folder, problems)
        self._observer.start("grpo", config.steps, trainer.controls.step)
        with self._timed("grpo"):
            trainer.run()
        trainer.recorder.close()
        self._observer.finish("grpo")
        if not trainer.controls.finished:
            return self._stopped("grpo", trainer.controls.step, config.steps)
        save_model(bench.loaded, self._folder.model_path)
        self._folder.mark_done("grpo")
        return self._evaluate_after(bench, held_out)

    def _evaluate_after(self, bench: Workbench | None, held_out: Sequence[Problem] = ()) -> bool:
        """Evaluate the final weights, from memory or from the saved model."""
        if self._config.eval is None or "eval" not in self._stages or self._folder.is_done("eval"):
            return True
        if bench is None:
            plain = self._config.model_copy(update=PLAIN)
            bench = self._opened(plain, str(self._folder.model_path))
        self._evaluate(bench, held_out or self._held_out(bench), "after")
        self._folder.mark_done("eval")
        return True

    # ---- evaluation

    def _held_out(self, bench: Workbench) -> list[Problem]:
        settings = self._config.eval
        if settings is None or "eval" not in self._stages:
            return []
        room = settings.max_completion_length or self._config.max_completion_length
        return bench.problems(settings.data, settings, "test", room)

    def _evaluate(self, bench: Workbench, problems: Sequence[Problem], when: str) -> None:
        settings = self._config.eval
        if settings is None or not problems or self._evaluation_path(when).exists():
            return
        with self._timed(f"eval_{when}"):
            evaluation = bench.evaluator(settings, problems, self._label).evaluate(f"eval {when}")
        self._folder.sub("eval").write_json(f"{when}.json", evaluation.to_json())

    def _evaluation_path(self, when: str) -> Path:
        return self._folder.path / "eval" / f"{when}.json"

    def _read_evaluation(self, when: str) -> Evaluation | None:
        path = self._evaluation_path(when)
        return Evaluation.from_json(json.loads(path.read_text())) if path.exists() else None

    def _write_summary(self, before: Evaluation, after: Evaluation, difference: dict[str, Estimate]) -> None:
        paired = {name: asdict(estimate) for name, estimate in difference.items()}
        sentences = learnt(before, after, self._label.verb if self._label else "")
        self._folder.sub("eval").write_json("summary.json", {"paired": paired, "learnt": sentences})

    # ---- folders and words

    @property
    def _is_done(self) -> bool:
        """Whether every stage that the config has and the call wants was done by an earlier call."""
        config = self._config
        has = {"sft": config.sft is not None, "grpo": True, "eval": config.eval is not None}
        return all(self._folder.is_done(stage) for stage in self._stages if has[stage])

    @property
    def _has_sft(self) -> bool:
        return self._config.sft is not None and is_model_folder(self._sft_model)

    @property
    def _start_of_grpo(self) -> str:
        """The model that GRPO starts from.

        After SFT over a 4-bit base that is SFT's adapter: the merged model, rounded to 4 bits anew, would lose a part
        of what SFT has learnt.
        """
        if not self._has_sft:
            return self._config.model
        adapter = self._sft_model.with_name("adapter")
        return str(adapter if self._config.quantize != "none" else self._sft_model)

    @property
    def _sft_model(self) -> Path:
        """Where SFT leaves its model: the run's own if it is the last stage."""
        return self._folder.path / ("sft/model" if "grpo" in self._stages else "model")

    def _make_room(self) -> None:
        """Move what an earlier call left as the run's model, when SFT was its last stage, to where GRPO starts."""
        if "grpo" not in self._stages or self._folder.is_done("grpo") or is_model_folder(self._sft_model):
            return
        if not is_model_folder(self._folder.model_path):
            raise RunFolderError(
                f"output_dir: {self._folder.path} has done SFT, but its model is gone ({self._sft_model}); "
                "put it back, or choose another folder with --out"
            )
        for name in ("adapter", self._folder.model_path.name):  # the model last: it says that all is there
            if (self._folder.path / name).exists():
                (self._folder.path / name).rename(self._sft_model.with_name(name))

    def _stopped(self, stage: str, step: int, steps: int) -> bool:
        self._observer.note(f"{stage}: stopped after step {step} of {steps}; the same command goes on from here")
        self._folder.append_event("stopped", stage=stage, step=step)
        return False

    def _tell_model(self, bench: Workbench) -> None:
        facts = describe(bench.loaded, bench.device)
        self._folder.append_event("model", name=bench.model_name, **facts)
        self._observer.note(
            f"model: {facts['parameters']:,} parameters ({facts['trainable_parameters']:,} trainable), "
            f"{facts['dtype']} on {facts['device']}"
        )

    def _tell_first_prompt(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        self._observer.note(f"first prompt ({first.id}, {len(first.prompt_ids)} tokens): {first.prompt_text!r}")
        self._observer.note(f"its answer: {first.answer!r}")


def evaluate(
    config: Config,
    settings: EvalConfig,
    *,
    rewards: Sequence[RewardFunction] = (),
    observer: ProgressObserver | None = None,
) -> Evaluation:
    """Evaluate a model by itself, without a run folder.

    Args:
        config: which model, how to render and score.
        settings: which problems, how many samples.
        rewards: reward functions as Python objects.
        observer: who is told of progress; None: nobody.
    """
    functions = _named(rewards)
    observer = observer or SilentProgress()
    plain = _with_functions(config, functions).model_copy(update=PLAIN)
    plain = with_default_rewards(plain, settings.data, settings, observer.note)
    with WorkerPool() as pool, ExitStack() as stack:
        bench = Workbench(plain, config.model, functions, observer, pool)
        stack.enter_context(closing(bench))
        room = settings.max_completion_length or config.max_completion_length
        problems = bench.problems(settings.data, settings, "test", room)
        if not problems:
            raise ConfigError("eval.data: no problems")
        return bench.evaluator(settings, problems, None).evaluate("eval")
