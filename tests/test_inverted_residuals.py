"""EfficientNet-Lite and MobileNetV2 backbones against XLA's convolutions, of images and in blocks."""

import functools
from collections.abc import Callable

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden import assert_within

import segblocks_jax as sb
from segblocks_jax import nn
from segblocks_jax.errors import InputError
from segblocks_jax.inference.fused import FusedNet, fuse
from segblocks_jax.models.inverted_residual import InvertedResiduals, Stage
from segblocks_jax.systems.segblocks.speed import _paddings

# Strides and kernels of EfficientNet-Lite, with and without expansion and shortcut.
STAGES = (
    Stage(1, 3, 1, 1, 4),
    Stage(2, 3, 2, 2, 4),
    Stage(1, 5, 2, 1, 6),
    Stage(1, 3, 2, 1, 6),
    Stage(1, 5, 1, 2, 6),
    Stage(1, 5, 2, 1, 8),
    Stage(1, 3, 1, 1, 8),
)
PADDINGS = ("symmetric", "same_tf")
RNGS = functools.partial(nnx.Rngs, 0)


class Small(InvertedResiduals):
    """Of few channels."""

    momentum, eps = 0.1, 1e-3


def small(padding: str) -> nnx.Module:
    options = {"padding": padding, "semantics": sb.BlockOptions()}
    return golden.network(lambda: Small(STAGES, **options, rngs=RNGS()))


def mean2(image: jax.Array) -> jax.Array:
    n, h, w, c = image.shape
    return image.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


# Against XLA's convolutions of whole images


def conv(x: jax.Array, layer: nn.Conv, padding: str) -> jax.Array:
    kernel = layer.kernel[...]
    around = [((k - 1) // 2,) * 2 for k in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (layer.stride, layer.stride),
        "SAME" if padding == "same_tf" else around,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def norm(x: jax.Array, layer: nn.BatchNorm, eps: float) -> jax.Array:
    mean, var, scale, bias = (
        v[...][None, None, None] for v in (layer.mean, layer.var, layer.scale, layer.bias)
    )
    return (x - mean) / jnp.sqrt(var + eps) * scale + bias


def expected_features(net: nnx.Module, x: jax.Array, padding: str, eps: float) -> list[jax.Array]:
    """In evaluation mode, of a whole image."""

    def unit(x: jax.Array, layer: nn.Conv, bn: nn.BatchNorm) -> jax.Array:
        return norm(conv(x, layer, padding), bn, eps)

    x = jnp.clip(unit(x, *net.stem), 0, 6)
    outputs = []
    for stage in net.blocks:
        for block in stage:
            y = x
            if block.expand_conv is not None:
                y = jnp.clip(unit(y, block.expand_conv, block.bn0), 0, 6)
            y = jnp.clip(unit(y, block.depthwise_conv, block.bn1), 0, 6)
            y = unit(y, block.project_conv, block.bn2)
            x = x + y if x.shape == y.shape else y
        outputs.append(x)
    return [outputs[i] for i in (1, 2, 4, 6)]


@pytest.mark.family("values-same_tf")
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kind", ["values", "gradients"])
def test_images_and_uniform_grids(kind: str, padding: str, rng: np.random.Generator) -> None:
    """Dense, all high, and all low of the averaged image; gradients of weights and image."""
    net = small(padding)
    net.eval()
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    image = jnp.asarray(rng.standard_normal((1, 128, 256, 3)), jnp.float32)
    mask = np.ones((1, 1, 2), bool)

    def in_blocks(net: nnx.Module, image: jax.Array, high: bool) -> list[jax.Array]:
        whole = sb.BlockGrid.from_mask(mask)
        outputs = net(sb.split(image, mask if high else ~mask))
        return [sb.combine(sb.DualRes(x.pixels, whole), "nearest") for x in outputs]

    ways: dict[str, Callable] = {
        "expected": lambda net, x: expected_features(net, x, padding, 1e-3),
        "dense": lambda net, x: net(x),
        "high": functools.partial(in_blocks, high=True),
        "expected low": lambda net, x: expected_features(net, mean2(x), padding, 1e-3),
        "low": functools.partial(in_blocks, high=False),
    }

    @functools.partial(jax.jit, static_argnums=0)
    def run(way: str, params: nnx.State, image: jax.Array) -> list[jax.Array]:
        def features(params: nnx.State, image: jax.Array) -> list[jax.Array]:
            return ways[way](nnx.merge(graphdef, params, rest, copy=True), image)

        if kind == "values":
            return features(params, image)
        values, transpose = jax.vjp(features, params, image)
        waves = [jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape) for x in values]
        return jax.tree.leaves(transpose(waves))

    for way in ("dense", "high", "low"):
        expected = run("expected low" if way == "low" else "expected", params, image)
        for got, wanted in zip(run(way, params, image), expected, strict=True):
            assert_within(got, wanted, 2e-5 if kind == "values" else 5e-4, way)


def test_paddings_differ(unchecked: None) -> None:
    """So that the others can't pass by ignoring the option."""
    image = jnp.asarray(np.random.default_rng(0).standard_normal((1, 32, 32, 3)), jnp.float32)
    first, second = (nnx.jit(lambda n, x: n.stem[0](x))(small(p), image) for p in PADDINGS)
    assert np.abs(first - second).max() > 0.1 * first.std()
    with pytest.raises(InputError, match=r"Conv: padding is 'same'; expected pixels, or one of"):
        small("same")


@pytest.mark.slow
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", ["swiftnet_mobilenetv2", "swiftnet_efflite1"])
def test_published_networks(name: str, padding: str, rng: np.random.Generator) -> None:
    """Logits of an all-high grid are the image's, fused ones the network's; the backbone's features are XLA's."""
    net = golden.network(lambda: sb.create_model(name, 5, padding=padding, rngs=RNGS()))
    net.eval()
    eps = 1e-5 if name == "swiftnet_mobilenetv2" else 1e-3
    image = jnp.asarray(rng.standard_normal((1, 128, 256, 3)), jnp.float32)
    graphdef, state = nnx.split(net)

    @jax.jit
    def run(state: nnx.State, fused: FusedNet, image: jax.Array) -> tuple:
        net = nnx.merge(graphdef, state)
        high, mixed = (sb.split(image, np.array([[[True, right]]])) for right in (True, False))
        features = expected_features(net.backbone, image, padding, eps)
        pairs = (
            (sb.combine(net(high)), net(image)),
            (fused(mixed).pixels, net(mixed).pixels),
            (fused(image), net(image)),
        )
        return pairs, net.backbone(image), features

    pairs, features, expected = run(state, fuse(net), image)
    for got, wanted in pairs:
        assert_within(got, wanted, 1e-4, "logits")
    for i, (got, wanted) in enumerate(zip(features, expected, strict=True)):
        assert_within(got, wanted, 1e-4, f"features {i}")


def test_speed_times_the_patches_that_a_backbone_needs() -> None:
    """Behind the stem 3x3 and 5x5 kernels; 1x1 convolutions run on lists."""
    net = small("symmetric")
    net.eval()
    assert _paddings(net) == [
        1,
        *(stage.kernel // 2 for stage in STAGES for _ in range(stage.repeat)),
    ]
