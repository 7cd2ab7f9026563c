"""Runs sweeps and writes their tables and the report.

    python -m segblocks_jax.experiments.sweep --runs=DIR [--sweep=experiments/ablations/padding.py,...] \
        [--preset=NAME] [--seeds=0,1] [--data_dir=FOLDER]

Without --sweep, every sweep in `experiments/ablations` is run. What has a record in DIR is not run again, an
interrupted run goes on from its checkpoint, and several commands may work on one DIR at the same time.
"""

import argparse
import datetime
import importlib.util
import json
import pathlib
import sys
import time
import traceback
from collections.abc import Mapping

import jax

from segblocks_jax.errors import UserError, extra
from segblocks_jax.paths import check_writable, expand
from segblocks_jax.structured_config import ConfigError

with extra("train", "a sweep"):
    from absl import logging

    from segblocks_jax.analysis.records import RECORD, run_folder, write_tables
    from segblocks_jax.experiments.plan import PRESETS, Plan, load_plan, start_of
    from segblocks_jax.systems.registry import system_of
    from segblocks_jax.systems.segblocks.config import ExperimentConfig
    from segblocks_jax.training import loop
    from segblocks_jax.training.lock import lock
    from segblocks_jax.training.logging import write_json
    from segblocks_jax.training.preemption import EXIT_CODE, Preempted
    from segblocks_jax.training.workdir import describe, load_modules, open_checkpoints


def main(argv: list[str] | None = None) -> int:
    """Runs what the command line says; 1 if a run failed, 2 if nothing could start, 143 if stopped."""
    given = _parser().parse_args(argv)
    logging.set_verbosity(logging.WARNING)
    files = given.sweep or sorted(map(str, pathlib.Path("experiments/ablations").glob("*.py")))
    try:
        check_writable(given.runs)
        plans = [load_plan(file, given.preset, given.seeds) for file in files]
        if not plans:
            raise ConfigError("no sweeps in experiments/ablations; run from the repository's root")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not given.no_report and importlib.util.find_spec("matplotlib") is None:
        print("error: the report needs Matplotlib; install it, or use --no_report", file=sys.stderr)
        return 2
    jax.config.update("jax_compilation_cache_dir", str(given.runs / "compilation_cache"))
    try:
        errors = sweep(plans, given.runs, given.data_dir)
    except Preempted as stop:
        print(stop)
        return EXIT_CODE
    except OSError as error:  # Beside the runs, each of which fails alone.
        print(f"error: {error}", file=sys.stderr)
        return 2
    for key, reason in errors.items():
        print(f"error: {key}: {reason}", file=sys.stderr)
    if not given.no_report and list(given.runs.glob("runs/*/run.json")):
        from segblocks_jax.analysis.report import write_report

        print(write_report(given.runs, data_dir=given.data_dir))
    return 1 if errors else 0


def sweep(plans: list[Plan], runs: pathlib.Path, data_dir: str | None = None) -> dict[str, str]:
    """Runs plans into a folder and writes their tables, however it ends; what went wrong, by run."""
    for plan in plans:
        write_json(runs / "sweeps" / f"{plan.name}.json", plan.to_dict())
    configs = {key: config for plan in plans for key, config in plan.runs.items()}
    try:
        return run_all(configs, runs, data_dir)
    finally:
        for path in write_tables(runs):
            print(path)


def run_all(
    configs: Mapping[str, ExperimentConfig], runs: pathlib.Path, data_dir: str | None = None
) -> dict[str, str]:
    """Trains what has no record yet, by key, in a folder on which several processes may work.

    A run that another process trains is passed over at first, and so are those that start from it. They are
    waited for at the end: if that process ends without a record, this one goes on from its last checkpoint.
    Returns what went wrong, by key; the other runs are done.
    """
    errors: dict[str, str] = {}
    for wait in (False, True):
        for number, (key, config) in enumerate(configs.items(), 1):
            folder, start = run_folder(runs, key), start_of(config)
            if key in errors or (folder / RECORD).is_file():
                continue
            if start is not None and not (run_folder(runs, start) / RECORD).is_file():
                if wait:
                    errors[key] = f"it starts from {start}, which isn't done"
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m segblocks_jax.experiments.sweep")
    parser.add_argument(
        "--runs", required=True, type=expand, help="folder of runs, tables and report"
    )
    parser.add_argument(
        "--sweep", type=_names, help="files of sweeps; default: all in experiments/ablations"
    )
    parser.add_argument(
        "--preset", default="street_scenes", choices=PRESETS, help="base and data of the runs"
    )
    parser.add_argument(
        "--seeds",
        type=_numbers,
        help="of every row, with tables of their own; default: the preset's",
    )
    parser.add_argument("--data_dir", help="folder of the data set")
    parser.add_argument("--no_report", action="store_true", help="tables only, without Matplotlib")
    return parser


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, _names(text)))


if __name__ == "__main__":
    sys.exit(main())
