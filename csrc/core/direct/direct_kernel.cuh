#pragma once
// The work of one thread of the direct algorithm: a few vectors of outputs, gathered from the input tap by tap in a
// fixed order. Plain host and device code without shared memory or shuffles, so that tests run every thread on the
// processor.
//
// Inputs outside the tensor count as zeros and are multiplied like the others: predicates on loads cost little, on each
// product they would be most of the work. (A weight that is infinite or NaN gives NaN there, as it does in an implicit
// GEMM.)
//
// Memory is reached through `Access` (loads and 16-byte stores), which tests replace by one that checks bounds. Before Access::begin() a kernel may prefetch only: the
// kernel ahead may still be at work.
#include <cstdint>
#include <type_traits>

#include "convt_gemm/problem.h"
#include "util/fast_div.h"
#include "util/half_types.h"
#include "util/residues.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#ifdef __CUDA_ARCH__
#define CONVT_PRAGMA(text) _Pragma(#text)
#define CONVT_UNROLL(count) CONVT_PRAGMA(unroll count)
#define CONVT_UNROLL_ALL CONVT_PRAGMA(unroll)
#else
#define CONVT_UNROLL(count)
#define CONVT_UNROLL_ALL
#endif

namespace convt_gemm {
namespace direct {

template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
inline constexpr int kVector = 16 / int(sizeof(T));  ///< elements of a 16-byte store

/// channels_first, more than one axis: a block works on this many neighbouring rows, which read the same inputs.
inline constexpr int kRowGroup = 4;

struct alignas(16) Words {
  std::uint32_t word[4];
};

CONVT_HOST_DEVICE float widen(float value) { return value; }
CONVT_HOST_DEVICE double widen(double value) { return value; }
CONVT_HOST_DEVICE float widen(BFloat16 value) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(std::uint32_t{value.bits} << 16);
#else
  return to_accumulator(value);
#endif
}
CONVT_HOST_DEVICE float widen(Float16 value) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(value.bits));
#else
  return to_accumulator(value);
#endif
}

template <class T>
CONVT_HOST_DEVICE T round_to(Accumulator<T> value) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<T, BFloat16>) {
    return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
  } else if constexpr (std::is_same_v<T, Float16>) {
    return {__half_as_ushort(__float2half_rn(value))};
  } else {
    return value;
  }
#else
  return Rounding<T>::from(value);
#endif
}

CONVT_HOST_DEVICE float multiply_add(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, b, c);
#else
  return a * b + c;
#endif
}
CONVT_HOST_DEVICE double multiply_add(double a, double b, double c) {
#ifdef __CUDA_ARCH__
  return __fma_rn(a, b, c);
#else
  return a * b + c;
#endif
}

/// Two neighbours as they lie in memory.
template <class T>
CONVT_HOST_DEVICE std::uint32_t pack(float low, float high) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<T, BFloat16>) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const std::uint32_t*>(&both);
  } else {
    const __half2 both = __floats2half2_rn(low, high);
    return *reinterpret_cast<const std::uint32_t*>(&both);
  }
#else
  return std::uint32_t{Rounding<T>::from(low).bits} | std::uint32_t{Rounding<T>::from(high).bits} << 16;
#endif
}

/// The 16 bytes of a vector of sums.
template <class T>
CONVT_HOST_DEVICE Words words_of(const Accumulator<T> (&sum)[kVector<T>]) {
  Words words;
  if constexpr (sizeof(T) == 2) {
    CONVT_UNROLL_ALL
    for (int i = 0; i < 4; ++i) words.word[i] = pack<T>(sum[2 * i], sum[2 * i + 1]);
  } else if constexpr (sizeof(T) == 4) {
    CONVT_UNROLL_ALL
    for (int i = 0; i < 4; ++i) {
#ifdef __CUDA_ARCH__
      words.word[i] = __float_as_uint(sum[i]);
#else
      words.word[i] = detail::bits_of_float(sum[i]);
#endif
    }
  } else {
    CONVT_UNROLL_ALL
    for (int i = 0; i < 2; ++i) {
#ifdef __CUDA_ARCH__
      words.word[2 * i] = std::uint32_t(__double2loint(sum[i]));
      words.word[2 * i + 1] = std::uint32_t(__double2hiint(sum[i]));
#else
      std::memcpy(&words.word[2 * i], &sum[i], sizeof sum[i]);
#endif
    }
  }
  return words;
}

