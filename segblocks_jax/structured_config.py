"""Configurations: frozen dataclasses whose fields know their range and what they affect, with a schema version.

A stored configuration holds every field and the version. Reading one of another version migrates it or fails.
"""

import dataclasses
import difflib
import math
import types
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from flax import traverse_util

from segblocks_jax.errors import InputError, UserError

Affects = Literal["nothing", "rounding", "results"]
C = TypeVar("C", bound="Config")
Fields = dict[str, Any]
"""Values by the fields' names on the command line, such as ``{"policy.target": 0.2}``."""


class ConfigError(InputError):
    """A configuration that can't run; the text names the field, what it is and what it may be."""


def check(condition: bool, message: str) -> None:
    """Raises a `ConfigError` unless the condition holds."""
    if not condition:
        raise ConfigError(message)


@dataclasses.dataclass(frozen=True)
class Range:
    """What a field, or each number of a tuple, may be besides None: in words, and as a test."""

    text: str
    holds: Callable[[Any], bool]


def one_of(values: Collection[Any]) -> Range:
    """One of some values."""
    return Range(f"one of {tuple(values)}", lambda value: value in values)


SHARE = Range("a share from 0 to 1", lambda x: 0 <= x <= 1)
POSITIVE = Range("a positive number", lambda x: x > 0)
NOT_NEGATIVE = Range("0 or more", lambda x: x >= 0)
COUNT = Range("at least 1", lambda x: x >= 1)


def field(default: Any, within: Range | None = None, *, affects: Affects = "results") -> Any:
    """A field of a configuration.

    Args:
        default: its value where none is given.
        within: what it may be.
        affects: "results"; "rounding": results, but only by the order of floating-point operations; or
            "nothing". A run may continue with another value unless it affects results, and two runs are
            the same unless they differ in more than affects nothing.
    """
    return dataclasses.field(default=default, metadata={"within": within, "affects": affects})


def leaves(cls: type, prefix: str = "") -> Iterator[tuple[str, Any, Affects]]:
    """Every field of a dataclass and of those in it: its full name, its type, what it affects."""
    for name, (kind, spec) in _own(cls).items():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, kind, spec.metadata.get("affects", "results")


def fields_affecting(cls: type, *affects: Affects) -> tuple[str, ...]:
    """Names of the fields that affect one of these."""
    return tuple(name for name, _, own in leaves(cls) if own in affects)


def flat(mapping: Mapping[str, Any]) -> Fields:
    """Fields of nested mappings by their full names; tuples as lists."""
    fields = traverse_util.flatten_dict(dict(mapping), sep=".")
    return {name: list(x) if isinstance(x, tuple) else x for name, x in fields.items()}


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    return traverse_util.unflatten_dict(dict(fields), sep=".")


class Config:
    """Base of a whole configuration, a frozen dataclass.

    Attributes:
        SCHEMA: its version, counted up whenever a field is added, removed, renamed or changes its meaning.
        MIGRATIONS: by version, what makes the fields of the next one of them.
        RENAMED: today's name of a field by a name that it had.
    """

    SCHEMA: ClassVar[int] = 0
    MIGRATIONS: ClassVar[Mapping[int, Callable[[Fields], Fields]]] = {}
    RENAMED: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def from_mapping(cls: type[C], mapping: Mapping[str, Any]) -> C:
        """Builds the configuration from nested mappings, as a configuration file gives them; errors as `build`.

        Missing fields have their defaults. With a schema it is as for `from_stored`.
        """
        if "schema" in mapping:
            return cls.from_stored(mapping)
        return build(cls, mapping)

    @classmethod
    def from_stored(cls: type[C], stored: Mapping[str, Any]) -> C:
        """Builds the configuration that `stored` gave, also in an earlier version, 0 without a schema.

        Raises ConfigError for a later version, an earlier one without migration, or a missing field.
        """
        fields = flat(stored)
        version = fields.pop("schema", 0)
        while version != cls.SCHEMA:
            check(
                version in cls.MIGRATIONS,
                f"the stored configuration has schema {version!r}, which can't be read; expected one of"
                f" {(*cls.MIGRATIONS, cls.SCHEMA)}. Use the version of the package that wrote it",
            )
            fields, version = cls.MIGRATIONS[version](fields), version + 1
        missing = [name for name, _, _ in leaves(cls) if name not in fields]
        check(not missing, f"the stored configuration lacks {', '.join(missing)}")
        return build(cls, nested(fields))

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries, for ConfigDicts."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def stored(self) -> dict[str, Any]:
        """What files hold: every field, and the schema."""
        return {"schema": self.SCHEMA, **self.to_dict()}


