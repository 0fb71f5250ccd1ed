#pragma once
// From the sums of the transposed product to outputs in memory. A thread has neighbouring positions of two columns; eight lanes have neighbouring
// columns, which mostly are neighbouring outputs. Stored as they are, an instruction writes parts of many sectors, and these are what limits it; so where
// it can be, outputs are put side by side in shared memory first.
#include <cstring>

#include "implicit/epilogue.cuh"
#include "implicit/transposed_operands.cuh"

namespace convt_gemm::implicit {

/// The biases of a thread's two columns.
struct ColumnBiases {
  float value[2];

  template <class C>
  static __device__ __forceinline__ ColumnBiases of(const typename C::Params& p, const Tile& tile, int warpgroup, int thread) {
    using Element = typename C::Element;
    ColumnBiases biases;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const WeightColumn column = weight_column<C>(p, tile, column_of_thread(p.w, warpgroup, half, thread));
      const int channel = tile.group * p.g.out_channels + column.channel;
      biases.value[half] = column.valid && p.bias != nullptr ? to_float(static_cast<const Element*>(p.bias)[channel]) : 0.0f;
    }
    return biases;
  }
};

/// Two neighbouring outputs, to where pairs of them are aligned.
template <class Element>
__device__ __forceinline__ void store_pair(void* to, float first, float second) {
  if constexpr (sizeof(Element) == 4) {
    *static_cast<float2*>(to) = make_float2(first, second);
  } else {
    *static_cast<std::uint32_t*>(to) = gpu::pack<Element>(first, second);
  }
}

/// Stores elements [from, after) of a vector that begins at `to`. Without branches: of a warp's lanes some mostly have such a vector, and all of them would wait for a loop.
template <class Element, class Vector>
__device__ __forceinline__ void store_part(Element* to, const Vector& vector, int from, int after) {
  Element elements[sizeof(Vector) / sizeof(Element)];
  std::memcpy(elements, &vector, sizeof vector);
#pragma unroll
  for (int e = 0; e < int(sizeof(Vector) / sizeof(Element)); ++e) {
    if (e >= from && e < after) to[e] = elements[e];
  }
}

/// Stores a thread's sums as it has them.
template <class C, class Activation = Identity>
class TransposedStore {
 public:
  using Element = typename C::Element;

