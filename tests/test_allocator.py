"""Freed memory stays with the process: counted in page faults, in processes of their own."""

import ctypes
import subprocess
import sys
import textwrap

import golden
import pytest
from flax import nnx

import segblocks_jax as sb
from segblocks_jax import allocator
from segblocks_jax.systems.segblocks import engine

FEWEST_FAULTS = """
    import itertools
    import resource

    import jax
    import jax.numpy as jnp

    from segblocks_jax.allocator import keep_freed_memory

    if {keep}:
        assert keep_freed_memory()

    def faults():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    run = jax.jit(lambda x: x * 2)
    for mebibytes in {sizes}:
        image = jnp.ones(mebibytes << 18, jnp.float32)
        counts = [faults()]
        for _ in range(30):
            run(image).block_until_ready()
            counts.append(faults())
        print(min(after - before for before, after in itertools.pairwise(counts)))
"""


def has_glibc():
    try:
        return hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
    except (OSError, TypeError):
        return False


def fewest_faults(keep, sizes):
    code = textwrap.dedent(FEWEST_FAULTS.format(keep=keep, sizes=sizes))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [float(line) for line in run.stdout.split()]


@pytest.mark.skipif(not has_glibc(), reason="the C library is not glibc")
def test_no_page_of_a_kept_block_is_cleared_again():
    sizes = [16, 48, 80, 700]
    for size, faults in zip(sizes, fewest_faults(True, sizes), strict=True):
        assert faults < 0.05 * size * 256, size  # Of 256 pages a MiB.


@pytest.mark.parametrize("keep", [True, False])
def test_an_engine_asks_for_it_only_where_told_to(monkeypatch, keep):
    asked = []
    monkeypatch.setattr(engine, "keep_freed_memory", lambda: asked.append(1))
    spec = sb.ModelSpec("swiftnet_rn18", 3, width=8, mean=(0.5,) * 3, std=(0.2,) * 3)
    net = golden.network(lambda: spec.build(nnx.Rngs(0)))
    sb.Engine(net, spec, **({"keep_memory": True} if keep else {}))
    assert len(asked) == keep


@pytest.mark.parametrize("missing", ["library", "mallopt", "glibc"])
def test_other_c_libraries_are_left_alone(monkeypatch, missing):
    calls = []

    class Library:
        def __getattr__(self, name):
            absent = {"mallopt": "mallopt", "glibc": "gnu_get_libc_version"}.get(missing)
            if name == absent:
                raise AttributeError(name)
            return lambda *options: calls.append(options) or 1

    def load(name):
        if missing == "library":
            raise OSError("no library")
        return Library()

    monkeypatch.setattr(allocator.ctypes, "CDLL", load)
    allocator.keep_freed_memory.cache_clear()
    try:
        assert not allocator.keep_freed_memory()
    finally:
        allocator.keep_freed_memory.cache_clear()
    assert not calls
