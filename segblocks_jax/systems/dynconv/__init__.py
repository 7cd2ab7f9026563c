"""DynConv (arXiv 1912.03203): every residual block decides, pixel by pixel, where to compute."""

from segblocks_jax.adaptive.estimators import gumbel_sigmoid as gumbel_sigmoid
from segblocks_jax.ops.mask_patches import dilate as dilate
from segblocks_jax.systems.dynconv.budget import Budget as Budget
from segblocks_jax.systems.dynconv.budget import budget_loss as budget_loss
from segblocks_jax.systems.dynconv.budget import budget_terms as budget_terms
from segblocks_jax.systems.dynconv.engine import Engine as Engine
from segblocks_jax.systems.dynconv.execution import Pass as Pass
from segblocks_jax.systems.dynconv.masks import MaskUnit as MaskUnit
from segblocks_jax.systems.dynconv.run import Costs as Costs
from segblocks_jax.systems.dynconv.run import costs as costs
from segblocks_jax.systems.dynconv.run import prepare as prepare
from segblocks_jax.systems.dynconv.run import run as run