  /// From the tile's position 8 `eighth` on. `thread`: within the warpgroup.
  __device__ __forceinline__ TransposedStore(const typename C::Params& p, const Tile& tile, int warpgroup, int thread, int eighth, const ColumnBiases& biases)
      : y_(static_cast<unsigned char*>(p.y)), rows_(p.g.sample_rows.divisor()), pairs_(p.w.pair_stores), biases_(biases) {
    const ImplicitGeometry& g = p.g;
    const unsigned sample_outputs = static_cast<unsigned>(g.out_channels) * static_cast<unsigned>(g.groups) * static_cast<unsigned>(g.output);
    const unsigned position_bytes = static_cast<unsigned>(g.stride) * kBytes;
    step_ = 8 * position_bytes, jump_ = sample_outputs * kBytes - static_cast<unsigned>(rows_) * position_bytes;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const WeightColumn part = weight_column<C>(p, tile, column_of_thread(p.w, warpgroup, half, thread));
      const int channel = tile.group * g.out_channels + part.channel;
      const int first = static_cast<int>(g.first_position * g.stride) + part.residue * g.dilation - static_cast<int>(g.padding);
      // Positions whose outputs are in the row of y: 0 <= position * stride + first < g.output.
      least_[half] = first >= 0 ? 0 : (-first + g.stride - 1) / g.stride;
      const int after = first >= g.output ? 0 : static_cast<int>((g.output - first + g.stride - 1) / g.stride);
      after_[half] = !part.valid ? 0 : after < g.positions ? after : g.positions;
      at_[half] = (static_cast<unsigned>(channel) * static_cast<unsigned>(g.output) + static_cast<unsigned>(first)) * kBytes;
    }
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      const Row row = row_of(g, p.w.first_row + tile.row * g.tile_rows + eighth * 8 + thread % 4 * 2 + odd);
      position_[odd] = row.position, samples_[odd] = static_cast<int>(g.batch) - row.sample;
      from_[odd] = static_cast<unsigned>(row.sample) * sample_outputs * kBytes + static_cast<unsigned>(row.position) * position_bytes;
    }
  }

  /// Stores the sums of the next eight positions: of two positions of the thread's first column, then of its second.
  __device__ __forceinline__ void operator()(const float (&sums)[4]) {
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      const int position = samples_[odd] > 0 ? position_[odd] : kNone;
      if (pairs_) {
        const float first = activation_(sums[odd] + biases_.value[0]), second = activation_(sums[2 + odd] + biases_.value[1]);
        if (position >= least_[0] && position < after_[0]) store_pair<Element>(y_ + (from_[odd] + at_[0]), first, second);
      } else {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const Element value = from_float<Element>(activation_(sums[2 * half + odd] + biases_.value[half]));
          if (position >= least_[half] && position < after_[half]) *reinterpret_cast<Element*>(y_ + (from_[odd] + at_[half])) = value;
        }
      }
      // Into the next sample; samples have eight rows at least, unless there is just one.
      const bool next = position_[odd] + 8 >= rows_;
      position_[odd] += next ? 8 - rows_ : 8;
      from_[odd] += next ? step_ + jump_ : step_;
      samples_[odd] -= next ? 1 : 0;
    }
  }

 private:
  static constexpr unsigned kBytes = sizeof(Element);
  /// No row of y has outputs there.
  static constexpr int kNone = 0x7fffffff;

  // Places in y are counted in bytes: y has fewer than 2^32.
  unsigned char* y_;
  int rows_;              ///< of a sample
  bool pairs_;            ///< both columns of the thread together
  unsigned step_, jump_;  ///< to the outputs of the position eight further; in addition to that where a sample ends, to the next one's
  // Of the thread's columns: positions that have outputs, and where the output of a sample's position 0 is, in the sample.
  int least_[2], after_[2];
  unsigned at_[2];
  ColumnBiases biases_;
  // Of the two positions that come next: their place in their sample, samples from theirs on, and where their outputs are, but for `at_`.
  int position_[2], samples_[2];
  unsigned from_[2];
  Activation activation_{};
};

/// Whether all positions of the tile are one sample's and have outputs of all residues.
template <class C>
__device__ __forceinline__ bool is_whole(const typename C::Params& p, const Tile& tile) {
  const Row first = row_of(p.g, p.w.first_row + tile.row * p.g.tile_rows);
  return first.sample < p.g.batch && first.position >= p.w.first_whole && first.position + C::kPositions <= p.w.after_whole;
}

/// The same for a whole tile, where pairs can be stored: an address and a step are all it takes.
template <class C, class Activation = Identity>
__device__ __forceinline__ void store_whole(const typename C::Params& p, const Tile& tile, int warpgroup, int thread, const ColumnBiases& biases,
                                            const float (&sums)[C::kSums]) {
  using Element = typename C::Element;
  const ImplicitGeometry& g = p.g;
  const WeightColumn column = weight_column<C>(p, tile, column_of_thread(p.w, warpgroup, 0, thread));
  if (!column.valid) return;
  const Row row = row_of(g, p.w.first_row + tile.row * g.tile_rows);
  const int stride = gpu::in_register(g.stride);
  const std::int64_t channel = (std::int64_t{row.sample} * g.groups + tile.group) * g.out_channels + column.channel;
  Element* to = static_cast<Element*>(p.y) + channel * g.output + (g.first_output + column.residue + (row.position + thread % 4 * 2) * std::int64_t{stride});
  const Activation activation{};
#pragma unroll
  for (int eighth = 0; eighth < C::kPositions / 8; ++eighth, to += 8 * stride) {
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      store_pair<Element>(to + odd * stride, activation(sums[4 * eighth + odd] + biases.value[0]), activation(sums[4 * eighth + 2 + odd] + biases.value[1]));
    }
  }
}

/// Puts a warpgroup's sums side by side in its staging buffer: see WeightTiles::staged.
template <class C, class Activation>
class StagedSums {
 public:
  using Element = typename C::Element;

