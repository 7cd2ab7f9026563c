"""Programs of a model for a server, compiled ahead of time and kept."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from segblocks_jax.adaptive.decision import Decision, fill_scores, top_count
from segblocks_jax.blocks import BlockGrid, combine, split
from segblocks_jax.data.normalization import Normalization, normalize
from segblocks_jax.errors import InputError
from segblocks_jax.inference.fused import FusedNet, fuse, pays
from segblocks_jax.inference.programs import KeyedCache
from segblocks_jax.inference.traced import FusedTraced
from segblocks_jax.models import Network
from segblocks_jax.nn import at_scale
from segblocks_jax.ops import extension
from segblocks_jax.ops.upsample_argmax import upsample_argmax
from segblocks_jax.systems.segblocks.policies import Policy
from segblocks_jax.systems.segblocks.settings import Output, Program
from segblocks_jax.systems.segblocks.spec import ModelSpec

Execution = Literal["fused", "plain", "xla"]
EXECUTIONS: tuple[Execution, ...] = ("fused", "plain", "xla")
Images = UInt8[Array, "n h w 3"]


class ModelPrograms:
    """The programs of a network and its policy.

    Attributes:
        weights: of network and policy, as programs take them; a pytree.
        execution: "fused", "plain" or "xla", see `Engine`.
        normalization: of the images.
        spec: of the model.
    """

    def __init__(
        self,
        net: Network,
        policy: nnx.Module | None,
        spec: ModelSpec,
        dtype: str,
        execution: Execution | None,
        *,
        max_size: int = 128,
    ) -> None:
        """Takes copies of the weights, in evaluation mode, prepared for the execution.

        At most `max_size` programs are kept; the least recently used ones are dropped.
        """
        self.spec, self._stride = spec, net.output_stride
        self._ranges = spec.ranges() if dtype == "int8" else None
        self._dtype = "float32" if dtype == "int8" else dtype
        other: Execution = "plain" if self._ranges is None else "xla"
        self.execution: Execution = execution or ("fused" if pays(net) else other)
        self.normalization, self.max_size = _normalization(spec), max_size
        self._compiled: KeyedCache[Any, jax.stages.Compiled] = KeyedCache(max_size)
        self._graphs, self.weights = self._prepare(net, policy)
        self._placed: dict[jax.Device | None, list[Array]] = {None: jax.tree.leaves(self.weights)}

    def replace_weights(self, net: Network, policy: nnx.Module | None) -> None:
        """Takes copies of other weights, without compiling; raises ValueError for another network or policy."""
        graphs, weights = self._prepare(net, policy)
        if graphs != self._graphs or _layout(weights) != _layout(self.weights):
            raise InputError(
                "replace_weights: these are the weights of another network or policy; build another engine"
            )
        # A fused network's structure holds functions that are others each time, if alike.
        structure = jax.tree.structure(self.weights)
        self.weights = jax.tree.unflatten(structure, jax.tree.leaves(weights))
        self._placed = {None: jax.tree.leaves(self.weights)}

    def _prepare(
        self, net: Network, policy: nnx.Module | None
    ) -> tuple[tuple[nnx.GraphDef, nnx.GraphDef], Any]:
        """Structure of network and policy, and their weights as programs take them."""
        net, policy = nnx.clone(net), nnx.clone(policy)
        for module in (net, policy):
            if module is not None:
                module.eval()
        (net_graph, net_state), (policy_graph, policy_state) = nnx.split(net), nnx.split(policy)
        served: Any = net_state
        if self.execution == "fused" or self._ranges is not None:
            with self.tracing():
                extension.resolve()
                served = fuse(net, self._dtype, self._ranges)
        return (net_graph, policy_graph), jax.block_until_ready((policy_state, served))

    def _leaves_on(self, device: jax.Device | None) -> list[Array]:
        placed = self._placed
        if device not in placed:
            placed[device] = jax.device_put(placed[None], device)
        return placed[device]

    @property
    def compilations(self) -> int:
        """How many programs were compiled."""
        return self._compiled.made

    def get(
        self, program: Program, device: jax.Device | None = None
    ) -> tuple[Callable[..., Any], bool]:
        """The compiled program as a function of all but the weights, and whether this call compiled it."""
        leaves = self._leaves_on(device)
        compiled, made = self._compiled.get(
            (program, device), lambda: self.lower(program, device).compile()
        )
        return (lambda *arguments: compiled(leaves, *arguments)), made

    def lower(self, program: Program, device: jax.Device | None = None) -> jax.stages.Lowered:
        """The program, lowered for a device."""
        with self.tracing():
            function, arguments = self.flat_function(program), self.arguments(program)
            return jax.jit(function).lower(self._leaves_on(device), *arguments)

    def memory(self, program: Program) -> dict[str, int]:
        """Bytes that a compiled program takes: temporaries, arguments (with weights), outputs."""
        compiled, _ = self._compiled.get((program, None), lambda: self.lower(program).compile())
        analysis = compiled.memory_analysis()
        assert analysis is not None
        return {
            "temporary": analysis.temp_size_in_bytes,
            "arguments": analysis.argument_size_in_bytes,
            "output": analysis.output_size_in_bytes,
        }

    def tracing(self) -> contextlib.AbstractContextManager[None]:
        """The context that programs are traced in."""
        return extension.using({"fused": "ffi", "xla": "xla"}.get(self.execution))

    def function(self, program: Program) -> Callable[..., Any]:
        """The program as a function of weights and arguments, to be traced within `tracing`."""
        run, options = getattr(self, f"_{program.kind}"), {}
        if program.kind == "decide":
            return run
        if program.kind != "dense":
            options["num_high"] = program.num_high

        def function(*arguments: Any) -> Any:
            return run(*arguments, output=program.output, **options)

        return function

    def flat_function(self, program: Program) -> Callable[..., Any]:
        """The same of the weights' leaves: calls flatten no container of Flax, and loaders need to know none."""
        structure, run = jax.tree.structure(self.weights), self.function(program)

        def function(leaves: Sequence[Array], *arguments: Array) -> Any:
            return run(jax.tree.unflatten(structure, leaves), *arguments)

        return function

    def arguments(self, program: Program) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes and dtypes of the arguments behind the weights."""
        images = jax.ShapeDtypeStruct((*program.shape, 3), jnp.uint8)
        valid = jax.ShapeDtypeStruct((3,), jnp.int32)
        seed = jax.ShapeDtypeStruct((), jnp.uint32)
        if program.kind == "dense":
            return (images,)
        if program.kind != "segment":
            return images, valid, seed
        assert self.spec.policy is not None
        (n, h, w), side = program.shape, self.spec.policy.block_size
        grid = (n, h // side, w // side)
        action = jax.ShapeDtypeStruct(grid, jnp.bool_)
        return images, action, jax.ShapeDtypeStruct(grid, jnp.float32), seed

    def _net(self, weights: Any) -> Callable[..., Any]:
        state = weights[1]
        return (
            state
            if isinstance(state, FusedNet | FusedTraced)
            else nnx.merge(self._graphs[0], state)
        )

    def _dense(self, weights: Any, images: Images, *, output: Output) -> Array:
        image = normalize(images, *self.normalization).astype(self._dtype)
        logits = at_scale(self._net(weights), image, self.spec.input_scale, self._stride)
        return _finish(logits, output, self._stride)

    def _decide(
        self, weights: Any, images: Images, valid: Int[Array, "3"], seed: UInt32[Array, ""]
    ) -> tuple[Bool[Array, "n gh gw"], Float[Array, "n gh gw"]]:
        policy = cast(Policy, nnx.merge(self._graphs[1], weights[0]))
        decision = policy(normalize(images, *self.normalization), _key(seed, 0))
        n, gh, gw = decision.action.shape
        side = policy.block_size
        image, row, column = jnp.ogrid[:n, :gh, :gw]
        inside = (image < valid[0]) & (row * side < valid[1]) & (column * side < valid[2])
        scores = jnp.where(inside, decision.scores.astype(jnp.float32), -jnp.inf)
        return decision.action & inside, scores

    def _segment(
        self,
        weights: Any,
        images: Images,
        action: Bool[Array, "n gh gw"],
        scores: Float[Array, "n gh gw"],
        seed: UInt32[Array, ""],
        *,
        num_high: int,
        output: Output,
    ) -> tuple[Array, Bool[Array, "n gh gw"]]:
        assert self.spec.policy is not None
        semantics, low_factor = self.spec.semantics, self.spec.policy.low_factor
        filling = fill_scores(Decision(action, scores), semantics.filling, _key(seed, 1))
        filling = jnp.where(jnp.isneginf(scores), -jnp.inf, filling)  # Padding comes last.
        grid = BlockGrid.from_mask(action, num_high, filling, low_factor)
        image = normalize(images, *self.normalization).astype(self._dtype)
        logits = combine(self._net(weights)(split(image, grid)), semantics.low_upsampling)
        return _finish(logits, output, self._stride), grid.mask

    def _fixed(
        self,
        weights: Any,
        images: Images,
        valid: Int[Array, "3"],
        seed: UInt32[Array, ""],
        *,
        num_high: int,
        output: Output,
    ) -> tuple[Array, Bool[Array, "n gh gw"], Float[Array, "n gh gw"]]:
        _, scores = self._decide(weights, images, valid, seed)
        action = top_count(scores, num_high)
        total = num_high * images.shape[0]
        options: dict[str, Any] = {"num_high": total, "output": output}
        return *self._segment(weights, images, action, scores, seed, **options), scores


def _layout(weights: Any) -> list[tuple[Any, ...]]:
    """Place, shape and dtype of every array."""
    return [(path, x.shape, x.dtype) for path, x in jax.tree.leaves_with_path(weights)]


def _key(seed: UInt32[Array, ""], purpose: int) -> Array:
    """0 for the policy's own numbers, 1 for what rounding turns high."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


def _finish(logits: Float[Array, "n lh lw k"], output: Output, stride: int) -> Array:
    return logits.astype(jnp.float32) if output == "logits" else upsample_argmax(logits, stride)


def _normalization(spec: ModelSpec) -> Normalization:
    if spec.mean is None or spec.std is None:
        raise InputError(
            "Engine: the spec has no mean and std to normalize images with; give it those of the training"
            " data: dataclasses.replace(spec, mean=..., std=...)"
        )
    return Normalization(spec.mean, spec.std)