/// Element i of 16 loaded bytes.
template <class T>
CONVT_HOST_DEVICE T element_of(const Words& words, int i) {
  if constexpr (sizeof(T) == 2) {
    return {std::uint16_t(words.word[i / 2] >> (i % 2 * 16))};
  } else if constexpr (sizeof(T) == 4) {
#ifdef __CUDA_ARCH__
    return __uint_as_float(words.word[i]);
#else
    return detail::float_of_bits(words.word[i]);
#endif
  } else {
#ifdef __CUDA_ARCH__
    return __hiloint2double(int(words.word[2 * i + 1]), int(words.word[2 * i]));
#else
    T value;
    std::memcpy(&value, &words.word[2 * i], sizeof value);
    return value;
#endif
  }
}

/// Whether `condition` holds in every thread of the warp that is here. One thread at a time, it answers for itself:
/// both ways of a branch on it must be right wherever the condition holds.
CONVT_HOST_DEVICE bool whole_warp(bool condition) {
#ifdef __CUDA_ARCH__
  return __all_sync(__activemask(), condition);
#else
  return condition;
#endif
}

/// Keeps a value in a register. The compiler would read parameters from constant memory again wherever they are used, and wait.
template <class Value>
CONVT_HOST_DEVICE Value in_register(Value value) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(Value) == 8) {
    asm volatile("" : "+l"(value));
  } else {
    asm volatile("" : "+r"(value));
  }
#endif
  return value;
}

template <class Int>
CONVT_HOST_DEVICE bool inside(Int value, Int end) {
  using Unsigned = std::make_unsigned_t<Int>;
  return Unsigned(value) < Unsigned(end);
}

template <class Int>
struct Axis {
  Int kernel, dilation, padding, input, output;
  Int tap_step, input_step, inverse;
  FastDiv<Int> by_stride, by_gcd, by_tap_step;

  Axis() = default;
  explicit Axis(const convt_gemm::Axis& axis) {
    const Residues residues = residues_of(axis);
    kernel = Int(axis.kernel);
    dilation = Int(axis.dilation);
    padding = Int(axis.padding);
    input = Int(axis.input);
    output = Int(axis.output());
    tap_step = Int(residues.tap_step);
    input_step = Int(residues.input_step);
    inverse = Int(residues.inverse);
    by_stride = FastDiv<Int>(axis.stride);
    by_gcd = FastDiv<Int>(residues.gcd);
    by_tap_step = FastDiv<Int>(residues.tap_step);
  }
};

/// The taps of one output on one axis: tap, tap + tap_step, ... read input, input - input_step, ...; `count` of them.
template <class Int>
struct Taps {
  Int tap, input, count;
};

/// Taps of q = m*stride + r. util/residues.h gives the formula.
template <class Int>
CONVT_HOST_DEVICE Taps<Int> taps_of(const Axis<Int>& axis, Int m, Int r) {
  if (axis.dilation == 1) return {r, m, axis.by_tap_step.quotient(Int(axis.kernel - r + axis.tap_step - 1))};
  const Int residue = axis.by_gcd.quotient(r);
  if (residue * axis.by_gcd.divisor() != r) return {0, 0, 0};
  const Int product = residue * axis.inverse;
  const Int tap = product - axis.by_tap_step.quotient(product) * axis.tap_step;
  if (tap >= axis.kernel) return {0, 0, 0};
  return {tap, Int(m - axis.by_stride.quotient(Int(tap * axis.dilation - r))),
          axis.by_tap_step.quotient(Int(axis.kernel - tap + axis.tap_step - 1))};
}

/// Taps of output o >= 0.
template <class Int>
CONVT_HOST_DEVICE Taps<Int> taps_at(const Axis<Int>& axis, Int o) {
  if (axis.kernel == 1 && axis.by_stride.divisor() == 1) return {0, Int(o + axis.padding), 1};
  const Int q = o + axis.padding;
  const Int m = axis.by_stride.quotient(q);
  return taps_of(axis, m, Int(q - m * axis.by_stride.divisor()));
}

/// Int is int32_t where every index fits; offsets of samples and channels are 64 bits wide in any case.
template <class Int>
struct Params {
  Axis<Int> axis[kMaxAxes];
  Int batch, in_channels, out_channels;
  Int group_in_channels, group_out_channels;
  Int taps;
  std::int64_t input_positions, output_positions;
  Int last_taps;  ///< most taps of an output on the last axis
  Int reach;      ///< inputs before an output's first one that its loads may touch on the last axis

