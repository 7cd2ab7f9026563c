"""What `golden_guard.npz` holds: a few numbers of every kind that the reference confirmed.

Made from this project's own seeds by the references in jnp, at a commit where all recorded outputs of
the original code passed; it keeps guarding where those are absent. To write it anew after a
deliberate change of semantics, with the recorded outputs at hand and passing:
``PYTHONPATH=tests SEGBLOCKS_IMPLEMENTATION=xla python -m guard``
"""

import pathlib

import golden
import jax
import jax.numpy as jnp
import numpy as np
from cases import CASES
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.adaptive.estimators import surrogate_loss
from segblocks_jax.systems.segblocks.policies import Reward, advantage
from segblocks_jax.systems.segblocks.policies.reinforce import PolicyNet
from segblocks_jax.tasks.segmentation.losses import (
    block_mean,
    bootstrapped_loss,
    cross_entropy_map,
    task_loss,
)
from segblocks_jax.tasks.segmentation.metrics import ConfusionTotal

FILE = pathlib.Path(__file__).with_name("golden_guard.npz")
OPERATIONS = ("two_images", "one_pixel_low", "factor4")
NETWORKS = {"swiftnet_rn18": 64, "swiftnet_rn50": 64, "swiftnet_efflite1": 128}


def operations(name: str) -> dict[str, np.ndarray]:
    """Split, combine and padding of a case."""
    case = CASES[name]
    blocks = sb.split(case.image(seed=11), case.mask(), low_factor=case.low_factor)
    padded = sb.block_pad(blocks, 1)
    return {
        "split": blocks.pixels,
        "bilinear": sb.combine(blocks),
        "nearest": sb.combine(blocks, "nearest"),
        "pad_high": padded.high,
        "pad_low": padded.low,
    }


def network(name: str) -> dict[str, np.ndarray]:
    """Every second logit of a network with the authors' semantics, dense and in blocks."""
    side = NETWORKS[name]
    semantics = sb.BlockOptions.authors()
    net = golden.network(lambda: sb.create_model(name, semantics=semantics, rngs=nnx.Rngs(0)))
    net.eval()
    image = golden.nhwc(golden.random_input(12, (1, 3, side, 2 * side)))
    graphdef, state = nnx.split(net)
    run = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    in_blocks = run(state, sb.split(image, np.array([[[True, False]]])))
    return {
        "dense": run(state, image)[:, ::2, ::2],
        "blocks": sb.combine(in_blocks)[:, ::2, ::2],
    }


def training() -> dict[str, np.ndarray]:
    """Loss and gradient norms of a narrow network in training, in blocks, ignored pixels counted."""
    net = golden.network(
        lambda: sb.create_model(
            "swiftnet_rn18",
            5,
            semantics=sb.BlockOptions.authors(),
            width=8,
            features=12,
            rngs=nnx.Rngs(0),
        )
    )
    image = golden.nhwc(golden.random_input(13, (2, 3, 128, 256)))
    labels = np.random.default_rng(14).integers(0, 6, (2, 128, 256)).astype(np.uint8)
    labels = jnp.asarray(np.where(labels == 5, 255, labels))
    mask = np.array([[[1, 0, 1, 0], [0, 1, 0, 0]], [[0, 0, 1, 1], [1, 0, 0, 1]]], bool)
    grid = sb.BlockGrid.from_mask(mask)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    def objective(params: nnx.State) -> jax.Array:
        net = nnx.merge(graphdef, params, rest, copy=True)
        logits = sb.combine(net(sb.split(image, grid)))
        return task_loss(*cross_entropy_map(logits, labels), ignored="counted")

    loss, gradients = jax.jit(jax.value_and_grad(objective))(params)
    norms = {
        name: np.linalg.norm(value) for name, value in golden.variables(net, gradients).items()
    }
    return {"loss": loss, "norms": np.array([norms[name] for name in sorted(norms)], np.float32)}


def policy() -> dict[str, np.ndarray]:
    """Logits in evaluation, then a REINFORCE step's loss and gradient norms."""
    net = golden.network(lambda: PolicyNet(128, rngs=nnx.Rngs(0)))
    image = golden.nhwc(golden.random_input(15, (1, 3, 256, 512)))
    net.eval()
    logits = net(image)
    net.train()
    mask = jnp.asarray(np.array([[[1, 0, 0, 1], [0, 1, 0, 0]]], bool))
    loss_map = jnp.abs(golden.nhwc(golden.random_input(16, (1, 1, 256, 512)))[..., 0])
    means, valid = block_mean(loss_map, jnp.ones_like(loss_map, bool), mask.shape[1:])
    reward = advantage(means, valid, mask, Reward(0.4, 10.0))
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    def objective(params: nnx.State) -> jax.Array:
        net = nnx.merge(graphdef, params, rest, copy=True)
        return surrogate_loss(net(image), mask, reward.total)

    loss, gradients = jax.jit(jax.value_and_grad(objective))(params)
    norms = {
        name: np.linalg.norm(value) for name, value in golden.variables(net, gradients).items()
    }
    return {
        "logits": logits,
        "advantage": reward.total,
        "loss": loss,
        "norms": np.array([norms[name] for name in sorted(norms)], np.float32),
    }


def losses() -> dict[str, np.ndarray]:
    """Cross entropy in both conventions, bootstrapped, and the scores of a confusion matrix."""
    rng = np.random.default_rng(17)
    logits = jnp.asarray(rng.standard_normal((2, 8, 16, 7)) * 2, jnp.float32)
    labels = rng.integers(0, 8, (2, 32, 64)).astype(np.uint8)
    labels = jnp.asarray(np.where(labels == 7, 255, labels))
    loss, valid = cross_entropy_map(logits, labels)
    matrix = ConfusionTotal(7)
    matrix.update(labels, jnp.asarray(rng.integers(0, 7, (2, 32, 64)).astype(np.uint8)))
    return {
        "map": loss,
        "counted": task_loss(loss, valid, ignored="counted"),
        "excluded": task_loss(loss, valid, ignored="excluded"),
        "bootstrapped": bootstrapped_loss(loss, k=512, threshold=2.0),
        "mean_iou": matrix.scores().mean_iou,
    }


def compute(part: str) -> dict[str, np.ndarray]:
    """The numbers of a part, by `PARTS`."""
    kind, _, name = part.partition("/")
    functions = {"ops": operations, "net": network}
    values = functions[kind](name) if name else globals()[kind]()
    return {f"{part}/{key}": np.asarray(value) for key, value in values.items()}


PARTS = (
    *(f"ops/{name}" for name in OPERATIONS),
    *(f"net/{name}" for name in NETWORKS),
    "training",
    "policy",
    "losses",
)

if __name__ == "__main__":
    arrays = {key: value for part in PARTS for key, value in compute(part).items()}
    np.savez_compressed(FILE, **arrays)
