#pragma once
// The direct algorithm for few input positions, whose time is that of reading the weights. plan/direct_streamed.h says which problems, and how a block's
// threads share its weights. A block goes through six steps with a barrier between any two of the last five:
//
//   ask       a thread asks for its first rows of weights, before it waits for the kernel ahead
//   stage     the inputs go to shared memory, all positions of a channel side by side
//   multiply  each slot reads its rows, once, and keeps the columns of all positions in registers
//   put       the columns go to shared memory, where the inputs were
//   sum       a column is the sum over the slots
//   store     an output is the sum of its taps' columns
//
// All sums have a fixed order. Plain host and device code; memory is reached through `Access` (direct_kernel.cuh), and a thread's state between steps is a
// struct, so that tests run every step of every thread on the processor.
#include <cstdint>

#include "direct/direct_kernel.cuh"
#include "plan/direct_streamed.h"

namespace convt_gemm {
namespace direct {

/// Positions are [sample, input], outputs of a block [sample, channel, output]. In the order in which a block needs them: each line of parameters costs it 0.1 us.
struct StreamedParams {
  FastDiv<std::int32_t> by_sample_blocks, by_tiles;  ///< blocks are [group, tile, samples]
  FastDiv<std::int32_t> by_lanes, by_slots;
  std::int32_t in_channels, out_channels, taps, columns;  ///< of a group; columns: of all its output channels
  std::int32_t tile_channels;
  std::int32_t batch, samples;  ///< samples: of a block
  // Inputs that lie side by side in memory: of a sample and group, in channels_last of a position of them.
  FastDiv<std::int32_t> by_run, by_run_inputs;  ///< loads of a run, and its inputs of each channel
  std::int32_t sample_runs, run;                ///< how many of a sample, and elements of one
  bool vector_runs;                             ///< loads are of 16 bytes
  bool one_axis;                                ///< the outer axes have one input and one output each
  FastDiv<std::int32_t> by_inputs;              ///< of a sample's channel
  std::int64_t input_run;                       ///< elements from one run to the next
  std::int64_t output_sample, output_channel, output_position;  ///< likewise
  FastDiv<std::int32_t> by_outputs, by_outputs2, by_outputs1;  ///< of a sample's channel, of the last axis, of the middle one
  Axis<std::int32_t> axis[kMaxAxes];
};

/// `V_`: columns of a lane. `P_`: positions, of kStreamedPositions.
template <class T_, int V_, int P_>
struct Streamed {
  using T = T_;
  using Int = std::int32_t;
  using Acc = Accumulator<T>;
  using Params = StreamedParams;
  static constexpr int V = V_, P = P_;
  static constexpr int kMostThreads = most_streamed_threads(V, P, sizeof(Acc));
  static constexpr int kMinBlocks = sizeof(Acc) == 4 && V * P <= 8 ? 2 : 1;  ///< of a multiprocessor: the next kernel's blocks come while the last ones are still there
  static constexpr int kBatch = kStreamedBatch;
  /// Rows that each warp asks for before it waits for the kernel ahead. Where registers leave room for the next kernel's blocks beside this one's, its first loads come early enough.
  static constexpr int kPrefetchedRows = kMinBlocks == 2 ? 0 : 8;
  static constexpr int kStaged = 2;  ///< loads of inputs that a thread asks for at a time

  using Vector = std::conditional_t<V == 1, T, Words>;
  static_assert(V == 1 || V == kVector<T>);

  struct alignas(P * sizeof(Acc) < 16 ? P * sizeof(Acc) : 16) Inputs {
    Acc of[P];
  };
  struct alignas(V * sizeof(Acc) < 16 ? V * sizeof(Acc) : 16) Sums {
    Acc of[V];
  };

  struct Block {
    Int group, channel, channels;  ///< its output channels, counted in the group
    Int sample, samples;           ///< its samples
  };

  struct Thread {
    Int slot = 0, lane = 0;
    Int rows = 0;                ///< that are its own
    const T* next = nullptr;     ///< the first row that it has not asked for
    std::int64_t step = 0;       ///< elements from one of its rows to the next
    Vector first[kBatch] = {}, second[kBatch] = {};  ///< asked for
    Acc sum[V][P] = {};
  };

