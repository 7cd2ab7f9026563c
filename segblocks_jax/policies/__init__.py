"""Policies: who decides which blocks run at high resolution, and how a learned one is trained."""

from segblocks_jax.blocks.buckets import quantise
from segblocks_jax.policies.decision import Decision, fill_scores, top_count, top_fraction
from segblocks_jax.policies.registry import POLICIES, Policy, create
from segblocks_jax.policies.reinforce import Reinforce, entropy, surrogate_loss
from segblocks_jax.policies.reward import Advantage, Reward, advantage

__all__ = [
    "POLICIES",
    "Advantage",
    "Decision",
    "Policy",
    "Reinforce",
    "Reward",
    "advantage",
    "create",
    "entropy",
    "fill_scores",
    "quantise",
    "surrogate_loss",
    "top_count",
    "top_fraction",
]
