#include "gemm_col2im/cpu.h"

#include <algorithm>
#include <atomic>

#include "col2im/cpu_col2im.h"
#include "gemm/cpu_pack.h"
#include "plan/arithmetic.h"
#include "util/half_types.h"
#include "util/parallel.h"

namespace convt_gemm {
namespace {

/// Below this much arithmetic a second thread costs more than it saves: a team of threads that waits for work, and
/// threads that have to be started first.
constexpr double kTeamFlops = 4e5;
constexpr double kOwnThreadsFlops = 8e6;

/// Tasks per thread that even out threads of unequal speed.
constexpr std::int64_t kTasksPerThread = 4;

/// Terms that are summed in registers before they are added to a column: a single float32 sum over thousands of terms
/// would be several times less accurate than the sums of sums that other libraries make.
constexpr std::int64_t kSumTerms = 64;

/// About kSumTerms, in whole runs or equal parts of runs of `channels` input channels.
std::int64_t sum_terms(std::int64_t channels) {
  if (channels <= kSumTerms) return kSumTerms / channels * channels;
  return ceil_div(channels, ceil_div(channels, kSumTerms));
}

template <typename T>
struct Scratch {
  T* tile = nullptr;
  T* columns = nullptr;
  T* line = nullptr;
  T* weights = nullptr;
};

template <typename Stored, typename T>
class Run {
 public:
  Run(const CpuSchedule& schedule, const Tensors& tensors, const CpuContext& context, std::size_t budget, CpuIsa isa)
      : schedule_(schedule),
        context_(context),
        isa_(isa),
        input_(static_cast<const Stored*>(tensors.input)),
        weight_(static_cast<const Stored*>(tensors.weight)),
        bias_(schedule.problem.bias ? static_cast<const Stored*>(tensors.bias) : nullptr),
        output_(static_cast<Stored*>(tensors.output)),
        workspace_(static_cast<T*>(context.workspace)) {
    const Problem& problem = schedule.problem;
    const double flops = 2.0 * double(problem.output_elements()) * double(problem.group_in_channels()) +
                         2.0 * double(problem.weight_elements());
    const bool small = flops < (context.parallel_for == nullptr ? kOwnThreadsFlops : kTeamFlops);
    workers_ = cpu_workers(schedule, small ? 1 : context.threads, budget);
    // Output channels are split over tasks only if tiles and groups are too few: each of them packs the tile's input
    // again.
    const std::int64_t tiles = schedule.position_tiles() * problem.groups;
    const std::int64_t wanted = workers_.threads == 1 ? 1 : workers_.threads * kTasksPerThread;
    splits_ = std::clamp<std::int64_t>(ceil_div(wanted, tiles), 1, schedule.blocks);
    tasks_ = tiles * splits_;
    workers_.threads = int(std::min<std::int64_t>(workers_.threads, tasks_));
  }

  void operator()() {
    if (workers_.shared_weights) pack_all_weights();
    take_turns(tasks_, [this](int thread) {
      Worker worker;
      worker.scratch = scratch_of(thread);
      return [this, worker](std::int64_t task) mutable { run_task(task, &worker); };
    });
  }

 private:
  void pack_all_weights() const {
    const std::int64_t chunks = ceil_div(schedule_.problem.group_in_channels(), schedule_.depth_chunk);
    take_turns(schedule_.problem.groups * schedule_.blocks * chunks, [chunks, this](int) {
      return [chunks, this](std::int64_t item) {
        const std::int64_t depth = item % chunks * schedule_.depth_chunk, rest = item / chunks;
        const std::int64_t group = rest / schedule_.blocks, block = rest % schedule_.blocks;
        pack_weights(schedule_, isa_, group, block, depth, weight_,
                     workspace_ + packed_weight_offset(schedule_, group, block, depth));
      };
    });
  }

