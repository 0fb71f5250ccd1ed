#pragma once
// sm_90a: a warpgroup multiplies 64 columns of the weights, whose words its threads read from rows as they lie in memory, with a tile's positions
// of x, which the tensor cores read from shared memory.
#include "implicit/transposed_operands.cuh"

namespace convt_gemm::implicit {

template <class C>
class TransposedMultiply {
 public:
  using Element = typename C::Element;

  /// `thread`: within the warpgroup.
  __device__ __forceinline__ TransposedMultiply(const typename C::Params& p, const Shared& shared, const Tile& tile, int warpgroup, int thread)
      : p_(p), g_(p.g), w_(p.w), shared_(shared), pitch_(gpu::in_register(p.w.pitch)) {
    if constexpr (C::kWordElements == 2) second_ = gpu::in_register(p.w.swapped ? 2 * pitch_ : pitch_);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const WeightColumn part = weight_column<C>(p, tile, column_of_thread(w_, warpgroup, half, thread));
      const int channel = C::kWordElements == 2 && w_.swapped ? first_swapped_channel(thread % 4) : thread % 4 * C::kWordElements;
      at_[half] = part.at + channel * pitch_, taps_[half] = part.taps;
    }
  }

  /// Multiplies the block's chunks of the tile at `at`, which the ring then stands behind; the tile stays.
  __device__ __forceinline__ void run(TransposedCursor<C>& at, float (&sums)[C::kSums]) {
    chunk_ = at.chunk, left_ = at.chunks, taps_of_chunk_ = taps_of(g_, chunk_);
    if constexpr (!C::kSplit) {
      run_two_groups(at.ring, sums);
    } else if (w_.paired) {
      run_split<true>(at.ring, sums);
    } else {
      run_split<false>(at.ring, sums);
    }
  }

 private:
  static constexpr unsigned kCoreBytes = 128;

  /// A tap's words of both columns as gpu::warpgroup_multiply has its register operand.
  struct Words {
    std::uint32_t high[C::kSteps][4], low[C::kSplit ? C::kSteps : 1][4];
  };

  /// The register operand of a tap, and the stage that its products are the last of, or -1.
  struct TapWords {
    Words words;
    int last_of = -1;
  };

  /// A tap's elements of the weights as they are in memory. They are put together to words only in rounded(): what is read here may not be an operand's register
  /// yet, where products that have those are under way.
  struct SingleWords {
    Element value[C::kSteps][4][C::kWordElements];
  };
  struct PairedWords {  // of neighbouring columns: for float32 a pair for each word of depth, else two, which are 32 bits each
    std::uint32_t value[C::kSteps][4];
  };
  template <bool kPaired>
  using RawWords = std::conditional_t<kPaired, PairedWords, SingleWords>;

  // Of the tap that comes next: elements of a column's weights before its own, and the slot that the tile's position 0 reads.
  __device__ __forceinline__ int weights_of_tap() const {
    if constexpr (C::kManyAxes) return p_.planes.tap_weights[tap_];
    return tap_ * w_.tap_offset;
  }
  __device__ __forceinline__ int slot_of_tap() const {
    if constexpr (C::kManyAxes) return p_.planes.tap_slots[tap_];
    return slot_of(g_, chunk_, tap_);
  }
  /// Whether a column has it: see WeightColumn::taps.
  __device__ __forceinline__ bool tap_exists(int tap, int taps) const {
    if constexpr (C::kManyAxes) return (p_.planes.tap_last[tap] & taps) == 0;
    return tap < taps;
  }

