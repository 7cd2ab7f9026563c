"""Runs sweeps and writes their tables and the report.

python -m segblocks_jax.experiments.sweep --runs=DIR [--sweep=experiments/ablations/padding.py,...] \
    [--preset=street_scenes|camvid|camvid_gpu|cityscapes] [--seeds=0,1] [--data_dir=FOLDER]

Without --sweep, every sweep in `experiments/ablations` is run. What has a record in DIR is not run again, an
interrupted run goes on from its checkpoint, and several commands may work on one DIR at the same time.
"""

import pathlib
import sys

import jax
from absl import app, flags, logging

from segblocks_jax.analysis.records import write_tables
from segblocks_jax.experiments.plan import PRESETS, Plan, load_plan
from segblocks_jax.experiments.runner import run_all
from segblocks_jax.training.config import ConfigError
from segblocks_jax.training.logging import write_json

_RUNS = flags.DEFINE_string("runs", None, "Folder of runs, tables and the report.")
_SWEEP = flags.DEFINE_list("sweep", [], "Files of sweeps; default: all in experiments/ablations.")
_PRESET = flags.DEFINE_enum("preset", "street_scenes", list(PRESETS), "Base and data of the runs.")
_SEEDS = flags.DEFINE_list("seeds", [], "Seeds of every row; default: the preset's.")
_DATA = flags.DEFINE_string("data_dir", None, "Folder of the data set.")
_REPORT = flags.DEFINE_bool("report", True, "Write report.html, too.")


def main(argv: list[str]) -> int:
    """Runs what the flags say; 1 if a run failed, 2 if nothing could start."""
    logging.set_verbosity(logging.WARNING)
    files = _SWEEP.value or sorted(map(str, pathlib.Path("experiments/ablations").glob("*.py")))
    try:
        seeds = tuple(map(int, _SEEDS.value)) or None
        plans = [load_plan(file, _PRESET.value, seeds) for file in files]
        if not plans:
            raise ConfigError("no sweeps in experiments/ablations; run from the repository's root")
    except (ConfigError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    assert _RUNS.value is not None  # Absl checks it.
    runs = pathlib.Path(_RUNS.value)
    jax.config.update("jax_compilation_cache_dir", str(runs / "compilation_cache"))
    errors = sweep(plans, runs, _DATA.value)
    if _REPORT.value:
        from segblocks_jax.analysis.report import write_report

        print(write_report(runs, data_dir=_DATA.value))
    for key, reason in errors.items():
        print(f"error: {key}: {reason}", file=sys.stderr)
    return 1 if errors else 0


def sweep(plans: list[Plan], runs: pathlib.Path, data_dir: str | None = None) -> dict[str, str]:
    """Runs plans into a folder and writes their tables; what went wrong, by run."""
    for plan in plans:
        write_json(runs / "sweeps" / f"{plan.name}.json", plan.to_dict())
    configs = {key: config for plan in plans for key, config in plan.runs.items()}
    errors = run_all(configs, runs, data_dir)
    for path in write_tables(runs):
        print(path)
    return errors


if __name__ == "__main__":
    flags.mark_flag_as_required("runs")
    app.run(lambda argv: sys.exit(main(argv)))