  /// Before put(): what was in the buffer has been stored.
  __device__ __forceinline__ void start() const { gpu::named_barrier(barrier_, kWarpgroup); }

  /// Sums of kEighths times eight positions, of which `eighths` exist, from the buffer's position 8 `eighth` on.
  template <int kEighths>
  __device__ __forceinline__ void put(const float (&sums)[kEighths][4], int eighth = 0, int eighths = kEighths) const {
    const int stride = gpu::in_register(stride_);  // or places would be kept in registers from round to round
    if (pairs_) {
      if (to_[0] == nullptr) return;
#pragma unroll
      for (int i = 0; i < kEighths; ++i) {
        if (i >= eighths) break;
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          const float first = activation_(sums[i][odd] + biases_.value[0]), second = activation_(sums[i][2 + odd] + biases_.value[1]);
          Element* const to = to_[0] + ((eighth + i) * 8 + odd) * stride;
          store_pair<Element>(to, first, second);
        }
      }
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (to_[half] == nullptr) continue;
#pragma unroll
        for (int i = 0; i < kEighths; ++i) {
          if (i >= eighths) break;
#pragma unroll
          for (int odd = 0; odd < 2; ++odd) {
            to_[half][((eighth + i) * 8 + odd) * stride] = from_float<Element>(activation_(sums[i][2 * half + odd] + biases_.value[half]));
          }
        }
      }
    }
  }

 protected:
  __device__ __forceinline__ StagedSums(const typename C::Params& p, unsigned char* memory, int stride, int warpgroup, const ColumnBiases& biases)
      : barrier_(2 + warpgroup), stride_(gpu::in_register(stride)), biases_(biases),
        buffer_(reinterpret_cast<Element*>(memory + p.g.shared_bytes - p.w.exchange_bytes - (warpgroup + 1) * p.w.staging_bytes) + p.w.first_in_vector) {}

  int barrier_, stride_;  ///< outputs from one position to the next
  ColumnBiases biases_;
  Element* buffer_;
  Element* to_[2];  ///< of the thread's columns; null for what is none
  bool pairs_;      ///< they are put there together
  Activation activation_{};
};

/// Stores what is staged, of one axis.
template <class C, class Activation = Identity>
class StagedStore : public StagedSums<C, Activation> {
 public:
  using Element = typename C::Element;

