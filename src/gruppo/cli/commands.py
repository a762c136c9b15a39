"""What each command does, once its arguments are parsed."""

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gruppo.cli.flags import overrides, say
from gruppo.cli.main import CANNOT_LEARN, MODEL_FIELDS, NOT_FINE, SCORING_FIELDS, stage_options
from gruppo.config.load import ALIASES, load_config, read_file, read_given, resolve_aliases
from gruppo.config.load import check as checked
from gruppo.config.reference import Option, options
from gruppo.config.schema import Config, EvalConfig, SFTConfig
from gruppo.errors import ConfigError, nearest

if TYPE_CHECKING:
    from gruppo.preflight.check import Check


def demo(parsed: Namespace) -> int:
    """Run the demo; a table or one JSON object on standard output."""
    from gruppo.demo.run import run_demo, table

    out = Path(parsed.output_dir or f"runs/demo-seed{parsed.seed}")
    result = run_demo(parsed.seed, out)
    if result is None:
        return 130
    print(json.dumps(result) if parsed.json else table(result))
    return 0


def check(parsed: Namespace) -> int:
    """Check a config before it is run: 0 ready, 1 will learn slowly, 3 cannot learn."""
    if not 1 <= parsed.problems <= 64:
        raise ConfigError(f"--problems: got {parsed.problems}, wanted 1 to 64")
    if not parsed.seconds > 0:
        raise ConfigError(f"--seconds: got {parsed.seconds:g}, wanted more than 0")
    given = read_given(_path(parsed.config), overrides(parsed, options()))
    _tell(given.notes)
    from gruppo.cli.check_text import as_text, fix_text
    from gruppo.launch.check import check_config, write_fixed

    def look(values: dict[str, Any], source: str) -> "Check":
        found = check_config(
            checked(Config, values, source), seconds=parsed.seconds, problems=parsed.problems, tell=_show_step
        )
        if parsed.json != "-":
            print(as_text(found))
        return found

    found = look(given.values, given.source)
    if parsed.fix is not None:
        target = Path(parsed.fix) if parsed.fix else Path(parsed.config or "gruppo.yaml").with_suffix(".fixed.yaml")
        if target == _path(parsed.config):
            raise ConfigError(f"--fix: {target} is the config itself; name another file for the cures")
        fixed = write_fixed(given.values, found, target)
        say(fix_text(fixed))
        if fixed is not None:
            found = look(fixed.values, str(fixed.path))
    if parsed.json == "-":
        print(json.dumps(found.to_json()))
    elif parsed.json is not None:
        _save(Path(parsed.json), found.to_json(), "--json")
    return {"ready": 0, "will learn slowly": NOT_FINE, "cannot learn": CANNOT_LEARN}[found.verdict]


def train(parsed: Namespace) -> int:
    """Run the stages of a config."""
    from gruppo.config.sentence import is_sentence

    given = overrides(parsed, options())
    stages, look = ("sft", "grpo", "eval"), not parsed.no_check
    if parsed.config is not None and is_sentence(parsed.config):
        from gruppo.cli.sentence import confirmed

        planned = confirmed(parsed.config, given, parsed.yes)
        return NOT_FINE if planned is None else _run(planned, stages, check=look, anyway=parsed.anyway)
    if parsed.yes:
        raise ConfigError("--yes: there is no sentence to say yes to; a file or flags start at once")
    config, notes = load_config(_path(parsed.config), given)
    _tell(notes)
    return _run(config, stages, check=look, anyway=parsed.anyway)


def sft(parsed: Namespace) -> int:
    """Run the SFT stage by itself."""
    given = overrides(parsed, stage_options(SFTConfig, MODEL_FIELDS))
    config, notes = load_config(None, _of_stage(_path(parsed.config), given, "sft", SFTConfig))
    _tell(notes)
    return _run(config, ("sft",))


