"""The C++ headers alone: small programs that check them, compiled and run here."""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", ["layout", "parallel"])
def test_headers(name: str, tmp_path: pathlib.Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler on PATH")
    program = tmp_path / name
    build = subprocess.run(
        [
            compiler,
            *("-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"),
            *(f"-I{ROOT / 'xla_ffi'}", f"-I{ROOT / 'xla_ffi' / 'include'}"),
            str(ROOT / "tests" / "native" / f"test_{name}.cc"),
            *("-o", str(program)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stderr
    run = subprocess.run([program], capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stdout
