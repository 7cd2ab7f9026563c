"""The compiled handlers: finds, loads and registers them, and says why when it can't."""

import contextlib
import contextvars
import functools
import importlib
import os
from collections.abc import Iterator

import jax

from segblocks_jax.errors import InputError, UnavailableError
from segblocks_jax.ops import within

TARGETS = (
    "segblocks_split",
    "segblocks_split_backward",
    "segblocks_combine",
    "segblocks_combine_backward",
    "segblocks_pad",
    "segblocks_pad_backward",
    "segblocks_index_tables",
    "segblocks_layer_tables",
    "segblocks_indexed_conv",
    "segblocks_quantized_conv",
    "segblocks_depthwise_gradient",
    "segblocks_indexed_max_pool",
    "segblocks_indexed_upsample2",
    "segblocks_upsample_argmax",
    "segblocks_mask_tables",
    "segblocks_mask_add",
)
"""Names of all FFI targets. All platforms have them but for `CPU_TARGETS`.

An exported program that calls them needs
``[jax.export.DisabledSafetyCheck.custom_call(name) for name in TARGETS]``.
"""

CPU_TARGETS = frozenset({"segblocks_depthwise_gradient", "segblocks_quantized_conv"})
"""Those of CPUs alone: XLA has the operation on GPUs, or its definition runs there."""

# Earlier names, which stored programs still call.
_OLD_TARGETS = {"segblocks_upsample_argmax": "segblocks_label_map"}

IMPLEMENTATIONS = ("ffi", "xla", "reference")
"""How an operation runs: the compiled handler; what XLA has for it, for a convolution XLA's own; the definition in
jnp. Where an operation has one way in jnp, that is "xla" and "reference" both."""
ENVIRONMENT_VARIABLE = "SEGBLOCKS_IMPLEMENTATION"

# JAX's name of a platform -> the compiled module, XLA's name, and how one gets the module.
_MODULES = {
    "cpu": ("_ffi_cpu", "cpu", "reinstall the package with a C++20 compiler: pip install ."),
    "gpu": (
        "_ffi_cuda",
        "CUDA",
        "reinstall the package with nvcc on PATH: SEGBLOCKS_CUDA=ON pip install .",
    ),
}
_ALIASES = {"cuda": "gpu"}

_chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("implementation", default=None)


def available(platform: str | None = None) -> bool:
    """Whether the compiled handlers of a platform can be used; registers them if so.

    Args:
        platform: "cpu", "gpu" or "cuda", in any case. Default: where JAX runs by default.

    Raises:
        InputError: the environment variable SEGBLOCKS_CPU_TILES, which names the set of the CPU's inner loops
            (docs/blocks.md), names none that was built and runs on this machine.
    """
    return not why_unavailable(platform)


def why_unavailable(platform: str | None = None) -> str:
    """Returns why a platform's compiled handlers can't be used, and the remedy; else ""."""
    name = (platform or _default_platform()).lower()
    return _load(_ALIASES.get(name, name))


def resolve(implementation: str | None = None) -> str:
    """Returns the implementation to run, one of `IMPLEMENTATIONS`.

    The first of these decides: the argument, `using`, the environment variable SEGBLOCKS_IMPLEMENTATION, whether
    JAX's default platform has compiled handlers ("ffi", else "xla"). The argument is an order, and an operation that
    can't follow it raises; where one of the others names what an operation hasn't for a case, it runs "xla".

    Raises:
        ValueError: unknown name.
        RuntimeError: "ffi" was asked for by name and can't run.

    Example:
        >>> resolve("xla")
        'xla'
    """
    source = "implementation"
    name = implementation or _chosen.get()
    if name is None:
        source = ENVIRONMENT_VARIABLE
        name = os.environ.get(ENVIRONMENT_VARIABLE) or None
    if name is None:
        return "ffi" if available() else "xla"
    if name not in IMPLEMENTATIONS:
        raise InputError(
            f"{source} is {name!r}; expected one of {', '.join(map(repr, IMPLEMENTATIONS))},"
            " or nothing for the compiled handlers where there are some"
        )
    if name == "ffi" and (reason := why_unavailable()):
        raise UnavailableError(f"{source} is 'ffi', but {reason}; or use 'xla'")
    return name


def using(implementation: str | None) -> contextlib.AbstractContextManager[None]:
    """Within it, operations without an `implementation` of their own run this one, as they are traced.

    None leaves the choice to what stands around it.

    Example:
        >>> with using("xla"):
        ...     resolve()
        'xla'
    """
    return within(_chosen, implementation or _chosen.get())


def cpu_loops() -> tuple[str, str, str]:
    """The instruction set of the CPU's inner loops, and on what they multiply bfloat16 and bytes.

    Bfloat16: "amx", "avx512_bf16", or "float32" where it is widened first. Bytes: "amx_int8", "vnni" or "plain".
    Names of stand-ins end with "_standin". ("", "float32", "plain") without compiled handlers.
    """
    if not available("cpu"):
        return "", "float32", "plain"
    return importlib.import_module("segblocks_jax._ffi_cpu").loops()


@contextlib.contextmanager
def using_cpu_loops(name: str) -> Iterator[None]:
    """Within it, calls of the CPU's handlers run on the set of inner loops of that name; for tests.

    It holds for the whole process, and for kernels that are packed meanwhile.

    Raises:
        InputError: this machine runs no such set.
    """
    before = cpu_loops()[0]
    handlers = importlib.import_module("segblocks_jax._ffi_cpu")
    try:
        handlers.use_loops(name)
    except ValueError as error:
        raise InputError(f"using_cpu_loops: {error}") from None
    try:
        yield
    finally:
        handlers.use_loops(before)


def _default_platform() -> str:
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.platform


@functools.cache
def _load(platform: str) -> str:
    if platform not in _MODULES:
        return f"there are no compiled handlers for the platform {platform!r}, only for cpu and gpu"
    module_name, xla_platform, remedy = _MODULES[platform]
    try:
        for operation in _registrations(module_name).values():
            for target, handler in operation.items():
                for name in filter(None, (target, _OLD_TARGETS.get(target))):
                    jax.ffi.register_ffi_target(name, handler, platform=xla_platform)
    except InputError:
        raise
    except Exception as error:  # Whatever a foreign binary raises, the references still work.
        return f"the compiled handlers for {platform} can't be loaded ({error}); {remedy}"
    return ""


def _registrations(module: str) -> dict[str, dict[str, object]]:
    handlers = importlib.import_module(f"segblocks_jax.{module}")
    try:
        return handlers.registrations()
    except ValueError as error:  # SEGBLOCKS_CPU_TILES names no loops that run here.
        raise InputError(str(error)) from None
