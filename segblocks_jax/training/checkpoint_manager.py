"""Orbax's manager of a folder of checkpoints, as this library sets it up."""

import logging
import pathlib
import shutil
from collections.abc import Callable, Mapping

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from segblocks_jax.training.damage import write_inventory
from segblocks_jax.training.sharding import is_first

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
    """Opens a folder, and makes it where it is missing.

    Args:
        folder: absolute.
        keep: how many of the latest checkpoints to keep, besides the best.
        rank: of a checkpoint's metrics; the best has the largest.
    """

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
