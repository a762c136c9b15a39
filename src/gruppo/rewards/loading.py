"""Reward functions by name: `file.py:function` or `module:function`.

1. The file's folder (or, for a module, the working folder) joins `sys.path`, so that a reward may import what
   lies beside it, also later and lazily.
2. A file is run once per process, under the module name `gruppo_reward_<stem>`.
"""

import difflib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from gruppo.errors import RewardError, nearest

_MISSING = object()
_LOADED: dict[Path, ModuleType] = {}


def load_function(name: str) -> Callable[..., Any]:
    """The function that a config names. Raises RewardError where it can't be found or its file can't be run."""
    place, _, function = name.rpartition(":")
    if not place or not function:
        raise RewardError(f"reward '{name}': wanted file.py:function or module:function.")
    module = _from_file(name, Path(place).expanduser()) if place.endswith(".py") else _from_module(name, place)
    known = [key for key, value in vars(module).items() if inspect.isroutine(value) and not key.startswith("_")]
    found = getattr(module, function, _MISSING)  # not vars: a module may load what is in it only when asked
    if found is _MISSING:
        raise RewardError(
            f"reward '{name}': {place} has no function '{function}', only {known}.{nearest(function, known)}"
        )
    if not callable(found):
        raise RewardError(f"reward '{name}': '{function}' of {place} is a {type(found).__name__}, no function.")
    return found


def _from_file(name: str, path: Path) -> ModuleType:
    if not path.is_file():
        beside = [entry.name for entry in path.parent.glob("*.py")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=1)
        hint = f" Did you mean '{path.with_name(near[0])}'?" if near else ""
        raise RewardError(f"reward '{name}': no file '{path}'.{hint}")
    path = path.resolve()
    if path in _LOADED:
        return _LOADED[path]
    module_name = f"gruppo_reward_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise RewardError(f"reward '{name}': '{path}' is no Python file.")
    module = importlib.util.module_from_spec(spec)
    _join_path(path.parent)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise _broken(name, str(path.name), error) from error
    _LOADED[path] = module
    return module


def _from_module(name: str, module: str) -> ModuleType:
    _join_path(Path.cwd())
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and module.startswith(error.name):
            raise RewardError(
                f"reward '{name}': no module '{module}' in the working folder or the environment; "
                "a file is named with its suffix, file.py:function."
            ) from error
        raise _broken(name, module, error) from error
    except Exception as error:
        raise _broken(name, module, error) from error


def _join_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _broken(name: str, place: str, error: Exception) -> RewardError:
    line = error.lineno if isinstance(error, SyntaxError) else _last_line(error)
    return RewardError(f"reward '{name}': {place}, line {line}, raised {type(error).__name__}: {error}")


def _last_line(error: Exception) -> int:
    """Where in the user's file it was: the innermost frame that is not the import machinery's."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno or 0 for frame in frames if not frame.filename.startswith("<frozen")]
    return lines[-1] if lines else 0
