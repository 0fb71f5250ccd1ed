#pragma once
// sm_90a: a warpgroup multiplies its 64-row blocks of x with the weights; the tensor cores read both from shared memory. A shift
// of x by one position is a shift by 16 bytes there, so all taps read one copy of it.
#include "implicit/operands.cuh"

namespace convt_gemm::implicit {

template <class C, int kSets>
struct Sm90Multiply {
  static constexpr unsigned kCoreBytes = 128;
  static constexpr unsigned kWeightPlane = C::kColumns * 16;  // four words of depth, all columns
  static constexpr unsigned kTapWeights = C::kQuads * C::kParts * (kWeightPlane / 16);  // in quads of 16 bytes

  static constexpr unsigned kSecondSet = C::kColumns / 2;  // from the first set's weights

  const Params& p;
  const Tile& tile;
  const Shared& shared;
  RingPosition& ring;
  int first_row;  ///< of the warpgroup in its team
  int thread;     ///< within the warpgroup
  const ImplicitGeometry& g = p.g;

  /// Multiplies one tile.
  __device__ __forceinline__ void run(Sums<C>& sums) {
    if constexpr (C::kSplit) {
      run_split(sums);
    } else if constexpr (C::kRawRows) {
      run_raw(sums);
    } else {
      Chunk chunk;
      int last = -1;  // the stage before
      for (int c = 0; c < g.chunks; ++c, chunk.advance(g)) {
        gpu::barrier_wait(shared.full(ring.stage), ring.parity);
        const int taps = taps_of(g, chunk);
        for (int tap = 0; tap < taps; ++tap) multiply(c, chunk, tap, sums, c > 0 || tap > 0);
        gpu::warpgroup_commit();
        if (last >= 0) {
          gpu::warpgroup_wait<1>();
          release(last);
        }
        last = ring.stage;
        ring.advance(g.stages);
      }
      gpu::warpgroup_wait<0>();
#pragma unroll
      for (auto& block : sums) gpu::warpgroup_settle(block);
      release(last);
    }
  }

 private:
  /// Sums of a tap that are under way while those of the tap before are added up: where registers suffice.
  static constexpr bool kTwoParts = C::kRowBlocks * C::kSums <= 32;

  /// The tensor cores cut off what exceeds a sum's last place, which over a long depth is more than float32's own error. So each
  /// tap of a chunk is summed up by itself and added here, while they work on the next one.
  __device__ __forceinline__ void run_split(Sums<C>& sums) {
#pragma unroll
    for (auto& block : sums) {
#pragma unroll
      for (float& sum : block) sum = 0;
    }
    Cursor at;
    Sums<C> even;
    start(at, even);
    if constexpr (kTwoParts) {
      Sums<C> odd;
      for (;;) {
        const int before = at.leaving;
        if (at.c == g.chunks) {
          finish<0>(even, sums, before);
          break;
        }
        start(at, odd);
        finish<1>(even, sums, before);
        const int after = at.leaving;
        if (at.c == g.chunks) {
          finish<0>(odd, sums, after);
          break;
        }
        start(at, even);
        finish<1>(odd, sums, after);
      }
    } else {
      for (;;) {
        finish<0>(even, sums, at.leaving);
        if (at.c == g.chunks) break;
        start(at, even);
      }
    }
  }

  /// One tap's place in the depth of a tile.
  struct Cursor {
    Chunk chunk;
    int c = 0;         // number of the chunk
    int tap = 0;
    int leaving = -1;  // the stage that the products started last are the last of
  };

  /// Starts the products of a tap and goes on to the next one.
  __device__ __forceinline__ void start(Cursor& at, Sums<C>& part) {
    if (at.tap == 0) gpu::barrier_wait(shared.full(ring.stage), ring.parity);
    multiply(at.c, at.chunk, at.tap, part, false);
    gpu::warpgroup_commit();
    at.leaving = -1;
    if (++at.tap < taps_of(g, at.chunk)) return;
    at.tap = 0;
    at.chunk.advance(g);
    ++at.c;
    at.leaving = ring.stage;
    ring.advance(g.stages);
  }

  /// Waits until at most kPending taps are under way, which `part` is not of, and adds it up.
  template <int kPending>
  __device__ __forceinline__ void finish(Sums<C>& part, Sums<C>& sums, int leaving) const {
    gpu::warpgroup_wait<kPending>();
#pragma unroll
    for (int block = 0; block < C::kRowBlocks; ++block) {
      gpu::warpgroup_settle(part[block]);
#pragma unroll
      for (int i = 0; i < C::kSums; ++i) sums[block][i] += part[block][i];
    }
    if (leaving >= 0) release(leaving);
  }

