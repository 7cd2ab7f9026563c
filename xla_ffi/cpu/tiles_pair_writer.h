// Writes two vectors of the channels of outputs; see tiles_body.h.

#ifndef SEGBLOCKS_CPU_TILES_PAIR_WRITER_H_
#define SEGBLOCKS_CPU_TILES_PAIR_WRITER_H_

#include <stdint.h>

#include "cpu/tiles.h"
#include "cpu/tiles_vectors.h"

namespace segblocks::cpu {
namespace {

// For the channels from `first` on of outputs that differ in nothing but pixels.
template <typename T>
class PairWriter {
 public:
  PairWriter() = default;
  SEGBLOCKS_INLINE explicit PairWriter(const Outputs& o, int64_t first = 0)
      : first_(first),
        scale_(get_pair(o.scale + first)),
        bias_(get_pair(o.bias + first)),
        least_(Vector{} + (o.activation == 0 ? -__builtin_inff() : 0.0f)),
        most_(Vector{} + (o.activation == 2 ? 6.0f : __builtin_inff())) {}

  SEGBLOCKS_INLINE void write(const Outputs& o, int64_t pixel) const {
    const int64_t at = pixel * o.pitch + first_;
    VectorPair y = get_pair(o.sums + pixel * o.sums_pitch + first_);
    affine(&y, scale_, bias_);
    if (o.residual != nullptr) {
      const VectorPair added = get_pair(static_cast<const T*>(o.residual) + at);
      y.half[0] += added.half[0];
      y.half[1] += added.half[1];
    }
    for (Vector& half : y.half) half = at_most(at_least(half, least_), most_);
    if (o.out != nullptr) put_pair(y, static_cast<T*>(o.out) + at);
    if (o.out2 == nullptr) return;
    affine(&y, get_pair(o.scale2 + first_), get_pair(o.bias2 + first_));
    for (Vector& half : y.half) half = relu(half);
    put_pair(y, static_cast<T*>(o.out2) + at);
  }

 private:
  SEGBLOCKS_INLINE static void affine(VectorPair* y, VectorPair scale, VectorPair bias) {
    y->half[0] = y->half[0] * scale.half[0] + bias.half[0];
    y->half[1] = y->half[1] * scale.half[1] + bias.half[1];
  }

  int64_t first_ = 0;
  VectorPair scale_ = {};
  VectorPair bias_ = {};
  Vector least_ = {};
  Vector most_ = {};
};

}  // namespace
}  // namespace segblocks::cpu

#endif  // SEGBLOCKS_CPU_TILES_PAIR_WRITER_H_
