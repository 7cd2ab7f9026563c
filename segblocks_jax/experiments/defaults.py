"""`config`: what a configuration file returns; every field can be overridden from the command line."""

from collections.abc import Mapping
from typing import Any, get_origin

import ml_collections
from ml_collections import config_dict

from segblocks_jax.structured_config import leaves, optional
from segblocks_jax.systems.segblocks.config import ExperimentConfig


def config(changes: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """All fields of `ExperimentConfig` at their defaults, with `changes` (groups of fields) put over them.

    Example:
        >>> config({"policy": {"target": 0.2}}).policy.target
        0.2
    """
    full = ml_collections.ConfigDict(ExperimentConfig().to_dict())
    for name, kind, _ in leaves(ExperimentConfig):
        if (inner := optional(kind)) is not None:
            group, _, field = name.rpartition(".")
            (full[group] if group else full)[field] = config_dict.placeholder(
                get_origin(inner) or inner
            )
    for name, value in changes.items():
        if isinstance(value, Mapping) and name in full:
            with full[name].unlocked():
                full[name].update(value)
        else:
            with full.unlocked():
                full[name] = value
    return full
