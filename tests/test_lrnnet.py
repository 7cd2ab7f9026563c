"""LRNNet: its counts, the images that uniform grids equal, the blocks it takes, and all that networks have."""

import dataclasses
import json
import pathlib
from collections.abc import Callable

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny
from flax import nnx
from golden import assert_within

import segblocks_jax as sb
from segblocks_jax import nn
from segblocks_jax.structured_config import ConfigError
from segblocks_jax.systems.lrnnet.network import Down, Factorized, FactorizedBlock
from segblocks_jax.systems.segblocks.build import create_system
from segblocks_jax.systems.segblocks.config import ExperimentConfig

SIZES = {"num_classes": 5, "width": 8, "features": 6, "dilations": (1, 4)}
SPEC = sb.ModelSpec(
    "lrnnet",
    **SIZES,
    policy=sb.PolicySpec(block_size=64, bucket_step=0.25),
    mean=(0.3, 0.4, 0.5),
    std=(0.2, 0.25, 0.3),
)
SIDE = 64


def shapes(**sizes) -> nnx.Module:
    """A network without values."""
    return nnx.eval_shape(lambda: sb.create_model("lrnnet", **sizes, rngs=nnx.Rngs(0)))


def small() -> nnx.Module:
    return golden.network(lambda: sb.create_model("lrnnet", **SIZES, rngs=nnx.Rngs(0)))


def apply(net: nnx.Module) -> Callable:
    """The network as a compiled function of its input, with its statistics after the call."""
    graphdef, state = nnx.split(net)

    @jax.jit
    def run(state: nnx.State, x: jax.Array | sb.DualRes) -> tuple:
        net = nnx.merge(graphdef, state)
        with nn.dropout_key(jax.random.key(3)):
            return net(x), nnx.state(net, nnx.BatchStat)

    return lambda x: run(state, x)


def mean2(image: jax.Array) -> jax.Array:
    n, h, w, c = image.shape
    return image.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def parameters(module: nnx.Module) -> int:
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(nnx.state(module, nnx.Param)))


# Parameters and operations


@pytest.fixture(scope="module")
def published() -> nnx.Module:
    """The network of published size, without values."""
    return shapes()


def test_parameters(published: nnx.Module) -> None:
    net = published
    assert parameters(net.backbone) == 637_996
    assert parameters(net.attention) == 128 * 64 * 3 + 2 * 64**2 + 2 * 64 + 2 * 128
    assert parameters(net.logits) == 129 * 19
    assert parameters(net) == 673_599


def test_operations_at_512_by_1024(published: nnx.Module) -> None:
    macs = sb.count_macs(published, (1, 512, 1024, 3))
    parts = dict(macs.by_part)
    encoder = sum(parts[f"backbone/stage{i}"] for i in (1, 2, 3))
    # The published networks' counts hold an addition for each output that gets a bias.
    biases = 29 * 256 * 512 + 32 * 128 * 256 + 64 * 64 * 128
    assert encoder - biases == 7_912_423_424
    assert {name: round(value / 1e9, 3) for name, value in parts.items()} == {
        "backbone/stage1": 1.830,
        "backbone/stage2": 1.415,
        "backbone/stage3": 4.673,
        "attention": 0.271,
        "logits": 0.020,
    }
    assert macs.total == 8_208_932_864
    # Full attention's two products alone, at as many channels.
    assert 2 * 64 * (64 * 128) ** 2 == 8_589_934_592


def test_operations_in_blocks(published: nnx.Module) -> None:
    dense, low = (sb.count_macs(published, (1, 512, 1024, 3), f).by_part for f in (1.0, 0.0))
    assert low["attention"] == dense["attention"]
    for part in ("backbone/stage1", "backbone/stage2", "backbone/stage3", "logits"):
        assert low[part] == dense[part] / 4


# The encoder's units, against XLA's convolutions


