#pragma once
// From sums in registers to outputs in memory. A warpgroup puts the sums of one column block together to runs of consecutive
// outputs in its staging buffer, each run shifted so that 16 bytes there are 16 aligned bytes in memory, and then stores
// whole vectors. Only at the two ends of a run are there single elements, whatever the length of a row.
#include "implicit/operands.cuh"

namespace convt_gemm::implicit {

/// What is applied to every output after the bias.
struct Identity {
  __device__ __forceinline__ float operator()(float value) const { return value; }
};

template <class Element>
__device__ __forceinline__ float to_float(Element value) {
  if constexpr (sizeof(Element) == 4) {
    return value;
  } else {
    return gpu::to_float(value);
  }
}

template <class Element>
__device__ __forceinline__ Element from_float(float value) {
  if constexpr (sizeof(Element) == 4) {
    return value;
  } else {
    return gpu::from_float<Element>(value);
  }
}

/// 16 bytes of outputs out of the staging buffer.
template <class C>
__device__ __forceinline__ uint4 pack(const float* staged) {
  if constexpr (sizeof(typename C::Element) == 4) {
    return *reinterpret_cast<const uint4*>(staged);
  } else {
    const float4 a = *reinterpret_cast<const float4*>(staged), b = *reinterpret_cast<const float4*>(staged + 4);
    const auto two = [](float low, float high) {
      return std::uint32_t{from_float<typename C::Element>(low).bits} |
             std::uint32_t{from_float<typename C::Element>(high).bits} << 16;
    };
    return make_uint4(two(a.x, a.y), two(a.z, a.w), two(b.x, b.y), two(b.z, b.w));
  }
}

template <class C, class Activation = Identity>
struct Epilogue {
  using Element = typename C::Element;
  static constexpr int kRows = C::kTile.warpgroup_rows();
  static constexpr int kBlockCores = kColumnBlock / 8;

  const Params& p;
  const Tile& tile;
  float* staging;
  ColumnPart* columns;
  int warpgroup;
  int in_team;  // number of the warpgroup in its team
  int thread;   // within the warpgroup
  Activation activation;

  /// `new_columns`: the table of columns is not there yet.
  __device__ __forceinline__ void run(const Sums<C>& sums, bool new_columns) const {
    const ImplicitGeometry& g = p.g;
    if (new_columns) list_columns();
    const RowParts rows = row_parts();
    const int passes = C::kColumns / 8 / g.pass_cores;
    for (int pass = 0; pass < passes; ++pass) {
      const int first = pass * g.pass_cores, block = tile.column * C::kColumnBlocks + first / kBlockCores;
      if (block >= g.column_blocks) break;
      gpu::named_barrier(1 + warpgroup, kWarpgroup);  // the tables are there, the last pass's outputs are read
      if (g.store != Store::scattered) list_runs(block, first % kBlockCores);
      if (g.fill) {
        stage_pass<true>(first, rows, sums);
      } else {
        stage_pass<false>(first, rows, sums);
      }
      gpu::named_barrier(1 + warpgroup, kWarpgroup);
      if (g.store == Store::scattered) {
        scatter(block);
      } else {
        store_runs();
        if (g.channels_last && g.fill) fill_channels(block);
      }
    }
  }

