"""The report of a RANet: accuracy against operations, where images leave, easy and hard images; one HTML file.

    python -m segblocks_jax.analysis.early_exits --workdir=DIR [--output=FILE] [--checkpoint=STEP] [--data_dir=FOLDER]

Needs Matplotlib: ``pip install 'segblocks-jax[report]'``.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from segblocks_jax.analysis import plots
from segblocks_jax.analysis.page import Page
from segblocks_jax.errors import InputError, UserError
from segblocks_jax.paths import check_writable, expand
from segblocks_jax.systems.ranet.config import ExperimentConfig
from segblocks_jax.systems.ranet.fits import most_accurate
from segblocks_jax.systems.ranet.system import RANetSystem, probabilities
from segblocks_jax.systems.ranet.thresholds import confidences, exits_taken
from segblocks_jax.training.logging import write_json
from segblocks_jax.training.workdir import load_modules, open_checkpoints

_EXAMPLES = 6  # Pictures of each kind a class.
_SHOWN = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # q of the budgets whose exits are shown.
_SIDE = 64  # Pixels that a picture's shorter side has at least.


@dataclasses.dataclass(frozen=True, eq=False)
class Figures:
    """What is found of a trained network on its evaluation images.

    Attributes:
        macs: operations up to each exit.
        anytime: accuracy of each exit, in percent.
        budgeted: of each fit: `q`, `accuracy`, `macs`, `shares` of the exits, and `mixed`, the accuracy of exits
            that are drawn at random for the same operations, on the line between its neighbors.
        taken: the exit of each image at the most accurate fit.
        confidence: of each image, there.
        labels: of the images.
    """

    macs: Int[np.ndarray, "exits"]
    anytime: list[float]
    budgeted: list[dict[str, Any]]
    taken: Int[np.ndarray, "n"]
    confidence: np.ndarray
    labels: Int[np.ndarray, "n"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without what is of single images."""
        return {"macs": self.macs.tolist(), "anytime": self.anytime, "budgeted": self.budgeted}


def measure(system: RANetSystem, modules: Any) -> Figures:
    """Runs a calibrated network over its evaluation images; InputError where it has no thresholds."""
    fits = system.spec.fits
    if not fits:
        raise InputError(
            "early_exits: the run has no thresholds; train with data.holdout above 0, the images to fit them on"
        )
    outputs = system.outputs(modules, system.eval_source, keep_logits=True)
    anytime = (100 * np.mean(outputs.exit_ranks == 0, 1)).tolist()
    budgeted = system.leaving(outputs)
    for row in budgeted:
        row["mixed"] = float(np.interp(row["macs"], system.macs, anytime))
    confidence = confidences(probabilities(outputs))
    taken = exits_taken(confidence, np.asarray(most_accurate(fits).thresholds, np.float32))
    own = confidence[taken, np.arange(len(taken))]
    return Figures(system.macs, anytime, budgeted, taken, own, outputs.labels)


def write_report(
    workdir: pathlib.Path,
    output: pathlib.Path | None = None,
    *,
    checkpoint: Any = "latest",
    data_dir: str | None = None,
) -> pathlib.Path:
    """Writes the report of a run, and `early_exits.json` beside it.

    Args:
        workdir: of the run.
        output: HTML file; default: `early_exits.html` in the workdir. Plots go to `plots` beside it.
        checkpoint: a step, "latest" or "best".
        data_dir: of its data set.

    Returns:
        The HTML file.

    Raises:
        FileNotFoundError: no such run or data.
        InputError: the run has no thresholds.
    """
    output = expand(output or workdir / "early_exits.html")
    check_writable(output.parent)
    with open_checkpoints(RANetSystem(ExperimentConfig()), workdir) as checkpoints:
        stored = checkpoints.read_extra(checkpoint)["config"]
    system = RANetSystem(ExperimentConfig.from_stored(stored), data_dir=data_dir)
    modules, step, _ = load_modules(system, workdir, checkpoint)
    found = measure(system, modules)
    page = Page(output.parent / "plots")
    _add_tables(page, found)
    page.figure("early_exits_accuracy", "Accuracy against operations.", accuracy_figure(found))
    page.figure("early_exits_shares", "Where images leave, by budget.", share_figure(found))
    _add_pictures(page, system, found)
    title = f"{system.config.name}, step {step}: early exits"
    output.write_text(page.html(title), encoding="utf-8")
    write_json(output.parent / "early_exits.json", {"step": step, **found.to_dict()})
    return output


