// Division by a number that all threads share: a product and shifts.

#ifndef SEGBLOCKS_CUDA_DIVISOR_H_
#define SEGBLOCKS_CUDA_DIVISOR_H_

#include <cstdint>

#include "segblocks/macros.h"

namespace segblocks {

// Divides 0 .. 2^31-1 exactly; see Granlund and Montgomery, "Division by invariant integers using
// multiplication" (1994). With L = ceil(log2 d) and m = ceil(2^(31+L) / d), m exceeds its quotient
// by less than 2^L / d / 2^L, which is too little to matter below 2^31.
class Divisor {
 public:
  Divisor() = default;
  // At least 1; a 0, by which nothing is divided, becomes 1.
  explicit Divisor(int64_t value) : value_(static_cast<int32_t>(value < 1 ? 1 : value)) {
    while ((int64_t{1} << shift_) < value_) ++shift_;
    const uint64_t power = uint64_t{1} << (31 + shift_);
    multiplier_ = static_cast<uint32_t>((power + value_ - 1) / value_);
  }

  SEGBLOCKS_HD int32_t value() const { return value_; }

  SEGBLOCKS_HD int32_t divide(int32_t number) const {
    const uint32_t twice = 2 * static_cast<uint32_t>(number);
#ifdef __CUDA_ARCH__
    const uint32_t high = __umulhi(twice, multiplier_);
#else
    const auto high = static_cast<uint32_t>(uint64_t{twice} * multiplier_ >> 32);
#endif
    return static_cast<int32_t>(high >> shift_);
  }

  // The quotient; *rest becomes the remainder.
  SEGBLOCKS_HD int32_t divide(int32_t number, int32_t* rest) const {
    const int32_t quotient = divide(number);
    *rest = number - quotient * value_;
    return quotient;
  }

 private:
  int32_t value_ = 1;
  uint32_t multiplier_ = 0;
  uint32_t shift_ = 0;
};

}  // namespace segblocks

#endif  // SEGBLOCKS_CUDA_DIVISOR_H_
