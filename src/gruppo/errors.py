"""Errors that a user can mend. Each carries one message: what and where, what was got, what was wanted, the cure.

GruppoError
├── ConfigError      a field of the config: a typo, a value out of range, a combination that can't work
├── DataError        a data file, a row, a column
├── ModelError       a model folder or hub name, its tokenizer, its chat template
├── RewardError      a reward function: not found, or it returned what is no reward
├── SandboxError     no isolation to be had for programs written by a model, or its processes don't live
├── RunFolderError   the output folder: in use, read-only, or another config's
├── EngineError      the engine that samples
├── CannotLearnError the check before a run says that it cannot learn
└── TrainingError    the numbers of a run went wrong: not finite, nothing to learn from

The command line prints the message alone and exits with 2 (CannotLearnError: with 3). Anything that is not a
GruppoError is a bug of ours and keeps its traceback.
"""


class GruppoError(Exception):
    """The root: something that the user can mend."""


class ConfigError(GruppoError):
    """One or more fields of the config are wrong; the message lists them all."""


class DataError(GruppoError):
    """A data file can't be used as it is."""


class ModelError(GruppoError):
    """A model can't be loaded or used as it is."""


class RewardError(GruppoError):
    """A reward function can't be found, or broke its contract."""


class SandboxError(GruppoError):
    """Programs written by a model can't be run in isolation here."""


class RunFolderError(GruppoError):
    """The output folder can't be written, or belongs to another run."""


class EngineError(GruppoError):
    """The engine can't sample."""


class CannotLearnError(GruppoError):
    """The check before a run says that it cannot learn as it is."""


class TrainingError(GruppoError):
    """The run can't go on with these numbers."""


def nearest(name: str, known: list[str]) -> str:
    """` Did you mean 'x'?` for the known name closest to a mistyped one, or nothing."""
    import difflib

    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean '{matches[0]}'?" if matches else ""
