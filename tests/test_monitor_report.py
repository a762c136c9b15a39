"""The report, its charts and the plain summary: of a whole run, of a run that has hardly begun, of hostile text."""

import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gruppo.errors import RunFolderError
from gruppo.monitor.charts import Axis, binned, label, line_chart, nice_axis, smoothed, step_axis
from gruppo.monitor.progress import SilentProgress
from gruppo.monitor.recorder import Recorder
from gruppo.monitor.report import write_report
from gruppo.monitor.run_folder import RunFolder
from gruppo.monitor.summary import summarize
from gruppo.monitor.text import duration, number, one_line, sparkline, visible
from gruppo.types import Group, Problem
from test_monitor_metrics import rollout, two_groups

CONFIG = {"model": "tiny", "steps": 4, "rewards": [{"name": "math"}], "eval": {"samples": 8}}
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[2J\u202etxt.exe \ud800 '\"&amp;"


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.03, "high": value + 0.02}


def evaluation(sampled: float, best: float) -> dict[str, object]:
    return {
        "problems": 200,
        "samples": 8,
        "temperature": 1.0,
        "pass_at_8": interval(best),
        "pass_at_1_greedy": None,
        "pass_at_1": interval(sampled),
        "mean_length": 19.2,
        "truncated_share": 0.01,
        "extra": {"share_worked": sampled},
        "per_problem": [],
    }


def whole_run(path: Path) -> None:
    """Four steps with curves, rollouts, a finding, an evaluation; the completions are hostile."""
    with RunFolder.open(path, CONFIG, command=["gruppo", "<b>"]) as run:
        Recorder(run.sub("sft"), SilentProgress(), stage="sft").record(1, {"loss": 2.0})
        recorder = Recorder(run, SilentProgress())
        odd = Problem("q", HOSTILE, HOSTILE)
        hostile = Group(odd, tuple(replace(rollout(i, 3, i, i > 0), text=HOSTILE) for i in range(2)))
        for step in range(1, 5):
            metrics = recorder.record(step, {"truncated_share": 0.75}, two_groups())
            recorder.report(recorder.diagnose(metrics))
            run.write_rollouts(step, [hostile, *two_groups()])
        run.write_json("eval/before.json", evaluation(0.238, 0.816))
        run.write_json("eval/after.json", evaluation(0.806, 0.956))
        paired = {"pass_at_1": {"value": 0.568, "low": 0.531, "high": 0.604}}
        run.write_json("eval/summary.json", {"paired": paired, "learnt": ["It works things out <now>."]})
        run.model_path.mkdir()


class Tags(HTMLParser):
    """Every tag with its attributes, every text, and whether the tags close in order."""

    VOID = frozenset({"meta", "circle", "line", "rect", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.texts.append(data)


def test_the_report_of_a_whole_run_says_what_happened(tmp_path: Path) -> None:
    whole_run(tmp_path / "demo")
    page = write_report(tmp_path / "demo").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    said = " ".join(" ".join(tags.texts).split())
    assert "finished, step 4 of 4" in said
    assert "0.238 → 0.806" in said
    assert "The paired difference is +0.568 [+0.53, +0.60]" in said
    assert "pass@1 sampled 0.238 0.21 to 0.26 0.806 0.78 to 0.83 +0.568 +0.53 to +0.60" in said
    assert said.index("pass@1 sampled") < said.index("pass@8")
    assert "share worked 0.238 0.806" in said
    assert "It works things out <now>." in said
    assert "Most completions are cut off before they end from step 3" in said
    assert "The same problems early and late" in said
    assert "step 1: 1 of 2 pass" in said
    assert "step 4: 1 of 2 pass" in said
    assert page.count('class="chart"') == 5 + 1  # reward, pass@1, no signal, length, truncated; SFT loss


def test_hostile_text_can_do_nothing_in_the_report(tmp_path: Path) -> None:
    whole_run(tmp_path / "demo")
    page = write_report(tmp_path / "demo").read_text()
    tags = Tags()
    tags.feed(page)
    assert not tags.seen & {"script", "img", "iframe", "object", "link", "b"}
    assert not {name for name in tags.attributes if name.startswith("on")} | tags.attributes & {"src", "href"}
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert r"&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert r"\x1b[2J\u202etxt.exe" in page
    assert not re.search(r"https?://", page.replace("http-equiv", ""))


def test_the_report_of_a_run_that_has_hardly_begun_is_a_page_too(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "new", CONFIG).close()
    page = write_report(tmp_path / "new").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "stopped at step 0 of 4" in page
    assert "<svg" not in page
    with RunFolder.open(tmp_path / "new", CONFIG) as run:
        Recorder(run, SilentProgress()).record(1, {}, two_groups())
        assert f"running in process {os.getpid()}, step 1 of 4" in write_report(run.path).read_text()


def test_a_run_of_sft_alone_is_finished_with_its_model(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "sft", CONFIG) as run:
        Recorder(run.sub("sft"), SilentProgress(), stage="sft").record(7, {"loss": 2.0})
        assert f"running in process {os.getpid()}, SFT step 7" in summarize(run.path)
    assert "stopped at SFT step 7" in summarize(run.path)
    run.mark_done("sft")
    run.model_path.mkdir()
    assert "finished, SFT step 7" in summarize(run.path)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"is no run of gruppo \(it has no config\.yaml"):
        write_report(tmp_path)
    with pytest.raises(RunFolderError, match="nowhere is no folder; wanted the folder that a run was given with --out"):
        summarize(tmp_path / "nowhere")


def test_the_summary_of_a_whole_run(tmp_path: Path) -> None:
    whole_run(tmp_path / "demo")
    text = summarize(tmp_path / "demo")
    lines = text.splitlines()
    assert lines[:2] == [f"{tmp_path / 'demo'}: finished, step 4 of 4", "model tiny"]
    assert "Evaluation on 200 held-out problems, 8 samples each (95 % intervals)" in lines
    assert "  pass@1 sampled          0.238 [0.21, 0.26]    0.806 [0.78, 0.83]    +0.568 [+0.53, +0.60]" in lines
    assert "  pass@8                  0.816 [0.79, 0.84]    0.956 [0.93, 0.98]    -" in lines
    assert "  reward  ▄▄▄▄  0.5 -> 0.5" in lines
    assert "  truncated_share                 0.75  <- healthy is at most 0.5" in lines
    assert "  step 3: Most completions are cut off before they end (truncated_share 0.75, mean of 3 steps; he" in text
    assert f"model   {tmp_path / 'demo' / 'model'}" in lines


def test_the_summary_leaves_out_findings_of_steps_that_were_made_again(tmp_path: Path) -> None:
    whole_run(tmp_path / "demo")
    run = RunFolder(tmp_path / "demo")
    run.truncate_after(2)
    text = summarize(run.path)
    assert "Findings" not in text
    assert "stopped at step 2 of 4; the same command goes on from its last checkpoint" in text


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.24, 0.81, (0.0, 0.5, 1.0)),
        (0.0, 1.0, (0.0, 0.5, 1.0)),
        (12.1, 17.9, (12.0, 14.0, 16.0, 18.0)),
        (0.0, 5e-6, (0.0, 2e-6, 4e-6, 6e-6)),
        (-0.3, 0.2, (-0.4, -0.2, 0.0, 0.2)),
        (0.0, 0.0, (0.0, 0.5, 1.0)),
        (7.0, 7.0, (0.0, 5.0, 10.0, 15.0)),
    ],
)
def test_axes_have_round_ticks(low: float, high: float, expected: tuple[float, ...]) -> None:
    axis = nice_axis(low, high)
    assert axis.ticks == pytest.approx(expected)
    assert axis.low <= low <= high <= axis.high


