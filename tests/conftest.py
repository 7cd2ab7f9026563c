"""Shared by all tests: four CPU devices, strict promotion, checked annotations, where data lies."""

import gc
import os
import pathlib
import re
from collections.abc import Iterable, Iterator

# Programs run once here: what the compiler saves is worth more than what it optimizes.
# Without fusion emitters, compilation takes less than half the time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    " --xla_cpu_use_fusion_emitters=false",
)

import importlib.util

import jaxtyping

# The hook must stand before the first import of the package: it checks every annotated array.
CHECKED = importlib.util.find_spec("beartype") is not None
if CHECKED:
    _hook = jaxtyping.install_import_hook("segblocks_jax", "beartype.beartype")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

import segblocks_jax  # noqa: E402
from segblocks_jax.errors import InputError  # noqa: E402
from segblocks_jax.ops import extension  # noqa: E402

assert segblocks_jax.__all__
# What was imported stays: the collector need not look at it again and again.
gc.freeze()
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What the tests of other parts need, and a machine that runs those of the handlers may lack.
OPTIONAL = {
    *("array_record", "av", "beartype", "cv2", "flatbuffers", "grain", "hypothesis", "matplotlib"),
    *("ml_collections", "optax", "orbax", "PIL", "sklearn", "tensorboardX"),
    *("tensorflow_datasets", "torch"),
}


# Modules that share what is costly to make, such as engines: each group runs in one worker.
_GROUPS = {
    "test_data_real.py": "real frames",
    "test_engine.py": "engines",
    "test_engine_export.py": "engines",
    "test_experiments.py": "trained",
    "test_interop_training.py": "stopped",
    "test_native.py": "native",
    "test_report.py": "finished",
    "test_serving.py": "engines",
    "test_ptx.py": "ptx",
    "test_sharding.py": "sharding",
    "test_survival.py": "killed",
    "test_sweep.py": "finished",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A test at a time for each worker, but the tests of a group together."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _GROUPS.get(pathlib.PurePath(nodeid.partition("::")[0]).name, nodeid)

    return Groups(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Tests mean the CPU, but for those of GPUs: `pytest -m gpu`, or `pytest tests/test_gpu.py`."""
    if CHECKED:  # Flax's nnx.Dict, in our annotations, derives from typing.MutableMapping.
        category = "beartype.roar.BeartypeDecorHintPep585DeprecationWarning"
        config.addinivalue_line("filterwarnings", f"ignore::{category}")
    if not for_gpus(config.option.markexpr, config.args):
        os.environ["JAX_PLATFORMS"] = "cpu"  # Of the processes that tests start, too.
        jax.config.update("jax_platforms", "cpu")


def for_gpus(expression: str, paths: list[str]) -> bool:
    """Whether these options of pytest choose the tests marked `gpu` and no others."""
    chosen = re.search(r"(?<!not )\bgpu\b", expression) is not None
    return chosen or all("test_gpu.py" in path for path in paths)


class Module(pytest.Module):
    """A module of tests; skipped where it needs an optional package that isn't installed."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        try:
            return super().collect()
        except self.CollectError as error:
            if (name := missing_package(error)) is None:
                raise
            pytest.skip(f"needs {name}, which isn't installed", allow_module_level=True)


def missing_package(error: BaseException | None) -> str | None:
    """The optional package whose absence caused an error, if that is what did."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name is not None:
            package = error.name.partition(".")[0]
            return package if package in OPTIONAL else None
        error = error.__cause__ or error.__context__
    return None


def pytest_pycollect_makemodule(module_path: pathlib.Path, parent: pytest.Collector) -> Module:
    """Modules of tests are `Module`s."""
    return Module.from_parent(parent, path=module_path)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves most cases of families to the full tier."""
    met: set[tuple] = set()
    for item in items:
        if not in_fast_tier(item, met):
            item.add_marker(pytest.mark.slow)


def in_fast_tier(item: pytest.Item, met: set[tuple]) -> bool:
    """Whether no `family` leaves this case to the full tier; `met` holds what was met before it."""
    family = item.get_closest_marker("family")
    if family is None:
        return True
    if family.args:
        return item.callspec.id in family.args
    names = family.kwargs.get("of", item.callspec.params)
    test = item.nodeid.partition("[")[0]
    found = {(test, name, str(item.callspec.params[name])) for name in names}
    new = not found <= met
    met |= found
    return new


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips GPU tests without a GPU, or fails them where SEGBLOCKS_REQUIRE_GPU is set."""
    if item.get_closest_marker("gpu") and jax.default_backend() != "gpu":
        if os.environ.get("SEGBLOCKS_REQUIRE_GPU"):
            pytest.fail("SEGBLOCKS_REQUIRE_GPU is set, but JAX sees no GPU")
        pytest.skip("no GPU")


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of development data: $SEGBLOCKS_SHARED, or `shared` beside the checkout."""
    folder = pathlib.Path(os.environ.get("SEGBLOCKS_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no development data at {folder}; set SEGBLOCKS_SHARED to its folder")
    return folder


@pytest.fixture(params=["xla", "ffi"])
def implementation(request: pytest.FixtureRequest) -> str:
    """Both implementations; the compiled one is skipped where it wasn't built, unless it is required."""
    if request.param == "ffi":
        request.getfixturevalue("compiled")
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture
def compiled() -> None:
    """Skips a test that needs the compiled handlers, or fails it where they are required."""
    if not extension.available():
        if os.environ.get("SEGBLOCKS_REQUIRE_EXT"):
            pytest.fail(extension.why_unavailable())
        pytest.skip(extension.why_unavailable())


# Sets of the CPU's inner loops, those with stand-ins for rare instructions included.
LOOPS = (
    "avx512_bf16_standin",
    "amx_standin",
    "avx512_bf16",
    "amx",
    "avx512_vnni",
    "avx512",
    "avx2",
    "base",
)


@pytest.fixture(params=LOOPS)
def loops(request: pytest.FixtureRequest, compiled: None) -> Iterator[str]:
    """The name of a set of inner loops, on which calls run; skipped where the machine doesn't run it."""
    try:
        context = extension.using_cpu_loops(request.param)
        context.__enter__()
    except InputError as error:
        pytest.skip(str(error))
    yield request.param
    context.__exit__(None, None, None)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """No checks of annotations: they would forestall the errors that users see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory):
    """See `tiny.FinishedSweep`; trained once for all tests of sweeps and reports."""
    from tiny import finished_sweep

    return finished_sweep(tmp_path_factory.mktemp("sweep"))
