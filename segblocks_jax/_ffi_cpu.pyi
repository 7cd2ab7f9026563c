"""Compiled handlers for the platform cpu."""

def registrations() -> dict[str, dict[str, object]]:
    """Returns {operation: {FFI target: capsule}}.

    Raises:
        ValueError: SEGBLOCKS_CPU_TILES names no set of inner loops that was built and runs here.
    """
