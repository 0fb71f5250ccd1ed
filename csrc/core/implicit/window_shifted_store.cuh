#pragma once
// Rows of y that begin anywhere, stored by threads. A warp has 32 (or 64, 96) outputs of a channel side by side, in eight lanes, which begin e outputs after a four that
// memory can take at once. So each lane takes the first d = (4 - e) modulo 4 of the lane after it, and leaves as many to the lane before, after which all its fours are
// whole. What the last lane takes is of the next warp, which leaves the sums of its first outputs in shared memory (the "heads"). So only a tile's first and last few
// outputs are stored one by one.
#include "implicit/window_rows.cuh"
#include "implicit/window_store.cuh"

namespace convt_gemm::implicit {

/// The same kernel for such rows, of one axis: see ImplicitGeometry::shifted_store.
template <class C>
struct WithShiftedStore : C {
  static constexpr bool kServesAnyRows = false;
};
template <class C>
inline constexpr bool kShiftedStore = false;
template <class C>
inline constexpr bool kShiftedStore<WithShiftedStore<C>> = true;
template <class C>
inline constexpr bool kShiftedRows<WithShiftedStore<C>> = kShiftedRows<C>;

template <class C>
struct ShiftedStore : WindowStore<C> {
  using Base = WindowStore<C>;
  using Element = typename C::Element;
  static_assert(Base::kForm == Form::halves || Base::kForm == Form::thirds);
  static_assert(Base::kLineSets == 1 && C::kWindow.lines == 1);

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
  using Four = typename Base::Four;
  static constexpr int kWarps = kWarpgroup / 32, kMostShift = 3;
  static constexpr int kFours = Base::kFours, kEights = Base::kSetColumns / (8 * kFours);
  /// Of a channel a thread has the same outputs of each group of row blocks; a group's lie side by side, and so do groups.
  static constexpr int kGroups = Base::kGroups, kOutputs = 4 * kFours, kStores = kGroups * kFours;
  using Outputs = float[kGroups][kOutputs + kMostShift];  ///< and those after them
  using Fours = Four[kStores];

  __device__ __forceinline__ int warp() const { return this->thread / 32; }
  /// Of the eight that have a channel's outputs.
  __device__ __forceinline__ int lane() const { return this->thread % 32 / 4; }
  /// Whether the thread has a tile's last outputs; the first four threads have its first.
  __device__ __forceinline__ bool is_last() const { return this->thread >= kWarpgroup - 4; }
  __device__ __forceinline__ bool exists(std::int64_t output) const { return output >= 0 && output < this->p.g.output; }

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
          float values[kOutputs];
          Base::gather(sums, 0, 0, odd, eight * kFours, values);
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
        Outputs values;
        own_and_next(sums, eight, odd, this->biases[this->column_of(0, odd) + eight * (8 * kFours)], values);
        Fours fours;
        shifted(values, shift, fours);
        const int turned = kStores > 1 && lane() >= 8 - fours_into_sector(to, shift) ? 1 : 0;
        deal(fours, turned);
        if (channel + eight * g.channel_step >= g.out_channels) continue;
        store_fours<kWhole>(fours, shift, turned, to, own);
        store_ends<kWhole>(values, shift, to, own);
      }
    }
  }

  /// Of an address in y, in elements.
  __device__ __forceinline__ static unsigned number_of(const Element* to) { return static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(to) / sizeof(Element)); }

  /// How many fours of a sector are before the channel's first one in the warp.
  __device__ __forceinline__ int fours_into_sector(const Element* own, int shift) const {
    constexpr unsigned kSectorFours = kSectorBytes / sizeof(Four);
    return static_cast<int>((number_of(own) + shift - lane() * kOutputs) / 4 % kSectorFours);
  }

  __device__ __forceinline__ void own_and_next(const Sums<C>& sums, int eight, int odd, float bias, Outputs& values) const {
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      float own[kOutputs];
      this->outputs(sums, group, 0, odd, eight * kFours, bias, own);
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) values[group][i] = own[i];
    }
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
#pragma unroll
      for (int i = 0; i < kMostShift; ++i) {
        // After the last lane's comes the first lane's of the next group, which no other lane asks for.
        const float given = group + 1 < kGroups && lane() == 0 ? values[(group + 1) % kGroups][i] : values[group][i];
        values[group][kOutputs + i] = __shfl_sync(0xffffffffu, given, (this->thread + 4) % 32);
      }
    }
    if (lane() == 7 && warp() < kWarps - 1) {
      const uint4 next = *head(warp(), eight, odd);
      const unsigned words[kMostShift] = {next.x, next.y, next.z};
#pragma unroll
      for (int i = 0; i < kMostShift; ++i) values[kGroups - 1][kOutputs + i] = this->activation(__uint_as_float(words[i]) + bias);
    }
  }

  /// From number `shift` of each group on.
  __device__ __forceinline__ static void shifted(const Outputs& values, int shift, Fours& fours) {
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      float by_one[kOutputs + 2], all[kOutputs];
#pragma unroll
      for (int i = 0; i < kOutputs + 2; ++i) by_one[i] = shift % 2 == 0 ? values[group][i] : values[group][i + 1];
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) all[i] = shift < 2 ? by_one[i] : by_one[i + 2];
      Four packed[kFours];
      Base::pack(all, packed);