  /// `thread`: within the warpgroup.
  __device__ __forceinline__ StagedStore(const typename C::Params& p, unsigned char* memory, const Tile& tile, int warpgroup, int thread, const ColumnBiases& biases)
      : StagedSums<C, Activation>(p, memory, p.g.stride, warpgroup, biases), p_(p), warp_(thread / 32), lane_(thread % 32) {
    const ImplicitGeometry& g = p.g;
    const WeightTiles& w = p.w;
    Element* const buffer = this->buffer_;
    const int first_channel = tile.column * w.channels + warpgroup * w.group_channels, left = g.out_channels - first_channel;
    rows_ = left < w.group_channels ? left : w.group_channels;
    from_ = buffer + warp_ * w.staging_pitch;
    sample_elements_ = static_cast<unsigned>(g.out_channels) * static_cast<unsigned>(g.groups) * static_cast<unsigned>(g.output);
    y_ = static_cast<unsigned>(tile.group * g.out_channels + first_channel + warp_) * static_cast<unsigned>(g.output);
    first_output_ = (p.w.first_row + tile.row * g.tile_rows) * g.stride;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const WeightColumn column = weight_column<C>(p, tile, column_of_thread(w, warpgroup, half, thread));
      const int at = (column.channel - first_channel) * w.staging_pitch + column.residue + thread % 4 * 2 * g.stride;
      this->to_[half] = column.valid ? buffer + at : nullptr;
    }
    this->pairs_ = w.paired && w.first_in_vector % 2 == 0;
  }

  /// After put(), stores the outputs of positions from 8 `eighth` on, `eighths` times 8 of them.
  __device__ __forceinline__ void finish(int eighth, int eighths, bool = true, bool = true) const {
    gpu::named_barrier(this->barrier_, kWarpgroup);
    const ImplicitGeometry& g = p_.g;
    const int length = eighths * 8 * this->stride_, first = first_output_ + eighth * 8 * this->stride_;
    const int vector = 1 << p_.w.log2_vector;
    // The part of the buffer's rows that is one sample's, and of that what exists.
#pragma unroll 1
    for (int sample = g.batch > 1 ? p_.w.sample_outputs.quotient(first) : 0; sample < g.batch; ++sample) {
      const int begin = sample * p_.w.sample_outputs.divisor() - static_cast<int>(g.first_output) - first, end = begin + static_cast<int>(g.output);
      if (begin >= length) break;
      const int from = begin < 0 ? 0 : begin, after = end < length ? end : length;
      const unsigned to = y_ + static_cast<unsigned>(sample) * sample_elements_ - static_cast<unsigned>(begin);
      const int head = -(from + p_.w.first_in_vector) & (vector - 1), whole = (after - from - head) & -vector;
      switch (static_cast<int>(sizeof(Element)) * vector) {
        case 16: copy<uint4>(to, from + head, whole); break;
        case 8: copy<uint2>(to, from + head, whole); break;
        case 4: copy<std::uint32_t>(to, from + head, whole); break;
        default:
          if constexpr (sizeof(Element) == 2) copy<Element>(to, from, whole);
      }
      // What lies before the first whole vector and after the last.
      const int singles = after - from - (whole > 0 ? whole : 0), at = from + lane_ + (lane_ >= head && whole > 0 ? whole : 0);
      if (lane_ >= singles) continue;
#pragma unroll 1
      for (int row = 0; row + warp_ < rows_; row += kWarps) {
        static_cast<Element*>(p_.y)[to + static_cast<unsigned>(row) * static_cast<unsigned>(g.output) + static_cast<unsigned>(at)] = from_[row * p_.w.staging_pitch + at];
      }
    }
  }

 private:
  /// Vectors that a thread reads before it stores one: of how many rows, and in each.
  static constexpr int kRows = 2, kOfRow = C::kSums > 100 ? 2 : 3;
  static constexpr int kWarps = kWarpgroup / 32;

  /// `count` outputs of the buffer's rows from `begin` on, in whole vectors; number 0 of the warp's first row goes to `to`.
  template <class Vector>
  __device__ __forceinline__ void copy(unsigned to, int begin, int count) const {
    constexpr int kVector = int(sizeof(Vector) / sizeof(Element)), kStep = 32 * kVector;
    const int pitch = kWarps * p_.w.staging_pitch;
    const unsigned output = static_cast<unsigned>(kWarps) * static_cast<unsigned>(p_.g.output);
#pragma unroll 1
    for (int first = begin + lane_ * kVector, left = count - lane_ * kVector; left > 0; first += kOfRow * kStep, left -= kOfRow * kStep) {
      const Element* from = from_ + first;
      Element* row = static_cast<Element*>(p_.y) + (to + static_cast<unsigned>(first));
#pragma unroll 1
      for (int rows = rows_ - warp_; rows > 0; rows -= kRows * kWarps) {
        Vector values[kRows][kOfRow];
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
#pragma unroll
          for (int j = 0; j < kOfRow; ++j) {
            if (i * kWarps < rows && j * kStep < left) values[i][j] = *reinterpret_cast<const Vector*>(from + i * pitch + j * kStep);
          }
        }
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
#pragma unroll
          for (int j = 0; j < kOfRow; ++j) {
            if (i * kWarps < rows && j * kStep < left) *reinterpret_cast<Vector*>(row + j * kStep) = values[i][j];
          }
          row += output;
        }
        from += kRows * pitch;
      }
    }
  }

  const typename C::Params& p_;
  int warp_, lane_;
  const Element* from_;       ///< the warp's first row in the buffer
  unsigned y_;                ///< and in sample 0 of y, which has fewer than 2^32 elements
  int rows_;                  ///< channels of the warpgroup that exist
  unsigned sample_elements_;  ///< of y
  int first_output_;          ///< of the tile, where outputs of all rows are numbered one after the other
};

