"""Policies: who decides which blocks run at high resolution, and how a learned one is trained."""

from segblocks_jax.systems.segblocks.policies.registry import POLICIES, Policy, create
from segblocks_jax.systems.segblocks.policies.reinforce import Reinforce
from segblocks_jax.systems.segblocks.policies.reward import Advantage, Reward, advantage

__all__ = [
    "POLICIES",
    "Advantage",
    "Policy",
    "Reinforce",
    "Reward",
    "advantage",
    "create",
]
