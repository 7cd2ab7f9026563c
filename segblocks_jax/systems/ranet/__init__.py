"""RANet (arXiv 2003.07326): easy images leave early, at low resolution."""

from segblocks_jax.systems.ranet.thresholds import budgeted as budgeted
from segblocks_jax.systems.ranet.thresholds import fit_thresholds as fit_thresholds
