"""The convolution node of OpenVINO: what `block_conv.py` compares layers with."""

import numpy as np
import openvino
from openvino import opset13 as ops


class ConvolutionNode:
    """One convolution of an image, as a function without arguments.

    Attributes:
        milliseconds: of the node alone, as OpenVINO measures it, of each call so far.
    """

    def __init__(
        self, image: np.ndarray, kernel: np.ndarray, stride: int, padding: int, dtype: str
    ) -> None:
        """Takes an image (n, h, w, c) and a kernel (kh, kw, c, k), float32; runs on all of the process's cores."""
        x = np.ascontiguousarray(image.transpose(0, 3, 1, 2))
        parameter = ops.parameter(x.shape, np.float32)
        weights = ops.constant(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
        pads = [padding, padding]
        convolution = ops.convolution(parameter, weights, [stride, stride], pads, pads, [1, 1])
        properties = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
            "PERFORMANCE_HINT": "LATENCY",
            "PERF_COUNT": "YES",
        }
        model = openvino.Model([convolution], [parameter])
        self._request = openvino.compile_model(model, "CPU", properties).create_infer_request()
        self._request.set_input_tensor(openvino.Tensor(x))
        self.milliseconds: list[float] = []

    def __call__(self) -> None:
        """Runs once."""
        self._request.infer()
        nodes = [n for n in self._request.profiling_info if n.node_type == "Convolution"]
        self.milliseconds.append(sum(n.real_time.total_seconds() for n in nodes) * 1e3)
