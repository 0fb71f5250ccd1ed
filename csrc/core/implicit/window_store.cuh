#pragma once
// From the sums of windows (see Window) to outputs in memory: a thread stores four at a time, eight neighbouring lanes 32 that begin at a sector.
#include "implicit/epilogue.cuh"
#include "implicit/window_multiply.cuh"
#include "implicit/window_planes.cuh"

namespace convt_gemm::implicit {

/// The bias of column `n` of the tile; zero where there is none.
template <class C>
__device__ __forceinline__ float bias_of_column(const Params& p, const Tile& tile, int n) {
  if (n >= C::kColumns || p.bias == nullptr) return 0.0f;
  const Column column = column_of_tile<C>(p.g, tile.column, n);
  if (!column.valid) return 0.0f;
  return to_float(static_cast<const typename C::Element*>(p.bias)[std::int64_t{tile.group} * p.g.out_channels + column.channel]);
}

template <class C, class Activation = Identity>
struct WindowStore {
  using Element = typename C::Element;
  static constexpr Window kWindow = C::kWindow;
  static constexpr Form kForm = kWindow.form;
  static constexpr int kPositions = kWindow.positions(), kRows = C::kTile.warpgroup_rows();
  static constexpr int kGroupBlocks = kPositions / 2, kGroups = C::kRowBlocks / kGroupBlocks;
  static constexpr int kSetSums = C::kSums / kWindow.sets, kSetColumns = C::kColumns / kWindow.sets;
  /// What a thread stores of eight columns of each set: of its two columns in each, but where they are residues of one output channel.
  static constexpr int kLineSets = kForm == Form::halves ? 1 : kWindow.sets, kLineColumns = kForm == Form::pairs ? 1 : 2;
  /// Fours of outputs that a thread stores of a line, and eights of columns that they come from.
  static constexpr int kFours = kForm == Form::thirds ? 3 : 1;
  using Four = std::uint32_t[sizeof(Element)];  // as they are in memory
  /// A run is a tile's outputs of one out channel, side by side in shared memory.
  static constexpr int kRuns = C::kColumns / kWindow.channel_columns();
  static constexpr int kRunBytes = kWindow.run_bytes(kRows, int(sizeof(Element))), kRunPitch = kWindow.run_pitch(kRows, int(sizeof(Element)));
  static constexpr int kRunsBytes = kRuns * kRunPitch;  ///< of a line

  /// Not where products are what limits a kernel without registers to spare, nor where half a warp's lanes would store few runs (each measured).
  static constexpr bool kThreadsStoreRuns = !C::kSplit && (kRunBytes >= 512 || kRuns >= 128);

  const Params& p;
  const Tile& tile;
  const TileRows rows;
  const float* biases;  ///< of the tile's columns, in shared memory
  unsigned char* runs;  ///< the team's of the line, in shared memory; null if threads store their own sums
  int team, thread;     ///< the warpgroup, and within it
  int line;             ///< of the tile
  Activation activation;

  /// Stores a tile's sums.
  __device__ __forceinline__ void run(const Sums<C>& sums) const {
    const ImplicitGeometry& g = p.g;
    if (C::kServesAnyRows && uniform(!rows.exist)) return;
    if constexpr (kForm == Form::pairs && kWindow.taps == 1) {
      if (g.flat) {
        store_flat(sums);
        return;
      }
    }
    const int first = first_position(), after = first + kRows + kWindow.ahead();
    // Runs that are cut leave their begin to the tile before, and with gaps a thread stores an output before its own.
    const int least = kForm == Form::gaps || g.tile_rows < kRows ? 1 : 0;
    if (uniform(output_of(first) >= least && after <= g.positions && output_of(after) <= g.output && (!C::kServesAnyRows || runs != nullptr || !g.any_place))) {
      if (runs != nullptr) {
        store_runs(sums);
      } else {
        store<true>(sums);
      }
    } else {
      store<false>(sums);
    }
  }

  /// Once after the last tile.
  __device__ __forceinline__ static void finish() {
    if (gpu::elect()) gpu::bulk_store_wait<0>();
  }

