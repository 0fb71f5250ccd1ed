#include "gemm/cpu_pack.h"

#include <algorithm>
#include <array>
#include <utility>

#include "util/half_types.h"

namespace convt_gemm {
namespace {

/// Part [begin, end) of a tile's row of inputs that lies in the tensor; the first entry of the row is input `first`.
Range inside(const CpuAxis& axis, const CpuTileAxis& tile, std::int64_t inputs, std::int64_t* first) {
  *first = tile.first_position - axis.halo;
  Range range;
  range.begin = std::clamp<std::int64_t>(-*first, 0, inputs);
  range.end = std::clamp<std::int64_t>(axis.axis.input - *first, range.begin, inputs);
  return range;
}

template <typename Stored, typename T>
void copy_row(const Stored* source, std::int64_t count, T* destination) {
  for (std::int64_t i = 0; i < count; ++i) destination[i] = to_accumulator(source[i]);
}

template <typename T>
void zero(T* begin, T* end) {
  for (; begin < end; ++begin) *begin = T(0);
}

/// Positions whose cache lines are kept while a channels_last row is transposed.
constexpr std::int64_t kTransposeRun = 32;

}  // namespace

template <typename Stored, typename T>
void pack_input(const CpuSchedule& schedule, const CpuTile& tile, const Stored* input, T* packed) {
  const Problem& problem = schedule.problem;
  const CpuTileLayout& layout = tile.layout;
  const std::int64_t channels = problem.group_in_channels();
  const bool channels_last = problem.layout == Layout::channels_last;
  std::array<std::int64_t, kMaxAxes> first;
  std::array<Range, kMaxAxes> valid;
  for (int a = 0; a < kMaxAxes; ++a) valid[a] = inside(schedule.axes[a], tile.axis[a], layout.inputs[a], &first[a]);

  // Strides of the tensor, in elements.
  const std::int64_t step = channels_last ? problem.in_channels : 1;
  const std::int64_t channel_stride = channels_last ? 1 : problem.input_positions();
  const std::int64_t stride1 = problem.axes[2].input * step;
  const std::int64_t stride0 = problem.axes[1].input * stride1;
  const std::int64_t sample_stride = problem.in_channels * problem.input_positions();
  const Stored* const group = input + tile.group * channels * channel_stride + first[2] * step;

  const std::int64_t width = layout.inputs[2];
  const std::int64_t tail = layout.samples * layout.sample_step;
  if (channels_last) {
    for (std::int64_t c = 0; c < channels; ++c) zero(packed + c * layout.channel_step + tail, packed + (c + 1) * layout.channel_step);
    for (std::int64_t s = 0; s < layout.samples; ++s) {
      for (std::int64_t p0 = 0; p0 < layout.inputs[0]; ++p0) {
        for (std::int64_t p1 = 0; p1 < layout.inputs[1]; ++p1) {
          T* const row = packed + s * layout.sample_step + p0 * layout.input_step[0] + p1 * layout.input_step[1];
          const bool in = p0 >= valid[0].begin && p0 < valid[0].end && p1 >= valid[1].begin && p1 < valid[1].end;
          const Range run = in ? valid[2] : Range{0, 0};
          for (std::int64_t c = 0; c < channels; ++c) {
            zero(row + c * layout.channel_step, row + c * layout.channel_step + run.begin);
            zero(row + c * layout.channel_step + run.end, row + c * layout.channel_step + width);
          }
          const Stored* const source =
              group + (tile.first_sample + s) * sample_stride + (first[0] + p0) * stride0 + (first[1] + p1) * stride1;
          for (std::int64_t begin = run.begin; begin < run.end; begin += kTransposeRun) {
            const std::int64_t end = std::min(begin + kTransposeRun, run.end);
            for (std::int64_t c = 0; c < channels; ++c) {
              for (std::int64_t p = begin; p < end; ++p) row[c * layout.channel_step + p] = to_accumulator(source[p * step + c]);
            }
          }
        }
      }
    }
    return;
  }
  for (std::int64_t c = 0; c < channels; ++c) {
    T* row = packed + c * layout.channel_step;
    for (std::int64_t s = 0; s < layout.samples; ++s) {
      const Stored* const sample = group + (tile.first_sample + s) * sample_stride + c * channel_stride;
      for (std::int64_t p0 = 0; p0 < layout.inputs[0]; ++p0) {
        if (p0 < valid[0].begin || p0 >= valid[0].end) {
          zero(row, row + layout.input_step[0]);
          row += layout.input_step[0];
          continue;
        }
        for (std::int64_t p1 = 0; p1 < layout.inputs[1]; ++p1, row += width) {
          if (p1 < valid[1].begin || p1 >= valid[1].end) {
            zero(row, row + width);
            continue;
          }
          const Stored* const source = sample + (first[0] + p0) * stride0 + (first[1] + p1) * stride1;
          zero(row, row + valid[2].begin);
          copy_row(source + valid[2].begin, valid[2].size(), row + valid[2].begin);
          zero(row + valid[2].end, row + width);
        }
      }
    }
    zero(row, packed + (c + 1) * layout.channel_step);
  }
}

ChannelBlock channel_block(const CpuSchedule& schedule, std::int64_t block) {
  ChannelBlock channels;
  channels.first = block * schedule.block;
  channels.count = std::min(schedule.block, schedule.problem.group_out_channels() - channels.first);
  return channels;
}

std::int64_t packed_weight_offset(const CpuSchedule& schedule, std::int64_t group, std::int64_t block, std::int64_t first_depth) {
  const Problem& problem = schedule.problem;
  const ChannelBlock channels = channel_block(schedule, block);
  const std::int64_t per_channel = problem.group_in_channels() * schedule.used_taps;
  return (group * problem.group_out_channels() + channels.first) * per_channel +
         first_depth * channels.count * schedule.used_taps;
}

namespace {

/// Largest panel of any instruction set.
constexpr int kMostPanelRows = 12;

template <typename Stored, typename T>
struct PanelCopy {
  std::int64_t channels;       ///< input channels
  std::int64_t channel_step;   ///< between their weights
  const std::int64_t* offset;  ///< of each row's weight
  const Stored* from;
  T* to;
};

template <int kRows, typename Stored, typename T>
void copy_panel(const PanelCopy<Stored, T>& copy) {
  const Stored* from = copy.from;
  T* to = copy.to;
  for (std::int64_t c = 0; c < copy.channels; ++c, from += copy.channel_step, to += kRows) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) to[r] = to_accumulator(from[copy.offset[r]]);
  }
}

