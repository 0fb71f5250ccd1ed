#pragma once
// Rows of x that are no whole 16 bytes (ImplicitGeometry::vector_rows is false), which tensor copies do not serve. The copy engine brings each row from the whole 16 bytes
// on that its first slot is in, so that in shared memory it begins up to 15 bytes late, and who multiplies reads it from there. What it brings from before a row and
// from behind it is other rows', and is cleared at the ends of rows.
#include "implicit/operands.cuh"
#include "implicit/window_params.cuh"

namespace convt_gemm::implicit {

/// The same kernel for such rows.
template <class C>
struct WithShiftedRows : C {};
template <class C>
inline constexpr bool kShiftedRows = false;
template <class C>
inline constexpr bool kShiftedRows<WithShiftedRows<C>> = true;

/// Elements from one channel of a stage to the next.
template <class C>
inline constexpr int kRowPitch = C::kWindow.box(C::kTile.warpgroup_rows(), C::kVector) + (kShiftedRows<C> ? shifted_row_bytes(int(sizeof(typename C::Element))) / int(sizeof(typename C::Element)) : 0);

/// Of one axis, or of all as one row: the rows that a tile reads.
template <class C>
struct ShiftedRows {
  using Element = typename C::Element;
  static constexpr int kElement = int(sizeof(Element)), kChannels = C::kWords * C::kWordElements;  // of a chunk
  static constexpr int kPitch = kRowPitch<C> * kElement, kBytes = C::kWindow.box(C::kTile.warpgroup_rows(), C::kVector) * kElement + 16;  // of a row, and of them copied

  const ImplicitGeometry& g;
  int position;       ///< of the first slot, which is that of whole 16 bytes if the row begins with such
  std::int64_t row;   ///< of the tile's sample and group: the first channel's

  __device__ __forceinline__ ShiftedRows(const ImplicitGeometry& geometry, int first_position, int sample_and_group)
      : g(geometry), position(first_position), row(std::int64_t{sample_and_group} * geometry.in_channels) {}

  /// Elements that a channel's row begins late.
  __device__ __forceinline__ int late(int channel) const {
    const unsigned bytes = (static_cast<unsigned>(row) + static_cast<unsigned>(channel)) * static_cast<unsigned>(g.input) * kElement;
    return static_cast<int>(bytes % 16) / kElement;
  }

  /// Whether something has to be cleared in a chunk.
  __device__ __forceinline__ bool has_ends(int chunk) const {
    return position < 0 || position + kRowPitch<C> > g.input || (chunk + 1) * kChannels > g.in_channels;
  }

  /// Has a chunk copied, which counts on the barrier; by one lane.
  __device__ __forceinline__ void copy(const void* x, int chunk, unsigned char* stage, std::uint64_t* barrier) const {
    const int first = chunk * kChannels, channels = g.in_channels - first < kChannels ? g.in_channels - first : kChannels;
    const std::int64_t row_bytes = g.input * kElement, all = g.batch * g.groups * g.in_channels * row_bytes, last = all & ~std::int64_t{15};
    const std::int64_t shift = std::int64_t{position} * kElement, first_begin = (row + first) * row_bytes;
    const auto begin_of = [&](int channel) { return ((first_begin + channel * row_bytes) & ~std::int64_t{15}) + shift; };
    const auto* const from = static_cast<const unsigned char*>(x);
    if (begin_of(0) >= 0 && begin_of(channels - 1) + kBytes <= last) {
      gpu::barrier_arrive_expect(barrier, static_cast<unsigned>(channels * kBytes));
      std::int64_t row_begin = first_begin;
#pragma unroll 4
      for (int channel = 0; channel < channels; ++channel, row_begin += row_bytes, stage += kPitch) {
        gpu::bulk_copy(stage, from + ((row_begin & ~std::int64_t{15}) + shift), kBytes, barrier);
      }
      return;
    }
    // At the ends of x: no more than there is, of which the last few bytes are no whole 16.
    unsigned bytes = 0;
#pragma unroll 1
    for (int channel = 0; channel < channels; ++channel) {
      const std::int64_t begin = begin_of(channel), end = begin + kBytes;
      const std::int64_t copied = (end < last ? end : last) - (begin > 0 ? begin : 0);
      if (copied > 0) bytes += static_cast<unsigned>(copied);
      for (std::int64_t at = last; at < all && at >= begin && at < end; at += kElement) {
        *reinterpret_cast<Element*>(stage + channel * kPitch + (at - begin)) = *reinterpret_cast<const Element*>(from + at);
      }
    }
    gpu::barrier_arrive_expect(barrier, bytes);
#pragma unroll 1
    for (int channel = 0; channel < channels; ++channel) {
      const std::int64_t begin = begin_of(channel), end = begin + kBytes, copied_from = begin > 0 ? begin : 0, copied_to = end < last ? end : last;
      if (copied_to > copied_from) gpu::bulk_copy(stage + channel * kPitch + (copied_from - begin), from + copied_from, static_cast<unsigned>(copied_to - copied_from), barrier);
    }
  }

  /// What a thread of a warpgroup clears: of every eighth row of a chunk, which all begin as late, what is before slot `before` and from slot `behind` on.
  struct Ends {
    int before, behind;
  };
  __device__ __forceinline__ Ends ends(int thread) const {
    const int first = late(thread / kLanes) - position;
    const std::int64_t after = first + g.input;
    return {first < 0 ? 0 : first < kRowPitch<C> ? first : kRowPitch<C>, after < 0 ? 0 : after < kRowPitch<C> ? static_cast<int>(after) : kRowPitch<C>};
  }

  /// Clears what is not of the rows of a chunk that has been copied, or has not.
  __device__ __forceinline__ void clear(int chunk, unsigned char* stage, int thread, Ends ends) const {
#pragma unroll 1
    for (int channel = thread / kLanes; channel < kChannels; channel += kPeriod) {
      auto* const elements = reinterpret_cast<Element*>(stage) + channel * kRowPitch<C>;
      const int behind = chunk * kChannels + channel < g.in_channels ? ends.behind : 0;
#pragma unroll 1
      for (int i = thread % kLanes; i < ends.before; i += kLanes) elements[i] = Element{};
#pragma unroll 1
      for (int i = behind + thread % kLanes; i < kRowPitch<C>; i += kLanes) elements[i] = Element{};
    }
  }

 private:
  static constexpr int kPeriod = 8, kLanes = kWarpgroup / kPeriod;  // rows, and threads of each
  static_assert(kChannels % kPeriod == 0);
};

}  // namespace convt_gemm::implicit
