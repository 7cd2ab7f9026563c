"""Networks: the reference's logits and gradients; all-high equals dense, all-low the averaged image."""

import pathlib
from collections.abc import Callable

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import jit

import segblocks_jax as sb
from segblocks_jax.training.losses import cross_entropy_map, task_loss

CASES = ("A", "B")


def build(semantics: sb.Semantics | None = None, **sizes: int) -> nnx.Module:
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


def assert_within(got: jax.Array, expected: jax.Array, share: float, name: str = "") -> None:
    """The largest difference is at most `share` of the standard deviation."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    difference = np.abs(got - expected).max() / expected.std()
    assert difference <= share, f"{name} differs by {difference:.2e} standard deviations"


# The reference's numbers


@pytest.fixture(scope="module")
def recorded(shared: pathlib.Path) -> dict[str, np.ndarray]:
    return golden.load(shared, "net_rn18")


@pytest.fixture(scope="module")
def authors() -> Callable:
    """The network in evaluation mode, compiled."""
    net = build(sb.Semantics.authors())
    net.eval()
    return apply(net)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("grid", ["dense", "rand", "high", "low"])
def test_golden_logits(recorded: dict, authors: Callable, case: str, grid: str) -> None:
    z = {k.removeprefix(f"{case}/"): v for k, v in recorded.items() if k.startswith(f"{case}/")}
    image = golden.nhwc(golden.random_input(z["input_seed"], z["input_shape"]))
    np.testing.assert_array_equal(image[0, 0, :8, 0], z["input_head"])
    if grid == "dense":
        logits, _ = authors(image)
    else:
        mask = z["rand/grid"] if grid == "rand" else np.full(z["rand/grid"].shape, grid == "high")
        logits = sb.combine(authors(sb.split(image, mask))[0])
    expected = golden.nhwc(z[f"{grid}/logits"])
    assert_within(logits, expected, 1e-4)
    assert np.mean(np.argmax(logits, -1) == np.argmax(expected, -1)) >= 0.9999


@pytest.mark.parametrize("case", CASES)
def test_golden_training_step(shared: pathlib.Path, case: str) -> None:
    recorded = golden.load(shared, "train_rn18")
    z = {k.removeprefix(f"{case}/"): v for k, v in recorded.items() if k.startswith(f"{case}/")}
    image = golden.nhwc(golden.random_input(z["input_seed"], z["input_shape"]))
    labels, grid = jnp.asarray(z["labels"]), sb.BlockGrid.from_mask(z["grid"])
    graphdef, params, rest = nnx.split(build(sb.Semantics.authors()), nnx.Param, ...)

    def objective(params: nnx.State, rest: nnx.State) -> tuple[jax.Array, tuple]:
        net = nnx.merge(graphdef, params, rest, copy=True)
        logits = sb.combine(net(sb.split(image, grid)))
        loss = task_loss(*cross_entropy_map(logits, labels), ignored="counted")
        return loss, (logits, nnx.state(net, nnx.BatchStat))

    step = jit(jax.value_and_grad(objective, has_aux=True))
    (loss, (logits, stats)), gradients = step(params, rest)
    np.testing.assert_allclose(loss, z["loss_f64"], rtol=1e-5)
    assert_within(logits, golden.nhwc(z["logits"]), 1e-4)
    check_gradients(z, golden.variables(gradients))
    after = {key: value for key, value in z.items() if key.startswith("after/")}
    got = golden.variables(stats)
    assert {f"after/{name}" for name in got} == set(after)
    for key, value in after.items():
        scale = 1e-5 * np.abs(value).max()
        np.testing.assert_allclose(
            got[key.removeprefix("after/")], value, rtol=1e-5, atol=scale, err_msg=key
        )


def check_gradients(z: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> None:
    """In float64 all norms agree to 1e-14; in float32 rounding flips a few ReLUs, here as there."""
    names = z["param_names"].tolist()
    assert set(names) == set(got)
    norms = np.array([np.linalg.norm(got[name]) for name in names])
    error = np.abs(norms / z["grad_norm_f64"] - 1)
    assert np.median(error) <= 1e-3
    assert error.max() <= 5e-3, names[error.argmax()]
    whole = [key.removeprefix("grad_f64/") for key in z if key.startswith("grad_f64/")]
    assert len(whole) == 11
    for name in whole:
        expected = z[f"grad_f64/{name}"]
        assert np.linalg.norm(got[name] - expected) <= 0.02 * np.linalg.norm(expected), name
        if name.startswith("logits"):
            np.testing.assert_allclose(got[name], expected, atol=1e-4 * np.abs(expected).max())


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


def test_the_authors_semantics_differ(rng: np.random.Generator) -> None:
    image = jnp.asarray(rng.standard_normal((1, 128, 192, 3)), jnp.float32)
    net = small(semantics=sb.Semantics.authors())
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


def test_a_traced_mask_gives_the_same_logits(evaluated: Callable, rng: np.random.Generator) -> None:
    net = small()
    net.eval()
    graphdef, state = nnx.split(net)
    image = jnp.asarray(rng.standard_normal((1, 128, 128, 3)), jnp.float32)

    @jax.jit
    def run(state: nnx.State, image: jax.Array, mask: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, state)(sb.split(image, mask, num_high=2)).pixels

    for cells in ([True, False, False, True], [False, True, True, False]):
        mask = np.array(cells).reshape(1, 2, 2)
        expected = evaluated(sb.split(image, mask)).pixels
        assert_within(run(state, image, jnp.asarray(mask)), expected, 1e-4)
    assert run._cache_size() == 1


def test_low_precision_stays_close(evaluated: Callable, rng: np.random.Generator) -> None:
    image = jnp.asarray(rng.standard_normal((1, 128, 128, 3)), jnp.float32)
    mask = np.array([[[True, False], [False, True]]])
    blocks = evaluated(sb.split(image.astype(jnp.bfloat16), mask))
    assert blocks.pixels.dtype == jnp.bfloat16
    expected = evaluated(sb.split(image, mask)).pixels
    assert_within(blocks.pixels.astype(jnp.float32), expected, 0.2)


def test_create_model() -> None:
    net = nnx.eval_shape(lambda: sb.create_model("swiftnet_rn18", 11, rngs=nnx.Rngs(0)))
    assert (net.num_classes, net.min_block_size) == (11, 64)
    assert net.semantics == sb.Semantics()
    with pytest.raises(ValueError, match="no model 'rn18'; expected one of swiftnet_rn18"):
        sb.create_model("rn18", rngs=nnx.Rngs(0))
