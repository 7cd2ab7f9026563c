// PTX's arithmetic in C++. Functions bear the names of the instructions.

#ifndef SEGBLOCKS_PTX_ARITHMETIC_H_
#define SEGBLOCKS_PTX_ARITHMETIC_H_

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace segblocks::ptx {

struct Dim3 {
  uint32_t x = 1;
  uint32_t y = 1;
  uint32_t z = 1;
};

inline float float_of_bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
inline uint16_t bf16_of_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value != value) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float float_of_f16(uint16_t bits) {
  return static_cast<float>(std::bit_cast<_Float16>(bits));
}
inline uint16_t f16_of_float(float value) {
  if (value != value) return 0x7fff;
  return std::bit_cast<uint16_t>(static_cast<_Float16>(value));
}

struct F16 {
  uint16_t bits;
  F16() = default;
  explicit F16(float value) : bits(f16_of_float(value)) {}
  operator float() const { return float_of_f16(bits); }
};
struct BF16 {
  uint16_t bits;
  BF16() = default;
  explicit BF16(float value) : bits(bf16_of_float(value)) {}
  operator float() const { return float_of_bf16(bits); }
};
template <typename T>
struct Pair {
  T low;
  T high;
};

template <typename T>
constexpr bool kIsSmall = std::is_same_v<T, F16> || std::is_same_v<T, BF16>;
template <typename T>
constexpr bool kIsPair = std::is_same_v<T, Pair<F16>> || std::is_same_v<T, Pair<BF16>>;
template <typename T>
constexpr bool kIsReal = std::is_floating_point_v<T> || kIsSmall<T>;

// A register read as a T: its low bits, where it is wider.
template <typename T, typename S>
inline T as(S value) {
  if constexpr (std::is_same_v<T, S>) {
    return value;
  } else if constexpr (sizeof(T) == sizeof(S)) {
    return std::bit_cast<T>(value);
  } else {
    static_assert(sizeof(T) < sizeof(S) && std::is_integral_v<S>);
    T result;
    std::memcpy(&result, &value, sizeof(T));
    return result;
  }
}

// A T written to a register. A wider one is filled up with zeros, or by the sign.
template <typename T, typename D>
inline void put(D& to, T value) {
  if constexpr (std::is_same_v<T, D>) {
    to = value;
  } else if constexpr (sizeof(T) == sizeof(D)) {
    to = std::bit_cast<D>(value);
  } else {
    static_assert(sizeof(T) < sizeof(D) && std::is_integral_v<D>);
    if constexpr (std::is_integral_v<T>) {
      to = static_cast<D>(value);
    } else {
      to = 0;
      std::memcpy(&to, &value, sizeof(T));
    }
  }
}

template <typename T>
using Unsigned = std::make_unsigned_t<T>;
template <typename T>
using Wide =
    std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
                       std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>;
template <typename T>
using Twice = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;

// Applies a function of floats to narrower types, and to both halves of pairs.
template <typename T, typename F, typename... Ts>
inline T by_float(const F& function, Ts... values) {
  if constexpr (kIsPair<T>) {
    using Half = decltype(T::low);
    return {Half(function(static_cast<float>(values.low)...)),
            Half(function(static_cast<float>(values.high)...))};
  } else {
    return T(function(static_cast<float>(values)...));
  }
}

#define SEGBLOCKS_PTX_BINARY(name, op)                                                   \
  template <typename T>                                                                  \
  inline T name(T a, T b) {                                                              \
    if constexpr (std::is_integral_v<T>) {                                               \
      return static_cast<T>(static_cast<Unsigned<T>>(a) op static_cast<Unsigned<T>>(b)); \
    } else if constexpr (std::is_floating_point_v<T>) {                                  \
      return a op b;                                                                     \
    } else {                                                                             \
      return by_float<T>([](float x, float y) { return x op y; }, a, b);                 \
    }                                                                                    \
  }
SEGBLOCKS_PTX_BINARY(add, +)
SEGBLOCKS_PTX_BINARY(sub, -)
SEGBLOCKS_PTX_BINARY(mul, *)
#undef SEGBLOCKS_PTX_BINARY