def eval(parsed: Namespace) -> int:
    """Evaluate a model by itself."""
    given = overrides(parsed, stage_options(EvalConfig, SCORING_FIELDS))
    config, notes = load_config(None, _of_stage(_path(parsed.config), given, "eval", EvalConfig))
    _tell(notes)
    assert config.eval is not None
    from gruppo.launch.pipeline import evaluate
    from gruppo.monitor.progress import make_progress

    progress = make_progress()
    try:
        result = evaluate(config, config.eval, observer=progress)
    finally:
        progress.close()
    data = {"model": config.model, **result.to_json()}
    if parsed.save:
        _save(Path(parsed.save), data)
    summary = {name: value for name, value in data.items() if name not in ("per_problem", "extra", "label")}
    if parsed.json:
        print(json.dumps(summary))
    else:
        for name, value in summary.items():
            print(f"{name:<18} {_shown(value)}")
    return 0


def init(parsed: Namespace) -> int:
    """Write a first config."""
    from gruppo.cli.init import init as write

    return write(parsed)


def show(parsed: Namespace) -> int:
    """Print what a run has come to."""
    from gruppo.monitor.summary import summarize

    print(summarize(Path(parsed.run)))
    return 0


def config(parsed: Namespace) -> int:
    """Print the schema, or explain a file or an option."""
    if parsed.what == "schema":
        print(json.dumps(Config.model_json_schema(), indent=2))
        return 0
    known = {option.name: option for option in options()}
    name = (parsed.config or "").replace("-", "_")
    name = ALIASES.get(name, name)
    if parsed.config is None:
        print("\n".join(_explained(option, None) for option in known.values()))
    elif name in known:
        print(_explained(known[name], None))
    elif not Path(parsed.config).exists() and not parsed.config.endswith((".yaml", ".yml")):
        raise ConfigError(f"there is no option or file '{parsed.config}'.{nearest(name, list(known))}")
    else:
        _explain_file(parsed, known)
    return 0


def plan(parsed: Namespace) -> int:
    """Forecast a run, or look for settings that fit."""
    from gruppo.planner import by_size, fit, text
    from gruppo.planner.forecast import Request, as_json, forecast
    from gruppo.planner.measured import read_measured
    from gruppo.planner.prices import PriceList, read_prices

    if parsed.by_size:
        print(by_size.as_markdown())
        return 0
    given = read_given(_path(parsed.config), overrides(parsed, options()))
    _tell(given.notes)
    config = checked(Config, {"data": "none", **given.values}, given.source)
    request = Request(
        gpu=parsed.gpu,
        gpus=_above_zero(parsed, "gpus", int),
        model_size=parsed.model_size,
        measured=read_measured(Path(parsed.measured)) if parsed.measured else None,
        prompt_tokens=_above_zero(parsed, "prompt_tokens", float),
        completion_tokens=_above_zero(parsed, "completion_tokens", float),
        prices=read_prices(Path(parsed.prices)) if parsed.prices else PriceList(),
    )
    found = fit.fit(config, request, fit.read_limits(parsed.fit)) if parsed.fit else None
    made = found.after if found else forecast(config, request)
    if parsed.json:
        print(json.dumps({**as_json(made), "fit": fit.as_json(found) if found else None}))
        return 0
    text.show(made)
    if found:
        print(f"\n{fit.as_text(found)}")
    return 0


def reward(parsed: Namespace) -> int:
    """Try the rewards of a config; 1 where something has to be mended."""
    if parsed.problems < 1:
        raise ConfigError(f"--problems: got {parsed.problems}, wanted at least 1")
    given = read_given(_path(parsed.config), overrides(parsed, options()))
    _tell(given.notes)
    config = checked(Config, {"model": "none", **given.values}, given.source)
    from gruppo.cli.reward_text import as_text
    from gruppo.launch.reward_test import try_config

    found = try_config(config, most=parsed.problems, examples=parsed.examples, note=say)
    if parsed.json == "-":
        print(json.dumps(found.to_json()))
    else:
        print(as_text(found))
    if parsed.json not in (None, "-"):
        _save(Path(parsed.json), found.to_json(), "--json")
    return 0 if found.fine else NOT_FINE


