"""in_blocks: functions as JAX programs write them, on all-high and all-low grids, against themselves on images."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.errors import InputError
from segblocks_jax.traced import WholeImageWarning

RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.standard_normal((2, 32, 48, 3)), jnp.float32)
GRID = (2, 2, 3)  # Blocks of 16.


def weights(*shape):
    """Fixed random numbers."""
    own = np.random.default_rng(sum(shape))
    return jnp.asarray(0.3 * own.standard_normal(shape), jnp.float32)


def conv(x, kernel, stride=1, padding="SAME", **options):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def up(x, method, factor=2):
    n, h, w, c = x.shape
    return jax.image.resize(x, (n, factor * h, factor * w, c), method)


def space_to_depth(x):
    n, h, w, c = x.shape
    x = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h // 2, w // 2, 4 * c)


def pixel_shuffle(x):
    n, h, w, _ = x.shape
    x = (x @ weights(3, 16)).reshape(n, h, w, 2, 2, 4)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, 4)


def transposed(x, size, stride=2, padding="SAME"):
    kernel = weights(size, size, 3, 4)
    return jax.lax.conv_transpose(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def rows_only(x):
    kernel = weights(3, 3, x.shape[3], 3)
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def pooled(x, window, stride, padding="VALID"):
    """Means over windows, of the pixels in the image."""

    def sums(x):
        whole = (1, *window, 1), (1, *stride, 1)
        return jax.lax.reduce_window(x, jnp.float32(0), jax.lax.add, *whole, padding)

    return sums(x) / sums(jnp.ones((1, *x.shape[1:3], 1)))


def squeeze_excite(x):
    gate = jax.nn.sigmoid(x.mean((1, 2), keepdims=True) @ weights(3, 3))
    return x * gate


def scanned(x):
    def layer(x, kernel):
        x = jax.nn.relu(conv(x, kernel))
        return x, x.mean((1, 2))

    x, means = jax.lax.scan(layer, x, weights(4, 3, 3, 3, 3))
    return x + means.mean(0)[:, None, None]


def layer_norm(x):
    centered = x - x.mean(-1, keepdims=True)
    return centered * jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + 1e-3)


def batch_norm(x):
    mean = x.mean((0, 1, 2), keepdims=True)
    return (x - mean) * jax.lax.rsqrt(x.var((0, 1, 2), keepdims=True) + 1e-3)


def attention_gate(x):
    """PIDNet's, of pixels."""
    k, q = x @ weights(3, 5), x @ weights(3, 4, 5).reshape(4, 3, 5)[0]
    gate = jax.nn.sigmoid((k * q).sum(-1, keepdims=True))
    return gate * x + (1 - gate)


def nchw(x):
    x = x.transpose(0, 3, 1, 2)
    x = jax.lax.conv_general_dilated(x, weights(4, 3, 3, 3), (2, 2), ((1, 1), (1, 1)))
    x = jax.nn.relu(x + weights(4)[None, :, None, None])
    return x.transpose(0, 2, 3, 1)


def single_images(x):
    def one(image):
        return jax.nn.silu(conv(image[None], weights(3, 3, 3, 5))[0])

    return jax.vmap(one)(x)


def padded_pool(x):
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return nnx.max_pool(x, (3, 3), (2, 2), "VALID")


