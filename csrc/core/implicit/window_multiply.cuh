#pragma once
// sm_90a: a warpgroup multiplies windows of x (see Window) with weights that stay in shared memory.
#include "implicit/operands.cuh"
#include "implicit/window_planes.cuh"
#include "implicit/window_rows.cuh"

namespace convt_gemm::implicit {

/// Registers of a thread in either role, see Registers. Whoever loads needs few: a box is one instruction.
template <class C>
struct WindowRegisters {
  static constexpr int kAll = 65536 / C::kThreads / 8 * 8 * (C::kThreads / kWarpgroup), kLoading = 24;
  static constexpr int kRest = (kAll - kLoading) / C::kWarpgroups / 8 * 8, kMultiplying = kRest < 240 ? kRest : 240;
};

/// The first of a thread's positions in group `group` of its row blocks, within its warpgroup; the others are the next ones. Groups are one block, or two where a
/// thread has four positions. Of a group's first block rows g and g + 8 are positions 0 and positions / 2, of its second the ones after those.
template <class C>
__device__ __forceinline__ int window_position(int group, int thread) {
  constexpr int kPositions = C::kWindow.positions();
  return thread / 32 * (16 * C::kRowBlocks) + group * (8 * kPositions) + thread % 32 / 4 * kPositions;
}

/// Places of x that a thread reads, counted from its first position, or from the whole vector of x that this is before.
template <class C>
struct WindowPlaces {
  static constexpr Window kWindow = C::kWindow;
  static constexpr int kPositions = kWindow.positions(), kHalf = kPositions / 2;
  static constexpr int kGroupBlocks = kHalf, kGroups = C::kRowBlocks / kGroupBlocks;
  static_assert(C::kRowBlocks % kGroupBlocks == 0);

  // Where operands begin, and where the words of the last one end.
  static constexpr int kLowest = -(kWindow.taps - 1) * kWindow.step - kWindow.lag(), kHighest = kGroupBlocks - 1 + kWindow.reach() - kWindow.lag();
  static constexpr int kAfter = kHighest + kHalf + 1, kSpan = kHighest - kLowest + 1;
  // What is read, in vectors of kPositions.
  static constexpr int kFirst = -((-kLowest + kPositions - 1) / kPositions * kPositions);
  static constexpr int kVectors = (kAfter - kFirst + kPositions - 1) / kPositions;
  static constexpr int kPlaces = kVectors * kPositions;
  /// Elements from one channel to the next.
  static constexpr int kSlots = kRowPitch<C>;

  /// Where the operand of a block, a tap and a set begins.
  __device__ __forceinline__ static constexpr int place(int block, int tap, int set) {
    return block % kGroupBlocks - kWindow.lag() + set * kWindow.set_step - tap * kWindow.step;
  }

  /// Which of the places from kLowest on operands begin at: some tap and set read them.
  struct Used {
    bool at[kSpan];
  };
  __device__ static constexpr Used used() {
    Used result{};
    for (int set = 0; set < kWindow.sets; ++set) {
      for (int tap = 0; tap < kWindow.taps; ++tap) {
        for (int block = 0; block < kGroupBlocks; ++block) result.at[place(block, tap, set) - kLowest] = true;
      }
    }
    return result;
  }
  static constexpr int operand_words() {
    int places = 0;
    for (int i = 0; i < kSpan; ++i) places += used().at[i];
    return kGroups * places * 4;
  }
};

/// A step's words of x as they are in memory: what a thread has of each of its channels, in vectors.
template <class C>
struct WindowWords {
  using Places = WindowPlaces<C>;
  static constexpr int kElements = C::kWordElements;           // of a word
  static constexpr int kWords = Places::kPlaces / kElements;   // of a channel
  static constexpr int kVector = Places::kPositions / kElements, kLeast = (kVector + 1) / 2;
  std::uint32_t word[Places::kGroups][2][kElements][kWords];

