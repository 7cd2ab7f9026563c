"""Training: configuration, losses, metrics, optimiser, step, loop and checkpoints."""

from segblocks_jax.training.config import ExperimentConfig
from segblocks_jax.training.fields import ConfigError
from segblocks_jax.training.state import TrainState, create_state, create_system

__all__ = ["ConfigError", "ExperimentConfig", "TrainState", "create_state", "create_system"]
