"""in_blocks on whole networks that have none of this library's layers."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced_networks as nets
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.errors import InputError
from segblocks_jax.inference.fused import FusedNet, fuse
from segblocks_jax.inference.traced import FusedTraced
from segblocks_jax.nn import block_multiple

IMAGE = jnp.asarray(np.random.default_rng(0).standard_normal((1, 128, 192, 3)), jnp.float32)
MIXED = np.array([[[True, False, True], [False, True, False]]])
TOLERANCE = 2e-5  # Of the largest output: float32 rounding of deep networks.


def equinox_resnet():
    pytest.importorskip("equinox")
    return nets.equinox_resnet()


def zoo(name):
    return nets.randomized(sb.create_model(name, 19, rngs=nnx.Rngs(0)))


NETWORKS = {
    "linen U-Net": nets.linen_unet,
    "Equinox ResNet": equinox_resnet,
    "MobileNetV3": lambda: nets.randomized(nets.MobileNetV3(rngs=nnx.Rngs(0))),
    "ConvNeXt": lambda: nets.ConvNeXt(rngs=nnx.Rngs(0)),
}
DEEP = {
    "SwiftNet": lambda: nets.randomized(nets.SwiftNet(4, 6, 5, rngs=nnx.Rngs(0))),
    "DDRNet": lambda: zoo("ddrnet23_slim"),
    "PIDNet": lambda: zoo("pidnet_s"),
}


def pixels_of(maps, grid):
    n, rows, columns = grid.shape
    _, h, w, c = maps.shape
    cells = maps.reshape(n, rows, h // rows, columns, w // columns, c).swapaxes(2, 3)
    return cells.reshape(-1, c)


def difference(made, expected):
    """The largest over the largest value; what is expected differs from pixel to pixel."""
    each = expected.reshape(-1, expected.shape[-1])
    assert (each.std(0) > 1e-3 * jnp.abs(each).max()).mean() > 0.5
    return float(jnp.abs(made - expected).max() / jnp.abs(expected).max())


def averaged(image):
    n, h, w, c = image.shape
    return image.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


@pytest.mark.family("ConvNeXt")
@pytest.mark.parametrize("name", NETWORKS)
def test_all_high_is_dense_and_all_low_dense_of_the_averaged_image(name):
    net = NETWORKS[name]()
    run = jax.jit(sb.in_blocks(net, strict=True))
    for high, image in ((True, IMAGE), (False, averaged(IMAGE))):
        expected = jax.jit(lambda x: net(x))(image)
        made = run(sb.split(IMAGE, np.full(MIXED.shape, high)))
        assert difference(made.pixels, pixels_of(expected, MIXED)) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEP)
def test_deep_networks_all_high_are_dense(name):
    net = DEEP[name]()
    image = jnp.concatenate([IMAGE, IMAGE[:, :, :64]], 2)
    grid = np.ones((1, 1, 2), bool)
    blocks = sb.in_blocks(net, whole_image=("spp",), strict=True)
    expected = jax.jit(lambda x: net(x))(image)
    made = jax.jit(lambda b: blocks(b))(sb.split(image, grid))
    assert difference(made.pixels, pixels_of(expected, grid)) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddrnet23_slim", "pidnet_s"])
def test_backbones_all_low_are_dense_of_the_averaged_image(name):
    net = zoo(name)

    def backbone(image):
        x = jax.nn.relu(net.layer2(jax.nn.relu(net.layer1(net.conv1(image)))))
        return net.layer4(jax.nn.relu(net.layer3(x)))

    image = jnp.concatenate([IMAGE, IMAGE[:, :, :64]], 2)
    grid = np.zeros((1, 1, 2), bool)
    made = jax.jit(sb.in_blocks(backbone, strict=True))(sb.split(image, grid))
    expected = jax.jit(backbone)(averaged(image))
    assert difference(made.pixels, pixels_of(expected, grid)) < TOLERANCE


@pytest.mark.slow
def test_a_swiftnets_stages_all_low_are_dense_of_the_averaged_image():
    net = nets.randomized(nets.SwiftNet(4, 6, 5, rngs=nnx.Rngs(0)))
    image, grid = IMAGE[:, :, :128], np.zeros((1, 1, 1), bool)
    blocks = sb.in_blocks(lambda x: net.backbone(x), strict=True)
    made = jax.jit(lambda b: blocks(b))(sb.split(image, grid))
    expected = jax.jit(lambda x: net.backbone(x))(averaged(image))
    assert len(made) == 4
    for maps, dense in zip(made, expected, strict=True):
        assert difference(maps.pixels, pixels_of(dense, grid)) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddrnet23_slim", "pidnet_s"])
def test_gradients_of_deep_networks_all_high_are_dense(name, monkeypatch):
    """With smooth activations: where rounding switches a single ReLU, gradients jump."""
    monkeypatch.setattr(jax.nn, "relu", jax.nn.silu)
    net = zoo(name)
    image = jnp.concatenate([IMAGE[:, :, :128], IMAGE[:, :, 64:]], 2)
    grid = np.ones((1, 1, 2), bool)
    blocks = sb.in_blocks(net, strict=True)

    def values(run):
        @jax.jit
        def both(image):
            value, transpose = jax.vjp(run, image)
            return value, transpose(jnp.cos(jnp.arange(value.size * 1.0)).reshape(value.shape))[0]

        return both(image)

    made = values(lambda x: sb.combine(blocks(sb.split(x, grid))))
    for got, expected in zip(made, values(lambda x: net(x)), strict=True):
        assert difference(got, expected) < 10 * TOLERANCE


def swiftnets():
    """The same network of this library's layers and of Flax's alone."""
    own = nets.randomized(
        sb.create_model("swiftnet_rn18", 5, width=4, features=6, rngs=nnx.Rngs(0))
    )
    plain = nets.SwiftNet(4, 6, 5, rngs=nnx.Rngs(1))
    plain.eval()
    state = nnx.to_flat_state(nnx.state(own))
    nnx.update(plain, nnx.from_flat_state(dict(state)))
    return own, plain


@pytest.mark.slow
def test_a_swiftnet_of_flax_is_this_librarys_on_mixed_grids():
    own, plain = swiftnets()
    blocks = sb.split(IMAGE, MIXED)
    made = jax.jit(sb.in_blocks(plain, whole_image=("spp",), strict=True))(blocks)
    expected = jax.jit(lambda b: own(b))(blocks)
    assert difference(made.pixels, expected.pixels) < TOLERANCE


@pytest.mark.slow
def test_training_updates_running_statistics_as_this_librarys_layers_do():
    blocks = sb.split(IMAGE, MIXED)
    net = nets.BasicBlock(3, 4, 2, rngs=nnx.Rngs(0))
    net.train()
    traced = sb.in_blocks(net, strict=True)
    made = traced(blocks)
    first = sb.block_conv(blocks, net.conv1.kernel[...], 2, 1).pixels
    np.testing.assert_allclose(net.bn1.mean[...], 0.1 * first.mean(0), atol=1e-6)
    spread = jnp.square(first).mean(0) - jnp.square(first.mean(0))
    np.testing.assert_allclose(net.bn1.var[...], 0.9 + 0.1 * spread, atol=1e-5)
    assert made.pixels.shape == (first.shape[0], 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ConvNeXt", "linen U-Net"])
def test_gradients_reach_modules_and_pytrees(name):
    blocks = sb.split(IMAGE, MIXED)
    traced = sb.in_blocks(NETWORKS[name]())
    graph, params, rest = nnx.split(traced, nnx.Param, ...)

    @jax.jit
    def loss(params):
        return jnp.sin(nnx.merge(graph, params, rest)(blocks).pixels).mean()

    gradient = jax.grad(loss)(params)
    rng = np.random.default_rng(1)
    change = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), jnp.float32), params)
    step = 1e-3
    moved = [jax.tree.map(lambda x, d, s=s: x + s * d, params, change) for s in (step, -step)]
    ends = [loss(x) for x in moved]
    products = jax.tree.map(lambda g, d: (g * d).sum(), gradient, change)
    total = sum(jax.tree.leaves(products))
    np.testing.assert_allclose(total, (ends[0] - ends[1]) / (2 * step), rtol=2e-2, atol=1e-4)


@pytest.mark.family("ConvNeXt")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_fused_network_differs_by_rounding_only(name):
    net = sb.in_blocks(NETWORKS[name]())
    fused = fuse(net)
    assert isinstance(fused, FusedTraced)
    expected = jax.jit(lambda x: net(x))(IMAGE)
    made = jax.jit(lambda f, x: f(x))(fused, IMAGE)
    assert difference(made, expected) < TOLERANCE
    blocks = sb.split(IMAGE, MIXED)
    expected = jax.jit(lambda b: net(b))(blocks)
    made = jax.jit(lambda f, b: f(b))(fused, blocks)
    assert difference(made.pixels, expected.pixels) < TOLERANCE


def test_norms_and_shortcuts_are_folded():
    net = nets.randomized(nets.BasicBlock(8, 8, 1, rngs=nnx.Rngs(0)))
    stem = nnx.Conv(3, 8, (3, 3), padding=1, rngs=nnx.Rngs(0))
    fused = fuse(sb.in_blocks(nnx.Sequential(stem, net)))
    text = str(jax.make_jaxpr(lambda f, x: f(x))(fused, IMAGE))
    # Three convolutions; nothing adds, scales or rectifies beside them.
    assert text.count("segblocks_indexed_conv") in (0, 3)
    for name in (" max ", " mul ", " rsqrt "):
        assert name not in text


def test_operations_of_a_traced_network_and_its_blocks():
    net = sb.in_blocks(nets.BasicBlock(8, 8, 2, rngs=nnx.Rngs(0)))
    stem = nnx.Conv(3, 8, (4, 4), 4, padding="VALID", rngs=nnx.Rngs(0))
    net = sb.in_blocks(nnx.Sequential(stem, net.net))
    size = 32 * 48
    macs = size * 48 * 8 + size // 4 * (2 * 9 * 64 + 64)
    assert sb.count_macs(net, IMAGE.shape).total == macs
    assert sb.count_macs(net, IMAGE.shape, 0.5).total == macs * 0.625
    assert block_multiple(net) == 32
    assert block_multiple(net, 8) == 64


def create(num_classes, *, rngs):
    """A factory."""
    stem = nnx.Conv(3, 8, (4, 4), 4, padding="VALID", rngs=rngs)
    head = nnx.Conv(8, num_classes, (3, 3), padding=1, rngs=rngs)
    return nnx.Sequential(stem, nnx.BatchNorm(8, rngs=rngs), jax.nn.relu, head)


def create_too_small(num_classes, *, rngs):
    return nnx.Conv(3, num_classes - 1, (1, 1), rngs=rngs)


PLACE = f"{__name__}:create"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """This module by the name that factories have."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])


