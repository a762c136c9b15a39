"""Rows from files and hub names, each with the place it came from.

A thin reader of our own for local files: what a file holds as text stays text (a CSV's "007" stays "007").

1. Line numbers are those of the file for JSONL and CSV; JSON lists and Parquet count rows from 1.
2. A folder is read file by file in the order of their names, without its subfolders; each file is a table.
3. A hub name is `owner/name`, `owner/name:config` or `owner/name:config/split`, or a name that `gruppo.data.known`
   knows without an owner; only these import `datasets`.
4. `reasoning-gym:task` is rows that the package makes (`gruppo.data.tasks`).
"""

import csv
import difflib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gruppo.errors import DataError

Purpose = Literal["train", "test"]
"""What the rows are for; decides the split of a hub name that names none."""

TASK_PREFIX = "reasoning-gym:"
"""What names of generated tasks begin with."""

_FILE_LIKE = re.compile(r"\.(txt|tsv|gz|zip|zst|xml|ya?ml|xlsx?|arrow|pkl|npz?|md|py)$", re.IGNORECASE)
_MAX_CSV_FIELD = 1 << 26


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set."""

    source: str
    """Where it stands, such as `train.jsonl:17`."""
    columns: Mapping[str, Any]
    """Its cells by column name, as the file has them."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file or hub data set."""

    name: str
    """The file, or the hub name as the config has it."""
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """What was chosen on the reader's behalf."""

    @property
    def column_names(self) -> list[str]:
        """Every column of any row, in order of first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.columns))


def read_tables(source: str, purpose: Purpose = "train") -> list[Table]:
    """All rows of a file, a folder of files (one table each), a hub name, or a task that is generated.

    Raises DataError for a source that is missing, empty or broken; the message names the file and line.
    """
    if source.startswith(TASK_PREFIX):
        from gruppo.data.tasks import read_task

        return [read_task(source, purpose)]
    if not _is_path(source):
        from gruppo.data.hub import read_hub

        return [_not_empty(read_hub(source, purpose))]
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_folder(source, path)
    return [_not_empty(Table(source, tuple(_read_file(path, path.name))))]


def _not_empty(table: Table) -> Table:
    if not table.rows:
        raise DataError(f"data: '{table.name}' has no rows; give a source with at least one.")
    return table


def _is_path(source: str) -> bool:
    from gruppo.data.hub import HUB_NAME
    from gruppo.data.known import is_known_source

    path = Path(source).expanduser()
    if path.exists() or source.startswith((".", "/", "~")):
        return True
    if path.suffix.lower() in _READERS or _FILE_LIKE.search(source):
        return True
    if is_known_source(source) and not _in_folder(source):
        return False
    if not HUB_NAME.fullmatch(source):
        raise DataError(
            f"data: '{source}' is neither a file or folder that exists nor a hub name "
            f"(owner/name, owner/name:config or owner/name:config/split).{_near_file(path)}"
        )
    return _in_folder(source)


def _in_folder(source: str) -> bool:
    """Whether what stands before the first slash is a folder here."""
    return Path(source).parts[0] != source and Path(Path(source).parts[0]).is_dir()


def _near_file(path: Path) -> str:
    """` Did you mean 'x'?` for a file beside a missing one."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    matches = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f" Did you mean '{path.parent / matches[0]}'?" if matches else ""


def _read_folder(source: str, folder: Path) -> list[Table]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _READERS and path.is_file())
    files = [path for path in files if not path.name.startswith(".")]
    if not files:
        raise DataError(f"data: the folder '{source}' has none of {_known_suffixes()} in it.")
    names = ", ".join(path.name for path in files[:5]) + (", ..." if len(files) > 5 else "")
    notes = (f"{source}: {len(files)} files read: {names}",)
    label = folder.resolve().name
    tables = [Table(str(path), tuple(_read_file(path, f"{label}/{path.name}"))) for path in files]
    return [_not_empty(replace(tables[0], notes=notes)), *map(_not_empty, tables[1:])]