def conv(x: jax.Array, layer: nn.Conv, dilation: int = 1, stride: int = 1) -> jax.Array:
    """With zeros around that keep the size at stride 1."""
    kernel = layer.kernel[...]
    out = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(dilation * (k // 2),) * 2 for k in kernel.shape[:2]],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )
    return out if layer.bias is None else out + layer.bias[...][None, None, None]


def norm(x: jax.Array, layer: nn.BatchNorm) -> jax.Array:
    mean, var, scale, bias = (
        v[...][None, None, None] for v in (layer.mean, layer.var, layer.scale, layer.bias)
    )
    return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias


def pair(x: jax.Array, layers: Factorized) -> jax.Array:
    x = jax.nn.relu(norm(conv(x, layers.conv1), layers.bn1))
    return jax.nn.relu(norm(conv(x, layers.conv2), layers.bn2))


def test_the_factorized_block(rng: np.random.Generator) -> None:
    block = golden.network(
        lambda: FactorizedBlock(8, 3, 0.3, semantics=sb.BlockOptions(), rngs=nnx.Rngs(0))
    )
    block.eval()
    x = jnp.asarray(rng.standard_normal((2, 9, 11, 8)), jnp.float32)

    @nnx.jit
    def expected(block: FactorizedBlock, x: jax.Array) -> jax.Array:
        y = jnp.concatenate([pair(x[..., :4], block.left), pair(x[..., 4:], block.right)], -1)
        y = jax.nn.relu(norm(conv(y, block.depthwise, dilation=3), block.bn1))
        y = jax.nn.relu(x + norm(conv(y, block.pointwise), block.bn2))
        return y[..., jnp.array([0, 4, 1, 5, 2, 6, 3, 7])]

    assert block.left.conv1.kernel.shape == block.right.conv2.kernel.shape == (3, 1, 4, 4)
    assert block.left.conv2.kernel.shape == block.right.conv1.kernel.shape == (1, 3, 4, 4)
    got = nnx.jit(lambda block, x: block(x))(block, x)
    np.testing.assert_allclose(got, expected(block, x), atol=1e-5)


def test_the_down_sampling_unit(rng: np.random.Generator) -> None:
    down = golden.network(lambda: Down(3, 8, semantics=sb.BlockOptions(), rngs=nnx.Rngs(0)))
    down.eval()
    x = jnp.asarray(rng.standard_normal((2, 6, 10, 3)), jnp.float32)
    pooled = x.reshape(2, 3, 2, 5, 2, 3).max((2, 4))
    both = jnp.concatenate([conv(x, down.conv, stride=2), pooled], -1)
    got = nnx.jit(lambda down, x: down(x))(down, x)
    np.testing.assert_allclose(got, jax.nn.relu(norm(both, down.bn)), atol=1e-5)


# Uniform grids equal images


def test_uniform_grids_equal_images(rng: np.random.Generator) -> None:
    """Logits on all-high; on all-low the encoder, of half the image."""
    net = small()
    net.eval()
    image = jnp.asarray(rng.standard_normal((1, 2 * SIDE, 3 * SIDE, 3)), jnp.float32)
    run, encode = apply(net), apply(net.backbone)
    logits, _ = run(image)
    assert logits.shape == (1, 16, 24, 5)
    high, _ = run(sb.split(image, np.ones((1, 2, 3), bool)))
    assert_within(sb.combine(high), logits, 1e-4, "logits")
    low, _ = encode(sb.split(image, np.zeros((1, 2, 3), bool)))
    whole = sb.BlockGrid.from_mask(np.ones((1, 2, 3), bool), low_factor=1)
    together = sb.combine(sb.DualRes(low.pixels, whole))
    assert_within(together, encode(mean2(image))[0], 1e-4, "features")


@pytest.mark.slow
def test_all_high_training_equals_the_image(rng: np.random.Generator) -> None:
    """Statistics and dropped channels too."""
    image = jnp.asarray(rng.standard_normal((2, SIDE, 2 * SIDE, 3)), jnp.float32)
    logits, stats = apply(small())(image)
    blocks, stats_in_blocks = apply(small())(sb.split(image, np.ones((2, 1, 2), bool)))
    assert_within(sb.combine(blocks), logits, 1e-3, "logits")
    for a, b in zip(jax.tree.leaves(stats_in_blocks), jax.tree.leaves(stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_gradients_on_a_mixed_grid_against_finite_differences(rng: np.random.Generator) -> None:
    net = small()
    net.eval()
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    image = jnp.asarray(rng.standard_normal((1, SIDE, 2 * SIDE, 3)), jnp.float32)
    blocks = sb.split(image, np.array([[[True, False]]]))

    @jax.jit
    @jax.value_and_grad
    def loss(params: nnx.State) -> jax.Array:
        return jnp.sin(nnx.merge(graphdef, params, rest)(blocks).pixels).mean()

    # Of all directions, the steepest: of others, rounding and ReLUs that switch hide the slope.
    _, gradient = loss(params)
    length = float(jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient))))
    step = 1e-3 / length
    up, down = (
        float(loss(jax.tree.map(lambda p, g, s=sign: p + s * step * g, params, gradient))[0])
        for sign in (1, -1)
    )
    assert (up - down) / (2 * step) == pytest.approx(length**2, rel=2e-2)


# Which blocks it takes


@pytest.mark.parametrize(("factor", "multiple"), [(2, 32), (4, 32), (3, 96), (8, 64)])
def test_its_stride_bounds_the_blocks(factor, multiple) -> None:
    assert nn.block_multiple(shapes(width=8), factor) == multiple


@pytest.mark.parametrize("high", [[[[True, False]]], [[[True, True]]]])
def test_blocks_too_small_are_refused(high) -> None:
    net = shapes(width=8)
    blocks = sb.split(np.zeros((1, 16, 32, 3), np.float32), np.array(high))
    text = "LRNNet: blocks of 16 x 16 pixels; .*a multiple of 32, .*use blocks of 32"
    with pytest.raises(ValueError, match=text):
        jax.eval_shape(lambda p: net(dataclasses.replace(blocks, pixels=p)), blocks.pixels)


def test_a_policy_with_blocks_too_small_is_refused() -> None:
    mapping = {
        "model": {"name": "lrnnet", "width": 8},
        "policy": {"block_size": 64, "low_factor": 3},
    }
    config = ExperimentConfig.from_mapping(mapping)
    text = r"policy\.block_size is 64, but lrnnet needs a multiple of 96, so that"
    with pytest.raises(ValueError, match=text):
        nnx.eval_shape(lambda: create_system(config, 19))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"width": 6}, "width is 6; expected a multiple of 4, at least 8"),
        ({"dilations": ()}, r"dilations are \(\); expected"),
        ({"dilations": (1, 0)}, r"dilations are \(1, 0\); expected a number above 0"),
    ],
)
def test_sizes_that_do_not_fit(fields: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        shapes(**fields)


def test_other_networks_have_no_dilations() -> None:
    with pytest.raises(ValueError, match="swiftnet_rn18 has no dilations"):
        nnx.eval_shape(lambda: sb.create_model("swiftnet_rn18", dilations=(1, 2), rngs=nnx.Rngs(0)))
    for name, dilations in (("swiftnet_rn18", [1]), ("lrnnet", [0]), ("lrnnet", [])):
        with pytest.raises(ConfigError, match=r"model\.dilations is \("):
            ExperimentConfig.from_mapping({"model": {"name": name, "dilations": dilations}})


def test_a_factor_scales_all_dropout() -> None:
    def rates(factor: float) -> list[float]:
        config = ExperimentConfig.from_mapping(
            {
                "model": {"name": "lrnnet", "dilations": (1, 2), "dropout": factor},
                "policy": {"name": "static"},
            }
        )
        system = nnx.eval_shape(lambda: create_system(config, 19))
        return sorted(p.rate for _, p in nnx.iter_graph(system) if isinstance(p, nn.Dropout))

    assert rates(1.0) == [0.03] * 5 + [0.3] * 2
    assert rates(0.5) == [0.015] * 5 + [0.15] * 2


# Folders, training, engine, export


def system() -> nnx.Dict:
    built = golden.network(lambda: SPEC.build(nnx.Rngs(0)))
    built.eval()
    return built


def test_saved_models_come_back(tmp_path: pathlib.Path) -> None:
    built = system()
    folder = sb.save_model(tmp_path / "model", built, SPEC)
    assert sb.load_spec(folder) == SPEC
    expected = golden.variables(built)
    for name, value in golden.variables(sb.load_model(folder)).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    state = safetensors.numpy.load_file(folder / "weights.safetensors")
    assert state["net.backbone.stage1.1.left.conv1.weight"].shape == (2, 2, 3, 1)
    assert state["net.backbone.stage3.2.depthwise.weight"].shape == (16, 1, 3, 3)
    other = small()
    other.backbone.stage1[0].conv.kernel[...] *= 2
    sb.load_backbone(other, folder / "weights.safetensors")
    np.testing.assert_array_equal(
        other.backbone.stage1[0].conv.kernel[...], built.net.backbone.stage1[0].conv.kernel[...]
    )


@pytest.mark.slow
def test_a_training_step(rng: np.random.Generator) -> None:
    """Dropout is on: the same batch and weights give another loss under another key."""
    settings = tiny.config("static", model={"name": "lrnnet", "dilations": (1, 4)})
    step, state = tiny.trainer(settings)
    before = jax.device_get(state.params)
    losses = []
    for seed in (0, 1):
        keyed = dataclasses.replace(state, key=jax.random.key(seed))
        after, metrics = step(step.place(jax.tree.map(jnp.copy, keyed)), tiny.batch())
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1]
    moved = jax.tree.map(lambda a, b: (a != b).any(), before, jax.device_get(after.params))
    # Biases in front of a batch norm have no gradient, but for rounding.
    assert np.mean(jax.tree.leaves(moved)) > 0.9


