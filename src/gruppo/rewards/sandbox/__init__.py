"""The isolation in which programs written by a model run. See docs/sandbox.md."""

from gruppo.rewards.sandbox.job import Exit, Job, Level, Limits, Outcome, Program
from gruppo.rewards.sandbox.pipe import Pipe
from gruppo.rewards.sandbox.probe import Probe, probe
from gruppo.rewards.sandbox.sandbox import Sandbox

__all__ = ["Exit", "Job", "Level", "Limits", "Outcome", "Pipe", "Probe", "Program", "Sandbox", "probe"]