  // How threads cover the output. channels_first: [sample, channel block, o0, row group, stretch, row, lane] with a
  // thread's vectors `lanes` vectors apart; channels_last: [sample, o0, o1, slot, vector of channels].
  FastDiv<Int> by_lanes, by_stretches, by_row_groups, by_outputs0, by_channel_blocks, by_group_blocks;
  Int row_shift;  ///< log2 of the rows in a group
  Int align;      ///< outputs (a power of two) at whose multiples in memory a row's first vector begins
  Int shift;      ///< inputs between a thread's vectors
};

/// Calls add(input row, weight row) for each tap on the outer two axes that reads an input: offsets of a channel's row,
/// and of a row of its weights.
template <int Rank, class Int, class Add>
CONVT_HOST_DEVICE void for_each_outer_tap(const Axis<Int> (&axis)[kMaxAxes], Int o0, Int o1, Add add) {
  if constexpr (Rank == 1) {
    add(Int(0), Int(0));
  } else {
    const Taps<Int> taps0 = taps_at(axis[0], o0), taps1 = taps_at(axis[1], o1);
    CONVT_UNROLL(1)
    for (Int j0 = 0; j0 < taps0.count; ++j0) {
      const Int input0 = taps0.input - j0 * axis[0].input_step;
      if (!inside(input0, axis[0].input)) continue;
      CONVT_UNROLL(1)
      for (Int j1 = 0; j1 < taps1.count; ++j1) {
        const Int input1 = taps1.input - j1 * axis[1].input_step;
        if (!inside(input1, axis[1].input)) continue;
        const Int tap = (taps0.tap + j0 * axis[0].tap_step) * axis[1].kernel + taps1.tap + j1 * axis[1].tap_step;
        add(Int(input0 * axis[1].input + input1), tap);
      }
    }
  }
}

/// What a kernel is made of. S, K: stride and kernel of the last axis where they are fixed, else 0; a fixed stride
/// divides the vector and has dilation 1. Depthwise: one input channel a group. C output channels and G vectors of each
/// a thread.
template <class T_, class Int_, int Rank_, int S_, int K_, bool Depthwise_, int C_, int G_>
struct ChannelsFirst {
  using T = T_;
  using Int = Int_;
  using Acc = Accumulator<T>;
  static constexpr int V = kVector<T>;
  static constexpr int Rank = Rank_, S = S_, K = K_, C = C_, G = G_;
  static constexpr bool kDepthwise = Depthwise_;
  /// Taps of an output that one pass over the last axis takes.
  static constexpr int kTaps = S == 0 ? 1 : K > 0 ? (K + S - 1) / S : S == 1 ? 3 : 4;
  /// Input channels whose loads are in flight together, as far as registers allow.
  static constexpr int kLoads = S == 0 ? 0 : G * (V / (S == 0 ? 1 : S) + kTaps) + C * S * kTaps;
  static constexpr int kUnroll = kDepthwise || kLoads > 20 ? 1 : 2;

  static constexpr int kMostThreads = 256;
  /// Blocks of so many threads that a multiprocessor must hold. Left alone, ptxas spills to reach more than is of use.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  static constexpr int kMinBlocks = S > 0 && sizeof(Int) == 4 ? 2 : 1;  // the same code takes a few registers more here
#else
  static constexpr int kMinBlocks = S > 0 && kDepthwise && Rank == 1 ? 3 : 2;
#endif

  using P = Params<Int>;
  using Sums = Acc[C][G][V];

  /// A row of one channel's input, the weights of each output channel's row, and their strides over input channels.
  struct Rows {
    const T* input;
    const T* weight[C];
    std::int64_t input_step;
    Int weight_step;
  };

  /// Weights [first, first + count) of a row; all of it, in as wide loads as its alignment allows, if K is fixed.
  template <class Access, int kCount>
  static CONVT_HOST_DEVICE void load_weights(const T* row, Int first, Int kernel, Acc (&weight)[kCount]) {
    if constexpr (K > 0) {
      constexpr int kBytes = K * int(sizeof(T));
      constexpr int kChunk = kBytes % 16 == 0 ? 16 : kBytes % 8 == 0 ? 8 : kBytes % 4 == 0 ? 4 : int(sizeof(T));
      Access::template load_run<kChunk, K>(row, weight);
    } else {
      CONVT_UNROLL_ALL
      for (int k = 0; k < kCount; ++k) weight[k] = first + k < kernel ? widen(Access::load(row + (first + k))) : Acc(0);
    }
  }