template <typename T>
inline T fma(T a, T b, T c) {
  if constexpr (std::is_floating_point_v<T>) {
    return std::fma(a, b, c);
  } else {
    // Exact products and one rounding: double holds them.
    return by_float<T>([](float x, float y,
                          float z) { return static_cast<float>(static_cast<double>(x) * y + z); },
                       a, b, c);
  }
}
template <typename T>
inline T mad(T a, T b, T c) {
  if constexpr (std::is_integral_v<T>) {
    return add<T>(mul<T>(a, b), c);
  } else {
    return fma<T>(a, b, c);
  }
}
template <typename T>
inline Wide<T> mul_wide(T a, T b) {
  return static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b);
}
template <typename T>
inline Wide<T> mad_wide(T a, T b, Wide<T> c) {
  return add<Wide<T>>(mul_wide<T>(a, b), c);
}
template <typename T>
inline T mul_hi(T a, T b) {
  return static_cast<T>(static_cast<Twice<T>>(a) * static_cast<Twice<T>>(b) >> 8 * sizeof(T));
}
template <typename T>
inline T mad_hi(T a, T b, T c) {
  return add<T>(mul_hi<T>(a, b), c);
}

template <typename T>
inline T div(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    if (b == 0) return static_cast<T>(-1);
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return sub<T>(0, a);
  }
  return a / b;
}
template <typename T>
inline T rem(T a, T b) {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return a % b;
}

template <typename T>
inline T neg(T a) {
  if constexpr (std::is_integral_v<T>) {
    return sub<T>(0, a);
  } else if constexpr (std::is_floating_point_v<T>) {
    return -a;
  } else {
    return by_float<T>([](float x) { return -x; }, a);
  }
}
template <typename T>
inline T abs(T a) {
  if constexpr (std::is_integral_v<T>) {
    return a < 0 ? sub<T>(0, a) : a;
  } else if constexpr (std::is_floating_point_v<T>) {
    return std::fabs(a);
  } else {
    return by_float<T>([](float x) { return std::fabs(x); }, a);
  }
}
// Of floats the number, where one of them is none.
template <typename T>
inline T min(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    return std::min(a, b);
  } else {
    return by_float<T>([](float x, float y) { return std::fmin(x, y); }, a, b);
  }
}
template <typename T>
inline T max(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    return std::max(a, b);
  } else {
    return by_float<T>([](float x, float y) { return std::fmax(x, y); }, a, b);
  }
}
template <typename T>
inline T min_nan(T a, T b) {
  return by_float<T>([](float x, float y) { return x != x || y != y ? NAN : std::fmin(x, y); }, a,
                     b);
}
template <typename T>
inline T max_nan(T a, T b) {
  return by_float<T>([](float x, float y) { return x != x || y != y ? NAN : std::fmax(x, y); }, a,
                     b);
}
template <typename T>
inline T rcp(T a) {
  return 1 / a;
}
template <typename T>
inline T sqrt(T a) {
  return std::sqrt(a);
}
template <typename T>
inline T rsqrt(T a) {
  return 1 / std::sqrt(a);
}
template <typename T>
inline T ex2(T a) {
  return std::exp2(a);
}
template <typename T>
inline T lg2(T a) {
  return std::log2(a);
}