  /// A step's words of x as they are in memory.
  struct RawWords {
    float value[C::kRowBlocks][4];

    /// `x`: of this thread's first row and its first channel of the step; `slots` from one channel to the next.
    __device__ __forceinline__ void read(const float* x, int slots) {
#pragma unroll
      for (int block = 0; block < C::kRowBlocks; ++block) {
#pragma unroll
        for (int i = 0; i < 4; ++i) value[block][i] = x[i / 2 * 4 * slots + block * 64 + i % 2 * 8];
      }
    }
  };

  /// The same as the register operand of gpu::warpgroup_multiply.
  struct RawOperand {
    std::uint32_t high[C::kRowBlocks][4], low[C::kSplit ? C::kRowBlocks : 1][4];

    __device__ __forceinline__ void round(const RawWords& words) {
#pragma unroll
      for (int block = 0; block < C::kRowBlocks; ++block) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float value = words.value[block][i];
          high[block][i] = gpu::tf32_operand(value);
          if constexpr (C::kSplit) low[block][i] = gpu::tf32_operand(value - __uint_as_float(high[block][i] & 0xffffe000u));
        }
      }
      gpu::warpgroup_operand_ready(high);
      if constexpr (C::kSplit) gpu::warpgroup_operand_ready(low);
    }
  };

  /// Steps whose words are read together: more hide the time that reading takes, and need registers.
  static constexpr int kTogether = C::kSteps / 2;
  static_assert(!C::kRawRows || C::kSplit || C::kSteps > 1, "the registers of a chunk's last steps would be those of the next one's first");

  /// Which sets of columns are multiplied with a place of x: with two of them, the first for the tap before the second's.
  enum class Multiplied { first, second, both };

  /// While the tensor cores multiply, the words of the next steps are read and rounded.
  __device__ __forceinline__ void run_raw(Sums<C>& sums) {
    Chunk chunk;
    int leaving = -1;  // the stage whose products may be under way
    const int slots = gpu::in_register(g.slots), tap_slots = gpu::in_register(g.input_step);
    for (int c = 0; c < g.chunks; ++c, chunk.advance(g)) {
      gpu::barrier_wait(shared.full(ring.stage), ring.parity);
      const int taps = taps_of(g, chunk);
      const float* x = stage_of_x() + raw_place(chunk, 0);
      if constexpr (kSets == 1) {
        for (int tap = 0; tap < taps; ++tap, x -= tap_slots) {
          start_raw<Multiplied::first>(x, slots, weight_descriptor(c, tap), 0, c > 0 || tap > 0, true, sums, leaving);
        }
      } else {  // a set's tap is the other's next one: each place of x is read once
        std::uint64_t weight = weight_descriptor(c, 0);
        start_raw<Multiplied::second>(x + 1, slots, 0, further(weight, kSecondSet), true, c > 0, sums, leaving);
        for (int tap = 1; tap < taps; ++tap, --x) {
          const std::uint64_t next = further(weight, kTapWeights);
          start_raw<Multiplied::both>(x, slots, weight, further(next, kSecondSet), c > 0 || tap > 1, true, sums, leaving);
          weight = next;
        }
        start_raw<Multiplied::first>(x, slots, weight, 0, c > 0 || taps > 1, true, sums, leaving);
      }
      if (g.resident) {
        release(ring.stage);  // its words have been read
      } else {
        leaving = ring.stage;
      }
      ring.advance(g.stages);
    }
    gpu::warpgroup_wait<0>();
#pragma unroll
    for (auto& block : sums) gpu::warpgroup_settle(block);
    if (leaving >= 0) release(leaving);
  }

  /// Starts the products of a chunk's words at `x`, for each set of columns with its own weights, and adds them to what is there already or
  /// not. Releases the stage `leaving` on the way, if there is one.
  template <Multiplied kMultiplied>
  __device__ __forceinline__ void start_raw(const float* x, int slots, std::uint64_t first_weight, std::uint64_t second_weight, bool add_first,
                                            bool add_second, Sums<C>& sums, int& leaving) const {
#pragma unroll
    for (int s = 0; s < C::kSteps; s += kTogether) {
      gpu::warpgroup_wait<1>();  // the registers of the steps before the last are free
      RawWords words[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) words[i].read(x + (s + i) * 8 * slots, slots);
      if (s == kTogether && leaving >= 0) {
        release(leaving);
        leaving = -1;
      }
      RawOperand operands[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) operands[i].round(words[i]);
      gpu::warpgroup_fence();
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
#pragma unroll
        for (int block = 0; block < C::kRowBlocks; ++block) {
          const RawOperand& operand = operands[i];
          if constexpr (kMultiplied != Multiplied::second) {
            multiply(operand.high[block], operand.low[0], first_weight, s + i, part(sums[block], 0), add_first || s + i > 0);
          }
          if constexpr (kMultiplied != Multiplied::first) {
            multiply(operand.high[block], operand.low[0], second_weight, s + i, part(sums[block], 1), add_second || s + i > 0);
          }
        }
      }
      gpu::warpgroup_commit();
    }
  }

  /// Elements from the beginning of a stage to the first of this thread's first channel that it reads for the chunk's tap `tap`.
  __device__ __forceinline__ int raw_place(const Chunk& chunk, int tap) const {
    const int channel = thread % 4;
    return channel * g.slots + phase_of(p, tile, chunk, channel) + first_row + row_of_thread(0, 0, thread) + slot_of(g, chunk, tap);
  }
  __device__ __forceinline__ const float* stage_of_x() const { return reinterpret_cast<const float*>(shared.x(ring.stage)); }

  /// Gives a stage back that this thread has read and whose products are done. Each thread arrives by itself: racecheck does not follow one that
  /// arrives for its warp, whose threads would have to meet for it.
  __device__ __forceinline__ void release(int stage) const { gpu::barrier_arrive(shared.empty(stage)); }

  /// The sums of a set of columns.
  __device__ __forceinline__ static float (&part(float (&sums)[C::kSums], int set))[C::kSums / kSets] {
    return reinterpret_cast<float(&)[C::kSums / kSets]>(sums[set * (C::kSums / kSets)]);
  }

  /// A descriptor `quads` of 16 bytes further on: addresses are its lowest bits, in that unit, and do not leave them.
  __device__ __forceinline__ static std::uint64_t further(std::uint64_t descriptor, unsigned quads) {
    return (descriptor & 0xffffffff00000000u) | (static_cast<std::uint32_t>(descriptor) + quads);
  }

  __device__ __forceinline__ std::uint64_t weight_descriptor(int c, int tap) const {
    const unsigned char* weight = shared.weight(g.resident ? c : ring.stage) + tap * static_cast<int>(kTapWeights * 16);
    return gpu::matrix_descriptor(weight, kWeightPlane, kCoreBytes);
  }

  /// Starts the products of one tap of chunk `c`, which is in the ring's stage.
  __device__ __forceinline__ void multiply(int c, const Chunk& chunk, int tap, Sums<C>& sums, bool accumulate) const {
    const std::uint64_t first_weight = weight_descriptor(c, tap);
    if constexpr (C::kRawRows) {
      const float* const x = stage_of_x() + raw_place(chunk, tap);
      RawOperand operands[C::kSteps];
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
        RawWords words;
        words.read(x + s * 8 * g.slots, g.slots);
        operands[s].round(words);
      }
      gpu::warpgroup_fence();
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
        const RawOperand& operand = operands[s];
#pragma unroll
        for (int block = 0; block < C::kRowBlocks; ++block) {
          multiply(operand.high[block], operand.low[C::kSplit ? block : 0], first_weight, s, sums[block], accumulate || s > 0);
        }
      }
    } else {
      const unsigned plane = static_cast<unsigned>(g.slots) * 16;
      const unsigned char* x = shared.x(ring.stage) + (first_row + slot_of(g, chunk, tap)) * 16;
      const std::uint64_t first_x = gpu::matrix_descriptor(x, plane, kCoreBytes);
      gpu::warpgroup_fence();
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
#pragma unroll
        for (int block = 0; block < C::kRowBlocks; ++block) {
#pragma unroll
          for (int set = 0; set < kSets; ++set) {
            const std::uint64_t x_high = further(first_x, s * C::kParts * 2 * g.slots + block * 64 + set), x_low = further(x_high, 2 * g.slots);
            multiply(x_high, x_low, further(first_weight, set * kSecondSet), s, part(sums[block], set), accumulate || s > 0);
          }
        }
      }
    }
  }

  /// Starts the products of one step and row block.
  template <class Words, int kSums>
  __device__ __forceinline__ static void multiply(const Words& x_high, const Words& x_low, std::uint64_t first_weight, int s, float (&sums)[kSums], bool add) {
    const std::uint64_t high = further(first_weight, s * C::kParts * 2 * (kWeightPlane / 16)), low = further(high, 2 * (kWeightPlane / 16));
    if constexpr (C::kSplit) {
      gpu::warpgroup_multiply<C::kOperand>(sums, x_low, high, add);
      gpu::warpgroup_multiply<C::kOperand>(sums, x_high, low, true);
      gpu::warpgroup_multiply<C::kOperand>(sums, x_high, high, true);
    } else {
      gpu::warpgroup_multiply<C::kOperand>(sums, x_high, high, add);
    }
  }
};

}  // namespace convt_gemm::implicit
