"""DynConv against the recorded numbers of the authors' program: operations, blocks, networks, training steps."""

import functools
import json
import pathlib
import re
from collections.abc import Callable, Mapping

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.models import TorchNames
from segblocks_jax.systems import dynconv
from segblocks_jax.systems.dynconv.blocks import Bottleneck, InvertedResidual, MaskedBlock
from segblocks_jax.systems.dynconv.hourglass import StackedHourglass
from segblocks_jax.systems.dynconv.resnet import MaskedResNet
from segblocks_jax.systems.dynconv.run import costs

FOLDER = "dynconv_ranet"
EVALUATED = (
    *(f"resnet8/{case}" for case in ("A", "B", "extreme", "nobias")),
    *(f"resnet32/{case}" for case in "AB"),
    "resnet50/A",
    *(f"hourglass_x050/{case}" for case in "AB"),
)
TRAINED = ("resnet8/train0", "resnet8/train1", "resnet8/train2", "resnet32/train0")
BOTTLENECKS = {
    "bottleneck_s1": (64, 16, 1),
    "bottleneck_s1_down": (32, 16, 1),
    "bottleneck_s2_down": (32, 16, 2),
}
"""Channels before and inside, and stride."""
PLAIN = {"plain_identity": (16, 16, 1), "plain_widen": (16, 32, 1), "plain_s2": (16, 16, 2)}
"""Channels before and after, and stride, of inverted residuals without a mask."""


@functools.cache
def arrays(shared: pathlib.Path, file: str) -> dict[str, np.ndarray]:
    return golden.load(shared, f"{FOLDER}/{file}")


def below(shared: pathlib.Path, file: str, prefix: str) -> dict[str, np.ndarray]:
    """The arrays of a case."""
    every = arrays(shared, file)
    return {
        name.removeprefix(f"{prefix}/"): value
        for name, value in every.items()
        if name.startswith(f"{prefix}/")
    }


def numbered(z: Mapping[str, np.ndarray], pattern: str) -> list[np.ndarray]:
    """Arrays that differ by a number, in its order; `{}` stands for it."""
    found = {}
    for name, value in z.items():
        if match := re.fullmatch(pattern.format(r"(\d+)"), name):
            found[int(match[1])] = value
    return [found[i] for i in range(len(found))]


# Operations


