"""Continuing a run: with its own configuration, and knowing how long it has taken."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segblocks_jax.structured_config import Config, ConfigError, fields_affecting, flat


def check_same_config(stored: Mapping[str, Any], config: Config, folder: Path) -> None:
    """Refuses to continue a run of another configuration; fields that don't affect results may differ.

    Args:
        stored: the run's, as its checkpoints hold it, of any schema that can be migrated.
        config: what to continue with.
        folder: of the checkpoints, for the error.

    Raises:
        ConfigError: they differ; lists every field.
    """
    try:
        before = flat(config.from_stored(stored).to_dict())
    except ConfigError as error:
        raise ConfigError(f"{folder} can't be continued: {error}") from error
    now, free = flat(config.to_dict()), fields_affecting(type(config), "nothing", "rounding")
    lines = [
        f"  {name}: {before[name]!r} there, {now[name]!r} now"
        for name in sorted(now)
        if before[name] != now[name] and name not in free
    ]
    if lines:
        raise ConfigError(
            f"{folder} holds a run of another configuration:\n"
            + "\n".join(lines)
            + "\nNothing was changed. Use another workdir, or put these fields back; these may differ: "
            + ", ".join(free)
        )


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
