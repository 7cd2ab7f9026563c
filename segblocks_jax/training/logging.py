"""Logs of a run: scalars, pictures, JSON files, Weights & Biases, lines; and a stop where a metric is NaN."""

import contextlib
import json
import math
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorboardX
from jaxtyping import UInt8

from segblocks_jax.errors import InputError, UserError, extra
from segblocks_jax.paths import expand
from segblocks_jax.training.sharding import is_first

LOG = "metrics.jsonl"


class NonFiniteError(UserError, FloatingPointError):
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
        step: int | None = None,
    ):
        """Makes the folder if it is missing and opens both files, without lines after `step`, which are lost.

        With `wandb`, a project of Weights & Biases gets everything too, and the run's `config`; raises
        ModuleNotFoundError where the extra `wandb` is not installed.
        """
        self.folder = expand(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._wandb = None if wandb is None else _open_wandb(wandb, self.folder, config or {})
        if step is not None:
            kept = [
                json.dumps(line) + "\n" for line in read_log(self.folder) if line["step"] <= step
            ]
            _write_text(self.folder / LOG, "".join(kept))
        self._lines = (self.folder / LOG).open("a", encoding="utf-8")
        if self._lines.tell() and not (self.folder / LOG).read_bytes().endswith(b"\n"):
            self._lines.write("\n")  # Behind what a kill has cut.
        self._tensorboard = tensorboardX.SummaryWriter(
            str(self.folder), purge_step=None if step is None else step + 1
        )

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes named numbers (Python, numpy or jax scalars) of one step; waits for the device.

        NaN and infinities are null in `metrics.jsonl`, and left out elsewhere. More than one number in a
        value is a ValueError.
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
            self._wandb.log(finite, step=int(step))

    def pictures(self, step: int, values: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]) -> None:
        """Writes named pictures of one step."""
        for name, picture in values.items():
            self._tensorboard.add_image(name, picture, int(step), dataformats="HWC")
        if self._wandb is not None:
            import wandb

            images = {name: wandb.Image(picture) for name, picture in values.items()}
            self._wandb.log(images, step=int(step))

    def flush(self) -> None:
        """Makes everything visible to a reader of the folder."""
        self._lines.flush()
        self._tensorboard.flush()

    def close(self) -> None:
        """Flushes and closes everything."""
        self._lines.close()
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_log(folder: Path | str) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, without those that were cut and those of lost steps.

    A step below the last one shows that the run was killed and went on from an earlier step, so what was
    logged from there on is lost. Of two lines that give a step the same value the later counts.
    """
    path, lines = Path(folder) / LOG, list[dict[str, Any]]()
    for text in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
            step, names = int(line["step"]), line["values"].keys()
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        kept = len(lines)
        while kept and lines[kept - 1]["step"] >= step:
            kept -= 1
        again = [old for old in lines[kept:] if not old["values"].keys() & names]
        lines[kept:] = [] if lines and lines[-1]["step"] > step else again
        lines.append(line)
    return lines


def write_json(path: Path | str, value: Any) -> None:
    """Writes JSON in one piece: a reader finds the old file or the whole new one, never a part.

    Numpy and jax arrays become lists; NaN and infinities, which JSON lacks, become null.
    """
    _write_text(Path(path), json.dumps(_finite_or_null(value), indent=2, allow_nan=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        file = Path(folder) / path.name
        file.write_text(text, encoding="utf-8")
        file.chmod(0o644)
        file.replace(path)


def check_finite(
    metrics: Mapping[str, Any], step: int, checkpoints: Path | str | None = None
) -> None:
    """Raises NonFiniteError where metrics are NaN or infinite; names all that are, and the checkpoints' folder."""
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
        raise InputError(
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


def _open_wandb(project: str, folder: Path, config: Mapping[str, Any]) -> Any:
    """A run in a project of Weights & Biases; its id in the folder lets a restart continue it."""
    with extra("wandb", f"loop.wandb={project!r}"):
        import wandb
    known = folder / "wandb_id"
    if not known.exists() or not known.read_text().strip():
        known.write_text(uuid.uuid4().hex)
    return wandb.init(
        project=project,
        name=folder.resolve().name,
        id=known.read_text(),
        resume="allow",
        dir=str(folder),
        config=dict(config),
    )


def say(line: str) -> None:
    """Tells people, on standard error, once for all processes."""
    if is_first():
        print(line, file=sys.stderr)


@contextlib.contextmanager
def shown(result: Any | None) -> Iterator[None]:
    """Prints a result that can't be written, if there is one."""
    try:
        yield
    except OSError:
        if result is not None:
            say(str(result))
        raise