def _add_tables(page: Page, found: Figures) -> None:
    rows = [
        [f"exit {k}", f"{macs / 1e6:.2f}", f"{accuracy:.2f}"]
        for k, (macs, accuracy) in enumerate(zip(found.macs, found.anytime, strict=True), 1)
    ]
    page.table("Anytime: all images leave at one exit.", ["", "MMACs", "top-1, %"], rows)
    rows = [
        [
            f"q = {row['q']:g}",
            f"{row['macs'] / 1e6:.2f}",
            f"{row['accuracy']:.2f}",
            f"{row['mixed']:.2f}",
            ", ".join(f"{share:.0%}" for share in row["shares"]),
        ]
        for row in found.budgeted
    ]
    head = ["", "MMACs, mean", "top-1, %", "of random exits", "images that leave at each exit"]
    caption = (
        "Budgeted: images leave where they are confident enough; thresholds are of held-out images."
    )
    page.table(caption, head, rows)


def accuracy_figure(found: Figures) -> Any:
    """Accuracy of leaving early, and of single exits, against operations."""
    figure, axes = plots.new_figure()
    axes.plot(found.macs / 1e6, found.anytime, marker="s", label="one exit", **plots.style(1))
    points = sorted((row["macs"] / 1e6, row["accuracy"]) for row in found.budgeted)
    axes.plot(*zip(*points, strict=True), marker=".", label="leaving early", **plots.style(0))
    axes.set(xlabel="MMACs per image", ylabel="top-1, %")
    axes.legend(fontsize=7)
    return figure


def share_figure(found: Figures) -> Any:
    """Shares of the exits at some budgets, as stacked bars."""
    figure, axes = plots.new_figure()
    rows = [row for row in found.budgeted if row["q"] in _SHOWN]
    names = [f"{row['q']:g}\n{row['macs'] / 1e6:.1f}" for row in rows]
    bottom = np.zeros(len(rows))
    for k in range(len(found.macs)):
        shares = np.array([100 * row["shares"][k] for row in rows])
        color = plots.COLORS[k % len(plots.COLORS)]
        axes.bar(names, shares, bottom=bottom, label=f"exit {k + 1}", color=color, alpha=1 - k / 20)
        bottom += shares
    axes.set(xlabel="q, and mean MMACs", ylabel="images, %")
    axes.legend(fontsize=7, ncols=2)
    return figure


def examples(found: Figures, label: int, *, hard: bool) -> list[int]:
    """Numbers of images of a class: those that left first, the most confident ahead; or last, the least so."""
    own = np.flatnonzero(found.labels == label)
    order = np.lexsort((-found.confidence[own], found.taken[own]))
    return own[order[::-1] if hard else order][:_EXAMPLES].tolist()


def _add_pictures(page: Page, system: RANetSystem, found: Figures) -> None:
    crop, source = system.config.data.eval_crop(), system.eval_source
    for label, name in enumerate(system.classes[:20]):
        for kind in ("easy", "hard"):
            numbers = examples(found, label, hard=kind == "hard")
            if numbers:
                row = _row([crop(source[i]["image"])[0] for i in numbers])
                exits = ", ".join(str(found.taken[i] + 1) for i in numbers)
                page.picture(f"{kind}_{label}", f"{name}, {kind}: left at exit {exits}", row)


def _row(images: Sequence[UInt8[np.ndarray, "h w 3"]]) -> UInt8[np.ndarray, "_ _ 3"]:
    """Side by side, whole multiples of their size."""
    times = max(1, -(-_SIDE // min(images[0].shape[:2])))
    large = [image.repeat(times, 0).repeat(times, 1) for image in images]
    gap = np.full((large[0].shape[0], 4, 3), 255, np.uint8)
    return np.concatenate([part for image in large for part in (image, gap)][:-1], 1)


def main() -> None:
    """Writes the report and says where."""
    parser = argparse.ArgumentParser(prog="python -m segblocks_jax.analysis.early_exits")
    parser.add_argument("--workdir", required=True, type=expand, help="folder of the run")
    parser.add_argument("--output", type=expand, help="default: early_exits.html in the workdir")
    parser.add_argument("--checkpoint", default="latest", help="a step, 'latest' or 'best'")
    parser.add_argument("--data_dir", help="folder of the data set")
    given = parser.parse_args()
    checkpoint = int(given.checkpoint) if given.checkpoint.isdigit() else given.checkpoint
    try:
        path = write_report(
            given.workdir, given.output, checkpoint=checkpoint, data_dir=given.data_dir
        )
    except (UserError, OSError) as error:
        parser.error(str(error))
    print(path)


if __name__ == "__main__":
    main()
