"""What earlier versions stored, in today's names: configurations, records of runs, saved models.

Values of fields that a version didn't have yet are written out here. Today's defaults may change.
"""

from collections.abc import Mapping
from typing import Any

from segblocks_jax.structured_config import Fields

RENAMED = {
    "policy.quantise_step": "policy.bucket_step",
    "rematerialise": "rematerialize",
    "model.conv_implementation": "model.implementation",
}

_ADDED_IN_0: Fields = {
    "rematerialize": False,
    "data.on_error": "raise",
    "model.dilations": None,
    "model.pretrained": None,
    "model.implementation": None,
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


_ADDED_IN_1: Fields = {"model.padding": "symmetric", "model.stride_in": "3x3"}

_ADDED_IN_2: Fields = {
    "model.init_from": None,
    "model.init_policy": False,
    "optim.class_weights": None,
    "optim.ema": None,
    "loop.gain_images": 0,
}


def from_0(fields: Fields) -> Fields:
    """A configuration before schemas: some fields had other names, some came later."""
    fields = _ADDED_IN_0 | {RENAMED.get(name, name): value for name, value in fields.items()}
    if fields["policy.advantage"] == "normalised":
        fields["policy.advantage"] = "normalized"
    ways = {"pad": "xla", "xla": "reference"}
    way = fields["model.implementation"]
    fields["model.implementation"] = ways.get(way, way)
    return fields


def from_1(fields: Fields) -> Fields:
    """A configuration of schema 1: some fields came later."""
    return _ADDED_IN_1 | fields


def from_2(fields: Fields) -> Fields:
    """A configuration of schema 2: some fields came later; a learned policy was served with a threshold of 0.

    For others, to which it means nothing, `policy.share` is such that their runs go on.
    """
    share = "published" if fields["policy.name"] == "reinforce" else "calibrated"
    return {**_ADDED_IN_2, "policy.share": share} | fields


def from_3(fields: Fields) -> Fields:
    """A configuration of schema 3: policies were trained by their reward alone."""
    return {"policy.learning": "reinforce"} | fields


def from_4(fields: Fields) -> Fields:
    """A configuration of schema 4: networks were always trained."""
    return {"optim.freeze_network": False} | fields


def from_5(fields: Fields) -> Fields:
    """A configuration of schema 5: policies were as wide as published."""
    return {"policy.features": 64} | fields


def from_6(fields: Fields) -> Fields:
    """A configuration of schema 6: networks were this library's alone."""
    return {"model.factory": None, "semantics.image_statistics": "area"} | fields


def from_7(fields: Fields) -> Fields:
    """A configuration of schema 7: the loss was of a network's own logits alone."""
    return {"model.auxiliary": False} | fields


STEPS = (from_0, from_1, from_2, from_3, from_4, from_5, from_6, from_7)
"""By the schema of what they take; each gives that of the next."""


def current_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run or of an evaluation with today's names of metrics; its configuration stays."""
    return {
        group: {{"share_high": "high_fraction"}.get(name, name): v for name, v in values.items()}
        if group in ("metrics", "at_target") and values
        else values
        for group, values in record.items()
    }


def spec_from_0(spec: Mapping[str, Any]) -> dict[str, Any]:
    """`ModelSpec.to_dict` before schemas: a field had another name, some came later."""
    policy = spec.get("policy")
    if policy is not None:
        policy = {{"quantise_step": "bucket_step"}.get(k, k): v for k, v in policy.items()}
    semantics = {"padding": "block", **spec.get("semantics", {})}
    added = {"dilations": None, "input_scale": 1.0}
    return {**added, **spec, "policy": policy, "semantics": semantics}


def spec_from_1(spec: Mapping[str, Any]) -> dict[str, Any]:
    """`ModelSpec.to_dict` of schema 1: some fields came later."""
    return {"padding": "symmetric", "stride_in": "3x3", **spec}


def spec_from_2(spec: Mapping[str, Any]) -> dict[str, Any]:
    """`ModelSpec.to_dict` of schema 2: it had no colors."""
    return {"class_colors": None, **spec}


def spec_from_3(spec: Mapping[str, Any]) -> dict[str, Any]:
    """`ModelSpec.to_dict` of schema 3: policies were as wide as published."""
    policy = spec.get("policy")
    return {**spec, "policy": policy and {"features": 64, **policy}}


def spec_from_4(spec: Mapping[str, Any]) -> dict[str, Any]:
    """`ModelSpec.to_dict` of schema 4: no model was quantized."""
    return {"quantization": None, **spec}


def spec_from_5(spec: Mapping[str, Any]) -> dict[str, Any]:
    """`ModelSpec.to_dict` of schema 5: networks were this library's alone."""
    semantics = {"image_statistics": "area", **spec.get("semantics", {})}
    return {**spec, "semantics": semantics}