  /// Fixed stride: the outputs of a vector read a window of neighbouring inputs, each loaded once. Output 0 is `Phase`
  /// after a multiple of the stride, whose first tap reads input m.
  template <class Access, bool kChecked, int Phase>
  static CONVT_HOST_DEVICE void add_window(const P& p, const Rows& rows, Int m, Sums& sum) {
    constexpr int kSame = V / S;
    constexpr int kWindow = kSame + kTaps - 1 + (Phase > 0);
    const Int inputs = p.axis[2].input, kernel = p.axis[2].kernel;
    const Int passes = K > 0 ? Int(kTaps) : p.last_taps;
    CONVT_UNROLL(1)
    for (Int first = 0; first < passes; first += kTaps) {
      const Int low = m - first - (kTaps - 1);
      const T* input = rows.input + low;
      const T* weights[C];
      for (int c = 0; c < C; ++c) weights[c] = rows.weight[c];
      const Int channels = kDepthwise ? Int(1) : p.group_in_channels;
      CONVT_UNROLL(kChecked ? 1 : kUnroll)
      for (Int ci = 0; ci < channels; ++ci) {
        Acc window[G][kWindow];
        CONVT_UNROLL_ALL
        for (int g = 0; g < G; ++g) {
          CONVT_UNROLL_ALL
          for (int e = 0; e < kWindow; ++e) {
            const bool there = !kChecked || inside(Int(low + g * p.shift + e), inputs);
            window[g][e] = there ? widen(Access::load(input + g * p.shift + e)) : Acc(0);
          }
        }
        CONVT_UNROLL_ALL
        for (int c = 0; c < C; ++c) {
          Acc weight[S * kTaps];
          load_weights<Access>(weights[c], Int(first * S), kernel, weight);
          CONVT_UNROLL_ALL
          for (int g = 0; g < G; ++g) {
            CONVT_UNROLL_ALL
            for (int j = 0; j < kTaps; ++j) {
              CONVT_UNROLL_ALL
              for (int v = 0; v < V; ++v) {
                const int k = (Phase + v) % S + j * S, e = (Phase + v) / S + kTaps - 1 - j;
                if (K > 0 && k >= K) continue;
                // The window is there although the tap is not: an infinity in it must not become NaN.
                if (K == 0 && first * S + k >= kernel) continue;
                sum[c][g][v] = multiply_add(window[g][e], weight[k], sum[c][g][v]);
              }
            }
          }
          if (!kDepthwise) weights[c] += rows.weight_step;
        }
        if (!kDepthwise) input += rows.input_step;
      }
    }
  }

  /// Any stride and dilation: each of the V outputs has taps of its own.
  template <class Access, bool kChecked>
  static CONVT_HOST_DEVICE void add_taps(const P& p, const Rows& rows, const Taps<Int> (&taps)[V], Sums& sum) {
    const Axis<Int>& last = p.axis[2];
    const T* input = rows.input;
    const T* weights[C];
    for (int c = 0; c < C; ++c) weights[c] = rows.weight[c];
    const Int channels = kDepthwise ? Int(1) : p.group_in_channels;
    CONVT_UNROLL(1)
    for (Int ci = 0; ci < channels; ++ci) {
      CONVT_UNROLL(V > 4 ? 1 : 2)
      for (Int j = 0; j < p.last_taps; ++j) {
        const Int back = j * last.input_step, ahead = j * last.tap_step;
        Acc value[G][V];
        CONVT_UNROLL_ALL
        for (int v = 0; v < V; ++v) {
          CONVT_UNROLL_ALL
          for (int g = 0; g < G; ++g) {
            const Int i = taps[v].input - back + g * p.shift;
            const bool there = j < taps[v].count && (!kChecked || inside(i, last.input));
            value[g][v] = there ? widen(Access::load(input + i)) : Acc(0);
          }
        }
        CONVT_UNROLL_ALL
        for (int c = 0; c < C; ++c) {
          CONVT_UNROLL_ALL
          for (int v = 0; v < V; ++v) {
            const bool any = j < taps[v].count;
            const Acc weight = any ? widen(Access::load(weights[c] + (taps[v].tap + ahead))) : Acc(0);
            CONVT_UNROLL_ALL
            for (int g = 0; g < G; ++g) sum[c][g][v] = multiply_add(value[g][v], weight, sum[c][g][v]);
          }
        }
      }
      for (int c = 0; c < C; ++c) weights[c] += rows.weight_step;
      input += rows.input_step;
    }
  }

