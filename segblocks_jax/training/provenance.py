"""Where results come from."""

import functools
import os
import platform
import subprocess
from pathlib import Path

import jax


@functools.cache  # Of the code that runs, whatever is committed while it does.
def commit() -> str | None:
    """Git commit of the checkout that this package runs from, "+changes" if it was edited.

    None where the package is installed elsewhere, or git is missing.
    """
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository, which does not track it.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "-s", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def device_name() -> str:
    """The device that JAX runs on: a GPU's name, or the processor's and how many of its cores there are."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
