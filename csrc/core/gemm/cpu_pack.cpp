#include "gemm/cpu_pack.h"

#include <algorithm>
#include <array>
#include <utility>

#include "util/half_types.h"
#include "util/transpose.h"

namespace convt_gemm {
namespace {

/// The inputs of one axis of a packed tile: runs of neighbouring inputs, one after the other.
class Runs {
 public:
  Runs(const CpuAxis& axis, const CpuTileAxis& tile, const CpuTileLayout& layout, int a)
      : extent_(axis.axis.input),
        step_(axis.residues.input_step),
        first_(tile.first_position - (axis.most_taps - 1) * step_) {
    const bool separate = layout.window_step[a] < step_;
    count_ = separate ? axis.most_taps : 1;
    length_ = layout.inputs[a] / count_;
  }

  std::int64_t count() const { return count_; }
  std::int64_t length() const { return length_; }
  /// The input at place 0 of a run; it and others may lie outside the tensor.
  std::int64_t first(std::int64_t run) const { return first_ + run * step_; }
  /// Places of a run that lie in the tensor.
  Range inside(std::int64_t run) const {
    Range range;
    range.begin = std::clamp<std::int64_t>(-first(run), 0, length_);
    range.end = std::clamp<std::int64_t>(extent_ - first(run), range.begin, length_);
    return range;
  }
  /// The input at a place of the packed axis, -1 if it lies outside the tensor.
  std::int64_t input(std::int64_t place) const {
    const std::int64_t input = first(place / length_) + place % length_;
    return input >= 0 && input < extent_ ? input : -1;
  }

