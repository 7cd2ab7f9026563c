"""DDRNet-23-slim and PIDNet-S against the numbers of their authors' programs."""

import contextlib
import functools
import json
import math
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from golden import assert_within
from jax.sharding import Mesh

import segblocks_jax as sb
from segblocks_jax import nn
from segblocks_jax.data import NORMALIZATION, normalize
from segblocks_jax.errors import InputError
from segblocks_jax.interop.torch import torch_arrays
from segblocks_jax.models import Network, plain, pyramid
from segblocks_jax.structured_config import ConfigError
from segblocks_jax.systems.segblocks.build import create_system
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.loss import Loss
from segblocks_jax.tasks.segmentation.head_losses import boundary_map, ddrnet_loss, pidnet_loss
from segblocks_jax.tasks.segmentation.losses import cross_entropy_map, resize_logits, task_loss
from segblocks_jax.training.sharding import AXIS

NAMES = ("ddrnet23_slim", "pidnet_s")
HEADS = {"ddrnet23_slim": ["main", "extra"], "pidnet_s": ["p", "main", "d"]}


@functools.cache
def folder(shared: pathlib.Path) -> pathlib.Path:
    found = shared / "golden" / "ddrnet_pidnet"
    if not found.is_dir():
        pytest.skip(f"no development data at {found}")
    return found


@functools.cache
def entries(shared: pathlib.Path, name: str) -> dict[str, dict]:
    return json.loads((folder(shared) / f"state_dict_{name}.json").read_text())


@functools.cache
def recorded(shared: pathlib.Path, name: str) -> dict[str, np.ndarray]:
    with np.load(folder(shared) / f"{name}.npz") as file:
        return dict(file)


def case(shared: pathlib.Path, name: str, which: str) -> dict[str, np.ndarray]:
    z = recorded(shared, name)
    return {k.removeprefix(f"{which}/"): v for k, v in z.items() if k.startswith(f"{which}/")}


def state_dict(shared: pathlib.Path, name: str, evaluation: bool) -> dict[str, np.ndarray]:
    """The authors' names, in evaluation with the scaled entries, each as the recorded checksum has it."""
    arrays = {}
    for key, entry in entries(shared, name).items():
        array, checksum = golden._weight(key, tuple(entry["shape"])), entry["crc32"]
        if evaluation and "eval_factor" in entry:
            z = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(entry["shape"])
            value = 1 + 0.1 * z if key.endswith("weight") else 0.1 * z
            array = (value * entry["eval_factor"]).astype(np.float32)
            checksum = entry["crc32_eval_factor"]
        assert zlib.crc32(array.tobytes()) == checksum, key
        arrays[key] = array
    return arrays


@functools.cache
def shapes(name: str, auxiliary: bool = False) -> nnx.Module:
    """A network without values."""
    return nnx.eval_shape(lambda: sb.create_model(name, auxiliary=auxiliary, rngs=nnx.Rngs(0)))


def blank(name: str, auxiliary: bool = False) -> nnx.Module:
    """A network of zeros."""
    graphdef, state = nnx.split(shapes(name, auxiliary))
    return nnx.merge(graphdef, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state))


@functools.cache
def network(shared: pathlib.Path, name: str, evaluation: bool) -> nnx.Module:
    """With all heads and the recorded weights."""
    net = blank(name, auxiliary=True)
    sb.load_torch_state_dict(net, state_dict(shared, name, evaluation))
    (net.eval if evaluation else net.train)()
    return net


@functools.cache
def evaluator(shared: pathlib.Path, name: str) -> Callable:
    graphdef, state = nnx.split(network(shared, name, True))
    run = jax.jit(lambda state, x: nnx.merge(graphdef, state).heads(x))
    return functools.partial(run, state)


def image_of(z: dict[str, np.ndarray]) -> jax.Array:
    image = golden.random_input(z["seed"], z["shape"])
    assert zlib.crc32(image.tobytes()) == z["input_crc32"]
    return golden.nhwc(image)


# Structure


