"""The figures of docs/explanation/benchmarks.md: the same curves give the same bytes.

``python -m bench`` draws them after a full run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread, imsave
from matplotlib.ticker import NullFormatter

from bench.curves import Curve

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "explanation" / "plots"
TITLES = {
    "gain": "Gain over the best fixed arm of hindsight, with standard errors",
    "frontier": "Score against cost: each router's settings, and the single arms",
    "recovery": "Reward over the requests since the stream changed, with standard errors",
}
AXES = {
    "gain": ("", "reward"),
    "frontier": ("USD per 1,000 requests", "score"),
    "recovery": ("requests since the change", "reward"),
}
OURS = "auto"
OUR_COLOUR = "#d62728"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#8c6d31", "#7b5ea7")
"""Of the others: mostly Okabe and Ito's, which colour-blind people can tell apart."""
GREYS = ("#222222", "#777777", "#aaaaaa")
"""Of what knows more than a router may."""
MARKERS = "osDv^P*X"
ACROSS = 3
WIDTH, HEIGHT = 4.0, 2.6
"""Of a panel, in inches."""
DECADES = 20.0
"""Times the least cost, beyond which costs are drawn on a logarithmic axis."""
DPI = 80
SHADES = 5
"""Of each primary colour, beside black: edges of so few compress to half."""


@dataclass(frozen=True, slots=True)
class Look:
    """How one router is drawn in every panel of a figure."""

    place: int
    colour: str
    marker: str


def draw(curves: Sequence[Curve], folder: Path = FOLDER) -> dict[str, Path]:
    """Draw each figure that has curves; the pictures by their titles."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for figure, title in TITLES.items():
        own = [one for one in curves if one.figure == figure]
        if own:
            drawn[title] = folder / f"{figure}.png"
            _save(_figure(figure, own), drawn[title])
    return drawn


def _figure(kind: str, curves: Sequence[Curve]) -> Figure:
    """A panel for each table or stream, one legend for all."""
    panels = list(dict.fromkeys(one.panel for one in curves))
    looks = _looks(curves)
    down, across = math.ceil(len(panels) / ACROSS), min(ACROSS, len(panels))
    under = 0.22 * math.ceil(len(looks) / across) + 0.1
    height = HEIGHT * down + under
    figure = Figure(figsize=(WIDTH * across, height), dpi=DPI)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    handles: dict[str, Artist] = {}
    for axes, panel in zip(grid, panels, strict=False):
        _panel(axes, kind, [one for one in curves if one.panel == panel], looks)
        axes.set_title(panel, fontsize=10)
        lines, labels = axes.get_legend_handles_labels()
        handles.update(zip(labels, lines, strict=True))
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    shown = [handles[name] for name in looks]
    figure.legend(shown, list(looks), loc="lower center", ncols=across, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, under / height, 1, 1))
    return figure


def _panel(axes: Axes, kind: str, curves: Sequence[Curve], looks: Mapping[str, Look]) -> None:
    across, up = AXES[kind]
    axes.set_xlabel(across, fontsize=8)
    axes.set_ylabel(up, fontsize=8)
    axes.grid(visible=True, alpha=0.25)
    for mark in sorted({mark for one in curves for mark in one.marks}):
        axes.axvline(mark, color="#888888", linestyle="--", linewidth=0.8)
    if kind == "gain":
        axes.axhline(0.0, color="#888888", linewidth=0.8)
        axes.set_xticks([])
    if kind == "frontier" and _spans_decades([x for one in curves for x in one.x]):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=7)
    for name, look in reversed(list(looks.items())):  # ours is drawn over the others
        for one in curves:
            if one.name == name:
                _line(axes, kind, one, look)
    for one in filter(_single_arm, curves):
        axes.plot(one.x, one.y, ".", color="#999999", markersize=5)


def _spans_decades(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) > DECADES * min(values)


def _line(axes: Axes, kind: str, one: Curve, look: Look) -> None:
    width = 1.8 if one.name == OURS else 1.0
    style: dict[str, Any] = {"color": look.colour, "label": one.name, "linewidth": width}
    if kind == "gain":
        at, error = [float(look.place)], one.error or None
        axes.errorbar(at, one.y, yerr=error, fmt=look.marker, capsize=2, ms=5, **style)
    elif kind == "frontier":
        axes.plot(one.x, one.y, marker=look.marker, markersize=3, **style)
    else:
        axes.plot(one.x, one.y, linestyle=":" if one.reference else "-", **style)
        if one.error:
            low, high = np.subtract(one.y, one.error), np.add(one.y, one.error)
            axes.fill_between(one.x, low, high, color=look.colour, alpha=0.15, linewidth=0)


def _looks(curves: Sequence[Curve]) -> dict[str, Look]:
    """How each router is drawn: ours first, then the others by name, then references."""
    kinds = {one.name: one.reference for one in curves if not _single_arm(one)}
    names = sorted(kinds, key=lambda name: (name != OURS, kinds[name], name))
    found, used = {}, {False: 0, True: 0}
    for place, name in enumerate(names):
        colours = GREYS if kinds[name] else COLOURS
        colour = OUR_COLOUR if name == OURS else colours[used[kinds[name]] % len(colours)]
        used[kinds[name]] += name != OURS
        found[name] = Look(place, colour, MARKERS[place % len(MARKERS)])
    return found


def _single_arm(one: Curve) -> bool:
    """Grey dots, not named: there may be many."""
    return one.figure == "frontier" and one.reference and len(one.x) == 1


def _save(figure: Figure, path: Path) -> None:
    """As a small PNG: few shades, and neither a date nor a version in it."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png")  # a figure that no window was made for draws by Agg
    drawn.seek(0)
    shades = np.round(imread(drawn)[..., :3] * SHADES) / SHADES
    plain, small = {"Software": "matplotlib"}, {"optimize": True}
    imsave(path, shades, metadata=plain, pil_kwargs=small)
