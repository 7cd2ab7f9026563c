"""Builds the emulated CUDA handlers: `python -m ptx.build` in the folder tests."""

import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What was built stays: only what has changed is built again.
FOLDER = ROOT / "build" / "ptx"


class UnavailableError(RuntimeError):
    """This machine can't build them; the text says why."""


def build(folder: pathlib.Path = FOLDER) -> pathlib.Path:
    """Builds the module where it is not up to date, and returns where it lies.

    CUTLASS's headers are those of the Python package, or in the folder $SEGBLOCKS_CUTLASS_DIR.

    Raises:
        UnavailableError: there is no nvcc, CUTLASS or C++ compiler.
        RuntimeError: the build failed.
    """
    if shutil.which("nvcc") is None:
        raise UnavailableError("no nvcc on PATH: the PTX of the CUDA kernels can't be made")
    paths = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    options = ["-DSEGBLOCKS_CUDA=OFF", "-DSEGBLOCKS_TESTS=ON"]
    options.append(f"-DPython_EXECUTABLE={sys.executable}")
    for command in (
        ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", *options],
        ["cmake", "--build", folder, "--target", "ptx", *os.environ.get("PTX_JOBS", "-j2").split()],
    ):
        done = subprocess.run(
            command, env=os.environ | {"PATH": paths}, capture_output=True, text=True, check=False
        )
        if "No emulated CUDA kernels" in done.stdout:
            raise UnavailableError("no CUTLASS: pip install --no-deps nvidia-cutlass")
        if done.returncode:
            raise RuntimeError(done.stdout[-8000:] + done.stderr[-8000:])
    (module,) = folder.glob("tests/ptx/_ffi_ptx*.so")
    return module


if __name__ == "__main__":
    print(build())
