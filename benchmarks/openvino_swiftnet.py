"""SwiftNet in OpenVINO, in inference: what `engine.py` compares with, in the precisions that OpenVINO has."""

from collections.abc import Callable

import nncf
import numpy as np
import openvino
import torch
from torch_swiftnet import SwiftNet

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}  # Of what is not quantized.


def compiled(net: SwiftNet, image: np.ndarray, dtype: str) -> Callable[[], np.ndarray]:
    """A network, compiled for least latency on all threads, as a function without arguments.

    The function returns logits (n, h, w, k), float32.

    Args:
        net: of `torch_swiftnet.network`.
        image: normalized, (n, h, w, 3), float32; what ranges are measured on, too.
        dtype: "int8" quantizes after training, with NNCF's defaults.
    """
    x = np.ascontiguousarray(image.transpose(0, 3, 1, 2))
    model = openvino.convert_model(
        net, example_input=torch.from_numpy(x), input=[("x", list(x.shape))]
    )
    if dtype == "int8":
        model = nncf.quantize(model, nncf.Dataset([x]), subset_size=1)
    properties = {
        "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.compile_model(model, "CPU", properties).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x))

    def call() -> np.ndarray:
        request.infer()
        return request.get_output_tensor().data.transpose(0, 2, 3, 1)

    return call
