"""Figures show the files' numbers: means over seeds, on honest scales; mistakes are named before drawing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_experiment import TITLES, Made, build, small

from decentral.commands.catalogue import catalogue
from decentral.errors import UserError
from decentral.report.figure_spec import FigureSpec, group_fields
from decentral.report.figure_tables import figures_of, parse_figure
from decentral.report.final_points import FinalPoints
from decentral.report.html import write_report
from decentral.report.kinds import KINDS
from decentral.report.line_styles import styles_of
from decentral.report.plots import draw, draw_experiment, render
from decentral.report.reading import read_experiment
from decentral.report.results import Run
from decentral.report.scene import Marks, Scene

PNG, SVG, PDF = b"\x89PNG", b"<?xml", b"%PDF"


def lines(ax: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in ax.get_lines() if not line.get_label().startswith("_")}


def legend_texts(figure: Any) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def bias_against_lr(folder: Path, *, diverged: bool = False) -> Path:
    runs = [
        Made(
            {"algorithm.name": name, "train.lr": lr},
            seed,
            {
                "round": [0, 5],
                "bias_sq": [1.0, scale * lr * lr * (1 + seed)],
                "theory_bias_sq": [0, scale * lr * lr],
            },
            status="diverged" if diverged and name == "dmsgd" and lr == 0.1 else "finished",
        )
        for name, scale in (("dmsgd", 100.0), ("decentlam", 1.0))
        for lr in (0.001, 0.01, 0.1)
        for seed in (0, 1)
    ]
    return build(folder, runs)


def test_a_line_is_the_mean_over_the_seeds(tmp_path: Path) -> None:
    figure = render(read_experiment(small(tmp_path / "e"), TITLES), FigureSpec(y="train_loss"))
    drawn = lines(figure.axes[0])
    assert drawn["PmSGD"].get_xdata().tolist() == [0, 10, 20]
    assert drawn["PmSGD"].get_ydata().tolist() == [9.0, (2 + 4 + 6) / 3, (1 + 2 + 3) / 3]
    assert drawn["DecentLaM"].get_ydata().tolist() == [9.0, 2.0, 1.0]
    assert legend_texts(figure) == ["PmSGD", "DecentLaM"]


def test_the_band_is_one_sample_deviation(tmp_path: Path) -> None:
    figure = render(read_experiment(small(tmp_path / "e"), TITLES), FigureSpec(y="train_loss"))
    corners = figure.axes[0].collections[0].get_paths()[0].vertices
    at_end = corners[corners[:, 0] == 20][:, 1]
    np.testing.assert_allclose([at_end.min(), at_end.max()], [2 - 1, 2 + 1], rtol=1e-14)


def test_bytes_are_counted_in_a_unit_that_the_label_names(tmp_path: Path) -> None:
    figure = render(
        read_experiment(small(tmp_path / "e"), TITLES), FigureSpec(y="train_loss", x="bytes_sent_mean")
    )
    assert figure.axes[0].get_xlabel() == "data sent per worker (MB)"
    assert lines(figure.axes[0])["PmSGD"].get_xdata().tolist() == [0.0, 4.0, 8.0]


def test_zeros_leave_a_logarithmic_axis_and_the_legend_says_so(tmp_path: Path) -> None:
    figure = render(read_experiment(small(tmp_path / "e"), TITLES), FigureSpec(y="consensus_sq"))
    assert figure.axes[0].get_yscale() == "log"
    assert np.isnan(lines(figure.axes[0])["PmSGD"].get_ydata()).all()
    np.testing.assert_array_equal(lines(figure.axes[0])["DecentLaM"].get_ydata(), [np.nan, 1e-3, 1e-6])
    assert legend_texts(figure) == ["PmSGD\n(zero throughout)", "DecentLaM"]


def test_an_axis_is_logarithmic_where_the_data_span_two_decades_unless_told(tmp_path: Path) -> None:
    experiment = read_experiment(bias_against_lr(tmp_path / "e"), TITLES)
    scales = {
        log: render(experiment, FigureSpec(y="bias_sq", x="train.lr", kind="final", log=log)).axes[0]
        for log in (None, "", "x", "y")
    }
    assert {log: (ax.get_xscale(), ax.get_yscale()) for log, ax in scales.items()} == {
        None: ("log", "log"), "": ("linear", "linear"), "x": ("log", "linear"), "y": ("linear", "log"),
    }  # fmt: skip
    near = render(read_experiment(small(tmp_path / "near")), FigureSpec(y="train_loss"))
    assert near.axes[0].get_yscale() == "linear"


def test_final_points_are_means_and_theory_runs_as_a_line(tmp_path: Path) -> None:
    spec = FigureSpec(y="bias_sq", x="train.lr", kind="final", theory="theory_bias_sq")
    ax = render(read_experiment(bias_against_lr(tmp_path / "e")), spec).axes[0]
    points = [container.lines[0] for container in ax.containers]
    np.testing.assert_allclose(points[0].get_xdata(orig=False), [1e-3, 1e-2, 1e-1])
    np.testing.assert_allclose(
        points[0].get_ydata(orig=False), 150 * np.array([1e-6, 1e-4, 1e-2]), rtol=1e-14
    )
    assert points[0].get_linestyle() == "None"
    theory = [
        line for line in ax.get_lines() if line.get_color() == points[0].get_color() and line.get_lw() == 1.3
    ]
    np.testing.assert_allclose(theory[0].get_ydata(), 100 * np.array([1e-6, 1e-4, 1e-2]), rtol=1e-14)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.001", "0.01", "0.1"]


def test_a_final_figure_crosses_out_values_at_which_all_runs_diverged(tmp_path: Path) -> None:
    experiment = read_experiment(bias_against_lr(tmp_path / "e", diverged=True), TITLES)
    figure = render(experiment, FigureSpec(y="bias_sq", x="train.lr", kind="final"))
    crosses = [line.get_xdata() for line in figure.axes[0].get_lines() if line.get_marker() == "x"]
    assert [list(c) for c in crosses] == [[0.1], []]
    assert legend_texts(figure) == ["DmSGD\n(2 of 6 diverged)", "DecentLaM"]


def test_a_diverged_run_does_not_flatten_the_others(tmp_path: Path) -> None:
    runs = [
        Made({"train.lr": 0.1}, 0, {"round": [0, 1, 2], "train_loss": [3.0, 2.0, 1.0]}),
        Made(
            {"train.lr": 9.0},
            0,
            {"round": [0, 1], "train_loss": [3.0, 1e20]},
            status="diverged",
            message="inf",
        ),
    ]
    figure = render(read_experiment(build(tmp_path / "e", runs)), FigureSpec(y="train_loss"))
    assert figure.axes[0].get_yscale() == "linear"
    assert figure.axes[0].get_ylim()[1] <= 1.3 * 3.0
    assert legend_texts(figure) == ["learning rate 0.1", "learning rate 9\n(diverged)"]


def test_each_panel_shows_its_own_runs_on_shared_axes(tmp_path: Path) -> None:
    experiment = read_experiment(bias_against_lr(tmp_path / "e"), TITLES)
    figure = render(experiment, FigureSpec(y="bias_sq", panel="algorithm.name"))
    assert [ax.get_title() for ax in figure.axes] == ["DmSGD", "DecentLaM"]
    ends = [lines(ax)["learning rate 0.1"].get_ydata()[-1] for ax in figure.axes]
    np.testing.assert_allclose(ends, [1.5, 0.015], rtol=1e-14)
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_groups_differ_in_colour_line_and_marker() -> None:
    styles = styles_of([(str(i),) for i in range(6)]).values()
    for trait in ("color", "line", "marker"):
        assert len({str(getattr(style, trait)) for style in styles}) == 6
    grid = styles_of([(m, lr) for m in "ab" for lr in (1.0, 2.0, 3.0)])
    assert grid["a", 1.0].color == grid["a", 3.0].color != grid["b", 1.0].color
    assert grid["a", 2.0].line == grid["b", 2.0].line != grid["a", 1.0].line


def test_a_field_that_follows_from_another_names_no_group(tmp_path: Path) -> None:
    runs = [
        Made({"algorithm.name": n, "algorithm.momentum": m}, 0, {"round": [0], "train_loss": [1.0]})
        for n, m in (("dsgd", ""), ("dmsgd", 0.9), ("decentlam", 0.9))
    ]
    experiment = read_experiment(build(tmp_path / "e", runs))
    assert group_fields(FigureSpec(y="train_loss"), experiment) == ("algorithm.name",)


def test_an_experiment_without_figures_gets_those_that_its_columns_suggest(tmp_path: Path) -> None:
    stems = [spec.stem for spec in figures_of(read_experiment(small(tmp_path / "e")))]
    columns = ("consensus_sq", "test_accuracy", "train_loss")
    assert stems == [f"{y}-{x}" for y in columns for x in ("round", "bytes_sent_mean")]


def test_figures_are_written_as_png_and_svg_and_twice_the_same(tmp_path: Path) -> None:
    toml = '[[figure]]\nname = "loss"\ny = "train_loss"\ntitle = "costs $1, half of $2"\ngraph = true\n'
    folder = small(tmp_path / "e", toml)
    paths = draw_experiment(folder)
    assert paths == [folder / "figures" / "loss.png", folder / "figures" / "loss.svg"]
    before = [path.read_bytes() for path in paths]
    assert before[0].startswith(PNG)
    assert before[1].startswith(SVG)
    assert [path.read_bytes() for path in draw_experiment(folder)] == before
    assert sorted(p.name for p in (folder / "figures").iterdir()) == ["loss.png", "loss.svg"]


def test_draw_overlays_experiments_in_the_format_of_the_suffix(tmp_path: Path) -> None:
    folders = [small(tmp_path / "a", 'name = "a"'), small(tmp_path / "b", 'name = "b"')]
    for suffix, magic in ((".png", PNG), (".svg", SVG), (".pdf", PDF)):
        out = draw(
            folders, tmp_path / "new" / f"f{suffix}", y="train_loss", group="experiment, algorithm.name"
        )
        assert out.read_bytes().startswith(magic)
    with pytest.raises(UserError, match=r"\.gif must end in \.png, \.svg or \.pdf"):
        draw(folders, tmp_path / "f.gif")
    with pytest.raises(UserError, match="log = 'z' must be one of"):
        draw(folders, tmp_path / "f.png", y="train_loss", log="z")


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ({"y": "train_loss", "knid": "final"}, "has no key 'knid'; did you mean 'kind'"),
        ({"x": "round"}, "names no y"),
        ({"y": "train_loss", "kind": "curve"}, "kind = 'curve' is unknown; did you mean 'curves'"),
        ({"y": "train_loss", "kind": "final"}, "needs x"),
        ({"y": "train_loss", "log": "xx"}, "log = 'xx' must be one of"),
        ({"y": "train_loss", "graph": "yes"}, "graph = 'yes' must be true or false"),
        ({"y": 3}, "y = 3 must be text"),
        ({"y": "train_loss", "group": [1]}, "must be a field or a list of fields"),
        ({"y": "train_loss", "name": "../up"}, "must be a file name"),
    ],
)
def test_a_figure_table_with_a_mistake_is_refused(table: dict[str, Any], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        parse_figure(table)


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        (FigureSpec(y="train_los"), "y = 'train_los' is no column of metrics.csv; did you mean 'train_loss'"),
        (FigureSpec(y="train_loss", x="runds"), "did you mean 'round'"),
        (FigureSpec(y="train_loss", x="algorithm.name"), "is a swept field; say kind = 'final'"),
        (FigureSpec(y="train_loss", kind="final", x="algoritm.name"), "did you mean 'algorithm.name'"),
        (FigureSpec(y="train_loss", group=("topology.nam",)), "did you mean 'topology.name'"),
        (FigureSpec(y="train_loss", panel="topology.nam"), "panel = 'topology.nam' is no field"),
        (FigureSpec(y="train_loss", theory="bias"), "theory = 'bias' is no column"),
    ],
)
def test_a_figure_of_what_is_not_there_names_the_nearest_that_is(
    tmp_path: Path, spec: FigureSpec, rule: str
) -> None:
    with pytest.raises(UserError, match=rule):
        render(read_experiment(small(tmp_path / "e")), spec)


@pytest.mark.parametrize(
    ("topologies", "titles"), [(("ring",), ["ring"]), (("ring", "star"), ["ring", "star"])]
)
def test_each_swept_graph_is_drawn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, topologies: tuple[str, ...], titles: list[str]
) -> None:
    drawn = []
    monkeypatch.setattr(
        "decentral.report.plots.draw_graph", lambda ax, graph: drawn.append(graph.number_of_edges())
    )
    runs = [
        Made(
            {"topology.name": t},
            s,
            {"round": [0], "train_loss": [1.0]},
            config={"topology": {"name": t, "workers": 5}},
        )
        for t in topologies
        for s in (0, 1)
    ]
    figure = render(read_experiment(build(tmp_path / "e", runs)), FigureSpec(y="train_loss", graph=True))
    assert [ax.get_title() for ax in figure.axes if ax.get_title()] == titles
    assert drawn == [5, 4][: len(topologies)]


def test_a_kind_of_figure_is_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dots(FinalPoints):
        """A dot for each run."""

        marks = Marks("Dots", "nothing", "Nothing")

        def draw(self, ax: Any, runs: Sequence[Run], scene: Scene) -> None:
            """See Kind."""
            ax.plot([run.final[scene.spec.x] for run in runs], [run.final[scene.spec.y] for run in runs], "o")

    monkeypatch.setitem(KINDS, "dots", Dots())
    toml = '[[figure]]\nname = "made"\nkind = "dots"\nx = "bytes_sent_mean"\ny = "train_loss"\n'
    folder = small(tmp_path / "e", toml)
    (spec,) = figures_of(read_experiment(folder))
    (line,) = render(read_experiment(folder), spec).axes[0].get_lines()
    assert line.get_ydata().tolist() == [1.0, 2.0, 3.0, 0.5, 1.0, 1.5]
    assert "Dots: mean over 3 seeds; nothing: one" in write_report(folder).read_text(encoding="utf-8")
    assert catalogue()["figures"]["dots"] is KINDS["dots"]
    with pytest.raises(UserError, match="kind = 'dots' needs x"):
        parse_figure({"y": "train_loss", "kind": "dots"})


def test_two_figures_of_one_name_are_refused(tmp_path: Path) -> None:
    toml = '[[figure]]\ny = "train_loss"\n[[figure]]\ny = "train_loss"\n'
    with pytest.raises(UserError, match="'train_loss-round' is given twice"):
        figures_of(read_experiment(small(tmp_path / "e", toml)))


def test_drawing_imports_no_torch() -> None:
    code = "import sys, decentral.report.html, decentral.report.summary; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
