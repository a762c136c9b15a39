"""Files and hub names to problems, problems to prompts in tokens, and the order in which they come."""

from gruppo.data.chat import ChatRenderer
from gruppo.data.columns import ColumnMapping, find_columns
from gruppo.data.difficulty import DifficultySlice, difficulty_slice
from gruppo.data.problems import (
    Demonstration,
    DemonstrationSet,
    ProblemSet,
    load_demonstrations,
    load_problems,
)
from gruppo.data.readers import Purpose, Row, Table, read_tables
from gruppo.data.stream import ProblemStream, StreamSettings

__all__ = [
    "ChatRenderer",
    "ColumnMapping",
    "Demonstration",
    "DemonstrationSet",
    "DifficultySlice",
    "ProblemSet",
    "ProblemStream",
    "Purpose",
    "Row",
    "StreamSettings",
    "Table",
    "difficulty_slice",
    "find_columns",
    "load_demonstrations",
    "load_problems",
    "read_tables",
]
