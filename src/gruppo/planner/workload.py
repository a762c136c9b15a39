"""What one step has to do, in tokens.

Legend: P prompts per step, G completions each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gruppo.config.schema import Config
from gruppo.planner.measured import Measured

PROMPT_TOKENS = 256
"""Tokens of a prompt where nothing is known of the data."""
COMPLETION_SHARE = 0.5
"""Mean completion over the longest that is allowed, where nothing is known."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One step."""

    prompts: int
    """P."""
    group_size: int
    """G."""
    prompt_tokens: float
    """Mean tokens of a prompt."""
    completion_tokens: float
    """Mean tokens of a completion: time goes by it."""
    longest_completion: int
    """Tokens of the longest completion: memory goes by it."""

    @property
    def completions(self) -> int:
        """P x G."""
        return self.prompts * self.group_size

    @property
    def varied(self) -> bool:
        """Whether completions differ in length, so that micro-batches can be filled to the brim."""
        return self.completion_tokens < 0.95 * self.longest_completion

    @property
    def longest(self) -> int:
        """Tokens of prompt and longest completion."""
        return round(self.prompt_tokens) + self.longest_completion

    @property
    def generated(self) -> float:
        """Tokens of all completions."""
        return self.completions * self.completion_tokens

    def tree_tokens(self) -> float:
        """Tokens that the update reads: each prompt once per group, no completion's last token."""
        return self.prompts * self.prompt_tokens + self.completions * (self.completion_tokens - 1)

    def padded_tokens(self) -> float:
        """Tokens that the update reads where each completion has a row with its prompt, filled up to the longest."""
        return self.completions * (self.prompt_tokens + (self.completion_tokens + self.longest_completion) / 2)


def workload_of(
    config: Config, measured: Measured | None, prompt_tokens: float | None, completion_tokens: float | None
) -> tuple[Workload, list[str]]:
    """A step of a config, and what was assumed of it; a flag goes over a trial, a trial over an assumption."""
    longest = config.longest_completion
    assumed: list[str] = []
    if prompt_tokens is None:
        prompt_tokens = measured.prompt_tokens if measured else min(PROMPT_TOKENS, config.max_prompt_length or 10**9)
        if measured is None:
            assumed.append(f"prompts of {prompt_tokens:g} tokens (say --prompt-tokens, or --measured)")
    if completion_tokens is None:
        completion_tokens = measured.completion_tokens if measured else max(1.0, COMPLETION_SHARE * longest)
        if measured is None:
            assumed.append(
                f"completions of {completion_tokens:g} tokens on average, {longest} at most "
                "(say --completion-tokens, or --measured)"
            )
    mean = min(completion_tokens, longest)
    work = Workload(config.prompts_per_step, config.group_size, prompt_tokens, mean, longest)
    return work, assumed


def trial_of(work: Workload, measured: Measured) -> Workload:
    """The step that a trial was."""
    return replace(
        work,
        prompts=measured.problems,
        group_size=measured.group_size,
        prompt_tokens=measured.prompt_tokens,
        completion_tokens=measured.completion_tokens,
        longest_completion=measured.longest_completion,
    )


def largest_micro_batch(work: Workload, budget: int) -> tuple[int, int]:
    """Tokens of the largest micro-batch of trees, and how many micro-batches there are.

    Completions of one length leave room in a micro-batch that the next tree does not fit into, as
    `gruppo.training.trees` packs them; completions of many lengths fill it.
    """
    total = round(work.tree_tokens())
    if work.varied:
        longest = round(work.prompt_tokens) + work.longest_completion - 1
        size = max(min(budget, total), min(longest, total))
        return size, max(1, -(-total // size))
    bins = _bins(_trees(work, budget), budget)
    return max(bins), len(bins)


def _trees(work: Workload, budget: int) -> list[int]:
    """Sizes of the trees of all groups where every completion has the mean length."""
    prompt, branch = round(work.prompt_tokens), max(1, round(work.completion_tokens) - 1)
    fits = max(1, (budget - prompt) // branch)
    whole, rest = divmod(work.group_size, fits)
    group = [prompt + fits * branch] * whole + [prompt + rest * branch] * (rest > 0)
    return sorted(group * work.prompts, reverse=True)


def _bins(sizes: Sequence[int], budget: int) -> list[int]:
    """Each into the first bin that has room; the fullness of the bins."""
    bins: list[int] = []
    for size in sizes:
        place = next((place for place, full in enumerate(bins) if full + size <= budget), None)
        if place is None:
            bins.append(size)
        else:
            bins[place] += size
    return bins
