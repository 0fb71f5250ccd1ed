#pragma once
// From sums in registers to outputs in memory. A warpgroup puts the sums of one column block together to runs of consecutive
// outputs in a staging buffer, each run shifted so that 16 bytes there are 16 aligned bytes in memory. Where all its rows are
// of one sample, the copy engine stores the runs (sm_90), while the warpgroup goes on with the next column block or tile; else its
// threads do, 16 bytes at a time. Long rows are cut where 32 bytes of memory begin, so that only a row's own ends are single elements.
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

/// What an epilogue leaves for the next one of its warpgroup.
struct EpilogueState {
  /// What the tables in shared memory are for: runs that start so many elements after a multiple of 32 bytes, or
  static constexpr int kNothing = -1, kAnyRows = -2, kDirect = -3;
  int listed = kNothing;
  int buffer = 0;  ///< that is next, if a tile has one column block; with more, the block's number says it
};

/// kSets: ImplicitGeometry::sets.
template <class C, int kSets, class Activation = Identity>
struct Epilogue {
  using Element = typename C::Element;
  static constexpr int kRows = C::kTile.warpgroup_rows();
  static constexpr int kBlockCores = kColumnBlock / 8;
  /// Whether there are problems of Store::direct.
  static constexpr bool kStoresDirectly = C::kFamily == Family::sm90 && !C::kChannelsLast;

  const Params& p;
  const Tile& tile;
  Element* staging;
  int warpgroup;
  int row_in_team;  // of the warpgroup's row 0
  int thread;       // within the warpgroup
  Activation activation;

  /// Stores a tile's sums. `state.listed` has to be kNothing where the tile's columns are new.
  __device__ __forceinline__ void run(const Sums<C>& sums, EpilogueState& state) const {
    const ImplicitGeometry& g = p.g;
    if constexpr (kSets == 2) {
      run_direct(sums, state);
    } else {
      if constexpr (kStoresDirectly) {
        if (g.store == Store::direct) return run_direct(sums, state);
      }
      run_staged(sums, state);
    }
  }

  /// Store::direct: the biases of the tile's columns, in the order of their outputs. Of all `threads` this one is number `first`.
  __device__ __forceinline__ void list_biases(int first, int threads) const {
    const ImplicitGeometry& g = p.g;
    for (int n = first; n < C::kColumns; n += threads) {
      const int channel = g.minors_of_block.quotient(tile.column * C::kColumns + n);
      biases()[n] = channel < g.out_channels ? bias_of(channel) : 0.0f;
    }
  }

  /// After the last tile: the copy engine may still be reading the staging buffers.
  __device__ __forceinline__ static void finish() { wait_for_stores<0>(); }

 private:
  __device__ __forceinline__ void run_staged(const Sums<C>& sums, EpilogueState& state) const {
    const ImplicitGeometry& g = p.g;
    if (g.store == Store::rows && segments(g.owned_rows) == 1) {
      if (g.buffers == 1) {
        run_one_sample<1>(sums, state);
      } else {
        run_one_sample<2>(sums, state);
      }
    } else {
      run_any(sums, state);
    }
  }

  __device__ __forceinline__ Place* places() const {
    return reinterpret_cast<Place*>(reinterpret_cast<unsigned char*>(staging) + p.g.staging_bytes) - C::kColumns;
  }
  __device__ __forceinline__ Run* runs() const {
    const int most = C::kColumnBlocks * p.g.run_majors.divisor();
    return reinterpret_cast<Run*>(places()) - (p.g.runs > most ? p.g.runs : most);
  }

  __device__ __forceinline__ void barrier() const { gpu::named_barrier(1 + warpgroup, kWarpgroup); }

