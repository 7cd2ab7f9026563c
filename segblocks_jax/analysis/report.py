"""The report of a folder of runs: one HTML file that needs no network, its plots beside it as PNG and SVG.

    python -m segblocks_jax.analysis.report --runs=DIR [--output=FILE] [--run=KEY] [--images=0,7] [--data_dir=FOLDER]

Needs Matplotlib: ``pip install 'segblocks-jax[report]'``.
"""

import argparse
import html
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from segblocks_jax.analysis import plots
from segblocks_jax.analysis.page import Page
from segblocks_jax.analysis.records import (
    Record,
    format_markdown,
    read_records,
    read_sweeps,
    run_folder,
)
from segblocks_jax.analysis.run_details import inspect_run
from segblocks_jax.errors import InputError, UserError
from segblocks_jax.exact import evenly_spaced
from segblocks_jax.paths import check_writable, expand
from segblocks_jax.systems.segblocks.build import open_source
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.policies import policy_type
from segblocks_jax.training.logging import read_log


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
    page = Page(output.parent / "plots")
    for sweep in read_sweeps(runs):
        _add_sweep(page, runs, sweep, records)
    record = _chosen(records, run)
    if record is not None:
        _add_closeup(page, runs, record, images, data_dir)
    output.write_text(page.html("Runs of segblocks_jax"), encoding="utf-8")
    return output


def _add_sweep(
    page: Page, runs: pathlib.Path, sweep: dict[str, Any], records: dict[str, Record]
) -> None:
    name = sweep["name"]
    page.add(f"<h2>{html.escape(sweep['title'])}</h2>")
    _add_table(page, format_markdown(sweep, records))
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
    page: Page, runs: pathlib.Path, record: Record, images: Sequence[int], data_dir: str | None
) -> None:
    page.add(f"<h2>A close look at {html.escape(record['key'])}</h2>")
    config = ExperimentConfig.from_stored(record["config"])
    try:
        source = open_source(config, config.data.eval_split, data_dir)
        found = inspect_run(runs, record, source, images or evenly_spaced(len(source), 3))
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


def _add_table(page: Page, markdown: str) -> None:
    """The Markdown of `format_markdown`, without its links into the folder of runs."""
    title, _, head, _, *rows = markdown.splitlines()
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", line) for line in (head, *rows))
    names, *lines = ([cell.strip() for cell in line[1:-1].split("|")] for line in plain)
    page.table(title.replace("**", ""), names, lines)


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
