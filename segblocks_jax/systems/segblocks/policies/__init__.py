"""Policies: who decides which blocks run at high resolution, and how a learned one is trained."""

from segblocks_jax.systems.segblocks.policies.policy import Policy
from segblocks_jax.systems.segblocks.policies.registry import (
    CHOICES,
    POLICIES,
    create,
    policy_type,
)
from segblocks_jax.systems.segblocks.policies.reinforce import Reinforce
from segblocks_jax.systems.segblocks.policies.reward import Advantage, Reward, advantage

__all__ = [
    "CHOICES",
    "POLICIES",
    "Advantage",
    "Policy",
    "Reinforce",
    "Reward",
    "advantage",
    "create",
    "policy_type",
]
