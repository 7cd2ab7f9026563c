"""What an engine runs, as text."""

import jax

from segblocks_jax.ops import extension
from segblocks_jax.systems.segblocks.programs import Execution
from segblocks_jax.systems.segblocks.settings import Mode
from segblocks_jax.systems.segblocks.spec import ModelSpec

_PRODUCTS = {
    "bfloat16": {
        "amx": "AMX tile products of bfloat16",
        "avx512_bf16": "AVX-512 dot products of bfloat16",
        "float32": "bfloat16 widened to float32",
    },
    "int8": {
        "amx_int8": "AMX tile products of bytes",
        "vnni": "VNNI dot products of bytes",
        "plain": "plain products of bytes",
    },
}


def describe(spec: ModelSpec, execution: Execution, dtype: str, mode: Mode) -> str:
    """Lines of a name and a value each; see `Engine.describe`."""
    policy = spec.policy
    blocks = (
        "none" if policy is None else f"{policy.block_size} pixels a side, policy {policy.name}"
    )
    lines = {
        "network": f"{spec.name}, {spec.num_classes} classes",
        "blocks": blocks,
        "execution": execution,
        "dtype": dtype,
        "mode": str(mode),
        "processor": _processor(execution, dtype),
    }
    return "\n".join(f"{name:9}  {value}" for name, value in lines.items())


def _processor(execution: Execution, dtype: str) -> str:
    platform = jax.default_backend()
    if execution == "xla" or not extension.available():
        return f"{platform}, XLA's code"
    if platform != "cpu":
        return platform
    loops, pairs, groups = extension.cpu_loops()
    text = f"cpu, {loops} loops"
    if dtype not in _PRODUCTS:
        return text
    products = groups if dtype == "int8" else pairs
    name = products.removesuffix("_standin")
    return f"{text}, {_PRODUCTS[dtype][name]}" + " (stand-in)" * (name != products)
