"""`gruppo`: the commands and their help. What a command does is imported when it is called, so that help is quick."""

import sys
from collections.abc import Sequence

from gruppo.cli.flags import Parser, add_options, say, spell
from gruppo.config.reference import Option, options
from gruppo.config.schema import EvalConfig, SFTConfig
from gruppo.errors import CannotLearnError, ConfigError, GruppoError, nearest
from gruppo.version import __version__

NOT_FINE = 1
USER_ERROR = 2
CANNOT_LEARN = 3
INTERRUPTED = 130

MODEL_FIELDS = (
    "model",
    "output_dir",
    "seed",
    "prompt_template",
    "system_prompt",
    "precision",
    "device",
    "threads",
    "lora_rank",
    "lora_alpha",
    "lora_targets",
    "micro_batch_tokens",
    "checkpoint_every",
    "report_to",
)
"""What `gruppo sft` takes beside the options of its stage."""

SCORING_FIELDS = (
    "model",
    "seed",
    "prompt_template",
    "system_prompt",
    "rewards",
    "success",
    "precision",
    "device",
    "threads",
    "max_prompt_length",
    "long_prompts",
    "stop",
    "plain",
    "batch_invariant",
    "max_live_completions",
)
"""What `gruppo eval` takes beside the options of its stage."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 a check found something to mend, 2 wrong input (one message), 3 a
    check says that the run cannot learn, 130 interrupted."""
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except GruppoError as error:
        say(f"error: {error}")
        return CANNOT_LEARN if isinstance(error, CannotLearnError) else USER_ERROR
    except KeyboardInterrupt:
        say("interrupted; what was saved is kept, and the same command goes on from there")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def _run(arguments: Sequence[str]) -> int:
    spelled, notes = spell(arguments)
    parser = build_parser()
    command = spelled[0] if spelled and not spelled[0].startswith("-") else None
    if command not in COMMANDS:
        if command is not None:
            known = list(COMMANDS)
            raise ConfigError(f"there is no command '{command}', only {', '.join(known)}.{nearest(command, known)}")
        parser.parse_strictly(spelled)
        parser.print_help()
        return 0
    parsed = COMMANDS[command][1]().parse_strictly(spelled[1:])
    for note in notes:
        say(f"note: {note}")
    from gruppo.cli import commands

    return getattr(commands, command.replace("-", "_"))(parsed)


def build_parser() -> Parser:
    """The parser of the command's name."""
    width = max(map(len, COMMANDS)) + 2
    listing = "\n".join(f"  {name:<{width}}{text}" for name, (text, _) in COMMANDS.items())
    from argparse import RawDescriptionHelpFormatter

    parser = Parser(
        prog="gruppo",
        description=f"GRPO post-training for language models with verifiable rewards.\n\ncommands:\n{listing}",
        epilog="gruppo COMMAND --help says more. Start with: gruppo demo",
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=list(COMMANDS), nargs="?", metavar="COMMAND", help="one of the above")
    parser.add_argument("--version", action="version", version=f"gruppo {__version__}")
    return parser


def stage_options(stage: type[SFTConfig] | type[EvalConfig], shared: tuple[str, ...]) -> list[Option]:
    """A stage's own options flat, and some of the top level's."""
    own = list(options(stage))
    taken = {option.name for option in own}
    return [*own, *(option for option in options() if option.name in shared and option.name not in taken)]


def demo_parser() -> Parser:
    """`gruppo demo`."""
    parser = Parser(
        prog="gruppo demo",
        description="Build a small model, teach it some arithmetic by SFT, then watch GRPO make it better. "
        "No network, no download, a few minutes on a laptop's CPU.",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="INT", help="seed of everything random [default 0]")
    parser.add_argument("--output-dir", metavar="DIR", help="where the run goes, also --out [default runs/demo-seedN]")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end instead of a table")
    return parser


def train_parser() -> Parser:
    """`gruppo train`."""
    parser = Parser(
        prog="gruppo train",
        usage='gruppo train [CONFIG.yaml | "SENTENCE" [--yes]] [--flag value ...]',
        description="Run the stages of a config (SFT, GRPO, evaluation). The same command on the same folder goes on "
        "where it stopped. A flag overrides the file, or the sentence in plain English, whose plan is shown first. "
        "Before its first step a run is checked (gruppo check), and ends with exit code 3 where it cannot learn.",
    )
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG.yaml", help="the config, or a sentence in quotes; flags alone do as well"
    )
    parser.add_argument(
        "--yes", action="store_true", help="start a sentence's plan unasked, where nothing in it is assumed or open"
    )
    parser.stray = "A sentence stands in quotes. "
    parser.add_argument("--no-check", action="store_true", help="start without the check")
    parser.add_argument("--anyway", action="store_true", help="go on whatever the check says")
    every = list(options())
    add_options(parser, [option for option in every if "." not in option.name], "GRPO")
    for stage, title in (("sft.", "the SFT stage (needs --sft.data)"), ("eval.", "evaluation (needs --eval.data)")):
        add_options(parser, [option for option in every if option.name.startswith(stage)], title)
    return parser


