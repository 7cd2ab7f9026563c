"""Draws the figures of README, `docs/halo.md` and `docs/shapes.md`: python docs/figures.py [FOLDER]."""

import json
import pathlib
import sys

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import segblocks_jax as sb
from segblocks_jax.adaptive.buckets import round_to_bucket
from segblocks_jax.exact import count_of

HIGH, LOW = "#E69F00", "#56B4E9"
RESULTS = pathlib.Path(__file__).resolve().parent.parent / "experiments" / "results"

matplotlib.rcParams["svg.hashsalt"] = "segblocks_jax"


def halo(high_middle: bool) -> Figure:
    """Nine blocks, the middle one of the other resolution, and that one with its padding."""
    ramp = np.arange(144, dtype=np.float32).reshape(1, 12, 12, 1)
    mask = np.full((1, 3, 3), not high_middle)
    mask[0, 1, 1] = high_middle
    blocks = sb.split(ramp, mask)
    padded = sb.block_pad(blocks, 1)
    own = padded.high if high_middle else padded.low
    figure = Figure(figsize=(9, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    counts = {True: 0, False: 0}
    for row, column in np.ndindex(3, 3):
        is_high = bool(mask[0, row, column])
        block = np.asarray((blocks.high if is_high else blocks.low)[counts[is_high], ..., 0])
        counts[is_high] += 1
        _draw(left, block, (4 * column, 4 * row), 4, HIGH if is_high else LOW)
    values = np.asarray(own[0, ..., 0])
    _draw(right, values, (0, 0), len(values), "white")
    right.add_patch(
        Rectangle((1, 1), *[len(values) - 2] * 2, facecolor=HIGH if high_middle else LOW, alpha=0.5)
    )
    left.set_title("orange: high blocks, blue: low blocks")
    right.set_title("the middle block with its padding")
    for axes, side in ((left, 12), (right, len(values))):
        axes.set(xlim=(-0.1, side + 0.1), ylim=(side + 0.1, -0.1), aspect="equal")
        axes.axis("off")
    return figure


def _draw(axes: Axes, values: np.ndarray, corner: tuple[int, int], size: float, color: str) -> None:
    side = size / len(values)
    for row, column in np.ndindex(*values.shape):
        x, y = corner[0] + column * side, corner[1] + row * side
        axes.add_patch(Rectangle((x, y), side, side, facecolor=color, edgecolor="0.6", alpha=0.5))
        text = f"{values[row, column]:g}"
        axes.text(x + side / 2, y + side / 2, text, ha="center", va="center", fontsize=7)
    axes.add_patch(Rectangle(corner, size, size, fill=False, edgecolor="black", linewidth=1.5))


def buckets() -> Figure:
    """The number of high blocks that run, by the number that the policy wants."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    wanted = np.arange(33)
    for step, color in ((1 / 16, "#0072B2"), (1 / 4, "#D55E00")):
        run = [round_to_bucket(int(count), 32, step) for count in wanted]
        axes.step(wanted, run, where="mid", color=color, label=f"bucket_step = {step:g}")
    axes.plot(wanted, wanted, ":", color="0.4", label="wanted")
    axes.set(xlabel="high blocks that the policy wants, of 32", ylabel="high blocks that run")
    axes.legend()
    return figure


def static_curve() -> tuple[list[float], list[float]]:
    """GMACs and mIoU of static networks of CamVid at three scales, means over seeds, in the order of GMACs."""
    scores: dict[float, list[float]] = {}
    for file in (RESULTS / "claim_camvid_shipped/runs").glob("*static*/run.json"):
        metrics = json.loads(file.read_text())["metrics"]
        scores.setdefault(metrics["gmacs"], []).append(100 * metrics["miou"])
    gmacs = sorted(scores)
    return gmacs, [float(np.mean(scores[one])) for one in gmacs]


def shipped() -> Figure:
    """The mIoU of models that ship by their operations, beside static networks and other policies."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    names = {"camvid_efflite1": "CamVid", "street_scenes_efflite1": "street scenes"}
    for axes, (name, title) in zip(figure.subplots(1, 2), names.items(), strict=True):
        static = json.loads((RESULTS / f"{name}_static.json").read_text())
        size = {"camvid_efflite1": (360, 480), "street_scenes_efflite1": (512, 1024)}[name]
        engine, scores = sb.Engine.load(name), sb.shipped_models()[name]["metrics"]
        blocks = np.prod([-(-side // engine.multiple) for side in size])
        points = {}
        for share in (0.2, 0.4, 0.6):
            run = count_of(share, int(blocks)) / blocks
            points[run] = (engine.gmacs(size, run), 100 * scores[f"miou_at_{share}"])
        axes.plot(*zip(*points.values(), strict=True), "o-", color=HIGH, label="SegBlocks")
        for run, (gmacs, miou) in points.items():
            axes.annotate(
                f"{run:.0%} high", (gmacs, miou), (6, -12), textcoords="offset points", fontsize=8
            )
        others = {"heuristic": "s", "random": "v", "oracle": "^"}
        for policy, marker in others.items() if name == "camvid_efflite1" else ():
            files = sorted((RESULTS / "policy_rewards_efflite1").glob(f"{policy}_*.json"))
            miou = 100 * np.mean([json.loads(file.read_text())["miou"] for file in files])
            axes.plot(
                engine.gmacs(size, 19 / 48),
                miou,
                marker,
                color="0.5",
                label=f"{policy} blocks, 40%",
            )
        if name == "camvid_efflite1":
            axes.plot(
                *static_curve(), "*--", color="0.4", label="static, smaller inputs, 300 steps more"
            )
        metrics = static["metrics"]
        axes.plot(
            metrics["gmacs"],
            100 * metrics["miou"],
            "*",
            ms=12,
            color="black",
            label="static network",
        )
        axes.set(xlabel="GMACs per image", ylabel="mIoU, %", title=title, xlim=(0, None))
        axes.plot(
            metrics["gmacs"],
            100 * scores["miou_dense"],
            "o",
            mfc="white",
            color=HIGH,
            label="the same weights, dense",
        )
        axes.margins(y=0.15)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=8)
    return figure


def main(folder: pathlib.Path) -> None:
    """Writes all figures as SVG."""
    figures = {"halo_high": halo(True), "halo_low": halo(False), "buckets": buckets()}
    figures["shipped"] = shipped()
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    default = pathlib.Path(__file__).parent / "pictures"
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default)
