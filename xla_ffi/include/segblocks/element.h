#ifndef SEGBLOCKS_ELEMENT_H_
#define SEGBLOCKS_ELEMENT_H_

#include <cstdint>

namespace segblocks {

enum class Element { kFloat32, kBFloat16, kFloat16, kUint8 };

inline int64_t element_bytes(Element element) {
  if (element == Element::kUint8) return 1;
  return element == Element::kFloat32 ? 4 : 2;
}

}  // namespace segblocks

#endif  // SEGBLOCKS_ELEMENT_H_
