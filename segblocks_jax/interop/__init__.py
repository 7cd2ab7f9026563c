"""Weights from other frameworks."""

from segblocks_jax.interop.torch import load_torch_state_dict, torch_name

__all__ = ["load_torch_state_dict", "torch_name"]
