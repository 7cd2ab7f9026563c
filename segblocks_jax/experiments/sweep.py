"""Runs sweeps and writes their tables and the report.

python -m segblocks_jax.experiments.sweep --runs=DIR [--sweep=experiments/ablations/padding.py,...] \
    [--preset=street_scenes|camvid|camvid_gpu|cityscapes] [--seeds=0,1] [--data_dir=FOLDER]

Without --sweep, every sweep in `experiments/ablations` is run. What has a record in DIR is not run again, an
interrupted run goes on from its checkpoint, and several commands may work on one DIR at the same time.
"""

import importlib.util
import pathlib
import sys

import jax

from segblocks_jax.errors import UserError, extra
from segblocks_jax.experiments.sweep_arguments import arguments
from segblocks_jax.paths import check_writable
from segblocks_jax.structured_config import ConfigError

with extra("train", "a sweep"):
    from absl import logging

    from segblocks_jax.analysis.records import write_tables
    from segblocks_jax.experiments.plan import PRESETS, Plan, load_plan
    from segblocks_jax.experiments.runner import run_all
    from segblocks_jax.training.logging import write_json
    from segblocks_jax.training.preemption import EXIT_CODE, Preempted


def main(argv: list[str] | None = None) -> int:
    """Runs what the command line says; 1 if a run failed, 2 if nothing could start, 143 if stopped."""
    given = arguments(PRESETS).parse_args(argv)
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


if __name__ == "__main__":
    sys.exit(main())
