"""The report of a folder of runs: one HTML file that needs no network, its plots beside it as PNG and SVG.

    python -m segblocks_jax.analysis.report --runs=DIR [--output=FILE] [--run=KEY] [--images=0,7] [--data_dir=FOLDER]

Needs Matplotlib: ``pip install 'segblocks-jax[report]'``.
"""

import argparse
import base64
import html
import io
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from segblocks_jax.errors import extra
from segblocks_jax.paths import check_writable, expand

with extra("report", "the report"):
    from matplotlib.figure import Figure
    from PIL import Image

from segblocks_jax.analysis import plots
from segblocks_jax.analysis.records import (
    Record,
    format_markdown,
    read_records,
    read_sweeps,
    run_folder,
)
from segblocks_jax.analysis.run_details import inspect_run
from segblocks_jax.errors import InputError, UserError
from segblocks_jax.systems.segblocks import seams
from segblocks_jax.systems.segblocks.build import open_source
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.policies import policy_type
from segblocks_jax.training.logging import read_log

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; font-size: 13px; margin: 1em 0; }}
td, th {{ border: 1px solid #bbb; padding: 3px 8px; text-align: left; }}
figure {{ margin: 1.5em 0; }}
figcaption {{ color: #444; font-size: 13px; }}
img {{ max-width: 100%; display: block; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def write_report(
    runs: pathlib.Path,
    output: pathlib.Path | None = None,
    *,
    run: str | None = None,
    images: Sequence[int] = (),
    data_dir: str | None = None,
) -> pathlib.Path:
    """Writes the report of all sweeps in a folder, and a close look at one run.

    Args:
        runs: folder of `segblocks_jax.experiments.sweep`.
        output: HTML file; default: `report.html` in the folder. Plots go to `plots` beside it.
        run: key of the run to look at closely; default: the first with a learned policy.
        images: numbers of its evaluation images; default: three, evenly spread.
        data_dir: of its data set.

    Returns:
        The HTML file.

    Raises:
        ValueError: no such run, or the folder has no finished one.
    """
    runs = expand(runs)
    output = expand(output or runs / "report.html")
    check_writable(output.parent)
    records = read_records(runs)
    if not records:
        raise InputError(f"report: {runs} has no finished run; run a sweep there first")
    page = _Page(output.parent / "plots")
    for sweep in read_sweeps(runs):
        _add_sweep(page, runs, sweep, records)
    record = _chosen(records, run)
    if record is not None:
        _add_closeup(page, runs, record, images, data_dir)
    output.write_text(page.html("Runs of segblocks_jax"), encoding="utf-8")
    return output


class _Page:
    """Sections of the report; saves each figure as files, too."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder, self._parts = folder, [""]
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, text: str) -> None:
        self._parts.append(text)

    def figure(self, name: str, caption: str, figure: Figure) -> None:
        svg = io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        (self._folder / f"{name}.svg").write_bytes(svg.getvalue())
        figure.savefig(self._folder / f"{name}.png", dpi=150)
        self._image("image/svg+xml", svg.getvalue(), caption)

    def picture(self, name: str, caption: str, pixels: np.ndarray) -> None:
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, format="PNG")
        (self._folder / f"{name}.png").write_bytes(png.getvalue())
        self._image("image/png", png.getvalue(), caption)

    def _image(self, kind: str, data: bytes, caption: str) -> None:
        text = html.escape(caption)
        source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        self.add(
            f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'
        )

    def html(self, title: str) -> str:
        return _PAGE.format(title=html.escape(title), body="\n".join(self._parts))


def _add_sweep(
    page: _Page, runs: pathlib.Path, sweep: dict[str, Any], records: dict[str, Record]
) -> None:
    name = sweep["name"]
    page.add(f"<h2>{html.escape(sweep['title'])}</h2>")
    page.add(_table(format_markdown(sweep, records)))
    done = ((row["label"], [key for key in row["runs"] if key in records]) for row in sweep["rows"])
    rows = {label: [records[key] for key in keys] for label, keys in done if keys}
    if not rows:
        page.add("<p>No run of this sweep is finished.</p>")
        return
    lines = {label: read_log(run_folder(runs, found[0]["key"])) for label, found in rows.items()}
    page.figure(f"{name}_tradeoff", "mIoU against operations", plots.tradeoff(rows))
    page.figure(f"{name}_classes", "IoU by class", plots.class_bars(rows))
    page.figure(f"{name}_curves", "Over training", plots.curves(lines))
    page.figure(f"{name}_shares", "Shares of high blocks", plots.share_histogram(rows))


def _add_closeup(
    page: _Page, runs: pathlib.Path, record: Record, images: Sequence[int], data_dir: str | None
) -> None:
    page.add(f"<h2>A close look at {html.escape(record['key'])}</h2>")
    config = ExperimentConfig.from_stored(record["config"])
    try:
        source = open_source(config, config.data.eval_split, data_dir)
        found = inspect_run(runs, record, source, images or seams.evenly_spaced(len(source), 3))
    except (UserError, IndexError) as error:
        page.add(f"<p>No pictures: {html.escape(str(error))}</p>")
        return
    for i, panel in enumerate(found.panels):
        page.picture(f"image_{i}", "Input, labels, prediction, errors, grid", panel)
    for grid, measured in found.seams.items():
        name, caption = grid.replace(" ", "_"), f"Difference from the dense network, {grid} grid"
        page.figure(f"seams_{name}", caption, plots.seam_maps(found.images[0], measured))
    page.figure("seams", "Seams by distance from a border", plots.seam_profiles(found.seams))
    by_part = record["counts"]["gmacs_by_part"]
    page.figure("parts", "Time, memory and operations by part", plots.parts(found.parts, by_part))


def _chosen(records: dict[str, Record], run: str | None) -> Record | None:
    if run is not None:
        if run not in records:
            raise InputError(f"report: no run {run!r}; there are {', '.join(records)}")
        return records[run]
    kinds = ((r, policy_type(r["config"]["policy"]["name"])) for r in records.values())
    return next((r for r, kind in kinds if kind is not None and kind.learned), None)


def _table(markdown: str) -> str:
    """The Markdown of `format_markdown` as HTML, without its links into the folder of runs."""
    title, _, head, _, *rows = markdown.splitlines()
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", line) for line in (head, *rows))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in plain]
    cells = [
        "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in line)
        for kind, line in zip(["th", *["td"] * len(rows)], lines, strict=True)
    ]
    body = "\n".join(f"<tr>{row}</tr>" for row in cells)
    return f"<p>{html.escape(title.replace('**', ''))}</p>\n<table>\n{body}\n</table>"


def main() -> None:
    """Writes the report and says where."""
    parser = argparse.ArgumentParser(prog="python -m segblocks_jax.analysis.report")
    parser.add_argument("--runs", required=True, type=expand, help="folder of the runs")
    parser.add_argument("--output", type=expand, help="default: report.html in the folder")
    parser.add_argument("--run", help="the run to look at closely; default: the first learned one")
    parser.add_argument("--images", default="", help="numbers of its images, such as 0,7")
    parser.add_argument("--data_dir", help="folder of the data set")
    given = parser.parse_args()
    images = [int(number) for number in given.images.split(",") if number]
    try:
        path = write_report(
            given.runs, given.output, run=given.run, images=images, data_dir=given.data_dir
        )
    except (UserError, OSError) as error:
        parser.error(str(error))
    print(path)


if __name__ == "__main__":
    main()
