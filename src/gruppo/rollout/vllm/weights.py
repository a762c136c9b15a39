"""Which weights vLLM holds: asked after every load, before every step and after its last completion."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gruppo.errors import EngineError

MODE = "processed_logprobs"


@dataclass
class Held:
    """What the engine should hold, against which the workers' answers are checked.

    Args:
        shape: sizes from the config of the trainer's model, by name.
        precision: float32 or bfloat16.
    """

    shape: Mapping[str, int]
    precision: str
    owner: str = field(default_factory=lambda: secrets.token_hex(8))
    """Tells this trainer's weights from another's on the same server."""
    version: int = -1
    tensors: int = 0

    def check_weights(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Refuse weights of another version or trainer, or none.

        Raises:
            EngineError: with what is held, and what should be.
        """
        wanted = {"owner": self.owner, "version": self.version, "tensors": self.tensors}
        if not states:
            raise EngineError("vLLM has no worker that says which weights it holds")
        for state in states:
            held = state["held"]
            if held == wanted:
                continue
            if held is None:
                found = "none of the trainer's: it was started anew, or a load of weights broke off"
            elif held["owner"] != self.owner:
                found = f"version {held['version']} of another trainer; one server serves one trainer"
            else:
                found = f"version {held['version']} ({held['tensors']} tensors)"
            raise EngineError(f"vLLM should hold version {self.version} ({self.tensors} tensors), but it holds {found}")

    def check_model(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Refuse a vLLM that has another model, another precision or other log-probs than the trainer needs.

        Raises:
            EngineError: with all that differs.
        """
        state = states[0]
        wrong = [
            f"{name} {state['shape'][name]}, the trainer's model has {value}"
            for name, value in self.shape.items()
            if state["shape"][name] != value
        ]
        if state["dtype"] != self.precision:
            wrong.append(f"--dtype {state['dtype']}, the trainer computes in {self.precision}")
        if state["logprobs_mode"] != MODE:
            wrong.append(f"--logprobs-mode {state['logprobs_mode']}, wanted {MODE}")
        if state["split_prompts"]:
            wrong.append("prompts split over steps, which breaks seeds on a CPU, wanted --no-enable-chunked-prefill")
        if wrong:
            raise EngineError(f"vLLM can't be used: it has {'; '.join(wrong)}")
