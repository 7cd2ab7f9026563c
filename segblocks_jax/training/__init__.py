"""Training: configuration, losses, metrics, optimiser, step, loop and checkpoints."""

from segblocks_jax.training.config import ConfigError, ExperimentConfig
from segblocks_jax.training.state import TrainState, create_state, create_system

__all__ = ["ConfigError", "ExperimentConfig", "TrainState", "create_state", "create_system"]
