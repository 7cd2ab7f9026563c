"""Pages for a browser: one HTML file that needs no network, opened from the disk; its pictures beside it, too.

Needs Matplotlib: ``pip install 'segblocks-jax[report]'``.
"""

import base64
import dataclasses
import html
import io
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from segblocks_jax.errors import InputError, extra
from segblocks_jax.paths import check_writable

with extra("report", "a page"):
    from matplotlib.figure import Figure
    from PIL import Image

from segblocks_jax.analysis import plots
from segblocks_jax.tasks.segmentation.labels import LabelTable

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; font-size: 13px; margin: 1em 0; }}
caption {{ text-align: left; color: #444; padding-bottom: 0.3em; }}
td, th {{ border: 1px solid #bbb; padding: 3px 8px; text-align: left; }}
figure {{ margin: 1.5em 0; }}
figcaption {{ color: #444; font-size: 13px; }}
img {{ max-width: 100%; display: block; }}
.row {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 1em; }}
.row figure {{ margin: 0; }}
.legend {{ display: flex; flex-wrap: wrap; gap: 0.3em 1.2em; padding: 0; list-style: none; font-size: 13px; }}
.legend span {{ display: inline-block; width: 1em; height: 1em; border: 1px solid #444; vertical-align: -0.1em; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


_HEAD = ["network", "high blocks", "mIoU", "GMACs per image", "ms per image", "speed-up"]


class Page:
    """A page in the making; figures and pictures are embedded, and saved as files as well."""

    def __init__(self, folder: pathlib.Path) -> None:
        """Makes the folder of the pictures."""
        self._folder, self._parts = folder, [""]
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, text: str) -> None:
        """Adds HTML as it is."""
        self._parts.append(text)

    def table(self, caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Adds a table of plain text; the first cell of a row is its header."""
        lines = ["".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)]
        for first, *others in rows:
            cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in others)
            lines.append(f'<th scope="row">{html.escape(first)}</th>{cells}')
        body = "\n".join(f"<tr>{line}</tr>" for line in lines)
        self.add(f"<table>\n<caption>{html.escape(caption)}</caption>\n{body}\n</table>")

    def legend(self, table: LabelTable) -> None:
        """Adds the colors of classes."""
        items = (
            f'<li><span style="background: rgb({r}, {g}, {b})"></span> {html.escape(name)}</li>'
            for name, (r, g, b) in zip(table.classes, table.colors, strict=True)
        )
        self.add(f'<ul class="legend" aria-label="Colors of the classes">{"".join(items)}</ul>')

    def figure(self, name: str, caption: str, figure: Figure) -> None:
        """Adds a figure, saved as NAME.svg and NAME.png."""
        svg = io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        (self._folder / f"{name}.svg").write_bytes(svg.getvalue())
        figure.savefig(self._folder / f"{name}.png", dpi=150)
        self._image("image/svg+xml", svg.getvalue(), caption, caption)

    def picture(
        self, name: str, caption: str, pixels: UInt8[np.ndarray, "_ _ 3"], alt: str | None = None
    ) -> None:
        """Adds a picture, saved as NAME.png; `alt` says what it shows where the caption alone doesn't."""
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, format="PNG")
        (self._folder / f"{name}.png").write_bytes(png.getvalue())
        self._image("image/png", png.getvalue(), caption, caption if alt is None else alt)

    def _image(self, kind: str, data: bytes, caption: str, alt: str) -> None:
        source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        self.add(
            f'<figure><img alt="{html.escape(alt)}" src="{source}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def html(self, title: str) -> str:
        """The whole page."""
        return _PAGE.format(title=html.escape(title), body="\n".join(self._parts))


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """A network at a share of high blocks.

    Attributes:
        name: of the row, such as "SegBlocks, 40%".
        miou: from 0 to 1.
        gmacs: per image.
        seconds: per image.
        share: of high blocks; None without blocks.
    """

    name: str
    miou: float
    gmacs: float
    seconds: float
    share: float | None = None


def write_page(
    folder: str | os.PathLike[str],
    title: str,
    points: Sequence[OperatingPoint],
    images: Mapping[str, Mapping[str, UInt8[np.ndarray, "_ _ 3"]]],
    *,
    table: LabelTable | None = None,
    log: Sequence[Mapping[str, Any]] = (),
    text: str = "",
) -> pathlib.Path:
    """Writes what networks do at several operating points, with pictures, as `index.html` in a folder.

    Args:
        folder: made where it is missing; files of an earlier page are replaced.
        title: of the page.
        points: rows of the table; speed-ups are those over the first.
        images: by the name of an image, its pictures by what they show, see `run_details.columns`.
        table: of the classes, for a legend.
        log: lines of a training's log, see `training.logging.read_log`, for its curves.
        text: a paragraph on top, such as how it was measured.

    Returns:
        The HTML file.

    Raises:
        ValueError: no points.
        UnwritableError: the folder can't be written.
    """
    if not points:
        raise InputError("write_page: there are no operating points; give one at least")
    folder = check_writable(folder)
    page = Page(folder / "pictures")
    if text:
        page.add(f"<p>{html.escape(text)}</p>")
    page.add("<h2>Accuracy, operations and time</h2>")
    caption = f"Means over the images; speed-up over “{points[0].name}”"
    page.table(caption, _HEAD, [_cells(point, points[0]) for point in points])
    if log:
        page.add("<h2>Training</h2>")
        page.figure("training", "What the policy did over training", plots.curves({"policy": log}))
    if images:
        page.add("<h2>Images</h2>")
        if table is not None:
            page.legend(table)
    for i, (name, shown) in enumerate(images.items()):
        page.add(f'<h3>{html.escape(name)}</h3>\n<div class="row">')
        for j, (what, pixels) in enumerate(shown.items()):
            page.picture(f"image_{i}_{j}", what, pixels, alt=f"{name}: {what}")
        page.add("</div>")
    output = folder / "index.html"
    output.write_text(page.html(title), encoding="utf-8")
    return output


def format_points(points: Sequence[OperatingPoint]) -> str:
    """The table of the page as text; speed-ups are those over the first."""
    rows = [_HEAD, *(_cells(point, points[0]) for point in points)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *numbers in rows:
        cells = [name.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def _cells(point: OperatingPoint, first: OperatingPoint) -> list[str]:
    return [
        point.name,
        "dense" if point.share is None else f"{point.share:.1%}",
        f"{point.miou:.1%}",
        f"{point.gmacs:.3f}",
        f"{1e3 * point.seconds:.1f}",
        f"{first.seconds / point.seconds:.2f}",
    ]
