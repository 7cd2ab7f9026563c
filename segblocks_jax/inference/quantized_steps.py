"""Steps of a fused network on values that are kept as bytes."""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, UInt8

from segblocks_jax.inference.state import State
from segblocks_jax.inference.steps import Reads, conv_patches, conv_reads, static
from segblocks_jax.ops import no_type_check
from segblocks_jax.ops.quantized_conv import QuantizedEpilogue, quantized_conv
from segblocks_jax.ops.quantized_kernel import QuantizedKernel


@struct.dataclass(eq=False)
@no_type_check
class QuantizeStep:
    """A value in float32 to bytes."""

    scale: Float[Array, ""]
    zero: Float[Array, ""]
    part: str = static()
    input: int = static()
    output: int = static()

    def reads(self) -> Reads:
        """See `Step`."""
        return self.input, (1, 1), None

    def run(self, state: State) -> None:
        """Adds the bytes."""
        whole = jnp.rint(state.pixels[self.input].astype(jnp.float32) / self.scale) + self.zero
        pixels = jnp.clip(whole, 0, 255).astype(jnp.uint8)
        state.add(self.output, pixels, state.layouts[self.input])


@struct.dataclass(eq=False)
@no_type_check
class DequantizeStep:
    """Bytes to a value in float32."""

    scale: Float[Array, ""]
    zero: Float[Array, ""]
    part: str = static()
    input: int = static()
    output: int = static()

    def reads(self) -> Reads:
        """See `Step`."""
        return self.input, (1, 1), None

    def run(self, state: State) -> None:
        """Adds the value."""
        pixels = (state.pixels[self.input].astype(jnp.float32) - self.zero) * self.scale
        state.add(self.output, pixels, state.layouts[self.input])


@struct.dataclass(eq=False)
@no_type_check
class QuantizedConvStep:
    """A convolution of bytes and its epilogue; `out` and `stored_second` are the dtypes of its outputs."""

    kernel: QuantizedKernel
    zero: UInt8[Array, "1"]
    scaling: tuple[Array, Array]
    limits: Float[Array, "3"]
    following: tuple[Array, Array] | None
    name: str = static()
    part: str = static()
    input: int = static()
    residual: int | None = static()
    output: int = static()
    second: int | None = static()
    out: str | None = static()
    stored_second: str | None = static()
    stride: int = static()
    padding: tuple[int, int] = static()
    shift: tuple[int, int] = static()
    dilation: int = static()

    def reads(self) -> Reads:
        """See `Step`."""
        return conv_reads(self)

    def run(self, state: State) -> None:
        """Adds the output, where it is kept, and the second one."""
        pixels, layout = state.pixels[self.input], state.layouts[self.input]
        epilogue = QuantizedEpilogue(
            *self.scaling,
            self.limits,
            None if self.residual is None else state.pixels[self.residual],
            self.following,
            self.out,
            self.stored_second,
        )
        out, second = quantized_conv(
            pixels,
            self.zero,
            conv_patches(self, pixels, layout),
            self.kernel,
            epilogue,
            self.stride,
            dilation=self.dilation,
        )
        layout = layout.scaled(1, self.stride)
        if second is not None:
            assert self.second is not None
            state.add(self.second, second, layout)
        if out is not None:
            state.add(self.output, out, layout)