/// The same of several axes: rows of the buffer are rows of y, of which a tile's positions have parts.
template <class C, class Activation = Identity>
class PlaneStore : public StagedSums<C, Activation> {
 public:
  using Element = typename C::Element;

  /// `thread`: within the warpgroup.
  __device__ __forceinline__ PlaneStore(const typename C::Params& p, unsigned char* memory, const Tile& tile, int warpgroup, int thread, const ColumnBiases& biases)
      : StagedSums<C, Activation>(p, memory, p.planes.axis[kAllAxes - 1].stride.divisor(), warpgroup, biases), p_(p), thread_(thread) {
    const WeightTiles& w = p.w;
    const PlaneTiles& planes = p.planes;
    const int first_channel = tile.column * w.channels + warpgroup * w.group_channels, left = p.g.out_channels - first_channel, stride = this->stride_;
    channels_ = left < w.group_channels ? left : w.group_channels;
    channel_ = tile.group * p.g.out_channels + first_channel;
    first_position_ = w.first_row + tile.row * p.g.tile_rows;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const WeightColumn column = weight_column<C>(p, tile, column_of_thread(w, warpgroup, half, thread));
      const int outer = planes.axis[kAllAxes - 1].stride.quotient(column.residue), row = (column.channel - first_channel) * planes.outer_residues + outer;
      this->to_[half] = column.valid ? this->buffer_ + (row * w.staging_pitch + column.residue - outer * stride + thread % 4 * 2 * stride) : nullptr;
    }
    this->pairs_ = w.paired && stride % 2 == 0 && w.first_in_vector % 2 == 0;
  }

  /// Before put(): what was in the buffer has been stored, but for the part of a vector that put() will complete.
  __device__ __forceinline__ void start() {
    StagedSums<C, Activation>::start();
    if (thread_ < carried_rows_) store_part(this->buffer_ - p_.w.first_in_vector + thread_ * p_.w.staging_pitch, carried_, 0, p_.w.first_in_vector);
  }

  /// After put(), stores the outputs of positions from 8 `eighth` on, `eighths` times 8 of them; `first` and `last`: of the tile's rounds. Between two rounds are vectors
  /// that both have a part of: the second one stores them.
  __device__ __forceinline__ void finish(int eighth, int eighths, bool first = true, bool last = true) {
    gpu::named_barrier(this->barrier_, kWarpgroup);
    const int outputs = eighths * 8 * this->stride_;
    carried_rows_ = last || p_.w.first_in_vector == 0 ? 0 : p_.w.group_channels * p_.planes.outer_residues;
    switch (static_cast<int>(sizeof(Element)) << p_.w.log2_vector) {
      case 16: copy<uint4>(eighth, outputs, first, last); break;
      case 8: copy<uint2>(eighth, outputs, first, last); break;
      case 4: copy<std::uint32_t>(eighth, outputs, first, last); break;
      default:
        if constexpr (sizeof(Element) == 2) copy<Element>(eighth, outputs, first, last);
    }
  }

 private:
  static constexpr int kResidues = 2;  ///< of the outer axes, whose rows a thread has at a time

  /// A thread has the same vector of rows of several channels. Rows of y are whole vectors, which begin where those of the buffer do.
  template <class Vector>
  __device__ __forceinline__ void copy(int eighth, int outputs, bool first_round, bool last_round) {
    constexpr int kVector = int(sizeof(Vector) / sizeof(Element));
    if (thread_ < carried_rows_) {
      const Vector carried = *reinterpret_cast<const Vector*>(this->buffer_ + (thread_ * p_.w.staging_pitch + outputs - p_.w.first_in_vector));
      std::memcpy(&carried_, &carried, sizeof carried);
    }
    const PlaneTiles& planes = p_.planes;
    const PlaneAxis& last = planes.axis[kAllAxes - 1];
    const int first_channel = planes.row_threads.quotient(thread_), threads = planes.row_threads.divisor();
    if (first_channel >= planes.channels_at_once) return;
#pragma unroll 1
    for (int i = thread_ - first_channel * threads; i < planes.row_vectors; i += threads) {
      const int begin = i * kVector - p_.w.first_in_vector;
      if (begin >= outputs || (!last_round && begin + kVector > outputs)) return;
      const int position = last.stride.quotient(begin < 0 ? 0 : begin);
      int number = first_position_ + eighth * 8 + position, at[kAllAxes];
#pragma unroll
      for (int a = kAllAxes - 1; a >= 0; --a) {
        const PlaneAxis& axis = planes.axis[a];
        const int rest = axis.slots.quotient(number);
        at[a] = (number - rest * axis.slots.divisor()) * axis.stride.divisor() + axis.first_output;
        number = rest;
      }
      if (number >= p_.g.batch) return;
      const int in_y = at[kAllAxes - 1] + begin - position * this->stride_;
      if (in_y < 0 || in_y >= last.output) continue;
      // Of the vectors at its ends a tile has a part only; of those between two rounds the second one has all.
      const bool whole = (!first_round || begin >= 0) && (!last_round || begin + kVector <= outputs);
      const unsigned channel = static_cast<unsigned>(number) * static_cast<unsigned>(p_.g.out_channels * p_.g.groups) + static_cast<unsigned>(channel_ + first_channel);
      const int pitch = p_.w.staging_pitch;
      const Element* row = this->buffer_ + (begin + first_channel * planes.outer_residues * pitch);
      Element* const y = static_cast<Element*>(p_.y) + (channel * static_cast<unsigned>(p_.g.plane) + static_cast<unsigned>(in_y));
      int output0 = at[0], output1 = at[1], residue1 = 0;
#pragma unroll 1
      for (int residue = 0; residue < planes.outer_residues; residue += kResidues, row += kResidues * pitch) {
        bool exists[kResidues];
        unsigned to[kResidues];
#pragma unroll
        for (int k = 0; k < kResidues; ++k) {
          exists[k] = residue + k < planes.outer_residues && output0 >= 0 && output0 < planes.axis[0].output && output1 >= 0 && output1 < planes.axis[1].output;
          to[k] = static_cast<unsigned>((output0 * planes.axis[1].output + output1) * last.output);
          if (++residue1 == planes.axis[1].stride.divisor()) {
            residue1 = 0, output0 += planes.axis[0].dilation, output1 = at[1];
          } else {
            output1 += planes.axis[1].dilation;
          }
        }
        if (whole) {
          copy_whole<Vector>(row, y, exists, to, first_channel);
        } else {
          copy_part<Vector>(row, y, exists, to, first_channel, first_round && begin < 0 ? -begin : 0, outputs - begin);
        }
      }
    }
  }

  /// Rows of kResidues residues and of the thread's channels, from `first_channel` on, whose row of the first residue is `row` in the buffer and `y` + to[] in memory.
  template <class Vector>
  __device__ __forceinline__ void copy_whole(const Element* row, Element* y, const bool (&exists)[kResidues], const unsigned (&to)[kResidues], int first_channel) const {
    constexpr int kChannels = 2;  // whose vectors are read before one is stored
    const int pitch = p_.w.staging_pitch, together = p_.planes.channels_at_once, next = pitch * p_.planes.outer_residues * together;
    const std::int64_t step = std::int64_t{p_.g.plane} * together;
    Element* into[kResidues];
#pragma unroll
    for (int k = 0; k < kResidues; ++k) into[k] = y + to[k];
#pragma unroll 1
    for (int left = channels_ - first_channel; left > 0; left -= kChannels * together, row += kChannels * next) {
      Vector vectors[kChannels][kResidues];
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
#pragma unroll
        for (int k = 0; k < kResidues; ++k) {
          if (exists[k] && i * together < left) vectors[i][k] = *reinterpret_cast<const Vector*>(row + (i * next + k * pitch));
        }
      }
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
#pragma unroll
        for (int k = 0; k < kResidues; ++k) {
          if (exists[k] && i * together < left) *reinterpret_cast<Vector*>(into[k] + i * step) = vectors[i][k];
        }
      }