def build(cls: Any, mapping: Mapping[str, Any], prefix: str = "", root: Any = None) -> Any:
    """Builds a dataclass of typed fields, which may be dataclasses themselves.

    Lists become tuples and integers floats where the field is one. `prefix` stands before names in errors; `root`
    knows former names. Raises ConfigError for an unknown field or a value that doesn't fit.
    """
    root = root or cls
    values = {}
    renamed = getattr(root, "RENAMED", {})
    # Earlier names last: they were given, while today's may be there at their defaults.
    for name, value in sorted(mapping.items(), key=lambda item: prefix + item[0] in renamed):
        if (new := renamed.get(prefix + name)) is not None and new.startswith(prefix):
            warnings.warn(f"{prefix}{name} is called {new} now", FutureWarning, stacklevel=2)
            name = new.removeprefix(prefix)
        kind = _kind_of(cls, name, prefix, root)
        values[name] = _convert(kind, value, prefix + name, root)
    try:
        return cls(**values)
    except ConfigError:
        raise
    except UserError as error:
        raise ConfigError(str(error)) from error


def check_name(cls: Any, name: str) -> None:
    """Raises a `ConfigError` unless a configuration has a field, or a group of them, of this full name."""
    kind: Any = cls
    prefix = ""
    for part in name.split("."):
        if not dataclasses.is_dataclass(kind):
            raise ConfigError(f"unknown field {name}; {prefix[:-1]} is no group of fields")
        kind, prefix = _kind_of(kind, part, prefix, cls), f"{prefix}{part}."


def check_fields(config: Any, prefix: str = "") -> None:
    """Raises a `ConfigError` where a field is of another type, beyond its range, NaN or infinite."""
    for name, (kind, spec) in _own(type(config)).items():
        value, within = getattr(config, name), spec.metadata.get("within")
        _convert(kind, value, prefix + name)
        for part in value if isinstance(value, tuple) else (value,):
            fits = part is None or within is None or within.holds(part)
            check(fits, f"{prefix}{name} is {value!r}; expected {within and within.text}")
            finite = not isinstance(part, float) or math.isfinite(part)
            check(finite, f"{prefix}{name} is {value!r}; expected a finite number")


def _own(cls: type) -> dict[str, tuple[Any, dataclasses.Field]]:
    kinds = get_type_hints(cls)
    return {spec.name: (kinds[spec.name], spec) for spec in dataclasses.fields(cls)}


def _kind_of(cls: Any, name: str, prefix: str, root: Any) -> Any:
    known = _own(cls)
    if name in known:
        return known[name][0]
    renamed = getattr(root, "RENAMED", {})
    if prefix + name in renamed:
        raise ConfigError(
            f"unknown field {prefix}{name}; it is called {renamed[prefix + name]} now"
        )
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {prefix}{close[0]}?" if close else "."
    raise ConfigError(f"unknown field {prefix}{name}{hint} Known: {', '.join(known)}")


def _convert(kind: Any, value: Any, name: str, root: Any = None) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if isinstance(value, kind):
            return value
        check(isinstance(value, Mapping), f"{name} is {value!r}; expected a group of fields")
        return build(kind, value, name + ".", root)
    if (inner := optional(kind)) is not None:
        # A flag of a text can't say None otherwise.
        return None if value is None or value == "None" else _convert(inner, value, name)
    if get_origin(kind) is tuple:
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


def optional(kind: Any) -> Any:
    """The type of a field that may be None without that None; None for a field that may not be None."""
    kinds = get_args(kind)
    return next(k for k in kinds if k is not types.NoneType) if types.NoneType in kinds else None