def spec_of():
    policy = sb.PolicySpec(name="random", block_size=64, target=0.5, bucket_step=0.25)
    return sb.ModelSpec(PLACE, 5, policy=policy, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.mark.slow
def test_a_network_by_its_factory_is_saved_served_and_exported(tmp_path):
    spec = spec_of()
    system = spec.build(nnx.Rngs(0))
    assert (system.net.num_classes, system.net.output_stride) == (5, 4)
    folder = sb.save_model(tmp_path / "model", system, spec)
    loaded = sb.load_model(folder)
    for a, b in zip(*(jax.tree.leaves(nnx.state(m)) for m in (system, loaded)), strict=True):
        np.testing.assert_array_equal(a, b)
    image = np.random.default_rng(0).integers(0, 256, (1, 128, 192, 3)).astype(np.uint8)
    shapes = [(1, 128, 192)]
    logits = {}
    for execution in ("fused", "plain"):
        engine = sb.Engine.load(folder, mode="budget=3", execution=execution, shapes=shapes)
        logits[execution] = engine(image, output="logits", mask=MIXED).logits
    np.testing.assert_allclose(logits["fused"], logits["plain"], atol=2e-5)
    exported = engine.export(tmp_path / "programs", platforms=["cpu"])
    served = sb.ExportedEngine(exported)
    np.testing.assert_array_equal(served(image).labels, engine(image).labels)


def test_factories_that_are_none(tmp_path):
    for place, text in (
        ("nowhere_at_all:create", "can't be imported"),
        (f"{__name__}:nothing", "can't be imported"),
        (f"{__name__}:create_too_small", r"gives \(2, 256, 256, 4\)"),
    ):
        with pytest.raises(InputError, match=text):
            sb.create_model(place, 5, rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="has no width to choose"):
        sb.create_model(PLACE, 5, rngs=nnx.Rngs(0), width=32)


@pytest.mark.slow
def test_a_step_of_training_by_a_configuration():
    import tiny

    settings = tiny.config("random", model={"factory": PLACE, "width": 64, "features": None})
    step, state = tiny.trainer(settings)
    before = jax.tree.map(np.array, state.params)
    stats = jax.tree.map(np.array, state.stats)
    state, metrics = step(state, tiny.batch())
    assert np.isfinite(float(metrics["loss"]))
    for kind, old, new in (("weights", before, state.params), ("statistics", stats, state.stats)):
        moved = [
            np.abs(np.asarray(b) - a).max() > 0
            for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
        ]
        assert all(moved), kind


def test_what_the_engine_says_of_a_fused_network():
    assert not isinstance(fuse(sb.in_blocks(nets.ConvNeXt(rngs=nnx.Rngs(0)))), FusedNet)
    options = dataclasses.replace(sb.BlockOptions(), padding="zero")
    with pytest.raises(InputError, match="a fused network finds its neighbors by index"):
        fuse(sb.in_blocks(nets.ConvNeXt(rngs=nnx.Rngs(0)), options))
