"""A receiver of weights that lies about them as it is told: in a server, whose worker is another process, by a file."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gruppo.rollout.vllm.receiver import WeightReceiver

NAME = "vllm_sabotage.SabotagedReceiver"
VARIABLE = "GRUPPO_TEST_SABOTAGE"


def lying(take: Callable[..., None], *, load: bool, off: int) -> Callable[..., None]:
    """`gruppo_take` that says it holds a version; whether it has loaded anything, and which one, is another matter."""

    def pretend(self: Any, tensors: Any, owner: str, version: int, count: int) -> None:
        if load:
            take(self, tensors, owner, version, count)
        self.gruppo_held = {"owner": owner, "version": version + off, "tensors": count}

    return pretend


class SabotagedReceiver(WeightReceiver):
    """Honest until the file that the environment names holds `{"load": ..., "off": ...}`."""

    def gruppo_take(self, tensors: Any, owner: str, version: int, count: int) -> None:
        """Take weights, or pretend to."""
        wish = Path(os.environ[VARIABLE]).read_text()
        take = lying(WeightReceiver.gruppo_take, **json.loads(wish)) if wish else WeightReceiver.gruppo_take
        take(self, tensors, owner, version, count)
