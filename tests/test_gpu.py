"""On a GPU: every compiled operation against its reference, forward and backward, in every dtype."""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_indexed_handlers as handlers
import test_mask_tables as masks
from flax import nnx
from indexed_oracles import Units
from oracles import enlarged

import segblocks_jax as sb
from segblocks_jax.blocks.pad import index_patches
from segblocks_jax.inference.fused import fuse
from segblocks_jax.ops import extension
from segblocks_jax.ops.indexed_conv import Epilogue, indexed_conv, indexed_conv_of_halos
from segblocks_jax.ops.max_pool import indexed_max_pool
from segblocks_jax.ops.packed_kernel import pack_kernel
from segblocks_jax.ops.upsample2 import indexed_upsample2, indexed_upsample2_of_halos
from segblocks_jax.ops.upsample_argmax import upsample_argmax

pytestmark = pytest.mark.gpu

# (n, gh, gw, block size, channels, low factor, share of high blocks)
CASES = {
    "mixed": (2, 3, 5, 8, 16, 2, 0.4),
    "odd channels": (1, 2, 3, 4, 3, 2, 0.5),
    "factor 4": (1, 3, 2, 8, 19, 4, 0.5),
    "one pixel": (2, 2, 2, 2, 64, 2, 0.5),
    "all high": (1, 2, 3, 8, 8, 2, 1.0),
    "all low": (1, 2, 3, 8, 8, 2, 0.0),
    "stride 4 of 1024 x 2048": (1, 8, 16, 32, 64, 2, 0.4),
}
# Whether kernels run on a CPU, thread by thread (test_ptx.py).
EMULATED = "SEGBLOCKS_PTX" in os.environ
MASK = np.array([[[True, False, False, False], [False, False, False, True]]])
# Relative to the largest value: one rounding to the dtype, after float32 sums in another order.
TOLERANCE = {"float32": 1e-6, "bfloat16": 2**-8, "float16": 2**-10}


def blocks_of(case, dtype):
    n, gh, gw, side, channels, factor, share = CASES[case]
    rng = np.random.default_rng(0)
    scores = rng.random((n, gh, gw), np.float32)
    mask = np.zeros((n, gh, gw), bool)
    grid = sb.BlockGrid.from_mask(mask, round(share * mask.size), scores, factor)
    image = jnp.asarray(rng.standard_normal((n, gh * side, gw * side, channels)), dtype)
    return image, grid


def both_ways(function, x):
    """Value and gradient of each implementation, for one random cotangent."""
    out = []
    for implementation in ("reference", "ffi"):
        value, pull = jax.vjp(lambda x, i=implementation: function(x, i), x)
        cotangent = jax.tree.map(
            lambda v: jnp.asarray(np.random.default_rng(1).standard_normal(v.shape), v.dtype), value
        )
        out.append(jax.device_get((value, pull(cotangent)[0])))
    return out


def check(function, x):
    reference, compiled = both_ways(jax.jit(function, static_argnums=1), x)
    for a, b in zip(jax.tree.leaves(reference), jax.tree.leaves(compiled), strict=True):
        assert a.shape == b.shape
        if a.size:
            a, b = a.astype(np.float64), b.astype(np.float64)
            assert np.abs(a - b).max() <= 4 * TOLERANCE[str(x.dtype)] * np.abs(a).max()


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("case", list(CASES))
def test_split_and_combine(case, dtype):
    image, grid = blocks_of(case, dtype)
    check(lambda x, i: sb.split(x, grid, implementation=i).pixels, image)
    pixels = sb.split(image, grid, implementation="xla").pixels
    for upsampling in ("bilinear", "nearest"):
        check(
            lambda p, i, u=upsampling: sb.combine(sb.DualRes(p, grid), u, implementation=i), pixels
        )


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("padding", [1, 2, (0, 1)], ids=str)
def test_block_pad(case, dtype, padding):
    image, grid = blocks_of(case, dtype)
    pixels = sb.split(image, grid, implementation="xla").pixels

    def pad(p, implementation):
        padded = sb.block_pad(sb.DualRes(p, grid), padding, implementation=implementation)
        return padded.high, padded.low

    check(pad, pixels)


def test_the_backward_is_deterministic():
    image, grid = blocks_of("stride 4 of 1024 x 2048", "float32")
    pixels = sb.split(image, grid).pixels

    def loss(p):
        return jnp.sum(jnp.square(sb.block_pad(sb.DualRes(p, grid), 1, implementation="ffi").low))

    gradient = jax.jit(jax.grad(loss))
    first = np.asarray(gradient(pixels))
    for _ in range(5):
        np.testing.assert_array_equal(np.asarray(gradient(pixels)), first)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", handlers.CONVS)
