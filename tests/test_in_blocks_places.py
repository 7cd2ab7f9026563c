"""in_blocks where results could silently differ: positions, paddings, batches, layouts, dtypes, loops."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import segblocks_jax as sb
from segblocks_jax.inference.fused import fuse
from segblocks_jax.nn import block_multiple
from segblocks_jax.traced import WholeImageWarning

IMAGE = jnp.asarray(np.random.default_rng(0).standard_normal((2, 32, 48, 3)), jnp.float32)
GRID = (2, 3)  # Blocks of 16.
NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(autouse=True)
def promoting():
    """Networks of others promote as JAX does by default."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def weights(*shape):
    """Fixed random numbers."""
    own = np.random.default_rng(sum(shape))
    return jnp.asarray(0.3 * own.standard_normal(shape), jnp.float32)


def conv(x, kernel, stride=1, padding="SAME", **options):
    strides = stride if isinstance(stride, tuple) else (stride, stride)
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NHWC, **options)


def padded(x, rows=(0, 0), columns=(0, 0), value=0.0):
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=value)


def around(x, mode):
    """A pixel around the image."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)


def coordinates(x):
    """(1, h, 1, 1) and (1, 1, w, 1)."""
    h, w = x.shape[1:3]
    return jnp.arange(h)[None, :, None, None] / h, jnp.arange(w)[None, None, :, None] / w


def with_coordinates(x):
    own = [jnp.broadcast_to(c, (*x.shape[:3], 1)) for c in coordinates(x)]
    return conv(jnp.concatenate([x, *own], -1), weights(3, 3, 5, 4))


def coordinates_in_several_shapes(x):
    rows, columns = coordinates(x)
    place = jnp.sin(5 * rows) * jnp.cos(3 * columns)  # (1, h, w, 1)
    return x * place + (x.mean((1, 2)) * place.sum())[:, None, None] + place * jnp.ones_like(x)


def encoded_tokens(x):
    tokens = x.reshape(x.shape[0], -1, 3)
    return (tokens + jnp.sin(0.1 * jnp.arange(tokens.shape[1]))[:, None]).reshape(x.shape)


def swin_windows(x, side=4):
    n, h, w, c = x.shape
    x = x.reshape(n, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(-1, side * side, c)
    shares = jax.nn.softmax(jnp.einsum("bic,bjc->bij", x, x) + weights(side**2, side**2))
    x = jnp.einsum("bij,bjc->bic", shares, x).reshape(n, h // side, w // side, side, side, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)


def maps_of_layers(x):
    _, maps = lax.scan(lambda c, k: (conv(c, k), c), x, weights(3, 3, 3, 3, 3))
    return jnp.concatenate(jnp.unstack(maps), -1)


def padded_maps_of_layers(x):
    _, maps = lax.scan(lambda c, k: (conv(c, k), padded(c, (1, 1))), x, weights(2, 3, 3, 3, 3))
    return maps[1][:, 1:-1]


def rematerialized_rows(x):
    n, h, w, c = x.shape
    rows = jax.checkpoint(lambda y: jax.image.resize(y, (n, 2 * h, w, c), "bilinear"))
    return jax.image.resize(rows(x), (n, 2 * h, 2 * w, c), "bilinear")


def selected_kernels(x):
    one, other = conv(x, weights(3, 3, 3, 4)), conv(x, weights(5, 5, 3, 4))
    means = jnp.stack([one.mean((1, 2)), other.mean((1, 2))], 1)
    share = jax.nn.softmax(means @ weights(4, 4), 1)[:, :, None, None]
    return (jnp.stack([one, other], 1) * share).sum(1)


def nchw(x, kernel, stride=1, padding="SAME", **options):
    given = (stride, stride), padding
    return lax.conv_general_dilated(x.transpose(0, 3, 1, 2), kernel, *given, **options).transpose(
        0, 2, 3, 1
    )


IN_BLOCKS = {
    "coordinates": with_coordinates,
    "coordinates in several shapes": coordinates_in_several_shapes,
    "encoded tokens": encoded_tokens,
    "a map of constants": lambda x: x * weights(*x.shape[1:3], 1),
    "checkerboard": lambda x: jnp.where(
        ((jnp.arange(x.shape[1])[:, None] + jnp.arange(x.shape[2])) % 2 == 0)[:, :, None], x, -x
    ),
    "iota": lambda x: x + jnp.sin(lax.broadcasted_iota(jnp.float32, x.shape, 2)),
    "padded by 2 before": lambda x: conv(x, weights(3, 3, 3, 4), 1, ((2, 0), (0, 2))),
    "padded by less than 0": lambda x: conv(x, weights(3, 3, 3, 4), 1, ((5, -3), (-1, 3))),
    "1x1, moved": lambda x: conv(x, weights(1, 1, 3, 4), 1, ((1, -1), (-1, 1))),
    "stride 2, moved": lambda x: conv(x, weights(3, 3, 3, 4), 2, ((2, -1), (0, 1))),
    "even, SAME": lambda x: conv(x, weights(4, 4, 3, 4)),
    "wider than blocks": lambda x: conv(x, weights(3, 3, 3, 4), rhs_dilation=(20, 12)),
    "dilated by 3 and 1": lambda x: conv(x, weights(3, 3, 3, 4), rhs_dilation=(3, 1)),
    "spread by 3": lambda x: conv(x, weights(5, 5, 3, 4), 1, ((2, 4), (2, 4)), lhs_dilation=(3, 3)),
    "depthwise, channels first": lambda x: nchw(
        x, weights(6, 1, 3, 3), 2, ((1, 1), (1, 1)), feature_group_count=3
    ),
    "groups, channels first": lambda x: nchw(
        x.repeat(2, -1), weights(4, 3, 3, 3), feature_group_count=2
    ),
    "mapped single images": lambda x: jax.vmap(
        lambda i: conv(i[None], weights(3, 5, 3, 4), 1, ((2, 0), (0, 4)))[0]
    )(x),
    "two of one kernel": lambda x: (
        conv(x, weights(3, 3, 3, 3)) + conv(x, weights(3, 3, 3, 3), rhs_dilation=(2, 2))
    ),
    "bfloat16 into float32": lambda x: conv(
        x.astype(jnp.bfloat16),
        weights(3, 3, 3, 4).astype(jnp.bfloat16),
        preferred_element_type=jnp.float32,
    ),
    "rounded": lambda x: jnp.clip(jnp.round(20 * x), -128, 127).astype(jnp.int8) * 0.05,
    "the image twice": jax.jit(
        lambda x: (lambda a, b: a * conv(jnp.concatenate([a, b], -1), weights(3, 3, 6, 3)))(x, x)
    ),
    "stacked with positions": lambda x: jnp.stack(
        [x[..., 0], jnp.broadcast_to(jnp.arange(x.shape[2]) * 0.1, x.shape[:3])], -1
    ),
    "unstacked": lambda x: jnp.stack([a * b for a, b in [jnp.unstack(x, axis=-1)[:2]]], -1),
    "tiled channels": lambda x: jnp.tile(x, (1, 1, 1, 4)),
    "selected kernels": selected_kernels,
    "swin windows": swin_windows,
    "maps of layers": maps_of_layers,
    "rows again, then columns": rematerialized_rows,
    "any and count": lambda x: (
        jnp.where((x > 2.5).any((1, 2), keepdims=True), x, -x)
        * (x > 0).sum((1, 2), keepdims=True)
        / 700
    ),
    "softmax over places": lambda x: x + 100 * jax.nn.softmax(x, (1, 2)),
    "lanczos": lambda x: jax.image.resize(x, (x.shape[0], 64, 96, 3), "lanczos3"),
}
ON_WHOLE_IMAGE = {
    "moved rows": lambda x: padded(x, (2, 0))[:, :-2] - padded(x, (0, 2))[:, 2:],
    "padded by 0 and by 1": lambda x: (
        jnp.abs(padded(x, (1, 1))) + 2 * jnp.abs(padded(x, (1, 1), value=1.0))
    ),
    "padded by 1": lambda x: conv(padded(x, (1, 1), (1, 1), 1.0), weights(3, 3, 3, 4), 1, "VALID"),
    "largest of 0 and pixels": lambda x: nnx.max_pool(
        padded(x - 5, (1, 1), (1, 1)), (3, 3), (1, 1), "VALID"
    ),
    "padded maps of layers": padded_maps_of_layers,
    "no layers": lambda x: lax.scan(lambda c, k: (conv(c, k), c), x, jnp.zeros((0, 3, 3, 3, 3)))[0],
    "stride and spread": lambda x: conv(
        x, weights(3, 3, 3, 4), 2, ((1, 2), (1, 2)), lhs_dilation=(2, 2)
    ),
    "conv_transpose, VALID": lambda x: lax.conv_transpose(
        x, weights(3, 3, 3, 4), (2, 2), "VALID", dimension_numbers=NHWC
    ),
    "kernels of each image": lambda x: jax.vmap(
        lambda i: conv(i[None], weights(3, 3, 3, 4) * i.mean())[0]
    )(x),
    "whole numbers": lambda x: (
        conv((10 * x).astype(jnp.int32), (10 * weights(3, 3, 3, 4)).astype(jnp.int32)) / 100
    ),
    "maxima of whole numbers": lambda x: (
        lax.reduce_window(
            (10 * x).astype(jnp.int8),
            jnp.int8(-128),
            lax.max,
            (1, 3, 3, 1),
            (1, 1, 1, 1),
            "SAME",
        )
        * 0.1
    ),
    "sums that begin at 1": lambda x: lax.reduce_window(
        x, 1.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"
    ),
    "neighbors in channels": lambda x: (
        x / (1 + lax.reduce_window(x * x, 0.0, lax.add, (1, 1, 1, 3), (1, 1, 1, 1), "SAME"))
    ),
    "space to depth by 3": lambda x: (
        x[:, :30].reshape(-1, 10, 3, 16, 3, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 10, 16, 27)
    ),
    "other sizes": lambda x: 2 * x.reshape(x.shape[0], 48, 32, 3),
    "flat moves": lambda x: jnp.roll(x.reshape(x.shape[0], -1), 7, 1).reshape(x.shape),
    "largest of places": lambda x: (
        x + lax.top_k(x.reshape(x.shape[0], -1, 3).swapaxes(1, 2), 3)[0].sum(-1)[:, None, None]
    ),
    "softmax of columns": lambda x: jax.nn.softmax(x, 2),
    "sum weighted by place": lambda x: (
        x + jnp.einsum("nhwc,hw->nc", x, weights(*x.shape[1:3]))[:, None, None]
    ),
    "weights of each place": lambda x: jnp.einsum(
        "nhwc,hwcd->nhwd", x, weights(*x.shape[1:3], 3, 2)
    ),
    "repeated image": lambda x: jnp.tile(x, (1, 2, 2, 1)),
    "interleaved rows": lambda x: jnp.stack([x, -x], 2).reshape(x.shape[0], 64, 48, 3),
    "places in other order": lambda x: jnp.take_along_axis(x, jnp.argsort(x, 1), 1),
    "corners aligned": lambda x: jnp.einsum(
        "nhwc,hk->nkwc", x, jnp.abs(jnp.arange(32.0)[:, None] - jnp.linspace(0, 31, 64)).clip(0, 1)
    ),
    "a row set": lambda x: x.at[:, 3].set(1.0),
    "edges repeated": lambda x: nnx.avg_pool(around(x, "edge"), (3, 3), (1, 1)),
    "rows of one size wrapped": lambda x: conv(around(x, "wrap"), weights(3, 3, 3, 4), 1, "VALID"),
    "mirrored": lambda x: conv(around(x, "reflect"), weights(3, 3, 3, 4), 1, "VALID"),
    "no rows joined": lambda x: jnp.concatenate([x, x[:, :0]], 1),
    "filtered at the end": lambda x: jnp.fft.irfft2(
        jnp.fft.rfft2(conv(x, weights(3, 3, 3, 4)), axes=(1, 2)) * 0.5, axes=(1, 2)
    ),
    "fixed size and back": lambda x: jax.image.resize(
        jax.image.resize(x, (x.shape[0], 7, 7, 3), "bilinear"), x.shape, "bilinear"
    ),
}


def run(function, image, mask):
    made = jax.jit(lambda blocks: sb.in_blocks(function)(blocks))(sb.split(image, mask))
    return sb.combine(made)


def close(made, expected, tolerance=3e-6):
    assert made.shape == expected.shape
    assert jnp.abs(made - expected).max() / jnp.abs(expected).max() < tolerance


def check(function, image=IMAGE):
    """All high is dense, and images of a batch are as each alone, on different grids."""
    n = image.shape[0]
    close(run(function, image, np.ones((n, *GRID), bool)), jax.jit(function)(image))
    mask = np.random.default_rng(3).random((n, *GRID)) < 0.5
    mask[0, 0, :2] = True, False
    alone = [run(function, image[i : i + 1], mask[i : i + 1]) for i in range(n)]
    close(run(function, image, mask), jnp.concatenate(alone))


@pytest.mark.family("coordinates in several shapes", "padded by less than 0", "maps of layers")
@pytest.mark.parametrize("name", IN_BLOCKS)
def test_positions_batches_and_layouts(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", WholeImageWarning)
        check(IN_BLOCKS[name])


@pytest.mark.family("moved rows", "padded by 0 and by 1")
@pytest.mark.parametrize("name", ON_WHOLE_IMAGE)
def test_what_blocks_would_change_runs_on_the_whole_image(name):
    place = r"test_in_blocks_places\.py:\d+.* runs on the whole image: "
    with pytest.warns(WholeImageWarning, match=place):
        check(ON_WHOLE_IMAGE[name])


SINGLE = {
    "an image alone": lambda x: x + 2 * x[0][None],
    "repeated as a batch": lambda x: jnp.where(x > 0, x, 3 * x[0]),
    "joined": lambda x: jnp.concatenate([x, jnp.squeeze(x, 0)[None]], -1),
    "convolved": lambda x: conv(x[0][None], weights(3, 3, 3, 4)) + conv(x, weights(3, 3, 3, 4)),
    "turned": lambda x: x + jnp.tanh(x[0].swapaxes(0, 1))[None].swapaxes(1, 2),
    "channels first": lambda x: jnp.einsum("chw,cd->dhw", x[0].transpose(2, 0, 1), weights(3, 4))
    .transpose(1, 2, 0)[None],
}  # fmt: skip


@pytest.mark.family("repeated as a batch")
@pytest.mark.parametrize("name", SINGLE)
def test_the_axis_of_a_single_image_comes_and_goes(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", WholeImageWarning)
        check(SINGLE[name], IMAGE[:1])


def groups_of_images(x):
    return conv(x, weights(3, 3, 3, 4), batch_group_count=2)


def mixing(x):
    return x + jnp.roll(x, 1, 0) + x.mean(0, keepdims=True) * jnp.arange(2.0)[:, None, None, None]


@pytest.mark.parametrize("function", [mixing, groups_of_images])
def test_images_that_are_mixed_are_those_of_the_batch(function):
    with pytest.warns(WholeImageWarning):
        close(run(function, IMAGE, np.ones((2, *GRID), bool)), function(IMAGE))


@pytest.mark.parametrize("mode", ["edge", "wrap", "reflect"])
def test_what_runs_on_the_whole_image_takes_any_block(mode):
    own, other = weights(3, 3, 3, 4), weights(1, 1, 4, 4)
    net = sb.in_blocks(lambda x: conv(conv(around(x, mode), own, 2, "VALID"), other, 2))
    plain = sb.in_blocks(lambda x: conv(conv(x, own, 2), other, 2))
    assert block_multiple(net) == block_multiple(plain)


def test_constants_over_positions_are_averaged_in_low_blocks():
    mask = np.zeros((2, *GRID), bool)
    mask[0, 1, 2] = True
    places = weights(32, 48, 1)
    blocks = sb.split(IMAGE, mask)
    made = sb.in_blocks(lambda x: x * places)(blocks)
    own = sb.split(jnp.broadcast_to(places, (2, 32, 48, 1)), blocks.grid)
    np.testing.assert_allclose(made.pixels, blocks.pixels * own.pixels, atol=1e-6)


def test_dropout_draws_as_the_dense_network_does_and_goes_on():
    nets = [nnx.Dropout(0.5, rngs=nnx.Rngs(0)) for _ in range(2)]
    blocks = sb.in_blocks(nets[0], strict=True)
    image = sb.split(IMAGE, np.ones((2, *GRID), bool))
    for _ in range(2):
        np.testing.assert_array_equal(sb.combine(blocks(image)), nets[1](IMAGE))


def test_large_captured_arrays_are_told_apart_in_fused_networks():
    one, other = weights(3, 3, 3, 64), weights(3, 3, 4, 64)[:, :, :3]
    deep = [weights(3, 3, 64, 128), 2 * weights(3, 3, 64, 128)[:, :, ::-1]]
    layers = [jax.jit(lambda x, k=k: conv(x, k)) for k in deep]

    def function(x):
        first, second = layers[0](conv(x, one)), layers[1](conv(x, other))
        return first - second

    net = sb.in_blocks(function)
    made = jax.jit(lambda fused, x: fused(x))(fuse(net), IMAGE)
    close(made, jax.jit(function)(IMAGE), 2e-5)


def grouped(x):
    x = conv(x, weights(3, 3, 3, 32), 4, ((1, 1), (1, 1)))
    with jax.named_scope("context"):
        x = jnp.roll(x, 1, 1)
        x = conv(x, weights(3, 3, 16, 32), feature_group_count=2) + conv(x, weights(1, 1, 32, 32))
        x = conv(jax.nn.relu(x), weights(3, 3, 1, 32), feature_group_count=32)
        return x + conv(x, weights(3, 3, 32, 32), 1, ((2, 0), (0, 2)))


def test_convolutions_of_the_whole_image_run_by_index_in_fused_networks():
    net = sb.in_blocks(grouped, whole_image=["context"], strict=True)
    mask = np.random.default_rng(1).random((2, *GRID)) < 0.5
    blocks = sb.split(IMAGE, mask)
    expected = jax.jit(lambda x: net(x))(blocks)
    made = jax.jit(lambda fused, x: fused(x))(fuse(net), blocks)
    close(made.pixels, expected.pixels, 2e-5)
