"""What a sweep is: rows that differ from a base configuration in a few fields; every run known by its key."""

import dataclasses
import graphlib
import hashlib
import importlib.util
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from segblocks_jax.errors import MissingFileError
from segblocks_jax.paths import expand
from segblocks_jax.structured_config import ConfigError, fields_affecting, flat, nested
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.start import BESIDE

AFTER = "after"
Overrides = Mapping[str, Any]
"""Fields by their names on the command line, such as ``{"policy.target": 0.2}``."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Runs to compare: the `title` of their table, and its `rows`, by label what differs from the base.

    A row may name another as its `AFTER`: its runs then start from the network of that row's, seed by seed.
    """

    title: str
    rows: Mapping[str, Overrides]


@dataclasses.dataclass(frozen=True)
class Preset:
    """Where sweeps run: the file of the base configuration, and the seeds; every row is trained once with each."""

    config: str
    seeds: tuple[int, ...]


PRESETS = {
    "street_scenes": Preset("experiments/configs/cityscapes/ablations.py", (0,)),
    "camvid": Preset("experiments/configs/camvid/ablations_cpu.py", (0, 1)),
    "camvid_gpu": Preset("experiments/configs/camvid/rn18_reinforce40.py", (0, 1)),
    "cityscapes": Preset("experiments/configs/cityscapes/rn18_reinforce40.py", (0, 1)),
    "vessels": Preset("experiments/configs/custom/vessels_efflite1.py", (0, 1)),
    "camvid_efflite1": Preset("experiments/configs/camvid/efflite1_reinforce40.py", (0, 1)),
    "camvid_shipped": Preset("experiments/configs/camvid/efflite1_shipped.py", (0, 1)),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sweep on a preset.

    Attributes:
        name: of its files, from the preset's and the sweep's.
        title: of the table.
        rows: by label, the runs of all seeds: keys and configurations.
    """

    name: str
    title: str
    rows: Mapping[str, Mapping[str, ExperimentConfig]]

    @property
    def runs(self) -> dict[str, ExperimentConfig]:
        """All runs by key; rows may share some."""
        return {key: config for runs in self.rows.values() for key, config in runs.items()}

    def to_dict(self) -> dict[str, Any]:
        """What the tables need beside the runs' records, for JSON."""
        rows = [{"label": label, "runs": list(runs)} for label, runs in self.rows.items()]
        return {"name": self.name, "title": self.title, "rows": rows}


def make_plan(
    name: str, sweep: Sweep, base: Mapping[str, Any], seeds: tuple[int, ...] = (0,)
) -> Plan:
    """The runs of a sweep, every row once with each seed, from the fields of a `base` configuration.

    Rows that others start from come first.

    Raises:
        ConfigError: a row names an unknown field or row, or can't run.
    """
    rows: dict[str, dict[str, ExperimentConfig]] = {}
    fields = flat(base)
    for label in _in_order(name, sweep.rows):
        overrides = dict(sweep.rows[label])
        after = overrides.pop(AFTER, None)
        starts = list(rows[after]) if after is not None else [None] * len(seeds)
        changed = [
            nested({**fields, **_start(key), **overrides, "seed": seed})
            for seed, key in zip(seeds, starts, strict=True)
        ]
        try:
            configs = list(map(ExperimentConfig.from_mapping, changed))
        except ConfigError as error:
            raise ConfigError(f"{name}, row {label!r}: {error}") from error
        rows[label] = {run_key(config): config for config in configs}
    return Plan(name, sweep.title, rows)


def _start(key: str | None) -> Overrides:
    """What makes a run start from another of the same folder."""
    return {} if key is None else {"model.pretrained": None, "model.init_from": BESIDE + key}


def start_of(config: ExperimentConfig) -> str | None:
    """The key of the run that another starts from, if it is of the same folder."""
    start = config.model.init_from or ""
    return start.removeprefix(BESIDE) if start.startswith(BESIDE) else None


def _in_order(name: str, rows: Mapping[str, Overrides]) -> list[str]:
    """Labels such that each row comes behind the one that it starts from."""
    after = {label: row[AFTER] for label, row in rows.items() if row.get(AFTER) is not None}
    for label, other in after.items():
        if other not in rows:
            raise ConfigError(
                f"{name}, row {label!r}: it comes after {other!r}; expected one of {', '.join(rows)}"
            )
    needs = {label: {after[label]} if label in after else set() for label in rows}
    try:
        return list(graphlib.TopologicalSorter(needs).static_order())
    except graphlib.CycleError as error:
        raise ConfigError(f"{name}: rows start from each other: {error.args[1]}") from error


def base_fields(preset: str) -> dict[str, Any]:
    """The fields of a preset's configuration, whose file is read relative to the repository's root."""
    return _module(pathlib.Path(PRESETS[preset].config)).get_config().to_dict()


def load_plan(file: str | pathlib.Path, preset: str, seeds: tuple[int, ...] | None = None) -> Plan:
    """The plan of a file in `experiments/ablations`, whose `get_sweep(preset)` gives a `Sweep`.

    Raises:
        FileNotFoundError: no such file; presets are read relative to the repository's root.
        ConfigError: an unknown preset, or see `make_plan`.
    """
    if preset not in PRESETS:
        raise ConfigError(f"--preset is {preset!r}; expected one of {', '.join(PRESETS)}")
    chosen, module = PRESETS[preset], _module(expand(file))
    base, sweep = base_fields(preset), module.get_sweep(preset)
    name = f"{preset}_{pathlib.Path(file).stem}"
    if seeds is None:
        return make_plan(name, sweep, base, chosen.seeds)
    # A table of its own: seeds may be dealt out to commands that share a folder.
    return make_plan(f"{name}_seed_{'_'.join(map(str, seeds))}", sweep, base, seeds)


def run_key(config: ExperimentConfig) -> str:
    """The name of a run, from all that its result depends on: equal runs of several sweeps are trained once.

    Every field has a part, and the schema, but for those that affect nothing: after a default or the schema
    has changed, a run has another name and is trained anew.
    """
    chosen = flat(config.stored())
    for name in fields_affecting(type(config), "nothing"):
        del chosen[name]
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()
    return f"{config.model.name}_{config.policy.name}_{digest[:12]}"


def _module(file: pathlib.Path) -> Any:
    if not file.is_file():
        raise MissingFileError(f"sweep: no file {file}; run from the root of the repository")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
