"""Networks: all-high equals dense, all-low the averaged image; images, precisions and implementations agree."""

from collections.abc import Callable

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden import assert_within
from jax import jit

import segblocks_jax as sb
from segblocks_jax import models, nn
from segblocks_jax.errors import InputError


def build(semantics: sb.BlockOptions | None = None, **sizes: int) -> nnx.Module:
    """RN18 SwiftNet with the reference's weights."""
    return golden.network(
        lambda: sb.create_model("swiftnet_rn18", semantics=semantics, **sizes, rngs=nnx.Rngs(0))
    )


def small(**options) -> nnx.Module:
    return build(**options, num_classes=5, width=8, features=12)


def apply(net: nnx.Module) -> Callable:
    """The network as a compiled function of its input, with its statistics after the call."""
    graphdef, state = nnx.split(net)

    @jit
    def run(state: nnx.State, x: jax.Array | sb.DualRes) -> tuple:
        net = nnx.merge(graphdef, state)
        return net(x), nnx.state(net, nnx.BatchStat)

    return lambda x: run(state, x)


def mean2(image: jax.Array) -> jax.Array:
    """2 x 2 means."""
    n, h, w, c = image.shape
    return image.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


# Uniform grids equal images


def test_uniform_grids_equal_images(rng: np.random.Generator) -> None:
    """Full width, default semantics: logits on all-high; on all-low the backbone, of half the image."""
    net = build()
    net.eval()
    run, backbone = apply(net), apply(net.backbone)
    image = jnp.asarray(rng.standard_normal((1, 128, 256, 3)), jnp.float32)
    high, _ = run(sb.split(image, np.ones((1, 2, 4), bool)))
    assert_within(sb.combine(high), run(image)[0], 1e-4, "logits")
    low = sb.split(image, np.zeros((1, 2, 4), bool))
    whole = sb.BlockGrid.from_mask(np.ones((1, 2, 4), bool), low_factor=1)
    pairs = zip(backbone(low)[0], backbone(mean2(image))[0], strict=True)
    for i, (blocks, expected) in enumerate(pairs):
        together = sb.combine(sb.DualRes(blocks.pixels, whole))
        assert_within(together, expected, 1e-4, f"features {i}")


