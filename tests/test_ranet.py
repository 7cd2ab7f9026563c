"""RANet: the authors' logits, losses, gradients and counts, its stages, and the configurations it refuses."""

import functools
import json
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
    entries = golden.state_dict_entries(shared / "golden" / FOLDER / "..", name) if False else None
    file = shared / "golden" / FOLDER / f"state_dict_ranet_{name}.json"
    entries = json.loads(file.read_text())
    expected = {k: tuple(v["shape"]) for k, v in entries.items() if "num_batches" not in k}
    net = shapes(*CASES[name])
    flat = nnx.to_flat_state(nnx.state(net))
    names = golden.relative_names(net)
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
    found = {names[path]: tuple(v.shape[i] for i in order[v.ndim]) for path, v in flat}
    assert found == expected


@pytest.mark.family("imagenet_train_sh_224", "cifar_lg_32")
@pytest.mark.parametrize("case", COUNTED)
def test_operations_and_parameters_up_to_each_exit(shared: pathlib.Path, case: str) -> None:
    known = json.loads((shared / "golden" / FOLDER / "macs.json").read_text())[f"ranet/{case}"]
    side = int(case.rpartition("_")[2])
    net = shapes(*COUNTED[case])
    assert cumulative_macs(net, (side, side)).tolist() == known["cumulative_macs"]
    assert cumulative_parameters(net, (side, side)).tolist() == known["cumulative_params"]
