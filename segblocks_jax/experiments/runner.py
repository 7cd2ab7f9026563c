"""Runs of sweeps: each trained once, by one process at a time, and recorded as JSON."""

import datetime
import json
import pathlib
import sys
import time
import traceback
from collections.abc import Mapping

import jax

from segblocks_jax.analysis.records import RECORD, run_folder
from segblocks_jax.errors import UserError
from segblocks_jax.systems.registry import system_of
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.training import loop
from segblocks_jax.training.lock import lock
from segblocks_jax.training.logging import write_json
from segblocks_jax.training.preemption import Preempted
from segblocks_jax.training.workdir import describe, load_modules, open_checkpoints


def run_all(
    configs: Mapping[str, ExperimentConfig], runs: pathlib.Path, data_dir: str | None = None
) -> dict[str, str]:
    """Trains what has no record yet; several processes may work on one folder.

    A run that another process trains is passed over at first, and waited for at the end: if that process
    ends without a record, this one goes on from its last checkpoint.

    Args:
        configs: by key.
        runs: folder of all runs.
        data_dir: of the data set, as for `open_dataset`.

    Returns:
        What went wrong, by key. The other runs are done.
    """
    errors: dict[str, str] = {}
    for wait in (False, True):
        for number, (key, config) in enumerate(configs.items(), 1):
            folder = run_folder(runs, key)
            if key in errors or (folder / RECORD).is_file():
                continue
            with lock(folder, wait, "sweep.lock") as mine:
                if not mine or (folder / RECORD).is_file():
                    continue
                print(f"sweep: run {number} of {len(configs)}: {key}", file=sys.stderr)
                try:
                    train_and_record(key, config, folder, data_dir)
                except Preempted:
                    raise
                except Exception as error:  # Of this run; the others may do.
                    if not isinstance(error, UserError):
                        traceback.print_exception(error)
                    errors[key] = f"{type(error).__name__}: {error}"
            jax.clear_caches()  # Programs of this run; the next may be of another network.
    return errors


def train_and_record(
    key: str, config: ExperimentConfig, folder: pathlib.Path, data_dir: str | None
) -> None:
    """Trains a run, from its last checkpoint where it was interrupted, and writes its record last."""
    system = system_of(config.to_dict(), data_dir=data_dir)
    with open_checkpoints(system, folder) as checkpoints:
        first = checkpoints.latest_step() or 0
    result = loop.train(system, folder)
    trained = time.perf_counter()
    modules, step, pretrained = load_modules(system, folder)
    record = describe(system, result, step, pretrained)
    record |= {"key": key, **system.details(modules, result)}
    timing = json.loads((folder / f"eval_{step}.json").read_text())["timing"]
    record["time"] = {
        "train_seconds": timing["seconds"],
        "starts": timing["starts"],
        "evaluate_seconds": time.perf_counter() - trained,
        "from_step": first,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / RECORD, record)