  /// From the thread's first channel and position on. kShiftedRows<C>: the rows of its channels begin `late` elements late.
  __device__ __forceinline__ void read(const typename C::Element* x, const int (&late)[kElements]) {
#pragma unroll
    for (int group = 0; group < Places::kGroups; ++group) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int channel = 0; channel < kElements; ++channel) {
#pragma unroll
          for (int v = 0; v < Places::kVectors; ++v) {
            const int begin = Places::kFirst + v * Places::kPositions;
            const auto* const from = reinterpret_cast<const std::uint32_t*>(x + group * (8 * Places::kPositions) + (half * 4 * kElements + channel) * Places::kSlots + begin);
            // Of the outermost vectors no more than is used.
            const int first = begin + Places::kHalf <= Places::kLowest ? kVector - kLeast : 0;
            const int after = begin + Places::kHalf >= Places::kAfter ? kLeast : kVector;
            if constexpr (kShiftedRows<C>) {
              read_shifted(from, late[channel], first, after, word[group][half][channel] + v * kVector);
            } else {
              read_vector(from, first, after, word[group][half][channel] + v * kVector);
            }
          }
        }
      }
    }
  }

 private:
  /// Words `first` up to `after`, which begin so many elements late.
  __device__ __forceinline__ static void read_shifted(const std::uint32_t* from, int late, int first, int after, std::uint32_t* to) {
    const std::uint32_t* const begin = from + late / kElements;
#pragma unroll
    for (int i = first; i < after; ++i) {
      to[i] = kElements == 1 ? begin[i] : __byte_perm(begin[i], begin[i + 1], late % 2 == 0 ? 0x3210u : 0x5432u);
    }
  }
  /// Words `first` up to `after`.
  __device__ __forceinline__ static void read_vector(const std::uint32_t* from, int first, int after, std::uint32_t* to) {
    if (after - first == 4) {
      const uint4 words = *reinterpret_cast<const uint4*>(from);
      to[0] = words.x, to[1] = words.y, to[2] = words.z, to[3] = words.w;
    } else if (after - first == 2) {
      const uint2 words = *reinterpret_cast<const uint2*>(from + first);
      to[first] = words.x, to[first + 1] = words.y;
    } else {
      to[first] = from[first];
    }
  }
};

/// The register operands of all taps and sets for a step.
template <class C>
struct WindowOperands {
  using Places = WindowPlaces<C>;
  // At the places from kLowest on that are used.
  std::uint32_t high[Places::kGroups][Places::kSpan][4];
  std::uint32_t low[C::kSplit ? Places::kGroups : 1][Places::kSpan][4];  ///< what is left of the words

  /// A word is in two operands, which must not share its register: products that use one are done before those that use the other. So they are made by two
  /// instructions, with different ones of `same`, which the compiler does not know to be equal.
  __device__ __forceinline__ void make(const WindowWords<C>& words, const std::uint32_t (&same)[2]) {
    constexpr typename Places::Used kUsed = Places::used();
#pragma unroll
    for (int group = 0; group < Places::kGroups; ++group) {
      if constexpr (C::kWordElements == 2) {
#pragma unroll
        for (int i = 0; i < Places::kSpan; ++i) {
          if (!kUsed.at[i]) continue;
#pragma unroll
          for (int word = 0; word < 4; ++word) {
            const int place = i + Places::kLowest - Places::kFirst + word % 2 * Places::kHalf;
            const auto& channels = words.word[group][word / 2];
            // Two channels' elements of the place: the lower halves of their words, or the upper ones.
            high[group][i][word] = __byte_perm(channels[0][place / 2], channels[1][place / 2], same[word % 2] + (place % 2 == 0 ? 0u : 0x2222u));
          }
          gpu::warpgroup_operand_ready(high[group][i]);
        }
      } else {
        std::uint32_t rounded[2][Places::kPlaces], rest[2][Places::kPlaces];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int i = 0; i < Places::kPlaces; ++i) {
            const float value = __uint_as_float(words.word[group][half][0][i]);
            rounded[half][i] = gpu::tf32_operand(value);
            if constexpr (C::kSplit) rest[half][i] = gpu::tf32_operand(value - __uint_as_float(rounded[half][i] & 0xffffe000u));
          }
        }
#pragma unroll
        for (int i = 0; i < Places::kSpan; ++i) {
          if (!kUsed.at[i]) continue;
          fill(high[group][i], rounded, i + Places::kLowest - Places::kFirst, same);
          if constexpr (C::kSplit) fill(low[group][i], rest, i + Places::kLowest - Places::kFirst, same);
        }
      }
    }
  }

 private:
  __device__ __forceinline__ static void fill(std::uint32_t (&to)[4], const std::uint32_t (&words)[2][Places::kPlaces], int place, const std::uint32_t (&same)[2]) {
#pragma unroll
    for (int word = 0; word < 4; ++word) to[word] = words[word / 2][place + word % 2 * Places::kHalf] + same[word % 2];
    gpu::warpgroup_operand_ready(to);
  }
};

template <class C>
struct WindowMultiply {
  using Places = WindowPlaces<C>;
  using Operands = WindowOperands<C>;
  static constexpr Window kWindow = C::kWindow;
  static constexpr unsigned kCoreBytes = 128;
  static constexpr unsigned kWeightPlane = C::kColumns * 16;                             // four words of depth, all columns
  static constexpr unsigned kTapWeights = C::kQuads * C::kParts * (kWeightPlane / 16);  // in quads of 16 bytes
  static constexpr unsigned kSetWeights = C::kColumns / kWindow.sets;
  static constexpr int kSetSums = C::kSums / kWindow.sets;