@pytest.mark.parametrize("case", ["rand", "edge"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("noise", [True, False])
def test_gumbel_sigmoid(shared: pathlib.Path, case: str, temperature: float, noise: bool) -> None:
    z = below(shared, "dynconv_ops", f"gumbel/{case}")
    u = (z["u1"], z["u2"]) if noise else (None, None)

    @jax.jit
    def run(logits: jax.Array) -> tuple:
        hard = dynconv.gumbel_sigmoid(logits, *u, temperature)
        return jnp.sum(hard * z["ct"]), hard

    (_, hard), gradient = jax.value_and_grad(run, has_aux=True)(jnp.asarray(z["logits"]))
    name = f"tau{temperature}_{'noise' if noise else 'nonoise'}"
    np.testing.assert_array_equal(hard, z[f"{name}/hard"])
    expected = z[f"{name}/grad_logits"]
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("stride", [1, 2])
def test_mask_unit(shared: pathlib.Path, stride: int) -> None:
    z = below(shared, "dynconv_ops", f"squeeze/s{stride}")
    x = golden.nhwc(z["x"])
    unit = dynconv.MaskUnit(x.shape[-1], stride, "squeeze", rngs=nnx.Rngs(0))
    sb.load_torch_state_dict(unit, {k[6:]: v for k, v in z.items() if k.startswith("param/")})
    graphdef, params = nnx.split(unit)

    @jax.jit
    def run(params: nnx.State, x: jax.Array) -> tuple:
        logits = nnx.merge(graphdef, params)(x)
        return jnp.sum(logits * z["ct"][:, 0]), logits

    (_, logits), gradients = jax.value_and_grad(run, (0, 1), has_aux=True)(params, x)
    golden.assert_within(logits, z["logits"][:, 0], 1e-5)
    close(gradients[1], golden.nhwc(z["grad_x"]), 1e-5)
    got = golden.variables(unit, gradients[0])
    assert set(got) == {k[5:] for k in z if k.startswith("grad/")}
    for name, value in got.items():
        close(value, z[f"grad/{name}"], 1e-5, name)


def close(got: jax.Array, expected: np.ndarray, share: float, name: str = "") -> None:
    """Within a share of the largest expected value."""
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=share * np.abs(expected).max(), err_msg=name
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_dilation(shared: pathlib.Path, stride: int) -> None:
    z = below(shared, "dynconv_ops", f"dilate/s{stride}")
    cases = {name.partition("/")[0] for name in z}
    assert len(cases) >= 5
    for case in cases:
        got = dynconv.dilate(jnp.asarray(z[f"{case}/mask"][:, 0]), stride)
        np.testing.assert_array_equal(got, z[f"{case}/dilated"][:, 0], err_msg=case)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_budget_loss(shared: pathlib.Path, kind: str) -> None:
    z = below(shared, "dynconv_ops", f"sparsity/{kind}")
    logits, u1, u2 = (
        [x[:, 0] for x in numbered(z, f"block{{}}/{name}")] for name in ("logits", "u1", "u2")
    )
    given = z["flops_std"].tolist(), z["flops_dilate"].tolist(), z["dilate_stride"].tolist()
    rows = zip(z["settings"], z["columns_loss_network_block_upper_lower_perc"], strict=True)
    for j, ((epoch, epochs, target, temperature), row) in enumerate(rows):

        def loss(
            logits: list[jax.Array], temperature=temperature, target=target, progress=epoch / epochs
        ):
            masks = [
                dynconv.gumbel_sigmoid(x, a, b, temperature)
                for x, a, b in zip(logits, u1, u2, strict=True)
            ]
            return dynconv.budget_loss(masks, *given, target, progress), masks

        (value, masks), gradient = jax.value_and_grad(loss, has_aux=True)(
            [jnp.asarray(x) for x in logits]
        )
        for mask, x in zip(masks, numbered(z, "block{}/hard"), strict=True):
            np.testing.assert_array_equal(mask > 0, x[:, 0])
        terms = dynconv.budget_terms(masks, *given, target, epoch / epochs)
        got = [value, terms.network, terms.block, *terms.bounds[::-1], terms.share]
        np.testing.assert_allclose(got, row, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(terms.shares, z[f"set{j}/block_perc"], rtol=1e-6)
        for a, b in zip(gradient, numbered(z, f"set{j}/block{{}}/grad_logits"), strict=True):
            np.testing.assert_allclose(a, b[:, 0], rtol=1e-5, atol=1e-5 * np.abs(b).max() + 1e-12)


# Networks in evaluation


@functools.cache
def build(name: str) -> nnx.Module:
    """A network with the reference's weights."""
    kind, _, width = name.partition("_x")
    options = {"width": int(width) / 100} if width else {}
    return golden.network(lambda: sb.create_model(f"dynconv_{kind}", **options))


def with_biases(net: nnx.Module, z: Mapping[str, np.ndarray]) -> nnx.Module:
    """The network with the recorded biases of its mask units."""
    net = nnx.clone(net)
    kind = "maskconv" if isinstance(net, StackedHourglass) else "maskconv.conv"
    names = [f"{name}.{kind}.bias" for name in z["mask_names"].tolist()]
    biases = dict(zip(names, z["mask_bias"], strict=True))
    state = {name: np.float32([value]) for name, value in biases.items()}
    assert set(state) <= set(golden.variables(net))
    sb.load_torch_state_dict(net, state, strict=False)
    return net


@pytest.mark.family("resnet8/A-sparse", "resnet8/extreme-dense")
@pytest.mark.parametrize("execution", ["dense", "sparse"])
@pytest.mark.parametrize("case", EVALUATED)
def test_evaluation(shared: pathlib.Path, case: str, execution: str) -> None:
    z = below(shared, "dynconv_nets", case)
    net = with_biases(build(case.partition("/")[0]), z)
    images = golden.nhwc(golden.random_input(z["seed"], z["shape"]))
    out, masks = dynconv.run(net, images, execution=execution)
    check_masks(z, net, images.shape, masks)
    if "logits" in z:
        golden.assert_within(out, z["logits"], 1e-4)
        return
    assert len(out) == len(z["heatmaps"]) == 4
    for i, (got, expected) in enumerate(zip(out, z["heatmaps"], strict=True)):
        golden.assert_within(got, golden.nhwc(expected), 1e-4, f"stack {i}")


def check_masks(
    z: Mapping[str, np.ndarray], net: nnx.Module, shape: tuple[int, ...], masks: list[jax.Array]
) -> None:
    """Masks, dilated masks, counts and operations, all exact."""
    cost, shapes = costs(net, shape)
    assert list(cost.macs) == z["flops_std"].tolist()
    assert list(cost.dilated_macs) == z["flops_dilate"].tolist()
    expected = numbered(z, "mask{}")
    assert len(masks) == len(expected) == len(shapes)
    executed = cost.by_block(masks)
    assert executed == z["cond_macs"].tolist()
    for i, (mask, wanted) in enumerate(zip(masks, expected, strict=True)):
        np.testing.assert_array_equal(mask, wanted[:, 0], err_msg=f"mask {i}")
        dilated = np.asarray(dynconv.dilate(mask, cost.dilate_strides[i]))
        np.testing.assert_array_equal(dilated, z[f"mask{i}_dilated"][:, 0], err_msg=f"mask {i}")
        assert (dilated.sum(), dilated.size) == (z["n_dilate"][i], z["total_dilate"][i])
        assert (np.count_nonzero(mask), mask.size) == (z["n_std"][i], z["total_std"][i])
    total = cost.total(shapes)
    assert total == z["cond_macs_total"].sum()
    if "macs_sum" in z:
        assert conv_macs(net, shape) - total + sum(executed) == z["macs_sum"]


def conv_macs(net: nnx.Module, shape: tuple[int, ...]) -> float:
    """Operations without those of linear layers, as the authors count."""
    parts = sb.count_macs(net, shape).by_part
    return sum(macs for name, macs in parts.items() if name.rpartition("/")[2] != "fc")


FULL = {
    f"resnet{6 * n + 2}_32x32": ("dynconv_resnet" + str(6 * n + 2), {}) for n in range(1, 6)
} | {
    "resnet50_224x224": ("dynconv_resnet50", {}),
    "resnet101_224x224": ("dynconv_resnet101", {}),
    "hourglass_x050_256x256": ("dynconv_hourglass", {"width": 0.5}),
    "hourglass_x100_256x256": ("dynconv_hourglass", {"width": 1.0}),
}


@pytest.mark.family("resnet8_32x32", "resnet50_224x224")
@pytest.mark.parametrize("case", FULL)
def test_parameters_and_operations(shared: pathlib.Path, case: str) -> None:
    recorded = json.loads((shared / "golden" / FOLDER / "macs.json").read_text())
    expected = recorded[f"dynconv/full/{case}"]
    name, options = FULL[case]
    side = int(case.rpartition("x")[2])
    shape = (1, side, side, 3)
    counts = {}
    for key, masked in (("dense", False), ("all_on", True)):
        net = nnx.eval_shape(lambda m=masked: sb.create_model(name, masked=m, **options))
        parameters = sum(x.size for x in jax.tree.leaves(nnx.state(net, nnx.Param)))
        counts[key] = parameters, conv_macs(net, shape)
    cost, shapes = costs(net, shape)
    (dense, macs), (masked, all_macs) = counts["dense"], counts["all_on"]
    assert expected["dense"]["params"] == dense
    assert expected["all_on"]["params"] == masked
    assert expected["all_on"]["conditional_macs"] == cost.total(shapes)
    assert expected["all_on"]["masks"] == len(shapes)
    assert expected["dense"]["conv_macs"] == macs
    assert expected["all_on"]["conv_macs"] == all_macs
    if case == "hourglass_x100_256x256":
        assert (masked, cost.total(shapes)) == (6_885_433, 6_157_430_784)


# Blocks


class Alone(nnx.Module):
    """A block with the names that it has in no network."""

    torch_names = TorchNames("", (*StackedHourglass.torch_names.renames, (r"^block\.", "")))

    def __init__(self, block: MaskedBlock) -> None:
        self.block = block

    def __call__(self, x: jax.Array, run: dynconv.Pass) -> jax.Array:
        return self.block(x, run)


class AloneBottleneck(Alone):
    torch_names = TorchNames("", (*MaskedResNet.torch_names.renames, (r"^block\.", "")))


def block_of(case: str, z: Mapping[str, np.ndarray]) -> Alone:
    """A block with the reference's weights."""

    def build() -> Alone:
        if case in BOTTLENECKS:
            sizes = BOTTLENECKS[case]
            return AloneBottleneck(Bottleneck(*sizes, mask="squeeze", rngs=nnx.Rngs(0)))
        kind = None if case in PLAIN else "pointwise"
        sizes = PLAIN.get(case, (16, 16, 1))
        return Alone(InvertedResidual(*sizes, mask=kind, rngs=nnx.Rngs(0)))

    net = golden.network(build)
    if "mask_bias" in z:
        kind = "maskconv.conv" if case in BOTTLENECKS else "maskconv"
        state = {f"masker.{kind}.bias": z["mask_bias"]}
        sb.load_torch_state_dict(net, state, strict=False)
    return net


MASKED_BLOCKS = [
    *((case, "eval") for case in BOTTLENECKS),
    *(("invres", case) for case in ("eval", "eval_none", "eval_all")),
]


@pytest.mark.parametrize("execution", ["dense", "sparse"])
@pytest.mark.parametrize(("case", "kind"), MASKED_BLOCKS)
def test_block(shared: pathlib.Path, case: str, kind: str, execution: str) -> None:
    whole = below(shared, "dynconv_nets", case)
    z = below(shared, "dynconv_nets", f"{case}/{kind}")
    net = block_of(case, z)
    net.eval()
    graphdef, state = nnx.split(net)
    x = golden.nhwc(golden.random_input(whole["seed"], whole["shape"]))

    @jax.jit
    def evaluate(state: nnx.State, x: jax.Array) -> tuple:
        run = dynconv.Pass(sparse=execution == "sparse", by_index=True)
        return nnx.merge(graphdef, state)(x, run), run.masks

    out, masks = evaluate(state, x)
    check_masks(z, net, x.shape, masks)
    golden.assert_within(out, golden.nhwc(z["out"]), 1e-5)
    if kind == "eval_none":
        np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("case", PLAIN)
def test_unmasked_inverted_residual(shared: pathlib.Path, case: str) -> None:
    whole = below(shared, "dynconv_nets", "invres")
    net = block_of(case, {})
    net.eval()
    run = dynconv.Pass(by_index=True)
    x = golden.nhwc(golden.random_input(whole["seed"], whole["shape"]))
    out = net(x, run)
    golden.assert_within(out, golden.nhwc(whole[f"{case}/out"]), 1e-5)
    assert not run.masks


@pytest.mark.parametrize("case", [*BOTTLENECKS, "invres"])
def test_block_in_training(shared: pathlib.Path, case: str) -> None:
    """Output, whole gradients, running statistics."""
    whole = below(shared, "dynconv_nets", case)
    z = below(shared, "dynconv_nets", f"{case}/train")
    net = block_of(case, z)
    net.train()
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    x = golden.nhwc(golden.random_input(whole["seed"], whole["shape"]))
    ct = golden.nhwc(golden.random_input(z["ct_seed"], z["out"].shape))

    @jax.jit
    def run(params: nnx.State, x: jax.Array, rest: nnx.State) -> tuple:
        forward = dynconv.Pass(noise=noise_of(z))
        block = nnx.merge(graphdef, params, rest, copy=True)
        out = block(x, forward)
        return jnp.sum(out * ct), (out, forward.masks, nnx.state(block, nnx.BatchStat))

    gradient = jax.value_and_grad(run, (0, 1), has_aux=True)
    (_, (out, masks, stats)), (to_params, to_x) = gradient(params, x, rest)
    check_masks(z, net, x.shape, masks)
    golden.assert_within(out, golden.nhwc(z["out"]), 1e-5)
    close(to_x, golden.nhwc(z["grad_x"]), 1e-5)
    check_arrays(z, "grad/", golden.variables(net, to_params), 1e-5)
    check_arrays(z, "after/", golden.variables(net, stats), 1e-5)


def noise_of(z: Mapping[str, np.ndarray], dtype: str = "float32") -> Callable | None:
    """The recorded noise, as a `Pass` takes it."""
    if "u1_0" not in z:
        return None
    u1, u2 = numbered(z, "u1_{}"), numbered(z, "u2_{}")

    def noise(number: int, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        given = tuple(jnp.asarray(u[number][:, 0], dtype) for u in (u1, u2))
        assert given[0].shape == given[1].shape == shape
        return given

    return noise


def check_arrays(
    z: Mapping[str, np.ndarray], prefix: str, got: Mapping[str, np.ndarray], share: float
) -> None:
    """All arrays recorded under a prefix, each within a share of its largest entry."""
    expected = {name.removeprefix(prefix): x for name, x in z.items() if name.startswith(prefix)}
    expected = {name: x for name, x in expected.items() if "num_batches" not in name}
    assert expected
    for name, value in expected.items():
        close(got[name], value, share, name)


# Networks in training


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", [*TRAINED, "hourglass_x050/train"])
def test_training(shared: pathlib.Path, case: str, dtype: str) -> None:
    """Masks, losses, running statistics, and the norms of all gradients; these in float64 alone."""
    z = below(shared, "dynconv_nets", case)
    pose = case.startswith("hourglass")
    net = with_biases(build(case.partition("/")[0]), z)
    net.train()
    with jax.enable_x64(dtype == "float64"):
        graphdef, *states = nnx.split(net, nnx.Param, ...)
        params, rest = jax.tree.map(
            lambda x: x.astype(dtype) if x.dtype == "float32" else x, tuple(states)
        )
        images = golden.nhwc(golden.random_input(z["seed"], z["shape"])).astype(dtype)
        cost, _ = costs(net, images.shape)
        if pose:
            epoch, epochs, target, weight, temperature, noisy = z[
                "epoch_epochs_target_weight_tau_noise"
            ].tolist()
        else:
            epoch, epochs, target, temperature, noisy = z["epoch_epochs_target_tau_noise"].tolist()
            weight = 10.0
        noise = noise_of(z, dtype)
        assert (noise is not None) == bool(noisy)

        def objective(params: nnx.State, rest: nnx.State) -> tuple:
            forward = dynconv.Pass(noise=noise, temperature=temperature)
            net = nnx.merge(graphdef, params, rest, copy=True)
            out = net(images, forward)
            task = pose_loss(z, out) if pose else cross_entropy(out, z["labels"])
            budget = dynconv.budget_terms(forward.masks, *cost, target, epoch / epochs)
            stats = nnx.state(net, nnx.BatchStat)
            return task + weight * budget.loss, (task, budget, forward.masks, out, stats)

        (loss, found), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(
            params, rest
        )
        task, budget, masks, out, stats = found
        check_masks(z, net, images.shape, masks)
        suffix = "f64" if dtype == "float64" else "f32"
        part = "loss_sparsity_weighted" if pose else "loss_sparsity"
        got = {"loss": loss, "loss_task": task, part: budget.loss * (weight if pose else 1)}
        for name, value in got.items():
            np.testing.assert_allclose(value, z[f"{name}_{suffix}"], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(budget.network, z["loss_sparsity_network"], rtol=1e-5)
        np.testing.assert_allclose(budget.block, z["loss_sparsity_block"], rtol=1e-5)
        np.testing.assert_allclose(budget.share, z["perc"], rtol=1e-6)
        running = golden.variables(net, stats)
        if pose:
            golden.assert_within(out[-1], golden.nhwc(z["heatmaps_last"]), 1e-4)
            names = [str(name) for name in z["after_names"]]
            norms = np.array([np.linalg.norm(running[name]) for name in names])
            np.testing.assert_allclose(norms, z["after_norm"], rtol=1e-5)
        else:
            golden.assert_within(out, z["logits"], 1e-4)
            check_arrays(z, "after/", running, 1e-5)
        if dtype == "float64":
            got = golden.variables(net, gradients)
            assert set(got) == set(z["param_names"].tolist())
            norms = np.array([np.linalg.norm(got[name]) for name in z["param_names"]])
            # Biases before a batch norm have a gradient of 0, up to rounding.
            np.testing.assert_allclose(norms, z["grad_norm_f64"], rtol=1e-4, atol=1e-9)


def cross_entropy(logits: jax.Array, labels: np.ndarray) -> jax.Array:
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(labels)[:, None], 1)
    return -chosen.mean()


def pose_loss(z: Mapping[str, np.ndarray], heatmaps: list[jax.Array]) -> jax.Array:
    """Half the squared error, a mean over joints, images and pixels, of all stacks."""
    target = golden.nhwc(z["target"]).astype(heatmaps[0].dtype)
    weight = jnp.asarray(z["target_weight"][:, :, 0], target.dtype)[:, None, None]
    return sum(0.5 * jnp.square(weight * (h - target)).mean() for h in heatmaps)