def test_indexed_conv(name, dtype, rng):
    handlers.test_conv(name, dtype, rng)


WIDE_CONVS = {
    # Enough tiles for those of 128 columns.
    "stride 4": handlers.Conv(64, 128, high=(24, 34, 34), low=(48, 18, 18), extras="sbr2"),
    "partly live": handlers.Conv(
        72, 128, high=(40, 34, 34), low=(9, 18, 18), counts=(29, 3), extras="b", activation=1
    ),
    # Blocks of a cluster share the terms of a tile.
    "shared terms": handlers.Conv(256, 72, high=(2, 6, 6), low=(3, 4, 4), extras="sbr2"),
    "shared terms, odd features": handlers.Conv(
        128, 67, high=(2, 6, 6), low=(30, 4, 4), counts=(1, 29), extras="sb2o", activation=2
    ),
    # Channels by four.
    "four channels": handlers.Conv(4, 64, 7, 7, 2, high=(2, 22, 22), low=(3, 14, 14), extras="sb"),
    # Without a table of the places of rows.
    "long lines": handlers.Conv(8, 40, high=(1, 4, 1300), low=(2, 4, 4), extras="b"),
    "long lines of four channels": handlers.Conv(4, 40, high=(0, 3, 3), low=(1, 3, 1300)),
    "padded stem": handlers.Conv(
        4, 64, 7, 7, 2, high=(6, 69, 69), low=(9, 37, 37), extras="sb", activation=1
    ),
    "few long sums": handlers.Conv(512, 512, high=(5, 6, 6), low=(11, 4, 4), extras="sbr"),
    # Halo tiles, where the GPU has warp groups: lines of a tile, several units, as many as fit.
    "lines": handlers.Conv(64, 64, high=(2, 34, 34), low=(3, 18, 18), extras="sbr2", activation=1),
    "units of 2 x 2": handlers.Conv(128, 128, high=(16, 6, 6), low=(70, 4, 4), extras="b"),
    "one tap": handlers.Conv(136, 64, 1, 1, high=(9, 8, 8), low=(5, 4, 4), extras="sr"),
    "one tap of stride 2": handlers.Conv(64, 128, 1, 1, 2, high=(9, 15, 15), low=(5, 7, 7)),
    "two taps": handlers.Conv(72, 19, 1, 2, high=(3, 9, 10), low=(2, 5, 6), counts=(2, 1)),
    "dilated": handlers.Conv(64, 64, dilation=3, high=(3, 14, 14), low=(2, 10, 10), extras="o2"),
    "five by five": handlers.Conv(32, 128, 5, 5, high=(5, 12, 12), low=(9, 8, 8), extras="b"),
    "depthwise": handlers.Conv(
        96, 96, 5, 5, depthwise=True, high=(12, 20, 20), low=(20, 12, 12), extras="sb", activation=2
    ),
}


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", WIDE_CONVS)
def test_indexed_conv_of_layers(name, dtype, rng, monkeypatch):
    monkeypatch.setitem(handlers.CONVS, name, WIDE_CONVS[name])
    handlers.test_conv(name, dtype, rng)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("window", "stride", "channels"), [(3, 2, 64), (2, 2, 7), (3, 1, 130)])
def test_indexed_max_pool(window, stride, channels, dtype, rng):
    handlers.test_max_pool(window, stride, channels, dtype, rng)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("channels", "extras"), [(128, ""), (19, "r"), (64, "r2"), (3, "2")])
def test_indexed_upsample2(channels, extras, dtype, rng):
    handlers.test_upsample2(channels, extras, dtype, rng)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("border", [0, 1, 2])
@pytest.mark.parametrize(
    ("block", "factor", "padding"), [(8, 2, 0), (8, 2, 1), (6, 3, 2), (2, 2, 1)]
)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_index_tables(share, block, factor, padding, border, rng):
    handlers.test_index_tables(share, block, factor, padding, border, rng)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("density", masks.DENSITIES)
@pytest.mark.parametrize("name", masks.CASES)
def test_mask_tables(name, density, rng):
    masks.check_tables(name, density, rng, ("ffi",))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("density", masks.DENSITIES)
