"""Trained networks at work: on batches, on files, against the clock."""

from segblocks_jax.inference.runner import Prediction, Runner

__all__ = ["Prediction", "Runner"]