template <typename T>
inline T and_(T a, T b) {
  return a & b;
}
template <typename T>
inline T or_(T a, T b) {
  return a | b;
}
template <typename T>
inline T xor_(T a, T b) {
  return a ^ b;
}
template <typename T>
inline T not_(T a) {
  if constexpr (std::is_same_v<T, bool>) {
    return !a;
  } else {
    return static_cast<T>(~a);
  }
}
template <typename T>
inline T shl(T a, uint32_t n) {
  return n >= 8 * sizeof(T) ? 0 : static_cast<T>(static_cast<Unsigned<T>>(a) << n);
}
template <typename T>
inline T shr(T a, uint32_t n) {
  if (n >= 8 * sizeof(T)) return a < 0 ? static_cast<T>(-1) : 0;
  return static_cast<T>(a >> n);
}
inline uint32_t shf_l(uint32_t low, uint32_t high, uint32_t n) {
  return static_cast<uint32_t>(((static_cast<uint64_t>(high) << 32 | low) << n) >> 32);
}
inline uint32_t shf_r(uint32_t low, uint32_t high, uint32_t n) {
  return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) >> n);
}
template <typename T>
inline T bfe(T a, uint32_t first, uint32_t bits) {
  constexpr uint32_t kBits = 8 * sizeof(T);
  first &= 255;
  bits &= 255;
  if (bits == 0) return 0;
  const uint32_t last = std::min(first + bits - 1, kBits - 1);
  const bool negative = std::is_signed_v<T> && (static_cast<Unsigned<T>>(a) >> last & 1);
  if (first >= kBits) return negative ? static_cast<T>(-1) : 0;
  const uint32_t shift = kBits - 1 - last;
  return static_cast<T>(static_cast<T>(static_cast<Unsigned<T>>(a) << shift) >> shift >> first);
}
template <typename T>
inline T bfi(T a, T b, uint32_t first, uint32_t bits) {
  const T mask = bits >= 8 * sizeof(T) ? static_cast<T>(-1) : static_cast<T>((T{1} << bits) - 1);
  return static_cast<T>((b & ~shl<T>(mask, first)) | shl<T>(static_cast<T>(a & mask), first));
}
inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t result = 0;
  for (int i = 0; i < 8; ++i) {
    if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  }
  return result;
}
inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t choice) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t chosen = choice >> 4 * i & 15;
    const uint32_t byte = bytes >> 8 * (chosen & 7) & 255;
    result |= (chosen & 8 ? (byte & 128 ? 255 : 0) : byte) << 8 * i;
  }
  return result;
}
template <typename T>
inline uint32_t popc(T a) {
  return static_cast<uint32_t>(std::popcount(a));
}
template <typename T>
inline uint32_t clz(T a) {
  return static_cast<uint32_t>(std::countl_zero(a));
}
template <typename T>
inline T brev(T a) {
  T result = 0;
  for (size_t i = 0; i < 8 * sizeof(T); ++i) result |= (a >> i & 1) << (8 * sizeof(T) - 1 - i);
  return result;
}

// Between types; reals become the nearest integer in the direction given, within its range.
enum class Round { kNone, kNearest, kZero, kDown, kUp };
template <typename To, Round kRound, typename From>
inline To cvt(From value) {
  if constexpr (kIsReal<From> && std::is_integral_v<To>) {
    const double real =
        static_cast<double>(static_cast<std::conditional_t<kIsSmall<From>, float, From>>(value));
    if (real != real) return 0;
    const double whole = kRound == Round::kNearest ? std::nearbyint(real)
                         : kRound == Round::kDown  ? std::floor(real)
                         : kRound == Round::kUp    ? std::ceil(real)
                                                   : std::trunc(real);
    using Limits = std::numeric_limits<To>;
    if (whole <= static_cast<double>(Limits::lowest())) return Limits::lowest();
    if (whole >= static_cast<double>(Limits::max())) return Limits::max();
    return static_cast<To>(whole);
  } else if constexpr (kIsSmall<To> || kIsSmall<From>) {
    return To(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, float> && std::is_same_v<From, float>) {
    // Integral, where a direction is given.
    return kRound == Round::kNearest ? std::nearbyint(value)
           : kRound == Round::kZero  ? std::trunc(value)
           : kRound == Round::kDown  ? std::floor(value)
           : kRound == Round::kUp    ? std::ceil(value)
                                     : value;
  } else {
    return static_cast<To>(value);
  }
}

template <typename T>
inline bool is_nan(T a) {
  if constexpr (std::is_floating_point_v<T>) {
    return a != a;
  } else if constexpr (kIsSmall<T>) {
    return static_cast<float>(a) != static_cast<float>(a);
  } else {
    return false;
  }
}

}  // namespace segblocks::ptx

#endif  // SEGBLOCKS_PTX_ARITHMETIC_H_
