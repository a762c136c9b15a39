"""Threads for programs in a jail, where there are none: one runs to its end as it is started.

Contest programs like to run their `main` in a thread for the sake of a deeper stack; these work. Programs whose threads
wait for one another do not: the first to wait is ended at the limit.
"""

import sys
import threading


def run_at_start() -> None:
    """Make `threading.Thread` so, in this process."""
    threading.Thread.start = _start
    threading.Thread.join = lambda self, timeout=None: None
    threading.Thread.is_alive = lambda self: False


def _start(self: threading.Thread) -> None:
    if self.__dict__.setdefault("_gruppo_ran", False):
        raise RuntimeError("threads can only be started once")
    self.__dict__["_gruppo_ran"] = True
    try:
        self.run()
    except SystemExit:
        return
    except Exception:
        threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self)))