 private:
  std::int64_t extent_, step_, first_;
  std::int64_t count_ = 1, length_ = 1;
};

template <typename Stored, typename T>
void copy_row(const Stored* source, std::int64_t count, T* destination) {
  for (std::int64_t i = 0; i < count; ++i) destination[i] = to_accumulator(source[i]);
}

template <typename T>
void zero(T* begin, T* end) {
  for (; begin < end; ++begin) *begin = T(0);
}

/// `length` neighbouring inputs of every channel, of which `valid` lie in the tensor: [input][channel] to
/// [channel][input].
template <typename Stored, typename T>
void transpose_run(const Stored* source, std::int64_t input_step, Range valid, std::int64_t length,
                   std::int64_t channels, std::int64_t channel_step, T* packed) {
  for (std::int64_t c = 0; c < channels; ++c) {
    T* const row = packed + c * channel_step;
    zero(row, row + valid.begin);
    zero(row + valid.end, row + length);
  }
  if (valid.size() > 0) {
    transpose(
        source + valid.begin * input_step, input_step, valid.size(), channels, [](std::int64_t) { return T(0); },
        packed + valid.begin, channel_step);
  }
}

}  // namespace

template <typename Stored, typename T>
void pack_input(const CpuSchedule& schedule, const CpuTile& tile, const Stored* input, T* packed) {
  const Problem& problem = schedule.problem;
  const CpuTileLayout& layout = tile.layout;
  const std::int64_t channels = problem.group_in_channels();
  const Runs runs0(schedule.axes[0], tile.axis[0], layout, 0), runs1(schedule.axes[1], tile.axis[1], layout, 1),
      runs2(schedule.axes[2], tile.axis[2], layout, 2);

  // Strides of the tensor, in elements.
  const bool channels_last = problem.layout == Layout::channels_last;
  const std::int64_t step = channels_last ? problem.in_channels : 1;
  const std::int64_t channel_stride = channels_last ? 1 : problem.input_positions();
  const std::int64_t stride1 = problem.axes[2].input * step;
  const std::int64_t stride0 = problem.axes[1].input * stride1;
  const std::int64_t sample_stride = problem.in_channels * problem.input_positions();
  const Stored* const group = input + tile.group * channels * channel_stride + tile.first_sample * sample_stride;

  const std::int64_t width = layout.inputs[2], height = layout.inputs[1];
  const std::int64_t last = layout.input_of(layout.samples - 1, layout.inputs[0] - 1, height - 1) + width;
  if (channels_last) {
    for (std::int64_t c = 0; c < channels; ++c)
      zero(packed + c * layout.channel_step + last, packed + (c + 1) * layout.channel_step);
    for (std::int64_t s = 0; s < layout.samples; ++s) {
      for (std::int64_t p0 = 0; p0 < layout.inputs[0]; ++p0) {
        for (std::int64_t p1 = 0; p1 < layout.inputs[1]; ++p1) {
          const std::int64_t i0 = runs0.input(p0), i1 = runs1.input(p1);
          const Stored* const line = group + s * sample_stride + i0 * stride0 + i1 * stride1;
          T* row = packed + layout.input_of(s, p0, p1);
          for (std::int64_t run = 0; run < runs2.count(); ++run, row += runs2.length()) {
            const Range valid = i0 < 0 || i1 < 0 ? Range{0, 0} : runs2.inside(run);
            transpose_run(line + runs2.first(run) * step, step, valid, runs2.length(), channels, layout.channel_step,
                          row);
          }
        }
      }
    }
    return;
  }
  for (std::int64_t c = 0; c < channels; ++c) {
    T* const channel = packed + c * layout.channel_step;
    for (std::int64_t s = 0; s < layout.samples; ++s) {
      const Stored* const sample = group + s * sample_stride + c * channel_stride;
      for (std::int64_t p0 = 0; p0 < layout.inputs[0]; ++p0) {
        const std::int64_t i0 = runs0.input(p0);
        if (i0 < 0) {
          T* const plane = channel + layout.input_of(s, p0, 0);
          zero(plane, plane + layout.input_of(0, 0, height - 1) + width);
          continue;
        }
        for (std::int64_t p1 = 0; p1 < height; ++p1) {
          const std::int64_t i1 = runs1.input(p1);
          T* row = channel + layout.input_of(s, p0, p1);
          if (i1 < 0) {
            zero(row, row + width);
            continue;
          }
          const Stored* const line = sample + i0 * stride0 + i1 * stride1;
          for (std::int64_t run = 0; run < runs2.count(); ++run, row += runs2.length()) {
            const Range valid = runs2.inside(run);
            zero(row, row + valid.begin);
            if (valid.size() > 0) copy_row(line + runs2.first(run) + valid.begin, valid.size(), row + valid.begin);
            zero(row + valid.end, row + runs2.length());
          }
        }
      }
    }
    zero(channel + last, channel + layout.channel_step);
  }
}

ChannelBlock channel_block(const CpuSchedule& schedule, std::int64_t block) {
  ChannelBlock channels;
  channels.first = block * schedule.block;
  channels.count = std::min(schedule.block, schedule.problem.group_out_channels() - channels.first);
  return channels;
}

std::int64_t packed_weight_offset(const CpuSchedule& schedule, std::int64_t group, std::int64_t block,
                                  std::int64_t first_depth) {
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
constexpr std::array<void (*)(const PanelCopy<Stored, T>&), sizeof...(kRows)> copies(
    std::integer_sequence<int, kRows...>) {
  return {copy_panel<kRows + 1, Stored, T>...};
}

}  // namespace

template <typename Stored, typename T>
void pack_weights(const CpuSchedule& schedule, CpuIsa isa, std::int64_t group, std::int64_t block,
                  std::int64_t first_depth, const Stored* weight, T* packed) {
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
  const Stored* source =
      weight + (group * problem.group_in_channels() + first_depth) * weight_step + channels.first * kernel;
  for (int a = 0; a < kMaxAxes; ++a) source += schedule.axes[a].first_tap * lead_step[a];

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
      std::array<std::int64_t, kMostPanelRows> offset;
      const bool one_lead = classes.leads() == 1;
      for (std::int64_t r = 0; one_lead && r < kMostPanelRows; ++r) offset[r] = r * kernel;
      for (std::int64_t p = 0; p < panels.count; ++p) {
        const std::int64_t panel_rows = p < panels.longer ? panels.size : panels.size - 1;
        const Stored* const first = source + c * weight_step + first_lead + (one_lead ? channel * kernel : 0);
        if (one_lead) channel += panel_rows;
        for (std::int64_t r = 0; !one_lead && r < panel_rows; ++r) {
          offset[r] = channel * kernel + l0 * lead_step[0] + l1 * lead_step[1] + l2;
          if (++l2 < axis[2].count) continue;
          l2 = 0;
          if (++l1 < axis[1].count) continue;
          l1 = 0;
          if (++l0 < axis[0].count) continue;
          l0 = 0;
          ++channel;
        }
        PanelCopy<Stored, T> copy{std::min(kStreams, depth - c), weight_step, offset.data(), nullptr,
                                  class_base + c * panel_rows};
        for (std::int64_t j0 = 0; j0 < axis[0].taps; ++j0) {
          for (std::int64_t j1 = 0; j1 < axis[1].taps; ++j1) {
            for (std::int64_t j2 = 0; j2 < axis[2].taps; ++j2, copy.to += depth * panel_rows) {
              copy.from = first + j0 * tap_step[0] + j1 * tap_step[1] + j2 * tap_step[2];
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
template void pack_weights(const CpuSchedule&, CpuIsa, std::int64_t, std::int64_t, std::int64_t, const double*,
                           double*);
template void pack_weights(const CpuSchedule&, CpuIsa, std::int64_t, std::int64_t, std::int64_t, const BFloat16*,
                           float*);
template void pack_weights(const CpuSchedule&, CpuIsa, std::int64_t, std::int64_t, std::int64_t, const Float16*,
                           float*);

}  // namespace convt_gemm