@pytest.mark.family("ddrnet23_slim")
@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_are_the_authors(shared: pathlib.Path, name: str) -> None:
    wanted = {
        key: tuple(entry["shape"])
        for key, entry in entries(shared, name).items()
        if not key.endswith("num_batches_tracked")
    }
    everywhere = {k for k in wanted if entries(shared, name)[k]["inference"]}
    for auxiliary, keys in ((True, wanted.keys()), (False, everywhere)):
        arrays = torch_arrays(blank(name, auxiliary=auxiliary))
        got = {key.removeprefix("net."): array.shape for key, array in arrays.items()}
        assert got == {key: wanted[key] for key in keys}


@pytest.mark.family("ddrnet23_slim")
@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_operations(shared: pathlib.Path, name: str) -> None:
    published = {"ddrnet23_slim": (5_695_987, 36.281), "pidnet_s": (7_625_715, 47.194)}[name]
    counts = json.loads((folder(shared) / "macs.json").read_text())
    for auxiliary, kind in ((False, "inference"), (True, "training")):
        expected = counts[f"{name}_{kind}"]
        net = shapes(name, auxiliary=auxiliary)
        parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(nnx.state(net, nnx.Param)))
        assert parameters == expected["params"]
        for size in ((1024, 2048), (720, 960), (128, 256)):
            macs = sb.count_macs(net, (1, *size, 3)).total
            assert macs == expected[f"1x3x{size[0]}x{size[1]}"]["conv"]
    net = shapes(name)
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(nnx.state(net, nnx.Param)))
    macs = sb.count_macs(net, (1, 1024, 2048, 3)).total
    assert (parameters, round(macs / 1e9, 3)) == published


@pytest.mark.family("ddrnet23_slim")
@pytest.mark.parametrize("name", NAMES)
def test_no_layer_is_this_librarys(name: str) -> None:
    net = shapes(name)
    assert isinstance(net, Network)
    assert not [x for _, x in nnx.iter_graph(net) if isinstance(x, nn.Conv | nn.BatchNorm)]
    assert net.output_stride == 8
    graphdef, state = nnx.split(net)
    image = jax.ShapeDtypeStruct((2, 64, 40, 3), jnp.float32)
    logits = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, image)
    assert logits.shape == (2, 8, 5, 19)


def test_the_auxiliary_heads_weights_are_passed_over(shared: pathlib.Path) -> None:
    state = state_dict(shared, "ddrnet23_slim", False)
    net = blank("ddrnet23_slim")
    sb.load_torch_state_dict(net, state)
    np.testing.assert_array_equal(net.final_layer.conv2.bias, state["final_layer.conv2.bias"])
    inference = {k: v for k, v in state.items() if not k.startswith("seghead")}
    with pytest.raises(InputError, match=r"missing: seghead_extra\.bn1\.bias"):
        sb.load_torch_state_dict(blank("ddrnet23_slim", auxiliary=True), inference)
    with pytest.raises(InputError, match=r"left over: seghead_p\.bn1\.bias"):
        sb.load_torch_state_dict(net, state | {"seghead_p.bn1.bias": np.zeros(64)})


@pytest.mark.slow
def test_kernels_start_as_the_authors() -> None:
    """Variance 2 / (out * kh * kw), biases of the heads as in PyTorch."""
    net = sb.create_model("ddrnet23_slim", rngs=nnx.Rngs(0))
    assert np.std(net.layer5.layers[0].conv3.kernel) == pytest.approx(np.sqrt(2 / 512), rel=0.01)
    assert np.std(net.layer4.layers[0].conv1.kernel) == pytest.approx(
        np.sqrt(2 / 256 / 9), rel=0.01
    )
    bias = np.asarray(net.final_layer.conv2.bias)
    assert 0.06 < np.abs(bias).max() <= 1 / 8


# Evaluation