  /// Until the copy engine has read what this thread gave it before the last kPending times.
  template <int kPending>
  __device__ __forceinline__ static void wait_for_stores() {
    if constexpr (C::kFamily == Family::sm90) gpu::bulk_store_wait<kPending>();
  }

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
      case Store::direct:
        part.at = i * g.run_pitch;
    }
    return part;
  }

  // --- Any rows ----------------------------------------------------------------------------------------------------------

  /// A column block at a time, each with its own table of runs.
  __device__ __forceinline__ void run_any(const Sums<C>& sums, EpilogueState& state) const {
    const ImplicitGeometry& g = p.g;
    const int segments = this->segments(kRows);
    if (uniform(state.listed != EpilogueState::kAnyRows)) {
      wait_for_stores<0>();
      barrier();  // the last tile's table of places is read, and its outputs
      for (int n = thread; n < C::kColumns; n += kWarpgroup) {
        const ColumnPart part = column_part(n);
        places()[n] = {part.valid ? part.at * kShifts + static_cast<int>(part.shift % kShifts) : -1, part.bias};
      }
      state.listed = EpilogueState::kAnyRows;
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
        store_runs(static_cast<unsigned char*>(p.y), staging, runs(), runs_of(segments));
        if (g.channels_last && g.fill) fill_channels(block);
      }
    }
  }

  /// A place of run_any is the column's place in elements times this, plus its index in y modulo this.
  static constexpr int kShifts = 8;

  /// Row 0 of the warpgroup, among those of all samples.
  __device__ __forceinline__ int first_row() const { return tile.row * p.g.tile_rows + row_in_team; }

  /// Samples that the warpgroup's first `rows` rows are of.
  __device__ __forceinline__ int segments(int rows) const {
    const ImplicitGeometry& g = p.g;
    return g.sample_rows.quotient(first_row() + rows - 1) - g.sample_rows.quotient(first_row()) + 1;
  }

  /// The first output of a position, as an index into its row of y, in which it may not lie.
  __device__ __forceinline__ std::int64_t output_of(int position, int residue) const {
    return p.g.first_output + std::int64_t{position} * p.g.stride + std::int64_t{residue} * p.g.dilation;
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
        case Store::rows:
          runs()[number] = run_of_rows(column, row, owner, column.major * g.run_pitch + start_of_segment(owner.row, owner.segment));
          continue;
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
      runs()[number] = run_of(index_of(row.sample, column.channel, output), g.channels_last ? 0 : output, 0, end, staged);
    }
  }

  /// Store::rows: the part of a row of y that the warpgroup stores, out of what its rows from `row` on give. If boundaries are multiples
  /// of more than one element, a part that goes on in the next rows goes on to the first boundary there, and begins at one.
  __device__ __forceinline__ Run run_of_rows(const Column& column, const Row& row, const Owner& owner, int staged) const {
    const ImplicitGeometry& g = p.g;
    const std::int64_t output = output_of(row.position, 0), start = index_of(row.sample, column.channel, output);
    const int left = g.positions - row.position, owned = g.owned_rows - owner.row;
    std::int64_t begin = 0, end = std::int64_t{left < owner.rows ? left : owner.rows} * g.stride;
    if (g.boundary > 1) {
      if (row.position > 0 && owner.row == 0) begin = to_boundary(start);
      if (left > owned) end = std::int64_t{owned} * g.stride + to_boundary(start + std::int64_t{owned} * g.stride);
    }
    if (!column.valid || !row.valid || owned <= 0) end = 0;
    return run_of(start, output, begin, end, staged);
  }

  /// Outputs from an index of y to the next multiple of g.boundary.
  __device__ __forceinline__ int to_boundary(std::int64_t index) const { return static_cast<int>(-index & (p.g.boundary - 1)); }

  /// A run of the outputs [begin, end) after index `start` of y, which is `output` in its row; those outside of the row are left out.
  /// Output 0 has its place, but for the shift, at `staged`.
  __device__ __forceinline__ Run run_of(std::int64_t start, std::int64_t output, std::int64_t begin, std::int64_t end, int staged) const {
    const std::int64_t outputs = p.g.output;
    const int shift = static_cast<int>(start & (C::kVector - 1));
    if (begin < -output) begin = -output;
    if (!p.g.channels_last && outputs - output < end) end = outputs - output;
    if (begin > end) end = begin = 0;
    const std::int64_t first = (begin + shift + C::kVector - 1) / C::kVector * C::kVector - shift;
    const std::int64_t after = (end + shift) / C::kVector * C::kVector - shift;
    constexpr int kBytes = sizeof(Element);
    if (first > after) {  // within one vector
      return {(start + end) * kBytes, (staged + shift + static_cast<int>(end)) * kBytes, 0, static_cast<std::uint8_t>(end - begin), 0};
    }
    return {(start + first) * kBytes, (staged + shift + static_cast<int>(first)) * kBytes,
            static_cast<std::uint16_t>((after - first) / C::kVector), static_cast<std::uint8_t>(first - begin),
            static_cast<std::uint8_t>(end - after)};
  }

  /// Runs of a block of this tile.
  __device__ __forceinline__ int runs_of(int segments) const {
    return p.g.store == Store::rows ? segments * p.g.run_majors.divisor() : p.g.runs;
  }

  /// channels_first: the bias everywhere in `lines` lines of a staging buffer, since not every output has taps.
  __device__ __forceinline__ void fill(Element* buffer, int pass, int lines) const {
    const ImplicitGeometry& g = p.g;
    for (int line = thread / 32; line < lines; line += kWarpgroup / 32) {
      const int major = line - g.run_majors.quotient(line) * g.run_majors.divisor();
      const Column column = column_of(g, tile.column * C::kColumnBlocks + pass, major * g.minors_of_block.divisor());
      const Element empty = from_float<Element>(activation(column.valid ? bias_of(column.channel) : 0.0f));
      std::uint32_t word;
      if constexpr (sizeof(Element) == 4) {
        word = __float_as_uint(empty);
      } else {
        word = std::uint32_t{empty.bits} << 16 | empty.bits;
      }
      for (int i = thread % 32 * C::kVector; i < g.run_pitch; i += 32 * C::kVector) {
        *reinterpret_cast<uint4*>(buffer + line * g.run_pitch + i) = make_uint4(word, word, word, word);
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
          case Store::direct:
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
            if (place.at >= 0) staging[rows.at[m][half] + place.at / kShifts + shift] = from_float<Element>(value);
          }
        }
      }
    }
  }

  /// Stores the first `count` runs of a table out of a staging buffer. `y` is where the table's bytes are counted from.
  __device__ __forceinline__ void store_runs(unsigned char* y, const Element* buffer, const Run* table, int count) const {
    const ImplicitGeometry& g = p.g;
    const unsigned char* const staged = reinterpret_cast<const unsigned char*>(buffer);
    const int lanes = 1 << g.log2_run_lanes, lane = thread & (lanes - 1), step = kWarpgroup >> g.log2_run_lanes;
    // Four at a time: tables, then outputs, then stores, so that one does not wait for the other.
    constexpr int kTogether = 4;
    for (int v = lane; v < g.run_vectors; v += lanes) {
      const unsigned char* const from = staged + v * 16;
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
          outputs[i] = *reinterpret_cast<const uint4*>(exists[i] ? from + run[i].staged : staged);
        }
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
          if (exists[i]) gpu::store_16_bytes(to + run[i].first, outputs[i]);
        }
      }
    }
    store_ends(y, staged, table, count);
  }

  /// What is left at both ends of runs whose whole vectors are stored.
  __device__ __forceinline__ void store_ends(unsigned char* y, const unsigned char* staged, const Run* table, int count) const {
    for (int item = thread; item < count * C::kVector; item += kWarpgroup) {
      const Run run = run_at(table + item / C::kVector);
      const int i = item % C::kVector, tail = run.whole * C::kVector + i;
      const Element* const from = reinterpret_cast<const Element*>(staged + run.staged);
      Element* const to = reinterpret_cast<Element*>(y + run.first);
      if (i < run.head) to[-1 - i] = from[-1 - i];
      if (i < run.tail) to[tail] = from[tail];
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

  // --- Store::rows, all rows of one sample: places and runs are the same for all such tiles whose first output is as far after a multiple
  // of 32 bytes, but for the tile's own place in y ------------------------------------------------------------------------------------

  static constexpr int kSector = kSectorBytes / int(sizeof(Element));

  template <int kBuffers>
  __device__ __forceinline__ void run_one_sample(const Sums<C>& sums, EpilogueState& state) const {
    const ImplicitGeometry& g = p.g;
    // A buffer always has the same columns, so that what fills the places between the sums stays.
    constexpr bool kKeepsFill = C::kColumnBlocks <= kBuffers || C::kColumnBlocks == 1;
    const Row first = row_of(g, first_row());
    const std::int64_t output = output_of(first.position, 0), start = index_of(first.sample, 0, output);
    const int phase = static_cast<int>(start & (kSector - 1));
    const bool whole = first.sample < g.batch && first.position + g.used_rows <= g.positions && output >= 0 &&
                       output + std::int64_t{g.used_rows} * g.stride <= g.output && (g.boundary == 1 || first.position > 0);
    if (uniform(!whole || state.listed != phase)) {
      wait_for_stores<0>();
      barrier();  // the last tile's tables and outputs are read
      list_one_sample(first, start);
      if (g.fill && kKeepsFill) {
#pragma unroll
        for (int buffer = 0; buffer < kBuffers; ++buffer) {
          fill(staging + buffer * g.buffer_elements, buffer % C::kColumnBlocks, g.run_majors.divisor());
        }
      }
      state.listed = whole ? phase : EpilogueState::kNothing;
    }
    unsigned char* const y = static_cast<unsigned char*>(p.y) + (start - phase) * static_cast<int>(sizeof(Element));
    const bool ends = g.boundary == 1 || !whole;
#pragma unroll
    for (int pass = 0; pass < C::kColumnBlocks; ++pass) {
      Element* buffer = staging;
      if constexpr (kBuffers > 1) buffer += (C::kColumnBlocks == 1 ? state.buffer : pass % kBuffers) * g.buffer_elements;
      if (tile.column * C::kColumnBlocks + pass < g.column_blocks) {
        wait_for_stores<kBuffers - 1>();
        barrier();  // the tables are there, the buffer's last outputs are read
        if (g.fill && !kKeepsFill) {
          fill(buffer, pass, g.run_majors.divisor());
          barrier();
        }
        stage_one_sample(pass, buffer, sums);
        if constexpr (C::kFamily == Family::sm90) gpu::fence_async_proxy();
        barrier();
        store_one_sample(y, buffer, runs() + pass * g.run_majors.divisor(), ends);
      }
      if constexpr (C::kFamily == Family::sm90) gpu::bulk_store_commit();  // an empty group, if there is nothing: groups are counted
      if constexpr (kBuffers > 1 && C::kColumnBlocks == 1) state.buffer ^= 1;
    }
  }

  /// The tables of runs and of places, as if `start` were less than 32 bytes.
  __device__ __forceinline__ void list_one_sample(const Row& first, std::int64_t start) const {
    const ImplicitGeometry& g = p.g;
    const int phase = static_cast<int>(start & (kSector - 1));
    for (int n = thread; n < C::kColumns; n += kWarpgroup) {
      const ColumnPart part = column_part(n);
      const int shift = static_cast<int>((static_cast<unsigned>(phase) + part.shift) & (C::kVector - 1));
      places()[n] = {(part.valid ? part.at + shift : g.spare) * static_cast<int>(sizeof(Element)), part.bias};
    }
    for (int number = thread; number < C::kColumnBlocks * g.run_majors.divisor(); number += kWarpgroup) {
      const int pass = g.run_majors.quotient(number), major = number - pass * g.run_majors.divisor();
      const Column column = column_of(g, tile.column * C::kColumnBlocks + pass, major * g.minors_of_block.divisor());
      Run run = run_of_rows(column, first, Owner{0, 0, kRows, 0}, major * g.run_pitch);
      run.first -= (start - phase) * static_cast<int>(sizeof(Element));
      runs()[number] = run;
    }
  }

  /// The runs of a column block; `ends` if some of them may have ends that are not whole vectors.
  __device__ __forceinline__ void store_one_sample(unsigned char* y, const Element* buffer, const Run* table, bool ends) const {
    const int count = p.g.run_majors.divisor();
    if constexpr (C::kFamily == Family::sm90) {
      const unsigned char* const staged = reinterpret_cast<const unsigned char*>(buffer);
      // One lane of each warp, with addresses that all its lanes know to be the same, else copies wait for each other.
      constexpr int kWarps = kWarpgroup / 32, kTogether = 4;
      for (int first = uniform(thread / 32); first < count; first += kTogether * kWarps) {
        Run run[kTogether];
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
          const int number = first + i * kWarps;
          run[i] = run_at(table + (number < count ? number : first));
          if (number >= count) run[i].whole = 0;
        }
        const bool all = run[0].whole > 0 && run[1].whole > 0 && run[2].whole > 0 && run[3].whole > 0;
        static_assert(kTogether == 4);
        if (!gpu::elect()) continue;
        if (all) {  // without branches between them they do not wait for each other
#pragma unroll
          for (int i = 0; i < kTogether; ++i) gpu::bulk_store(y + run[i].first, staged + run[i].staged, run[i].whole * 16u);
        } else {
#pragma unroll
          for (int i = 0; i < kTogether; ++i) {
            if (run[i].whole > 0) gpu::bulk_store(y + run[i].first, staged + run[i].staged, run[i].whole * 16u);
          }
        }
      }
      if (uniform(ends)) store_ends(y, staged, table, count);
    } else {
      store_runs(y, buffer, table, count);
    }
  }

  __device__ __forceinline__ void stage_one_sample(int pass, Element* buffer, const Sums<C>& sums) const {
    const ImplicitGeometry& g = p.g;
    const Place* table = places() + pass * kColumnBlock + thread % 4 * 2;
    unsigned char* row_places[C::kRowBlocks][2];
#pragma unroll
    for (int m = 0; m < C::kRowBlocks; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) row_places[m][half] = reinterpret_cast<unsigned char*>(buffer + row_of_thread(m, half, thread) * g.stride);
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
            *reinterpret_cast<Element*>(row_places[m][half] + place[core][odd].at) = from_float<Element>(activation(value));
          }
        }
      }
    }
  }

  // --- Store::direct ---------------------------------------------------------------------------------------------------

  __device__ __forceinline__ float* biases() const { return reinterpret_cast<float*>(staging); }

  /// Consecutive columns, as a thread goes through them: always the same number further.
  class DirectColumn {
   public:
    int channel, residue;
    std::int64_t at;  ///< bytes from the outputs of channel 0 and residue 0

    __device__ __forceinline__ DirectColumn(const ImplicitGeometry& g, int number, int step)
        : channel(g.minors_of_block.quotient(number)), residues_(g.residues) {
      residue = number - channel * residues_;
      at = bytes(g, channel, residue);
      channels_ = g.minors_of_block.quotient(step), more_residues_ = step - channels_ * residues_;
      near_ = bytes(g, channels_, more_residues_), far_ = near_ + bytes(g, 1, -residues_);
    }

    __device__ __forceinline__ void advance() {
      residue += more_residues_, channel += channels_;
      const bool next_channel = residue >= residues_;
      if (next_channel) residue -= residues_, ++channel;
      at += next_channel ? far_ : near_;
    }

   private:
    __device__ __forceinline__ static std::int64_t bytes(const ImplicitGeometry& g, int channels, int residues) {
      return (channels * g.output + residues * std::int64_t{g.dilation}) * std::int64_t{sizeof(Element)};
    }

    int residues_, channels_, more_residues_;
    std::int64_t near_, far_;
  };

  /// Rows that the warpgroup stores: all, if x need not come out even for loading threads.
  __device__ __forceinline__ int owned_rows() const { return C::kRawRows ? kRows : p.g.owned_rows; }

  __device__ __forceinline__ void run_direct(const Sums<C>& sums, EpilogueState& state) const {
    const ImplicitGeometry& g = p.g;
    if (uniform(!g.resident && state.listed != EpilogueState::kDirect)) {
      barrier();  // the last tile's biases are read
      list_biases(thread, kWarpgroup);
      barrier();
      state.listed = EpilogueState::kDirect;
    }
    const Row first = row_of(g, first_row());
    const std::int64_t output = output_of(first.position, 0);
    const int rows = owned_rows();
    const bool whole = first.sample < g.batch && first.position + rows <= g.positions && output >= 0 &&
                       output_of(first.position + rows - 1, g.residues - 1) < g.output && (tile.column + 1) * C::kColumns <= g.out_channels * g.residues;
    if (uniform(whole)) {
      store_direct<true>(sums);
    } else {
      store_direct<false>(sums);
    }
  }

  /// kWhole: all of the sums are outputs.
  template <bool kWhole>
  __device__ __forceinline__ void store_direct(const Sums<C>& sums) const {
    switch (p.g.direct_outputs) {
      case 1:
        if constexpr (kSets == 1) {
          if (p.g.direct_positions == 1) {
            store_direct<kWhole, 1>(sums);
          } else {
            store_pairs<kWhole>(sums);
          }
        }
        return;
      case 2: return store_direct<kWhole, 2>(sums);
      case 4: return store_direct<kWhole, 4>(sums);
    }
    if constexpr (C::kVector > 4) store_direct<kWhole, C::kVector>(sums);
  }

  /// Which of a thread's columns is number `i` of those whose sums it stores together, after `first` others: see direct_column.
  template <int kTogether>
  __device__ __forceinline__ static constexpr int column_of_thread(int first, int i) {
    if constexpr (kSets == 1) return first + i;
    constexpr int kOfSet = kSets == 1 ? 1 : kTogether / kSets;
    return i / kOfSet * (C::kSums / 2 / kSets) + first / kSets + i % kOfSet;
  }

  /// Consecutive outputs in one access, to which `to` is aligned.
  template <int kCount>
  __device__ __forceinline__ static void store_outputs(unsigned char* to, const float (&values)[kCount]) {
    constexpr int kBytes = kCount * int(sizeof(Element));
    if constexpr (kCount == 1) {
      *reinterpret_cast<Element*>(to) = from_float<Element>(values[0]);
    } else {
      std::uint32_t words[kBytes / 4];
#pragma unroll
      for (int i = 0; i < kBytes / 4; ++i) {
        if constexpr (sizeof(Element) == 4) {
          words[i] = __float_as_uint(values[i]);
        } else {
          words[i] = gpu::pack<Element>(values[2 * i], values[2 * i + 1]);
        }
      }
      if constexpr (kBytes == 4) {
        *reinterpret_cast<std::uint32_t*>(to) = words[0];
      } else if constexpr (kBytes == 8) {
        *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
      } else {
        *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
  }

  template <bool kWhole, int kTogether>
  __device__ __forceinline__ void store_direct(const Sums<C>& sums) const {
    const ImplicitGeometry& g = p.g;
    unsigned char* rows[C::kRowBlocks][2];
    std::int64_t outputs[C::kRowBlocks][2];  // of residue 0; far outside of the row, if the row stands for nothing
    bool owned[C::kRowBlocks][2];
#pragma unroll
    for (int m = 0; m < C::kRowBlocks; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int number = row_of_thread(m, half, thread);
        const Row row = row_of(g, first_row() + number);
        owned[m][half] = number < owned_rows();
        outputs[m][half] = output_of(row.position, 0);
        rows[m][half] = static_cast<unsigned char*>(p.y) + index_of(row.sample, 0, outputs[m][half]) * std::int64_t{sizeof(Element)};
        if (!row.valid) outputs[m][half] = -(std::int64_t{1} << 40);
      }
    }
    constexpr int kStep = 4 * kTogether;  // columns that the four threads of a row store at a time
    const float* const bias = biases() + thread % 4 * kTogether;
    DirectColumn column(g, tile.column * C::kColumns + thread % 4 * kTogether, kStep);
#pragma unroll
    for (int first = 0; first < C::kSums / 2; first += kTogether, column.advance()) {  // of the thread's columns
      const std::int64_t in_row = column.residue * std::int64_t{g.dilation};
      const float column_bias = bias[first / kTogether * kStep];
#pragma unroll
      for (int m = 0; m < C::kRowBlocks; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const bool exists = owned[m][half] && (kWhole || (column.channel < g.out_channels && outputs[m][half] + in_row >= 0 && outputs[m][half] + in_row < g.output));
          float values[kTogether];
#pragma unroll
          for (int i = 0; i < kTogether; ++i) {
            const int of_thread = column_of_thread<kTogether>(first, i);
            values[i] = activation(sums[m][of_thread / 2 * 4 + 2 * half + of_thread % 2] + column_bias);
          }
          if (exists) store_outputs(rows[m][half] + column.at, values);
        }
      }
    }
  }

  /// The same with the outputs of two neighbouring positions at a time, which two neighbours of four threads each hold: of a column's two sums
  /// in a block of 64 rows, the thread of the even position keeps the first and gets its neighbour's, and gives its second for it. (With stride 1
  /// there is one residue: columns are channels.)
  template <bool kWhole>
  __device__ __forceinline__ void store_pairs(const Sums<C>& sums) const {
    const ImplicitGeometry& g = p.g;
    constexpr int kStep = 4;  // columns that the four threads of a row have at a time
    const bool odd = thread / 4 % 2 == 1;
    const int channel = tile.column * C::kColumns + thread % kStep;
    const std::int64_t step = kStep * g.output * std::int64_t{sizeof(Element)};
    const float* const bias = biases() + thread % kStep;
    unsigned char* to[C::kRowBlocks];
    bool exists[C::kRowBlocks];
#pragma unroll
    for (int m = 0; m < C::kRowBlocks; ++m) {
      const int number = odd ? row_of_thread(m, 1, thread) - 1 : row_of_thread(m, 0, thread);
      const Row row = row_of(g, first_row() + number);
      const std::int64_t output = output_of(row.position, 0);
      to[m] = static_cast<unsigned char*>(p.y) + index_of(row.sample, channel, output) * std::int64_t{sizeof(Element)};
      exists[m] = number < owned_rows() && (kWhole || (row.valid && output >= 0 && output < g.output));
    }
#pragma unroll
    for (int i = 0; i < C::kSums / 2; ++i) {  // of the thread's columns
      const float column_bias = bias[i * kStep];
      const bool column_exists = kWhole || channel + i * kStep < g.out_channels;
#pragma unroll
      for (int m = 0; m < C::kRowBlocks; ++m) {
        const float first = sums[m][i / 2 * 4 + i % 2], second = sums[m][i / 2 * 4 + 2 + i % 2];
        const float other = __shfl_xor_sync(0xffffffffu, odd ? first : second, 4);
        const float values[2] = {activation((odd ? other : first) + column_bias), activation((odd ? second : other) + column_bias)};
        if (exists[m] && column_exists) store_outputs(to[m], values);
        to[m] += step;
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
        y[index_of(r.sample, column.channel, output)] = staging[i * g.run_pitch + row];
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
