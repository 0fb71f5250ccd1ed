#pragma once
// Form::thirds where rows of y begin anywhere. A warp has 96 outputs of a channel side by side, twelve in each of eight lanes. They begin e outputs after a four that
// memory can take at once; so each lane takes the first d = (4 - e) modulo 4 of the lane after it, and leaves as many to the lane before, after which all its fours are
// whole. What the last lane takes is of the next warp, which leaves the sums of its first outputs in shared memory (the "heads"). So only a tile's first and last few
// outputs are stored one by one.
#include "implicit/window_rows.cuh"
#include "implicit/window_store.cuh"

namespace convt_gemm::implicit {

/// The same kernel for such rows, see ImplicitTile::has_kernel_of_any_place.
template <class C>
struct WithAnyPlace : C {};
template <class C>
inline constexpr bool kAnyPlace = false;
template <class C>
inline constexpr bool kAnyPlace<WithAnyPlace<C>> = true;
template <class C>
inline constexpr bool kShiftedRows<WithAnyPlace<C>> = kShiftedRows<C>;

template <class C>
struct ShiftedStore : WindowStore<C> {
  using Base = WindowStore<C>;
  using Element = typename C::Element;
  static_assert(Base::kForm == Form::thirds && Base::kGroups == 1 && Base::kLineSets == 1);

  /// Stores a tile's sums.
  __device__ __forceinline__ void run(const Sums<C>& sums) const {
    const ImplicitGeometry& g = this->p.g;
    leave_heads(sums);
    const int first = this->first_position(), after = first + Base::kRows;
    if (uniform(this->output_of(first) >= 0 && after <= g.positions && this->output_of(after) <= g.output)) {
      store<true>(sums);
    } else {
      store<false>(sums);
    }
  }

 private:
  static constexpr int kWarps = kWarpgroup / 32, kEights = Base::kSetColumns / 24, kLaneOutputs = 12, kMostShift = 3;
  using Four = typename Base::Four;

  __device__ __forceinline__ int warp() const { return this->thread / 32; }
  /// Of the eight that have a channel's outputs.
  __device__ __forceinline__ int lane() const { return this->thread % 32 / 4; }

  /// What the warp after `of_warp` begins with, of the thread's channel `odd` of `eight`.
  __device__ __forceinline__ uint4* head(int of_warp, int eight, int odd) const {
    return reinterpret_cast<uint4*>(this->runs) + (of_warp * kEights + eight) * 8 + this->thread % 4 * 2 + odd;
  }

  __device__ __forceinline__ void leave_heads(const Sums<C>& sums) const {
    gpu::named_barrier(1 + this->team, kWarpgroup);  // the last tile's have been read
    if (warp() > 0 && lane() == 0) {
#pragma unroll
      for (int eight = 0; eight < kEights; ++eight) {
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          float values[kLaneOutputs];
          Base::gather(sums, 0, 0, odd, eight * 3, values);
          *head(warp() - 1, eight, odd) = make_uint4(__float_as_uint(values[0]), __float_as_uint(values[1]), __float_as_uint(values[2]), 0);
        }
      }
    }
    gpu::named_barrier(1 + this->team, kWarpgroup);
  }

