#pragma once
// Copies of input and weights in the order in which the CPU's product reads them, converted to the accumulation type.
#include <array>
#include <cstdint>

#include "gemm/cpu_gemm.h"
#include "plan/cpu_schedule.h"

namespace convt_gemm {

/// The part of the output that one task computes, and where its inputs lie.
struct CpuTile {
  std::int64_t group = 0;
  std::int64_t first_sample = 0;
  std::array<CpuTileAxis, kMaxAxes> axis;
  CpuTileLayout layout;
};

/// Fills [channel][sample][axis 0][axis 1][axis 2] of the tile's group; inputs outside the tensor become zeros.
template <typename Stored, typename T>
void pack_input(const CpuSchedule& schedule, const CpuTile& tile, const Stored* input, T* packed);

/// Leads of one class on every axis.
struct LeadClasses {
  std::array<LeadClass, kMaxAxes> axis;
  std::array<int, kMaxAxes> index;  ///< of the class on its axis

  std::int64_t leads() const { return axis[0].count * axis[1].count * axis[2].count; }
  std::int64_t taps() const { return axis[0].taps * axis[1].taps * axis[2].taps; }
};

/// Calls body(classes) for every combination of the axes' classes, last axis fastest: the order of rows and packed
/// weights.
template <typename Body>
void for_each_class(const CpuSchedule& schedule, Body body) {
  for (int c0 = 0; c0 < schedule.axes[0].classes; ++c0) {
    for (int c1 = 0; c1 < schedule.axes[1].classes; ++c1) {
      for (int c2 = 0; c2 < schedule.axes[2].classes; ++c2) {
        body(LeadClasses{
            {schedule.axes[0].lead_class[c0], schedule.axes[1].lead_class[c1], schedule.axes[2].lead_class[c2]},
            {c0, c1, c2}});
      }
    }
  }
}

/// Output channels of a block of a group.
struct ChannelBlock {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

ChannelBlock channel_block(const CpuSchedule& schedule, std::int64_t block);

/// Where the packed weights of (group, block, first channel of a depth chunk) begin among those of the whole problem.
std::int64_t packed_weight_offset(const CpuSchedule& schedule, std::int64_t group, std::int64_t block,
                                  std::int64_t first_depth);

/// One block and depth chunk: [class][row panel][taps][input channel][row in panel], row = (output channel, lead).
template <typename Stored, typename T>
void pack_weights(const CpuSchedule& schedule, CpuIsa isa, std::int64_t group, std::int64_t block,
                  std::int64_t first_depth, const Stored* weight, T* packed);

}  // namespace convt_gemm
