"""Compiled handlers for the platform cpu."""

def registrations() -> dict[str, dict[str, object]]:
    """Returns {operation: {FFI target: capsule}}.

    Raises:
        ValueError: SEGBLOCKS_CPU_TILES names no set of inner loops that was built and runs here.
    """

def loops() -> tuple[str, str, str]:
    """Returns the names of the set of inner loops, and of what multiplies bfloat16 and bytes."""

def use_loops(name: str) -> None:
    """Makes calls from now on run on the set of this name, "" for the first choice.

    Raises:
        ValueError: no such set was built and runs here.
    """