def _read_file(path: Path, label: str) -> list[Row]:
    if not path.exists():
        raise DataError(f"data: no file or folder '{path}'.{_near_file(path)}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"data: '{path}' has the suffix '{path.suffix}', wanted one of {_known_suffixes()}.")
    try:
        return list(reader(path, label))
    except OSError as error:
        raise DataError(f"data: '{path}' can't be read: {error.strerror or error}.") from error


def _known_suffixes() -> str:
    return ", ".join(_READERS)


def _text(path: Path, label: str) -> str:
    """The file as text; UTF-8 with or without a byte order mark."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{label}:{line}: not UTF-8 (byte 0x{content[error.start]:02x}); save the file as UTF-8."
        ) from error


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise DataError(f"{where}: broken JSON, {error.msg} at {line}column {error.colno}: {_clip(text)}") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{where}: JSON that can't be read: {error}.") from error


def _clip(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 80 else text[:77] + "..."


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{where}: wanted an object with columns, got {type(value).__name__}: {_clip(repr(value))}")
    return Row(where, value)


def _read_jsonl(path: Path, label: str) -> Iterator[Row]:
    return _jsonl_rows(_text(path, label), label)


def _jsonl_rows(text: str, label: str) -> Iterator[Row]:
    # Not splitlines: a JSON string may hold U+2028 or U+0085 as it is, and they end no line here.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{label}:{number}"
            yield _row(_parse_json(line, where), where)


def _read_json(path: Path, label: str) -> Iterator[Row]:
    text = _text(path, label)
    if _is_jsonl(text):
        return _jsonl_rows(text, label)
    value = _parse_json(text, label) if text.strip() else []
    if isinstance(value, dict):
        value = value["data"] if isinstance(value.get("data"), list) else _from_columns(value, label)
    if not isinstance(value, list):
        raise DataError(f"{label}: wanted a list of rows, got {type(value).__name__}.")
    return (_row(item, f"{label}:{number}") for number, item in enumerate(value, start=1))


def _is_jsonl(text: str) -> bool:
    """Whether a .json file is JSON lines in truth: its first line is a whole object, and more follow."""
    first, _, rest = text.lstrip().partition("\n")
    if not first.startswith("{") or not rest.strip():
        return False
    try:
        json.loads(first)
    except ValueError:
        return False
    return True


def _from_columns(table: dict[str, Any], label: str) -> list[dict[str, Any]]:
    """Rows of a JSON object that holds one list per column."""
    lengths = {name: len(cells) for name, cells in table.items() if isinstance(cells, list)}
    if len(lengths) < len(table) or not lengths:
        raise DataError(
            f"{label}: wanted a list of rows, an object with a list under 'data', or one list per column; "
            f"got an object with {sorted(table)[:8]}."
        )
    if len(set(lengths.values())) > 1:
        raise DataError(f"{label}: the columns differ in length: {lengths}.")
    return [dict(zip(table, cells)) for cells in zip(*table.values())]


def _read_csv(path: Path, label: str) -> Iterator[Row]:
    return _separated_rows(_text(path, label), label)


def _separated_rows(text: str, label: str) -> Iterator[Row]:
    csv.field_size_limit(_MAX_CSV_FIELD)
    # Not splitlines: U+2028 and the like end no line of a CSV file.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            where, line = f"{label}:{line}", reader.line_num + 1
            if not cells:
                continue
            if not header:
                header = _header(cells, label)
            elif len(cells) != len(header):
                raise DataError(f"{where}: {len(cells)} cells, but the header has {len(header)} columns.")
            else:
                yield Row(where, dict(zip(header, cells)))
    except csv.Error as error:
        raise DataError(f"{label}:{line}: broken CSV, {error}.") from error


def _header(cells: list[str], label: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{label}:1: columns named twice: {twice}; give each its own name.")
    return names


def _read_parquet(path: Path, label: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{label}: not a readable Parquet file: {str(error).splitlines()[0]}") from error
    return (Row(f"{label}:{number}", row) for number, row in enumerate(rows, start=1))


_READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}
