"""C sources are compiled once, kept where nobody else can write, and done without where there is no compiler."""

import ctypes
import os
import shlex
from pathlib import Path

import pytest

from gruppo.monitor import native

SOURCE = """
#ifdef LARGE
int answer(void) { return 4200; }
#else
int answer(void) { return 42; }
#endif
"""
COMPILER = native.compiler()

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GRUPPO_NATIVE", raising=False)
    path = tmp_path / "answer.c"
    path.write_text(SOURCE)
    return path


def load(source: Path, define: str = "") -> ctypes.CDLL | None:
    """As in a new process."""
    native.load.cache_clear()
    return native.load(source, define)


def answer(source: Path, define: str = "") -> int:
    library = load(source, define)
    assert library is not None
    return library.answer()


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "gruppo" / "native").iterdir())


def test_a_source_is_compiled_once_for_each_macro_and_text(source: Path, tmp_path: Path):
    assert (answer(source), answer(source, "LARGE")) == (42, 4200)
    assert len(kept(tmp_path)) == 2
    before = {name: (tmp_path / "cache/gruppo/native" / name).stat().st_mtime_ns for name in kept(tmp_path)}
    assert answer(source) == 42
    source.write_text(SOURCE.replace("42;", "43;"))
    assert answer(source) == 43
    assert len(kept(tmp_path)) == 3
    assert all((tmp_path / "cache/gruppo/native" / name).stat().st_mtime_ns == when for name, when in before.items())


def test_the_header_counts_as_text_of_the_source(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    header = tmp_path / "numbers.h"
    monkeypatch.setattr(native, "HEADER", header)
    header.write_text("#define NUMBER 7\n")
    source.write_text('#include "numbers.h"\nint answer(void) { return NUMBER; }\n')
    assert answer(source) == 7
    header.write_text("#define NUMBER 8\n")
    assert answer(source) == 8
    assert len(kept(tmp_path)) == 2


def test_a_kept_library_is_taken_without_the_compiler(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls, wrapper = tmp_path / "calls", tmp_path / "counting-cc"
    wrapper.write_text(f'#!/bin/sh\necho "$1" >> {calls}\nexec {shlex.join(COMPILER or [])} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CC", str(wrapper))
    assert [answer(source), answer(source), answer(source, "LARGE"), answer(source)] == [42, 42, 4200, 42]
    asked = calls.read_text().split()
    assert (asked.count("--version"), len(asked) - asked.count("--version")) == (4, 2)


def test_a_compiler_may_be_given_with_options(source: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CC", shlex.join([*(COMPILER or []), "-DLARGE"]))
    assert answer(source) == 4200


def test_a_folder_that_others_can_write_to_is_not_used(source: Path, tmp_path: Path):
    folder = tmp_path / "cache" / "gruppo" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert answer(source) == 42
    assert kept(tmp_path) == []


def test_a_home_that_cannot_be_written_to_is_not_needed(source: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    assert answer(source) == 42


@pytest.mark.parametrize("compiler", ["/nowhere/cc", "false", "false -m64", ""])
def test_without_a_compiler_that_works_there_is_none(source: Path, compiler: str, monkeypatch: pytest.MonkeyPatch):
    if compiler:
        monkeypatch.setenv("CC", compiler)
    else:
        monkeypatch.setattr(native, "COMPILERS", ())
        monkeypatch.delenv("CC", raising=False)
    assert load(source) is None


def test_a_source_that_does_not_compile_is_none(source: Path):
    source.write_text("int answer(void) { return")
    assert load(source) is None


def test_it_is_switched_off_by_the_environment(source: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRUPPO_NATIVE", "0")
    assert load(source) is None
