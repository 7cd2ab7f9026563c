"""in_blocks on whole networks that have none of this library's layers."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import traced_networks as nets
from flax import linen, nnx

import segblocks_jax as sb
from segblocks_jax.errors import InputError
from segblocks_jax.inference.fused import FusedNet, fuse
from segblocks_jax.inference.traced import FusedTraced
from segblocks_jax.nn import block_multiple
from segblocks_jax.training.state import create_optimizer, create_state, is_float

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


def gives(function):
    """A factory of a function of images."""
    return lambda num_classes, *, rngs: lambda x: function(x)


def of_one_size(x):
    return jnp.zeros((*x.shape[:3], 5)) + jnp.zeros((1, 64, 64, 1))


NO_FACTORIES = {
    "create_too_small": (create_too_small, r"gives \(2, 256, 256, 4\)"),
    "whole_numbers": (gives(lambda x: jnp.zeros((*x.shape[:3], 5), jnp.int32)), "a float dtype"),
    "one_image": (gives(lambda x: jnp.zeros((1, *x.shape[1:3], 5))), r"gives \(1, 256, 256, 5\)"),
    "two_strides": (gives(lambda x: jnp.zeros((2, 128, 64, 5))), r"gives \(2, 128, 64, 5\)"),
    "no_maps": (gives(lambda x: jnp.zeros(5)), r"gives \(5,\)"),
    "nothing_at_all": (gives(lambda x: None), "gives None"),
    "of_one_size": (
        gives(of_one_size),
        r"fails on images of \(2, 256, 256, 3\), where it must take",
    ),
    "without_rngs": (lambda num_classes: nnx.Conv, "can't be called as create.*'rngs'"),
    "a_number": (3, "can't be called as create"),
}


@pytest.mark.parametrize("name", NO_FACTORIES)
def test_what_is_no_factory(name, monkeypatch):
    made, text = NO_FACTORIES[name]
    monkeypatch.setattr(sys.modules[__name__], name, made, raising=False)
    with pytest.raises(InputError, match=f"factory: .*{name}.*{text}"):
        sb.create_model(f"{__name__}:{name}", 5, rngs=nnx.Rngs(0))


def test_modules_that_can_not_be_imported(tmp_path, monkeypatch):
    (tmp_path / "own_broken.py").write_text("def create(:")
    (tmp_path / "own_missing.py").write_text("import nowhere_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    for module, text in (
        ("nowhere_at_all", "No module named 'nowhere_at_all'; is its folder on PYTHONPATH"),
        ("own_missing", "No module named 'nowhere_at_all'$"),
        ("own_broken", "can't be imported: .*own_broken.py, line 1"),
        (__name__, "has no attribute 'nothing'$"),
    ):
        with pytest.raises(InputError, match=text):
            sb.create_model(f"{module}:nothing", 5, rngs=nnx.Rngs(0))


def test_factories_have_no_options():
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


class WithDropout(nnx.Module):
    def __init__(self, num_classes, *, rngs):
        self.stem, self.drop = create(8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Conv(8, num_classes, (1, 1), rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(self.stem(x)))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["static", "random"])
def test_dropout_trains_and_is_saved(policy, tmp_path):
    """Keys and counters of random streams are kept in the state, neither averaged nor saved as weights."""
    import tiny

    settings = tiny.config(
        policy,
        model={"factory": f"{__name__}:WithDropout", "width": 64, "features": None},
        optim={"batch_size": 8, "accumulate": 2, "ema": 0.9, "sync_batch_norm": False},
    )
    system = tiny.system(settings)
    optimizer = create_optimizer(settings.optim, system.multipliers())
    graphdef, state = create_state(system.build(), optimizer, 0, average=True)
    step = system.train_step(graphdef, optimizer, print)
    state = step.place(state)
    keys = [x for x in jax.tree.leaves(state.stats) if not is_float(x)]
    before = [np.asarray(jax.random.key_data(x) if x.dtype.name == "key<fry>" else x) for x in keys]
    for _ in range(2):
        state, metrics = step(state, tiny.batch(8))
    assert np.isfinite(float(metrics["loss"]))
    after = [x for x in jax.tree.leaves(state.served[1]) if not is_float(x)]
    counts = [(a, b) for a, b in zip(before, after, strict=True) if b.dtype == np.uint32]
    assert [int(b - a) for a, b in counts] == [4]
    modules = nnx.merge(graphdef, *state.served)
    system.export(modules, tmp_path / "model")
    loaded = sb.load_model(tmp_path / "model")
    net, own = (getattr(x, "net", x) for x in (loaded, modules))
    for module in (net, own):
        module.eval()
    np.testing.assert_allclose(net(IMAGE), own(IMAGE), atol=1e-6)


def test_statistics_of_linen_are_no_parameters():
    module = linen.BatchNorm(use_running_average=True)
    variables = module.init(jax.random.key(0), IMAGE)
    net = sb.in_blocks(jax.tree_util.Partial(module.apply, variables))
    found = {k: len(jax.tree.leaves(nnx.state(net, k))) for k in (nnx.BatchStat, nnx.Param)}
    assert found == {nnx.BatchStat: 2, nnx.Param: 2}


@pytest.mark.parametrize("name", ["linen U-Net", "Equinox ResNet"])
def test_other_pytrees_compute_in_the_images_dtype(name):
    net = sb.in_blocks(NETWORKS[name]())
    with jax.numpy_dtype_promotion("standard"):  # Of Linen's epsilon.
        low = net(IMAGE.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    assert 1e-4 < difference(low.astype(jnp.float32), net(IMAGE)) < 0.1


def turned(x):
    """Float32 in the middle, whatever the image."""
    return jnp.roll(x.astype(jnp.float32), 1, 1)


def create_in_two_dtypes(num_classes, *, rngs):
    stem, head = create(8, rngs=rngs), nnx.Conv(8, num_classes, (3, 3), padding=1, rngs=rngs)
    own = nnx.Conv(num_classes, num_classes, (3, 3), 2, padding=1, rngs=rngs)
    return nnx.Sequential(stem, turned, head, jax.nn.relu, own)


def create_equinox(num_classes, *, rngs):
    return equinox_resnet()


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["plain", "fused"])
@pytest.mark.parametrize("place", ["create", "create_in_two_dtypes", "create_equinox"])
@pytest.mark.filterwarnings("ignore::segblocks_jax.traced.WholeImageWarning")
def test_the_engine_serves_them_in_bfloat16(place, execution):
    spec = dataclasses.replace(spec_of(), name=f"{__name__}:{place}", num_classes=12)
    system = spec.build(nnx.Rngs(0))
    image = np.random.default_rng(0).integers(0, 256, (1, 128, 192, 3)).astype(np.uint8)
    made = {}
    with jax.numpy_dtype_promotion("standard"):
        for dtype in ("float32", "bfloat16"):
            engine = sb.Engine(system, spec, mode="budget=3", execution=execution, dtype=dtype)
            made[dtype] = engine(image, output="logits", mask=MIXED).logits
    assert difference(made["bfloat16"], made["float32"]) < 0.03


def test_what_the_engine_says_of_a_fused_network():
    assert not isinstance(fuse(sb.in_blocks(nets.ConvNeXt(rngs=nnx.Rngs(0)))), FusedNet)
    options = dataclasses.replace(sb.BlockOptions(), padding="zero")
    with pytest.raises(InputError, match="a fused network finds its neighbors by index"):
        fuse(sb.in_blocks(nets.ConvNeXt(rngs=nnx.Rngs(0)), options))