 protected:  // of ShiftedStore too
  /// Of the tile, in its row of x.
  __device__ __forceinline__ int first_position() const { return (tile.row - p.g.sample_tiles.quotient(tile.row) * p.g.sample_tiles.divisor()) * p.g.tile_rows; }
  /// The first output of a position, as an index into its row of y, in which it may not lie.
  __device__ __forceinline__ std::int64_t output_of(int position) const { return p.g.first_output + std::int64_t{position} * p.g.stride; }

  /// The product's column of a line: what a thread stores of one out channel, or of two residues of one.
  __device__ __forceinline__ int column_of(int set, int odd) const { return set * kSetColumns + thread % 4 * 2 + odd; }

  /// Puts the runs together and has them stored, while the team goes on.
  __device__ __forceinline__ void store_runs(const Sums<C>& sums) const {
    // The last tile's have been read: of a further line, when the tile's first one waited for that. (Lines of a tile are stored alike.)
    if (line == 0) {
      if (gpu::elect()) gpu::bulk_store_wait<0>();
      gpu::named_barrier(1 + team, kWarpgroup);
    }
    const bool any_place = C::kServesAnyRows && p.g.any_place;
    if (any_place) {
      if constexpr (C::kServesAnyRows) put_runs<true>(sums);
    } else {
      put_runs<false>(sums);
    }
    gpu::fence_async_proxy();
    gpu::named_barrier(1 + team, kWarpgroup);
    // Each warp has a part of the runs: each of its lanes finds out where one of them goes. The copy engine stores every other one; it has a limit of its own
    // (11 bytes a cycle), and so do threads.
    constexpr int kWarpRuns = kRuns / 4;
    static_assert(kRuns % 4 == 0 && kWarpRuns <= 32);
    const int first_run = uniform(thread / 32) * kWarpRuns, lane = thread % 32;
    const int column = column_of_run(first_run + (lane < kWarpRuns ? lane : 0));
    const std::int64_t begin = first_of_run(column);
    const bool valid = column_of_tile<C>(p.g, tile.column, column).valid;
    const unsigned bytes = static_cast<unsigned>(p.g.tile_rows * kWindow.outputs() * int(sizeof(Element)));
    // Where tiles reach beyond what is theirs, a run that begins in the middle of a sector leaves that to the tile before, and goes as much further.
    const std::int64_t address = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(static_cast<Element*>(p.y) + begin));
    const int skipped = bytes < kRunBytes ? static_cast<int>(-address & (kSectorBytes - 1)) : 0;
    const std::int64_t to = valid ? address + skipped : 0;
    const int begin_in_run = skipped + (any_place ? static_cast<int>(address & 15) : 0);
    const bool elected = gpu::elect();
#pragma unroll
    for (int run = 0; run < kWarpRuns; ++run) {
      const std::int64_t run_to = __shfl_sync(0xffffffffu, to, run);
      const int run_begin = __shfl_sync(0xffffffffu, begin_in_run, run);
      if (run_to == 0) continue;
      const unsigned char* const from = runs + (first_run + run) * kRunPitch + run_begin;
      if (run % 2 == 0 || !kThreadsStoreRuns) {
        if (elected) gpu::bulk_store(reinterpret_cast<void*>(run_to), from, bytes);
        continue;
      }
      constexpr int kWarpBytes = 32 * 16;
#pragma unroll
      for (int i = 0; i < (kRunBytes + kWarpBytes - 1) / kWarpBytes; ++i) {
        const unsigned at = static_cast<unsigned>(i * kWarpBytes + lane * 16);
        if (at < bytes) gpu::store_16_bytes(reinterpret_cast<unsigned char*>(run_to) + at, *reinterpret_cast<const uint4*>(from + at));
      }
    }
    if (elected) gpu::bulk_store_commit();
  }

