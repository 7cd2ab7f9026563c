"""What earlier versions stored, in today's names: configurations, records of runs, saved models.

Values of fields that a version didn't have yet are written out here. Today's defaults may change.
"""

from collections.abc import Mapping
from typing import Any

from segblocks_jax.structured_config import Fields

RENAMED = {"policy.quantise_step": "policy.bucket_step", "rematerialise": "rematerialize"}

_ADDED_IN_0: Fields = {
    "rematerialize": False,
    "data.on_error": "raise",
    "model.dilations": None,
    "model.pretrained": None,
    "model.conv_implementation": None,
    "model.dropout": 1.0,
    "model.input_scale": 1.0,
    "policy.reward": "loss",
    "policy.advantage": "plain",
    "policy.baseline": "batch",
    "policy.target_per": "batch",
    "policy.gain_every": 1,
    "policy.entropy": 0.0,
    "semantics.padding": "block",
    "optim.accumulate": 1,
    "optim.sync_batch_norm": True,
    "loop.eval_sizes": 8,
    "loop.warm_up": False,
    "loop.eval_pictures": 4,
    "loop.wandb": None,
}


def from_0(fields: Fields) -> Fields:
    """A configuration before schemas: some fields had other names, some came later."""
    fields = _ADDED_IN_0 | {RENAMED.get(name, name): value for name, value in fields.items()}
    if fields["policy.advantage"] == "normalised":
        fields["policy.advantage"] = "normalized"
    return fields


def current_metrics(metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Metrics of an evaluation, None where there are none, under today's names."""
    if metrics is None:
        return None
    return {{"share_high": "high_fraction"}.get(name, name): v for name, v in metrics.items()}


def spec_from_1(spec: Mapping[str, Any]) -> dict[str, Any]:
    """`ModelSpec.to_dict` of a saved model of version 1."""
    policy = spec.get("policy")
    if policy is not None:
        policy = {"bucket_step" if k == "quantise_step" else k: v for k, v in policy.items()}
    added = {"dilations": None, "input_scale": 1.0}
    semantics = {"padding": "block", **spec.get("semantics", {})}
    return {**added, **spec, "policy": policy, "semantics": semantics}
