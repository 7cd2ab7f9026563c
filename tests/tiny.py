"""The smallest system that has every part: for tests of training and inference."""

import numpy as np

from segblocks_jax.data import NORMALISATION
from segblocks_jax.training.config import ExperimentConfig
from segblocks_jax.training.optimizer import create_optimizer
from segblocks_jax.training.state import create_state, create_system
from segblocks_jax.training.step import TrainStep

CLASSES = 19


def config(policy_name="reinforce", **changes):
    """128 x 128 street scenes in four blocks."""
    mapping = {
        "name": "tiny",
        "data": {
            "dataset": "street_scenes",
            "crop": (128, 128),
            "scenes": (8, 3),
            "scene_size": (128, 192),
        },
        "model": {"width": 8, "features": 12},
        "policy": {"name": policy_name, "block_size": 64, "target": 0.5, "quantise_step": 0.25},
        "optim": {"batch_size": 4, "steps": 4, "learning_rate": 1e-3},
        "loop": {
            "eval_every": 4,
            "checkpoint_every": 2,
            "log_every": 1,
            "eval_batch_size": 2,
            "eval_pictures": 2,
        },
    }
    for name, value in changes.items():
        mapping[name] = {**mapping.get(name, {}), **value} if isinstance(value, dict) else value
    return ExperimentConfig.from_mapping(mapping)


def batch(images=4, seed=0):
    """Noise with labels that follow its brightness, some of them ignored."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (images, 8, 8, 3)).astype(np.uint8)
    image = coarse.repeat(16, 1).repeat(16, 2)
    label = (image[..., 0] // 16).astype(np.uint8)
    label[:, :20] = 255
    return {"image": image, "label": label}


def trainer(settings, mesh=None):
    """(step, state) of a configuration."""
    optimizer = create_optimizer(settings.optim)
    graphdef, state = create_state(create_system(settings, CLASSES), optimizer, settings.seed)
    step = TrainStep(graphdef, optimizer, settings, NORMALISATION["street_scenes"], mesh)
    return step, step.place(state)