#pragma unroll
      for (int four = 0; four < kFours; ++four) {
#pragma unroll
        for (int i = 0; i < int(sizeof(Element)); ++i) fours[group * kFours + four][i] = packed[four][i];
      }
    }
  }

  /// Lane i gets four number i of the warp's, i + 8 and so on, so that lanes store side by side. Stores would begin in the middle of a sector where fours do: so lanes
  /// whose fours begin the next sectors are `turned`, they have their last one first. Of all stores only the first one then begins in the middle.
  __device__ __forceinline__ void deal(Fours& fours, int turned) const {
    if constexpr (Base::kForm == Form::thirds) {
      this->exchange(fours, turned);
    } else if constexpr (kStores == 2) {
#pragma unroll
      for (int i = 0; i < int(sizeof(Element)); ++i) {
        const std::uint32_t first = fours[0][i], second = fours[1][i];
        fours[0][i] = turned == 0 ? first : second, fours[1][i] = turned == 0 ? second : first;
      }
    }
  }

  /// `to`, `own`: where the thread's first output lay before, in memory and in its row of y.
  template <bool kWhole>
  __device__ __forceinline__ void store_fours(const Fours& fours, int shift, int turned, Element* to, std::int64_t own) const {
#pragma unroll
    for (int i = 0; i < kStores; ++i) {
      const int number = turned == 0 ? i : (i + kStores - 1) % kStores;
      const int further = shift - lane() * (kOutputs - 4) + number * 32;
      if (shift > 0 && number == kStores - 1 && is_last()) continue;  // in part the next tile's
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
  __device__ __forceinline__ void store_ends(const Outputs& values, int shift, Element* to, std::int64_t own) const {
    if (this->thread < 4) {
#pragma unroll
      for (int i = 0; i < kMostShift; ++i) {
        if (i < shift && (kWhole || exists(own + i))) to[i] = element(values[0][i]);
      }
    } else if (is_last()) {
      constexpr int kBefore = (kGroups - 1) * 32;
      const int left = (4 - shift) & 3;
#pragma unroll
      for (int i = kOutputs - kMostShift; i < kOutputs; ++i) {
        if (i >= kOutputs - left && (kWhole || exists(own + kBefore + i))) to[kBefore + i] = element(values[kGroups - 1][i]);
      }
    }
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
using StoreOf = std::conditional_t<kShiftedStore<C>, ShiftedStore<C>, WindowStore<C>>;

}  // namespace convt_gemm::implicit
