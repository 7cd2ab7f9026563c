"""Frozen dataclasses from nested mappings, with errors that name the field."""

import dataclasses
import difflib
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

from segblocks_jax.errors import InvalidInputError, UserError


class ConfigError(InvalidInputError):
    """A configuration that can't run; the text names the field, what it is and what it may be."""


def check(condition: bool, message: str) -> None:
    """Raises a `ConfigError` unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def build(cls: type, mapping: Mapping[str, Any], prefix: str = "") -> Any:
    """Builds a dataclass of typed fields, which may be dataclasses themselves.

    Args:
        cls: the dataclass.
        mapping: values by field; a field that is missing keeps its default. Lists become tuples and
            integers floats where the field is one.
        prefix: of the fields' names in errors.

    Raises:
        ConfigError: an unknown field, a value of another type, or one that the dataclass refuses.
    """
    kinds = get_type_hints(cls)
    values = {}
    for name, value in mapping.items():
        if name not in kinds:
            close = difflib.get_close_matches(name, kinds, 1)
            hint = f"; did you mean {prefix}{close[0]}?" if close else "."
            raise ConfigError(f"unknown field {prefix}{name}{hint} Known: {', '.join(kinds)}")
        values[name] = _convert(kinds[name], value, prefix + name)
    try:
        return cls(**values)
    except ConfigError:
        raise
    except UserError as error:
        raise ConfigError(str(error)) from error


def _convert(kind: Any, value: Any, name: str) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        check(isinstance(value, Mapping), f"{name} is {value!r}; expected a group of fields")
        return build(kind, value, name + ".")
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(k for k in get_args(kind) if k is not type(None)), value, name)
    if origin is tuple:
        parts = get_args(kind)
        several = isinstance(value, (tuple, list))
        if parts[-1] is Ellipsis:
            check(several, f"{name} is {value!r}; expected a tuple")
            return tuple(_convert(parts[0], v, name) for v in value)
        fits = several and len(value) == len(parts)
        check(fits, f"{name} is {value!r}; expected {len(parts)} values")
        return tuple(_convert(k, v, name) for k, v in zip(parts, value, strict=True))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type):
        fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
        check(fits, f"{name} is {value!r}, a {type(value).__name__}; expected {kind.__name__}")
    return value
