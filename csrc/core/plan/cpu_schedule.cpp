#include "plan/cpu_schedule.h"

#include <algorithm>
#include <limits>

#include "plan/arithmetic.h"

namespace convt_gemm {
namespace {

/// Columns of one block, and packed weights of one block and depth chunk: together they leave half of a 512 KiB
/// second-level cache to the input tile.
constexpr std::int64_t kColumnBytes = 128 << 10;
constexpr std::int64_t kBlockWeightBytes = 160 << 10;

/// Rows of a panel that fill AVX2's registers.
constexpr std::int64_t kPanelRows = 6;

/// From so many output channels on, every lead is a class of its own.
constexpr std::int64_t kSplitChannels = 12;

/// Positions that one vector of AVX2 holds, and the effort per segment in positions.
constexpr std::int64_t kCostLane = 8;
constexpr std::int64_t kSegmentCost = 4;

/// A row length that does not put equal places of successive rows into one cache set.
std::int64_t spread_row(std::int64_t elements) { return (ceil_div(elements, kCpuLane) | 1) * kCpuLane; }

/// Position m of a lead's first output at or after u.
std::int64_t first_position(const CpuAxis& a, std::int64_t lead, std::int64_t u) {
  const std::int64_t offset = u - lead * a.residues.input_step;
  return offset >= 0 ? ceil_div(offset, a.residues.tap_step) : -(-offset / a.residues.tap_step);
}

CpuTileAxis positions_of(const CpuAxis& a, Range output) {
  const std::int64_t first_u = ceil_div(output.begin + a.axis.padding, a.residues.gcd);
  const std::int64_t last_u = (output.end - 1 + a.axis.padding) / a.residues.gcd;
  CpuTileAxis tile;
  tile.output = output;
  tile.first_position = first_position(a, std::max<std::int64_t>(a.leads - 1, 0), first_u);
  tile.positions = std::max<std::int64_t>(first_position(a, 0, last_u + 1) - tile.first_position, 1);
  for (int c = 0; c < a.classes; ++c) {
    const LeadClass& leads = a.lead_class[c];
    Range& range = tile.of_class[c];
    range.begin = first_position(a, leads.first + leads.count - 1, first_u) - tile.first_position;
    range.end = std::max(range.begin, first_position(a, leads.first, last_u + 1) - tile.first_position);
    tile.most_of_class = std::max(tile.most_of_class, range.size());
  }
  std::int64_t pairs = 0;
  for (std::int64_t j = 0; j < a.most_taps; ++j) {
    const std::int64_t begin = std::max(tile.first_position, j * a.residues.input_step);
    const std::int64_t end = std::min(tile.first_position + tile.positions, j * a.residues.input_step + a.axis.input);
    pairs += std::max<std::int64_t>(end - begin, 0);
  }
  tile.taps_in_tensor = double(pairs) / double(tile.positions * a.most_taps);
  const std::int64_t halo = (a.most_taps - 1) * a.residues.input_step;
  const std::int64_t first_input = tile.first_position - halo;
  const std::int64_t leading = -first_input, trailing = tile.first_position + tile.positions - a.axis.input;
  // No more than the halo, so that the columns of neighbouring lines stay apart; none if windows do not overlap.
  if (a.residues.input_step <= tile.positions) {
    tile.shared_zeros = std::clamp<std::int64_t>(std::min(leading, trailing), 0, halo);
  }
  return tile;
}

/// Blocks of about `most` channels that give whole row panels, or one block.
std::int64_t even_block(std::int64_t most, std::int64_t channels) {
  const std::int64_t even = ceil_div(channels, ceil_div(channels, most));
  if (even == channels || even < kPanelRows) return even;
  const std::int64_t up = round_up(even, kPanelRows);
  return std::min(up <= most + most / 5 ? up : up - kPanelRows, channels);
}

std::int64_t accumulator_size(DType dtype) { return dtype == DType::float64 ? 8 : 4; }

}  // namespace

CpuAxis cpu_axis(const Axis& axis, bool split_leads) {
  CpuAxis a;
  a.axis = axis;
  // Tap k writes outputs from k*dilation - padding to (input-1)*stride + k*dilation - padding. The padding stays
  // non-negative.
  const std::int64_t before = axis.padding - (axis.input - 1) * axis.stride;
  a.first_tap = before <= 0 ? 0 : std::min(ceil_div(before, axis.dilation), axis.padding / axis.dilation);
  const std::int64_t last_tap = std::min(axis.kernel - 1, (axis.output() - 1 + axis.padding) / axis.dilation);
  a.axis.padding -= a.first_tap * axis.dilation;
  a.axis.kernel = std::max<std::int64_t>(last_tap + 1 - a.first_tap, 0);
  a.axis.output_padding = 0;
  if (axis.input == 1) {
    // The stride of a single input is never used. One that exceeds the kernel gives every output its own residue with a
    // single tap, so that no product with a zero from the halo is formed.
    const std::int64_t last_u = (a.axis.padding + axis.output() - 1) / axis.dilation;
    a.axis.stride = axis.dilation * std::max(a.axis.kernel, last_u + 1);
  }
  a.residues = residues_of(a.axis);
  const std::int64_t step = a.residues.tap_step;
  a.leads = std::min(step, a.axis.kernel);
  a.most_taps = std::max<std::int64_t>(ceil_div(a.axis.kernel, step), 1);
  const std::int64_t longer = a.axis.kernel % step;
  if (split_leads && a.leads <= kMaxLeadClasses) {
    a.classes = int(a.leads);
    for (std::int64_t lead = 0; lead < a.leads; ++lead)
      a.lead_class[lead] = {lead, 1, ceil_div(a.axis.kernel - lead, step)};
  } else if (a.axis.kernel <= step || longer == 0) {
    a.classes = a.leads == 0 ? 0 : 1;
    a.lead_class[0] = {0, a.leads, a.most_taps};
  } else {
    a.classes = 2;
    a.lead_class[0] = {0, longer, a.most_taps};
    a.lead_class[1] = {longer, a.leads - longer, a.most_taps - 1};
  }
  return a;
}

CpuTileLayout::CpuTileLayout(const std::array<CpuAxis, kMaxAxes>& axes, std::int64_t sample_count,
                             const std::array<CpuTileAxis, kMaxAxes>& tile, std::int64_t most_row_step)
    : samples(sample_count) {
  std::array<std::int64_t, kMaxAxes> most;
  for (int a = 0; a < kMaxAxes; ++a) {
    positions[a] = tile[a].positions;
    most[a] = tile[a].most_of_class;
    window_step[a] = std::min(axes[a].residues.input_step, positions[a]);
    halo[a] = (axes[a].most_taps - 1) * window_step[a];
    inputs[a] = positions[a] + halo[a];
  }
  input_step[1] = inputs[2] - tile[2].shared_zeros;
  input_step[0] = (inputs[1] - tile[1].shared_zeros) * input_step[1];
  sample_step = (inputs[0] - tile[0].shared_zeros) * input_step[0];
  // Behind the last input there is what its line, plane and sample do not share, and one lane that the last vector may
  // reach.
  const std::int64_t unshared =
      tile[2].shared_zeros + tile[1].shared_zeros * input_step[1] + tile[0].shared_zeros * input_step[0];
  channel_step = spread_row(samples * sample_step + unshared + kCpuLane);

  // Positions that a way to merge goes through for one class, and places for the columns of all classes: they share
  // those of the widest range. Whole vectors are written: a class that begins later in the range than others may end up
  // to a vector later, on places of the next segment that it does not use itself, or behind the last one.
  const auto length = [&](int level, const std::array<std::int64_t, kMaxAxes>& extent) {
    std::int64_t positions_in_segment = extent[2];
    if (level > 0) positions_in_segment += (extent[1] - 1) * input_step[1];
    if (level > 1) positions_in_segment += (extent[0] - 1) * input_step[0];
    if (level > 2) positions_in_segment += (samples - 1) * sample_step;
    return positions_in_segment;
  };
  const auto count = [&](int level, const std::array<std::int64_t, kMaxAxes>& extent) {
    return level > 2 ? 1 : samples * (level > 1 ? 1 : extent[0]) * (level > 0 ? 1 : extent[1]);
  };
  // Taps outside the tensor are left out where their axis is not merged.
  const std::array<double, 4> share{tile[0].taps_in_tensor * tile[1].taps_in_tensor, tile[0].taps_in_tensor, 1, 1};
  double least = -1;
  for (int level = 3; level >= 0; --level) {
    const std::int64_t step = round_up(length(level, positions), kCostLane);
    const std::int64_t row = spread_row(count(level, positions) * step + kCostLane);
    const double cost =
        share[level] * double(count(level, most) * (round_up(length(level, most), kCostLane) + kSegmentCost));
    if (row > most_row_step || (least >= 0 && cost >= least)) continue;
    least = cost;
    merged = level;
    segment_step = step;
    row_step = row;
  }
}

std::int64_t CpuTileLayout::column_of(std::int64_t sample, std::int64_t p0, std::int64_t p1) const {
  switch (merged) {
    case 0:
      return ((sample * positions[0] + p0) * positions[1] + p1) * segment_step;
    case 1:
      return (sample * positions[0] + p0) * segment_step + p1 * input_step[1];
    case 2:
      return sample * segment_step + p0 * input_step[0] + p1 * input_step[1];
    default:
      return sample * sample_step + p0 * input_step[0] + p1 * input_step[1];
  }
}

CpuSchedule::CpuSchedule(const Problem& wanted, const Piece& wanted_piece) : problem(wanted), piece(wanted_piece) {
  std::array<CpuTileAxis, kMaxAxes> largest;
  std::int64_t most_taps = 1;
  const bool split = problem.group_out_channels() >= kSplitChannels;
  for (int a = 0; a < kMaxAxes; ++a) {
    axes[a] = cpu_axis(problem.axes[a], split);
    const CpuAxis& axis = axes[a];
    const std::int64_t output = axis.axis.padding % axis.axis.stride + problem.axes[a].output();
    tiles[a] = piece.output[a] >= problem.axes[a].output() ? 1 : ceil_div(output, piece.output[a]);
    // The first and the last tile may be cut short; no tile has more positions than the largest of the first three.
    for (std::int64_t t = 0; t < std::min<std::int64_t>(tiles[a], 3); ++t) {
      const CpuTileAxis tile = tile_axis(a, t);
      largest[a].positions = std::max(largest[a].positions, tile.positions);
      largest[a].most_of_class = std::max(largest[a].most_of_class, tile.most_of_class);
      if (tiles[a] > 1) continue;
      largest[a].shared_zeros = tile.shared_zeros;
      largest[a].taps_in_tensor = tile.taps_in_tensor;
    }
    rows_per_channel *= axis.leads;
    most_taps *= axis.most_taps;
    used_taps *= axis.axis.kernel;
  }
  sample_tiles = ceil_div(problem.batch, std::max<std::int64_t>(piece.batch, 1));

  // The chunk fixes the order of summation, so it depends on nothing but the problem.
  const std::int64_t in_channels = problem.group_in_channels();
  const std::int64_t most_depth = most_taps == 1 ? 256 : most_taps <= 4 ? 128 : 64;
  depth_chunk = ceil_div(in_channels, ceil_div(in_channels, most_depth));

  const CpuTileLayout layout(axes, piece.batch, largest, std::numeric_limits<std::int64_t>::max());
  row_step = layout.row_step;
  const std::int64_t size = accumulator_size(problem.dtype);
  const std::int64_t out_channels = problem.group_out_channels();
  block = std::min(kColumnBytes / (std::max<std::int64_t>(rows_per_channel, 1) * layout.row_step * size),
                   kBlockWeightBytes / (std::max<std::int64_t>(used_taps, 1) * depth_chunk * size));
  block = even_block(std::clamp<std::int64_t>(block, 1, out_channels), out_channels);
  blocks = ceil_div(out_channels, block);

  tile_elements = round_up(in_channels * layout.channel_step, kCpuLane);
  column_elements = round_up(block * rows_per_channel * layout.row_step, kCpuLane);
  const bool rounds = problem.dtype == DType::bfloat16 || problem.dtype == DType::float16;
  line_elements = rounds ? round_up(std::min(piece.output[2], problem.axes[2].output()), kCpuLane) : 0;
  block_weights = round_up(block * used_taps * depth_chunk, kCpuLane);
  all_weights = round_up(problem.in_channels * out_channels * used_taps, kCpuLane);
}

CpuTileAxis CpuSchedule::tile_axis(int a, std::int64_t tile) const {
  const Axis& axis = axes[a].axis;
  const std::int64_t output = problem.axes[a].output();
  if (tiles[a] == 1 && tile == 0 && piece.output[a] >= output) return positions_of(axes[a], {0, output});
  // Tiles begin at multiples of the stride, counted from the padded origin.
  const std::int64_t origin = -(axis.padding % axis.stride);
  Range range;
  range.begin = std::max<std::int64_t>(origin + tile * piece.output[a], 0);
  range.end = std::min(origin + (tile + 1) * piece.output[a], output);
  return positions_of(axes[a], range);
}

std::size_t CpuSchedule::workspace_bytes(int threads, bool shared_weights) const {
  const std::int64_t each = tile_elements + column_elements + line_elements + (shared_weights ? 0 : block_weights);
  const std::int64_t elements = threads * each + (shared_weights ? all_weights : 0);
  return std::size_t(round_up(elements * accumulator_size(problem.dtype), 256));
}

CpuWorkers cpu_workers(const CpuSchedule& schedule, int threads, std::size_t budget) {
  CpuWorkers workers;
  for (workers.threads = std::max(threads, 1);; --workers.threads) {
    for (bool shared : {true, false}) {
      if (shared && !schedule.can_share_weights()) continue;
      workers.shared_weights = shared;
      if (schedule.workspace_bytes(workers.threads, shared) <= budget) return workers;
    }
    if (workers.threads == 1) return workers;
  }
}

}  // namespace convt_gemm
