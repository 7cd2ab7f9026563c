"""Figures of sweeps and runs, by Matplotlib, in colors that are told apart with color blindness.

Matplotlib is an optional dependency: ``pip install 'segblocks-jax[report]'``.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from segblocks_jax.errors import extra

with extra("report", "a figure"):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

from segblocks_jax.analysis.records import Record
from segblocks_jax.systems.segblocks.seams import Seams

# Okabe and Ito's palette (jfly.uni-koeln.de/color), without yellow, which is faint on white.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":", "-.")
_MARKERS = "osD^vPX"
_CURVES = {
    "high_fraction": "share of high blocks",
    "loss_task": "task loss",
    "advantage_std": "standard deviation of the advantage",
    "probability_mean": "probability of high, mean",
    "probability_std": "standard deviation of the probability of high",
}

# The same figure gives the same bytes: no random ids, no dates.
matplotlib.rcParams["svg.hashsalt"] = "segblocks_jax"

Rows = Mapping[str, Sequence[Record]]
"""The records of a sweep's rows, by label; one record a seed."""


def style(index: int) -> dict[str, Any]:
    """Color, dashes and marker of the series of this number; colors alone repeat after seven."""
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": _DASHES[index // len(COLORS) % len(_DASHES)],
    }


def tradeoff(rows: Rows) -> Figure:
    """MIoU against operations; rows that differ in target or input scale alone are joined."""
    figure, axes = new_figure()
    groups: dict[str, list[tuple[float, float, float, str]]] = {}
    for label, records in rows.items():
        miou = [100 * record["metrics"]["miou"] for record in records]
        gmacs = np.mean([record["metrics"]["gmacs"] for record in records])
        std = statistics.stdev(miou) if len(miou) > 1 else 0.0
        point = (float(gmacs), statistics.mean(miou), std, label)
        groups.setdefault(_family(records[0]), []).append(point)
    for i, points in enumerate(groups.values()):
        x, y, std, labels = zip(*sorted(points), strict=True)
        axes.errorbar(x, y, std, marker=_MARKERS[i % len(_MARKERS)], capsize=3, **style(i))
        for at, text in zip(zip(x, y, strict=True), labels, strict=True):
            axes.annotate(text, at, (5, 4), textcoords="offset points", fontsize=7)
    axes.set(xlabel="GMACs per image", ylabel="mIoU, %")
    axes.margins(0.15)
    return figure


def _family(record: Record) -> str:
    config = json.loads(json.dumps(record["config"]))
    for group, field in (("policy", "target"), ("model", "input_scale")):
        config[group].pop(field, None)
    config.pop("seed")
    config.pop("name")
    return json.dumps(config, sort_keys=True)


def class_bars(rows: Rows) -> Figure:
    """IoU of every class, a bar per row."""
    first = next(iter(rows.values()))[0]["metrics"]
    classes = [name.removeprefix("iou/") for name in first if name.startswith("iou/")]
    figure, axes = new_figure(width=max(7.0, 0.14 * len(classes) * len(rows)))
    width = 0.85 / len(rows)
    for i, (label, records) in enumerate(rows.items()):
        means = [
            np.mean([100 * (record["metrics"][f"iou/{name}"] or 0) for record in records])
            for name in classes
        ]
        at = np.arange(len(classes)) + (i - (len(rows) - 1) / 2) * width
        hatch = None if i < len(COLORS) else "//"
        axes.bar(at, means, width, label=label, color=COLORS[i % len(COLORS)], hatch=hatch)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set(ylabel="IoU, %")
    _legend(axes)
    return figure


def curves(lines: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """What a learned policy does over training, a panel a quantity, from lines of `metrics.jsonl` by label.

    What a run did not log is left out.
    """
    figure, panels = new_figure(9.0, 5.0, 2, 3)
    grid = panels.ravel()
    for axes, (name, title) in zip(grid, _CURVES.items(), strict=False):
        for i, (label, entries) in enumerate(lines.items()):
            values = [(e["step"], e["values"].get(f"train/{name}")) for e in entries]
            known = [(step, value) for step, value in values if value is not None]
            if known:
                axes.plot(*zip(*known, strict=True), label=label, **style(i))
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        if not axes.lines:
            axes.text(0.5, 0.5, "not logged", ha="center", transform=axes.transAxes)
    grid[-1].axis("off")
    handles = {line.get_label(): line for axes in grid for line in axes.lines}
    grid[-1].legend(handles.values(), handles.keys(), fontsize=7, loc="center")
    return figure


def share_histogram(rows: Rows) -> Figure:
    """How many images have which share of high blocks."""
    figure, axes = new_figure()
    bins = [i / 20 for i in range(21)]
    for i, (label, records) in enumerate(rows.items()):
        shares = [share for record in records for share in record["shares"]]
        if shares:
            axes.hist(shares, bins, histtype="step", linewidth=1.6, label=label, **style(i))
    axes.set(xlabel="share of high blocks", ylabel="images")
    if axes.patches:
        _legend(axes)
    else:
        axes.text(0.5, 0.5, "no blocks in these runs", ha="center", transform=axes.transAxes)
    return figure


def seam_maps(image: UInt8[np.ndarray, "h w 3"], seams: Seams) -> Figure:
    """Where one image's logits in blocks differ from the dense ones, a panel per padding mode."""
    figure, (first, *others) = new_figure(10.0, 2.6, 1, 1 + len(seams.maps))
    first.imshow(image)
    first.set_title("image", fontsize=9)
    top = max(float(np.quantile(m[0], 0.99)) for m in seams.maps.values())
    for axes, (mode, maps) in zip(others, seams.maps.items(), strict=True):
        drawn = axes.imshow(maps[0], cmap="viridis", vmin=0, vmax=top, interpolation="nearest")
        name = "BlockPad" if mode == "block" else mode
        axes.set_title(f"{name}: {seams.at_borders(mode):.1e} at borders", fontsize=9)
    for axes in (first, *others):
        axes.set(xticks=[], yticks=[])
    figure.colorbar(drawn, ax=others, label="difference / deviation")
    return figure


def seam_profiles(seams: Mapping[str, Seams]) -> Figure:
    """Mean difference by distance from a block's border, a panel per grid."""
    figure, panels = new_figure(8.0, 3.2, 1, len(seams))
    panels = np.atleast_1d(panels)
    for axes, (grid, found) in zip(panels, seams.items(), strict=True):
        for i, mode in enumerate(found.maps):
            axes.plot(found.profile(mode), marker=".", label=mode, **style(i))
        axes.set(title=f"{grid} grid", xlabel="logits from the nearest border", yscale="log")
        axes.legend(fontsize=7)
    panels[0].set_ylabel("difference / deviation")
    return figure


def parts(measured: Mapping[str, Mapping[str, float]], by_part: Mapping[str, float]) -> Figure:
    """Time, memory and operations of a network's parts."""
    figure, panels = new_figure(10.0, 3.2, 1, 3)
    columns = (
        ({name: 1e3 * m["seconds"] for name, m in measured.items()}, "time, ms"),
        ({name: m["megabytes"] for name, m in measured.items()}, "temporary memory, MB"),
        (by_part, "GMACs per image"),
    )
    for i, (axes, (values, title)) in enumerate(zip(panels, columns, strict=True)):
        axes.barh(list(values), list(values.values()), color=COLORS[i])
        axes.invert_yaxis()
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
    return figure


def new_figure(width: float = 7.0, height: float = 4.0, *grid: int) -> tuple[Figure, Any]:
    """A figure of so many inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(*grid)


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=7, ncols=2)
