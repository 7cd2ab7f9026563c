"""What a run leaves to read: scalars, pictures, JSON files, progress; and a stop when they turn NaN."""

import json
import math
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rich.console
import rich.progress
import tensorboardX
from jaxtyping import UInt8

from segblocks_jax.training.wandb_log import WandbLog

LINE_SECONDS = 10.0  # between two lines of progress where there is no terminal


class NonFiniteError(FloatingPointError):
    """A metric is NaN or infinite, so training on would only waste time."""


class RunLog:
    """Scalars and pictures of a run, to TensorBoard files and, scalars, to `metrics.jsonl` in one folder.

    A line of `metrics.jsonl` is `{"step": 10, "time": 1712.5, "values": {"train/loss": 0.5}}`,
    time in seconds since the epoch. A restarted run appends.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        wandb: str | None = None,
        config: Mapping[str, Any] | None = None,
    ):
        """Makes the folder if it is missing and opens both files.

        Args:
          folder: of the run.
          wandb: a project of Weights & Biases that gets everything too; needs the extra `wandb`.
          config: of the run, for Weights & Biases.

        Raises:
          ModuleNotFoundError: `wandb` is wanted and not installed.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._wandb = None if wandb is None else WandbLog(wandb, self.folder, config or {})
        self._lines = (self.folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._tensorboard = tensorboardX.SummaryWriter(str(self.folder))

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes named numbers (Python, numpy or jax scalars) of one step; waits for the device.

        NaN and infinities are null in `metrics.jsonl`, and left out elsewhere.

        Raises:
          ValueError: a value is not a single number.
        """
        numbers = {name: _number(name, value) for name, value in values.items()}
        now = time.time()
        line = {"step": int(step), "time": now, "values": numbers}
        self._lines.write(json.dumps(_finite_or_null(line), allow_nan=False) + "\n")
        self._lines.flush()
        finite = {name: number for name, number in numbers.items() if math.isfinite(number)}
        for name, number in finite.items():
            self._tensorboard.add_scalar(name, number, int(step), walltime=now)
        if self._wandb is not None:
            self._wandb.scalars(int(step), finite)

    def pictures(self, step: int, values: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]) -> None:
        """Writes named pictures of one step."""
        for name, picture in values.items():
            self._tensorboard.add_image(name, picture, int(step), dataformats="HWC")
        if self._wandb is not None:
            self._wandb.pictures(int(step), values)

    def flush(self) -> None:
        """Makes everything visible to a reader of the folder."""
        self._lines.flush()
        self._tensorboard.flush()

    def close(self) -> None:
        """Flushes and closes everything."""
        self._lines.close()
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Progress:
    """Progress of a loop with images a second and the time left; a context manager.

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
        """Describes the loop.

        Args:
          title: what runs, such as "train".
          total_steps: the step at which the loop ends.
          images_per_step: images of all devices in one step.
          first_step: the step at which this run starts, not 0 when it continues another.
          console: where to write; standard error by default.
        """
        self._title, self._total, self._images = title, total_steps, images_per_step
        self._console = rich.console.Console(stderr=True) if console is None else console
        self._step = first_step
        self._timed_from: tuple[int, float] | None = None
        self._last_line = time.monotonic()
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> "Progress":
        self._last_line = time.monotonic()
        if self._console.is_terminal:
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TextColumn("{task.fields[speed]}"),
                rich.progress.TimeRemainingColumn(),
                rich.progress.TextColumn("{task.fields[note]}", markup=False),
                console=self._console,
            )
            self._task = self._bar.add_task(
                self._title, total=self._total, completed=self._step, speed="", note=""
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        else:
            self._print_line("")

    def update(self, step: int, note: str = "") -> None:
        """Says that `step` steps are done; `note` is shown behind, such as "loss 0.41"."""
        self._step = step
        if self._timed_from is None:
            self._timed_from = (step, time.monotonic())
        if self._bar is not None:
            speed = f"{self.images_per_second:.1f} images/s"
            self._bar.update(self._task, completed=step, speed=speed, note=note)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
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

    Where devices run behind the host, what the wait hides from them is counted too: the share is an
    upper bound of what they lose.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forgets everything so far, such as an evaluation that is no part of the loop."""
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


def write_json(path: Path | str, value: Any) -> None:
    """Writes JSON in one piece: a reader finds the old file or the whole new one, never a part.

    Numpy and jax arrays become lists; NaN and infinities, which JSON lacks, become null.
    """
    path = Path(path)
    text = json.dumps(_finite_or_null(value), indent=2, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def check_finite(
    metrics: Mapping[str, Any], step: int, checkpoints: Path | str | None = None
) -> None:
    """Stops a run whose metrics are no numbers any more.

    Args:
      metrics: named scalars.
      step: the step they belong to.
      checkpoints: folder of the run's checkpoints, to name in the error.

    Raises:
      NonFiniteError: a metric is NaN or infinite; names all of them.
    """
    numbers = {name: _number(name, value) for name, value in metrics.items()}
    bad = [f"{name} = {number}" for name, number in numbers.items() if not math.isfinite(number)]
    if bad:
        where = f" (in {checkpoints})" if checkpoints is not None else ""
        raise NonFiniteError(
            f"step {step}: {', '.join(bad)}, expected finite numbers; the checkpoints{where} are "
            "from before. Train with a lower learning rate in another workdir: this one keeps its configuration"
        )


def _number(name: str, value: Any) -> float:
    array = np.asarray(value)
    if array.size != 1:
        raise ValueError(
            f"metric {name!r} has shape {array.shape}, expected a single number; reduce it, or log "
            "its entries under names of their own"
        )
    return float(array.reshape(()))


def _finite_or_null(value: Any) -> Any:
    """The value in what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _finite_or_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_or_null(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite_or_null(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