  /// Writes the table of the tile's columns. A barrier has to follow.
  __device__ __forceinline__ void list_columns() const {
    const ImplicitGeometry& g = p.g;
    for (int n = thread; n < C::kColumns; n += kWarpgroup) {
      const int block = tile.column * C::kColumnBlocks + n / kColumnBlock, i = n % kColumnBlock;
      const Column column = column_of(g, block, i), first = column_of(g, block, i & -8 * g.pass_cores);
      const bool cells = g.fill && (g.store == Store::rows || g.store == Store::positions);
      ColumnPart part{0, 0, column.valid ? bias_of(column.channel) : 0.0f, !column.valid ? 0 : cells ? cell_of(column.residue) : 1};
      switch (g.store) {
        case Store::rows:
          part.at = (column.major - first.major) * g.segments * g.run_pitch + column.residue * g.dilation;
          part.shift = static_cast<unsigned>(column.channel) * static_cast<unsigned>(g.output);
          break;
        case Store::positions:
          part.at = (column.residue - first.residue) * g.dilation;
          part.shift = static_cast<unsigned>(column.channel) * static_cast<unsigned>(g.output) +
                       static_cast<unsigned>(first.residue) * static_cast<unsigned>(g.dilation);
          break;
        case Store::channels:
          part.at = column.major * g.run_pitch + column.channel - first.channel;
          part.shift = static_cast<unsigned>(column.residue) * static_cast<unsigned>(g.dilation) *
                           static_cast<unsigned>(g.out_channels * g.groups) +
                       static_cast<unsigned>(first.channel);
          break;
        case Store::scattered:
          part.at = i * g.run_pitch;
      }
      columns[n] = part;
    }
  }

 private:
  struct Row {
    std::int64_t sample, position;  // u
    bool valid;
  };

  __device__ __forceinline__ Run* runs() const { return reinterpret_cast<Run*>(staging + p.g.runs * p.g.run_pitch); }

  __device__ __forceinline__ Row row_of(int row) const {
    const ImplicitGeometry& g = p.g;
    const int in_tile = in_team * kRows + row;
    const Line line = line_of(g, tile, in_tile >> g.log2_line);
    return {line.sample, line.position + (in_tile & (g.line - 1)), line.valid};
  }

  /// The output of a position and residue, as an index into its row of y, in which it may not lie.
  __device__ __forceinline__ std::int64_t output_of(std::int64_t position, int residue) const {
    return position * p.g.stride + std::int64_t{residue} * p.g.dilation - p.g.padding;
  }

  /// Index in y of an output.
  __device__ __forceinline__ std::int64_t index_of(std::int64_t sample, int channel, std::int64_t output) const {
    const ImplicitGeometry& g = p.g;
    const std::int64_t channels = std::int64_t{g.out_channels} * g.groups;
    const std::int64_t all = std::int64_t{tile.group} * g.out_channels + channel;
    return g.channels_last ? (sample * g.output + output) * channels + all : (sample * channels + all) * g.output + output;
  }

  __device__ __forceinline__ float bias_of(int channel) const {
    if (p.bias == nullptr) return 0.0f;
    return to_float(static_cast<const Element*>(p.bias)[std::int64_t{tile.group} * p.g.out_channels + channel]);
  }

  /// Outputs from the one of a residue to the next: the first has taps, the others are the bias.
  __device__ __forceinline__ int cell_of(int residue) const {
    return residue + 1 < p.g.residues ? p.g.dilation : p.g.stride - (p.g.residues - 1) * p.g.dilation;
  }

  /// What a run is of: its first row, and the first column of the pass's or the block's major index.
  __device__ __forceinline__ void owner_of(int block, int first_core, int run, int* row, Column* column) const {
    const ImplicitGeometry& g = p.g;
    const int quotient = g.major_runs.quotient(run), rest = run - quotient * g.major_runs.divisor();
    const int major = g.store == Store::rows ? quotient : rest;
    *row = g.store == Store::rows ? rest << g.log2_segment : quotient;
    *column = column_of(g, block, first_core * 8 + major * g.minors_of_block.divisor());
  }

