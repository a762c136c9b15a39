"""A scorer that scores at once, for tests that write `score` alone."""

from collections.abc import Callable, Sequence

from gruppo.types import Problem, Score


class AtOnce:
    def score(
        self, problem: Problem, texts: Sequence[str], truncated: Sequence[bool], lengths: Sequence[int]
    ) -> list[Score]:
        raise NotImplementedError

    def submit(
        self,
        problem: Problem,
        texts: Sequence[str],
        truncated: Sequence[bool],
        lengths: Sequence[int],
        token_ids: Sequence[Sequence[int]] | None = None,
    ) -> Callable[[], list[Score]]:
        scores = self.score(problem, texts, truncated, lengths)
        return lambda: scores

    def notes(self) -> list[str]:
        return []
