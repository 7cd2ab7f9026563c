"""The C++ headers and CPU loops alone: small programs that check them, compiled and run here."""

import pathlib
import platform
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
NATIVE = ROOT / "tests" / "native"
FLAGS = (
    *("-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"),
    *(f"-I{ROOT / 'xla_ffi'}", f"-I{ROOT / 'xla_ffi' / 'include'}"),
)
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# Files that are compiled for an instruction set of x86, as CMakeLists.txt does.
X86_TILES = {
    "tiles_avx2.cc": ("-mavx2", "-mfma"),
    "tiles_avx512.cc": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
}


def run(*command: str | pathlib.Path) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def compiler() -> str:
    found = shutil.which("c++")
    if found is None:
        pytest.skip("no C++ compiler on PATH")
    return found


@pytest.fixture(params=[(), SANITIZED], ids=["plain", "sanitized"])
def extra(request: pytest.FixtureRequest, compiler: str, tmp_path: pathlib.Path) -> tuple[str, ...]:
    """Flags without and with sanitizers."""
    if request.param:
        (tmp_path / "empty.cc").write_text("int main() {}\n")
        link = [compiler, *request.param, tmp_path / "empty.cc", "-o", tmp_path / "empty"]
        if subprocess.run(link, capture_output=True, check=False).returncode != 0:
            pytest.skip("the compiler has no sanitizers")
    return request.param


@pytest.mark.parametrize("name", ["layout", "parallel"])
def test_headers(name: str, extra: tuple[str, ...], compiler: str, tmp_path: pathlib.Path) -> None:
    run(compiler, *FLAGS, *extra, NATIVE / f"test_{name}.cc", "-o", tmp_path / name)
    run(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "loops"), [("indexed_conv", "index*.cc"), ("label_map", "label_map.cc")]
)
def test_loops(
    name: str, loops: str, extra: tuple[str, ...], compiler: str, tmp_path: pathlib.Path
) -> None:
    x86 = platform.machine() in ("x86_64", "AMD64")
    flags = (*FLAGS, *extra, *(("-DSEGBLOCKS_X86_TILES",) if x86 else ()))
    sources = [*ROOT.glob(f"xla_ffi/cpu/{loops}"), *ROOT.glob("xla_ffi/cpu/tiles*.cc")]
    objects = []
    for source in [*sources, NATIVE / f"test_{name}.cc"]:
        if source.name in X86_TILES and not x86:
            continue
        objects.append(tmp_path / f"{source.stem}.o")
        run(compiler, *flags, *X86_TILES.get(source.name, ()), "-c", source, "-o", objects[-1])
    run(compiler, *flags, *objects, "-o", tmp_path / "test")
    run(tmp_path / "test")