@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mask_add(dtype, activation, rest, density, rng):
    for channels in (3, 64):
        masks.check_add(dtype, activation, rest, channels, density, rng, ("ffi",))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_tables_of_several_layers(share, rng):
    handlers.test_tables_of_several_layers(share, rng)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_indices_out_of_range_are_zeros(dtype, rng, monkeypatch):
    """Nothing may be checked by waiting, and nothing may be read outside."""
    conv = handlers.Conv(16, 24, counts=(3, 2))
    units = Units.random(rng, 16, (conv.high, conv.low), dtype=jnp.dtype(dtype))
    rows, halos = len(units.rows), len(units.means)
    broken = Units(units.rows, units.means, tuple(p.copy() for p in units.patches), (99, 99))
    wild = [-(2**31), -2, rows + halos, 2**31 - 1]
    for good, bad in zip(units.patches, broken.patches, strict=True):
        places = rng.random(good.shape) < 0.3
        good[places] = -1
        bad[places] = rng.choice(wild, places.sum())
    monkeypatch.setattr(broken, "gathered", units.gathered, raising=True)
    kernel = rng.standard_normal((3, 3, 16, 24)).astype(units.rows.dtype)
    (expected, _, _), _ = conv.run(units, kernel, rng)
    (got, _, _), _ = conv.run(broken, kernel, rng)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.usefixtures("compiled")
def test_a_captured_chain_of_convolutions_is_the_same_every_time(rng):
    """As many launches in a row as XLA puts into one command buffer; a few where kernels are emulated."""
    side, channels = 32, 64
    blocks, high, times = ((1, 2, 4), 3, 2) if EMULATED else ((1, 8, 16), 51, 5)
    grid = sb.BlockGrid.from_mask(np.zeros(blocks, bool), high, rng.random(blocks, np.float32))
    patches = index_patches(grid, side, 1)
    weights = rng.standard_normal((3, 3, channels, channels)) / np.sqrt(9 * channels)
    kernel = pack_kernel(jnp.asarray(weights, jnp.bfloat16))
    rows = jnp.asarray(rng.standard_normal((grid.num_pixels(side), channels)), jnp.bfloat16)

    def chain(rows, implementation):
        for _ in range(8):
            rows, _ = indexed_conv(rows, patches, kernel, implementation=implementation)
        return rows

    run = jax.jit(chain, static_argnums=1)
    first = np.asarray(run(rows, "ffi"))
    for _ in range(times):
        np.testing.assert_array_equal(np.asarray(run(rows, "ffi")), first)
    expected = np.asarray(run(rows, "reference"), np.float64)
    difference = np.linalg.norm(first.astype(np.float64) - expected)
    assert difference <= 2**-6 * np.linalg.norm(expected)


# Side of the outputs' high blocks, their padding; channels and features, and what else a convolution has.
LENDING = {
    "lines of a tile": (32, 1, 16, 64, {}),
    "second of two": (16, 1, 24, 72, {"following": True, "second": True}),
    "first of two": (8, 2, 24, 128, {"following": True, "residual": True}),
    "second alone": (4, 1, 64, 128, {"following": True, "second": True, "keep": False}),
    "shared terms": (4, 1, 256, 128, {"residual": True}),
    "stride 2": (8, 1, 24, 64, {"stride": 2, "residual": True}),
    "blocks of one low pixel": (2, 1, 64, 64, {}),
    "no power of two": (12, 3, 16, 64, {}),
    "odd features": (8, 1, 16, 19, {"following": True, "second": True}),
    "depthwise": (8, 2, 40, 40, {"depthwise": True}),
}


def means(rows, patches):
    """The halo means of rows, in the order of their sums."""
    sums = np.zeros((len(patches.means), rows.shape[1]), np.float32)
    for k in range(patches.means.shape[1]):
        sums += np.asarray(rows, np.float32)[np.asarray(patches.means)[:, k]]
    used = np.asarray(patches.means)[:, 0] >= 0
    return (sums * np.float32(0.25)).astype(rows.dtype)[used], used


def grid_of(share, rng):
    scores = rng.random((2, 3, 4)).astype(np.float32)
    return sb.BlockGrid.from_mask(np.zeros(scores.shape, bool), round(share * scores.size), scores)


def bits(rows):
    return np.asarray(rows).view("uint8")


def check_lent(lent, rows, patches):
    expected, used = means(rows, patches)
    assert used.any()
    np.testing.assert_array_equal(bits(np.asarray(lent)[used]), bits(expected))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LENDING)
