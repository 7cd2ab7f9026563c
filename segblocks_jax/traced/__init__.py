"""Networks of any library in blocks: their programs are traced and interpreted."""

# They register the rules of primitives.
from segblocks_jax.traced import (  # noqa: F401
    calls,
    convolutions,
    derivatives,
    joins,
    pixels,
    pools,
    products,
    reductions,
    shapes,
)
from segblocks_jax.traced.net import InBlocks as InBlocks
from segblocks_jax.traced.net import in_blocks as in_blocks
from segblocks_jax.traced.report import Report as Report
from segblocks_jax.traced.report import report as report
from segblocks_jax.traced.tracing import WholeImageWarning as WholeImageWarning
