from .adaptive.cost import count_macs as count_macs
from .blocks import BlockGrid as BlockGrid
from .blocks import DualRes as DualRes
from .blocks import PaddedBlocks as PaddedBlocks
from .blocks import block_conv as block_conv
from .blocks import block_pad as block_pad
from .blocks import combine as combine
from .blocks import split as split
from .interop import load_backbone as load_backbone
from .interop import load_model as load_model
from .interop import load_spec as load_spec
from .interop import load_torch_state_dict as load_torch_state_dict
from .interop import save_model as save_model
from .interop import shipped_models as shipped_models
from .models import create_model as create_model
from .nn import BlockOptions as BlockOptions
from .nn import Semantics as Semantics
from .systems.segblocks import policies as policies
from .systems.segblocks.engine import Engine as Engine
from .systems.segblocks.exported import ExportedEngine as ExportedEngine
from .systems.segblocks.quantize import quantize as quantize
from .systems.segblocks.spec import ModelSpec as ModelSpec
from .systems.segblocks.spec import PolicySpec as PolicySpec
from .tasks.segmentation.result import Segmentation as Segmentation
from .traced import in_blocks as in_blocks
from .traced import report as report

__version__: str