IN_BLOCKS = {
    "3x3": lambda x: conv(x, weights(3, 3, 3, 8)),
    "stride 2, SAME": lambda x: conv(x, weights(3, 3, 3, 8), 2),
    "stride 2, padded alike": lambda x: conv(x, weights(3, 3, 3, 8), 2, ((1, 1), (1, 1))),
    "7x7 of stride 2": lambda x: conv(x, weights(7, 7, 3, 4), 2, ((3, 3), (3, 3))),
    "patches": lambda x: conv(x, weights(4, 4, 3, 4), 4, "VALID"),
    "2x2, SAME": lambda x: conv(x, weights(2, 2, 3, 4)),
    "dilated": lambda x: conv(x, weights(3, 3, 3, 4), rhs_dilation=(3, 3)),
    "1x3": lambda x: conv(x, weights(1, 3, 3, 4)),
    "depthwise": lambda x: conv(x, weights(5, 5, 1, 6), 2, feature_group_count=3),
    "rows and columns apart": lambda x: rows_only(rows_only(x).swapaxes(1, 2)).swapaxes(1, 2),
    "channels first": nchw,
    "single images": single_images,
    "pad, then VALID": lambda x: conv(
        jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), weights(3, 3, 3, 4), 1, "VALID"
    ),
    "transposed 2x2": lambda x: transposed(x, 2),
    "transposed 3x3": lambda x: transposed(x, 3),
    "transposed 4x4": lambda x: transposed(x, 4),
    "transposed in groups": lambda x: conv(
        x, weights(4, 4, 1, 6), 1, ((2, 2), (2, 2)), lhs_dilation=(2, 2), feature_group_count=3
    ),
    "gelu of a product": lambda x: jax.nn.gelu(x @ weights(3, 5)),
    "softmax": lambda x: jax.nn.softmax(3 * x),
    "layer norm": layer_norm,
    "batch norm": batch_norm,
    "group norm": lambda x: nnx.GroupNorm(3, num_groups=3, rngs=nnx.Rngs(0))(x),
    "squeeze and excite": squeeze_excite,
    "maximum of the image": lambda x: x - x.max((1, 2), keepdims=True),
    "pool over the image": lambda x: x + pooled(x, x.shape[1:3], (1, 1)),
    "max pool": lambda x: nnx.max_pool(x, (3, 3), (2, 2), "SAME"),
    "padded max pool": padded_pool,
    "average pool": lambda x: pooled(x, (2, 2), (2, 2)),
    "average pool without padding": lambda x: pooled(x, (3, 3), (1, 1), "SAME"),
    "bilinear": lambda x: up(x, "bilinear"),
    "bilinear by 4": lambda x: up(x, "bilinear", 4),
    "bicubic": lambda x: up(x, "bicubic"),
    "nearest": lambda x: up(x, "nearest"),
    "half the size": lambda x: jax.image.resize(
        x, (x.shape[0], x.shape[1] // 2, x.shape[2] // 2, 3), "bilinear"
    ),
    "repeat": lambda x: jnp.repeat(jnp.repeat(x, 2, 1), 2, 2),
    "space to depth": space_to_depth,
    "pixel shuffle": pixel_shuffle,
    "every second": lambda x: x[:, ::2, 1::2],
    "means by reshaping": lambda x: x.reshape(
        x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, 3
    ).mean((2, 4)),
    "channels cut and joined": lambda x: jnp.concatenate(
        [x[..., 1:], 2 * x[..., :1], jnp.ones((*x.shape[:3], 1))], -1
    ),
    "channels shuffled": lambda x: jnp.take(x, np.array([2, 0, 1]), axis=-1),
    "sorted channels": lambda x: jnp.sort(x, -1),
    "padded channels": lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, 0), (1, 2))),
    "list of positions": lambda x: jax.nn.relu(
        x.reshape(x.shape[0], -1, 3) @ weights(3, 5)
    ).reshape(*x.shape[:3], 5),
    "gate of pixels": attention_gate,
    "jit, remat, scan": jax.jit(jax.checkpoint(scanned)),
    "static cond": lambda x: jax.lax.cond(np.bool_(True), jnp.sin, jnp.cos, x),
}