def test_tick_labels_have_the_decimals_they_need() -> None:
    assert [label(tick, nice_axis(0.0, 0.6)) for tick in nice_axis(0.0, 0.6).ticks] == ["0", "0.2", "0.4", "0.6"]
    assert label(4000, nice_axis(0, 8000)) == "4,000"
    assert label(2e-6, nice_axis(0, 5e-6)) == "2e-6"
    assert step_axis(1, 100) == Axis(1, 100, (50.0, 100.0))
    assert step_axis(3, 3).ticks == (3,)


def test_smoothing_keeps_a_line_and_takes_out_what_alternates() -> None:
    line = [(float(x), 2.0 * x - 3) for x in range(30)]
    assert smoothed(line) == [(x, pytest.approx(y)) for x, y in line]
    zigzag = [(float(x), float(x % 2)) for x in range(101)]
    assert all(abs(y - 0.5) < 0.1 for _, y in smoothed(zigzag)[5:-5])
    assert smoothed([(1.0, 5.0)]) == [(1.0, 5.0)]


def test_long_curves_are_binned_by_means() -> None:
    assert binned([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0), (3.0, 7.0)], most=2) == [(0.5, 2.0), (2.5, 6.0)]
    assert len(binned([(float(x), 1.0) for x in range(10_000)])) == 240


def test_a_chart_places_its_points() -> None:
    chart = line_chart("Reward", [(0.0, 0.0), (100.0, 1.0)], bounds=(None, 0.5))
    assert 'd="M46.0 166.0L350.0 10.0"' in chart
    assert "<title>step 100: 1</title>" in chart
    assert 'aria-label="Reward: from 0 to 1 over 2 steps"' in chart
    assert chart.count('class="bound"') == 1
    assert 'class="bound"' not in line_chart("Reward", [(0.0, 0.0), (100.0, 1.0)], bounds=(None, 1.5))


def test_texts_for_people() -> None:
    assert [duration(s) for s in (0.4, 59.6, 125, 3660, 90061)] == [
        "0 s",
        "1 min 00 s",
        "2 min 05 s",
        "1 h 01 min",
        "1 d 01 h",
    ]
    assert [number(v) for v in (None, 0, 0.23841, 4210.4, 1e-6, -2.5e-5, float("nan"))] == [
        "-", "0", "0.2384", "4,210", "1e-6", "-2.5e-5", "nan",
    ]  # fmt: skip
    assert visible("grün 日本 \t\x07\u200b\n") == "grün 日本 \\t\\x07\\u200b\n"
    assert one_line("a\n b\x00" + "c" * 20, 8) == "a b\\x00…"
    assert sparkline([0.0, 1.0, 2.0, 3.0]) == "▁▃▆█"
    assert sparkline([float(i) for i in range(1000)], 8) == "▁▂▃▄▅▆▇█"
