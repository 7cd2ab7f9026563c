"""Policies: who decides which blocks run at high resolution, and how a learned one is trained."""

from segblocks_jax.blocks.buckets import quantise
from segblocks_jax.policies.decision import Decision, fill_scores, top_count, top_fraction
from segblocks_jax.policies.registry import POLICIES, Policy, create
from segblocks_jax.policies.reinforce import Advantage, Reinforce, advantage, surrogate_loss

__all__ = [
    "POLICIES",
    "Advantage",
    "Decision",
    "Policy",
    "Reinforce",
    "advantage",
    "create",
    "fill_scores",
    "quantise",
    "surrogate_loss",
    "top_count",
    "top_fraction",
]
