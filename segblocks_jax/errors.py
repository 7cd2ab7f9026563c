"""Errors that a user can mend. Commands print their text alone; every other error is a bug and keeps its traceback.

Each is the built-in error of its kind as well, so that callers may catch either.
"""


class UserError(Exception):
    """Base of errors that a user can mend; the text says what was given, what was expected, and the remedy."""


class InputError(UserError, ValueError):
    """A value, a combination of values or the content of a file doesn't fit."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that was named isn't there."""


class TargetExistsError(UserError, FileExistsError):
    """Something is where the result would go."""


class UnwritableError(UserError, OSError):
    """A file or folder can't be written: read-only, no permission, a full disk, a file in the way."""


class InUseError(UserError):
    """Another process works in the folder."""


class MissingPackageError(UserError, ModuleNotFoundError):
    """An optional package is needed and not installed."""


class UnavailableError(UserError, RuntimeError):
    """This machine or installation lacks what was asked for: compiled handlers, a platform."""