  /// kAnyPlace: each run begins as many elements after 16 bytes in shared memory as it does in y.
  template <bool kAnyPlace>
  __device__ __forceinline__ void put_runs(const Sums<C>& sums) const {
    Element* const place = reinterpret_cast<Element*>(runs + run_of(column_of(0, 0)) * kRunPitch) + window_position<C>(0, thread) * kWindow.outputs();
    const unsigned begin = kAnyPlace ? static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(p.y) / sizeof(Element)) + static_cast<unsigned>(first_of_run(0)) : 0;
#pragma unroll
    for (int eight = 0; eight < kSetColumns / 8; eight += kFours) {
#pragma unroll
      for (int set = 0; set < kLineSets; ++set) {
#pragma unroll
        for (int odd = 0; odd < kLineColumns; ++odd) {
          const float bias = biases[column_of(set, odd) + eight * 8];
          // The number of elements of 16 bytes is a power of two: 32 bits of what is added up are enough.
          const int shift = kAnyPlace ? static_cast<int>((begin + run_of(column_of(set, odd) + eight * 8) * static_cast<unsigned>(p.g.plane)) % C::kVector) : 0;
#pragma unroll
          for (int group = 0; group < kGroups; ++group) {
            float values[kFours * 4];
            Four fours[kFours];
            outputs(sums, group, set, odd, eight, bias, values);
            pack(values, fours);
            const int run = run_of(set * kSetColumns + odd + eight * 8);  // after the thread's first one
            Element* const to = place + run * (kRunPitch / int(sizeof(Element))) + group * (8 * kFours * 4);
#pragma unroll
            for (int four = 0; four < kFours; ++four) {
              if constexpr (kAnyPlace) {
                // Lanes agree on which it is, but for those of Form::pairs.
                if (shift % 2 == 0) {
                  put_halves(to + shift + four * 4, fours[four]);
                } else {
                  put_elements(to + shift + four * 4, fours[four]);
                }
              } else {
                put_four(to + four * 4, fours[four]);
              }
            }
          }
        }
      }
    }
  }

  // A run's first column of the product, and the other way round.
  __device__ __forceinline__ static constexpr int column_of_run(int run) {
    return kForm == Form::pairs ? 2 * run : kForm == Form::thirds ? run / 8 * 24 + run % 8 : run;
  }
  __device__ __forceinline__ static constexpr int run_of(int column) {
    return kForm == Form::pairs ? column / 2 : kForm == Form::thirds ? column / 24 * 8 + column % 8 : column;
  }

  /// What the run begins with that has the column of the product, as an index into y.
  __device__ __forceinline__ std::int64_t first_of_run(int column) const {
    const ImplicitGeometry& g = p.g;
    const int further = kForm == Form::halves ? 0 : column / kSetColumns * kWindow.set_step;
    return rows.first + column_of_tile<C>(g, tile.column, column).channel * g.plane + output_of(first_position() + further) - (kForm == Form::gaps && g.late[column % 2] ? 1 : 0);
  }

  /// kWhole: all of the sums are outputs, but for those of channels that do not exist.
  template <bool kWhole>
  __device__ __forceinline__ void store(const Sums<C>& sums) const {
    const ImplicitGeometry& g = p.g;
    constexpr int kLines = kLineSets * kLineColumns;
    const std::int64_t step = g.channel_step * g.plane;
    Element* to[kLines];         // what is stored of the first group of row blocks
    int channels[kLineColumns];  // of the first set
#pragma unroll
    for (int odd = 0; odd < kLineColumns; ++odd) channels[odd] = channel_of(0, odd);
#pragma unroll
    for (int line = 0; line < kLines; ++line) {
      const int set = line / kLineColumns, odd = line % kLineColumns;
      to[line] = static_cast<Element*>(p.y) + (rows.first + channel_of(set, odd) * g.plane + first_output(set, odd));
    }
#pragma unroll
    for (int eight = 0; eight < kSetColumns / 8; eight += kFours) {
#pragma unroll
      for (int line = 0; line < kLines; ++line) {
        const int set = line / kLineColumns, odd = line % kLineColumns;
        const float bias = biases[column_of(set, odd) + eight * 8];
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
          float values[kFours * 4];
          Four fours[kFours];
          outputs(sums, group, set, odd, eight, bias, values);
          if constexpr (kForm == Form::thirds) {  // by all lanes
            pack(values, fours);
            exchange(fours);
          }
          if (channels[odd] + eight / kFours * g.channel_step >= g.out_channels) continue;  // all classes have as many channels
          // Not packed before it is known to be stored: stores then shared registers, which in 16 bits made them 4 to 12 % slower.
          if constexpr (kForm != Form::thirds) pack(values, fours);
#pragma unroll
          for (int four = 0; four < kFours; ++four) {
            const int further = (group * kFours + four) * (8 * 4);
            Element* const at = to[line] + further;
            if constexpr (kWhole) {
              store_four(at, fours[four]);
            } else {
              const std::int64_t output = first_output(set, odd) + further;
              if (C::kServesAnyRows && output >= 0 && output + 4 <= g.output) {
                store_four_anywhere(at, fours[four]);
                continue;
              }
#pragma unroll
              for (int i = 0; i < 4; ++i) {
                if (output + i >= 0 && output + i < g.output) at[i] = element_of(fours[four], i);
              }
            }
          }
        }
        to[line] += step;
      }
    }
  }

  /// The outputs of two positions are the same as of one axis, but lie where the positions' rows do.
  __device__ __forceinline__ void store_flat(const Sums<C>& sums) const {
    const ImplicitGeometry& g = p.g;
    static_assert(kPositions == 2 && kLineSets == 1 && kLineColumns == 1);
    std::int64_t place[kGroups][2];  // of each position, in its channel
    bool exist[kGroups][2], together[kGroups];
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int position = first_position() + window_position<C>(group, thread) + i;
        const int row = g.flat_row.quotient(position), plane = g.flat_rows.quotient(row);
        const int outer_row = plane * g.outer[0].stride.divisor() * g.outer[1].output + (row - plane * g.flat_rows.divisor()) * g.outer[1].stride.divisor();
        place[group][i] = std::int64_t{outer_row} * g.flat_row.divisor() * g.stride + (position - row * g.flat_row.divisor()) * g.stride;
        exist[group][i] = position < g.positions;
      }
      together[group] = exist[group][1] && place[group][1] == place[group][0] + 2;
    }
    const int channel = channel_of(0, 0);
    Element* to = static_cast<Element*>(p.y) + (rows.first + channel * g.plane);
