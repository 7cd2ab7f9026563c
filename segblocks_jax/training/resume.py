"""Continuing a run: with its own configuration, and knowing how long it has taken."""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.training.structured_config import ConfigError

MAY_CHANGE = (
    "name",
    "rematerialize",
    "data.data_dir",
    "data.workers",
    "model.implementation",
    "loop",
)
"""Fields, and groups of them, that change where or how fast a run computes, or what it reports."""


def check_same_config(stored: Mapping[str, Any], config: ExperimentConfig, folder: Path) -> None:
    """Refuses to continue a run of another configuration; `MAY_CHANGE` may differ.

    Args:
        stored: the run's, as its checkpoints hold it. Fields that it lacks had their defaults.
        config: what to continue with.
        folder: of the checkpoints, for the error.

    Raises:
        ConfigError: they differ; lists every field.
    """
    defaults = flat(ExperimentConfig().to_dict())
    before = flat(stored)
    now = flat(json.loads(json.dumps(config.to_dict())))
    lines = [
        f"  {name}: {before.get(name, defaults.get(name))!r} there, {now.get(name)!r} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name, defaults.get(name)) != now.get(name) and not _may_change(name)
    ]
    if lines:
        raise ConfigError(
            f"{folder} holds a run of another configuration:\n"
            + "\n".join(lines)
            + "\nNothing was changed. Use another workdir, or put these fields back; these may differ: "
            + ", ".join(MAY_CHANGE)
        )


def _may_change(name: str) -> bool:
    return any(name == free or name.startswith(free + ".") for free in MAY_CHANGE)


def flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields of nested mappings by their names on the command line; tuples as lists."""
    fields: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            fields |= flat(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = list(value) if isinstance(value, tuple) else value
    return fields


@dataclasses.dataclass
class Timing:
    """How long a run has taken, over all its starts.

    Attributes:
        starts: how often it was started.
        before: seconds that earlier starts took, up to the checkpoint that the next continued from.
    """

    starts: int = 1
    before: float = 0.0

    def __post_init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Up to now: steps, evaluations, compilations, not what was lost and done again."""
        return self.before + time.monotonic() - self._began

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint and for results."""
        return {"starts": self.starts, "seconds": round(self.seconds, 3)}

    @classmethod
    def after(cls, stored: Mapping[str, Any] | None) -> "Timing":
        """Goes on from what a checkpoint holds."""
        if stored is None:
            return cls()
        return cls(starts=int(stored["starts"]) + 1, before=float(stored["seconds"]))