  const ImplicitGeometry& g;
  const Shared& shared;
  RingPosition& ring;
  int thread;  ///< within the warpgroup
  ShiftedRows<C> rows;

  /// Multiplies one tile.
  __device__ __forceinline__ void run(LineSums<C>& sums) {
    if constexpr (kWindow.lines == 1) {
      run_line(sums[0]);
    } else {
      run_lines(sums);
    }
  }

 private:
  __device__ __forceinline__ int first_place() const { return thread % 4 * C::kWordElements * Places::kSlots + kWindow.before(C::kVector) + window_position<C>(0, thread); }

  /// Four words' channels further, rows begin as late: their bytes are a multiple of 16.
  __device__ __forceinline__ void lateness(int (&late)[C::kWordElements]) const {
#pragma unroll
    for (int i = 0; i < C::kWordElements; ++i) late[i] = kShiftedRows<C> ? rows.late(thread % 4 * C::kWordElements + i) : 0;
  }

  __device__ __forceinline__ void clear_ends(int chunk, typename ShiftedRows<C>::Ends ends) const {
    if (!rows.has_ends(chunk)) return;
    rows.clear(chunk, shared.x(ring.stage), thread, ends);
    gpu::fence_async_proxy();  // before the copy engine writes there again
    gpu::named_barrier(1 + shared.team, kWarpgroup);
  }

  __device__ __forceinline__ void run_line(Sums<C>& sums) {
    using Element = typename C::Element;
    const int place = first_place();
    int late[C::kWordElements];  // the same for all channels of a thread
    lateness(late);
    const typename ShiftedRows<C>::Ends ends = rows.ends(thread);
    const std::uint32_t same[2] = {g.same[0], g.same[1]};
    Sums<C> part;  // kSplit: of a step
    int c = 0;
    const auto multiply_chunk = [&](Operands& first, Operands& second) {
      gpu::barrier_wait(shared.full(ring.stage), ring.parity);
      if constexpr (kShiftedRows<C>) clear_ends(c, ends);
      const Element* const x = reinterpret_cast<const Element*>(shared.x(ring.stage)) + place;
      const std::uint64_t weight = gpu::matrix_descriptor(shared.weight(c), kWeightPlane, kCoreBytes);
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
        Operands& operands = s % 2 == 0 ? first : second;
        WindowWords<C> words;
        words.read(x + s * 8 * C::kWordElements * Places::kSlots, late);
        gpu::warpgroup_wait<kInTurn ? 1 : 0>();  // the operands' last products are done
        if constexpr (C::kSplit) add_up(part, sums);
        operands.make(words, same);
        gpu::warpgroup_fence();
        const std::uint64_t of_step = further(weight, s * C::kParts * kStepWeights);
        if constexpr (C::kSplit) {
          start_split(operands, of_step, part);
        } else {
          start(operands.high, of_step, c > 0 || s > 0, sums);
        }
        gpu::warpgroup_commit();
      }
      gpu::barrier_arrive(shared.empty(ring.stage));  // its words have been read
      ring.advance(g.stages);
      ++c;
    };
    if constexpr (C::kSplit) {
#pragma unroll
      for (int block = 0; block < C::kRowBlocks; ++block) {
#pragma unroll
        for (int i = 0; i < C::kSums; ++i) sums[block][i] = part[block][i] = 0;
      }
    }
    if constexpr (kInTurn) {
      Operands even, odd;
      while (c < g.chunks) {
        multiply_chunk(even, odd);
        if constexpr (C::kSteps == 1) {
          if (c == g.chunks) break;
          multiply_chunk(odd, even);
        }
      }
    } else {
      Operands operands;
      while (c < g.chunks) multiply_chunk(operands, operands);
    }
    gpu::warpgroup_wait<0>();
    if constexpr (C::kSplit) {
      add_up(part, sums);
    } else {
#pragma unroll
      for (auto& block : sums) gpu::warpgroup_settle(block);
    }
  }

  /// Chunks of x come for one input of the lines' axis after the other (PlaneInputs): of input i, the last line takes tap i, and the one before it tap i - 1. Products
  /// are done before others follow that are of another choice of lines, or ptxas serialises all of them (C7514).
  __device__ __forceinline__ void run_lines(LineSums<C>& sums) {
#pragma unroll
    for (auto& line : sums) {
#pragma unroll
      for (auto& block : line) {
#pragma unroll
        for (float& sum : block) sum = 0;
      }
    }
    const int blocks = g.channel_blocks, shared_inputs = g.outer[kLineAxis].taps.divisor() - 1;
    int weights = 0;  // the last line's chunk
    for (int tap = 0; tap < g.outer[0].taps.divisor(); ++tap) {
      multiply_lines<true, false>(weights, blocks, sums);
      multiply_lines<true, true>(weights + blocks, shared_inputs * blocks, sums);
      weights += (1 + shared_inputs) * blocks;
      multiply_lines<false, true>(weights - blocks, blocks, sums);
    }
  }

  /// Chunks of x one after the other, for one line or both; `weights` is what the last of these takes of the first chunk's.
  template <bool kLast, bool kBefore>
  __device__ __forceinline__ void multiply_lines(int weights, int chunks, LineSums<C>& sums) {
    static_assert(kWindow.lines == 2);
    constexpr int kTurns = kInTurn && C::kSteps % 2 == 0 ? 2 : 1;
    using Element = typename C::Element;
    const int place = first_place();
    constexpr int late[C::kWordElements] = {};
    const std::uint32_t same[2] = {g.same[0], g.same[1]};
    const unsigned line_before = static_cast<unsigned>(g.channel_blocks * (g.weight_bytes / 16));  // quads
    Operands turns[kTurns];
    for (int c = 0; c < chunks; ++c) {
      gpu::barrier_wait(shared.full(ring.stage), ring.parity);
      const Element* const x = reinterpret_cast<const Element*>(shared.x(ring.stage)) + place;
      const std::uint64_t weight = gpu::matrix_descriptor(shared.weight(weights + c), kWeightPlane, kCoreBytes);
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
        Operands& operands = turns[s % kTurns];
        WindowWords<C> words;
        words.read(x + s * 8 * C::kWordElements * Places::kSlots, late);
        gpu::warpgroup_wait<kTurns - 1>();  // the operands' last products are done
        operands.make(words, same);
        gpu::warpgroup_fence();
        const std::uint64_t of_step = further(weight, s * kStepWeights);
        if constexpr (kLast) start(operands.high, of_step, true, sums[1]);
        if constexpr (kBefore) start(operands.high, kLast ? further(of_step, 0u - line_before) : of_step, true, sums[0]);
        gpu::warpgroup_commit();
      }
      gpu::barrier_arrive(shared.empty(ring.stage));  // its words have been read
      ring.advance(g.stages);
    }
    gpu::warpgroup_wait<0>();