  /// The taps of one row.
  template <class Access, bool kChecked>
  static CONVT_HOST_DEVICE void add_row(const P& p, const Rows& rows, Int m, Int phase, const Taps<Int> (&taps)[V], Sums& sum) {
    if constexpr (S == 0) {
      add_taps<Access, kChecked>(p, rows, taps, sum);
    } else if constexpr (S == 1) {
      add_window<Access, kChecked, 0>(p, rows, m, sum);
    } else {
      static_assert(S == 2, "a phase for each residue");
      if (phase == 0) {
        add_window<Access, kChecked, 0>(p, rows, m, sum);
      } else {
        add_window<Access, kChecked, 1>(p, rows, m, sum);
      }
    }
  }

  /// float32: each tap on the outer axes is summed up by itself first. The error of a sum grows with its length, and one sum over the
  /// whole depth had three to five times PyTorch's.
  static constexpr bool kSumsOfSums = std::is_same_v<T, float> && Rank > 1 && !kDepthwise;

  /// `rows_at(outer input row, outer tap)` gives the Rows of a tap on the outer axes.
  template <class Access, bool kChecked, class RowsAt>
  static CONVT_HOST_DEVICE void gather(const P& p, Int o0, Int o1, Int m, Int phase, const Taps<Int> (&taps)[V],
                                       RowsAt rows_at, Sums& sum) {
    for_each_outer_tap<Rank>(p.axis, o0, o1, [&](Int input_row, Int outer_tap) {
      const Rows rows = rows_at(input_row, outer_tap);
      if constexpr (kSumsOfSums) {
        Sums part = {};
        add_row<Access, kChecked>(p, rows, m, phase, taps, part);
        CONVT_UNROLL_ALL
        for (int c = 0; c < C; ++c) {
          CONVT_UNROLL_ALL
          for (int g = 0; g < G; ++g) {
            CONVT_UNROLL_ALL
            for (int v = 0; v < V; ++v) sum[c][g][v] += part[c][g][v];
          }
        }
      } else {
        add_row<Access, kChecked>(p, rows, m, phase, taps, sum);
      }
    });
  }

