#pragma once
// Columns to outputs: every output of a tile is written once, from the one column of its residue.
#include <cstdint>

#include "gemm/cpu_pack.h"
#include "plan/cpu_schedule.h"

namespace convt_gemm {

/// Writes the outputs of a tile for one block of output channels. `columns` are
/// [class][channel][lead][segment][position]; `bias` is null or [out_channels]; `line` holds schedule.line_elements
/// values and is used for 16-bit outputs only.
template <typename Stored, typename T>
void cpu_col2im(const CpuSchedule& schedule, const CpuTile& tile, std::int64_t block, const T* columns,
                const Stored* bias, T* line, Stored* output);

}  // namespace convt_gemm
