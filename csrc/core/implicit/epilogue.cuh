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
  int warpgroup;
  int row_in_team;  // of the warpgroup's row 0
  int thread;       // within the warpgroup
  Activation activation;

  /// What the tables in shared memory are for: a sample, or
  static constexpr int kNothing = -1, kAnyRows = -2;

  /// Stores a tile's sums. `*listed` goes from tile to tile; it has to be kNothing where the tile's columns are new.
  __device__ __forceinline__ void run(const Sums<C>& sums, int* listed) const {
    const ImplicitGeometry& g = p.g;
    if (g.store == Store::rows && segments_of_tile() == 1) {
      if (g.buffers == 1) {
        run_one_sample<1>(sums, listed);
      } else {
        run_one_sample<C::kColumnBlocks>(sums, listed);
      }
    } else {
      run_any(sums, listed);
    }
  }

 private:
  __device__ __forceinline__ Place* places() const {
    return reinterpret_cast<Place*>(reinterpret_cast<unsigned char*>(staging) + p.g.staging_bytes) - C::kColumns;
  }
  __device__ __forceinline__ Run* runs() const {
    const int most = C::kColumnBlocks * p.g.run_majors.divisor();
    return reinterpret_cast<Run*>(places()) - (p.g.runs > most ? p.g.runs : most);
  }

  __device__ __forceinline__ void barrier() const { gpu::named_barrier(1 + warpgroup, kWarpgroup); }

  // --- What a column gives -----------------------------------------------------------------------------------------------

  struct ColumnPart {
    int at;          ///< to the place of its sums in the staging buffer
    unsigned shift;  ///< to the index of its outputs in y
    float bias;
    bool valid;
  };

  /// Of column `n` of the tile.
  __device__ __forceinline__ ColumnPart column_part(int n) const {
    const ImplicitGeometry& g = p.g;
    const int block = tile.column * C::kColumnBlocks + n / kColumnBlock, i = n % kColumnBlock;
    const Column column = column_of(g, block, i), first = column_of(g, block, 0);
    ColumnPart part{0, 0, column.valid ? bias_of(column.channel) : 0.0f, column.valid};
    switch (g.store) {
      case Store::rows:
        part.at = column.major * g.run_pitch + column.residue * g.dilation;
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
    return part;
  }

  // --- Any rows ----------------------------------------------------------------------------------------------------------

  /// A column block at a time, each with its own table of runs.
  __device__ __forceinline__ void run_any(const Sums<C>& sums, int* listed) const {
    const ImplicitGeometry& g = p.g;
    const int segments = segments_of_tile();
    if (uniform(*listed != kAnyRows)) {
      barrier();  // the last tile's table of places is read
      for (int n = thread; n < C::kColumns; n += kWarpgroup) {
        const ColumnPart part = column_part(n);
        places()[n] = {part.valid ? part.at * kShifts + static_cast<int>(part.shift % kShifts) : -1, part.bias};
      }
      *listed = kAnyRows;
    }
    const RowParts rows = row_parts();
#pragma unroll
    for (int pass = 0; pass < C::kColumnBlocks; ++pass) {
      const int block = tile.column * C::kColumnBlocks + pass;
      if (block >= g.column_blocks) break;
      barrier();  // the table of places is there, the last pass's outputs are read
      if (g.store != Store::scattered) list_runs(block, segments);
      if (g.fill && !g.channels_last && g.store != Store::scattered) {
        fill(staging, pass, g.store == Store::rows ? g.run_majors.divisor() : runs_of(segments));
        barrier();
      }
      stage(pass, rows, sums);
      barrier();
      if (g.store == Store::scattered) {
        scatter(block);
      } else {
        store_runs(static_cast<unsigned char*>(p.y), 0, runs_of(segments));
        if (g.channels_last && g.fill) fill_channels(block);
      }
    }
  }

  /// A place of run_any is the column's place in floats times this, plus its index in y modulo this.
  static constexpr int kShifts = 8;

  /// Row 0 of the warpgroup, among those of all samples.
  __device__ __forceinline__ int first_row() const { return tile.row * p.g.team_rows + row_in_team; }

  /// Samples that the warpgroup's rows are of.
  __device__ __forceinline__ int segments_of_tile() const {
    const ImplicitGeometry& g = p.g;
    return g.sample_rows.quotient(first_row() + kRows - 1) - g.sample_rows.quotient(first_row()) + 1;
  }

  /// The first output of a position, as an index into its row of y, in which it may not lie.
  __device__ __forceinline__ std::int64_t output_of(int position, int residue) const {
    return (p.g.first_position + position) * p.g.stride + std::int64_t{residue} * p.g.dilation - p.g.padding;
  }

  /// Index in y of an output.
  __device__ __forceinline__ std::int64_t index_of(std::int64_t sample, int channel, std::int64_t output) const {
    const ImplicitGeometry& g = p.g;
    const std::int64_t channels = std::int64_t{g.out_channels} * g.groups;
    const std::int64_t all = std::int64_t{tile.group} * g.out_channels + channel;
    return g.channels_last ? (sample * g.output + output) * channels + all : (sample * channels + all) * g.output + output;
  }

  /// Outputs from the one of a residue to the next: the first has taps, the others are the bias.
  __device__ __forceinline__ int cell_of(int residue) const {
    return residue + 1 < p.g.residues ? p.g.dilation : p.g.stride - (p.g.residues - 1) * p.g.dilation;
  }

  __device__ __forceinline__ float bias_of(int channel) const {
    if (p.bias == nullptr) return 0.0f;
    return to_float(static_cast<const Element*>(p.bias)[std::int64_t{tile.group} * p.g.out_channels + channel]);
  }

  /// What a run is of: its first row, how many, and its first column's part of the block.
  struct Owner {
    int segment;
    int row, rows;  ///< within the warpgroup
    int column;
  };

  /// Of run `number` of a block: runs are numbered by segment or row, then by the block's major index.
  __device__ __forceinline__ Owner owner_of(int number) const {
    const ImplicitGeometry& g = p.g;
    const int quotient = g.run_majors.quotient(number), major = number - quotient * g.run_majors.divisor();
    Owner owner{0, quotient, 1, major * g.minors_of_block.divisor()};
    if (g.store == Store::rows) {
      const Row row = row_of(g, first_row());
      const int begin = quotient == 0 ? 0 : quotient * g.sample_rows.divisor() - row.position;
      const int end = (quotient + 1) * g.sample_rows.divisor() - row.position;
      owner.segment = quotient;
      owner.row = begin;
      owner.rows = (end < kRows ? end : kRows) - begin;
    }
    return owner;
  }

  /// Where a run of Store::rows starts in its channel's part of the staging buffer, but for its shift.
  __device__ __forceinline__ int start_of_segment(int row, int segment) const {
    return row * p.g.stride / C::kVector * C::kVector + segment * 2 * C::kVector;
  }

  /// Writes the table of a block's runs.
  __device__ __forceinline__ void list_runs(int block, int segments) const {
    const ImplicitGeometry& g = p.g;
    const int count = runs_of(segments);
    for (int number = thread; number < count; number += kWarpgroup) {
      const Owner owner = owner_of(number);
      const Column column = column_of(g, block, owner.column);
      const Row row = row_of(g, first_row() + owner.row);
      const std::int64_t output = output_of(row.position, column.residue);
      std::int64_t end = g.run_length;
      int staged = number * g.run_pitch;
      switch (g.store) {
        case Store::rows: {
          const int left = g.positions - row.position;
          end = std::int64_t{left < owner.rows ? left : owner.rows} * g.stride;
          staged = column.major * g.run_pitch + start_of_segment(owner.row, owner.segment);
          break;
        }
        case Store::positions: {
          const int last = column.residue + kColumnBlock < g.residues ? column.residue + kColumnBlock : g.residues;
          end = (last - column.residue - 1) * g.dilation + cell_of(last - 1);
          break;
        }
        default:
          if (g.out_channels - column.channel < end) end = g.out_channels - column.channel;
          if (output < 0 || output >= g.output) end = 0;
      }
      if (!column.valid || !row.valid) end = 0;
      runs()[number] = run_of(index_of(row.sample, column.channel, output), g.channels_last ? 0 : output, end, staged);
    }
  }

  /// A run of `end` outputs from index `start` of y on, which is `output` in its row; those outside of the row are left out. The
  /// first has its place, but for the shift, at `staged`.
  __device__ __forceinline__ Run run_of(std::int64_t start, std::int64_t output, std::int64_t end, int staged) const {
    const std::int64_t outputs = p.g.output;
    const int shift = static_cast<int>(start & (C::kVector - 1));
    std::int64_t begin = output < 0 ? -output : 0;
    if (!p.g.channels_last && outputs - output < end) end = outputs - output;
    if (begin > end) end = begin = 0;
    const std::int64_t first = (begin + shift + C::kVector - 1) / C::kVector * C::kVector - shift;
    const std::int64_t after = (end + shift) / C::kVector * C::kVector - shift;
    constexpr int kBytes = sizeof(Element), kStagedBytes = sizeof(float);
    if (first > after) {  // within one vector
      return {(start + end) * kBytes, (staged + shift + static_cast<int>(end)) * kStagedBytes, 0, static_cast<std::uint8_t>(end - begin), 0};
    }
    return {(start + first) * kBytes, (staged + shift + static_cast<int>(first)) * kStagedBytes,
            static_cast<std::uint16_t>((after - first) / C::kVector), static_cast<std::uint8_t>(first - begin),
            static_cast<std::uint8_t>(end - after)};
  }

  /// Runs of a block of this tile.
  __device__ __forceinline__ int runs_of(int segments) const {
    return p.g.store == Store::rows ? segments * p.g.run_majors.divisor() : p.g.runs;
  }

  /// channels_first: the bias everywhere in `lines` lines of a staging buffer, since not every output has taps.
  __device__ __forceinline__ void fill(float* buffer, int pass, int lines) const {
    const ImplicitGeometry& g = p.g;
    for (int line = thread / 32; line < lines; line += kWarpgroup / 32) {
      const int major = line - g.run_majors.quotient(line) * g.run_majors.divisor();
      const Column column = column_of(g, tile.column * C::kColumnBlocks + pass, major * g.minors_of_block.divisor());
      const float empty = activation(column.valid ? bias_of(column.channel) : 0.0f);
      for (int i = thread % 32 * 4; i < g.run_pitch; i += 32 * 4) {
        *reinterpret_cast<float4*>(buffer + line * g.run_pitch + i) = make_float4(empty, empty, empty, empty);
      }
    }
  }

  /// What each row of a thread gives to the places of its sums.
  struct RowParts {
    int at[C::kRowBlocks][2];
    unsigned shift[C::kRowBlocks][2];
  };

  __device__ __forceinline__ RowParts row_parts() const {
    const ImplicitGeometry& g = p.g;
    const unsigned sample_outputs = static_cast<unsigned>(g.out_channels * g.groups) * static_cast<unsigned>(g.output);
    const Row first = row_of(g, first_row());
    RowParts parts;
#pragma unroll
    for (int m = 0; m < C::kRowBlocks; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int number = row_of_thread(m, half, thread);
        const Row row = row_of(g, first_row() + number);
        const int segment = row.sample - first.sample;
        const int in_segment = g.store != Store::rows ? 0 : segment == 0 ? number : row.position;
        const unsigned output = static_cast<unsigned>(output_of(row.position - in_segment, 0));
        const unsigned group = static_cast<unsigned>(tile.group * g.out_channels);
        parts.shift[m][half] = static_cast<unsigned>(row.sample) * sample_outputs +
                               (g.channels_last ? output * static_cast<unsigned>(g.out_channels * g.groups) + group
                                                : output + group * static_cast<unsigned>(g.output));
        switch (g.store) {
          case Store::rows:
            parts.at[m][half] = start_of_segment(number - in_segment, segment) + in_segment * g.stride;
            break;
          case Store::positions:
          case Store::channels:
            parts.at[m][half] = number * g.run_majors.divisor() * g.run_pitch;
            break;
          case Store::scattered:
            parts.at[m][half] = number;
            parts.shift[m][half] = 0;
        }
      }
    }
    return parts;
  }

  /// Puts the sums of a block of columns into their runs. Where a run starts, in y and in the staging buffer, is a sum of what its row
  /// and what its column give. The shift of a run is its start modulo a vector, and that of a sum the sum of the shifts.
  __device__ __forceinline__ void stage(int pass, const RowParts& rows, const Sums<C>& sums) const {
    constexpr unsigned kMask = C::kVector - 1;
    const Place* table = places() + pass * kColumnBlock + thread % 4 * 2;
#pragma unroll
    for (int core = 0; core < kBlockCores; ++core) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const Place place = table[core * 8 + odd];
#pragma unroll
        for (int m = 0; m < C::kRowBlocks; ++m) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int shift = static_cast<int>((rows.shift[m][half] + static_cast<unsigned>(place.at)) & kMask);
            const float value = activation(sums[m][(pass * kBlockCores + core) * 4 + 2 * half + odd] + place.bias);
            if (place.at >= 0) staging[rows.at[m][half] + place.at / kShifts + shift] = value;
          }
        }
      }
    }
  }

  /// Stores runs of the table: first all whole vectors, then what is left at both ends of each run. `y` is where the table's
  /// bytes are counted from.
  __device__ __forceinline__ void store_runs(unsigned char* y, int first_run, int count) const {
    const ImplicitGeometry& g = p.g;
    const Run* table = runs() + first_run;
    const unsigned char* const staged = reinterpret_cast<const unsigned char*>(staging);
    const int lanes = 1 << g.log2_run_lanes, lane = thread & (lanes - 1), step = kWarpgroup >> g.log2_run_lanes;
    // Four at a time: tables, then outputs, then stores, so that one does not wait for the other.
    constexpr int kTogether = 4, kStagedVector = C::kVector * int(sizeof(float));
    for (int v = lane; v < g.run_vectors; v += lanes) {
      const unsigned char* const from = staged + v * kStagedVector;
      unsigned char* const to = y + v * 16;
      for (int first = thread >> g.log2_run_lanes; first < count; first += kTogether * step) {
        Run run[kTogether];
        uint4 outputs[kTogether];
        bool exists[kTogether];
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
          const int number = first + i * step;
          run[i] = run_at(table + (number < count ? number : first));
          exists[i] = number < count && v < run[i].whole;
        }
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
          outputs[i] = pack<C>(reinterpret_cast<const float*>(exists[i] ? from + run[i].staged : staged));
        }
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
          if (exists[i]) gpu::store_16_bytes(to + run[i].first, outputs[i]);
        }
      }
    }
    for (int item = thread; item < count * C::kVector; item += kWarpgroup) {
      const Run run = run_at(table + item / C::kVector);
      const int i = item % C::kVector, tail = run.whole * C::kVector + i;
      const float* const from = reinterpret_cast<const float*>(staged + run.staged);
      Element* const to = reinterpret_cast<Element*>(y + run.first);
      const float before = i < run.head ? from[-1 - i] : 0.0f, after = i < run.tail ? from[tail] : 0.0f;
      if (i < run.head) to[-1 - i] = from_float<Element>(before);
      if (i < run.tail) to[tail] = from_float<Element>(after);
    }
  }

  /// An entry of the table in one 16-byte load.
  __device__ __forceinline__ static Run run_at(const Run* entry) {
    const int4 words = *reinterpret_cast<const int4*>(entry);
    Run run;
    run.first = static_cast<std::int64_t>(static_cast<std::uint64_t>(static_cast<std::uint32_t>(words.y)) << 32 | static_cast<std::uint32_t>(words.x));
    run.staged = words.z;
    run.whole = static_cast<std::uint16_t>(words.w & 0xffff);
    run.head = static_cast<std::uint8_t>(words.w >> 16 & 0xff);
    run.tail = static_cast<std::uint8_t>(words.w >> 24 & 0xff);
    return run;
  }

  // --- Store::rows, all rows of one sample: places and runs are the same for all such tiles, but for the tile's own place in y --------

  template <int kBlocks>
  __device__ __forceinline__ void run_one_sample(const Sums<C>& sums, int* listed) const {
    const ImplicitGeometry& g = p.g;
    const Row first = row_of(g, first_row());
    const std::int64_t output = output_of(first.position, 0);
    const bool whole = first.sample < g.batch && first.position + kRows <= g.positions && output >= 0 &&
                       output + std::int64_t{kRows} * g.stride <= g.output;
    const std::int64_t in_sample = std::int64_t{first.position} * g.stride;
    if (uniform(!whole || *listed != first.sample)) {
      barrier();  // the last tile's tables and outputs are read
      list_one_sample(first, output, in_sample);
      if (g.fill && kBlocks > 1) {
#pragma unroll
        for (int pass = 0; pass < kBlocks; ++pass) fill(staging + pass * g.buffer_floats, pass, g.run_majors.divisor());
      }
      *listed = whole ? first.sample : kNothing;
    }
    unsigned char* const y = static_cast<unsigned char*>(p.y) + in_sample * static_cast<int>(sizeof(Element));
#pragma unroll
    for (int pass = 0; pass < C::kColumnBlocks; pass += kBlocks) {
      if (tile.column * C::kColumnBlocks + pass >= g.column_blocks) break;
      barrier();  // the tables are there, the last pass's outputs are read
      if (g.fill && kBlocks == 1) {
        fill(staging, pass, g.run_majors.divisor());
        barrier();
      }
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) stage_one_sample(pass + block, sums);
      barrier();
      store_runs(y, pass * g.run_majors.divisor(), kBlocks * g.run_majors.divisor());
    }
  }

  /// The tables of runs, with indices less `in_sample`, and of places.
  __device__ __forceinline__ void list_one_sample(const Row& first, std::int64_t output, std::int64_t in_sample) const {
    const ImplicitGeometry& g = p.g;
    const std::int64_t start = index_of(first.sample, 0, output);
    for (int n = thread; n < C::kColumns; n += kWarpgroup) {
      const ColumnPart part = column_part(n);
      const int buffer = g.buffers == 1 ? 0 : n / kColumnBlock * g.buffer_floats;
      const int shift = static_cast<int>((static_cast<unsigned>(start) + part.shift) & (C::kVector - 1));
      places()[n] = {(part.valid ? buffer + part.at + shift : g.spare) * static_cast<int>(sizeof(float)), part.bias};
    }
    for (int number = thread; number < C::kColumnBlocks * g.run_majors.divisor(); number += kWarpgroup) {
      const int pass = g.run_majors.quotient(number), major = number - pass * g.run_majors.divisor();
      const Column column = column_of(g, tile.column * C::kColumnBlocks + pass, major * g.minors_of_block.divisor());
      const int left = g.positions - first.position;
      const std::int64_t end = column.valid && first.sample < g.batch && left > 0 ? std::int64_t{left < kRows ? left : kRows} * g.stride : 0;
      const int staged = (g.buffers == 1 ? 0 : pass * g.buffer_floats) + major * g.run_pitch;
      Run run = run_of(index_of(first.sample, column.channel, output), output, end, staged);
      run.first -= in_sample * static_cast<int>(sizeof(Element));
      runs()[number] = run;
    }
  }

  __device__ __forceinline__ void stage_one_sample(int pass, const Sums<C>& sums) const {
    const ImplicitGeometry& g = p.g;
    const Place* table = places() + pass * kColumnBlock + thread % 4 * 2;
    unsigned char* row_places[C::kRowBlocks][2];
#pragma unroll
    for (int m = 0; m < C::kRowBlocks; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) row_places[m][half] = reinterpret_cast<unsigned char*>(staging + row_of_thread(m, half, thread) * g.stride);
    }
    Place place[kBlockCores][2];
#pragma unroll
    for (int core = 0; core < kBlockCores; ++core) {
      const int4 both = *reinterpret_cast<const int4*>(table + core * 8);
      place[core][0] = {both.x, __int_as_float(both.y)}, place[core][1] = {both.z, __int_as_float(both.w)};
    }
#pragma unroll
    for (int core = 0; core < kBlockCores; ++core) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
#pragma unroll
        for (int m = 0; m < C::kRowBlocks; ++m) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const float value = sums[m][(pass * kBlockCores + core) * 4 + 2 * half + odd] + place[core][odd].bias;
            *reinterpret_cast<float*>(row_places[m][half] + place[core][odd].at) = activation(value);
          }
        }
      }
    }
  }

  // --- The other ways to store -------------------------------------------------------------------------------------------

  /// channels_last: the outputs without taps that follow those of a residue.
  __device__ void fill_channels(int block) const {
    const ImplicitGeometry& g = p.g;
    for (int number = thread; number < g.runs; number += kWarpgroup) {
      const Owner owner = owner_of(number);
      const Column column = column_of(g, block, owner.column);
      const Row r = row_of(g, first_row() + owner.row);
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
      const Row r = row_of(g, first_row() + row);
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
