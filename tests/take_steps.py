"""Takes training steps on given batches and grids, on any number of devices and processes.

A program of its own, for numbers of devices and processes that the tests' process doesn't have:
``python take_steps.py FILE [COORDINATOR PROCESSES PROCESS]``.
"""

import sys

import jax
import numpy as np
import tiny
from flax import nnx

from segblocks_jax.adaptive.decision import Decision
from segblocks_jax.data import NORMALIZATION
from segblocks_jax.nn import BatchNorm, BlockOptions, Conv, max_pool, pointwise, rematerialized
from segblocks_jax.systems.segblocks.policies import create
from segblocks_jax.systems.segblocks.step import TrainStep
from segblocks_jax.training.sharding import (
    data_mesh,
    is_first,
    on_one_device,
    put_batch,
    start,
)
from segblocks_jax.training.state import create_optimizer, create_state

IMAGES, STEPS = 8, 20


class Unit(nnx.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, *arguments, rngs, **options):
        self.conv = Conv(*arguments, rngs=rngs, **options)
        self.norm = BatchNorm(arguments[1], momentum=0.1, semantics=BlockOptions())

    def __call__(self, x):
        return pointwise(jax.nn.relu, self.norm(self.conv(x)))


class SmallNet(nnx.Module):
    """What a network has, as little of it as compiles fast."""

    output_stride = 4

    def __init__(self, rngs):
        self.units = nnx.List([Unit(3, 12, 5, stride=2, rngs=rngs), Unit(12, 16, 3, rngs=rngs)])
        self.logits = Conv(16, tiny.CLASSES, 1, use_bias=True, rngs=rngs)

    def __call__(self, x):
        x = rematerialized(self.units[0], x)
        x = max_pool(x, window=2, stride=2, padding=0)
        return self.logits(rematerialized(self.units[1], x))


def trainer(config, mesh, report=lambda line: None):
    """(step, state) of a configuration with `SmallNet`."""
    system = nnx.Dict(net=SmallNet(nnx.Rngs(0)))
    if config.policy.name != "static":
        system["policy"] = create(
            config.policy.name, block_size=config.policy.block_size, target=config.policy.target
        )
    optimizer = create_optimizer(config.optim, tiny.system(config).multipliers())
    graphdef, state = create_state(system, optimizer, config.seed)
    step = TrainStep(graphdef, optimizer, config, NORMALIZATION["street_scenes"], mesh, report)
    return step, step.place(state)


def settings():
    """The learned policy, whose advantage is joint, too.

    Slow: a rounding turns a ReLU on or off every few steps, and Adam makes whole steps of small gradients.
    """
    optim = {"batch_size": IMAGES, "learning_rate": 4e-5, "steps": STEPS}
    return tiny.config("reinforce", optim=optim)


def batch(number):
    """Street-like squares under noise: of equal pixels, one rounding could change which is the largest."""
    squares = tiny.batch(IMAGES, seed=number)
    noise = np.random.default_rng(number).integers(0, 64, squares["image"].shape)
    return squares | {"image": (squares["image"] // 2 + noise).astype(np.uint8)}


def own(batch):
    """This process's part of a batch."""
    return {k: np.split(v, jax.process_count())[jax.process_index()] for k, v in batch.items()}


def take(mesh):
    """The metrics of all steps and the state after them by name, and what took the steps."""
    step, state = trainer(settings(), mesh)
    rng, losses = np.random.default_rng(5), []
    for number in range(STEPS):
        # Two of an image's four blocks: so every device has as many, and fills up none.
        action = rng.permuted(np.tile([True, True, False, False], (IMAGES, 1)), axis=1)
        grids = {"action": action.reshape(IMAGES, 2, 2)}
        grids["scores"] = grids["action"].astype(np.float32)
        decision = Decision(**put_batch(own(grids), mesh))
        count = 2 * IMAGES // mesh.size
        step.decide = lambda *_, decided=(decision, count): decided
        state, metrics = step(state, own(batch(number)))
        losses.append({name: float(value) for name, value in metrics.items()})
    found = {
        f"{part}/{jax.tree_util.keystr(path, simple=True, separator='/')}": np.asarray(leaf)
        for part in ("params", "stats")
        for path, leaf in jax.tree.leaves_with_path(on_one_device(getattr(state, part)))
    }
    return found | {name: np.array([row[name] for row in losses]) for name in losses[0]}, step


if __name__ == "__main__":
    file, *others = sys.argv[1:]
    if others:
        start(others[0], int(others[1]), int(others[2]))
    result, _ = take(data_mesh())
    if is_first():
        np.savez(file, **result)
