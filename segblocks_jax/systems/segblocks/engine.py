"""Engine: a trained model that serves images."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from segblocks_jax.adaptive.cost import count_macs
from segblocks_jax.allocator import keep_freed_memory
from segblocks_jax.errors import InputError
from segblocks_jax.inference.programs import PLATFORMS
from segblocks_jax.inference.server import Shape, check_fork
from segblocks_jax.interop import load_model, load_spec
from segblocks_jax.models import Network
from segblocks_jax.nn import scaled_multiple, scaled_size
from segblocks_jax.systems.segblocks.describe import describe
from segblocks_jax.systems.segblocks.programs import EXECUTIONS, Execution, ModelPrograms
from segblocks_jax.systems.segblocks.serving import Server
from segblocks_jax.systems.segblocks.settings import Mode, Output, Settings
from segblocks_jax.systems.segblocks.spec import ModelSpec

DTYPES = ("float32", "bfloat16", "int8")


class Engine(Server):
    """Serves a trained network and its policy: uint8 images of any size in, label maps out.

    Programs of fixed shapes are compiled when first needed, or all at once by `warm_up`, and kept, up to
    `max_programs` of them. Norms are folded into convolutions, images are normalized, padded to whole blocks and
    cropped back inside, and labels are found without logits at full resolution. One engine serves several threads.

    Attributes:
        spec: of the model.
        dtype: of the network's activations; the policy always runs in float32.
        model_programs: the programs that are compiled and exported.

    Example:
        >>> engine = Engine.load("runs/cityscapes/export", mode="share=0.25")  # doctest: +SKIP
        >>> engine.warm_up([(1, 1024, 2048)])  # doctest: +SKIP
        >>> labels = engine(image[None]).labels[0]  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Network | nnx.Dict,
        spec: ModelSpec,
        *,
        dtype: str = "float32",
        mode: str = "exact",
        shapes: Sequence[Shape] = (),
        execution: str | None = None,
        strict: bool = False,
        max_programs: int = 128,
        devices: Sequence[jax.Device] = (),
        keep_memory: bool = False,
    ) -> None:
        """Takes a copy of the weights.

        Args:
            model: a network, which runs whole images, or a system ``{"net", "policy"}``, which runs blocks.
            spec: what describes it, with `mean` and `std`; `load_spec` reads it from a saved model.
            dtype: "float32", "bfloat16", or "int8" for a model that was quantized (`segblocks_jax.quantize`).
            mode: how many blocks run high, see `segblocks_jax.systems.segblocks.settings.Mode`.
            shapes: (n, h, w) that images are padded to, the smallest that holds them, so that images of
                many sizes need few programs. Images that none holds are padded to whole blocks.
            execution: "fused", norms folded into convolutions on the compiled handlers; "plain", the network
                as it is trained; "xla", the same without any custom call. None: "fused" on CPUs with
                compiled handlers, and on GPUs if the environment variable SEGBLOCKS_GPU_DEFAULT is "fused";
                else "plain".
            strict: refuses images that none of `shapes` holds, and whatever else would need a program that
                `mode` doesn't ask for.
            max_programs: that are kept; beyond, the least recently used one is dropped.
            devices: that calls take in turn, as many at the same time; default: JAX's default device.
            keep_memory: calls `segblocks_jax.allocator.keep_freed_memory`, for the whole
                process: calls are faster, and resident memory stays at its highest.

        Raises:
            ValueError: an unknown dtype, mode or execution, "fused" for what can't be fused, shapes
                that are no whole blocks, strict without shapes, no program to keep, blocks that are too
                small for the network, or a spec without what serving needs.
            RuntimeError: "fused" without compiled handlers; or a fork of a process that had an engine.
        """
        check_fork()
        checked = _checked_execution(dtype, max_programs, execution)
        net, policy = _parts(model)
        _check_policy(net, policy, spec)
        programs = ModelPrograms(net, policy, spec, dtype, checked, max_size=max_programs)
        self.spec, self.dtype, self.model_programs = spec, dtype, programs
        self._shapes = _without_weights(net), _without_weights(policy)
        self._gmacs: dict[tuple[int, int], tuple[float, float]] = {}
        settings = Settings(
            block_size=None if policy is None else policy.block_size,
            bucket_step=1 / 16 if spec.policy is None else spec.policy.bucket_step,
            fill=programs.normalization.fill,
            mode=Mode.parse(mode),
            shapes=_checked_shapes(shapes),
            image_multiple=scaled_multiple(spec.input_scale),
            learned=policy is not None and policy.learned,
            strict=strict,
        )
        if keep_memory:
            keep_freed_memory()
        super().__init__(programs, settings, devices)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **options: Any) -> "Engine":
        """An engine of a model that `segblocks_jax.load_model` finds; `options` as for the engine."""
        check_fork()
        return cls(load_model(folder), load_spec(folder), **options)

    def replace_weights(self, model: Network | nnx.Dict) -> None:
        """Serves other weights of the same network and policy from now on; nothing is compiled again.

        Raises:
            ValueError: another network or policy.
        """
        self.model_programs.replace_weights(*_parts(model))

    def describe(self) -> str:
        """What serves, a line each: network, blocks, execution, dtype, mode, and the processor's instructions."""
        return describe(self.spec, self.execution, self.dtype, self.mode)

    @property
    def execution(self) -> Execution:
        """How the network runs."""
        return self.model_programs.execution

    @property
    def compilations(self) -> int:
        """How many programs were compiled so far."""
        return self.model_programs.compilations

    def gmacs(self, size: tuple[int, int], share: float) -> float:
        """See `ShapeServer.gmacs`; each padded size is counted once."""
        _, height, width = self.shape_for((1, *size))
        if (height, width) not in self._gmacs:
            self._gmacs[height, width] = self._count((height, width))
        low, high = self._gmacs[height, width]
        m = self.multiple
        own, blocks = (math.ceil(h / m) * math.ceil(w / m) for h, w in (size, (height, width)))
        return low + (high - low) * share * own / blocks

    def _count(self, size: tuple[int, int]) -> tuple[float, float]:
        """GMACs of an image of a padded size with all blocks low, and with all high."""
        (net, policy), spec = self._shapes, self.spec
        options: dict[str, Any] = {"policy": policy}
        if spec.policy is not None:
            options["low_factor"] = spec.policy.low_factor
        shape = (1, *scaled_size(size, spec.input_scale), 3)
        low, high = (count_macs(net, shape, share, **options).total for share in (0.0, 1.0))
        return low / 1e9, high / 1e9

    def export(
        self,
        folder: str | os.PathLike[str],
        shapes: Sequence[Shape] | None = None,
        *,
        mode: str | None = None,
        output: Output = "labels",
        platforms: Sequence[str] = PLATFORMS,
    ) -> pathlib.Path:
        """Writes the programs of a mode as StableHLO (`jax.export`), and the weights, for `ExportedEngine`.

        With execution "fused" and "plain" they call this package's handlers by the names in `engine.json`;
        with "xla" jax alone runs them.

        Args:
            folder: made; it must not exist.
            shapes: (n, h, w), default: the engine's.
            mode: default: the engine's.
            output: what the programs return.
            platforms: "cpu" and "cuda".

        Raises:
            FileExistsError: the folder exists.
            ValueError: no shapes, or an unknown platform.
            ModuleNotFoundError: flatbuffers is missing.
        """
        settings = dataclasses.replace(
            self.settings,
            shapes=self.settings.shapes if shapes is None else _checked_shapes(shapes),
            mode=self.mode if mode is None else Mode.parse(mode),
        )
        if not settings.shapes:
            raise InputError("export: there are no shapes; give some here, or to the engine")
        Server(self.model_programs, settings)  # Checks the shapes.
        chosen = [
            p for shape in settings.shapes for p in settings.programs(shape, settings.mode, output)
        ]
        from segblocks_jax.systems.segblocks.export import export_programs  # It knows the engine.

        return export_programs(folder, self.model_programs, chosen, settings, platforms)

    def memory(self, shape: Shape, mode: str, output: Output = "labels") -> dict[str, int]:
        """Bytes of the largest program of a mode, as the compiler says; see `ModelPrograms.memory`."""
        programs = self.settings.programs(shape, Mode.parse(mode), output)
        return max(map(self.model_programs.memory, programs), key=lambda m: m["temporary"])


