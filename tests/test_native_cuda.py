"""What the CUDA kernels of indexed operations compute, run on the host: small C++ programs."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def cuda_headers() -> list[str]:
    """The folders where nvcc finds CUDA's headers."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc on PATH, so no CUDA headers")
    command = [nvcc, "--dryrun", "-x", "cu", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    includes = re.findall(r'^#\$ INCLUDES="-I([^"]*)"', said, re.MULTILINE)
    if not includes:
        pytest.skip("nvcc does not say where CUDA's headers are")
    # CUDA 13 keeps its C++ library in a folder of its own.
    return [includes[0], f"{includes[0]}/cccl"]


def cutlass_headers() -> str:
    """The folder of CUTLASS's headers, found as CMake finds it."""
    package = importlib.util.find_spec("cutlass_library")
    default = pathlib.Path(package.origin).parent / "source" / "include" if package else ""
    folder = os.environ.get("SEGBLOCKS_CUTLASS_DIR") or str(default)
    if not folder:
        pytest.skip("no CUTLASS; pip install nvidia-cutlass, or set SEGBLOCKS_CUTLASS_DIR")
    return folder


@pytest.mark.parametrize("name", ["indexed_maps", "indexed_tile", "cuda_label_map"])
def test_kernels_on_the_host(name: str, tmp_path: pathlib.Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler on PATH")
    headers = cuda_headers()
    if name == "indexed_tile":
        headers.append(cutlass_headers())
    program = tmp_path / name
    build = subprocess.run(
        [
            compiler,
            *("-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
            *(f"-I{ROOT / 'xla_ffi'}", f"-I{ROOT / 'xla_ffi' / 'include'}"),
            *(f"-isystem{folder}" for folder in headers),
            str(ROOT / "tests" / "native" / f"test_{name}.cc"),
            *("-o", str(program)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stderr
    run = subprocess.run([program], capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stdout