#pragma unroll
      for (int k = 0; k < kResidues; ++k) into[k] += kChannels * step;
    }
  }

  /// The same for elements [from, after) of their vectors.
  template <class Vector>
  __device__ __forceinline__ void copy_part(const Element* row, Element* y, const bool (&exists)[kResidues], const unsigned (&to)[kResidues], int first_channel, int from,
                                            int after) const {
    const int pitch = p_.w.staging_pitch, together = p_.planes.channels_at_once, next = pitch * p_.planes.outer_residues * together;
    const std::int64_t step = std::int64_t{p_.g.plane} * together;
#pragma unroll 1
    for (int c = first_channel; c < channels_; c += together, y += step, row += next) {
#pragma unroll
      for (int k = 0; k < kResidues; ++k) {
        if (exists[k]) store_part(y + to[k], *reinterpret_cast<const Vector*>(row + k * pitch), from, after);
      }
    }
  }

  const typename C::Params& p_;
  int thread_;
  int channels_;          ///< of the warpgroup that exist
  int channel_;           ///< the first of them is of
  int first_position_;    ///< of the tile
  int carried_rows_ = 0;  ///< of the buffer, a thread for each, whose last elements belong to a vector that the next round stores
  uint4 carried_;
};

template <class C>
using StagedStoreOf = std::conditional_t<C::kManyAxes, PlaneStore<C>, StagedStore<C>>;

