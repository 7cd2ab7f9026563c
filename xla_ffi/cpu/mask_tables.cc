// The tables of a mask: images are done one by one, in passes with their counts added up in
// between.

#include <algorithm>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/workers.h"

namespace segblocks::cpu {
namespace {

struct Counts {
  int64_t dilated;
  int64_t mask;
};

class Tables {
 public:
  explicit Tables(const MaskTablesCall& call) : call_(call), layout_(call.layout) {}

  // Numbers the image's active pixels of the dilated mask, from 0 on.
  Counts number(int64_t image) const {
    const MapWindow& dilated = layout_.second;
    const bool* mask = call_.mask + image * layout_.area();
    int32_t* rows = call_.rows + image * layout_.dilated_area();
    std::fill_n(rows, layout_.dilated_area(), -1);
    Counts counts{0, 0};
    for (int64_t y = 0; y < layout_.height; ++y) {
      for (int64_t x = 0; x < layout_.width; ++x) {
        if (!*mask++) continue;
        ++counts.mask;
        const int64_t left = std::max<int64_t>(x * layout_.stride - 1, 0);
        const int64_t right = std::min(x * layout_.stride + 2, dilated.width);
        const int64_t bottom = std::min(y * layout_.stride + 2, dilated.height);
        for (int64_t i = std::max<int64_t>(y * layout_.stride - 1, 0); i < bottom; ++i) {
          for (int64_t j = left; j < right; ++j) rows[i * dilated.width + j] = 0;
        }
      }
    }
    for (int64_t k = 0; k < layout_.dilated_area(); ++k) {
      if (rows[k] == 0) rows[k] = static_cast<int32_t>(counts.dilated++);
    }
    return counts;
  }

  // Writes the image's part of all results, behind those of earlier images.
  void write(int64_t image, const Counts& before) const {
    const auto first_pixel =
        static_cast<int32_t>(image * layout_.first.height * layout_.first.width);
    const auto first_row = static_cast<int32_t>(before.dilated);
    int32_t* rows = call_.rows + image * layout_.dilated_area();
    int32_t* table = call_.first + before.dilated * layout_.first.area();
    int32_t* row = rows;
    for (int64_t y = 0; y < layout_.second.height; ++y) {
      for (int64_t x = 0; x < layout_.second.width; ++x, ++row) {
        if (*row < 0) continue;
        *row += first_row;
        table = window(layout_.first, y, x, table,
                       [&](int64_t source) { return first_pixel + static_cast<int32_t>(source); });
      }
    }
    table = call_.second + before.mask * layout_.second.area();
    int32_t* site = call_.sites + before.mask;
    int64_t pixel = image * layout_.area();
    for (int64_t y = 0; y < layout_.height; ++y) {
      for (int64_t x = 0; x < layout_.width; ++x, ++pixel) {
        if (!call_.mask[pixel]) continue;
        *site++ = static_cast<int32_t>(pixel);
        table = window(layout_.second, y, x, table, [&](int64_t source) { return rows[source]; });
      }
    }
  }

 private:
  // The window of output (y, x); returns where the next one goes.
  template <typename At>
  static int32_t* window(const MapWindow& window, int64_t y, int64_t x, int32_t* out,
                         const At& at) {
    const int64_t top = y * window.stride - window.padding;
    const int64_t left = x * window.stride - window.padding;
    const int64_t end = left + window.side;
    const bool whole = left >= 0 && end <= window.width;
    for (int64_t i = top; i < top + window.side; ++i) {
      if (i >= 0 && i < window.height && whole) {
        for (int64_t j = left; j < end; ++j) *out++ = at(i * window.width + j);
        continue;
      }
      for (int64_t j = left; j < end; ++j) {
        *out++ = window.inside(i, j) ? at(i * window.width + j) : -1;
      }
    }
    return out;
  }

  const MaskTablesCall& call_;
  const MaskTableLayout& layout_;
};

}  // namespace

Problem run(Workers& workers, const TileKernels&, const MaskTablesCall& call) {
  const MaskTableLayout& layout = call.layout;
  const Tables tables(call);
  std::vector<Counts> counts(layout.images);
  const int64_t bytes =
      static_cast<int64_t>(sizeof(int32_t)) * (layout.num_dilated() * (1 + layout.first.area()) +
                                               layout.num_pixels() * (1 + layout.second.area()));
  const auto each_image = [&](const auto& body) {
    parallel_for(workers, layout.images, bytes, [&](int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) body(image);
    });
  };
  each_image([&](int64_t image) { counts[image] = tables.number(image); });
  Counts all{0, 0};
  for (Counts& image : counts) {
    const Counts before = all;
    all = {all.dilated + image.dilated, all.mask + image.mask};
    image = before;
  }
  each_image([&](int64_t image) { tables.write(image, counts[image]); });
  call.dilated_counts[0] = static_cast<int32_t>(all.dilated);
  call.counts[0] = static_cast<int32_t>(all.mask);
  call.dilated_counts[1] = call.counts[1] = 0;
  return {};
}

}  // namespace segblocks::cpu