#pragma unroll
    for (auto& line : sums) {
#pragma unroll
      for (auto& block : line) gpu::warpgroup_settle(block);
    }
  }

  static constexpr unsigned kStepWeights = 2 * (kWeightPlane / 16);  // eight words of depth of one tap
  /// Operands are the tensor cores' until their products are done: there are two, filled in turn, where registers suffice.
  static constexpr bool kInTurn = !C::kSplit && kWindow.lines * C::kRowBlocks * C::kSums + 2 * Places::operand_words() <= WindowRegisters<C>::kMultiplying - 64;

  /// The tensor cores cut off what exceeds a sum's last place, which over a long depth is more than float32's own error. So each step is summed up by itself
  /// and added here.
  __device__ __forceinline__ static void add_up(Sums<C>& part, Sums<C>& sums) {
#pragma unroll
    for (int block = 0; block < C::kRowBlocks; ++block) {
      gpu::warpgroup_settle(part[block]);
#pragma unroll
      for (int i = 0; i < C::kSums; ++i) sums[block][i] += part[block][i];
    }
  }

  /// Starts the products of a step: all taps, sets and row blocks.
  template <int kGroups>
  __device__ __forceinline__ static void start(const std::uint32_t (&x)[kGroups][Places::kSpan][4], std::uint64_t weight, bool add, Sums<C>& sums) {
#pragma unroll
    for (int tap = 0; tap < kWindow.taps; ++tap) {
#pragma unroll
      for (int set = 0; set < kWindow.sets; ++set) {
#pragma unroll
        for (int block = 0; block < C::kRowBlocks; ++block) {
          const int place = Places::place(block, tap, set) - Places::kLowest;
          gpu::warpgroup_multiply<C::kOperand>(part_of(sums[block], set), x[block / Places::kGroupBlocks][place],
                                               further(weight, tap * kTapWeights + set * kSetWeights), add || tap > 0);
        }
      }
    }
  }

  /// The same with what words were split in, the smallest products first: what they cut off is of a small sum.
  __device__ __forceinline__ static void start_split(const Operands& operands, std::uint64_t high, Sums<C>& part) {
    start(operands.low, high, false, part);
    start(operands.high, further(high, kStepWeights), true, part);
    start(operands.high, high, true, part);
  }

  /// The sums of a set of columns.
  __device__ __forceinline__ static float (&part_of(float (&sums)[C::kSums], int set))[kSetSums] {
    return reinterpret_cast<float(&)[kSetSums]>(sums[set * kSetSums]);
  }

  __device__ __forceinline__ static std::uint64_t further(std::uint64_t descriptor, unsigned quads) {
    return (descriptor & 0xffffffff00000000u) | (static_cast<std::uint32_t>(descriptor) + quads);
  }
};

}  // namespace convt_gemm::implicit
