#pragma once
// sm_90a: a warpgroup multiplies 64 columns of the weights, whose words its threads read from rows as they lie in memory, with a tile's positions
// of x, which the tensor cores read from shared memory.
#include "implicit/transposed_operands.cuh"

namespace convt_gemm::implicit {

template <class C>
class TransposedMultiply {
 public:
  using Element = typename C::Element;

  /// `column`: of the warpgroup in the tile; `thread`: within the warpgroup.
  __device__ __forceinline__ TransposedMultiply(const TransposedParams& p, const Shared& shared, const Tile& tile, int column, int thread)
      : g_(p.g), w_(p.w), shared_(shared), pitch_(gpu::in_register(p.w.pitch)) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const WeightColumn part = weight_column(p, tile, column + row_of_thread(0, half, thread));
      at_[half] = part.at + thread % 4 * C::kWordElements * pitch_, taps_[half] = part.taps;
    }
  }

  /// Multiplies the block's chunks of the tile at `at`, which the ring then stands behind; the tile stays.
  __device__ __forceinline__ void run(TransposedCursor& at, float (&sums)[C::kSums]) {
    chunk_ = at.chunk, left_ = at.chunks, taps_of_chunk_ = taps_of(g_, chunk_);
    if constexpr (C::kSplit) {
      run_split(at.ring, sums);
    } else {
      start(at.ring, false, sums);
      while (left_ > 0) start(at.ring, true, sums);
      gpu::warpgroup_wait<0>();
      gpu::warpgroup_settle(sums);
      release(last_);
    }
  }

 private:
  static constexpr unsigned kCoreBytes = 128;

  /// A tap's elements of the weights as they are in memory, zeros where a column lacks the tap. They are put together to words only in rounded(): what is
  /// read here may not be an operand's register yet, since products that have those are under way.
  struct RawWords {
    typename C::Element value[C::kSteps][4][C::kWordElements];
  };
  /// and as gpu::warpgroup_multiply has its register operand.
  struct Words {
    std::uint32_t high[C::kSteps][4], low[C::kSplit ? C::kSteps : 1][4];
  };

  /// Reads the words of the tap that comes next.
  __device__ __forceinline__ RawWords read(const RingPosition& ring) const {
    const Element* const weight = reinterpret_cast<const Element*>(shared_.weight(ring.stage)) + tap_ * w_.tap_offset;
    const int tap = chunk_.tap_block * g_.chunk_taps + tap_;
    RawWords words;
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Element* const from = weight + at_[i % 2] + (s * 8 + i / 2 * 4) * C::kWordElements * pitch_;
        const bool exists = tap < taps_[i % 2];
#pragma unroll
        for (int e = 0; e < C::kWordElements; ++e) words.value[s][i][e] = exists ? from[e * pitch_] : Element{};
      }
    }
    return words;
  }

  __device__ __forceinline__ static Words rounded(const RawWords& raw) {
    Words words;
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (C::kWordElements == 2) {
          words.high[s][i] = std::uint32_t{raw.value[s][i][0].bits} | std::uint32_t{raw.value[s][i][1].bits} << 16;
        } else {
          const float value = raw.value[s][i][0];
          words.high[s][i] = gpu::tf32_operand(value);
          if constexpr (C::kSplit) words.low[s][i] = gpu::tf32_operand(value - __uint_as_float(words.high[s][i] & 0xffffe000u));
        }
      }
    }
    gpu::warpgroup_operand_ready(words.high);
    if constexpr (C::kSplit) gpu::warpgroup_operand_ready(words.low);
    return words;
  }

  __device__ __forceinline__ void release(int stage) const { gpu::barrier_arrive(shared_.empty(stage)); }

  /// Of x for the tap that comes next.
  __device__ __forceinline__ std::uint64_t descriptor(const RingPosition& ring) const {
    return gpu::matrix_descriptor(shared_.x(ring.stage) + slot_of(g_, chunk_, tap_) * 16, static_cast<unsigned>(g_.slots) * 16, kCoreBytes);
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

  /// Starts the products of a tap. Its words are read while the tensor cores work on the tap before, but rounded into the registers that these
  /// products take them from only after that; meanwhile the block's other warpgroup keeps them busy.
  __device__ __forceinline__ void start(RingPosition& ring, bool add, float (&sums)[C::kSums]) {
    if (tap_ == 0) gpu::barrier_wait(shared_.full(ring.stage), ring.parity);
    const std::uint64_t first_x = descriptor(ring);
    const RawWords raw = read(ring);
    gpu::warpgroup_wait<0>();
    const Words words = rounded(raw);
    gpu::warpgroup_fence();
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) gpu::warpgroup_multiply<C::kOperand>(sums, words.high[s], further(first_x, s * 2 * g_.slots), add || s > 0);
    gpu::warpgroup_commit();
    if (last_ >= 0) release(last_);
    last_ = advance(ring);
  }

  /// The tensor cores cut off what exceeds a sum's last place, so each tap of a chunk is summed up by itself and then added.
  __device__ __forceinline__ void run_split(RingPosition& ring, float (&sums)[C::kSums]) {
#pragma unroll
    for (float& sum : sums) sum = 0;
    gpu::barrier_wait(shared_.full(ring.stage), ring.parity);
    RawWords raw = read(ring);
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
        raw = read(ring);
      }
      gpu::warpgroup_wait<0>();
      gpu::warpgroup_settle(part);
#pragma unroll
      for (int i = 0; i < C::kSums; ++i) sums[i] += part[i];
      if (stage >= 0) release(stage);
    }
  }

  const ImplicitGeometry& g_;
  const WeightTiles& w_;
  const Shared& shared_;
  int pitch_;
  int at_[2], taps_[2];  ///< of the thread's columns: see WeightColumn; `at` is that of the thread's first channel

  // The tap that comes next.
  Chunk chunk_;
  int left_ = 0;  ///< chunks
  int tap_ = 0, taps_of_chunk_ = 0;
  int last_ = -1;  ///< the stage that the tap before was the last of, or -1
};

}  // namespace convt_gemm::implicit