def _checked_execution(dtype: str, max_programs: int, execution: str | None) -> Execution | None:
    """The execution, if all three can be."""
    if dtype not in DTYPES:
        raise InputError(f"Engine: dtype is {dtype!r}; expected one of {DTYPES}")
    if max_programs < 1:
        raise InputError(f"Engine: max_programs is {max_programs}; expected 1 or more")
    if execution is not None and execution not in EXECUTIONS:
        raise InputError(
            f"Engine: execution is {execution!r}; expected one of {EXECUTIONS} or None"
        )
    if dtype == "int8" and execution == "plain":
        raise InputError(
            "Engine: int8 runs with execution 'fused', or 'xla'; 'plain' was asked for"
        )
    return execution


def _checked_shapes(shapes: Sequence[Shape]) -> tuple[Shape, ...]:
    try:
        return tuple((int(n), int(h), int(w)) for n, h, w in shapes)
    except (TypeError, ValueError) as error:
        raise InputError(f"shapes are {shapes!r}; expected (n, h, w) of each") from error


def _parts(model: Network | nnx.Dict) -> tuple[Network, Any]:
    if not isinstance(model, nnx.Dict):
        return model, None
    return model.net, model.policy if "policy" in model else None


def _without_weights(module: Any) -> Any:
    """The module with shapes for arrays: enough to count operations."""
    graphdef, state = nnx.split(module)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    return nnx.merge(graphdef, shapes)


def _check_policy(net: Network, policy: Any, spec: ModelSpec) -> None:
    if policy is None:
        return
    if spec.policy is None:
        raise InputError(
            "Engine: the model has a policy, the spec has none; give the spec a PolicySpec, or serve model.net"
        )
    if policy.block_size != spec.policy.block_size:
        raise InputError(
            f"Engine: the policy has blocks of {policy.block_size} pixels, the spec of {spec.policy.block_size}"
        )
    spec.check_blocks(net)
