"""The systems by name: each package here that has a module `system`."""

import importlib
import pathlib
from collections.abc import Mapping
from typing import Any

from segblocks_jax.structured_config import ConfigError
from segblocks_jax.training.system import System

SYSTEMS = tuple(
    sorted(file.parent.name for file in pathlib.Path(__file__).parent.glob("*/system.py"))
)


def system_type(name: str) -> type[System]:
    """The class of a system, which a configuration makes.

    Raises:
        ConfigError: there is no such system.
    """
    if name not in SYSTEMS:
        raise ConfigError(f"system is {name!r}; expected one of {', '.join(SYSTEMS)}")
    return importlib.import_module(f"{__package__}.{name}.system").SYSTEM


def system_of(config: Mapping[str, Any], **options: Any) -> System:
    """The system of an experiment.

    Args:
        config: nested fields. `system` names the system; without it, it is the one that is called like
            `model.name`, or else SegBlocks. The other fields are those of its configuration.
        options: of the system, such as `data_dir`.

    Raises:
        ConfigError: there is no such system, or it refuses the configuration.
    """
    fields = dict(config)
    group = fields.get("model", {})
    model = group.get("name") if isinstance(group, Mapping) else None
    name = fields.pop("system", None) or (model if model in SYSTEMS else "segblocks")
    chosen = system_type(name)
    return chosen(chosen.config_type.from_mapping(fields), **options)
