"""The compiled handlers: their errors, empty and large work, and JAX's transformations."""

import dataclasses
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, PartitionSpec

import segblocks_jax as sb
from segblocks_jax.ops import extension

SLOTS = np.array([[[0, 2, 1], [3, 4, 5]]], np.int32)  # Cells 0 and 2 are high: b = 4, f = 2.
PIXELS = 2 * 16 + 4 * 4


@dataclasses.dataclass(frozen=True)
class Call:
    """A valid call of a handler; tests spoil it by replacing parts."""

    operands: dict[str, tuple[tuple[int, ...], str]]
    results: dict[str, tuple[tuple[int, ...], str]]
    attributes: dict[str, int | bool]

    def run(self, target: str, slots: np.ndarray | None = None) -> list[np.ndarray]:
        arrays = [jnp.zeros(shape, dtype) for shape, dtype in self.operands.values()]
        if slots is not None:
            arrays[list(self.operands).index("slots")] = jnp.asarray(slots)
        types = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in self.results.values()]
        attributes = {
            name: value if isinstance(value, bool) else np.int64(value)
            for name, value in self.attributes.items()
        }
        results = jax.jit(lambda *a: jax.ffi.ffi_call(target, types)(*a, **attributes))(*arrays)
        return [np.asarray(result) for result in results]


IMAGE = {"image": ((1, 8, 12, 3), "float32")}
PACKED = {"pixels": ((PIXELS, 3), "float32")}
GRID = {"slots": (SLOTS.shape, "int32")}
PADDED = {"high": ((2, 6, 8, 3), "float32"), "low": ((4, 4, 6, 3), "float32")}
ATTRIBUTES = {"num_high": 2, "low_factor": 2}
BILINEAR = {**ATTRIBUTES, "bilinear": True}
PADDING = {**ATTRIBUTES, "padding_y": 1, "padding_x": 2}
CALLS = {
    "segblocks_split": Call(IMAGE | GRID, PACKED, ATTRIBUTES),
    "segblocks_split_backward": Call(PACKED | GRID, IMAGE, ATTRIBUTES),
    "segblocks_combine": Call(PACKED | GRID, IMAGE, BILINEAR),
    "segblocks_combine_backward": Call(IMAGE | GRID, PACKED, BILINEAR),
    "segblocks_pad": Call(PACKED | GRID, PADDED, PADDING),
    "segblocks_pad_backward": Call(PADDED | GRID, PACKED, PADDING),
}

# Argument -> what to make of it, and what the error must say it expected.
BUFFER_ERRORS = {
    "image": [
        ((1, 8, 12), "float32", r"rank 4 \(n, h, w, c\)"),
        ((2, 8, 12, 3), "float32", r"shape \(1, 8, 12, 3\)"),
        ((1, 8, 13, 3), "float32", r"shape \(1, 8, 12, 3\)"),
        ((1, 6, 9, 3), "float32", "positive multiple of low_factor 2"),
        ((1, 8, 12, 3), "int32", "dtype F32, BF16 or F16"),
    ],
    "pixels": [
        ((PIXELS,), "float32", r"rank 2 \(pixels, c\)"),
        ((PIXELS + 1, 3), "float32", rf"shape \({PIXELS}, 3\)"),
        ((PIXELS, 3), "int8", "dtype"),
        ((PIXELS, 3), "float16", "dtype"),
    ],
    "slots": [
        ((2, 3), "int32", r"rank 3 \(n, gh, gw\)"),
        ((1, 0, 3), "int32", "gh >= 1 and gw >= 1"),
        ((1, 2, 3), "uint32", "dtype S32"),
    ],
    "high": [
        ((2, 6, 8), "float32", "rank 4"),
        ((3, 6, 8, 3), "float32", r"shape \(2, 6, 8, 3\)"),
        ((2, 6, 9, 3), "float32", r"shape \(2, 6, 8, 3\)"),
        ((2, 7, 8, 3), "float32", "positive multiple of low_factor 2"),
        ((2, 2, 8, 3), "float32", "positive multiple of low_factor 2"),
        ((2, 1, 8, 3), "float32", "a number in 0 .. 0"),
        ((2, 6, 8, 3), "bfloat16", "dtype F32 like argument 'pixels'"),
    ],
    "low": [
        ((4, 4, 6), "float32", "rank 4"),
        ((4, 4, 5, 3), "float32", r"shape \(4, 4, 6, 3\)"),
        ((4, 4, 6, 2), "float32", r"shape \(4, 4, 6, 3\)"),
        ((4, 4, 6, 3), "float16", "dtype F32 like argument 'pixels'"),
    ],
}
ATTRIBUTE_ERRORS = [
    ("num_high", -1, "a number in 0 .. 6"),
    ("num_high", 7, "a number in 0 .. 6"),
    ("num_high", 3, r"expected shape \("),
    ("low_factor", 0, "a number >= 1"),
    ("low_factor", -2, "a number >= 1"),
    ("low_factor", 3, "a positive multiple of low_factor 3"),
    ("padding_y", -1, "a number in 0 .. 3"),
    ("padding_x", 2**62, "a number in 0 .. 4"),
    ("padding_y", 2, "expected"),
]


