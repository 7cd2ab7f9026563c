"""Which implementation runs, and what is said where the compiled handlers can't."""

import os
import subprocess
import sys

import jax
import pytest

from segblocks_jax.ops import extension

UNLOADABLE = """
import sys
sys.modules["segblocks_jax._ffi_cpu"] = None
from segblocks_jax.ops import extension
print(extension.available(), extension.resolve(), extension.why_unavailable(), sep="|")
try:
    extension.resolve("ffi")
except RuntimeError as error:
    print(error)
"""


TILES = """
import os
from segblocks_jax.errors import InputError
from segblocks_jax.ops import extension
for name in ("typo", "AVX2", "base"):
    os.environ["SEGBLOCKS_CPU_TILES"] = name
    try:
        print(extension.resolve())
    except InputError as error:
        print(error)
"""


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGBLOCKS_IMPLEMENTATION", raising=False)


@pytest.fixture
def compiled() -> None:
    if not extension.available("cpu"):
        if os.environ.get("SEGBLOCKS_REQUIRE_EXT"):
            pytest.fail(extension.why_unavailable("cpu"))
        pytest.skip(extension.why_unavailable("cpu"))


def test_argument_goes_before_environment(monkeypatch: pytest.MonkeyPatch, compiled: None) -> None:
    monkeypatch.setenv("SEGBLOCKS_IMPLEMENTATION", "ffi")
    assert extension.resolve("xla") == "xla"
    assert extension.resolve() == "ffi"
    monkeypatch.setenv("SEGBLOCKS_IMPLEMENTATION", "xla")
    assert extension.resolve() == "xla"


def test_context_goes_between_argument_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGBLOCKS_IMPLEMENTATION", "reference")
    assert extension.resolve() == "reference"
    with extension.using("xla"):
        assert extension.resolve() == "xla"
        assert extension.resolve("reference") == "reference"
        with extension.using(None):  # Leaves the choice to what stands around it.
            assert extension.resolve() == "xla"
        with extension.using("reference"):
            assert extension.resolve() == "reference"
        assert extension.resolve() == "xla"
    assert extension.resolve() == "reference"


def test_default_takes_what_is_available(monkeypatch: pytest.MonkeyPatch, compiled: None) -> None:
    monkeypatch.setenv("SEGBLOCKS_IMPLEMENTATION", "")
    assert extension.resolve() == ("ffi" if extension.available() else "xla")
    with jax.default_device(jax.devices("cpu")[0]):
        assert extension.resolve() == "ffi"


def test_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"implementation is 'cuda'; expected one of 'ffi', 'xla'"):
        extension.resolve("cuda")
    monkeypatch.setenv("SEGBLOCKS_IMPLEMENTATION", "fast")
    with pytest.raises(ValueError, match="SEGBLOCKS_IMPLEMENTATION is 'fast'"):
        extension.resolve()


def test_unknown_platform() -> None:
    assert not extension.available("tpu")
    assert "no compiled handlers for the platform 'tpu'" in extension.why_unavailable("TPU")


def test_aliases_agree() -> None:
    assert extension.why_unavailable("cuda") == extension.why_unavailable("gpu")
    assert extension.available("CPU") == extension.available("cpu")


def test_module_that_cannot_be_loaded() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SEGBLOCKS_")}
    environment["JAX_PLATFORMS"] = "cpu"
    run = subprocess.run(
        [sys.executable, "-c", UNLOADABLE],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    state, error = run.stdout.splitlines()
    available, resolved, reason = state.split("|")
    assert (available, resolved) == ("False", "xla")
    assert "can't be loaded" in reason
    assert "pip install" in reason
    assert error == f"implementation is 'ffi', but {reason}; or use 'xla'"


def test_set_of_inner_loops_that_does_not_exist(compiled: None) -> None:
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", TILES], env=environment, capture_output=True, text=True, check=True
    )
    *errors, resolved = run.stdout.splitlines()
    for error, name in zip(errors, ("typo", "AVX2"), strict=True):
        assert error.startswith(f"SEGBLOCKS_CPU_TILES is '{name}'; expected one of '")
        assert "'base', which this machine runs, or nothing for the fastest" in error
    assert resolved == "ffi"


@pytest.mark.parametrize("module", ["_ffi_cpu", "_ffi_cuda"])
def test_modules_register_the_published_targets(module: str) -> None:
    handlers = pytest.importorskip(f"segblocks_jax.{module}", reason="not built")
    operations = handlers.registrations()
    linear = {"split", "combine", "pad"}
    others = {"index_tables", "indexed_conv", "max_pool", "upsample2", "upsample_argmax"}
    others |= {"mask_tables", "mask_add"}
    if module == "_ffi_cpu":
        others |= {"depthwise_gradient", "quantized_conv"}
    assert set(operations) == {*linear, *others}
    for operation in linear:
        targets = {f"segblocks_{operation}", f"segblocks_{operation}_backward"}
        assert set(operations[operation]) == targets
    published = set(extension.TARGETS)
    if module == "_ffi_cuda":
        published -= extension.CPU_TARGETS
    assert {t for targets in operations.values() for t in targets} == published
    assert len(extension.TARGETS) == 16
