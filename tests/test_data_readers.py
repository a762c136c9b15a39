"""Files and hub names to rows; each error names its place and its cure."""

import sys
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gruppo.data.readers import read_tables
from gruppo.errors import DataError


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def refused(source: str) -> str:
    with pytest.raises(DataError) as caught:
        read_tables(source)
    return str(caught.value)


def test_jsonl_rows_know_their_lines(tmp_path: Path) -> None:
    source = write(tmp_path, "a.jsonl", '\ufeff{"question": "1+1", "answer": "2"}\n\n{"question": "a\u2028b"}\n')
    (table,) = read_tables(source)
    assert [row.source for row in table.rows] == ["a.jsonl:1", "a.jsonl:3"]
    assert table.rows[1].columns == {"question": "a\u2028b"}
    assert table.column_names == ["question", "answer"]


@pytest.mark.parametrize(
    "content",
    [
        '[{"q": "x", "a": 1}, {"q": "y", "a": 2}]',
        '{"data": [{"q": "x", "a": 1}, {"q": "y", "a": 2}]}',
        '{"q": ["x", "y"], "a": [1, 2]}',
        '{"q": "x", "a": 1}\n{"q": "y", "a": 2}\n',
    ],
)
def test_json_comes_as_rows_under_data_as_columns_or_as_lines(tmp_path: Path, content: str) -> None:
    (table,) = read_tables(write(tmp_path, "a.json", content))
    assert [dict(row.columns) for row in table.rows] == [{"q": "x", "a": 1}, {"q": "y", "a": 2}]
    assert table.rows[1].source == "a.json:2"


def test_csv_stays_text_and_counts_lines_through_quoted_line_ends(tmp_path: Path) -> None:
    source = write(tmp_path, "a.csv", 'question,answer\n"two\nlines",007\nla\u2028st,1.50\n')
    (table,) = read_tables(source)
    assert [row.columns["answer"] for row in table.rows] == ["007", "1.50"]
    assert [row.source for row in table.rows] == ["a.csv:2", "a.csv:4"]
    assert table.rows[0].columns["question"] == "two\nlines"


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["x", "y"], "answer": [["a", "b"], None]}), tmp_path / "a.parquet")
    (table,) = read_tables(str(tmp_path / "a.parquet"))
    assert table.rows[0].columns == {"question": "x", "answer": ["a", "b"]}
    assert table.rows[1].source == "a.parquet:2"


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    write(folder, "b.csv", "q\n2\n")
    write(folder, "a.jsonl", '{"q": "1"}')
    write(folder, "notes.txt", "not data")
    tables = read_tables(str(folder))
    assert [row.source for table in tables for row in table.rows] == ["d/a.jsonl:1", "d/b.csv:2"]
    assert tables[0].notes == (f"{folder}: 2 files read: a.jsonl, b.csv",)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("f.jsonl", '{"q": 1}\n{"q": 2,,}\n', "f.jsonl:2: broken JSON, Expecting property name"),
        ("f.jsonl", '{"q": 1}\n[1, 2]\n', "f.jsonl:2: wanted an object with columns, got list: [1, 2]"),
        ("f.jsonl", b'{"q": 1}\n{"q": "\xff"}\n', "f.jsonl:2: not UTF-8 (byte 0xff); save the file as UTF-8."),
        ("f.jsonl", "\n\n", "has no rows; give a source with at least one."),
        ("f.json", "", "has no rows; give a source with at least one."),
        ("f.json", '[{"q": 1}, 7]', "f.json:2: wanted an object with columns, got int: 7"),
        ("f.json", '{"q": [1, 2], "a": [1]}', "f.json: the columns differ in length: {'q': 2, 'a': 1}."),
        ("f.json", '{"q": "x"}', "one list per column; got an object with ['q']."),
        ("f.json", '[\n{"q": 1},\n{"q" 2}]', "broken JSON, Expecting ':' delimiter at line 3, column 6"),
        ("f.csv", "q,a\n1,2\n3\n", "f.csv:3: 1 cells, but the header has 2 columns."),
        ("f.csv", "q,q\n1,2\n", "f.csv:1: columns named twice: ['q']"),
        ("f.csv", "q,a\n", "has no rows; give a source with at least one."),
        ("f.parquet", "not parquet", "f.parquet: not a readable Parquet file: "),
        ("f.txt", "x", "has the suffix '.txt', wanted one of .jsonl, .json, .parquet, .csv."),
    ],
)
def test_broken_files_name_the_place(tmp_path: Path, name: str, content: str | bytes, expected: str) -> None:
    assert expected in refused(write(tmp_path, name, content))


def test_missing_files_name_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "train.jsonl", "{}")
    monkeypatch.chdir(tmp_path)
    assert refused("trian.jsonl") == "data: no file or folder 'trian.jsonl'. Did you mean 'train.jsonl'?"
    assert refused("train") == (
        "data: 'train' is neither a file or folder that exists nor a hub name (owner/name, owner/name:config or "
        "owner/name:config/split). Did you mean 'train.jsonl'?"
    )
    (tmp_path / "data").mkdir()
    assert "no file or folder 'data/gsm'" in refused("data/gsm")
    assert "the folder 'data' has none of .jsonl, .json, .parquet, .csv in it" in refused("data")


class FakeHub(ModuleType):
    """Stands in for `datasets`, which takes seconds to import and a network to use."""

    def __init__(self, configs: list[str], splits: list[str]) -> None:
        super().__init__("datasets")
        self.configs, self.splits = configs, splits

    def get_dataset_config_names(self, name: str) -> list[str]:
        if name == "nobody/nothing":
            raise ConnectionError("Couldn't reach the hub\nsecond line")
        return self.configs

    def get_dataset_split_names(self, name: str, config: str) -> list[str]:
        return self.splits

    def load_dataset(self, name: str, config: str, split: str) -> list[dict[str, str]]:
        return [{"question": f"{config}/{split}"}]


@pytest.mark.parametrize(
    ("source", "purpose", "configs", "splits", "expected"),
    [
        ("openai/gsm8k", "train", ["main", "socratic"], ["train", "test"], "main/train"),
        ("openai/gsm8k", "test", ["main", "socratic"], ["train", "test"], "main/test"),
        ("openai/gsm8k:socratic", "test", ["main", "socratic"], ["train", "validation"], "socratic/validation"),
        ("openai/gsm8k:main/test", "train", ["main", "socratic"], ["train", "test"], "main/test"),
        ("a/b", "test", ["only"], ["train"], "only/train"),
    ],
)
def test_hub_names(monkeypatch, source: str, purpose, configs: list[str], splits: list[str], expected: str) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeHub(configs, splits))
    (table,) = read_tables(source, purpose)
    assert table.rows[0].columns == {"question": expected}
    assert table.rows[0].source == f"{source.partition(':')[0]}:{expected}:1"
    assert len(table.notes) == (2 if expected == "only/train" else 1)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a/b", "has several configs: ['en', 'de']; say which, such as 'a/b:en'."),
        ("a/b:ed", "has no config 'ed', only ['en', 'de']."),
        ("a/b:en/tran", "has no split 'tran', only ['training']."),
        ("a/b:en", "has no split train, only ['training']; say which"),
        ("nobody/nothing", "can't be loaded: Couldn't reach the hub. Check the name and the network, or give a local"),
    ],
)
def test_hub_names_that_leave_a_choice_open(monkeypatch, source: str, expected: str) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeHub(["en", "de"], ["training"]))
    assert expected in refused(source)


def test_hub_without_datasets_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install gruppo[hub]" in refused("openai/gsm8k")