def check_parser() -> Parser:
    """`gruppo check`."""
    parser = Parser(
        prog="gruppo check",
        usage="gruppo check [CONFIG.yaml] [--fix [FILE]] [--json FILE] [--seconds N] [--problems N] [--flag value ...]",
        description="Can this run learn? Loads what it will load, samples from the starting model, tries rewards, "
        "engine and an update, and says: ready (exit code 0), will learn slowly (1) or cannot learn (3), each reason "
        "with its cure. Nothing is changed.",
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="the config; flags alone do as well")
    parser.add_argument(
        "--fix",
        nargs="?",
        const="",
        metavar="FILE",
        help="write a config with the cures in it (CONFIG.fixed.yaml), and check that",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="also write what was found to a file, which gruppo plan --measured reads; -: print it as one JSON object "
        "instead",
    )
    parser.add_argument("--seconds", type=float, default=120.0, metavar="N", help="time budget [default 120]")
    parser.add_argument(
        "--problems", type=int, default=64, metavar="N", help="problems to sample from, at most 64 [default 64]"
    )
    add_options(parser, options(), "over the file's, as for gruppo train")
    return parser


def init_parser() -> Parser:
    """`gruppo init`."""
    parser = Parser(
        prog="gruppo init",
        usage="gruppo init [--task TASK] [--model MODEL] [--data DATA ...] [--hardware NAME] [--out FILE.yaml]",
        description="Write a short commented config, and its schema for editors beside it. What no flag says is asked.",
    )
    parser.add_argument("--task", metavar="TASK", help="math, code, qa, ... (the presets of docs/presets.md), or other")
    parser.add_argument("--model", metavar="MODEL", help="a model folder or a hub name")
    parser.add_argument("--data", nargs="+", metavar="DATA", help="problems: files, folders or hub names")
    parser.add_argument("--hardware", metavar="NAME", help="cpu, mps, gpu, a GPU such as t4 or a100-40, or 24GB")
    parser.add_argument("--output-dir", metavar="FILE", help="the file to write, also --out [default run.yaml]")
    parser.add_argument("--overwrite", action="store_true", help="write over a file that is there")
    return parser


def sft_parser() -> Parser:
    """`gruppo sft`."""
    parser = Parser(
        prog="gruppo sft",
        usage="gruppo sft [CONFIG.yaml] [--flag value ...]",
        description="Supervised fine-tuning on demonstrations: the SFT stage by itself. Its options are flat here.",
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="a config with an sft: section")
    add_options(parser, stage_options(SFTConfig, MODEL_FIELDS), "SFT")
    return parser


def eval_parser() -> Parser:
    """`gruppo eval`."""
    parser = Parser(
        prog="gruppo eval",
        usage="gruppo eval [CONFIG.yaml] [--flag value ...]",
        description="Evaluate a model on problems: pass@1 sampled and greedy, pass@k, with 95 % intervals.",
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="a config with an eval: section")
    add_options(parser, stage_options(EvalConfig, SCORING_FIELDS), "evaluation")
    parser.add_argument("--save", metavar="FILE.json", help="also write the result, problem by problem, to a file")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


def show_parser() -> Parser:
    """`gruppo show`."""
    parser = Parser(
        prog="gruppo show", description="What a run has come to: state, metrics, findings, where things lie."
    )
    parser.add_argument("run", metavar="RUN", help="a run folder")
    return parser


def config_parser() -> Parser:
    """`gruppo config`."""
    parser = Parser(
        prog="gruppo config",
        usage="gruppo config schema|explain [CONFIG.yaml|OPTION] [--json] [--gpus N] [--flag value ...]",
        description="schema: every option as JSON Schema. explain: each option of a config with its value, where it "
        "came from (file, flag, preset, default), why, and what is recommended.",
    )
    parser.add_argument("what", choices=["schema", "explain"], metavar="schema|explain", help="what to print")
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml|OPTION", help="explain: a file, or one option")
    parser.add_argument("--json", action="store_true", help="explain a file: print one JSON object instead of a table")
    group = parser.add_argument_group("what it is to run on; says what to change, changes nothing")
    group.add_argument("--gpu-memory", metavar="GB", help="memory of one GPU")
    group.add_argument("--gpus", metavar="N", help="how many GPUs")
    group.add_argument("--model-size", metavar="7B", help="parameters of the model [default from the model's folder]")
    add_options(parser, options(), "over the file's, as for gruppo train")
    return parser


