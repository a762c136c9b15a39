"""Rows of a hub data set: `owner/name`, `owner/name:config` or `owner/name:config/split`.

What the name leaves open is chosen by rule and told in a note: the config `main`, `default` or the only one;
the split `train` for training and `test`, else `validation`, for evaluation.
"""

import re
from typing import TYPE_CHECKING

from gruppo.data.readers import Purpose, Row, Table
from gruppo.errors import DataError, nearest

if TYPE_CHECKING:
    from types import ModuleType

HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+)(/(?P<split>[\w.-]+))?)?")
_SPLITS: dict[Purpose, tuple[str, ...]] = {"train": ("train",), "test": ("test", "validation", "train")}


def read_hub(source: str, purpose: Purpose = "train") -> Table:
    """All rows of a hub data set.

    Raises DataError where `datasets` is missing, the name is unknown, the network is away, a choice is open.
    """
    match = HUB_NAME.fullmatch(source)
    if match is None:
        raise DataError(f"data: '{source}' is no hub name (owner/name, owner/name:config/split).")
    datasets = _import_datasets(source)
    name = match["name"]
    try:
        config = _choose_config(source, match["config"], list(datasets.get_dataset_config_names(name)))
        splits = [str(split) for split in datasets.get_dataset_split_names(name, config)]
        split, notes = _choose_split(source, match["split"], splits, purpose)
        data = datasets.load_dataset(name, config, split=split)
        label = f"{name}:{config}/{split}"
        rows = tuple(Row(f"{label}:{number}", dict(row)) for number, row in enumerate(data, start=1))
    except DataError:
        raise
    except Exception as error:  # the network, the hub and the loader each raise classes of their own
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(
            f"data: the hub data set '{source}' can't be loaded: {first}. "
            "Check the name and the network, or give a local file."
        ) from error
    return Table(source, rows, (f"{source}: config {config}, split {split}", *notes))


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
