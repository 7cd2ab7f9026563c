"""A pytree of arrays as named entries: what a checkpoint stores, and how two states are compared.

Orbax's own restore stops at the first difference, converts other dtypes silently and refuses empty arrays.

An entry's name is its path in the tree, "params/stem/kernel"; containers themselves leave no
trace, so a state may come back in tuples where it was saved in lists.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MAX_LISTED = 20  # entries a kind in the text about two states that differ


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by name, in the order of the tree's leaves.

    Raises TypeError for one that is no jax or numpy array or `jax.ShapeDtypeStruct`, ValueError for equal names.
    """
    entries = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
            raise TypeError(
                f"checkpoint: state entry {name!r} is a {type(leaf).__name__}, expected a jax or "
                "numpy array; convert it, or put plain values into extra"
            )
        if name in entries:
            raise ValueError(
                f"checkpoint: two entries of the state are named {name!r}, expected one; rename a "
                "key of the state so that paths joined by slashes differ"
            )
        entries[name] = leaf
    return entries


def describe(entries: Mapping[str, Any]) -> dict[str, str]:
    """Dtype and shape of every entry in words, such as "float32 (3, 3)"; JSON can hold them."""
    return {name: f"{leaf.dtype} {tuple(leaf.shape)}" for name, leaf in entries.items()}


def differences(stored: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Indented lines, by kind of difference, that list what differs between a checkpoint and a model.

    At most `MAX_LISTED` entries a kind; no lines where the two agree.
    """
    kinds = {
        "missing from the checkpoint": [f"{k}: {wanted[k]}" for k in wanted if k not in stored],
        "unexpected in the checkpoint": [f"{k}: {stored[k]}" for k in stored if k not in wanted],
        "of another shape or dtype": [
            f"{k}: {stored[k]} in the checkpoint, {wanted[k]} in the model"
            for k in wanted
            if k in stored and stored[k] != wanted[k]
        ],
    }
    lines = []
    for kind, items in kinds.items():
        if items:
            lines += [f"  {len(items)} {kind}:", *(f"    {item}" for item in items[:MAX_LISTED])]
        if len(items) > MAX_LISTED:
            lines.append(f"    ... and {len(items) - MAX_LISTED} more")
    return lines


def storable(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries as a file can hold them: bits in place of PRNG keys, no empty array."""
    return {name: _bits(leaf) for name, leaf in entries.items() if leaf.size}


def targets(entries: Mapping[str, Any]) -> dict[str, Any]:
    """What to read for every storable entry: an array placed like it, else a numpy array.

    Only a committed array has a place of its own. Reading the others by way of numpy leaves them
    uncommitted, so that a step over several devices still takes them.
    """
    return {name: _target(bits) for name, bits in storable(entries).items()}


def rebuild(template: Any, arrays: Mapping[str, Any]) -> Any:
    """Puts arrays read for `targets` into the structure of `template`, keys and empty ones too."""
    leaves = [_like(leaf, arrays.get(name)) for name, leaf in flatten(template).items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def checked_extra(extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """Plain values to store beside a state, as they come back from JSON; TypeError where it can't hold them."""
    try:
        return json.loads(json.dumps(dict(extra or {})))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"Checkpoints.save: extra does not fit into JSON ({error}); convert arrays to lists, "
            "paths to strings and bytes to text"
        ) from error


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _bits(leaf: Any) -> Any:
    if not _is_key(leaf):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, leaf)
    return jax.random.key_data(leaf)


def _target(bits: Any) -> Any:
    if isinstance(bits, jax.Array) and bits.committed:
        return jax.ShapeDtypeStruct(bits.shape, bits.dtype, sharding=bits.sharding)
    return np.empty(bits.shape, bits.dtype)


def _like(leaf: Any, restored: Any) -> Any:
    if restored is None:
        bits = _bits(leaf)
        restored = np.empty(bits.shape, bits.dtype)
    if isinstance(leaf, np.ndarray):
        return restored
    array = jnp.asarray(restored)
    if not _is_key(leaf):
        return array
    impl = jax.random.key_impl(jnp.empty((), leaf.dtype))  # A ShapeDtypeStruct has none to ask.
    return jax.random.wrap_key_data(array, impl=impl)
