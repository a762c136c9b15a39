"""Rows of a hub data set: `owner/name`, `owner/name:config` or `owner/name:config/split`.

What the name leaves open is chosen by rule and told in a note: the config `main`, `default` or the only one;
the split `train` for training and `test`, else `validation`, for evaluation. `gruppo.data.known` goes before the rule,
and says under which name a data set stands on the hub now.
"""

import re
from typing import TYPE_CHECKING

from gruppo.data.known import KnownData, is_known_source, look_up, renamed_note
from gruppo.data.readers import Purpose, Row, Table
from gruppo.errors import DataError, nearest

if TYPE_CHECKING:
    from types import ModuleType

_CHOICE = r"(:(?P<config>[\w.-]+)(/(?P<split>[\w.-]+))?)?"
HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)" + _CHOICE)
_BARE_NAME = re.compile(r"(?P<name>[\w.-]+)" + _CHOICE)
_SPLITS: dict[Purpose, tuple[str, ...]] = {"train": ("train",), "test": ("test", "validation", "train")}


def read_hub(source: str, purpose: Purpose = "train") -> Table:
    """All rows of a hub data set.

    Raises DataError where `datasets` is missing, the name is unknown, the network is away, a choice is open, or the
    data set is a loading script.
    """
    match = HUB_NAME.fullmatch(source) or (_BARE_NAME.fullmatch(source) if is_known_source(source) else None)
    if match is None:
        raise DataError(f"data: '{source}' is no hub name (owner/name, owner/name:config/split).")
    known = look_up(match["name"]) or KnownData(match["name"], "")
    name = known.name
    if known.script_copy is not None:
        raise _script_refused(source, name, known.script_copy)
    datasets = _import_datasets(source)
    try:
        configs = list(datasets.get_dataset_config_names(name))
        usual = known.config if known.config in configs else None
        config = _choose_config(source, match["config"] or usual, configs)
        splits = [str(split) for split in datasets.get_dataset_split_names(name, config)]
        chosen = known.splits.get(purpose)
        split, notes = _choose_split(source, match["split"] or (chosen if chosen in splits else None), splits, purpose)
        data = datasets.load_dataset(name, config, split=split)
        label = f"{name}:{config}/{split}"
        rows = tuple(Row(f"{label}:{number}", dict(row)) for number, row in enumerate(data, start=1))
    except DataError:
        raise
    except Exception as error:  # the network, the hub and the loader each raise classes of their own
        if "scripts are no longer supported" in str(error):
            raise _script_refused(source, name) from error
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(
            f"data: the hub data set '{source}' can't be loaded: {first}. "
            "Check the name and the network, or give a local file."
        ) from error
    told = [note for note in (renamed_note(match["name"], known), known.note and f"{name}: {known.note}") if note]
    return Table(source, rows, (*told, f"{source}: config {config}, split {split}", *notes))


def _script_refused(source: str, name: str, copy: str | None = None) -> DataError:
    """The refusal of a data set that is a program, with what to do instead."""
    instead = f"Take the same data in Parquet, '{copy}', or" if copy else "Take a copy in Parquet, or"
    return DataError(
        f"data: '{source}' is a loading script, a program that `datasets` runs no more since its version 4. {instead} "
        f"download the data's own files from https://huggingface.co/datasets/{name}/tree/main and give one (.jsonl, "
        ".json, .csv, .parquet)."
    )


def _import_datasets(source: str) -> "ModuleType":
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"data: '{source}' is a hub name, and the package `datasets` is missing: "
            "pip install gruppo[hub]. If a file was meant, it does not exist."
        ) from error
    return datasets


def _choose_config(source: str, wanted: str | None, configs: list[str]) -> str:
    if wanted is not None:
        if wanted not in configs:
            raise DataError(f"data: '{source}' has no config '{wanted}', only {configs}.{nearest(wanted, configs)}")
        return wanted
    for usual in ("main", "default"):
        if usual in configs:
            return usual
    if len(configs) == 1:
        return configs[0]
    raise DataError(f"data: '{source}' has several configs: {configs}; say which, such as '{source}:{configs[0]}'.")


def _choose_split(source: str, wanted: str | None, splits: list[str], purpose: Purpose) -> tuple[str, tuple[str, ...]]:
    if wanted is not None:
        if wanted not in splits:
            raise DataError(f"data: '{source}' has no split '{wanted}', only {splits}.{nearest(wanted, splits)}")
        return wanted, ()
    for split in _SPLITS[purpose]:
        if split in splits:
            same = purpose == "test" and split == "train"
            note = f"{source} has no test or validation split: evaluating on train, which training may have seen"
            return split, (note,) if same else ()
    raise DataError(
        f"data: '{source}' has no split {' or '.join(_SPLITS[purpose])}, only {splits}; "
        f"say which, as in owner/name:config/{splits[0] if splits else 'split'}."
    )
