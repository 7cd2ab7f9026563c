"""Weights & Biases, an optional second place for what a run logs."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from segblocks_jax.extras import extra


class WandbLog:
    """A run in a project of Weights & Biases. A restarted run continues the one of its folder."""

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Begins or continues the run; its id stays in `wandb_id` in the folder.

        Raises:
          ModuleNotFoundError: wandb is not installed.
        """
        with extra("wandb", f"loop.wandb={project!r}"):
            import wandb
        self._image = wandb.Image
        known = folder / "wandb_id"
        if not known.exists() or not known.read_text().strip():
            known.write_text(uuid.uuid4().hex)
        self._run = wandb.init(
            project=project,
            name=folder.resolve().name,
            id=known.read_text(),
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Named finite numbers of one step. Steps that a restart repeats are already there."""
        self._run.log(dict(values), step=step)

    def pictures(self, step: int, values: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]) -> None:
        """Named pictures of one step."""
        self._run.log({name: self._image(value) for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Sends what is left."""
        self._run.finish()