@pytest.fixture(autouse=True)
def compiled() -> None:
    if not extension.available():
        if os.environ.get("SEGBLOCKS_REQUIRE_EXT"):
            pytest.fail(extension.why_unavailable())
        pytest.skip(extension.why_unavailable())


@pytest.mark.parametrize("target", CALLS)
def test_valid_call_runs(target: str) -> None:
    assert all(not result.any() for result in CALLS[target].run(target, SLOTS))


@pytest.mark.family(of=("target",))
@pytest.mark.parametrize(
    ("target", "name", "shape", "dtype", "expected"),
    [
        (target, name, shape, dtype, expected)
        for target, call in CALLS.items()
        for name in call.operands | call.results
        for shape, dtype, expected in BUFFER_ERRORS[name]
    ],
)
def test_wrong_buffers(
    target: str, name: str, shape: tuple[int, ...], dtype: str, expected: str
) -> None:
    call = CALLS[target]
    part = "operands" if name in call.operands else "results"
    spoiled = dataclasses.replace(call, **{part: getattr(call, part) | {name: (shape, dtype)}})
    with pytest.raises(Exception, match=rf"(?s){target}: argument '\w+': got .*{expected}"):
        spoiled.run(target)


@pytest.mark.family(of=("target",))
@pytest.mark.parametrize(
    ("target", "name", "value", "expected"),
    [
        (target, name, value, expected)
        for target, call in CALLS.items()
        for name, value, expected in ATTRIBUTE_ERRORS
        if name in call.attributes
    ],
)
def test_wrong_attributes(target: str, name: str, value: int, expected: str) -> None:
    call = CALLS[target]
    spoiled = dataclasses.replace(call, attributes=call.attributes | {name: value})
    with pytest.raises(Exception, match=rf"(?s){target}: argument '\w+': got .*{expected}"):
        spoiled.run(target)


@pytest.mark.family
@pytest.mark.parametrize("target", CALLS)
@pytest.mark.parametrize("slot", [-1, 6, 2**31 - 1])
def test_slots_out_of_range(target: str, slot: int) -> None:
    if jax.default_backend() != "cpu":
        pytest.skip("only the CPU handlers read the slots before they start")
    slots = SLOTS.copy()
    slots[0, 1, 1] = slot
    with pytest.raises(Exception, match=rf"{target}: argument 'slots': got slot {slot} in cell 4"):
        CALLS[target].run(target, slots)


def random_blocks(seed: int, shape: tuple[int, ...], block: int, channels: int) -> sb.DualRes:
    rng = np.random.default_rng(seed)
    grid = sb.BlockGrid.from_mask(rng.random(shape) < 0.5)
    pixels = rng.normal(size=(grid.num_pixels(block), channels)).astype(np.float32)
    return sb.DualRes(jnp.asarray(pixels), grid)


def split(blocks: sb.DualRes, implementation: str | None = None) -> jax.Array:
    image = jnp.sin(sb.combine(blocks, "nearest", implementation=implementation))
    return sb.split(image, blocks.grid, implementation=implementation).pixels


def combine(blocks: sb.DualRes, implementation: str | None = None) -> jax.Array:
    return sb.combine(blocks, implementation=implementation)


def pad(blocks: sb.DualRes, implementation: str | None = None) -> jax.Array:
    padded = sb.block_pad(blocks, (1, 2), implementation=implementation)
    return jnp.concatenate([padded.high.reshape(-1), padded.low.reshape(-1)])


OPERATIONS = [split, combine, pad]
operations = pytest.mark.parametrize("operation", OPERATIONS)


def objective(
    operation: Callable[..., jax.Array], grid: sb.BlockGrid, implementation: str
) -> Callable[[jax.Array], jax.Array]:
    def value(pixels: jax.Array) -> jax.Array:
        result = operation(sb.DualRes(pixels, grid), implementation)
        weights = jnp.cos(jnp.linspace(0, 9, result.size)).reshape(result.shape)
        return jnp.sum(jnp.sin(result) * weights)

    return value


@operations
def test_work_for_many_threads(operation: Callable[..., jax.Array]) -> None:
    blocks = random_blocks(0, (2, 5, 7), 16, 33)
    got = jax.jit(operation)(blocks)
    np.testing.assert_allclose(got, operation(blocks, "xla"), rtol=1e-5, atol=1e-5)
    for _ in range(20):
        np.testing.assert_array_equal(jax.jit(operation)(blocks), got)