  template <class Access>
  static CONVT_HOST_DEVICE void run(const P& p, const T* input, const T* weight, const T* bias, T* output, Int thread) {
    Access::begin();
    const Axis<Int>& last = p.axis[2];
    Int rest = p.by_lanes.quotient(thread);
    const Int lane = thread - rest * p.by_lanes.divisor();
    Int o0 = 0, o1 = 0;
    if constexpr (Rank > 1) {
      o1 = rest & ((Int(1) << p.row_shift) - 1);
      rest >>= p.row_shift;
    }
    Int block = p.by_stretches.quotient(rest);
    const Int stretch = rest - block * p.by_stretches.divisor();
    if constexpr (Rank > 1) {
      const Int plane = p.by_row_groups.quotient(block);
      o1 += (block - plane * p.by_row_groups.divisor()) << p.row_shift;
      block = p.by_outputs0.quotient(plane);
      o0 = plane - block * p.by_outputs0.divisor();
      if (o1 >= p.axis[1].output) return;
    }
    const Int sample = p.by_channel_blocks.quotient(block);
    if (sample >= p.batch) return;
    const Int channel_block = block - sample * p.by_channel_blocks.divisor();
    const Int group = p.by_group_blocks.quotient(channel_block);
    const Int channel = (channel_block - group * p.by_group_blocks.divisor()) * C;  // of the group
    const Int out_channel = group * p.group_out_channels + channel;
    const Int channels = C == 1 || channel + C <= p.group_out_channels ? Int(C) : Int(p.group_out_channels - channel);

    // Of the row of the first channel; C > 1 only where the rows of all channels have the same alignment.
    std::int64_t place = (std::int64_t(sample) * p.out_channels + out_channel) * p.output_positions;
    if constexpr (Rank > 1) place += (std::int64_t(o0) * p.axis[1].output + o1) * last.output;
    const Int step = p.by_lanes.divisor() * V;
    const Int o = stretch * G * step + lane * V - (Int(place) & (p.align - 1));
    if (o >= last.output || (G == 1 && o <= -V)) return;

    Acc add[C];
    CONVT_UNROLL_ALL
    for (int c = 0; c < C; ++c) {
      add[c] = bias != nullptr ? Acc(widen(Access::load(bias + (out_channel + (c < channels ? c : 0))))) : Acc(0);
    }

    Taps<Int> taps[V];
    Int m = 0, phase = 0, lowest, highest;
    if constexpr (S > 0) {
      const Int q = o + last.padding;  // may be negative: the shift and the mask round down
      m = q >> (S - 1);
      phase = q & (S - 1);
      lowest = m - p.reach;
      highest = m + V / S + p.shift * (G - 1);
    } else {
      // o may be as low as 1 - align.
      const Int stride = last.by_stride.divisor();
      const Int q = o + last.padding + p.align * stride;
      m = last.by_stride.quotient(q);
      Int r = q - m * stride;
      m -= p.align;
      lowest = last.input, highest = 0;
      CONVT_UNROLL_ALL
      for (int v = 0; v < V; ++v) {
        taps[v] = taps_of(last, m, r);
        if (taps[v].count > 0) {
          const Int low = taps[v].input - (taps[v].count - 1) * last.input_step;
          const Int high = taps[v].input + p.shift * (G - 1);
          lowest = low < lowest ? low : lowest;
          highest = high > highest ? high : highest;
        }
        if (++r == stride) r = 0, ++m;
      }
    }

    const std::int64_t in_channel = std::int64_t(sample) * p.in_channels + std::int64_t(group) * p.group_in_channels;
    const T* const channel_input = input + in_channel * p.input_positions;
    const T* channel_weight[C];
    CONVT_UNROLL_ALL
    for (int c = 0; c < C; ++c) {
      const Int which = group * p.group_in_channels * p.group_out_channels + channel + (c < channels ? c : 0);
      channel_weight[c] = weight + which * p.taps;
    }
    const auto rows_at = [&](Int input_row, Int outer_tap) {
      Rows rows;
      rows.input = channel_input;
      if constexpr (Rank > 1) rows.input += input_row * last.input;
      const Int weight_row = Rank > 1 ? Int(outer_tap * last.kernel) : Int(0);
      for (int c = 0; c < C; ++c) rows.weight[c] = channel_weight[c] + weight_row;
      rows.input_step = p.input_positions;
      rows.weight_step = p.group_out_channels * p.taps;
      return rows;
    };

    Sums sum = {};
    const bool whole = o >= 0 && o + (G - 1) * step + V <= last.output;
    // One way for the whole warp: the checked one is right for all.
    if (whole_warp(whole && lowest >= 0 && highest < last.input)) {
      gather<Access, false>(p, o0, o1, m, phase, taps, rows_at, sum);
    } else {
      gather<Access, true>(p, o0, o1, m, phase, taps, rows_at, sum);
    }

    CONVT_UNROLL_ALL
    for (int c = 0; c < C; ++c) {
      if (c >= channels) continue;
      T* const row = output + place + c * p.output_positions;
      CONVT_UNROLL_ALL
      for (int g = 0; g < G; ++g) {
        const Int first = o + g * step;
        CONVT_UNROLL_ALL
        for (int v = 0; v < V; ++v) sum[c][g][v] += add[c];
        if (first >= 0 && first + V <= last.output) {
          Access::store_vector(row + first, words_of<T>(sum[c][g]));
        } else {
          CONVT_UNROLL_ALL
          for (int v = 0; v < V; ++v) {
            if (inside(Int(first + v), last.output)) Access::store(row + (first + v), round_to<T>(sum[c][g][v]));
          }
        }
      }
    }
  }
};

/// In the order in which a thread needs them: each line of parameters costs a block 0.1 us.
struct DepthwiseParams {
  FastDiv<std::int32_t> by_lanes, by_channels;  ///< threads are [sample, channel, lane]
  std::int32_t rows, input, output, padding;
  std::int32_t step, shift;  ///< outputs and inputs between a thread's vectors
};

/// A depthwise layer of one axis and stride 2 whose kernel size is fixed, one output channel for each input channel: what a thread does besides its
/// loads and products is most of its time. So all threads take one way, with checked loads and with both residues of the first output,
/// and there is a lane for every vector of a row, or for every G-th.
template <class T_, int K_, int G_>
struct DepthwiseRows {
  using T = T_;
  using Int = std::int32_t;
  using Acc = Accumulator<T>;
  using P = DepthwiseParams;
  static constexpr int V = kVector<T>, K = K_, G = G_;
  static constexpr int kTaps = (K + 1) / 2, kWindow = V / 2 + kTaps;
  static constexpr int kMostThreads = 768, kMinBlocks = 1;

