"""RANet: the authors' logits, losses, gradients and counts, its stages, and the configurations it refuses."""

import functools
import json
import os
import pathlib
from collections.abc import Callable

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.errors import InputError
from segblocks_jax.nn import average_pool, resize_aligned
from segblocks_jax.systems.ranet.loss import exit_losses
from segblocks_jax.systems.ranet.network import RANet
from segblocks_jax.systems.ranet.operations import cumulative_macs, cumulative_parameters
from segblocks_jax.systems.ranet.options import RANetOptions

FOLDER = "dynconv_ranet"
SMALL = {
    "scales": (1, 2, 2),
    "growth_factors": (2, 1, 1),
    "bottleneck_factors": (2, 1, 1),
    "channels": 4,
    "growth": 4,
    "step": 2,
    "blocks": 1,
    "block_step": 1,
}
TINY_IMAGENET = {"channels": 4, "growth": 4, "step": 2}
# Of the file's cases: the network, its classes and its options.
CASES = {
    "cifar_even": ("ranet_cifar_even", 10, {}),
    "cifar_lg": ("ranet_cifar_lg", 10, {}),
    "tiny_imagenet": ("ranet_imagenet_main", 1000, TINY_IMAGENET),
}
COUNTED = {
    "cifar_even_32": CASES["cifar_even"],
    "cifar_lg_32": CASES["cifar_lg"],
    "tiny_imagenet_160": CASES["tiny_imagenet"],
    "cifar_even_100cls_32": ("ranet_cifar_even", 100, {}),
    "cifar_lg_100cls_32": ("ranet_cifar_lg", 100, {}),
    "imagenet_train_sh_224": ("ranet_imagenet_train_sh", 1000, {}),
    "imagenet_readme_224": ("ranet_imagenet_readme", 1000, {}),
    "imagenet_main_224": ("ranet_imagenet_main", 1000, {}),
}


def shapes(name: str, classes: int, options: dict) -> RANet:
    """A network without values."""
    return nnx.eval_shape(lambda: sb.create_model(name, classes, **options))


@functools.cache
def small() -> RANet:
    """A network of three exits."""
    net = golden.network(lambda: sb.create_model("ranet_cifar_lg", 5, **SMALL, step_mode="even"))
    net.eval()
    return net


def images(count: int, side: int = 16, seed: int = 0) -> jax.Array:
    return jnp.asarray(golden.random_input(seed, (count, side, side, 3)))


def apply(net: RANet) -> Callable[[jax.Array], list[jax.Array]]:
    graphdef, state = nnx.split(net)
    run = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    return lambda x: run(state, x)


# The authors' numbers


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_logits(shared: pathlib.Path, name: str) -> None:
    z = golden.load(shared, f"{FOLDER}/ranet_nets")
    model, classes, options = CASES[name]
    net = golden.network(lambda: sb.create_model(model, classes, **options))
    net.eval()
    run = apply(net)
    for case in ("A", "B"):
        x = golden.random_input(z[f"{name}/{case}/seed"], z[f"{name}/{case}/shape"])
        np.testing.assert_array_equal(x.ravel()[:8], z[f"{name}/{case}/input_head"])
        expected = z[f"{name}/{case}/logits"]
        found = run(golden.nhwc(x))
        assert len(found) == len(expected)
        for k, logits in enumerate(found):
            golden.assert_within(logits, expected[k], 1e-4, f"{case}, exit {k}")


@pytest.mark.parametrize("name", CASES)
def test_names_and_shapes_are_the_authors(shared: pathlib.Path, name: str) -> None:
    file = shared / "golden" / FOLDER / f"state_dict_ranet_{name}.json"
    entries = json.loads(file.read_text())
    expected = {k: tuple(v["shape"]) for k, v in entries.items() if "num_batches" not in k}
    net = shapes(*CASES[name])
    flat = nnx.to_flat_state(nnx.state(net))
    names = golden.relative_names(net)
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    found = {names[path]: tuple(v.shape[i] for i in order[v.ndim]) for path, v in flat}
    assert found == expected


