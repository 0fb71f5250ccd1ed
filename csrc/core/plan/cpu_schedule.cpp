#include "plan/cpu_schedule.h"

#include <algorithm>
#include <limits>

#include "plan/arithmetic.h"

namespace convt_gemm {
namespace {

/// Columns of one block, and packed weights of one block and depth chunk: together they leave half of a 512 KiB second-level
/// cache to the input tile.
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
  tile.first_position = first_position(a, a.leads - 1, first_u);
  tile.positions = std::max<std::int64_t>(first_position(a, 0, last_u + 1) - tile.first_position, 1);
  for (int c = 0; c < a.classes; ++c) {
    const LeadClass& leads = a.lead_class[c];
    Range& range = tile.of_class[c];
    range.begin = first_position(a, leads.first + leads.count - 1, first_u) - tile.first_position;
    range.end = std::max(range.begin, first_position(a, leads.first, last_u + 1) - tile.first_position);
    tile.most_of_class = std::max(tile.most_of_class, range.size());
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
  if (axis.input == 1) {
    // The stride of a single input is never used. One that exceeds the kernel gives every output its own residue with a single
    // tap, so that no product with a zero from the halo is formed.
    const std::int64_t last_u = (axis.padding + axis.output() - 1) / axis.dilation;
    a.axis.stride = axis.dilation * std::max(axis.kernel, last_u + 1);
    a.axis.output_padding = 0;
  }
  a.residues = residues_of(a.axis);
  const std::int64_t step = a.residues.tap_step;
  a.leads = std::min(step, axis.kernel);
  const std::int64_t longer = axis.kernel % step;
  const std::int64_t taps = axis.kernel / step;
  if (split_leads && a.leads <= kMaxLeadClasses) {
    a.classes = int(a.leads);
    for (std::int64_t lead = 0; lead < a.leads; ++lead) a.lead_class[lead] = {lead, 1, ceil_div(axis.kernel - lead, step)};
  } else if (taps == 0 || longer == 0) {
    a.lead_class[0] = {0, a.leads, std::max<std::int64_t>(taps, 1)};
  } else {
    a.classes = 2;
    a.lead_class[0] = {0, longer, taps + 1};
    a.lead_class[1] = {longer, a.leads - longer, taps};
  }
  a.halo = (a.lead_class[0].taps - 1) * a.residues.input_step;
  return a;
}

CpuTileLayout::CpuTileLayout(const std::array<CpuAxis, kMaxAxes>& axes, std::int64_t sample_count,
                             const std::array<CpuTileAxis, kMaxAxes>& tile)
    : samples(sample_count) {
  std::array<std::int64_t, kMaxAxes> most;
  for (int a = 0; a < kMaxAxes; ++a) {
    positions[a] = tile[a].positions;
    most[a] = tile[a].most_of_class;
    inputs[a] = positions[a] + axes[a].halo;
  }
  input_step = {inputs[1] * inputs[2], inputs[2], 1};
  sample_step = inputs[0] * input_step[0];
  // A segment's last vector may reach one lane beyond it.
  channel_step = spread_row(samples * sample_step + kCpuLane);

  // The cheapest way to go through the positions of a class.
  const std::array<std::int64_t, 4> count{samples * most[0] * most[1], samples * most[0], samples, 1};
  std::array<std::int64_t, 4> length{most[2]};
  length[1] = length[0] + (most[1] - 1) * input_step[1];
  length[2] = length[1] + (most[0] - 1) * input_step[0];
  length[3] = length[2] + (samples - 1) * sample_step;
  const auto cost = [&](int level) { return count[level] * (round_up(length[level], kCostLane) + kSegmentCost); };
  for (int level = 1; level < 4; ++level) {
    if (cost(level) <= cost(merged)) merged = level;
  }
  // Columns of all classes share the places of the widest range; a class may begin anywhere in it.
  const std::array<std::int64_t, 4> segments{samples * positions[0] * positions[1], samples * positions[0], samples, 1};
  std::array<std::int64_t, 4> widest{positions[2]};
  widest[1] = widest[0] + (positions[1] - 1) * input_step[1];
  widest[2] = widest[1] + (positions[0] - 1) * input_step[0];
  widest[3] = widest[2] + (samples - 1) * sample_step;
  // Whole vectors are written: a class that begins later in the range than others may end up to a vector later, on places of the
  // next segment that it does not use itself, or behind the last one.
  segment_step = round_up(widest[merged], kCostLane);
  row_step = spread_row(segments[merged] * segment_step + kCostLane);
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
    }
    rows_per_channel *= axis.leads;
    most_taps *= axis.lead_class[0].taps;
  }
  sample_tiles = ceil_div(problem.batch, std::max<std::int64_t>(piece.batch, 1));

  // The chunk fixes the order of summation, so it depends on nothing but the problem.
  const std::int64_t in_channels = problem.group_in_channels();
  const std::int64_t most_depth = most_taps == 1 ? 256 : most_taps <= 4 ? 128 : 64;
  depth_chunk = ceil_div(in_channels, ceil_div(in_channels, most_depth));
  used_taps = problem.taps();

  const CpuTileLayout layout(axes, piece.batch, largest);
  const std::int64_t size = accumulator_size(problem.dtype);
  const std::int64_t out_channels = problem.group_out_channels();
  block = std::min(kColumnBytes / (rows_per_channel * layout.row_step * size),
                   kBlockWeightBytes / (used_taps * depth_chunk * size));
  block = even_block(std::clamp<std::int64_t>(block, 1, out_channels), out_channels);
  blocks = ceil_div(out_channels, block);

  tile_elements = round_up(in_channels * layout.channel_step, kCpuLane);
  column_elements = round_up(block * rows_per_channel * layout.row_step, kCpuLane);
  const bool rounds = problem.dtype == DType::bfloat16 || problem.dtype == DType::float16;
  line_elements = rounds ? round_up(std::min(piece.output[2], problem.axes[2].output()), kCpuLane) : 0;
  block_weights = round_up(block * used_taps * depth_chunk, kCpuLane);
  all_weights = round_up(problem.weight_elements(), kCpuLane);
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