  template <class Access>
  static CONVT_HOST_DEVICE void run(const P& p, const T* input, const T* weight, const T* bias, T* output, Int thread) {
    Access::let_next_start();
    const Int row = p.by_lanes.quotient(thread), lane = thread - row * p.by_lanes.divisor();
    if (row >= p.rows) return;
    const Int channel = row - p.by_channels.quotient(row) * p.by_channels.divisor();
    const std::int64_t place = std::int64_t(row) * p.output;
    const Int o = lane * V - (Int(place) & (V - 1));
    const Int q = o + p.padding;  // may be negative: the shift and the mask round down
    const Int low = (q >> 1) - (kTaps - 1);
    const bool odd = (q & 1) != 0;
    const T* const from = in_register(input + (std::int64_t(row) * p.input + low));
    const T* const weights = in_register(weight + std::int64_t(channel) * K);
    begin<Access>(p, lane, low, from, weights);
    Acc window[G][kWindow];
    CONVT_UNROLL_ALL
    for (int g = 0; g < G; ++g) {
      CONVT_UNROLL_ALL
      for (int e = 0; e < kWindow; ++e) {
        const bool there = inside(Int(low + g * p.shift + e), p.input);
        window[g][e] = there ? widen(Access::load(from + (g * p.shift + e))) : Acc(0);
      }
    }
    Acc factor[K];
    constexpr int kBytes = K * int(sizeof(T));
    constexpr int kChunk = kBytes % 16 == 0 ? 16 : kBytes % 8 == 0 ? 8 : kBytes % 4 == 0 ? 4 : int(sizeof(T));
    Access::template load_run<kChunk, K>(weights, factor);
    const Acc add = bias != nullptr ? Acc(widen(Access::load(bias + channel))) : Acc(0);

    CONVT_UNROLL_ALL
    for (int g = 0; g < G; ++g) {
      Acc sum[V + 1] = {};  // from the even output on, which may be the one before the first
      CONVT_UNROLL_ALL
      for (int j = 0; j < kTaps; ++j) {
        CONVT_UNROLL_ALL
        for (int v = 0; v <= V; ++v) {
          const int k = v % 2 + 2 * j;
          if (k < K) sum[v] = multiply_add(window[g][v / 2 + kTaps - 1 - j], factor[k], sum[v]);
        }
      }
      Acc own[V];
      CONVT_UNROLL_ALL
      for (int v = 0; v < V; ++v) own[v] = (odd ? sum[v + 1] : sum[v]) + add;
      const Int first = o + g * p.step;
      T* const to = output + (place + first);
      if (first >= 0 && first + V <= p.output) {
        Access::store_vector(to, words_of<T>(own));
      } else {
        CONVT_UNROLL_ALL
        for (int v = 0; v < V; ++v) {
          if (inside(Int(first + v), p.output)) Access::store(to + v, round_to<T>(own[v]));
        }
      }
    }
  }

 private:
  /// Few threads do not hide how long memory takes: what they will read is asked for while the kernel before is still at work. Of many, the requests would take
  /// longer than that.
  template <class Access>
  static CONVT_HOST_DEVICE void begin(const P& p, Int lane, Int low, const T* from, const T* weights) {
    if (!Access::has_room_for(2)) return Access::begin();
    constexpr Int kSector = 4;  // lanes: each one's inputs begin 8 bytes after the one's before
    if (lane % kSector == 0) {
      CONVT_UNROLL_ALL
      for (int g = 0; g < G; ++g) {
        if (inside(Int(low + g * p.shift), p.input)) Access::prefetch(from + g * p.shift);
      }
    }
    if (lane == 0) Access::prefetch(weights);
    Access::begin();
  }
};

enum class Sharing {
  none,       ///< one channel a thread
  group,      ///< the channels of a vector belong to one group: they read the same inputs
  depthwise,  ///< each channel reads its own: a vector of inputs is as contiguous as a vector of outputs
};

/// [batch, positions, channels]: a thread has a vector of V channels at G outputs that are a stride apart on the last
/// axis, so that they share weights.
template <class T_, class Int_, Sharing kSharing, int G_>
struct ChannelsLast {
  using T = T_;
  using Int = Int_;
  using Acc = Accumulator<T>;
  static constexpr int V = kSharing == Sharing::none ? 1 : kVector<T>;
  static constexpr int G = G_;
  static constexpr int kMostThreads = 256, kMinBlocks = 2;
  using P = Params<Int>;

