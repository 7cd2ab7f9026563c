"""The CUDA sources compile without warnings, for every architecture that they are built for."""

import pathlib
import shutil
import subprocess

import pytest

XLA_FFI = pathlib.Path(__file__).resolve().parent.parent / "xla_ffi"
ARCHITECTURES = ("80", "90", "100")


@pytest.mark.parametrize("source", ["split.cu", "combine.cu", "pad.cu", "label_map.cu"])
def test_compiles(source: str, tmp_path: pathlib.Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc on PATH")
    compiled = tmp_path / "kernels.o"
    build = subprocess.run(
        [
            nvcc,
            *("-std=c++17", "-O1", "-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror"),
            *(f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES),
            *(f"-I{XLA_FFI}", f"-I{XLA_FFI / 'include'}", "-Xcompiler=-fPIC"),
            *("-c", str(XLA_FFI / "cuda" / source), "-o", str(compiled)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stderr
    assert compiled.stat().st_size > 0
