"""ResNets with the stride in another convolution than torchvision's."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden import assert_within

import segblocks_jax as sb
from segblocks_jax.errors import InputError
from segblocks_jax.models.resnet import Bottleneck

RNGS = functools.partial(nnx.Rngs, 0)


def bottleneck(**options) -> nnx.Module:
    return golden.network(lambda: Bottleneck(8, 4, 2, **options, rngs=RNGS()))


def test_the_stride_in_the_first_convolution(rng: np.random.Generator) -> None:
    """Against XLA's convolutions; in blocks as on the image."""
    block, other = (
        bottleneck(semantics=sb.BlockOptions(), **options) for options in ({"stride_in": "1x1"}, {})
    )
    block.eval()
    other.eval()
    image = jnp.asarray(rng.standard_normal((1, 16, 32, 8)), jnp.float32)

    def unit(x: jax.Array, name: str, stride: int) -> jax.Array:
        conv, norm = getattr(block, f"conv{name}"), getattr(block, f"bn{name}")
        side = conv.kernel.shape[0] // 2
        x = jax.lax.conv_general_dilated(
            x,
            conv.kernel[...],
            (stride, stride),
            ((side, side),) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        mean, var, scale, bias = (
            v[...][None, None, None] for v in (norm.mean, norm.var, norm.scale, norm.bias)
        )
        return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias

    x = jax.nn.relu(unit(image, "1", 2))
    x = unit(jax.nn.relu(unit(x, "2", 1)), "3", 1)
    conv, norm = block.downsample
    expected = jax.nn.relu(x + norm(conv(image)))
    assert_within(block(image), expected, 2e-5)
    blocks = block(sb.split(image, np.ones((1, 1, 2), bool)))
    assert_within(sb.combine(blocks), expected, 2e-5)
    assert np.abs(other(image) - expected).max() > 0.1 * expected.std()


def test_it_saves_three_quarters_of_the_first_convolutions() -> None:
    """The published 3.8 G multiply-adds; torchvision's 4.1 have the stride in the 3x3."""
    totals = {}
    for stride_in in ("3x3", "1x1"):
        create = functools.partial(sb.create_model, "swiftnet_rn50", stride_in=stride_in)
        net = nnx.eval_shape(lambda create=create: create(rngs=RNGS()))
        parts = sb.count_macs(net, (1, 224, 224, 3)).by_part
        totals[stride_in] = sum(macs for name, macs in parts.items() if name.startswith("backbone"))
    classifier = 2048 * 1000
    assert totals["3x3"] + classifier == 4_089_184_256
    saved = sum(
        3 * (side // 2) ** 2 * features * features // 2
        for side, features in ((56, 256), (28, 512), (14, 1024))
    )
    assert totals["1x1"] == totals["3x3"] - saved


@pytest.mark.parametrize(
    ("name", "stride_in"), [("rn18", "1x1"), ("rn34", "1x1"), ("rn50", "5x5"), ("rn18", "5x5")]
)
def test_who_has_no_such_convolution(name: str, stride_in: str, unchecked: None) -> None:
    text = rf"stride_in is '{stride_in}' for {name[2:]} layers; expected '3x3' or, for 50 and 101 layers, '1x1'"
    with pytest.raises(InputError, match=text):
        sb.create_model(f"swiftnet_{name}", stride_in=stride_in, rngs=RNGS())
