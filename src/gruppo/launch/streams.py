"""What a config says of the problems' stream: which problems are loaded, and in which order they come."""

from collections.abc import Callable, Sequence

from gruppo.config.schema import Config
from gruppo.data.difficulty import DifficultySlice, difficulty_slice, within
from gruppo.data.stream import ProblemStream, StreamSettings
from gruppo.rollout.draws import derive_seed
from gruppo.types import Problem


def slices(config: Config) -> list[DifficultySlice | None]:
    """Which problems the steps between spans take, and those of each span."""
    return [difficulty_slice(low, high) for low, high in config.difficulty_bounds]


def load_limits(config: Config) -> DifficultySlice | None:
    """The difficulties that some step may ask for: the top level's, widened by spans that go beyond them."""
    lows = [low for low, _ in config.difficulty_bounds]
    highs = [high for _, high in config.difficulty_bounds]
    low = min(low for low in lows if low is not None) if None not in lows else None
    high = max(high for high in highs if high is not None) if None not in highs else None
    return difficulty_slice(low, high)


def problem_stream(config: Config, problems: Sequence[Problem], tell: Callable[[str], None]) -> ProblemStream:
    """The stream of the GRPO stage. Raises DataError at once for a span that has no problem."""
    for slice in slices(config)[1:]:
        if slice is not None:
            within(problems, slice)
    settings = StreamSettings(
        weights={source.path: source.weight for source in config.sources},
        pool_weights=config.pool_weights,
        drop_after=config.drop_after,
    )
    return ProblemStream(problems, derive_seed(config.seed, "stream"), settings, tell)