  static CONVT_HOST_DEVICE Block block_of(const Params& p, Int index) {
    Block b;
    const Int tile = p.by_sample_blocks.quotient(index);
    b.sample = (index - tile * p.by_sample_blocks.divisor()) * p.samples;
    b.group = p.by_tiles.quotient(tile);
    b.channel = (tile - b.group * p.by_tiles.divisor()) * p.tile_channels;
    const Int channels = p.out_channels - b.channel, samples = p.batch - b.sample;
    b.channels = channels < p.tile_channels ? channels : p.tile_channels;
    b.samples = samples < p.samples ? samples : p.samples;
    return b;
  }

  template <class Access>
  static CONVT_HOST_DEVICE void ask(const Params& p, const Block& b, const T* weight, const T* input, Int thread, Thread& t) {
    t.slot = p.by_lanes.quotient(thread);
    t.lane = thread - t.slot * p.by_lanes.divisor();
    const Int slots = p.by_slots.divisor(), column = t.lane * V;
    t.rows = t.slot < slots && column < b.channels * p.taps ? p.by_slots.quotient(p.in_channels - 1 - t.slot + slots) : Int(0);
    const std::int64_t row = std::int64_t(b.group) * p.in_channels + t.slot;
    t.next = weight + (row * p.columns + b.channel * p.taps + column);
    t.step = std::int64_t(slots) * p.columns;
    if constexpr (kPrefetchedRows > 0) {
      const T* const weights = weight + (std::int64_t(b.group) * p.in_channels * p.columns + b.channel * p.taps);
      const Int warps = slots * p.by_lanes.divisor() / kWarpLanes, warp = thread / kWarpLanes;
      if (thread % kWarpLanes == 0 && warp < warps) {
        CONVT_UNROLL(1)
        for (Int r = warp; r < kPrefetchedRows * warps && r < p.in_channels; r += warps) Access::prefetch_run(weights + std::int64_t(r) * p.columns, b.channels * p.taps);
      }
    }
    constexpr Int kSector = 32 / Int(sizeof(T));  // what a request is for
    if (thread * kSector < p.run) Access::prefetch(inputs_of(p, b, input) + thread * kSector);
    Access::begin();
    ask_batch<Access, true>(0, t, t.first);
    ask_batch<Access, true>(kBatch, t, t.second);
  }

  template <class Access>
  static CONVT_HOST_DEVICE void stage(const Params& p, const Block& b, const T* input, Int thread, Int threads, Inputs* shared) {
    const T* const x = inputs_of(p, b, input);
    const Int runs = b.samples * p.sample_runs;
    if (p.vector_runs && runs == 1 && p.by_run_inputs.divisor() == P) return copy_run<Access>(p, x, thread, threads, shared);
    p.vector_runs ? stage_runs<Access, kVector<T>>(p, x, runs, thread, threads, shared) : stage_runs<Access, 1>(p, x, runs, thread, threads, shared);
    // Positions that there are not give columns that nobody reads, but may not be read before they are written.
    const Int filled = b.samples * p.by_inputs.divisor();
    for (Int channel = thread; filled < P && channel < p.in_channels; channel += threads) {
      for (Int i = filled; i < P; ++i) shared[channel].of[i] = Acc(0);
    }
  }

  template <class Access>
  static CONVT_HOST_DEVICE void multiply(const Params& p, const Inputs* shared, Thread& t) {
    const Int slots = p.by_slots.divisor();
    const Inputs* inputs = shared + t.slot;
    // Whole batches first: branches would keep loads of several rows from being under way together.
    for (; t.rows >= 4 * kBatch; t.rows -= 2 * kBatch, inputs += 2 * kBatch * slots) {
      add_batch<false>(inputs, slots, 0, t, t.first);
      ask_batch<Access, false>(2 * kBatch, t, t.first);
      add_batch<false>(inputs + kBatch * slots, slots, kBatch, t, t.second);
      ask_batch<Access, false>(3 * kBatch, t, t.second);
    }
    for (; t.rows > 0; t.rows -= 2 * kBatch, inputs += 2 * kBatch * slots) {
      add_batch<true>(inputs, slots, 0, t, t.first);
      ask_batch<Access, true>(2 * kBatch, t, t.first);
      add_batch<true>(inputs + kBatch * slots, slots, kBatch, t, t.second);
      ask_batch<Access, true>(3 * kBatch, t, t.second);
    }
  }

