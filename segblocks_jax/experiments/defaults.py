"""`config`: what a configuration file returns; every field can be overridden from the command line."""

from collections.abc import Mapping
from typing import Any, get_origin

import ml_collections
from ml_collections import config_dict

from segblocks_jax.structured_config import leaves, optional
from segblocks_jax.systems.registry import system_type


def config(changes: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """All fields of a system's configuration at their defaults, with `changes` (groups of fields) put over them.

    `changes["system"]` names the system; without it, the fields are those of SegBlocks' `ExperimentConfig`.

    Example:
        >>> config({"policy": {"target": 0.2}}).policy.target
        0.2
    """
    chosen = system_type(changes.get("system", "segblocks")).config_type
    full = ml_collections.ConfigDict(chosen().to_dict())
    for name, kind, _ in leaves(chosen):
        if (inner := optional(kind)) is not None:
            group, _, field = name.rpartition(".")
            (full[group] if group else full)[field] = config_dict.placeholder(
                get_origin(inner) or inner
            )
    for name, value in changes.items():
        if isinstance(value, Mapping) and name in full:
            full[name].update(value)
        else:
            full[name] = value
    return full