def test_a_convolution_lends_halos(name, dtype, rng):
    """They are those that the next one would compute, bit for bit; it takes them as its own."""
    side, padding, channels, features, extras = LENDING[name]
    stride, depthwise = extras.get("stride", 1), extras.get("depthwise", False)
    grid = grid_of(0.5, rng)
    patches = index_patches(grid, side * stride, 1)

    def normal(*shape, dtype=dtype):
        return jnp.asarray(rng.standard_normal(shape), dtype)

    rows = normal(grid.num_pixels(side * stride), channels)
    groups = channels if depthwise else 1

    def kernel(inputs, outputs):
        weights = rng.standard_normal((3, 3, 1 if depthwise else inputs, outputs)) / 9
        return pack_kernel(jnp.asarray(weights, dtype), groups)

    two = [normal(features, dtype="float32") for _ in range(4)]
    epilogue = Epilogue(
        *two[:2],
        residual=normal(grid.num_pixels(side), features) if "residual" in extras else None,
        following=tuple(two[2:]) if "following" in extras else None,
        activation="relu",
        keep=extras.get("keep", True),
    )
    second = int("second" in extras)
    lends = (padding * (1 - second), padding * second)
    first = (rows, patches, kernel(channels, features), stride, epilogue)
    outputs, lent = indexed_conv_of_halos(*first, lends=lends)
    for output, same in zip(outputs, indexed_conv(*first), strict=True):
        assert (output is None) == (same is None)
        if output is not None:
            np.testing.assert_array_equal(bits(output), bits(same))
    out, halos = outputs[second], lent[second]
    assert lent[1 - second] is None
    reads = index_patches(grid, side, padding)
    check_lent(halos, out, reads)
    following = kernel(features, 16 if groups == 1 else features)
    own, _ = indexed_conv(out, reads, following)
    (taken, _), _ = indexed_conv_of_halos(out, reads, following, 1, Epilogue(), halos=halos)
    np.testing.assert_array_equal(bits(taken), bits(own))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("side", "padding", "channels"), [(4, 1, 64), (12, 2, 19), (1, 1, 16)])
