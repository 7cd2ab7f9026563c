"""Weights from other frameworks, and models in folders."""

from segblocks_jax.interop.backbone import load_backbone
from segblocks_jax.interop.files import SUFFIXES as WEIGHT_SUFFIXES
from segblocks_jax.interop.folder import (
    check_target,
    load_about,
    load_model,
    load_spec,
    model_folder,
    save_model,
    shipped_models,
)
from segblocks_jax.interop.pretrained import PRETRAINED
from segblocks_jax.interop.torch import load_torch_state_dict, torch_names

__all__ = [
    "PRETRAINED",
    "WEIGHT_SUFFIXES",
    "check_target",
    "load_about",
    "load_backbone",
    "load_model",
    "load_spec",
    "load_torch_state_dict",
    "model_folder",
    "save_model",
    "shipped_models",
    "torch_names",
]