/// Sums of a tile on their way between the blocks of a cluster. Each block gets a share of the positions. It has a place for what each other block has of them, and
/// uses what were its stages for its own: four sums of each thread and eight positions.
template <class C>
class Exchange {
 public:
  /// Loads of a thread that are on their way at a time.
  static constexpr int kTogether = 4;

  /// `thread`: among those that multiply.
  __device__ __forceinline__ Exchange(const typename C::Params& p, unsigned char* memory, int rank, int thread)
      : own_(reinterpret_cast<uint4*>(memory + kBarrierBytes) + thread),
        others_(reinterpret_cast<uint4*>(memory + p.g.shared_bytes - p.w.exchange_bytes) + thread),
        arrived_(barrier(memory)), blocks_(p.w.splits), share_(p.w.share_eighths), rank_(rank) {}

  /// Counts what other blocks give; one thread makes it before they do.
  static __device__ __forceinline__ void make_barrier(unsigned char* memory) {
    gpu::barrier_init(barrier(memory), 1);
  }
  static __device__ __forceinline__ void expect(const typename C::Params& p, unsigned char* memory, int rank) {
    const int eighths = eighths_of(p.w, rank);
    gpu::barrier_arrive_expect(barrier(memory), static_cast<unsigned>((p.w.splits - 1) * (eighths > 0 ? eighths : 0) * kThreads) * unsigned(sizeof(uint4)));
  }

  /// Times 8 positions that block `rank` has a share of; none if it is negative.
  static __device__ __forceinline__ int eighths_of(const WeightTiles& w, int rank) {
    const int left = C::kPositions / 8 - rank * w.share_eighths;
    return left < w.share_eighths ? left : w.share_eighths;
  }

  /// Gives this block's sums to the blocks that have a share in them. Nobody reads this block's stages any more.
  __device__ __forceinline__ void give(const float (&sums)[C::kSums]) const {
    int owner = 0, in_share = 0;
#pragma unroll
    for (int eighth = 0; eighth < C::kPositions / 8; ++eighth) {
      const uint4 four = make_uint4(__float_as_uint(sums[4 * eighth]), __float_as_uint(sums[4 * eighth + 1]),
                                    __float_as_uint(sums[4 * eighth + 2]), __float_as_uint(sums[4 * eighth + 3]));
      if (owner == rank_) {
        own_[in_share * kThreads] = four;
      } else {
        gpu::store_remote(others_ + (place_of(rank_, owner) + in_share) * kThreads, static_cast<unsigned>(owner), four, arrived_);
      }
      if (++in_share == share_) in_share = 0, ++owner;
    }
  }

  /// Until what the other blocks give is there.
  __device__ __forceinline__ void wait() const { gpu::barrier_wait(arrived_, 0); }

