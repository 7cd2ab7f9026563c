"""Phases: several trainings in one configuration, of which later ones start from the network of an earlier one.

A configuration's `phases` are, by name, the groups of fields that differ from the rest of it. `after` in a phase
names the one that it starts from. They are the rows of a sweep, in the folder WORKDIR: each is trained once, what
was interrupted goes on from its checkpoint, and records and a table are written.
"""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from segblocks_jax.analysis.records import run_folder
from segblocks_jax.errors import InputError
from segblocks_jax.experiments.plan import Plan, Sweep, make_plan
from segblocks_jax.experiments.sweep import sweep
from segblocks_jax.structured_config import flat
from segblocks_jax.systems.segblocks.config import ExperimentConfig

PHASES = "phases"


def plan_of(fields: Mapping[str, Any]) -> Plan | None:
    """The plan of a configuration's phases, None where it has none; ConfigError where one can't run."""
    phases, base = fields.get(PHASES), {k: v for k, v in fields.items() if k != PHASES}
    if not phases:
        return None
    config = ExperimentConfig.from_mapping(base)
    rows = {name: flat(changes) for name, changes in phases.items()}
    return make_plan(config.name, Sweep(config.name, rows), config.to_dict(), (config.seed,))


def find_phase(
    plan: Plan, name: str | None, workdir: pathlib.Path
) -> tuple[ExperimentConfig, pathlib.Path]:
    """The configuration and the folder of one phase."""
    if name is None or name not in plan.rows:
        raise InputError(
            f"--phase is {name!r}; this configuration has phases, give one of {', '.join(plan.rows)}"
        )
    ((key, config),) = plan.rows[name].items()
    return config, run_folder(workdir, key)


def train_phases(plan: Plan, workdir: pathlib.Path, data_dir: str | None) -> int:
    """Trains what isn't done yet; 1 if a phase failed."""
    for name in plan.rows:
        print(f"phase {name}: {find_phase(plan, name, workdir)[1]}", file=sys.stderr)
    errors = sweep([plan], workdir, data_dir)
    for key, reason in errors.items():
        print(f"error: {key}: {reason}", file=sys.stderr)
    return 1 if errors else 0
