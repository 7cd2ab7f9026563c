"""The smallest blocks of a network, found from its layers."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segblocks_jax as sb
from segblocks_jax import nn
from segblocks_jax.models.registry import MODELS, PLAIN

RNGS = functools.partial(nnx.Rngs, 0)


@functools.cache
def zoo(name: str) -> nnx.Module:
    return nnx.eval_shape(lambda: sb.create_model(name, 3, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
def test_a_low_block_has_a_pixel_at_the_deepest_layer(factor) -> None:
    """However far that layer pads: 5x5 kernels in EfficientNet-Lite, dilations up to 17 in LRNNet."""
    for name, stride in (("swiftnet_rn18", 32), ("swiftnet_efflite1", 32), ("lrnnet", 8)):
        expected = math.lcm(32, stride * factor)
        assert nn.block_multiple(zoo(name), factor) == expected
        assert nn.smallest_block(zoo(name), factor) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in PLAIN])
def test_every_network_takes_blocks_of_64(name) -> None:
    assert nn.block_multiple(zoo(name)) in (32, 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_plain_networks_take_blocks_of_128(name) -> None:
    """Their deepest layer has a pixel for 64 of the image."""
    net = zoo(name)
    net.eval()
    assert nn.block_multiple(sb.in_blocks(net)) == 128


class Own(nnx.Module):
    """A user's network, which says nothing of blocks: strides 4 and 16, a dilated kernel, and up again."""

    def __init__(self, dilation: int, options: sb.BlockOptions) -> None:
        conv = functools.partial(nn.Conv, semantics=options, rngs=nnx.Rngs(0))
        self.options = options
        self.first = conv(3, 4, 7, stride=4)
        self.norm = nn.BatchNorm(4, momentum=0.1, semantics=options)
        self.deep = conv(4, 4, 5, stride=4)
        self.wide = conv(4, 4, (3, 1), dilation=dilation)
        self.dropout = nn.Dropout(0.5)
        self.last = conv(4, 2, 1)

    def __call__(self, x):
        x = nn.max_pool(nn.pointwise(jax.nn.relu, self.norm(self.first(x))), 3, 2, 1, self.options)
        x = nn.rematerialized(self.wide, self.deep(x))
        x = nn.on_full_image(lambda a: a * 2, self.dropout(x), self.options)
        return self.last(nn.upsample2(x, self.options))


@pytest.mark.parametrize(("factor", "multiple"), [(2, 64), (4, 128), (3, 96)])
def test_a_network_of_our_layers_says_nothing_itself(factor, multiple) -> None:
    net = Own(5, sb.BlockOptions())
    with nn.rematerialization():
        assert nn.block_multiple(net, factor) == multiple


def test_the_smallest_blocks_run_and_smaller_ones_are_refused() -> None:
    net = Own(5, sb.BlockOptions())
    graphdef, state = nnx.split(net)

    def run(side: int) -> sb.DualRes:
        mask = np.array([[[True, False]]])
        image = jax.ShapeDtypeStruct((1, side, 2 * side, 3), jnp.float32)

        def checked(state: nnx.State, image: jax.Array) -> sb.DualRes:
            blocks = sb.split(image, mask)
            nn.check_blocks(net, blocks)
            return nnx.merge(graphdef, state)(blocks)

        return jax.eval_shape(checked, state, image)

    assert run(64).block_size == 4
    text = r"Own: blocks of 96 x 96 pixels; .* multiple of 64, .* use blocks of 128"
    with pytest.raises(ValueError, match=text):
        run(96)
    nn.check_blocks(net, sb.split(jnp.zeros((0, 64, 64, 3)), np.zeros((0, 1, 1), bool)))
