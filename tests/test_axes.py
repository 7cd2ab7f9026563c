"""The axes of ablations: blocks that know nothing of each other, static networks of smaller images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import config

import segblocks_jax as sb
from segblocks_jax import nn
from segblocks_jax.inference.fused import fuse, pays
from segblocks_jax.ops.image_conv import image_conv
from segblocks_jax.structured_config import ConfigError
from segblocks_jax.systems.segblocks.build import create_system
from segblocks_jax.systems.segblocks.engine import Engine

MASK = np.array([[[True, False], [False, True]]])


@pytest.mark.parametrize(("mode", "numpys"), [("zero", "constant"), ("clamp", "edge")])
def test_blocks_alone_are_padded_as_numpy_pads_arrays(mode, numpys, rng):
    image = rng.normal(size=(1, 16, 16, 3)).astype(np.float32)
    blocks = sb.split(image, MASK)
    padded = sb.block_pad(blocks, (2, 1), mode=mode)
    for got, part in ((padded.high, blocks.high), (padded.low, blocks.low)):
        expected = [np.pad(b, ((2, 2), (1, 1), (0, 0)), numpys) for b in np.asarray(part)]
        np.testing.assert_array_equal(got, np.stack(expected))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_with_zero_padding_sees_each_block_alone(stride, rng):
    image = rng.normal(size=(1, 16, 16, 3)).astype(np.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 4)).astype(np.float32))
    blocks = sb.split(image, MASK)
    out = sb.block_conv(blocks, kernel, stride, padding_mode="zero")
    for got, part in ((out.high, blocks.high), (out.low, blocks.low)):
        one_by_one = [image_conv(b[None], kernel, stride)[0] for b in part]
        np.testing.assert_allclose(got, np.stack(one_by_one), atol=1e-6)


def test_a_change_in_one_block_stays_there_without_blockpad():
    def build(padding):
        net = sb.create_model(
            "swiftnet_rn18",
            3,
            width=4,
            features=6,
            semantics=sb.BlockOptions(padding=padding, interpolation="block"),
            rngs=nnx.Rngs(0),
        )
        net.eval()
        return net

    image = np.zeros((1, 64, 128, 3), np.float32)
    changed = image.copy()
    changed[:, 20:40, 20:40] = 1

    def last(net, x):
        graphdef, state = nnx.split(net.backbone)
        blocks = sb.split(x, np.array([[[True, True]]]))
        run = jax.jit(lambda state, blocks: nnx.merge(graphdef, state)(blocks)[-1].high)
        return run(state, blocks)

    alone, padded = build("zero"), build("block")
    before, after = last(alone, image), last(alone, changed)
    assert not np.array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])
    assert not np.array_equal(last(padded, image)[1], last(padded, changed)[1])


def test_what_finds_neighbors_by_index_refuses_other_paddings(unchecked):
    net = sb.create_model(
        "swiftnet_rn18",
        3,
        width=4,
        features=6,
        semantics=sb.BlockOptions(padding="zero"),
        rngs=nnx.Rngs(0),
    )
    assert not pays(net)
    with pytest.raises(ValueError, match=r"fuse: semantics\.padding is 'zero'.*execution='plain'"):
        fuse(net)
    blocks = sb.split(np.zeros((1, 16, 16, 3), np.float32), MASK)
    kernel = jnp.zeros((3, 3, 3, 4))
    with pytest.raises(ValueError, match="no padding_mode 'clamp'; use implementation='xla'"):
        sb.block_conv(blocks, kernel, padding_mode="clamp", implementation="reference")
    with pytest.raises(ValueError, match="block_pad: mode is 'mirror'; expected one of"):
        sb.block_pad(blocks, 1, mode="mirror")


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("reinforce", {"model": {"input_scale": 0.5}}, "only policy.name=static sees a smaller"),
        (
            "static",
            {"model": {"input_scale": 0.7}},
            "model.input_scale is 0.7; expected a fraction",
        ),
        ("static", {"model": {"input_scale": 0.375}}, "expected multiples of 256"),
        (
            "reinforce",
            {"semantics": {"padding": "zero"}, "model": {"implementation": "ffi"}},
            "semantics.padding is 'zero', which model.implementation 'ffi' does not have",
        ),
    ],
)
def test_axes_that_do_not_fit_together_are_refused(name, changes, text):
    with pytest.raises(ConfigError, match=text):
        config(name, **changes)


def test_at_scale_gives_logits_at_the_usual_size_of_a_smaller_image(rng):
    image = jnp.asarray(rng.normal(size=(1, 64, 128, 3)).astype(np.float32))
    seen = []

    def net(x):
        seen.append(x.shape)
        return x[:, ::4, ::4]

    assert nn.at_scale(net, image, 0.5).shape == (1, 16, 32, 3)
    assert seen == [(1, 32, 64, 3)]
    np.testing.assert_array_equal(nn.at_scale(net, image, 1.0), net(image))
    constant = nn.at_scale(net, jnp.full_like(image, 2.0), 0.5)
    np.testing.assert_allclose(constant, 2.0, rtol=1e-6)


def test_a_static_network_of_smaller_images_labels_every_pixel(rng):
    settings = config("static", model={"input_scale": 0.5})
    system = create_system(settings, 19)
    spec = sb.ModelSpec(
        "swiftnet_rn18",
        19,
        width=8,
        features=12,
        input_scale=0.5,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )
    engine = Engine(system.net, spec)
    assert engine.multiple == 64
    images = rng.integers(0, 256, (1, 100, 130, 3)).astype(np.uint8)
    labels = engine(images).labels
    assert labels.shape == (1, 100, 130)
    assert sb.ModelSpec.from_mapping(spec.to_dict()) == spec