@pytest.mark.slow
@pytest.mark.parametrize("which", ["A", "B", "C"])
@pytest.mark.parametrize("name", NAMES)
def test_logits(shared: pathlib.Path, name: str, which: str) -> None:
    z = case(shared, name, which)
    logits = evaluator(shared, name)(image_of(z))
    assert set(logits) == set(HEADS[name])
    for head in HEADS[name]:
        assert_within(logits[head], golden.nhwc(z[f"{head}/logits"]), 1e-4, head)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_network_gives_the_main_logits(shared: pathlib.Path, name: str) -> None:
    """Without the other heads, and in float32 under bfloat16's tolerance."""
    z = case(shared, name, "C")
    image, expected = image_of(z), golden.nhwc(z["main/logits"])
    net = blank(name)
    sb.load_torch_state_dict(net, state_dict(shared, name, True))
    net.eval()
    graphdef, state = nnx.split(net)
    run = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    assert_within(run(state, image), expected, 1e-4)
    low = run(state, image.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    difference = np.asarray(low, np.float32) - expected
    assert 1e-4 < np.sqrt(np.mean(difference**2)) / expected.std() < 0.05


# Training


def by_taps(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: list[tuple[int, int]],
    feature_group_count: int,
    **_: object,
) -> jax.Array:
    """A convolution as a sum of matrix products; XLA's own is slow in float64."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    kh, kw, depth, features = kernel.shape
    groups = feature_group_count
    kernel = kernel.reshape(kh, kw, depth, groups, features // groups)
    oh, ow = (
        (side - k) // s + 1 for side, k, s in zip(padded.shape[1:3], (kh, kw), strides, strict=True)
    )
    total = jnp.zeros((x.shape[0], oh, ow, features), x.dtype)
    for i in range(kh):
        for j in range(kw):
            rows = slice(i, i + (oh - 1) * strides[0] + 1, strides[0])
            columns = slice(j, j + (ow - 1) * strides[1] + 1, strides[1])
            pixels = padded[:, rows, columns].reshape(-1, groups, depth)
            product = jnp.einsum("pgd,dgf->pgf", pixels, kernel[i, j])
            total += product.reshape(total.shape)
    return total


@contextlib.contextmanager
def rectified(net: nnx.Module, signs: list | None) -> Iterator[list]:
    """Within it the ReLUs of a network note where their inputs are positive; they go by `signs`, if given."""
    seen, own = [], jax.nn.relu

    def relu(x: jax.Array) -> jax.Array:
        seen.append(x > 0)
        return jnp.where(seen[-1] if signs is None else signs[len(seen) - 1], x, 0)

    for _, part in nnx.iter_graph(net):
        if isinstance(part, nnx.Sequential):
            part.layers = nnx.List([relu if layer is own else layer for layer in part.layers])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.nn, "relu", relu)
        yield seen


@functools.cache
def trained(shared: pathlib.Path, name: str, which: str, dtype: str) -> tuple:
    """Losses by name, gradients of some by parameter and to the input, logits, statistics after, signs.

    Rounding decides on inputs of ReLUs that are next to 0, and a single one moves gradients by 1e-3. In float32
    they go by the signs of float64.
    """
    signs = None if dtype == "float64" else trained(shared, name, which, "float64")[-1]
    z = case(shared, name, which)
    corners = authors_resizing(z)
    net = nnx.clone(network(shared, name, False))
    for _, layer in nnx.iter_graph(net):
        if isinstance(layer, nnx.Conv) and dtype == "float64":
            layer.conv_general_dilated = by_taps
    graphdef, params, stats = nnx.split(net, nnx.Param, nnx.BatchStat)
    # Flax's batch norm promotes float64 and float32.
    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("standard"):
        cast = functools.partial(jax.tree.map, lambda x: jnp.asarray(np.asarray(x), dtype))
        params, stats = cast((params, stats))
        image = jnp.asarray(np.asarray(image_of(z)), dtype)

        wanted = [corners, *(k.split("/")[0] for k in z if k.endswith("/grad_norm_f64"))]

        @jax.jit
        def step(
            params: nnx.State, image: jax.Array, shares: list, maps: dict, signs: list | None
        ) -> tuple:
            def loss(params: nnx.State, image: jax.Array) -> tuple[jax.Array, tuple]:
                run = nnx.merge(graphdef, params, stats, copy=True)
                with rectified(run, signs) as seen:
                    heads = run.heads(image)
                values = objectives(z, maps, heads)
                total = sum(share * values[k] for share, k in zip(shares, wanted, strict=True))
                return total, (values, heads, nnx.state(run, nnx.BatchStat), seen)

            return jax.grad(loss, (0, 1), has_aux=True)(params, image)

        maps = {k: jnp.asarray(z[k]) for k in ("labels", "boundary") if k in z}
        gradients = {}
        for one in wanted:
            shares = [float(k == one) for k in wanted]
            gradients[one], (values, heads, after, seen) = jax.device_get(
                step(params, image, shares, maps, signs)
            )
    names = functools.partial(golden.variables, net)
    by_loss = {k: (names(in_params), x) for k, (in_params, x) in gradients.items()}
    return values, by_loss, heads, names(after), seen


def authors_resizing(z: dict[str, np.ndarray]) -> str:
    """The loss as the authors resize."""
    return f"loss_align_corners_{str(bool(z['align_corners'])).lower()}"


def objectives(
    z: dict[str, np.ndarray], maps: dict[str, jax.Array], heads: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """The losses that are recorded for a case; `maps` are its labels and boundaries."""
    labels = maps["labels"]
    found = {}
    for corners in (True, False):
        mean = task_loss(*cross_entropy_map(heads["main"], labels, align_corners=corners))
        found[f"loss_align_corners_{str(corners).lower()}"] = mean
    if "all_heads/grad_norm_f64" in z:
        found["all_heads"] = ddrnet_loss(heads, labels)
    for full in ("full_cfg", "full_hard"):
        if f"{full}/grad_norm_f64" in z:
            threshold, keep = z[f"{full}/thres_keep"].tolist()
            loss = pidnet_loss(
                heads,
                labels,
                maps["boundary"],
                class_weights=z["full_loss_class_weights"].tolist(),
                threshold=threshold,
                keep=int(keep),
            )
            found[full] = loss.total
            found |= {f"{full}/{part}": x for part, x in loss._asdict().items() if part != "total"}
    return found


_long = pytest.mark.skipif(
    "SEGBLOCKS_LONG" not in os.environ, reason="takes minutes: set SEGBLOCKS_LONG=1"
)
CASES = [
    *((name, "train_small") for name in NAMES),
    *(pytest.param(name, "train", marks=_long) for name in NAMES),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "which"), CASES)
def test_training_in_float64(shared: pathlib.Path, name: str, which: str) -> None:
    z = case(shared, name, which)
    losses, gradients, heads, *_ = trained(shared, name, which, "float64")
    for head in HEADS[name]:
        # Recorded in float32.
        assert_within(heads[head], z[f"{head}/logits"].transpose(0, 2, 3, 1), 1e-4, head)
    check_losses(z, losses, "f64", 1e-8)
    corners = authors_resizing(z)
    assert losses[corners] == pytest.approx(float(z["loss_f64"]), rel=1e-10)
    names = z["param_names"].tolist()
    for loss, (in_params, _) in gradients.items():
        key = "" if loss == corners else f"{loss}/"
        check_norms(names, in_params, z[f"{key}grad_norm_f64"], 1e-6)
    in_params, in_image = gradients[corners]
    norm = np.linalg.norm(in_image)
    assert norm == pytest.approx(float(z["grad_x_norm_f64"]), rel=1e-6)
    every8 = in_image.transpose(0, 3, 1, 2)[:, :, ::8, ::8]
    np.testing.assert_allclose(every8, z["grad_x_every8_f64"], atol=1e-6 * np.abs(every8).max())
    whole = [k.removeprefix("grad_f64/") for k in z if k.startswith("grad_f64/")]
    assert len(whole) > 15
    for key in whole:
        expected = z[f"grad_f64/{key}"]
        error = np.linalg.norm(in_params[key] - expected)
        assert error <= 1e-6 * max(np.linalg.norm(expected), 1e-3), key


@pytest.mark.slow
@pytest.mark.parametrize(("name", "which"), CASES)
def test_training_in_float32(shared: pathlib.Path, name: str, which: str) -> None:
    z = case(shared, name, which)
    losses, gradients, heads, after, _ = trained(shared, name, which, "float32")
    for head in HEADS[name]:
        assert_within(heads[head], golden.nhwc(z[f"{head}/logits"]), 1e-4, head)
    check_losses(z, losses, "f32", 1e-6)
    corners = authors_resizing(z)
    tolerance = 1e-4 if which == "train_small" else 1e-2
    check_norms(z["param_names"].tolist(), gradients[corners][0], z["grad_norm_f64"], tolerance)
    expected = {k.removeprefix("after/"): v for k, v in z.items() if k.startswith("after/")}
    assert set(after) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(
            after[key], value, rtol=1e-5, atol=1e-5 * np.abs(value).max(), err_msg=key
        )


def check_losses(z: dict[str, np.ndarray], got: dict, precision: str, tolerance: float) -> None:
    for name in ("loss_align_corners_true", "loss_align_corners_false"):
        assert got[name] == pytest.approx(float(z[f"{name}_{precision}"]), rel=tolerance)
    if "all_heads" in got:
        main, extra = z[f"all_heads/loss_main_extra_{precision}"]
        assert got["all_heads"] == pytest.approx(main + 0.4 * extra, rel=tolerance)
    for full in ("full_cfg", "full_hard"):
        if full in got:
            parts = [full, *(f"{full}/{part}" for part in ("semantic", "boundary", "at_boundary"))]
            expected = z[f"{full}/loss_total_sem_bd_sb_{precision}"]
            # One pixel at the threshold: rounding decides. The authors' shares of edges are float32.
            share = 5e-6 if (full, precision) == ("full_hard", "f32") else max(tolerance, 1e-7)
            np.testing.assert_allclose([got[part] for part in parts], expected, rtol=share)


def check_norms(
    names: list[str], got: dict[str, np.ndarray], expected: np.ndarray, tolerance: float
) -> None:
    """Of every parameter; those that are 0 in theory are small against the others."""
    assert set(names) == set(got)
    norms = np.array([np.linalg.norm(np.asarray(got[name], np.float64)) for name in names])
    zero = expected < 1e-9
    assert norms[zero].max(initial=0) <= 1e-5 * expected.max()
    error = np.abs(norms[~zero] / expected[~zero] - 1)
    worst = np.array(names)[~zero][error.argmax()]
    assert error.max() <= tolerance, f"{worst}: {error.max():.2e}"


# What can't be


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "shape", [(1, 12, 16, 3), (1, 16, 4, 3), (1, 16, 16, 4), (16, 16, 3), (0, 8, 8, 3)]
)
def test_images_of_other_shapes(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(
        InputError, match=r"the image is .*, expected \(n, h, w, 3\) with h and w multi"
    ):
        shapes(name)(jnp.zeros(shape))


def test_blocks_and_probes() -> None:
    blocks = sb.split(jnp.zeros((1, 64, 64, 3)), np.ones((1, 2, 2), bool))
    with pytest.raises(InputError, match="DDRNet: got a DualRes, expected an image"):
        shapes("ddrnet23_slim")(blocks)
    with pytest.raises(InputError, match="PIDNet: got a Probe, expected an image"):
        nn.block_multiple(shapes("pidnet_s"))


def test_training_takes_two_images() -> None:
    norm = plain.BatchNorm(3, rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match=r"one value a channel \(1, 1, 1, 3\) has no variance"):
        norm(jnp.zeros((1, 1, 1, 3)))
    norm.eval()
    assert norm(jnp.zeros((1, 1, 1, 3))).shape == (1, 1, 1, 3)


def test_batch_norm_is_torchs(rng: np.random.Generator) -> None:
    x = (5 + rng.standard_normal((2, 2, 1, 3))).astype(np.float32)
    norm = plain.BatchNorm(3, rngs=nnx.Rngs(0))
    norm.var[...] = jnp.asarray([1.0, 2.0, 3.0])
    got = norm(jnp.asarray(x))
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(got, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.mean, 0.1 * mean, rtol=1e-5)
    expected = 0.9 * np.array([1, 2, 3]) + 0.1 * x.reshape(-1, 3).var(0, ddof=1)
    np.testing.assert_allclose(norm.var, expected, rtol=1e-5)


def test_average_pools_count_the_padding(rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 5, 4, 2)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    expected = [
        [padded[:, i : i + 5, j : j + 5].sum((1, 2)) / 25 for j in (0, 2)] for i in (0, 2, 4)
    ]
    got = pyramid._average(5, 2, jnp.asarray(x))
    np.testing.assert_allclose(got, np.moveaxis(np.array(expected), 2, 0), rtol=1e-5, atol=1e-6)


# In the library


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_static_training_step_is_that_of_one_device(name: str) -> None:
    """Four devices of an image each, with joint statistics, move the weights as one device of four."""
    settings = tiny.config("static", model={"name": name, "width": 64, "features": None})
    after = []
    for devices in (1, 4):
        step, state = tiny.trainer(settings, Mesh(np.array(jax.devices()[:devices]), (AXIS,)))
        state, metrics = step(state, tiny.batch())
        after.append((float(metrics["loss"]), jax.device_get(state.stats)))
    (loss, stats), (loss_of_4, stats_of_4) = after
    assert loss == pytest.approx(loss_of_4, rel=1e-4)
    assert loss < 10
    for one, four in zip(jax.tree.leaves(stats), jax.tree.leaves(stats_of_4), strict=True):
        # Some means are 0 but for rounding.
        np.testing.assert_allclose(one, four, rtol=1e-3, atol=1e-5 + 1e-3 * np.abs(one).max())


@pytest.mark.slow
def test_the_engine_serves_it(rng: np.random.Generator) -> None:
    spec = sb.ModelSpec("ddrnet23_slim", 5, mean=(0.5,) * 3, std=(0.25,) * 3)
    system = spec.build(nnx.Rngs(0))
    pixels = rng.integers(0, 256, (1, 64, 96, 3)).astype(np.uint8)
    result = sb.Engine(system, spec)(pixels)
    system.eval()
    image = jnp.asarray((pixels / 255 - 0.5) / 0.25, jnp.float32)
    logits = resize_logits(system.net(image), (64, 96))
    assert np.mean(np.asarray(result.labels) == np.asarray(jnp.argmax(logits, -1))) > 0.999


def with_all_heads(name: str, policy: str) -> ExperimentConfig:
    model = {"name": name, "width": 64, "features": None, "auxiliary": True}
    return tiny.config(policy, model=model, policy={"block_size": 128})


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["static", "all_high"])
@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_a_configuration_is_of_all_heads(name: str, policy: str) -> None:
    settings, normalization = with_all_heads(name, policy), NORMALIZATION["street_scenes"]
    weights = tuple(np.linspace(0.5, 1.5, tiny.CLASSES).tolist())
    system = create_system(settings, tiny.CLASSES)
    system.train()
    batch = jax.tree.map(jnp.asarray, tiny.batch(2))
    image, label = normalize(batch["image"], *normalization), batch["label"]
    objective = Loss(settings, normalization, weights)

    @jax.jit
    def values() -> tuple[jax.Array, jax.Array]:
        net = nnx.clone(getattr(system.net, "net", system.net))
        heads = net.heads(image)
        decision = system.policy(image, keys) if "policy" in system else None
        total = objective.weight(label).sum()
        num_high = None if decision is None else 2
        got, _ = objective(nnx.clone(system), batch, decision, keys, total, num_high)
        if name == "pidnet_s":
            return got, pidnet_loss(heads, label, boundary_map(label), class_weights=weights).total
        weight = objective.weight(label)
        sums = {k: (weight * cross_entropy_map(x, label)[0]).sum() for k, x in heads.items()}
        means = {k: x / total for k, x in sums.items()}
        return got, means["main"] + 0.4 * means["extra"]

    keys = jax.random.split(jax.random.key(0), 2)
    got, expected = values()
    assert got == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
def test_what_is_served_has_the_main_head_alone(tmp_path: pathlib.Path) -> None:
    settings = with_all_heads("ddrnet23_slim", "static")
    system = tiny.system(settings)
    modules = system.build()
    assert "net.seghead_extra.bn1.weight" in torch_arrays(modules)
    system.calibrate(modules)
    system.export(modules, tmp_path / "model")
    loaded = sb.load_model(tmp_path / "model")
    np.testing.assert_array_equal(loaded.final_layer.bn1.scale, modules.net.final_layer.bn1.scale)
    assert loaded.seghead_extra is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model": {"auxiliary": True}}, "auxiliary is set for swiftnet_rn18; expected a network"),
        (
            {"model": {"name": "pidnet_s", "auxiliary": True}, "optim": {"loss": "bootstrapped"}},
            "loss is 'bootstrapped' beside model.auxiliary",
        ),
    ],
)
def test_heads_that_a_configuration_can_not_train(changes: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ExperimentConfig.from_mapping(changes)