  /// Threads take the next item of [0, count) when they are done with one; make_body(thread)(item) does it.
  template <typename MakeBody>
  void take_turns(std::int64_t count, MakeBody make_body) const {
    std::atomic<std::int64_t> next{0};
    parallel_for(context_, workers_.threads, workers_.threads, [&](std::int64_t, std::int64_t, int thread) {
      auto body = make_body(thread);
      for (std::int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(item);
    });
  }

  Scratch<T> scratch_of(int thread) const {
    const CpuSchedule& s = schedule_;
    const std::int64_t own_weights = workers_.shared_weights ? 0 : s.block_weights;
    Scratch<T> scratch;
    scratch.tile = workspace_ + (workers_.shared_weights ? s.all_weights : 0) +
                   thread * (s.tile_elements + s.column_elements + s.line_elements + own_weights);
    scratch.columns = scratch.tile + s.tile_elements;
    scratch.line = scratch.columns + s.column_elements;
    scratch.weights = scratch.line + s.line_elements;
    return scratch;
  }

  /// Tasks of one position tile follow each other, so that its geometry is worked out once.
  struct Worker {
    Scratch<T> scratch;
    CpuTile tile;
    std::int64_t tile_index = -1;
  };

  void move_to_tile(std::int64_t index, Worker* worker) const {
    if (worker->tile_index == index) return;
    worker->tile_index = index;
    const CpuSchedule& s = schedule_;
    CpuTile& tile = worker->tile;
    for (int a = kMaxAxes - 1; a >= 0; --a) {
      tile.axis[a] = s.tile_axis(a, index % s.tiles[a]);
      index /= s.tiles[a];
    }
    tile.first_sample = index * s.piece.batch;
    tile.layout =
        CpuTileLayout(s.axes, std::min(s.piece.batch, s.problem.batch - tile.first_sample), tile.axis, s.row_step);
  }

  void run_task(std::int64_t task, Worker* worker) const {
    const CpuSchedule& s = schedule_;
    const std::int64_t split = task % splits_, group = task / splits_ % s.problem.groups;
    move_to_tile(task / splits_ / s.problem.groups, worker);
    CpuTile& tile = worker->tile;
    const Scratch<T>& scratch = worker->scratch;
    tile.group = group;
    pack_input(s, tile, input_, scratch.tile);
    for (std::int64_t block = split * s.blocks / splits_; block < (split + 1) * s.blocks / splits_; ++block) {
      for (std::int64_t depth = 0; depth < s.problem.group_in_channels(); depth += s.depth_chunk) {
        multiply(tile, block, depth, scratch);
      }
      cpu_col2im(s, tile, block, scratch.columns, bias_, scratch.line, output_);
    }
  }

  /// Adds the products of one depth chunk to the columns of a block.
  void multiply(const CpuTile& tile, std::int64_t block, std::int64_t first_depth, const Scratch<T>& scratch) const {
    const CpuSchedule& s = schedule_;
    const CpuTileLayout& layout = tile.layout;
    const std::int64_t channels = channel_block(s, block).count;
    const std::int64_t depth = std::min(s.depth_chunk, s.problem.group_in_channels() - first_depth);
    CpuGemm<T> gemm;
    if (workers_.shared_weights) {
      gemm.weight = workspace_ + packed_weight_offset(s, tile.group, block, first_depth);
    } else {
      pack_weights(s, isa_, tile.group, block, first_depth, weight_, scratch.weights);
      gemm.weight = scratch.weights;
    }
    gemm.row_step = layout.row_step;
    gemm.accumulate = first_depth > 0;
    gemm.sum_terms = sum_terms(depth);
    const T* input = scratch.tile + first_depth * layout.channel_step;
    for (int a = 0; a < kMaxAxes; ++a) input += layout.halo[a] * layout.input_step[a];
    T* rows = scratch.columns;
    for_each_class(s, [&](const LeadClasses& classes) {
      gemm.rows = channels * classes.leads();
      gemm.panel_depth = classes.taps() * depth;
      for_each_segment(tile, classes, [&](const Segment& segment) {
        const std::int64_t skipped = set_depth(layout, classes, segment.taps, depth, &gemm);
        gemm.input = input + segment.input - skipped;
        gemm.columns = rows + segment.column;
        gemm.positions = segment.positions;
        cpu_gemm(isa_, gemm);
      });
      gemm.weight += gemm.rows * gemm.panel_depth;
      rows += gemm.rows * layout.row_step;
    });
  }

  /// A run of positions of one class.
  struct Segment {
    std::int64_t input = 0;   ///< offset of the first position's input
    std::int64_t column = 0;  ///< and of its column
    std::int64_t positions = 0;
    std::array<Range, kMaxAxes> taps;  ///< taps j that some position of the run needs
  };

  /// Taps j of an unmerged axis whose input at position p lies in the tensor.
  Range taps_at(int a, const CpuTile& tile, std::int64_t p, std::int64_t taps) const {
    const CpuAxis& axis = schedule_.axes[a];
    const std::int64_t step = axis.residues.input_step, m = tile.axis[a].first_position + p;
    Range range;
    range.begin = m < axis.axis.input ? 0 : std::min(ceil_div(m - axis.axis.input + 1, step), taps);
    range.end = m < 0 ? range.begin : std::clamp(m / step + 1, range.begin, taps);
    return range;
  }

  template <typename Body>
  void for_each_segment(const CpuTile& tile, const LeadClasses& classes, Body body) const {
    const CpuTileLayout& layout = tile.layout;
    std::array<Range, kMaxAxes> range;
    Segment segment;
    for (int a = 0; a < kMaxAxes; ++a) {
      range[a] = tile.axis[a].of_class[classes.index[a]];
      if (range[a].size() == 0) return;
      segment.taps[a] = {0, classes.axis[a].taps};
    }
    segment.positions = range[2].size();
    if (layout.merged > 0) segment.positions += (range[1].size() - 1) * layout.input_step[1];
    if (layout.merged > 1) segment.positions += (range[0].size() - 1) * layout.input_step[0];
    if (layout.merged > 2) segment.positions += (layout.samples - 1) * layout.sample_step;
    const std::int64_t samples = layout.merged > 2 ? 1 : layout.samples;
    const std::int64_t end0 = layout.merged > 1 ? range[0].begin + 1 : range[0].end;
    const std::int64_t end1 = layout.merged > 0 ? range[1].begin + 1 : range[1].end;
    for (std::int64_t s = 0; s < samples; ++s) {
      for (std::int64_t p0 = range[0].begin; p0 < end0; ++p0) {
        if (layout.merged < 2) segment.taps[0] = taps_at(0, tile, p0, classes.axis[0].taps);
        for (std::int64_t p1 = range[1].begin; p1 < end1; ++p1) {
          if (layout.merged < 1) segment.taps[1] = taps_at(1, tile, p1, classes.axis[1].taps);
          segment.input = layout.input_of(s, p0, p1) + range[2].begin;
          segment.column = layout.column_of(s, p0, p1) + range[2].begin;
          body(segment);
        }
      }
    }
  }

  /// Sets the loops over taps of every axis, then input channels; loops of one term are moved outwards, so that the
  /// innermost is as long as it can be. Returns how far before the first position's input that of the first tap lies.
  static std::int64_t set_depth(const CpuTileLayout& layout, const LeadClasses& classes,
                                const std::array<Range, kMaxAxes>& taps, std::int64_t channels, CpuGemm<T>* gemm) {
    int slot = 3;
    const auto add = [&](std::int64_t count, std::int64_t step, std::int64_t weight_step) {
      if (count == 1) return;
      if (slot == 3 && weight_step != 1) gemm->depth[slot--] = {};  // the innermost loop's weights are neighbours
      gemm->depth[slot--] = {count, step, weight_step};
    };
    add(channels, layout.channel_step, 1);
    std::int64_t weight_step = channels, skipped = 0;
    gemm->first_weight = 0;
    for (int a = kMaxAxes - 1; a >= 0; --a) {
      const std::int64_t step = layout.window_step[a] * layout.input_step[a];
      add(taps[a].size(), -step, weight_step);
      gemm->first_weight += taps[a].begin * weight_step;
      skipped += taps[a].begin * step;
      weight_step *= classes.axis[a].taps;
    }
    while (slot >= 0) gemm->depth[slot--] = {};
    return skipped;
  }

  const CpuSchedule& schedule_;
  const CpuContext& context_;
  CpuIsa isa_;
  const Stored* input_;
  const Stored* weight_;
  const Stored* bias_;
  Stored* output_;
  T* workspace_;
  CpuWorkers workers_;
  std::int64_t splits_ = 1;
  std::int64_t tasks_ = 1;
};

}  // namespace

Status gemm_col2im_cpu(const Problem& problem, const Plan& plan, const Tensors& tensors, const CpuContext& context,
                       CpuIsa isa) {
  const CpuSchedule schedule(problem, plan.piece);
  switch (problem.dtype) {
    case DType::float32:
      Run<float, float>(schedule, tensors, context, plan.workspace_bytes, isa)();
      break;
    case DType::float64:
      Run<double, double>(schedule, tensors, context, plan.workspace_bytes, isa)();
      break;
    case DType::bfloat16:
      Run<BFloat16, float>(schedule, tensors, context, plan.workspace_bytes, isa)();
      break;
    case DType::float16:
      Run<Float16, float>(schedule, tensors, context, plan.workspace_bytes, isa)();
      break;
  }
  return {};
}

}  // namespace convt_gemm
