"""Writing of what was segmented, by threads: pictures, then a record of each file once all of its own are there."""

import concurrent.futures
import dataclasses
import pathlib
import statistics
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from segblocks_jax.data import pad_to_multiple
from segblocks_jax.inference.result_files import Job, save_result
from segblocks_jax.tasks.segmentation import pictures
from segblocks_jax.tasks.segmentation.labels import LabelTable

WRITERS = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Segmented:
    """A picture (h, w, 3), and what an engine says of it.

    `mask` and a learned policy's `scores` are None where there are none, `gmacs` (multiply-adds in 10^9) where they
    are unknown. `seconds` are the picture's part of its batch's; `compiled`: they include a compilation.
    """

    image: np.ndarray
    labels: np.ndarray
    mask: np.ndarray | None
    scores: np.ndarray | None
    gmacs: float | None
    seconds: float
    compiled: bool

    def facts(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "height": self.labels.shape[0],
            "width": self.labels.shape[1],
            "milliseconds": round(1e3 * self.seconds, 3),
            "compiled": self.compiled,
            "gmacs": self.gmacs,
            "high_fraction": None if self.mask is None else float(self.mask.mean()),
        }


@dataclasses.dataclass(frozen=True)
class Style:
    """What is drawn: a table's colors; grids on images padded to a `multiple`; all of it side by side, too."""

    table: LabelTable
    multiple: int
    side_by_side: bool = False


class Writers(concurrent.futures.ThreadPoolExecutor):
    """Threads that write; whoever gives them a picture waits where too many are pending."""

    def __init__(self, most: int) -> None:
        """Lets `most` pictures be pending."""
        super().__init__(WRITERS)
        self._room = threading.Semaphore(most)

    def write(self, function: Callable[..., Any], *arguments: Any) -> concurrent.futures.Future:
        """Calls the function in a thread."""
        self._room.acquire()
        future = self.submit(function, *arguments)
        future.add_done_callback(lambda _: self._room.release())
        return future


class FileWriter:
    """Writes the results of one file.

    Attributes:
        job: the file.
        error: the first reason why something is missing; None where all is there.
    """

    def __init__(
        self, writers: Writers, job: Job, style: Style, report: Callable[[str], None]
    ) -> None:
        """Writes nothing yet; `report` is called with a line about the file once it is done."""
        self.job = job
        self.error: str | None = None
        self._writers, self._style, self._report = writers, style, report
        self._written: list[concurrent.futures.Future[dict[str, Any]]] = []

    def add(self, frame: int | None, found: Segmented) -> None:
        """Writes a picture's results: of a file's only one, or of the frame of this number."""
        if not self._written:
            self.job.forget()
        self._written.append(self._writers.write(self._write, frame, found))

    def fail(self, reason: str) -> None:
        """Says that a picture has no results."""
        self.error = self.error or reason

    def finish(self) -> None:
        """Says that there are no more pictures. What was given to the threads before is done before this."""
        self._writers.submit(self._finish)

    def _write(self, frame: int | None, found: Segmented) -> dict[str, Any]:
        stem = self.job.stem if frame is None else self.job.stem / f"frame_{frame:06}"
        drawn = draw(found, self._style)
        files = [pathlib.Path(f"{stem}_{kind}.png") for kind in drawn]
        for file, (kind, pixels) in zip(files, drawn.items(), strict=True):
            save_result(file, pixels, self._style.table.colors if kind == "labels" else None)
        names = [file.relative_to(self.job.stem.parent).as_posix() for file in files]
        return {"frame": frame, **found.facts(), "files": names}

    def _finish(self) -> None:
        try:
            facts = [future.result() for future in self._written]
            if self.error is None:
                self.job.finish(facts)
                self._report(f"{self.job.file}: {describe(facts)}")
        except Exception as error:
            if not isinstance(error, OSError):
                traceback.print_exception(error)
            self.fail(f"can't write its results ({str(error) or type(error).__name__})")


def draw(found: Segmented, style: Style) -> dict[str, np.ndarray]:
    """The pictures to write, by kind; "labels" are train ids."""
    colors, image = style.table.colors, found.image
    drawn = {"labels": found.labels, "overlay": pictures.overlay(image, found.labels, colors)}
    padded = pad_to_multiple(image, style.multiple, (0, 0, 0))
    shown = pictures.panels(padded, found.labels, colors, found.mask, found.scores)
    if found.mask is not None:
        *_, drawn["grid"] = shown.values()
    if style.side_by_side:
        drawn["side_by_side"] = pictures.side_by_side(list(shown.values()), list(shown))
    return drawn


def describe(facts: Sequence[Mapping[str, Any]]) -> str:
    """A line about a file's pictures; means, where there are several."""

    def mean(name: str, of: Sequence[Mapping[str, Any]] = facts) -> float | None:
        known = [fact[name] for fact in of if fact[name] is not None]
        return statistics.fmean(known) if known else None

    each = "" if len(facts) == 1 else " each"
    parts = [] if len(facts) == 1 else [f"{len(facts)} pictures"]
    parts.append(f"{facts[0]['width']}x{facts[0]['height']}")
    # The time of a program, not of its compilation, where any picture has it.
    running = [fact for fact in facts if not fact["compiled"]]
    note = "" if running else " (with compilation)"
    parts.append(f"{mean('milliseconds', running or facts):.1f} ms{each}{note}")
    if (gmacs := mean("gmacs")) is not None:
        parts.append(f"{gmacs:.2f} GMACs{each}")
    if (high := mean("high_fraction")) is not None:
        parts.append(f"{high:.0%} of the blocks high")
    return ", ".join(parts)
