"""Runs of sweeps: each trained once, by one process at a time, and recorded as JSON."""

import contextlib
import datetime
import fcntl
import json
import pathlib
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import nnx

from segblocks_jax.adaptive.cost import count_macs
from segblocks_jax.analysis.records import RECORD, run_folder
from segblocks_jax.errors import UserError
from segblocks_jax.interop import load_model
from segblocks_jax.nn import scaled_multiple, scaled_size
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.evaluation import Evaluation, evaluate
from segblocks_jax.systems.segblocks.sources import open_source
from segblocks_jax.training import loop
from segblocks_jax.training.checkpoints import Checkpoints
from segblocks_jax.training.logging import write_json
from segblocks_jax.training.preemption import Preempted

# Policies whose scores rank blocks, so that all can be held to the same share.
_RANKING = ("reinforce", "heuristic", "random", "middle")


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
            with lock(folder, wait) as mine:
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


@contextlib.contextmanager
def lock(folder: pathlib.Path, wait: bool) -> Iterator[bool]:
    """Whether this process alone may work in a folder; with `wait`, only returns when it may.

    The kernel frees the lock of a process that ends, however it ends, so none is left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def train_and_record(
    key: str, config: ExperimentConfig, folder: pathlib.Path, data_dir: str | None
) -> None:
    """Trains a run, from its last checkpoint where it was interrupted, and writes its record last."""
    splits = config.data.train_split, config.data.eval_split
    train_source, source = (open_source(config, split, data_dir) for split in splits)
    with Checkpoints(folder / "checkpoints", model=config.model.name) as checkpoints:
        first = checkpoints.latest_step() or 0
    result = loop.train(config, train_source, source, folder)
    trained = time.perf_counter()
    model = load_model(folder / "export")
    system = model if isinstance(model, nnx.Dict) else nnx.Dict(net=model)
    steps = config.optim.steps
    pretrained = loop.read_pretrained(config, folder)
    record = loop.describe(result, source, config, steps, pretrained)
    record |= {
        "key": key,
        "at_target": None,
        "shares": list(result.shares),
        "data": {
            s.split: {"images": len(s), "skipped": len(s.skipped)} for s in (train_source, source)
        },
        "counts": _counts(system, config, result, source.sizes[0]),
    }
    if config.policy.name in _RANKING:
        held = evaluate(system, source, config, mode=f"share={config.policy.target}")
        record["at_target"] = held.to_dict(source.table.classes)
    timing = json.loads((folder / f"eval_{steps}.json").read_text())["timing"]
    record["time"] = {
        "train_seconds": timing["seconds"],
        "starts": timing["starts"],
        "evaluate_seconds": time.perf_counter() - trained,
        "from_step": first,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / RECORD, record)


def _counts(
    system: nnx.Dict, config: ExperimentConfig, result: Evaluation, size: tuple[int, int]
) -> dict[str, Any]:
    """Parameters, and multiply-adds by part of one image at the mean share of high blocks."""
    policy = system.policy if "policy" in system else None
    scale = config.model.input_scale
    multiple = scaled_multiple(scale) if policy is None else policy.block_size
    height, width = (-(-side // multiple) * multiple for side in size)
    shape = scaled_size((height, width), scale)
    macs = count_macs(
        system.net,
        (1, *shape, 3),
        result.high_fraction,
        policy=policy,
        low_factor=config.policy.low_factor,
    )
    leaves = jax.tree.leaves(nnx.state(system, nnx.Param))
    return {
        "parameters": sum(leaf.size for leaf in leaves),
        "gmacs_by_part": {name: value / 1e9 for name, value in macs.by_part.items()},
        "size": list(shape),
    }