def test_all_high_training_equals_the_image(rng: np.random.Generator) -> None:
    """With joint statistics, logits and running statistics agree in training too."""
    image = jnp.asarray(rng.standard_normal((2, 128, 192, 3)), jnp.float32)
    net = small()
    logits, stats = apply(net)(image)
    blocks, stats_in_blocks = apply(net)(sb.split(image, np.ones((2, 2, 3), bool)))
    assert_within(sb.combine(blocks), logits, 1e-3, "logits")
    for a, b in zip(jax.tree.leaves(stats_in_blocks), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_authors_semantics_differ(rng: np.random.Generator) -> None:
    image = jnp.asarray(rng.standard_normal((1, 128, 192, 3)), jnp.float32)
    net = small(semantics=sb.BlockOptions.authors())
    net.eval()
    logits, _ = apply(net)(image)
    blocks, _ = apply(net)(sb.split(image, np.ones((1, 2, 3), bool)))
    assert np.abs(sb.combine(blocks) - logits).max() > 1e-2 * logits.std()


# Other properties


@pytest.fixture(scope="module")
def evaluated() -> Callable:
    """A small network in evaluation mode, compiled."""
    net = small()
    net.eval()
    run = apply(net)
    return lambda x: run(x)[0]


def test_images_of_a_batch_are_independent(evaluated: Callable, rng: np.random.Generator) -> None:
    images = rng.standard_normal((2, 128, 128, 3)).astype(np.float32)
    mask = np.array([[[True, False], [False, False]], [[False, True], [True, True]]])
    together = sb.combine(evaluated(sb.split(images, mask)))
    assert together.shape == (2, 32, 32, 5)
    for i in range(2):
        alone = sb.combine(evaluated(sb.split(images[i : i + 1], mask[i : i + 1])))
        assert_within(together[i], alone[0], 1e-4, f"image {i}")


def test_implementations_agree(
    rng: np.random.Generator, compiled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = jnp.asarray(rng.standard_normal((1, 128, 192, 3)), jnp.float32)
    mask = np.array([[[True, False, True], [False, False, True]]])
    net = small()
    net.eval()
    logits = {}
    for name in ("ffi", "xla"):
        monkeypatch.setenv("SEGBLOCKS_IMPLEMENTATION", name)
        logits[name] = apply(net)(sb.split(image, mask))[0].pixels
    assert_within(logits["ffi"], logits["xla"], 1e-5)


@pytest.mark.slow
def test_a_traced_mask_gives_the_same_logits(evaluated: Callable, rng: np.random.Generator) -> None:
    net = small()
    net.eval()
    graphdef, state = nnx.split(net)
    image = jnp.asarray(rng.standard_normal((1, 128, 128, 3)), jnp.float32)
    traced = []

    @jax.jit
    def run(state: nnx.State, image: jax.Array, mask: jax.Array) -> jax.Array:
        traced.append(mask)
        return nnx.merge(graphdef, state)(sb.split(image, mask, num_high=2)).pixels

    for cells in ([True, False, False, True], [False, True, True, False]):
        mask = np.array(cells).reshape(1, 2, 2)
        expected = evaluated(sb.split(image, mask)).pixels
        assert_within(run(state, image, jnp.asarray(mask)), expected, 1e-4)
    assert len(traced) == 1


@pytest.mark.slow
def test_low_precision_stays_close(evaluated: Callable, rng: np.random.Generator) -> None:
    image = jnp.asarray(rng.standard_normal((1, 128, 128, 3)), jnp.float32)
    mask = np.array([[[True, False], [False, True]]])
    blocks = evaluated(sb.split(image.astype(jnp.bfloat16), mask))
    assert blocks.pixels.dtype == jnp.bfloat16
    expected = evaluated(sb.split(image, mask)).pixels
    assert_within(blocks.pixels.astype(jnp.float32), expected, 0.2)


def test_create_model() -> None:
    net = nnx.eval_shape(lambda: sb.create_model("swiftnet_rn18", 11, rngs=nnx.Rngs(0)))
    assert (net.num_classes, nn.block_multiple(net)) == (11, 64)
    assert net.semantics == sb.BlockOptions()
    with pytest.raises(ValueError, match="no model 'rn18'; expected one of swiftnet_rn18"):
        sb.create_model("rn18", rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("name", "option", "known"),
    [
        ("swiftnet_rn18", {"dilations": (1, 2)}, "width, features, stride_in"),
        ("swiftnet_rn50", {"padding": "same_tf"}, "width, features, stride_in"),
        ("swiftnet_efflite0", {"width": 32}, "features, padding"),
        ("swiftnet_efflite0", {"dropout": 0.5}, "features, padding"),
        ("swiftnet_mobilenetv2", {"stride_in": "1x1"}, "features, padding"),
        ("lrnnet", {"depth": 3}, "width, features, dilations, dropout"),
    ],
)
def test_networks_name_their_options(name: str, option: dict, known: str) -> None:
    (key,) = option
    with pytest.raises(ValueError, match=rf"{name} has no {key} to choose .* options are {known}$"):
        sb.create_model(name, **option, rngs=nnx.Rngs(0))


def test_a_pyramid_needs_a_channel_for_each_grid() -> None:
    with pytest.raises(InputError, match="SwiftNet: features is 2; expected at least 3"):
        sb.create_model("swiftnet_rn18", features=2, width=8, rngs=nnx.Rngs(0))


def test_options_that_are_as_published_fit_every_network() -> None:
    options = {"width": 64, "features": None, "dilations": None, "dropout": 1.0}
    options |= {"padding": "symmetric", "stride_in": "3x3"}
    net = nnx.eval_shape(
        lambda: sb.create_model("swiftnet_efflite0", 3, **options, rngs=nnx.Rngs(0))
    )
    assert net.logits.conv.kernel.shape == (1, 1, 48, 3)
    assert isinstance(net, models.Network)