  static CONVT_HOST_DEVICE void put(const Params& p, Sums* shared, const Thread& t) {
    if (t.slot >= p.by_slots.divisor()) return;
    Sums* to = shared + (t.slot * P * p.by_lanes.divisor() + t.lane);
    CONVT_UNROLL_ALL
    for (int i = 0; i < P; ++i, to += p.by_lanes.divisor()) {
      Sums sums;
      CONVT_UNROLL_ALL
      for (int e = 0; e < V; ++e) sums.of[e] = t.sum[e][i];
      *to = sums;
    }
  }

  /// Column c of position i is then at [i * columns of the block, filled up + c].
  static CONVT_HOST_DEVICE void sum(const Params& p, Acc* shared, Int thread, Int threads) {
    const Int all = P * p.by_lanes.divisor() * V, slots = p.by_slots.divisor();
    for (Int e = thread; e < all; e += threads) {
      Acc sum = shared[e];
      const Acc* from = shared + e;
      CONVT_UNROLL(8)
      for (Int slot = 1; slot < slots; ++slot) sum += *(from += all);
      shared[e] = sum;
    }
  }

  template <class Access>
  static CONVT_HOST_DEVICE void store(const Params& p, const Block& b, const Acc* shared, const T* bias, T* output, Int thread, Int threads) {
    const Int outputs = p.by_outputs.divisor(), all = b.samples * b.channels * outputs;
    const std::int64_t first = std::int64_t(b.group) * p.out_channels + b.channel;
    for (Int e = thread; e < all; e += threads) {
      Int sample, channel, o;
      if (p.output_channel == 1) {  // neighbours in memory are channels
        const Int row = e / b.channels;
        channel = e - row * b.channels;
        sample = p.by_outputs.quotient(row);
        o = row - sample * outputs;
      } else {
        const Int row = p.by_outputs.quotient(e);
        o = e - row * outputs;
        sample = row / b.channels;
        channel = row - sample * b.channels;
      }
      Acc sum = bias != nullptr ? Acc(widen(Access::load(bias + (first + channel)))) : Acc(0);
      add_taps(p, shared + channel * p.taps, sample * p.by_inputs.divisor(), o, sum);
      Access::store(output + ((b.sample + sample) * p.output_sample + (first + channel) * p.output_channel + o * p.output_position), round_to<T>(sum));
    }
  }

 private:
  /// The first run of a block.
  static CONVT_HOST_DEVICE const T* inputs_of(const Params& p, const Block& b, const T* input) {
    return input + (std::int64_t(b.sample) * p.sample_runs * p.input_run + std::int64_t(b.group) * p.run);
  }

  /// Inputs that lie in memory as they will here.
  template <class Access>
  static CONVT_HOST_DEVICE void copy_run(const Params& p, const T* x, Int thread, Int threads, Inputs* shared) {
    struct alignas(16) Wide {
      Acc of[kVector<T>];
    };
    auto* const to = reinterpret_cast<Wide*>(shared);
    CONVT_UNROLL(4)
    for (Int at = thread; at < p.by_run.divisor(); at += threads) {
      const Words words = Access::load_vector(x + at * kVector<T>);
      Wide wide;
      CONVT_UNROLL_ALL
      for (int e = 0; e < kVector<T>; ++e) wide.of[e] = widen(element_of<T>(words, e));
      to[at] = wide;
    }
  }