@pytest.mark.family("cifar_lg_32")
@pytest.mark.parametrize("case", COUNTED)
def test_operations_and_parameters_up_to_each_exit(shared: pathlib.Path, case: str) -> None:
    known = json.loads((shared / "golden" / FOLDER / "macs.json").read_text())[f"ranet/{case}"]
    side = int(case.rpartition("_")[2])
    net = shapes(*COUNTED[case])
    assert cumulative_macs(net, (side, side)).tolist() == known["cumulative_macs"]
    assert cumulative_parameters(net, (side, side)).tolist() == known["cumulative_params"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_losses_gradients_and_statistics_in_float64(shared: pathlib.Path, name: str) -> None:
    if name != "cifar_lg" and "SEGBLOCKS_LONG" not in os.environ:
        pytest.skip("takes minutes: set SEGBLOCKS_LONG=1")
    prefix = f"{name}/train/"
    recorded = golden.load(shared, f"{FOLDER}/ranet_nets")
    z = {k.removeprefix(prefix): v for k, v in recorded.items() if k.startswith(prefix)}
    x, labels = golden.random_input(z["seed"], z["shape"]), z["labels"]
    model, classes, options = CASES[name]
    net = golden.network(lambda: sb.create_model(model, classes, **options))
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    def objective(params: nnx.State, rest: nnx.State, x: jax.Array) -> tuple:
        run = nnx.merge(graphdef, params, rest, copy=True)
        logits = run(x)
        losses = exit_losses(logits, jnp.asarray(labels))
        return losses.sum(), (losses, logits, nnx.state(run, nnx.BatchStat))

    with jax.enable_x64(True):
        wide = [
            jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), tree)
            for tree in (params, rest, golden.nhwc(x))
        ]
        step = jax.jit(jax.value_and_grad(objective, has_aux=True))
        (loss, (losses, logits, stats)), gradients = step(*wide)
        assert loss.dtype == np.float64
        got, after = golden.variables(net, gradients), golden.variables(net, stats)
    np.testing.assert_allclose(losses, z["ce_per_exit_f64"], rtol=1e-5)
    np.testing.assert_allclose(loss, z["loss_f64"], rtol=1e-5)
    for k, expected in enumerate(z["logits"]):
        golden.assert_within(logits[k], expected, 1e-4, f"exit {k}")
    check_gradients(z, got)
    found = [np.linalg.norm(after[key]) for key in z["after_names"] if "num_batches" not in key]
    assert len(found) == len(after)
    expected = z["after_norm"][["num_batches" not in key for key in z["after_names"]]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def check_gradients(z: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> None:
    """Norms of all; some as a whole, which are recorded in float32."""
    names = z["param_names"].tolist()
    assert set(names) == set(got)
    norms, expected = np.array([np.linalg.norm(got[name]) for name in names]), z["grad_norm_f64"]
    zero = expected < 1e-9  # A bias before a norm has none.
    assert norms[zero].max(initial=0) < 1e-9
    error = np.abs(norms - expected)[~zero] / expected[~zero]
    assert error.max() <= 1e-4
    none = {name for name, is_zero in zip(names, zero, strict=True) if is_zero}
    whole = {k.removeprefix("grad/"): v for k, v in z.items() if k.startswith("grad/")}
    assert whole.keys() - none
    for name in whole.keys() - none:  # What is recorded of the others is rounding.
        expected = whole[name]
        assert np.linalg.norm(got[name] - expected) <= 1e-3 * np.linalg.norm(expected), name


# Stages


def test_stages_carry_no_more_than_what_is_used() -> None:
    net = small()
    assert [(s.flow, s.first, s.stop) for s in net.stages] == [(0, 0, 1), (1, 0, 2), (2, 0, 3)]
    graphdef, state = nnx.split(net)

    def run(state: nnx.State, x: jax.Array) -> list:
        net = nnx.merge(graphdef, state)
        progress, carried = net.start(x), []
        for number in range(3):
            _, progress = net.stage(number, progress)
            carried.append(jax.tree.leaves(progress))
        return carried

    carried = jax.eval_shape(run, state, images(2))
    # After the first exit: two bases, and the first block for the second sub-network to fuse.
    assert [x.shape[1:] for x in carried[0]] == [(16, 16, 4), (16, 16, 4), (8, 8, 24)]
    assert carried[2] == []


def test_images_go_on_alone_as_they_would_together() -> None:
    graphdef, state = nnx.split(small())
    some = jnp.asarray([3, 1])

    @jax.jit
    def run(state: nnx.State, x: jax.Array) -> tuple:
        net = nnx.merge(graphdef, state)
        _, progress = net.stage(0, net.start(x))
        progress = jax.tree.map(lambda a: a[some], progress)
        second, progress = net.stage(1, progress)
        third, _ = net.stage(2, progress)
        return net(x), [second, third]

    together, alone = run(state, images(5))
    for number, logits in enumerate(alone, 1):
        golden.assert_within(logits, together[number][some], 1e-5, f"exit {number}")


def test_a_saved_model_is_the_same(tmp_path: pathlib.Path) -> None:
    state = golden.variables(small())
    other = sb.create_model("ranet_cifar_lg", 5, **SMALL, step_mode="even")
    sb.load_torch_state_dict(other, state)
    other.eval()
    for a, b in zip(apply(small())(images(2)), apply(other)(images(2)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_initial_weights() -> None:
    net = sb.create_model("ranet_cifar_lg", 10, **SMALL)
    kernel = np.asarray(net.exits[0].convs[0].conv.kernel[...])  # 3 x 3 from 24 to 128 channels.
    assert abs(kernel.std() / np.sqrt(2 / (9 * 128)) - 1) < 0.02
    block = np.asarray(net.flows[0][0].layers[1].own.conv2.kernel[...])
    assert abs(block.std() / np.sqrt(2 / (9 * block.shape[3])) - 1) < 0.1
    base = np.asarray(net.base[2].conv.kernel[...])  # PyTorch's default: uniform.
    bound = 1 / np.sqrt(np.prod(base.shape[:3]))
    assert 0.9 * bound < np.abs(base).max() <= bound
    assert not np.asarray(net.exits[0].linear.bias[...]).any()


# Layers


@pytest.mark.parametrize("size", [(14, 14), (4, 5), (7, 3), (1, 1)])
def test_resize_aligned_against_its_definition(size: tuple[int, int]) -> None:
    image = golden.random_input(1, (2, 7, 5, 3))
    found = np.asarray(resize_aligned(jnp.asarray(image), size))
    assert found.shape == (2, *size, 3)
    for i in range(size[0]):
        for j in range(size[1]):
            y = i * 6 / max(size[0] - 1, 1)
            x = j * 4 / max(size[1] - 1, 1)
            expected = sum(
                max(0, 1 - abs(y - p)) * max(0, 1 - abs(x - q)) * image[:, p, q]
                for p in range(7)
                for q in range(5)
            )
            np.testing.assert_allclose(found[:, i, j], expected, atol=1e-5)


def test_average_pool_leaves_out_what_fills_no_window() -> None:
    image = golden.random_input(1, (2, 5, 4, 3))
    found = average_pool(jnp.asarray(image), 2)
    assert found.shape == (2, 2, 2, 3)
    np.testing.assert_allclose(found[:, 1, 1], image[:, 2:4, 2:4].mean((1, 2)), rtol=1e-6)


# What it refuses


@pytest.mark.parametrize(
    "scales", [(1, 1, 2), (2, 3), (2, 1), (1, 3), (1, 2, 4), (1, 2, 1), (3, 2, 1)]
)
def test_the_first_sub_network_is_the_smallest(scales: tuple[int, ...]) -> None:
    factors = (1,) * len(scales)
    with pytest.raises(InputError, match=r"expected the first sub-network to be the smallest"):
        RANetOptions(scales=scales, growth_factors=factors, bottleneck_factors=factors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 1}, "step is 1; expected at least 2"),
        ({"growth": 3}, "leaves none to the sub-network below"),
        ({"growth_factors": (4, 2)}, "expected one for each of the 4 scales"),
        ({"step_mode": "odd"}, "step_mode is 'odd'"),
        ({"reduction": 1.0}, "reduction is 1.0; expected a share"),
        ({"scales": ()}, "scales is empty"),
    ],
)
def test_sizes_that_make_no_network(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sb.create_model("ranet_cifar_even", 10, **options)


@pytest.mark.parametrize("side", [16, 49])
def test_images_of_other_sizes(side: int) -> None:
    net = shapes("ranet_cifar_even", 10, {})
    with pytest.raises(InputError, match=rf"images are {side} x 32 pixels; expected sides from 17"):
        net(jnp.zeros((1, side, 32, 3)))


def test_blocks_are_refused(unchecked: None) -> None:
    blocks = sb.split(jnp.zeros((1, 32, 32, 3)), np.ones((1, 2, 2), bool))
    with pytest.raises(InputError, match="runs on whole images only"):
        small()(blocks)