  /// Writes the table of the pass's runs.
  __device__ __forceinline__ void list_runs(int block, int first_core) const {
    const ImplicitGeometry& g = p.g;
    for (int run = thread; run < g.runs; run += kWarpgroup) {
      int row;
      Column column;
      owner_of(block, first_core, run, &row, &column);
      const Row r = row_of(row);
      const std::int64_t output = output_of(r.position, column.residue);
      Run entry{index_of(r.sample, column.channel, output), 0, g.run_length};
      if (g.channels_last) {
        if (g.out_channels - column.channel < entry.end) entry.end = g.out_channels - column.channel;
        if (output < 0 || output >= g.output) entry.end = 0;
      } else {
        if (g.store == Store::positions) {
          const int last = column.residue + kColumnBlock < g.residues ? column.residue + kColumnBlock : g.residues;
          entry.end = (last - column.residue - 1) * g.dilation + (g.fill ? cell_of(last - 1) : 1);
        }
        if (output < 0) entry.begin = -output < entry.end ? static_cast<int>(-output) : entry.end;
        if (g.output - output < entry.end) entry.end = g.output > output ? static_cast<int>(g.output - output) : 0;
      }
      if (!column.valid || !r.valid) entry.end = 0;
      runs()[run] = entry;
    }
  }

  /// What each row of a thread gives to the places of its sums.
  struct RowParts {
    int at[C::kRowBlocks][2];
    unsigned shift[C::kRowBlocks][2];
  };

  __device__ __forceinline__ RowParts row_parts() const {
    const ImplicitGeometry& g = p.g;
    RowParts parts;
#pragma unroll
    for (int m = 0; m < C::kRowBlocks; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = row_of_thread(m, half, thread);
        const int in_run = g.store == Store::rows ? row & (g.segment - 1) : 0;
        const Row r = row_of(row);
        parts.shift[m][half] = static_cast<unsigned>(index_of(r.sample, 0, output_of(r.position - in_run, 0)));
        switch (g.store) {
          case Store::rows:
            parts.at[m][half] = (row >> g.log2_segment) * g.run_pitch + in_run * g.stride;
            break;
          case Store::positions:
            parts.at[m][half] = row * g.run_pitch;
            break;
          case Store::channels:
            parts.at[m][half] = row * g.major_runs.divisor() * g.run_pitch;
            break;
          case Store::scattered:
            parts.at[m][half] = row;
            parts.shift[m][half] = 0;
        }
      }
    }
    return parts;
  }

  template <bool kFill>
  __device__ __forceinline__ void stage_pass(int first, const RowParts& rows, const Sums<C>& sums) const {
    // Sums are in registers, so that only constants can number them.
#pragma unroll
    for (int core = 0; core < C::kColumns / 8; ++core) {
      if (core >= first && core < first + p.g.pass_cores) stage<kFill>(core, rows, sums);
    }
  }