def test_upsampling_lends_halos_and_pooling_takes_them(side, padding, channels, dtype, rng):
    grid = grid_of(0.4, rng)
    rows = jnp.asarray(rng.standard_normal((grid.num_pixels(2 * side), channels)), dtype)
    reads = index_patches(grid, 2 * side, 1, "image")
    out, lent = indexed_upsample2_of_halos(rows, reads, lends=padding)
    np.testing.assert_array_equal(np.asarray(out), np.asarray(indexed_upsample2(rows, reads)))
    patches = index_patches(grid, 4 * side, padding)
    check_lent(lent, out, patches)
    own = indexed_max_pool(out, patches, 3, 2)
    taken = indexed_max_pool(out, patches, 3, 2, halos=lent)
    np.testing.assert_array_equal(np.asarray(taken), np.asarray(own))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("classes", [1, 2, 19, 256])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_label_map(factor, classes, dtype, rng):
    """Small integers have exact weighted sums, and ties."""
    for size in ((1, 1, 1), (2, 5, 7), (1, 9, 33)):
        logits = jnp.asarray(rng.integers(-4, 5, (*size, classes)), dtype)
        both = [upsample_argmax(logits, factor, implementation=i) for i in ("reference", "ffi")]
        np.testing.assert_array_equal(*map(np.asarray, both))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["ties", "smooth", "spread", "tiny", "huge"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_label_map_of_16_bits(factor, kind, dtype, rng):
    """Against sums in float64, which differ from float32 where two classes are nearly equal."""
    size = (2, 11, 37, 19)
    logits = rng.standard_normal(size)
    if kind == "ties":
        logits = 2.0 * rng.integers(-3, 3, size) + 1
    elif kind == "smooth":
        logits = enlarged(rng.standard_normal((2, 3, 10, 19)) * 4, 4)[:, :11, :37]
    elif kind == "spread":
        logits *= 10.0 ** rng.integers(-5, 2, size)
    else:
        logits *= {"tiny": 1e-6, "huge": 1e4}[kind]
    logits = jnp.asarray(logits, dtype)
    labels = np.asarray(upsample_argmax(logits, factor, implementation="ffi"))
    wide = enlarged(np.asarray(logits, np.float64), factor)
    expected = wide.argmax(-1)
    if kind == "ties":
        np.testing.assert_array_equal(labels, expected)
    chosen = np.take_along_axis(wide, labels[..., None].astype(int), 3)[..., 0]
    assert (wide.max(-1) - chosen).max() <= 1e-6 * np.abs(wide).max()
    assert np.mean(labels == expected) >= 0.999


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_label_map_of_what_is_no_number(dtype):
    logits = np.zeros((1, 3, 4, 5), np.float32)
    logits[0, 0, 0] = np.nan
    logits[0, 1, :, 3] = [1, np.nan, np.inf, -np.inf]
    logits[0, 2, 2] = -np.inf
    both = [
        upsample_argmax(jnp.asarray(logits, dtype), 4, implementation=i)
        for i in ("reference", "ffi")
    ]
    np.testing.assert_array_equal(*map(np.asarray, both))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("share", [None, 0.0, 0.4, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fused_network(dtype, share, rng):
    """Logits of a whole network, in blocks or dense (None), and their labels."""
    net = sb.create_model("swiftnet_rn18", num_classes=19, rngs=nnx.Rngs(0))
    net.eval()
    image = jnp.asarray(rng.standard_normal((1, 128, 256, 3)), dtype)
    if share is not None:
        scores = rng.random((1, 2, 4)).astype(np.float32)
        grid = sb.BlockGrid.from_mask(
            np.zeros(scores.shape, bool), round(share * scores.size), scores
        )

    def run(image, implementation):
        with extension.using(implementation):
            x = image if share is None else sb.split(image, grid)
            logits = fuse(net, dtype)(x)
            return logits if share is None else sb.combine(logits)

    run = jax.jit(run, static_argnums=1)
    got, expected = (np.asarray(run(image, i), np.float64) for i in ("ffi", "reference"))
    assert got.shape == (1, 32, 64, 19)
    tolerance = {"float32": 1e-4, "bfloat16": 2**-5}[dtype]
    assert np.linalg.norm(got - expected) <= tolerance * np.linalg.norm(expected)


@pytest.mark.usefixtures("compiled")
def test_few_calls_of_a_frame_compute_halos():
    """Those of the image, of the pooled rows and of the pyramid's; the rest are lent."""
    net = sb.create_model("swiftnet_rn18", num_classes=19, rngs=nnx.Rngs(0))
    net.eval()
    image = jnp.zeros((1, 128, 256, 3), "bfloat16")
    frame = jax.jit(lambda image: fuse(net, "bfloat16")(sb.split(image, MASK, num_high=2)).pixels)
    text = frame.lower(image).as_text()
    own = {"indexed_conv": 2, "indexed_max_pool": 1, "indexed_upsample2": 1}  # Which result.
    calls = re.findall(r"@segblocks_(indexed_\w+)\(.* -> \((.*)\)", text)
    assert len(calls) == 31
    halos = [results.split(", ")[own[name]] for name, results in calls]
    assert sum(not rows.startswith("tensor<0x") for rows in halos) == 3


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_empty_inputs_do_not_break_a_captured_graph(dtype):
    """XLA records several calls in a row as one graph; each has to launch something."""
    grid = sb.BlockGrid.from_mask(np.zeros((0, 2, 3), bool))
    patches = index_patches(grid, 8, 1)
    kernel = pack_kernel(jnp.ones((3, 3, 4, 16), dtype))

    @jax.jit
    def run(image, x):
        blocks = sb.split(image, grid, implementation="ffi")
        rows, _ = indexed_conv(blocks.pixels, patches, kernel, implementation="ffi")
        combined = sb.combine(sb.DualRes(rows, grid), implementation="ffi")
        labels = upsample_argmax(combined, 4, implementation="ffi")
        return combined, labels, x + 1

    for _ in range(3):
        combined, labels, one = run(jnp.zeros((0, 16, 24, 4), dtype), jnp.zeros(3))
        assert combined.size == labels.size == 0
        np.testing.assert_array_equal(np.asarray(one), 1)


@pytest.mark.usefixtures("compiled")
def test_a_call_without_outputs_does_not_break_a_captured_graph(rng):
    """Without units, halos are still a result, so that XLA calls the handler."""
    conv = handlers.Conv(16, 24, high=(0, 3, 3), low=(0, 3, 3))
    units = Units.random(rng, 16, (conv.high, conv.low), dtype=handlers.BF16)
    kernel = rng.standard_normal((3, 3, 16, 24)).astype(handlers.BF16)
    for _ in range(3):
        (out, _, halos), _ = conv.run(units, kernel, rng)
        assert out.shape == (0, 24)
        assert halos.shape == (5, 16)
