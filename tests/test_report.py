"""The report is one file, holds the files' numbers, and fetches nothing."""

from __future__ import annotations

import base64
import csv
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from synthetic_experiment import TITLES, Made, build, small

from decentral.errors import UserError
from decentral.report.drawing import DRAWINGS, Drawing
from decentral.report.html import write_report
from decentral.report.plots import draw_experiment
from decentral.report.results import Experiment

VOID = {"meta", "img", "br", "hr", "link", "input"}
TOML = """
name = "two & <methods>"
question = "Which of the two stops lower?"
[[figure]]
name = "loss"
y = "train_loss"
caption = "The loss halves."
"""


class Page(HTMLParser):
    """Collects tables by id, image sources and all attributes; fails on tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.images: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.table = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attrs)
        if tag == "img":
            self.images.append(values["src"] or "")
        elif tag == "table":
            self.table = values.get("id") or ""
            self.tables[self.table] = []
        elif tag == "tr":
            self.tables[self.table].append([])
        elif tag in ("td", "th"):
            self.tables[self.table][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[self.table][-1][-1] += data
        if self.open and self.open[-1] not in ("style", "td", "th"):
            self.words.append(data.strip())


def test_the_report_is_one_file_that_fetches_nothing(tmp_path: Path) -> None:
    path = write_report(small(tmp_path / "e", TOML))
    assert path == tmp_path / "e" / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"url\(|@import|<script|<link", text)
    assert [src[:22] for src in page.images] == ["data:image/png;base64,"]
    assert {key for key, _ in page.attributes} & {"href", "srcset", "action"} == set()
    assert not list((tmp_path / "e").glob(".report*"))


def test_the_embedded_figure_is_the_file_in_figures(tmp_path: Path) -> None:
    page = Page(write_report(small(tmp_path / "e", TOML)).read_text(encoding="utf-8"))
    embedded = base64.b64decode(page.images[0].partition(",")[2])
    assert embedded == (tmp_path / "e" / "figures" / "loss.png").read_bytes()


def test_the_summary_holds_mean_and_spread_of_results_csv(tmp_path: Path) -> None:
    folder = small(tmp_path / "e", TOML)
    page = Page(write_report(folder, titles=TITLES).read_text(encoding="utf-8"))
    header, *rows = page.tables["summary"]
    with (folder / "results.csv").open() as file:
        results = list(csv.DictReader(file))
    assert [row[:2] for row in rows] == [["PmSGD", "3"], ["DecentLaM", "3"]]
    for row, name in zip(rows, ("pmsgd", "decentlam"), strict=True):
        losses = [float(r["train_loss"]) for r in results if r["algorithm.name"] == name]
        mean, deviation = (float(x) for x in row[header.index("train loss")].split(" ± "))
        assert mean == pytest.approx(statistics.mean(losses), abs=0.005)
        assert deviation == pytest.approx(statistics.stdev(losses), abs=0.005)


def test_every_run_is_listed_with_its_own_numbers(tmp_path: Path) -> None:
    folder = small(tmp_path / "e", TOML)
    header, *rows = Page(write_report(folder).read_text(encoding="utf-8")).tables["runs"]
    with (folder / "results.csv").open() as file:
        results = {r["run"]: r for r in csv.DictReader(file)}
    assert {row[0] for row in rows} == set(results)
    for row in rows:
        assert float(row[header.index("train_loss")]) == float(results[row[0]]["train_loss"])


def test_the_report_tells_the_question_the_seeds_the_command_and_the_place(tmp_path: Path) -> None:
    words = " ".join(Page(write_report(small(tmp_path / "e", TOML)).read_text(encoding="utf-8")).words)
    for said in (
        "two & <methods>",
        "Which of the two stops lower?",
        "6 runs over 3 seeds (0, 1, 2): 6 finished",
        "decentral run x.toml",
        "The loss halves.",
        "mean over 3 seeds",
        "node7",
        "versions.torch 2.9.0",
    ):
        assert said in words, said


def test_runs_that_diverged_are_shown_with_their_message(tmp_path: Path) -> None:
    columns = {"round": [0, 1], "train_loss": [2.0, 1.0]}
    runs = [
        Made({"train.lr": 0.1}, 0, columns),
        Made({"train.lr": 9.0}, 0, columns, status="diverged", message="loss <inf> at round 1"),
    ]
    folder = build(tmp_path / "e", runs)
    (folder / "runs" / "later").mkdir()
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert page.tables["summary"][1:] == [["0.1", "1", "1"], ["9", "0 of 1", "diverged"]]
    words = " ".join(page.words)
    assert "9.0-seed0 diverged: loss <inf> at round 1" in words
    assert "later is unfinished" in words


def test_the_facts_of_each_graph_are_told(tmp_path: Path) -> None:
    text = write_report(small(tmp_path / "e", TOML)).read_text(encoding="utf-8")
    header, row = Page(text).tables["graphs"]
    facts = dict(zip(header, row, strict=True))
    assert (facts["topology"], facts["workers"], facts["edges"], facts["neighbours"]) == (
        "ring",
        "4",
        "4",
        "2",
    )
    # Metropolis weights on a ring of 4: 1/3 + 2/3 cos(2 pi k / 4), so rho = 1/3.
    assert float(facts["spectral gap 1 − ρ"]) == pytest.approx(2 / 3, abs=1e-4)


def test_figures_that_were_drawn_are_not_drawn_again(tmp_path: Path) -> None:
    folder = small(tmp_path / "e", TOML)
    drawn = draw_experiment(folder)
    stamps = [p.stat().st_mtime_ns for p in drawn]
    assert len(Page(write_report(folder, drawn).read_text(encoding="utf-8")).images) == 1
    assert [p.stat().st_mtime_ns for p in drawn] == stamps


def test_a_folder_that_is_no_experiment_gets_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no experiment folder"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_files_show_is_an_entry_as_a_figure_or_as_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def figure(experiment: Experiment) -> Figure:
        made = Figure()
        made.suptitle(experiment.name)
        return made

    def rows(experiment: Experiment) -> list[dict[str, str]]:
        return [{"run": run.id, "letters": str(len(run.id))} for run in experiment.runs[:1]]

    monkeypatch.setitem(DRAWINGS, "made-figure", Drawing(figure, "A made figure", "How it is read."))
    monkeypatch.setitem(DRAWINGS, "made-table", Drawing(rows, "A made table", "How rows are read."))
    monkeypatch.setitem(DRAWINGS, "nothing", Drawing(lambda _: None, "Nothing"))
    folder = small(tmp_path / "e", TOML)
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert {p.name for p in (folder / "figures").glob("made*")} == {"made-figure.png", "made-figure.svg"}
    assert len(page.images) == 2
    (first,) = page.tables["made-table"][1:]
    assert first == [first[0], str(len(first[0]))]
    said = " ".join(page.words)
    for words in ("A made figure", "How it is read.", "A made table", "How rows are read."):
        assert words in said
    assert "Nothing" not in said