  /// Reads the words of the tap that comes next.
  template <bool kPaired>
  __device__ __forceinline__ RawWords<kPaired> read(const RingPosition& ring) const {
    const Element* const weight = reinterpret_cast<const Element*>(shared_.weight(ring.stage));
    const int tap = chunk_.tap_block * g_.chunk_taps + tap_, of_tap = weights_of_tap();
    const Element* column[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) column[half] = weight + (kPaired || tap_exists(tap, taps_[half]) ? at_[half] + of_tap : w_.length);  // where zeros are
    RawWords<kPaired> words;
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Element* const from = column[kPaired ? 0 : i % 2] + (s * 8 + i / 2 * 4) * C::kWordElements * pitch_;
        if constexpr (!kPaired) {
#pragma unroll
          for (int e = 0; e < C::kWordElements; ++e) words.value[s][i][e] = from[e * pitch_];
        } else if constexpr (C::kWordElements == 2) {
          words.value[s][i] = *reinterpret_cast<const std::uint32_t*>(from + i % 2 * second_);
        } else if (i % 2 == 0) {
          const uint2 pair = *reinterpret_cast<const uint2*>(from);
          words.value[s][i] = pair.x, words.value[s][i + 1] = pair.y;
        }
      }
    }
    return words;
  }

  /// Word `i` of a step.
  __device__ __forceinline__ static std::uint32_t word(const SingleWords& raw, int s, int i) {
    if constexpr (C::kWordElements == 2) {
      return std::uint32_t{raw.value[s][i][0].bits} | std::uint32_t{raw.value[s][i][1].bits} << 16;
    } else {
      return __float_as_uint(raw.value[s][i][0]);
    }
  }
  __device__ __forceinline__ static std::uint32_t word(const PairedWords& raw, int s, int i) {
    if constexpr (C::kWordElements == 1) return raw.value[s][i];
    return __byte_perm(raw.value[s][i / 2 * 2], raw.value[s][i / 2 * 2 + 1], i % 2 == 0 ? 0x5410u : 0x7632u);
  }

  __device__ __forceinline__ static std::uint32_t rounded(std::uint32_t word) {
    return C::kWordElements == 2 ? word : gpu::tf32_operand(__uint_as_float(word));
  }

  template <class Raw>
  __device__ __forceinline__ static Words rounded(const Raw& raw) {
    Words words;
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t exact = word(raw, s, i);
        words.high[s][i] = rounded(exact);
        if constexpr (C::kSplit) words.low[s][i] = gpu::tf32_operand(__uint_as_float(exact) - __uint_as_float(words.high[s][i] & 0xffffe000u));
      }
    }
    gpu::warpgroup_operand_ready(words.high);
    if constexpr (C::kSplit) gpu::warpgroup_operand_ready(words.low);
    return words;
  }

  __device__ __forceinline__ void release(int stage) const { gpu::barrier_arrive(shared_.empty(stage)); }

  /// Of x for the tap that comes next.
  __device__ __forceinline__ std::uint64_t descriptor(const RingPosition& ring) const {
    return gpu::matrix_descriptor(shared_.x(ring.stage) + slot_of_tap() * 16, static_cast<unsigned>(g_.slots) * 16, kCoreBytes);
  }

  __device__ __forceinline__ static std::uint64_t further(std::uint64_t descriptor, unsigned quads) {
    return (descriptor & 0xffffffff00000000u) | (static_cast<std::uint32_t>(descriptor) + quads);
  }

  /// To the next tap; the stage that this was the last of, or -1.
  __device__ __forceinline__ int advance(RingPosition& ring) {
    if (++tap_ < taps_of_chunk_) return -1;
    const int stage = ring.stage;
    tap_ = 0;
    chunk_.advance(g_);
    taps_of_chunk_ = taps_of(g_, chunk_);
    --left_;
    ring.advance(g_.stages);
    return stage;
  }

  /// Starts the products of steps from `first` on.
  template <int kCount>
  __device__ __forceinline__ void multiply(const std::uint32_t (&words)[kCount][4], int first, std::uint64_t first_x, bool add, float (&sums)[C::kSums]) const {
    gpu::warpgroup_fence();
#pragma unroll
    for (int s = 0; s < kCount; ++s) {
      gpu::warpgroup_multiply<C::kOperand>(sums, words[s], further(first_x, (first + s) * 2 * g_.slots), add || first + s > 0);
    }
    gpu::warpgroup_commit();
  }

  /// Two groups of operand registers: while the products of one are under way, the words of the other are read. They are those of two taps; or the halves
  /// of one, where registers are few, and for 16-bit elements, which are put together from two words each: else ptxas makes products wait for each other.
  static constexpr bool kTwoTaps = C::kWordElements == 1 && C::kColumns <= 128;

  __device__ __forceinline__ void run_two_groups(RingPosition& ring, float (&sums)[C::kSums]) {
    TapWords even, odd;
    for (bool add = false;; add = true) {
      start(ring, even, add, sums);
      if (left_ == 0) break;
      start(ring, kTwoTaps ? odd : even, true, sums);
      if (left_ == 0) break;
    }
    gpu::warpgroup_wait<0>();
    gpu::warpgroup_settle(sums);
    if (even.last_of >= 0) release(even.last_of);
    if (kTwoTaps && odd.last_of >= 0) release(odd.last_of);
  }

  /// Starts the products of the tap that comes next, once those that had the same registers are done.
  __device__ __forceinline__ void start(RingPosition& ring, TapWords& tap, bool add, float (&sums)[C::kSums]) {
    gpu::warpgroup_wait<1>();
    if (kTwoTaps && tap.last_of >= 0) release(tap.last_of);
    if (tap_ == 0) gpu::barrier_wait(shared_.full(ring.stage), ring.parity);
    const std::uint64_t first_x = descriptor(ring);
    const auto raw = read<!C::kSingles>(ring);
    if constexpr (kTwoTaps) {
      tap.words = rounded(raw);
      multiply(tap.words.high, 0, first_x, add, sums);
    } else {
      constexpr int kHalf = C::kSteps / 2;
#pragma unroll
      for (int first = 0; first < C::kSteps; first += kHalf) {
        if (first > 0) {
          gpu::warpgroup_wait<1>();  // the last tap is done
          if (tap.last_of >= 0) release(tap.last_of);
        }
        std::uint32_t words[kHalf][4];
#pragma unroll
        for (int s = 0; s < kHalf; ++s) {
#pragma unroll
          for (int i = 0; i < 4; ++i) words[s][i] = rounded(word(raw, first + s, i));
        }
        gpu::warpgroup_operand_ready(words);
        multiply(words, first, first_x, add, sums);
      }
    }
    tap.last_of = advance(ring);
  }

  /// The tensor cores cut off what exceeds a sum's last place, so each tap of a chunk is summed up by itself and then added.
  template <bool kPaired>
  __device__ __forceinline__ void run_split(RingPosition& ring, float (&sums)[C::kSums]) {
#pragma unroll
    for (float& sum : sums) sum = 0;
    gpu::barrier_wait(shared_.full(ring.stage), ring.parity);
    RawWords<kPaired> raw = read<kPaired>(ring);
    for (bool more = true; more;) {
      const std::uint64_t first_x = descriptor(ring);
      const Words words = rounded(raw);
      float part[C::kSums];
      gpu::warpgroup_fence();
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
        const std::uint64_t high = further(first_x, s * 4 * g_.slots), low = further(high, 2 * g_.slots);
        gpu::warpgroup_multiply<C::kOperand>(part, words.low[s], high, s > 0);
        gpu::warpgroup_multiply<C::kOperand>(part, words.high[s], low, true);
        gpu::warpgroup_multiply<C::kOperand>(part, words.high[s], high, true);
      }
      gpu::warpgroup_commit();
      const int stage = advance(ring);
      more = left_ > 0;
      if (more) {
        if (tap_ == 0) gpu::barrier_wait(shared_.full(ring.stage), ring.parity);
        raw = read<kPaired>(ring);
      }
      gpu::warpgroup_wait<0>();
      gpu::warpgroup_settle(part);
#pragma unroll
      for (int i = 0; i < C::kSums; ++i) sums[i] += part[i];
      if (stage >= 0) release(stage);
    }
  }

  const typename C::Params& p_;
  const ImplicitGeometry& g_;
  const WeightTiles& w_;
  const Shared& shared_;
  int pitch_;
  int second_ = 0;  ///< 16-bit elements: from the first of a pair of channels to the second
  int at_[2], taps_[2];  ///< of the thread's columns: see WeightColumn; `at` is that of the thread's first channel

  // The tap that comes next.
  Chunk chunk_;
  int left_ = 0;  ///< chunks
  int tap_ = 0, taps_of_chunk_ = 0;
};

}  // namespace convt_gemm::implicit
