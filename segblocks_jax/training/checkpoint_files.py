"""Folders of checkpoints: Orbax's manager of them; its errors as one that names the file and what is wrong.

TensorStore and Orbax raise errors of many kinds, some of which name no file. Beside a checkpoint's arrays lies
an inventory of their files' sizes, which tells what a copy that stopped, or Git LFS, has left of them.
"""

import contextlib
import json
import logging
import os
import pathlib
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from segblocks_jax.errors import InputError, UnwritableError
from segblocks_jax.training.sharding import is_first

INVENTORY = "state_files.json"
_NEEDED = ("record/metadata", "state/manifest.ocdbt")
_NOT_READ = ("_CHECKPOINT_METADATA", "commit_success.txt", INVENTORY)
_JSON = ("metadata", "metrics", "_METADATA")
_LFS = b"version https://git-lfs"


class DamagedCheckpointError(InputError):
    """A file of a checkpoint is not what was written; the text names it, and a step that is whole."""


def is_complete(step: pathlib.Path) -> bool:
    """Whether a checkpoint was written to the end."""
    return all((step / item).is_dir() for item in ("state", "record"))


def write_inventory(step: pathlib.Path) -> None:
    """Notes the sizes of the files that hold a checkpoint's arrays."""
    files = (path for path in (step / "state").rglob("*") if path.is_file())
    sizes = {str(path.relative_to(step)): path.stat().st_size for path in files}
    (step / INVENTORY).write_text(json.dumps(sizes), encoding="utf-8")


@contextlib.contextmanager
def writing(folder: pathlib.Path) -> Iterator[None]:
    """Turns what Orbax raises on a full or read-only disk into one `UnwritableError`."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        number = int(code[1]) if code else getattr(error, "errno", None)
        if number is None:
            raise
        raise UnwritableError(
            f"{folder}: {os.strerror(number)}; the earlier checkpoints are as they were"
        ) from error


@contextlib.contextmanager
def reading(folder: pathlib.Path, *steps: int) -> Iterator[None]:
    """Turns errors of reading into a `DamagedCheckpointError`, if these steps of a folder, or any, are damaged."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        known = sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit() and is_complete(p))
        for step in steps or known:
            if reason := _damage(folder / str(step), error):
                raise DamagedCheckpointError(_advice(folder, step, reason, known)) from error
        raise


def _advice(folder: pathlib.Path, step: int, reason: str, known: list[int]) -> str:
    text = f"step {step} in {folder} is damaged: {reason}."
    whole = [other for other in known if other != step and not _damage(folder / str(other))]
    if not whole:
        return f"{text} No other step is whole. Copy it again, or train in another folder"
    move = shlex.join(["mv", str(folder / str(step)), str(folder / f"damaged_{step}")])
    text += (
        f" Step {whole[-1]} is whole. To go on from it, move the damaged one away:\n  {move}\nand start the same"
        " command again"
    )
    if "/metrics/" in reason:  # Which are read for all steps.
        return text
    return f"{text}. To evaluate or export it as it is, add --checkpoint={whole[-1]}"


def _damage(step: pathlib.Path, error: Exception | None = None) -> str | None:
    """Which file is not what was written, and how one sees it; None where all are."""
    try:
        sizes = json.loads((step / INVENTORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # Of an earlier version, or itself damaged.
        sizes = {}
    found = {str(path.relative_to(step)) for path in step.rglob("*") if not path.is_dir()}
    for name in sorted({*_NEEDED, *sizes, *found}):
        if not name.endswith(_NOT_READ) and (reason := _reason(step / name, sizes.get(name))):
            return f"{step / name} {reason}"
    if not re.match(r"[A-Z_]{5,}: ", str(error)):  # A code of TensorStore, such as DATA_LOSS.
        return None
    named = re.findall(rf'"({re.escape(str(step))}/[^"]*)"', str(error))
    return f"{named[-1] if named else step / 'state'} can't be decoded"


def _reason(path: pathlib.Path, size: int | None) -> str | None:
    if not path.is_file():
        return "is missing"
    with path.open("rb") as file:
        start = file.read(len(_LFS))
    if start == _LFS:
        return "is a Git LFS pointer; `git lfs pull` fetches the file"
    if size not in (None, path.stat().st_size):
        return f"has {path.stat().st_size} of {size} bytes"
    if not start:
        return "is empty"
    if path.name in _JSON:
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            return f"is cut or was changed ({error})"
    return None


_UNFINISHED = ".orbax-checkpoint-tmp"


def not_raised(record: logging.LogRecord) -> bool:
    """A filter of logs: drops what Orbax also raises, which it logs with a traceback per thread and layer."""
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


def remove_unfinished(folder: pathlib.Path) -> None:
    """Removes what saves that were killed have left; only for who saves there, alone."""
    if is_first():
        for path in folder.glob(f"*{_UNFINISHED}"):
            shutil.rmtree(path, ignore_errors=True)


def open_manager(
    folder: pathlib.Path, keep: int, rank: Callable[[Mapping[str, float]], float]
) -> ocp.CheckpointManager:
    """Opens or makes an absolute folder; it keeps the `keep` latest checkpoints and that of the largest `rank`."""

    def add_inventory() -> None:
        """Before Orbax gives a checkpoint its final name."""
        if is_first():
            for step in folder.glob(f"*{_UNFINISHED}"):
                write_inventory(step)

    # The best alone, as Orbax's best_fn keeps it, would drop the latest: a restart's need.
    policy = checkpoint_managers.AnyPreservationPolicy(
        [checkpoint_managers.LatestN(keep), checkpoint_managers.BestN(get_metric_fn=rank, n=1)]
    )
    return ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
            best_fn=rank,
            preservation_policy=policy,
            async_options=ocp.AsyncOptions(post_finalization_callback=add_inventory),
        ),
        item_handlers={
            "state": ocp.StandardCheckpointHandler(),
            "record": ocp.JsonCheckpointHandler(),
        },
    )
