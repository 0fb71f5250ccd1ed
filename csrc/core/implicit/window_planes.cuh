#pragma once
// Where a tile of a kernel of windows lies on the axes before the last one: see OuterAxis.
#include "implicit/operands.cuh"

namespace convt_gemm::implicit {

/// What is the same for all tiles of a block, which keeps its column tile: the residues of outputs, and so their taps.
struct PlaneTaps {
  int group;                     ///< of channels
  int residue[kOuterAxes];       ///< o modulo the stride
  int first_tap[kOuterAxes];     ///< r
  int further[kOuterAxes];       ///< u minus the number of the output among those of its residue

  __device__ __forceinline__ PlaneTaps() = default;
  /// `number` is Tile::group: it counts the residues of each group.
  __device__ __forceinline__ PlaneTaps(const ImplicitGeometry& g, int number) : group(number) {
#pragma unroll
    for (int a = kOuterAxes - 1; a >= 0; --a) {
      const OuterAxis& axis = g.outer[a];
      const int stride = axis.stride.divisor(), groups = axis.stride.quotient(group);
      residue[a] = group - groups * stride;
      group = groups;
      const int q = residue[a] + axis.padding, product = (q - axis.stride.quotient(q) * stride) * axis.inverse;
      first_tap[a] = product - axis.stride.quotient(product) * stride;
      further[a] = (q - first_tap[a] * axis.dilation) / stride;  // without rest
    }
  }

  /// The first of a chunk's `channels` channels, and how many elements its weights are after those of the first taps of outer axes; -1 if there are none.
  __device__ __forceinline__ int weights_before(const ImplicitGeometry& g, int chunk, int channels, int* first_channel) const {
    int taps = g.channel_blocks_divisor.quotient(chunk);
    *first_channel = (chunk - taps * g.channel_blocks) * channels;
    int before = 0, all = g.kernel;  // weights of an outer tap
#pragma unroll
    for (int a = kOuterAxes - 1; a >= 0; --a) {
      const OuterAxis& axis = g.outer[a];
      const int rest = axis.taps.quotient(taps), k = first_tap[a] + (taps - rest * axis.taps.divisor()) * axis.stride.divisor();
      if (k >= axis.kernel) return -1;
      before += k * all, all *= axis.kernel;
      taps = rest;
    }
    return before;
  }
};

/// One output of each outer axis; of the one before the last, the first of a tile's lines.
struct Plane {
  int sample;
  int output[kOuterAxes];
  int input[kOuterAxes];  ///< that the first tap reads, or one outside of x
  bool exists;            ///< residues may have different numbers of outputs

  /// `number` counts the planes of all samples for a block's residues, of which a tile has `lines`.
  __device__ __forceinline__ Plane(const ImplicitGeometry& g, const PlaneTaps& taps, int number, int lines) : sample(number), exists(true) {
#pragma unroll
    for (int a = kOuterAxes - 1; a >= 0; --a) {
      const OuterAxis& axis = g.outer[a];
      const int rest = axis.tiles_of_residue.quotient(sample), place = (sample - rest * axis.tiles_of_residue.divisor()) * (a == kLineAxis ? lines : 1);
      sample = rest;
      output[a] = place * axis.stride.divisor() + taps.residue[a];
      input[a] = place + taps.further[a];
      exists = exists && output[a] < axis.output;
    }
  }
};

/// Where the chunks of a plane's tiles come from, one after the other: each tap of the outer axes has all channels. Lines share inputs of their axis: tap t of one
/// reads what tap t + 1 of the next does, so that of taps + lines - 1 inputs the first is the last line's alone.
template <int kLines>
struct PlaneInputs {
  int at[kOuterAxes] = {};  ///< of the outer axes
  int channel_block = 0;
  int tap[kOuterAxes] = {};

  __device__ __forceinline__ PlaneInputs() = default;
  __device__ __forceinline__ explicit PlaneInputs(const Plane& plane) : at{plane.input[0], plane.input[1]} { at[kLineAxis] += kLines - 1; }

  __device__ __forceinline__ static int of_axis(const ImplicitGeometry& g, int a) { return g.outer[a].taps.divisor() + (a == kLineAxis ? kLines - 1 : 0); }
  /// Of a tile.
  __device__ __forceinline__ static int chunks(const ImplicitGeometry& g) { return kLines == 1 ? g.chunks : of_axis(g, 0) * of_axis(g, 1) * g.channel_blocks; }

  __device__ __forceinline__ void advance(const ImplicitGeometry& g) {
    if (++channel_block < g.channel_blocks) return;
    channel_block = 0;
#pragma unroll
    for (int a = kOuterAxes - 1; a >= 0; --a) {
      at[a] -= g.outer[a].dilation;
      if (++tap[a] < of_axis(g, a)) return;
      at[a] += of_axis(g, a) * g.outer[a].dilation, tap[a] = 0;
    }
  }
};

template <class C>
__device__ __forceinline__ bool has_planes(const ImplicitGeometry& g) {
  return C::kWindow.lines > 1 || (C::kServesAnyRows && g.planes);
}

/// In y, where the rows of a tile's line lie: its channel 0's.
struct TileRows {
  std::int64_t first;
  bool exist;

  template <class C>
  __device__ __forceinline__ static TileRows of(const ImplicitGeometry& g, const Tile& tile, int line) {
    const int number = g.sample_tiles.quotient(tile.row);
    if (!has_planes<C>(g)) return {(std::int64_t{number} * g.groups + tile.group) * g.out_channels * g.plane, true};
    const PlaneTaps taps(g, tile.group);
    Plane plane(g, taps, number, C::kWindow.lines);
    plane.output[kLineAxis] += line;
    if (line > 0) plane.exists = plane.exists && plane.output[kLineAxis] < g.outer[kLineAxis].output;
    const std::int64_t row = g.flat ? std::int64_t{g.flat_row.divisor()} * g.stride : g.output;
    return {(std::int64_t{plane.sample} * g.groups + taps.group) * g.out_channels * g.plane + (std::int64_t{plane.output[0]} * g.outer[1].output + plane.output[1]) * row, plane.exists};
  }
};

}  // namespace convt_gemm::implicit