def pixels_of(image, side):
    """An image's blocks of a size as the list of an all-high, or all-low, grid."""
    n, h, w, c = image.shape
    cells = image.reshape(n, h // side, side, w // side, side, c).swapaxes(2, 3)
    return cells.reshape(-1, c)


def averaged(image):
    n, h, w, c = image.shape
    return image.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def check_uniform(function, image=IMAGE, grid=GRID, tolerance=2e-6, run=jax.jit):
    """All high is the function of the image, all low that of the averaged image."""
    net = sb.in_blocks(function)
    for high, expected in ((True, function(image)), (False, function(averaged(image)))):
        blocks = sb.split(image, np.full(grid, high))
        made = run(net)(blocks)
        assert isinstance(made, sb.DualRes)
        side = expected.shape[1] // grid[1]
        error = jnp.abs(made.pixels - pixels_of(expected, side)).max() / jnp.abs(expected).max()
        assert error < tolerance


@pytest.mark.family(
    "3x3", "stride 2, SAME", "bilinear", "max pool", "squeeze and excite", "transposed 4x4"
)
@pytest.mark.parametrize("name", IN_BLOCKS)
def test_operations_in_blocks(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", WholeImageWarning)
        check_uniform(IN_BLOCKS[name])


def far_attention(x):
    tokens = x.reshape(x.shape[0], -1, 3)
    scores = jax.nn.softmax(jnp.einsum("nic,njc->nij", tokens, tokens))
    return x + jnp.einsum("nij,njc->nic", scores, tokens).reshape(x.shape)


def gathered(x):
    rows = jnp.argmax(x[:, :, 0, 0], 1)
    return x + jax.vmap(lambda image, row: image[row])(x, rows)[:, None]


def window_attention(x):
    """Windows that don't divide blocks."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // 32, 32, w, c)
    return (x - x.mean(2, keepdims=True)).reshape(n, h, w, c)


ON_WHOLE_IMAGE = {
    "fft": lambda x: jnp.fft.ifft2(jnp.fft.fft2(x, axes=(1, 2)) * 0.5, axes=(1, 2)).real,
    "sort over rows": lambda x: jnp.sort(x, 1),
    "gather by content": gathered,
    "crop": lambda x: x[:, 1:-1, 2:-2],
    "crop and pad": lambda x: jnp.pad(x[:, 1:-1], ((0, 0), (1, 1), (0, 0), (0, 0))),
    "roll": lambda x: jnp.roll(x, 3, 1),
    "flip": lambda x: x[:, :, ::-1],
    "stride 3": lambda x: conv(x[:, :30, :48], weights(3, 3, 3, 4), 3, "VALID"),
    "stride that no block has": lambda x: conv(x, weights(16, 16, 3, 4), 16, "VALID"),
    "pool of stride 16": lambda x: pooled(x, (16, 16), (16, 16)),
    "VALID": lambda x: conv(x, weights(3, 3, 3, 4), 1, "VALID"),
    "running sum over columns": lambda x: jnp.cumsum(x, 2),
    "running maximum": lambda x: jax.lax.cummax(x, 1),
    "mean of rows": lambda x: x - x.mean(1, keepdims=True),
    "resize by 1.5": lambda x: jax.image.resize(
        x, (x.shape[0], x.shape[1] * 3 // 2, x.shape[2] * 3 // 2, 3), "bilinear"
    ),
    "reflected": lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect"),
    "transposed image": lambda x: x + x[:, :, :32].swapaxes(1, 2).repeat(2, 2)[:, :, :48],
    "learned mixing": lambda x: jnp.einsum("nhwc,hk->nkwc", x, 1e-1 + weights(32, 300)[:, :32]),
    "dynamic slice": lambda x: jax.lax.dynamic_slice(
        x, (0, jnp.argmax(x[0, :16, 0, 0]), 0, 0), (2, 16, 48, 3)
    ),
    "scatter": lambda x: x.at[:, 5, 7].set(0.0),
    "recurrence over rows": lambda x: jax.lax.scan(
        lambda s, row: (0.5 * s + row, s), x[:, 0], x.swapaxes(0, 1)
    )[1].swapaxes(0, 1),
    "while": lambda x: jax.lax.while_loop(lambda y: jnp.abs(y).max() > 0.1, lambda y: y / 2, x),
    "cond on a pixel": lambda x: jax.lax.cond(x[0, 0, 0, 0] > 0, jnp.sin, jnp.cos, x),
    "windows wider than blocks": window_attention,
    "flattened": lambda x: x.reshape(x.shape[0], -1) @ weights(32 * 48 * 3, 2),
    "argmax over the image": lambda x: x.reshape(x.shape[0], -1, 3).argmax(1).astype(jnp.float32),
}


@pytest.mark.family("fft", "crop", "VALID", "gather by content", "flattened")
@pytest.mark.parametrize("name", ON_WHOLE_IMAGE)
def test_what_cannot_run_in_blocks_runs_on_the_whole_image_or_says_why_not(name):
    function = ON_WHOLE_IMAGE[name]
    expected = function(IMAGE)
    blocks = sb.split(IMAGE, np.ones(GRID, bool))
    with pytest.warns(
        WholeImageWarning, match=r"test_in_blocks\.py:\d+.* runs on the whole image: "
    ):
        made = jax.jit(sb.in_blocks(function))(blocks)
    if isinstance(made, sb.DualRes):
        made = sb.combine(made)
    assert made.shape == expected.shape
    assert jnp.abs(made - expected).max() / jnp.abs(expected).max() < 2e-6
    with pytest.raises(InputError, match=r"strict, and .*whole image: "):
        sb.in_blocks(function, strict=True)(blocks)


def test_attention_is_a_function_of_the_whole_image_and_no_reason_to_warn():
    blocks = sb.split(IMAGE, np.ones(GRID, bool))
    with warnings.catch_warnings():
        warnings.simplefilter("error", WholeImageWarning)
        made = sb.in_blocks(far_attention, strict=True)(blocks)
    np.testing.assert_allclose(sb.combine(made), far_attention(IMAGE), atol=2e-6)


MIXED = np.array([[[True, False, True], [False, False, True]]] * 2)


def test_what_comes_after_the_whole_image_is_in_blocks_again():
    def function(x):
        y = jnp.roll(x, 1, 1)
        return jnp.tanh(x + y) @ weights(3, 4)

    with pytest.warns(WholeImageWarning):
        made = sb.in_blocks(function)(sb.split(IMAGE, MIXED))
    blocks = sb.split(IMAGE, MIXED)
    rolled = sb.split(jnp.roll(sb.combine(blocks), 1, 1), blocks.grid)
    expected = jnp.tanh(blocks.pixels + rolled.pixels) @ weights(3, 4)
    np.testing.assert_allclose(made.pixels, expected, atol=1e-6)


@pytest.mark.slow
def test_windows_and_resizing_are_those_of_the_layers_on_mixed_grids():
    blocks = sb.split(IMAGE, MIXED)

    def traced(function):
        return sb.in_blocks(function)(blocks).pixels

    kernel = weights(3, 3, 3, 4)
    expected = sb.block_conv(blocks, kernel, 2, 1).pixels
    made = traced(lambda x: conv(x, kernel, 2, ((1, 1), (1, 1))))
    np.testing.assert_allclose(made, expected, atol=1e-6)
    expected = sb.block_conv(blocks, kernel, 2, 1, shift=1).pixels
    np.testing.assert_allclose(traced(lambda x: conv(x, kernel, 2)), expected, atol=1e-6)
    from segblocks_jax.nn import max_pool, upsample2

    expected = upsample2(blocks, sb.BlockOptions()).pixels
    np.testing.assert_allclose(traced(lambda x: up(x, "bilinear")), expected, atol=1e-6)
    positive = dataclasses.replace(blocks, pixels=jax.nn.relu(blocks.pixels))
    expected = max_pool(positive, 3, 2, 1).pixels
    made = traced(lambda x: nnx.max_pool(jax.nn.relu(x), (3, 3), (2, 2), ((1, 1), (1, 1))))
    np.testing.assert_array_equal(made, expected)


def test_each_block_alone_where_the_options_say_so():
    from segblocks_jax.nn import upsample2

    blocks = sb.split(IMAGE, MIXED)
    options = sb.BlockOptions(interpolation="block", padding="zero")
    made = sb.in_blocks(lambda x: up(x, "bilinear"), options)(blocks)
    np.testing.assert_allclose(made.pixels, upsample2(blocks, options).pixels, atol=1e-6)
    kernel = weights(3, 3, 3, 4)
    made = sb.in_blocks(lambda x: conv(x, kernel), options)(blocks)
    expected = sb.block_conv(blocks, kernel, padding_mode="zero").pixels
    np.testing.assert_allclose(made.pixels, expected, atol=1e-6)


def test_statistics_count_low_pixels_by_area_or_all_alike():
    blocks = sb.split(IMAGE, MIXED)
    n, _, _ = blocks.grid.mask.shape
    high = [np.asarray(blocks.high[i]).reshape(-1, 3) for i in range(blocks.grid.num_high)]
    low = [np.asarray(blocks.low[i]).reshape(-1, 3) for i in range(blocks.grid.num_low)]
    for kind, weight in (("area", 4), ("pixels", 1)):
        net = sb.in_blocks(lambda x: x.mean((1, 2)), sb.BlockOptions(image_statistics=kind))
        for image in range(n):
            own = [x for x, c in zip(high, blocks.grid.high_cells, strict=True) if c // 6 == image]
            other = [x for x, c in zip(low, blocks.grid.low_cells, strict=True) if c // 6 == image]
            total = sum(x.sum(0) for x in own) + weight * sum(x.sum(0) for x in other)
            count = sum(map(len, own)) + weight * sum(map(len, other))
            np.testing.assert_allclose(net(blocks)[image], total / count, atol=1e-5)
    mean = sb.in_blocks(lambda x: x.mean((0, 1, 2)))(blocks)
    np.testing.assert_allclose(mean, blocks.pixels.mean(0), atol=1e-6)


@jax.custom_vjp
def straight_through(x):
    return jnp.round(x)


straight_through.defvjp(
    lambda x: (jnp.round(x), x), lambda x, g: (jnp.where(jnp.abs(x) < 1, g, 0.0),)
)


@jax.custom_vjp
def blurred(x):
    return conv(x, weights(3, 3, 3, 3))


blurred.defvjp(lambda x: (blurred(x), ()), lambda _, g: (g,))


@jax.custom_jvp
def scaled_tangent(x):
    return jnp.round(x)


scaled_tangent.defjvp(lambda p, t: (jnp.round(p[0]), 3 * t[0]))


@pytest.mark.parametrize("function", [straight_through, scaled_tangent, jax.nn.relu])
def test_functions_of_pixels_keep_their_own_derivative(function):
    blocks = sb.split(jnp.where(jnp.abs(IMAGE) > 0.3, IMAGE, 0.0), MIXED)
    net = sb.in_blocks(lambda x: 2 * function(x))

    def loss(run, pixels):
        return jnp.square(run(pixels)).sum()

    made = jax.grad(lambda p: loss(lambda q: net(dataclasses.replace(blocks, pixels=q)).pixels, p))
    expected = jax.grad(lambda p: loss(lambda q: 2 * function(q), p))
    np.testing.assert_allclose(made(blocks.pixels), expected(blocks.pixels), atol=1e-6)


def test_another_own_derivative_is_refused():
    blocks = sb.split(IMAGE, MIXED)
    net = sb.in_blocks(lambda x: blurred(x))
    net(blocks)
    with pytest.raises(InputError, match=r"test_in_blocks.*derivative of its own"):
        jax.grad(lambda p: net(dataclasses.replace(blocks, pixels=p)).pixels.sum())(blocks.pixels)


def test_gradients_by_finite_differences():
    blocks = sb.split(IMAGE, MIXED)

    def function(kernel, x):
        x = jnp.tanh(conv(x, kernel, 2))
        return up(squeeze_excite(layer_norm(x @ weights(4, 3))), "bilinear")

    direction = jnp.asarray(np.random.default_rng(2).standard_normal((3, 3, 3, 4)), jnp.float32)

    @jax.jit
    def loss(kernel, pixels):
        net = sb.in_blocks(lambda x: function(kernel, x))
        return jnp.sin(net(dataclasses.replace(blocks, pixels=pixels)).pixels).sum()

    kernel, step = weights(3, 3, 3, 4), 3e-3
    gradient = jax.grad(loss)(kernel, blocks.pixels)
    numeric = (
        loss(kernel + step * direction, blocks.pixels)
        - loss(kernel - step * direction, blocks.pixels)
    ) / (2 * step)
    np.testing.assert_allclose((gradient * direction).sum(), numeric, rtol=5e-3)
    to_pixels = jax.grad(loss, 1)(kernel, blocks.pixels)
    change = jnp.asarray(np.random.default_rng(3).standard_normal(blocks.pixels.shape), jnp.float32)
    numeric = (
        loss(kernel, blocks.pixels + step * change) - loss(kernel, blocks.pixels - step * change)
    ) / (2 * step)
    np.testing.assert_allclose((to_pixels * change).sum(), numeric, rtol=5e-3)


def test_results_of_other_kinds():
    blocks = sb.split(IMAGE, MIXED)
    net = sb.in_blocks(lambda x: {"maps": 2 * x, "mean": x.mean((1, 2)), "one": jnp.ones(3)})
    made = net(blocks)
    np.testing.assert_array_equal(made["maps"].pixels, 2 * blocks.pixels)
    assert made["mean"].shape == (2, 3)
    np.testing.assert_array_equal(made["one"], np.ones(3))
    with pytest.raises(InputError, match=r"a result has the axes \(n, c, h, w\)"):
        sb.in_blocks(lambda x: x.transpose(0, 3, 1, 2))(blocks)


def test_named_parts_run_on_the_whole_image_without_a_warning():
    def function(x):
        with jax.named_scope("context"):
            y = jnp.roll(conv(x, weights(3, 3, 3, 3)), 2, 1)
        return x + y

    with warnings.catch_warnings():
        warnings.simplefilter("error", WholeImageWarning)
        net = sb.in_blocks(function, whole_image=["context"], strict=True)
        blocks = sb.split(IMAGE, MIXED)
        made = net(blocks)
    context = jnp.roll(conv(sb.combine(blocks), weights(3, 3, 3, 3)), 2, 1)
    expected = blocks.pixels + sb.split(context, blocks.grid).pixels
    np.testing.assert_allclose(made.pixels, expected, atol=1e-6)


def test_the_report_says_how_each_operation_runs():
    def function(x):
        with jax.named_scope("stem"):
            x = jax.nn.relu(conv(x, weights(3, 3, 3, 8), 2))
        return jnp.roll(x, 1, 1)

    report = sb.report(function, (1, 64, 128, 3), block_size=32)
    rows = {row.operation: row for row in report.rows}
    window = rows["conv_general_dilated 3 x 3 / 2"]
    assert (window.part, window.runs, window.halo, window.smallest_block) == (
        "stem",
        "in blocks",
        1,
        4,
    )
    assert window.macs == report.macs == 32 * 64 * 8 * 27
    assert rows["max"].runs == "on pixels"
    moved = next(row for row in report.rows if row.why)
    assert moved.runs == "on the whole image"
    assert "test_in_blocks.py" in moved.line
    assert len(report.warnings) >= 1
    lines = str(report).splitlines()
    assert lines[0].split()[:3] == ["part", "operation", "runs"]
    assert len(lines) == len(report.rows) + 1
    with pytest.raises(InputError, match="has no whole blocks of 128"):
        sb.report(function, (1, 64, 130, 3))