@pytest.mark.family(of=("operation",))
@operations
@pytest.mark.parametrize(
    ("shape", "high"), [((0, 2, 3), False), ((1, 2, 3), False), ((1, 2, 3), True)]
)
def test_empty_parts(
    operation: Callable[..., jax.Array], shape: tuple[int, ...], high: bool, implementation: str
) -> None:
    grid = sb.BlockGrid.from_mask(np.full(shape, high))
    pixels = jnp.ones((grid.num_pixels(4), 3), jnp.float32)
    gradient = jax.grad(objective(operation, grid, implementation))(pixels)
    assert gradient.shape == pixels.shape
    assert jnp.isfinite(gradient).all()


@pytest.mark.family(of=("operation",))
@operations
@pytest.mark.parametrize("channels", [1, 255, 256, 257, 600])
def test_channel_counts(operation: Callable[..., jax.Array], channels: int) -> None:
    blocks = random_blocks(1, (1, 2, 2), 4, channels)
    np.testing.assert_allclose(operation(blocks, "ffi"), operation(blocks, "xla"), atol=1e-5)


@pytest.mark.family("split")
@operations
def test_grad_of_grad(operation: Callable[..., jax.Array]) -> None:
    blocks = random_blocks(2, (1, 2, 3), 4, 2)

    def both(implementation: str) -> tuple[jax.Array, jax.Array]:
        gradient = jax.grad(objective(operation, blocks.grid, implementation))
        second = jax.grad(lambda pixels: jnp.sum(gradient(pixels) ** 2))
        return gradient(blocks.pixels), second(blocks.pixels)

    for got, expected in zip(both("ffi"), both("xla"), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.family(of=("implementation",))
@operations
def test_vmap(operation: Callable[..., jax.Array], implementation: str) -> None:
    masks = jnp.array([[[[1, 0, 1]]], [[[0, 1, 1]]], [[[1, 1, 0]]]], bool)
    pixels = jnp.asarray(np.random.default_rng(3).normal(size=(3, 36, 2)), jnp.float32)

    def both(pixels: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        grid = sb.BlockGrid.from_mask(mask, num_high=2)
        value = objective(operation, grid, implementation)
        return operation(sb.DualRes(pixels, grid), implementation), jax.grad(value)(pixels)

    batched = jax.jit(jax.vmap(both))(pixels, masks)
    for k in range(3):
        alone = both(pixels[k], masks[k])
        for got, expected in zip(batched, alone, strict=True):
            np.testing.assert_allclose(got[k], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.family(of=("implementation", "replicated_grid"))
@operations
@pytest.mark.parametrize("replicated_grid", [False, True])
def test_shard_map(
    operation: Callable[..., jax.Array], implementation: str, replicated_grid: bool
) -> None:
    devices = jax.device_count()
    if devices < 2:
        pytest.skip("needs two devices")
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,))
    mask = np.tile(np.array([[[True, False, True]]]), (devices, 1, 1))
    pixels = jnp.asarray(np.random.default_rng(4).normal(size=(devices, 36, 2)).astype(np.float32))

    def local(pixels: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        grid = sb.BlockGrid.from_mask(mask, num_high=2)
        value = objective(operation, grid, implementation)
        result = operation(sb.DualRes(pixels[0], grid), implementation)
        return result[None], jax.grad(value)(pixels[0])[None]

    data, everywhere = PartitionSpec("data"), PartitionSpec()
    mask_spec, given = (everywhere, mask[:1]) if replicated_grid else (data, mask)
    step = jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=(data, mask_spec), out_specs=(data, data))
    )
    results = step(pixels, jnp.asarray(given))
    alone = local(pixels[:1], jnp.asarray(mask[:1]))
    for got, expected in zip(results, alone, strict=True):
        np.testing.assert_allclose(np.asarray(got)[:1], expected, rtol=1e-6, atol=1e-6)
    compiled = step.lower(pixels, jnp.asarray(given)).compile().as_text()
    assert "all-gather" not in compiled


@pytest.mark.family
@operations
def test_export(operation: Callable[..., jax.Array], implementation: str) -> None:
    blocks = random_blocks(5, (1, 2, 3), 4, 2)
    step = jax.jit(jax.value_and_grad(objective(operation, blocks.grid, implementation)))
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in extension.TARGETS]
    exported = export.export(step, disabled_checks=checks)(blocks.pixels)
    loaded = export.deserialize(exported.serialize())
    for got, expected in zip(loaded.call(blocks.pixels), step(blocks.pixels), strict=True):
        np.testing.assert_array_equal(got, expected)