template <typename Stored, typename T, int... kRows>
constexpr std::array<void (*)(const PanelCopy<Stored, T>&), sizeof...(kRows)> copies(std::integer_sequence<int, kRows...>) {
  return {copy_panel<kRows + 1, Stored, T>...};
}

}  // namespace

template <typename Stored, typename T>
void pack_weights(const CpuSchedule& schedule, CpuIsa isa, std::int64_t group, std::int64_t block, std::int64_t first_depth,
                  const Stored* weight, T* packed) {
  static constexpr auto kCopyOf = copies<Stored, T>(std::make_integer_sequence<int, kMostPanelRows>());
  const Problem& problem = schedule.problem;
  const ChannelBlock channels = channel_block(schedule, block);
  const std::int64_t kernel = problem.taps();
  const std::int64_t weight_step = problem.group_out_channels() * kernel;
  const std::int64_t depth = std::min(schedule.depth_chunk, problem.group_in_channels() - first_depth);
  const std::int64_t kernel2 = problem.axes[2].kernel, kernel12 = problem.axes[1].kernel * kernel2;
  const std::array<std::int64_t, kMaxAxes> lead_step{kernel12, kernel2, 1};
  std::array<std::int64_t, kMaxAxes> tap_step;
  for (int a = 0; a < kMaxAxes; ++a) tap_step[a] = schedule.axes[a].residues.tap_step * lead_step[a];
  const Stored* const source =
      weight + (group * problem.group_in_channels() + first_depth) * weight_step + channels.first * kernel;

  // A few input channels at a time: their weights stay in the first-level cache until every tap has been copied.
  constexpr std::int64_t kStreams = 8;
  for (std::int64_t c = 0; c < depth; c += kStreams) {
    T* class_base = packed;
    for_each_class(schedule, [&](const LeadClasses& classes) {
      const auto& axis = classes.axis;
      const std::int64_t rows = channels.count * classes.leads();
      const RowPanels panels = cpu_row_panels(isa, rows);
      const std::int64_t first_lead = axis[0].first * lead_step[0] + axis[1].first * lead_step[1] + axis[2].first;
      std::int64_t channel = 0, l0 = 0, l1 = 0, l2 = 0;  // of the next row
      for (std::int64_t p = 0; p < panels.count; ++p) {
        const std::int64_t panel_rows = p < panels.longer ? panels.size : panels.size - 1;
        std::array<std::int64_t, kMostPanelRows> offset;
        for (std::int64_t r = 0; r < panel_rows; ++r) {
          offset[r] = channel * kernel + first_lead + l0 * lead_step[0] + l1 * lead_step[1] + l2;
          if (++l2 < axis[2].count) continue;
          l2 = 0;
          if (++l1 < axis[1].count) continue;
          l1 = 0;
          if (++l0 < axis[0].count) continue;
          l0 = 0;
          ++channel;
        }
        PanelCopy<Stored, T> copy{std::min(kStreams, depth - c), weight_step, offset.data(), nullptr, class_base + c * panel_rows};
        for (std::int64_t j0 = 0; j0 < axis[0].taps; ++j0) {
          for (std::int64_t j1 = 0; j1 < axis[1].taps; ++j1) {
            for (std::int64_t j2 = 0; j2 < axis[2].taps; ++j2, copy.to += depth * panel_rows) {
              copy.from = source + c * weight_step + j0 * tap_step[0] + j1 * tap_step[1] + j2 * tap_step[2];
              kCopyOf[panel_rows - 1](copy);
            }
          }
        }
        class_base += panel_rows * classes.taps() * depth;
      }
    });
  }
}

template void pack_input(const CpuSchedule&, const CpuTile&, const float*, float*);
template void pack_input(const CpuSchedule&, const CpuTile&, const double*, double*);
template void pack_input(const CpuSchedule&, const CpuTile&, const BFloat16*, float*);
template void pack_input(const CpuSchedule&, const CpuTile&, const Float16*, float*);
template void pack_weights(const CpuSchedule&, CpuIsa, std::int64_t, std::int64_t, std::int64_t, const float*, float*);
template void pack_weights(const CpuSchedule&, CpuIsa, std::int64_t, std::int64_t, std::int64_t, const double*, double*);
template void pack_weights(const CpuSchedule&, CpuIsa, std::int64_t, std::int64_t, std::int64_t, const BFloat16*, float*);
template void pack_weights(const CpuSchedule&, CpuIsa, std::int64_t, std::int64_t, std::int64_t, const Float16*, float*);

}  // namespace convt_gemm