def pictures(n: int, h: int, w: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, h, w, 3), dtype=np.uint8)


@pytest.mark.slow
def test_the_engine_serves_and_exports(tmp_path: pathlib.Path) -> None:
    built, images = system(), pictures(1, 64, 128)
    engine = sb.Engine(built, SPEC, mode="budget=1")
    result, logits = engine(images), engine(images, output="logits").logits
    assert int(result.mask.sum()) == 1
    assert logits.shape == (1, 8, 16, 5)
    enlarged = nn.resize_bilinear(jnp.asarray(logits), (64, 128))
    assert np.mean(np.asarray(enlarged.argmax(-1)) == result.labels) > 0.999
    engine.replace_weights(jax.tree.map(lambda x: 1.5 * x, built))
    other = engine(images, output="logits")
    assert not other.compiled
    assert np.abs(other.logits - logits).max() > 0.1 * logits.std()
    engine.replace_weights(built)
    np.testing.assert_array_equal(engine(images, output="logits").logits, logits)
    smaller = images[:, :50, :100]
    assert engine(smaller).labels.shape == (1, 50, 100)
    assert engine(smaller, output="logits").logits.shape == (1, 7, 13, 5)
    xla = sb.Engine(built, SPEC, mode="budget=1", execution="xla", shapes=[(1, 64, 128)])
    folder = xla.export(tmp_path / "engine", platforms=("cpu",))
    assert json.loads((folder / "engine.json").read_text())["targets"] == []
    exported = sb.ExportedEngine(folder)(images)
    np.testing.assert_array_equal(exported.mask, result.mask)
    assert np.mean(exported.labels == result.labels) > 0.999
