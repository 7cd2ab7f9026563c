"""Progress of loops, on a terminal and in log files."""

import math
import time

import rich.console
import rich.progress

LINE_SECONDS = 10.0  # Between two lines of progress where there is no terminal.


class Progress:
    """Progress of a loop with images/s and the time left; a context manager.

    A bar on a terminal; elsewhere a plain line every ten seconds, and one at the end.
    """

    def __init__(
        self,
        title: str,
        total_steps: int,
        *,
        images_per_step: int,
        first_step: int = 0,
        console: rich.console.Console | None = None,
    ):
        """Starts at `first_step`, not 0 when the run continues another, and counts to `total_steps`.

        The `title` says what runs, such as "train". A step has `images_per_step` of all devices. The console is
        standard error by default.
        """
        self._title, self._total, self._images = title, total_steps, images_per_step
        self._console = rich.console.Console(stderr=True) if console is None else console
        self._step = first_step
        self._timed_from: tuple[int, float] | None = None
        self._last_line = time.monotonic()
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[speed]}"),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> "Progress":
        self._last_line = time.monotonic()
        self._task = self._bar.add_task(
            self._title, total=self._total, completed=self._step, speed="", note=""
        )
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar.disable:
            self._print_line("")
        else:
            self._bar.stop()

    def update(self, step: int, note: str = "", total: int | None = None) -> None:
        """Says that `step` steps are done; `note` is shown behind, such as "loss 0.41".

        `total` replaces the number of steps, where it was a guess; it never falls behind `step`.
        """
        self._step = step
        self._total = max(self._total if total is None else total, step)
        if self._timed_from is None:
            self._timed_from = (step, time.monotonic())
        speed = f"{self.images_per_second:.1f} images/s"
        self._bar.update(self._task, completed=step, total=self._total, speed=speed, note=note)
        if self._bar.disable and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._print_line(note)

    @property
    def images_per_second(self) -> float:
        """Mean since the first update, so that the first compilation is left out; 0 before."""
        if self._timed_from is None:
            return 0.0
        first, started = self._timed_from
        seconds = time.monotonic() - started
        return (self._step - first) * self._images / seconds if seconds > 0 else 0.0

    def _print_line(self, note: str) -> None:
        self._last_line = time.monotonic()
        speed = self.images_per_second
        left = (self._total - self._step) * self._images / speed if speed > 0 else math.inf
        parts = [
            f"{self._title}: {self._step}/{self._total}",
            f"{speed:.1f} images/s",
            f"{_clock(left)} left",
            note,
        ]
        self._console.out(", ".join(part for part in parts if part), highlight=False)


class WaitShare:
    """The share of a loop's time that it waits for something: ``with waiting: batch = next(batches)``.

    Where devices run behind the host, this is an upper bound of what they lose.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Starts the measurement anew, for example after an evaluation, which is not part of the loop."""
        self._since = time.monotonic()
        self._waited = 0.0

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._waited += time.monotonic() - self._began

    def share(self) -> float:
        """Between 0 and 1, since the last call or restart."""
        passed = time.monotonic() - self._since
        share = self._waited / passed if passed > 0 else 0.0
        self.restart()
        return share


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