  /// kWhole: all of the sums are outputs, but for those of channels that do not exist.
  template <bool kWhole>
  __device__ __forceinline__ void store(const Sums<C>& sums) const {
    const ImplicitGeometry& g = this->p.g;
    const std::int64_t own = this->output_of(this->first_position() + window_position<C>(0, this->thread));  // the thread's first, as an index into its row of y
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      const int channel = this->channel_of(0, odd);
      Element* to = static_cast<Element*>(this->p.y) + (this->rows.first + channel * g.plane + own);
      // Lanes' outputs are whole fours, and so are those of eight channels: all of a channel begin alike, and all channels of the thread's column.
      const int shift = static_cast<int>(0u - number_of(to)) & 3;
#pragma unroll
      for (int eight = 0; eight < kEights; ++eight, to += g.channel_step * g.plane) {
        float values[kLaneOutputs + kMostShift];
        own_and_next(sums, eight, odd, this->biases[this->column_of(0, odd) + eight * 24], values);
        Four fours[3];
        shifted(values, shift, fours);
        const int turned = lane() >= 8 - fours_into_sector(to, shift) ? 1 : 0;
        this->exchange(fours, turned);
        if (channel + eight * g.channel_step >= g.out_channels) continue;
        store_fours<kWhole>(fours, shift, turned, to, own);
        store_ends<kWhole>(values, shift, to, own);
      }
    }
  }

  /// What the thread has after the exchange. `to`, `own`: where its first output lay before, in memory and in its row of y.
  template <bool kWhole>
  __device__ __forceinline__ void store_fours(const Four (&fours)[3], int shift, int turned, Element* to, std::int64_t own) const {
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const int number = turned == 0 ? i : (i + 2) % 3;  // of the store that the four would be of without turning
      const int further = shift - lane() * (kLaneOutputs - 4) + number * 32;
      if (shift > 0 && number == 2 && is_last()) continue;  // in part the next tile's
      if (kWhole || (own + further >= 0 && own + further + 4 <= this->p.g.output)) {
        Base::store_four(to + further, fours[i]);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (exists(own + further + j)) to[further + j] = Base::element_of(fours[i], j);
        }
      }
    }
  }

  /// The tile's first and last outputs, which are not of its whole fours.
  template <bool kWhole>
  __device__ __forceinline__ void store_ends(const float (&values)[kLaneOutputs + kMostShift], int shift, Element* to, std::int64_t own) const {
    if (this->thread < 4) {
#pragma unroll
      for (int i = 0; i < kMostShift; ++i) {
        if (i < shift && (kWhole || exists(own + i))) to[i] = element(values[i]);
      }
    } else if (is_last()) {
      const int left = (4 - shift) & 3;
#pragma unroll
      for (int i = kLaneOutputs - kMostShift; i < kLaneOutputs; ++i) {
        if (i >= kLaneOutputs - left && (kWhole || exists(own + i))) to[i] = element(values[i]);
      }
    }
  }

  /// Whether the thread has a tile's last outputs; the first four threads have its first.
  __device__ __forceinline__ bool is_last() const { return this->thread >= kWarpgroup - 4; }
  __device__ __forceinline__ bool exists(std::int64_t output) const { return output >= 0 && output < this->p.g.output; }

  /// The thread's twelve outputs, and the three that come after them.
  __device__ __forceinline__ void own_and_next(const Sums<C>& sums, int eight, int odd, float bias, float (&values)[kLaneOutputs + kMostShift]) const {
    float own[kLaneOutputs];
    this->outputs(sums, 0, 0, odd, eight * 3, bias, own);
#pragma unroll
    for (int i = 0; i < kLaneOutputs; ++i) values[i] = own[i];
#pragma unroll
    for (int i = 0; i < kMostShift; ++i) values[kLaneOutputs + i] = __shfl_sync(0xffffffffu, own[i], (this->thread + 4) % 32);
    if (lane() == 7 && warp() < kWarps - 1) {
      const uint4 next = *head(warp(), eight, odd);
      const unsigned words[kMostShift] = {next.x, next.y, next.z};
#pragma unroll
      for (int i = 0; i < kMostShift; ++i) values[kLaneOutputs + i] = this->activation(__uint_as_float(words[i]) + bias);
    }
  }

  /// The twelve from number `shift` on.
  __device__ __forceinline__ static void shifted(const float (&values)[kLaneOutputs + kMostShift], int shift, Four (&fours)[3]) {
    float by_one[kLaneOutputs + 2], all[kLaneOutputs];
#pragma unroll
    for (int i = 0; i < kLaneOutputs + 2; ++i) by_one[i] = shift % 2 == 0 ? values[i] : values[i + 1];
#pragma unroll
    for (int i = 0; i < kLaneOutputs; ++i) all[i] = shift < 2 ? by_one[i] : by_one[i + 2];
    Base::pack(all, fours);
  }

  /// Of an address in y, in elements.
  __device__ __forceinline__ static unsigned number_of(const Element* to) { return static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(to) / sizeof(Element)); }

  /// How many fours of a sector are before the channel's first one in the warp. So many lanes store theirs turned, one store later: all stores but for the first then
  /// begin with a sector.
  __device__ __forceinline__ int fours_into_sector(const Element* own, int shift) const {
    constexpr unsigned kSectorFours = kSectorBytes / sizeof(Four);
    return static_cast<int>((number_of(own) + shift - lane() * kLaneOutputs) / 4 % kSectorFours);
  }

  __device__ __forceinline__ static Element element(float value) {
    if constexpr (sizeof(Element) == 4) {
      return value;
    } else {
      return Element{static_cast<std::uint16_t>(gpu::pack<Element>(value, value))};
    }
  }
};

/// The one that a kernel has.
template <class C>
using StoreOf = std::conditional_t<kAnyPlace<C>, ShiftedStore<C>, WindowStore<C>>;

}  // namespace convt_gemm::implicit