  /// Inputs in the order of memory, kEach at a time.
  template <class Access, int kEach>
  static CONVT_HOST_DEVICE void stage_runs(const Params& p, const T* x, Int runs, Int thread, Int threads, Inputs* shared) {
    using Loaded = std::conditional_t<kEach == 1, T, Words>;
    const Int all = runs * p.by_run.divisor(), inputs = p.by_run_inputs.divisor();
    CONVT_UNROLL(1)
    for (Int from = thread; from < all; from += kStaged * threads) {
      Loaded value[kStaged];
      Int run[kStaged], first[kStaged];
      CONVT_UNROLL_ALL
      for (int u = 0; u < kStaged; ++u) {
        const Int at = from + u * threads;
        if (at >= all) continue;
        run[u] = p.by_run.quotient(at);
        first[u] = (at - run[u] * p.by_run.divisor()) * kEach;
        if constexpr (kEach == 1) {
          value[u] = Access::load(x + (run[u] * p.input_run + first[u]));
        } else {
          value[u] = Access::load_vector(x + (run[u] * p.input_run + first[u]));
        }
      }
      CONVT_UNROLL_ALL
      for (int u = 0; u < kStaged; ++u) {
        if (from + u * threads >= all) continue;
        CONVT_UNROLL_ALL
        for (int e = 0; e < kEach; ++e) {
          const Int rest = first[u] + e, channel = p.by_run_inputs.quotient(rest);
          Acc& to = shared[channel].of[run[u] * inputs + rest - channel * inputs];
          if constexpr (kEach == 1) {
            to = widen(value[u]);
          } else {
            to = widen(element_of<T>(value[u], e));
          }
        }
      }
    }
  }

  /// Rows [from, from + kBatch) of those that are not multiplied yet; `kChecked`: if there are such.
  template <class Access, bool kChecked>
  static CONVT_HOST_DEVICE void ask_batch(Int from, Thread& t, Vector (&batch)[kBatch]) {
    CONVT_UNROLL_ALL
    for (int r = 0; r < kBatch; ++r) {
      if (!kChecked || from + r < t.rows) {
        if constexpr (V == 1) {
          batch[r] = Access::load(t.next);
        } else {
          batch[r] = Access::load_vector(t.next);
        }
      }
      t.next += t.step;
    }
  }

  template <bool kChecked>
  static CONVT_HOST_DEVICE void add_batch(const Inputs* inputs, Int slots, Int from, Thread& t, const Vector (&batch)[kBatch]) {
    CONVT_UNROLL_ALL
    for (int r = 0; r < kBatch; ++r) {
      if (kChecked && from + r >= t.rows) continue;
      const Inputs x = inputs[r * slots];
      CONVT_UNROLL_ALL
      for (int e = 0; e < V; ++e) {
        Acc weight;
        if constexpr (V == 1) {
          weight = widen(batch[r]);
        } else {
          weight = widen(element_of<T>(batch[r], e));
        }
        CONVT_UNROLL_ALL
        for (int i = 0; i < P; ++i) t.sum[e][i] = multiply_add(weight, x.of[i], t.sum[e][i]);
      }
    }
  }

  /// The columns of output o of a sample, whose positions begin at `position`.
  static CONVT_HOST_DEVICE void add_taps(const Params& p, const Acc* columns, Int position, Int o, Acc& sum) {
    if (p.one_axis) return add_row(p, columns, position, 0, o, sum);
    const Int row = p.by_outputs2.quotient(o), o2 = o - row * p.by_outputs2.divisor();
    const Int o0 = p.by_outputs1.quotient(row), o1 = row - o0 * p.by_outputs1.divisor();
    for_each_outer_tap<kMaxAxes>(p.axis, o0, o1, [&](Int input_row, Int outer_tap) {
      add_row(p, columns, position + input_row * p.axis[2].input, outer_tap * p.axis[2].kernel, o2, sum);
    });
  }

  /// Those of the last axis, of the row of inputs that begins at `position` and the row of taps that begins at `tap`.
  static CONVT_HOST_DEVICE void add_row(const Params& p, const Acc* columns, Int position, Int tap, Int o, Acc& sum) {
    const Axis<Int>& last = p.axis[2];
    const Int pitch = p.by_lanes.divisor() * V;
    const Taps<Int> taps = taps_at(last, o);
    Int i = taps.input;
    const Acc* column = columns + ((position + i) * pitch + tap + taps.tap);
    CONVT_UNROLL(1)
    for (Int j = 0; j < taps.count; ++j, i -= last.input_step, column += last.tap_step - last.input_step * pitch) {
      if (inside(i, last.input)) sum += *column;
    }
  }
};

}  // namespace direct
}  // namespace convt_gemm
