"""The legend of a figure: what its groups look like, and what became of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.lines import Line2D

from decentral.report.columns import group_label
from decentral.report.page_style import plain
from decentral.report.results import Run, Value, grouped
from decentral.report.scene import Kind, Scene
from decentral.report.statistics import final_values


def draw_legend(figure: Any, scene: Scene, kind: Kind) -> None:
    """Names below the data; a grid of two fields is named field by field, once each."""
    groups = grouped(scene.runs, scene.names)
    firsts, rests = grouped(scene.runs, scene.names[:1]), grouped(scene.runs, scene.names[1:])
    samples = {g: kind.sample(style.look, scene.spec) for g, style in scene.styles.items()}
    in_grid = len(firsts) > 1 and len(rests) > 1 and len(groups) > len(firsts) + len(rests)
    if in_grid:
        looks = {g[1:]: look | {"color": "#555555"} for g, look in samples.items()}
        colors = {g[:1]: {"color": style.color, "linewidth": 4} for g, style in scene.styles.items()}
        handles = [_handle(colors[g], scene.names[:1], g, m, scene) for g, m in firsts.items()]
        handles += [Line2D([], [], linestyle="none", label=" ")] * (len(rests) - len(firsts))
        handles += [_handle(looks[g], scene.names[1:], g, (), scene) for g in rests]
    else:
        handles = [_handle(samples[g], scene.names, g, m, scene) for g, m in groups.items()]
    if scene.spec.theory:
        handles.append(Line2D([], [], color="#555555", linewidth=1.3, label="theory"))
    if len(handles) > 1:
        _place_legend(figure, handles, most_columns=2 if in_grid else 6)


def _place_legend(figure: Any, handles: list[Line2D], most_columns: int) -> None:
    """As many columns as the words leave room for; a tall legend makes the figure taller."""
    root = figure.get_figure(root=True)
    width, height = root.get_size_inches()
    longest = max(len(line) for h in handles for line in str(h.get_label()).splitlines())
    room = figure.bbox.width / root.dpi  # a part of the width, where a graph stands beside
    columns = max(1, min(len(handles), most_columns, int(room / (0.65 + 0.078 * longest))))
    root.set_size_inches(width, height + 0.2 * (-(-len(handles) // columns) - 1))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, columnspacing=1.5)


def _handle(
    look: dict[str, Any], names: Sequence[str], group: tuple[Value, ...], members: Sequence[Run], scene: Scene
) -> Line2D:
    label = plain(group_label(names, group)) + (_remark(members, scene) if members else "")
    return Line2D([], [], **look, label=label)


def _remark(members: Sequence[Run], scene: Scene) -> str:
    lost = [run.status for run in members if not run.finished]
    if lost:
        how = "diverged" if set(lost) == {"diverged"} else "failed"
        return f"\n({how})" if len(lost) == len(members) else f"\n({len(lost)} of {len(members)} {how})"
    finals = final_values(members, scene.spec.y)
    if not len(finals) and not any(scene.spec.y in run.columns for run in members):
        return "\n(not measured)"
    ever = any((run.columns.get(scene.spec.y, finals) > 0).any() for run in members)
    if scene.scales.log_y and not (finals > 0).any() and not ever:
        return "\n(zero throughout)"
    return ""
