"""Optional dependencies: which extra installs what is missing."""

import contextlib
import sys
from collections.abc import Iterator

from segblocks_jax.errors import MissingPackageError


@contextlib.contextmanager
def extra(name: str, user: str) -> Iterator[None]:
    """Around imports of an extra's packages: says how to install one that is missing.

    A command of this package (``python -m segblocks_jax...``) says so in one line and exits with 2.

    Args:
        name: an extra of pyproject.toml.
        user: what needs the packages, for the message.

    Raises:
        MissingPackageError: a package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "segblocks_jax").startswith("segblocks_jax"):
            raise
        message = f"{user} needs {error.name}; pip install 'segblocks-jax[{name}]'"
        command = getattr(sys.modules["__main__"], "__spec__", None)
        if command is not None and command.name.startswith("segblocks_jax."):
            print(f"error: {message}", file=sys.stderr)
            sys.exit(2)
        raise MissingPackageError(message, name=error.name) from error
