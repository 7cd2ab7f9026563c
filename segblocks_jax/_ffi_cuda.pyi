"""Compiled handlers for the platform CUDA."""

def registrations() -> dict[str, dict[str, object]]:
    """Returns {operation: {FFI target: capsule}}."""