  template <class Access>
  static CONVT_HOST_DEVICE void run(const P& p, const T* input, const T* weight, const T* bias, T* output, Int thread) {
    Access::begin();
    const Axis<Int>& last = p.axis[2];
    Int rest = p.by_channel_blocks.quotient(thread);
    const Int channel = (thread - rest * p.by_channel_blocks.divisor()) * V;
    Int row = p.by_lanes.quotient(rest);
    const Int slot = rest - row * p.by_lanes.divisor();
    const Int plane = p.by_row_groups.quotient(row);
    const Int o1 = row - plane * p.by_row_groups.divisor();
    const Int sample = p.by_outputs0.quotient(plane);
    const Int o0 = plane - sample * p.by_outputs0.divisor();
    if (sample >= p.batch) return;
    // Slots [0, stride) stand for the outputs below G*stride, and so on.
    const Int stride = last.by_stride.divisor();
    const Int turn = last.by_stride.quotient(slot);
    const Int o = slot + turn * (G - 1) * stride;
    if (o >= last.output) return;

    const Int group = p.by_group_blocks.quotient(channel);
    const Int in_channel = kSharing == Sharing::depthwise ? channel : Int(group * p.group_in_channels);
    const Int weight_channel = group * (p.group_in_channels - 1) * p.group_out_channels + channel;
    const T* const sample_input = input + std::int64_t(sample) * p.input_positions * p.in_channels + in_channel;
    const T* const channel_weight = weight + weight_channel * p.taps;
    const Taps<Int> taps = taps_at(last, o);
    const Int channels = kSharing == Sharing::depthwise ? Int(1) : p.group_in_channels;

    Acc add[V];
    CONVT_UNROLL_ALL
    for (int v = 0; v < V; ++v) add[v] = bias != nullptr ? Acc(widen(Access::load(bias + (channel + v)))) : Acc(0);
    Acc sum[G][V] = {};
    for_each_outer_tap<kMaxAxes>(p.axis, o0, o1, [&](Int input_row, Int outer_tap) {
      Acc part[G][V] = {};  // summed up by itself: see ChannelsFirst::kSumsOfSums
      CONVT_UNROLL(1)
      for (Int j = 0; j < taps.count; ++j) {
        const Int i = taps.input - j * last.input_step;
        const T* x = sample_input + (input_row * last.input + i) * p.in_channels;
        const T* w = channel_weight + (outer_tap * last.kernel + taps.tap + j * last.tap_step);
        CONVT_UNROLL(2)
        for (Int ci = 0; ci < channels; ++ci) {
          Acc factor[V];
          CONVT_UNROLL_ALL
          for (int v = 0; v < V; ++v) factor[v] = widen(Access::load(w + v * p.taps));
          Acc value[G][kSharing == Sharing::depthwise ? V : 1];
          CONVT_UNROLL_ALL
          for (int g = 0; g < G; ++g) {
            const bool there = inside(Int(i + g), last.input);
            if constexpr (kSharing == Sharing::depthwise) {
              const Words words = there ? Access::load_vector(x + g * p.in_channels) : Words{};
              CONVT_UNROLL_ALL
              for (int v = 0; v < V; ++v) value[g][v] = widen(element_of<T>(words, v));
            } else {
              value[g][0] = there ? widen(Access::load(x + g * p.in_channels)) : Acc(0);
            }
          }
          CONVT_UNROLL_ALL
          for (int g = 0; g < G; ++g) {
            CONVT_UNROLL_ALL
            for (int v = 0; v < V; ++v) {
              part[g][v] = multiply_add(value[g][kSharing == Sharing::depthwise ? v : 0], factor[v], part[g][v]);
            }
          }
          x += 1;
          w += p.group_out_channels * p.taps;
        }
      }
      CONVT_UNROLL_ALL
      for (int g = 0; g < G; ++g) {
        CONVT_UNROLL_ALL
        for (int v = 0; v < V; ++v) sum[g][v] += part[g][v];
      }
    });

    const std::int64_t place = std::int64_t(sample) * p.output_positions +
                               (std::int64_t(o0) * p.axis[1].output + o1) * last.output + o;
    CONVT_UNROLL_ALL
    for (int g = 0; g < G; ++g) {
      if (o + g * stride >= last.output) continue;
      T* const to = output + (place + g * stride) * p.out_channels + channel;
      CONVT_UNROLL_ALL
      for (int v = 0; v < V; ++v) sum[g][v] += add[v];
      if constexpr (V > 1) {
        Access::store_vector(to, words_of<T>(sum[g]));
      } else {
        Access::store(to, round_to<T>(sum[g][0]));
      }
    }
  }
};

}  // namespace direct
}  // namespace convt_gemm