  /// Puts the sums of eight columns into their runs. Where a run starts, in y and in the staging buffer, is a sum of what its row
  /// and what its column give. The shift of a run is its start modulo a vector, and that of a sum the sum of the shifts.
  template <bool kFill>
  __device__ __forceinline__ void stage(int core, const RowParts& rows, const Sums<C>& sums) const {
    constexpr unsigned kMask = C::kVector - 1;
    const ColumnPart* table = columns + core * 8 + thread % 4 * 2;
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      const ColumnPart column = table[odd];
      const float empty = activation(column.bias);
#pragma unroll
      for (int m = 0; m < C::kRowBlocks; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float* to = staging + rows.at[m][half] + column.at + ((rows.shift[m][half] + column.shift) & kMask);
          const float value = activation(sums[m][core * 4 + 2 * half + odd] + column.bias);
          if (column.cell > 0) *to = value;
          if constexpr (kFill) {
            if (column.cell > 1) to[1] = empty;
            if (p.g.stride > 2) {
#pragma unroll 1
              for (int c = 2; c < column.cell; ++c) to[c] = empty;
            }
          }
        }
      }
    }
  }

  /// Stores the pass's runs: first all whole vectors, then what is left at both ends of each run.
  __device__ __forceinline__ void store_runs() const {
    const ImplicitGeometry& g = p.g;
    Element* y = static_cast<Element*>(p.y);
    const Run* table = runs();
    const int items = g.runs * g.run_vectors.divisor();
    for (int item = thread; item < items; item += kWarpgroup) {
      const int number = g.run_vectors.quotient(item), v = item - number * g.run_vectors.divisor();
      const Run run = table[number];
      const int relative = v * C::kVector - static_cast<int>(run.start & (C::kVector - 1));
      if (relative < run.begin || relative + C::kVector > run.end) continue;
      gpu::store_16_bytes(y + run.start + relative, pack<C>(staging + number * g.run_pitch + v * C::kVector));
    }
    constexpr int kEnds = 2 * C::kVector;
    for (int item = thread; item < g.runs * kEnds; item += kWarpgroup) {
      const int number = item / kEnds, i = item % kEnds;
      const Run run = table[number];
      const int shift = static_cast<int>(run.start & (C::kVector - 1));
      const int first_whole = ((run.begin + shift + C::kVector - 1) & -C::kVector) - shift;
      const int after_whole = ((run.end + shift) & -C::kVector) - shift;
      const bool head = i < C::kVector;
      const int tail_begin = after_whole > first_whole ? after_whole : first_whole;
      const int at = head ? run.begin + i : tail_begin + i - C::kVector;
      if (at >= run.end || (head && at >= first_whole)) continue;
      y[run.start + at] = from_float<Element>(staging[number * g.run_pitch + shift + at]);
    }
  }

  /// channels_last: the outputs without taps that follow those of a residue.
  __device__ void fill_channels(int block) const {
    const ImplicitGeometry& g = p.g;
    for (int number = thread; number < g.runs; number += kWarpgroup) {
      int row;
      Column column;
      owner_of(block, 0, number, &row, &column);
      const Row r = row_of(row);
      if (!column.valid || !r.valid) continue;
      const int steps = g.compact ? cell_of(column.residue) : column.residue == 0 ? g.stride : 0;
      for (int i = 1; i < steps; ++i) {
        const std::int64_t output = output_of(r.position, column.residue) + i;
        if (output < 0 || output >= g.output || (!g.compact && has_taps(i))) continue;
        Element* to = static_cast<Element*>(p.y) + index_of(r.sample, column.channel, output);
        for (int e = 0; e < g.run_length && column.channel + e < g.out_channels; ++e) {
          to[e] = from_float<Element>(activation(bias_of(column.channel + e)));
        }
      }
    }
  }

  /// Whether the output at `u stride + offset` has taps; see implicit_geometry.h.
  __device__ bool has_taps(int offset) const {
    const ImplicitGeometry& g = p.g;
    if (offset % g.gcd != 0) return false;
    return std::int64_t{offset / g.gcd} * g.inverse % g.tap_step < g.residues;
  }

  /// Store::scattered: a run is a column of sums, which go to memory one by one; the outputs without taps come with the first
  /// residue's.
  __device__ void scatter(int block) const {
    const ImplicitGeometry& g = p.g;
    Element* y = static_cast<Element*>(p.y);
    for (int item = thread; item < kColumnBlock * kRows; item += kWarpgroup) {
      const int i = item / kRows, row = item % kRows;
      const Column column = column_of(g, block, i);
      const Row r = row_of(row);
      if (!column.valid || !r.valid) continue;
      const std::int64_t output = output_of(r.position, column.residue);
      if (output >= 0 && output < g.output) {
        y[index_of(r.sample, column.channel, output)] = from_float<Element>(staging[i * g.run_pitch + row]);
      }
      if (!g.fill || column.residue != 0) continue;
      const Element empty = from_float<Element>(activation(bias_of(column.channel)));
      for (int offset = 1; offset < g.stride; ++offset) {
        const std::int64_t without = output + offset;
        if (without < 0 || without >= g.output || has_taps(offset)) continue;
        y[index_of(r.sample, column.channel, without)] = empty;
      }
    }
  }
};

}  // namespace convt_gemm::implicit