#pragma unroll
    for (int eight = 0; eight < kSetColumns / 8; ++eight, to += g.channel_step * g.plane) {
      const float bias = biases[column_of(0, 0) + eight * 8];
      if (channel + eight * g.channel_step >= g.out_channels) continue;
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        float values[4];
        Four fours[1];
        outputs(sums, group, 0, 0, eight, bias, values);
        pack(values, fours);
        if (together[group]) {
          store_four_anywhere(to + place[group][0], fours[0]);
          continue;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (exist[group][i / 2]) to[place[group][i / 2] + i % 2] = element_of(fours[0], i);
        }
      }
    }
  }

  /// What a thread stores of a line and group.
  __device__ __forceinline__ void outputs(const Sums<C>& sums, int group, int set, int odd, int eight, float bias, float (&values)[kFours * 4]) const {
    gather(sums, group, set, odd, eight, values);
#pragma unroll
    for (float& value : values) value = activation(value + bias);
    if constexpr (kForm == Form::gaps) {
      const float first = values[0], second = values[1], empty = activation(bias);
      const bool late = p.g.late[odd];
      values[0] = late ? empty : first, values[1] = late ? first : empty, values[2] = late ? empty : second, values[3] = late ? second : empty;
    }
  }

  __device__ __forceinline__ static void pack(const float (&values)[kFours * 4], Four (&fours)[kFours]) {
#pragma unroll
    for (int i = 0; i < kFours * 4; ++i) {
      if constexpr (sizeof(Element) == 4) {
        fours[i / 4][i % 4] = __float_as_uint(values[i]);
      } else if (i % 2 == 0) {
        fours[i / 4][i % 4 / 2] = gpu::pack<Element>(values[i], values[i + 1]);
      }
    }
  }

  /// Eight neighbouring lanes have 24 fours of a line, each three one after the other. Afterwards lane i of them has number i, i + 8 and i + 16, so that they
  /// store side by side. Number 3 lane + k goes to lane (3 lane + k) modulo 8, which is another one for each lane: three shuffles, one for each k. What lane
  /// i gets there is number i + 8 four, of which k is (i - four) modulo 3. A lane that is `turned` by one has the last of them first.
  __device__ __forceinline__ void exchange(Four (&fours)[3], int turned = 0) const {
    const int lane = thread % 32 / 4, rest = (lane + turned) % 3;
    Four received[3];
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      const int source = (lane - k) * 3 & 7;  // 3 * 3 is 1 modulo 8
#pragma unroll
      for (int i = 0; i < int(sizeof(Element)); ++i) received[k][i] = __shfl_sync(0xffffffffu, fours[k][i], source * 4 + thread % 4);
    }