def plan_parser() -> Parser:
    """`gruppo plan`."""
    parser = Parser(
        prog="gruppo plan",
        usage="gruppo plan [CONFIG.yaml] [--gpu NAME] [--measured FILE] [--fit LIMITS] [--json] [--flag value ...]",
        description="What a run will take, before it is started: memory by part, time by part and against plain SFT, "
        "money. Nothing is loaded; docs/planning.md says how it is computed and how near it comes.",
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="the config; flags alone do as well")
    group = parser.add_argument_group("what it is to run on, and what is known of it")
    group.add_argument(
        "--gpu",
        metavar="NAME",
        help="t4, l4, a10g, l40s, a100-40, a100-80, h100, h200 and others, a flavour (t4-medium, a10g-small, "
        "a10g-large, a100-large), with a count: 4xa100-80 [default this machine's]",
    )
    group.add_argument("--gpus", metavar="N", help="how many of them [default 1, or as the flavour has]")
    group.add_argument("--model-size", metavar="7B", help="parameters, where the model is not on this machine")
    group.add_argument("--prompt-tokens", metavar="N", help="mean tokens of a prompt [default 256]")
    group.add_argument(
        "--completion-tokens", metavar="N", help="mean tokens of a completion [default half of the longest]"
    )
    group.add_argument(
        "--measured", metavar="FILE", help="the figures of a trial, as the check before a run writes them"
    )
    group.add_argument(
        "--prices", metavar="FILE", help="dollars an hour of your own, YAML: `a100-80: 1.79`, `date: ...`"
    )
    parser.add_argument(
        "--fit",
        metavar="LIMITS",
        help="memory=24GB,hours=4,cost=20 or some of them: look for settings that keep to them",
    )
    parser.add_argument("--by-size", action="store_true", help="print the table by model size of docs/planning.md")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    add_options(parser, options(), "over the file's, as for gruppo train")
    return parser


def reward_parser() -> Parser:
    """`gruppo reward`."""
    parser = Parser(
        prog="gruppo reward",
        usage="gruppo reward test [CONFIG.yaml] [--problems N] [--examples FILE] [--json FILE] [--flag value ...]",
        description="test: try a config's rewards without a model, on the data's own gold answers (which must pass) "
        "and on completions that must not: empty, cut off, nearly right, all answers at once and so on. Exits with 1 "
        "where something has to be mended.",
    )
    parser.add_argument("what", choices=["test"], metavar="test", help="what to do")
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="the config; flags alone do as well")
    parser.add_argument(
        "--problems", type=int, default=64, metavar="INT", help="problems to try, evenly over the data [default 64]"
    )
    parser.add_argument(
        "--examples",
        metavar="FILE",
        help="completions of your own: rows with `completion`, and if you like `id` or `problem` (of which problem), "
        "`expect` (true, false: does it pass? or its reward)",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="also write what was found to a file; -: print it as one JSON object instead"
    )
    add_options(parser, options(), "over the file's, as for gruppo train")
    return parser


def serve_reward_parser() -> Parser:
    """`gruppo serve-reward`."""
    parser = Parser(
        prog="gruppo serve-reward",
        description="Serve a reward model over HTTP to trainers on other nodes, until Ctrl-C or SIGTERM. They name it "
        "as {name: model, url: http://host:port}. Beyond this machine a token is wanted, which trainers take from the "
        "environment variable GRUPPO_REWARD_TOKEN.",
    )
    parser.add_argument("model", metavar="MODEL", help="a sequence-classification model of one label: folder, hub name")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on [default 127.0.0.1]")
    parser.add_argument("--port", type=int, default=0, metavar="INT", help="the port [default 0: a free one]")
    parser.add_argument(
        "--token",
        help="what requests must bear [default: that of GRUPPO_REWARD_TOKEN; else none on loopback, a new one beyond]",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps [default auto]")
    parser.add_argument(
        "--precision", default="auto", help="auto (the model's own), float32 or bfloat16 [default auto]"
    )
    parser.add_argument("--offload", action="store_true", help="keep the weights in CPU memory between scorings")
    parser.add_argument(
        "--max-length", type=int, metavar="INT", help="tokens of prompt and completion [default what the model takes]"
    )
    parser.add_argument(
        "--token-budget", type=int, default=8192, metavar="INT", help="tokens of a micro-batch [default 8192]"
    )
    return parser


COMMANDS = {
    "demo": ("watch a small model learn arithmetic, in minutes, without a download", demo_parser),
    "check": ("can this run learn? before it is started, with the cure where it can't", check_parser),
    "train": ("run a config: SFT, GRPO, evaluation, report", train_parser),
    "init": ("write a first config: task, model, data, hardware", init_parser),
    "sft": ("supervised fine-tuning on demonstrations", sft_parser),
    "eval": ("pass@1 and pass@k of a model on held-out problems", eval_parser),
    "show": ("what a run has come to", show_parser),
    "config": ("the options: schema, or a file explained", config_parser),
    "plan": ("what a run will take: memory, time, money; settings that fit", plan_parser),
    "reward": ("test the rewards of a config before a run, without a model", reward_parser),
    "serve-reward": ("a reward model over HTTP, for trainers on other nodes", serve_reward_parser),
}
