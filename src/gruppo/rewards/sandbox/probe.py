"""Which walls this machine grants, found out by building them in a process of its own."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Probe:
    """For each level: empty where it works, else why not."""

    namespaces: str
    landlock: str


def probe() -> Probe:
    """Try each level in a process of its own."""
    return Probe("not yet", "not yet")
