"""A machine whose CUDA kernels are emulated: `install`; as a pytest plugin, `-p ptx.emulated -m gpu`.

Python takes it for one with a GPU, JAX for one without.
"""

import importlib.util
import os
import pathlib
import sys
import types
from typing import Any

import jax


def load(path: pathlib.Path | str) -> types.ModuleType:
    """The module that `ptx.build` has built."""
    spec = importlib.util.spec_from_file_location("_ffi_ptx", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def install(path: pathlib.Path | str) -> types.ModuleType:
    """Loads the module; its handlers are those of the package from now on."""
    module = load(path)
    sys.modules["segblocks_jax._ffi_cuda"] = module
    jax.default_backend = lambda: "gpu"
    from segblocks_jax.ops import extension

    extension._MODULES["gpu"] = ("_ffi_cuda", "cpu", "")
    return module


def pytest_configure() -> None:
    """Installs the module in $SEGBLOCKS_PTX, with the seed $SEGBLOCKS_PTX_SEED.

    The GPU has the compute capability $SEGBLOCKS_PTX_CAPABILITY, 80 for 8.0; 9.0 by default.
    """
    seed = int(os.environ.get("SEGBLOCKS_PTX_SEED", 0))
    # Few multiprocessors run several tiles one after the other.
    install(os.environ["SEGBLOCKS_PTX"]).configure(
        seed=seed,
        processors=(132, 1, 3)[seed % 3],
        capability=int(os.environ.get("SEGBLOCKS_PTX_CAPABILITY", 90)),
    )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Says which kernels have run."""
    names = sorted({kernel for _, kernel in sys.modules["segblocks_jax._ffi_cuda"].counts()})
    terminalreporter.write_line("kernels: " + " ".join(names))