#pragma unroll
    for (int four = 0; four < 3; ++four) {
#pragma unroll
      for (int i = 0; i < int(sizeof(Element)); ++i) {
        fours[four][i] = rest == four ? received[0][i] : rest == (four + 1) % 3 ? received[1][i] : received[2][i];
      }
    }
  }

  __device__ __forceinline__ static Element element_of(const Four& four, int i) {
    if constexpr (sizeof(Element) == 4) {
      return __uint_as_float(four[i]);
    } else {
      return Element{static_cast<std::uint16_t>(four[i / 2] >> i % 2 * 16)};
    }
  }

  /// To shared memory.
  __device__ __forceinline__ static void put_four(Element* to, const Four& four) {
    if constexpr (sizeof(Element) == 4) {
      *reinterpret_cast<uint4*>(to) = make_uint4(four[0], four[1], four[2], four[3]);
    } else {
      *reinterpret_cast<uint2*>(to) = make_uint2(four[0], four[1]);
    }
  }

  /// In two halves, where only those are aligned.
  __device__ __forceinline__ static void put_halves(Element* to, const Four& four) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (sizeof(Element) == 4) {
        reinterpret_cast<uint2*>(to)[i] = make_uint2(four[2 * i], four[2 * i + 1]);
      } else {
        reinterpret_cast<std::uint32_t*>(to)[i] = four[i];
      }
    }
  }
  __device__ __forceinline__ static void put_elements(Element* to, const Four& four) {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = element_of(four, i);
  }

  __device__ __forceinline__ static void store_four(Element* to, const Four& four) {
    if constexpr (sizeof(Element) == 4) {
      gpu::store_16_bytes(to, make_uint4(four[0], four[1], four[2], four[3]));
    } else {
      *reinterpret_cast<uint2*>(to) = make_uint2(four[0], four[1]);
    }
  }

  __device__ __forceinline__ static void store_four_anywhere(Element* to, const Four& four) {
    const auto address = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(to));
    if (address % sizeof(Four) == 0) {
      store_four(to, four);
    } else if (address % (sizeof(Four) / 2) == 0) {
      put_halves(to, four);
    } else {
      put_elements(to, four);
    }
  }

  /// Of the thread's column in the set's first eight.
  __device__ __forceinline__ int channel_of(int set, int odd) const { return column_of_tile<C>(p.g, tile.column, column_of(set, odd)).channel; }

  /// What a thread stores first of the first group of row blocks, as an index into its row of y, in which it may not lie.
  __device__ __forceinline__ std::int64_t first_output(int set, int odd) const {
    const int further = kForm == Form::halves ? 0 : set * kWindow.set_step;
    const std::int64_t own = output_of(first_position() + window_position<C>(0, thread) + further);
    if constexpr (kForm == Form::thirds) return own - thread % 32 / 4 * (4 * (kFours - 1));  // see exchange
    return own - (kForm == Form::gaps && p.g.late[odd] ? 1 : 0);
  }

  /// The sums of a line's positions in `eight` columns; with gaps, two of them.
  __device__ __forceinline__ static void gather(const Sums<C>& sums, int group, int set, int odd, int eight, float (&values)[kFours * 4]) {
    const int at = set * kSetSums + eight * 4, block = group * kGroupBlocks;
    if constexpr (kForm == Form::neighbours) {
      values[0] = sums[block][at + odd], values[1] = sums[block + 1][at + odd], values[2] = sums[block][at + 2 + odd], values[3] = sums[block + 1][at + 2 + odd];
    } else if constexpr (kForm == Form::pairs) {
#pragma unroll
      for (int i = 0; i < 4; ++i) values[i] = sums[block][at + i];
    } else if constexpr (kForm == Form::halves) {
      values[0] = sums[block][at + odd], values[1] = sums[block][at + kSetSums + odd];
      values[2] = sums[block][at + 2 + odd], values[3] = sums[block][at + kSetSums + 2 + odd];
    } else if constexpr (kForm == Form::thirds) {
#pragma unroll
      for (int i = 0; i < 12; ++i) values[i] = sums[block + i / 3 % 2][at + i % 3 * 4 + i / 6 * 2 + odd];
    } else {
      values[0] = sums[block][at + odd], values[1] = sums[block][at + 2 + odd], values[2] = values[3] = 0;
    }
  }
};

}  // namespace convt_gemm::implicit