  /// All blocks' sums of `eighths` times 8 positions of the share from its position 8 `eighth` on, added in the order of their parts of the depth.
  __device__ __forceinline__ void add_up(int eighth, int eighths, float (&sums)[kTogether][4]) const {
#pragma unroll
    for (auto& sum : sums) sum[0] = sum[1] = sum[2] = sum[3] = 0;
#pragma unroll 2
    for (int block = 0; block < blocks_; ++block) {
      const uint4* const from = (block == rank_ ? own_ : others_ + place_of(block, rank_) * kThreads) + eighth * kThreads;
      uint4 parts[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) parts[i] = from[(i < eighths ? i : 0) * kThreads];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        sums[i][0] += __uint_as_float(parts[i].x), sums[i][1] += __uint_as_float(parts[i].y);
        sums[i][2] += __uint_as_float(parts[i].z), sums[i][3] += __uint_as_float(parts[i].w);
      }
    }
  }

 private:
  static constexpr int kThreads = C::kMultiplying;

  static __device__ __forceinline__ std::uint64_t* barrier(unsigned char* memory) { return reinterpret_cast<std::uint64_t*>(memory + kBarrierBytes) - 1; }

  /// Where in `others_` of block `owner` that is which block `of` gives it, in eighths.
  __device__ __forceinline__ int place_of(int of, int owner) const { return (of - (of > owner ? 1 : 0)) * share_; }

  uint4 *own_, *others_;  ///< of the thread
  std::uint64_t* arrived_;
  int blocks_, share_, rank_;
};

/// Stores a tile's own sums.
template <class C>
__device__ __forceinline__ void store_own(const typename C::Params& p, unsigned char* memory, const Tile& tile, int warpgroup, int thread, const ColumnBiases& biases,
                                          const float (&own)[C::kSums]) {
  constexpr int kEighths = C::kPositions / 8, kTogether = C::kStagedEighths;
  if constexpr (kTogether > 0) {
    if (C::kManyAxes || p.w.staged) {
      StagedStoreOf<C> store(p, memory, tile, warpgroup, thread, biases);
#pragma unroll
      for (int eighth = 0; eighth < kEighths; eighth += kTogether) {
        float sums[kTogether][4];
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[i][e] = eighth + i < kEighths ? own[(4 * (eighth + i) + e) % C::kSums] : 0.0f;
        }
        store.start();
        store.put(sums);
        store.finish(eighth, kEighths - eighth < kTogether ? kEighths - eighth : kTogether, eighth == 0, eighth + kTogether >= kEighths);
      }
      return;
    }
  }
  if (p.w.pair_stores && is_whole<C>(p, tile)) {
    store_whole<C>(p, tile, warpgroup, thread, biases, own);
    return;
  }
  TransposedStore<C> store(p, tile, warpgroup, thread, 0, biases);
#pragma unroll
  for (int eighth = 0; eighth < kEighths; ++eighth) store({own[4 * eighth], own[4 * eighth + 1], own[4 * eighth + 2], own[4 * eighth + 3]});
}

/// Stores this block's share of the positions of a tile, whose sums the blocks of a cluster have given it.
template <class C>
__device__ __forceinline__ void store_share(const typename C::Params& p, unsigned char* memory, const Tile& tile, int warpgroup, int thread, int rank,
                                            const ColumnBiases& biases, const Exchange<C>& exchange) {
  constexpr int kTogether = Exchange<C>::kTogether;
  const int first = rank * p.w.share_eighths, eighths = Exchange<C>::eighths_of(p.w, rank);
  float sums[kTogether][4];
  if (C::kManyAxes || p.w.staged) {
    if (eighths <= 0) return;
    StagedStoreOf<C> store(p, memory, tile, warpgroup, thread, biases);
    exchange.wait();
#pragma unroll 1
    for (int eighth = 0; eighth < eighths; eighth += kTogether) {
      exchange.add_up(eighth, eighths - eighth, sums);
      store.put(sums, eighth, eighths - eighth);
    }
    store.finish(first, eighths);
    return;
  }
  TransposedStore<C> store(p, tile, warpgroup, thread, first, biases);
  exchange.wait();
#pragma unroll 1
  for (int eighth = 0; eighth < eighths; eighth += kTogether) {
    exchange.add_up(eighth, eighths - eighth, sums);
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (eighth + i < eighths) store(sums[i]);
    }
  }
}

}  // namespace convt_gemm::implicit