def serve_reward(parsed: Namespace) -> int:
    """Serve a reward model until told to stop; one line on standard output once it answers."""
    import os

    from gruppo.rewards.reward_model import RewardModel
    from gruppo.rewards.reward_server import RewardServer, serve_until_told
    from gruppo.rewards.wire import TOKEN_VARIABLE

    model = RewardModel(
        parsed.model, parsed.device, parsed.offload, parsed.max_length, parsed.token_budget, parsed.precision
    )
    given = parsed.token or os.environ.get(TOKEN_VARIABLE)
    server = RewardServer(model, parsed.host, parsed.port, given)

    def ready() -> None:
        if server.token and not given:
            say(f"token: {server.token} (set {TOKEN_VARIABLE} to it where the trainer runs)")
        print(f"reward model {parsed.model} on {model.device} ready at {server.url}", flush=True)

    serve_until_told(server, ready)
    return 0


# ---- parts of the above


def _run(config: Config, stages: tuple[str, ...], *, check: bool = False, anyway: bool = False) -> int:
    from gruppo.launch.pipeline import run

    result = run(config, stages=stages, check=check, anyway=anyway)
    if not result.finished:
        return 130
    if result.before is not None and result.after is not None and result.difference is not None:
        print(f"pass@1 before  {result.before.pass_at_1}")
        print(f"pass@1 after   {result.after.pass_at_1}")
        print(f"difference     {result.difference['pass_at_1']} (paired)")
    elif result.after is not None:
        print(f"pass@1         {result.after.pass_at_1}")
    print(f"model          {result.model}")
    print(f"report         {result.folder / 'report.html'}")
    return 0


def _of_stage(
    path: Path | None, given: dict[str, Any], stage: str, section: type[SFTConfig] | type[EvalConfig]
) -> dict[str, Any]:
    """Overrides for a command that runs one stage: its own options flat, the top level's beside them."""
    notes: list[str] = []
    values = resolve_aliases(read_file(path), notes) if path is not None else {}
    _tell(notes)
    if path is not None and not isinstance(values.get(stage), dict):
        raise ConfigError(f"{path}: there is no `{stage}:` section for gruppo {stage} to run")
    own = dict(values.get(stage, {}))
    for name, value in given.items():
        (own if name in section.model_fields else values)[name] = value
    if stage == "eval" and own.get("max_completion_length") is not None:
        values["max_completion_length"] = own["max_completion_length"]
    # The GRPO stage isn't run, but the schema wants its data to be named.
    values.setdefault("data", own.get("data", "unused"))
    return {**values, stage: own}


def _path(given: str | None) -> Path | None:
    return None if given is None else Path(given)


def _tell(notes: list[str]) -> None:
    for note in notes:
        say(f"note: {note}")


def _show_step(text: str) -> None:
    """What a command is at, for a person who waits."""
    say(f"{text} ...")


def _save(path: Path, data: dict[str, Any], flag: str = "--save") -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, indent=1))
    except OSError as error:
        raise ConfigError(f"{flag}: {path} can't be written: {error.strerror}") from error


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _explained(option: Option, value: Any) -> str:
    also = f" Also: {', '.join(option.aliases)}." if option.aliases else ""
    head = option.name if value is None else f"{option.name}: {value}"
    return f"{head}\n    {option.text}{also}"


def _explain_file(parsed: Namespace, known: dict[str, Option]) -> None:
    from gruppo.config.explain import Hardware, as_json, as_text, explain

    given = read_given(Path(parsed.config), overrides(parsed, known.values()))
    _tell(given.notes)
    hardware = Hardware(_amount(parsed, "gpu_memory", float), _amount(parsed, "gpus", int), parsed.model_size)
    told = explain(given, hardware)
    print(json.dumps(as_json(told)) if parsed.json else as_text(told))


def _amount(parsed: Namespace, name: str, kind: type[float] | type[int], what: str = "a number of GB") -> Any:
    """A number given as a flag; None: it wasn't."""
    text = getattr(parsed, name)
    if text is None:
        return None
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else what
        raise ConfigError(f"--{name.replace('_', '-')}: got {text!r}, wanted {wanted}") from None


def _above_zero(parsed: Namespace, name: str, kind: type[float] | type[int]) -> Any:
    value = _amount(parsed, name, kind, "a number of tokens")
    if value is not None and not 0 < value < float("inf"):
        raise ConfigError(f"--{name.replace('_', '-')}: got {value:g}, wanted a number above 0")
    return value
