"""`config`: what a configuration file returns; every field can be overridden from the command line."""

from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from segblocks_jax.systems.segblocks.config import ExperimentConfig

# Fields that may be None, and what they are otherwise.
_OPTIONAL = {
    ("data", "data_dir"): str,
    ("model", "features"): int,
    ("model", "dilations"): tuple,
    ("model", "pretrained"): str,
    ("model", "implementation"): str,
    ("loop", "wandb"): str,
}


def config(changes: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """All fields of `ExperimentConfig` at their defaults, with `changes` (groups of fields) put over them.

    Example:
        >>> config({"policy": {"target": 0.2}}).policy.target
        0.2
    """
    full = ml_collections.ConfigDict(ExperimentConfig().to_dict())
    for (group, field), kind in _OPTIONAL.items():
        full[group][field] = config_dict.placeholder(kind)
    for name, value in changes.items():
        if isinstance(value, Mapping) and name in full:
            with full[name].unlocked():
                full[name].update(value)
        else:
            with full.unlocked():
                full[name] = value
    return full
