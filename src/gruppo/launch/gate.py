"""The check that stands between a run and its first step."""

from gruppo.errors import CannotLearnError
from gruppo.launch.build import Workbench
from gruppo.launch.check import check_before_training
from gruppo.monitor.run_folder import RunFolder
from gruppo.preflight.check import Check
from gruppo.preflight.reasons import Reason
from gruppo.types import ProgressObserver


class CheckGate:
    """Checks a run and lets it through, or doesn't. What was found is told, and kept in `RUN/check.json`.

    Args:
        folder: the run's.
        observer: who is told.
        anyway: let it through whatever was found.
    """

    def __init__(self, folder: RunFolder, observer: ProgressObserver, *, anyway: bool) -> None:
        self._folder = folder
        self._observer = observer
        self._anyway = anyway

    def pass_through(self, bench: Workbench, *, before_sft: bool) -> None:
        """Check what a workbench holds.

        Raises:
            CannotLearnError: it cannot learn, and is not to go on anyway.
        """
        self._observer.note("check: can this run learn? It takes two minutes at most; --no-check starts without it")
        log = self._folder.path / "rewards.log"
        found = check_before_training(bench, before_sft=before_sft, log=log)
        self._folder.write_json("check.json", found.to_json())
        self._tell(found, before_sft)
        if found.verdict == "cannot learn" and not self._anyway:
            raise CannotLearnError(
                "the check says that this run cannot learn, for the reasons above. gruppo check says more, and with "
                "--fix writes a config that can; --anyway goes on as it is, --no-check starts without looking"
            )

    def _tell(self, found: Check, before_sft: bool) -> None:
        what = "check before SFT" if before_sft else "check"
        signal = found.signal
        figures = (
            "" if signal is None else f"; pass@1 {signal.pass_at_1.value:.2f}, {signal.share.value:.0%} of groups "
        )
        figures += "" if signal is None else "carry a signal"
        self._observer.note(f"{what}: {found.verdict}{figures} ({found.seconds:.0f} s)")
        for reason in found.reasons:
            if reason.level != "note":
                self._observer.note(f"{what}: {_told(reason)}")


def _told(reason: Reason) -> str:
    """A reason on a line."""
    evidence = f" ({reason.evidence[0]})" if reason.evidence else ""
    cure = reason.cures[0] if reason.cures else None
    mend = "" if cure is None else f" Cure: {' '.join([cure.text, '; '.join(cure.lines)]).strip()}"
    return f"{reason.what}{evidence}.{mend}"
