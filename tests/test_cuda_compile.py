"""The CUDA module compiles without warnings, loads, and has all handlers."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from segblocks_jax.ops import extension

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_cuda_module(tmp_path: pathlib.Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc on PATH")
    # Little code of ours depends on the architecture, so one stands for all; products of warp groups
    # are compiled for sm_90a besides.
    options = ["-DSEGBLOCKS_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=80-real"]
    options.append(f"-DPython_EXECUTABLE={sys.executable}")
    paths = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": paths}  # CMake and Ninja are those of the environment.
    for command in (
        ["cmake", "-S", ROOT, "-B", tmp_path, "-G", "Ninja", *options],
        ["cmake", "--build", tmp_path, "--target", "_ffi_cuda"],
    ):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=900
        )
        if "no cute/tensor.hpp" in done.stderr:
            pytest.skip("no CUTLASS: pip install nvidia-cutlass")
        assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("_ffi_cuda*.so")
    spec = importlib.util.spec_from_file_location("_ffi_cuda", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    operations = module.registrations().values()
    assert {target for targets in operations for target in targets} == (
        set(extension.TARGETS) - extension.CPU_TARGETS
    )
