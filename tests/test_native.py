"""The C++ headers, the CPU loops and, on the host, what CUDA's threads do: small programs."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# So that one process builds, where tests run in several.
pytestmark = pytest.mark.slow

# CMake and Ninja are those of the environment, where it has them.
PATHS = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
SANITIZED = ("-DSEGBLOCKS_SANITIZE=address,undefined", "-DCMAKE_CXX_FLAGS_RELEASE=-O1")


def run(*command: str | pathlib.Path, timeout: int = 900) -> str:
    environment = os.environ | {"PATH": PATHS}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=timeout
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def has_sanitizers(compiler: str, folder: pathlib.Path) -> bool:
    (folder / "empty.cc").write_text("int main() {}\n")
    link = [compiler, "-fsanitize=address,undefined", "empty.cc", "-o", "empty"]
    return subprocess.run(link, capture_output=True, check=False, cwd=folder).returncode == 0


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Builds all programs, with sanitizers where the compiler has some; returns where."""
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler on PATH")
    folder = tmp_path_factory.mktemp("native")
    options = [f"-DPython_EXECUTABLE={sys.executable}", "-DSEGBLOCKS_TESTS=ON"]
    if has_sanitizers(compiler, folder):
        options += SANITIZED
    run("cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DSEGBLOCKS_CUDA=OFF", *options)
    run("cmake", "--build", folder, "--target", "native_tests")
    return folder


@pytest.mark.parametrize("name", ["layout", "workers", "rows", "bytes", "upsample_argmax"])
def test_cpu(name: str, build: pathlib.Path) -> None:
    run("ctest", "--test-dir", build, "-R", f"^{name}$", "--no-tests=error", "--output-on-failure")


@pytest.mark.parametrize("name", ["rows", "upsample_argmax", "indexed_conv"])
def test_cuda_on_the_host(name: str, build: pathlib.Path) -> None:
    listed = json.loads(run("ctest", "--test-dir", build, "--show-only=json-v1"))
    if f"cuda_{name}" not in {test["name"] for test in listed["tests"]}:
        pytest.skip("no CUDA headers, or for indexed_conv no CUTLASS: pip install nvidia-cutlass")
    run("ctest", "--test-dir", build, "-R", f"^cuda_{name}$", "--output-on-failure")
