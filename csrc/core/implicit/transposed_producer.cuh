#pragma once
// What comes before the products of the transposed form: x in the tensor cores' order, put into the workspace by a kernel of its own, and the warps that
// have the copy engine bring a tile's part of it, and rows of weights as they lie in memory.
#include "implicit/producer.cuh"
#include "implicit/transposed_operands.cuh"

namespace convt_gemm::implicit {

/// Where in x, from channel 0 of its first group on, the position of a slot is; XPlaces::kNowhere if it has none.
template <class C>
__device__ __forceinline__ std::int64_t place_of_slot(const typename C::Params& p, int slot) {
  if constexpr (C::kManyAxes) {
    bool exists = true;
    int at[kAllAxes];
#pragma unroll
    for (int a = kAllAxes - 1; a >= 0; --a) {
      const PlaneAxis& axis = p.planes.axis[a];
      const int rest = axis.slots.quotient(slot);
      at[a] = slot - rest * axis.slots.divisor() + axis.first_input;
      exists = exists && at[a] >= 0 && at[a] < axis.input;
      slot = rest;
    }
    if (!exists || slot >= p.g.batch) return XPlaces<C>::kNowhere;
    return slot * std::int64_t{p.g.in_channels} * p.g.groups * p.g.input + ((at[0] * p.planes.axis[1].input + at[1]) * p.planes.axis[2].input + at[2]);
  } else {
    return XPlaces<C>(p).of(slot);
  }
}

/// Asks for what fetch_depth will read. A request costs what a load does, and neighbouring threads read neighbouring elements: so only those ask whose element begins 32 bytes, or
/// a warp's.
template <class Element>
__device__ __forceinline__ void prefetch_depth(const Element* from, std::int64_t stride, int depth) {
  if (from == nullptr) return;
  const bool first_lane = threadIdx.x % 32 == 0;
#pragma unroll 4
  for (int e = 0; e < depth; ++e, from += stride) {
    if (first_lane || reinterpret_cast<std::uintptr_t>(from) % 32 == 0) gpu::prefetch(from);
  }
}

/// Puts a quad of x for each slot of the range's tiles into the workspace, which `p.y` is. A block has kWarpgroup slots of kPackedQuads planes, and with kSplit of the planes of
/// the low parts: blocks are (slots, quads of all channels, groups).
template <class C>
__device__ __forceinline__ void pack_positions(const typename C::Params& p) {
  const ImplicitGeometry& g = p.g;
  const int slot = static_cast<int>(blockIdx.x) * kWarpgroup + static_cast<int>(threadIdx.x);
  constexpr int kBlocks = C::kQuads / C::kPackedQuads;  // of threads for a block of channels
  const int channel_block = static_cast<int>(blockIdx.y) / kBlocks, first_quad = (static_cast<int>(blockIdx.y) - channel_block * kBlocks) * C::kPackedQuads;
  const int group = static_cast<int>(blockIdx.z), first = static_cast<int>(blockIdx.y) * C::kPackedQuads * C::kVector;
  const std::int64_t place = slot < p.w.packed_slots ? place_of_slot<C>(p, p.w.first_row + slot - p.w.slots_before) : XPlaces<C>::kNowhere;
  const typename C::Element* const from = place < 0 ? nullptr : static_cast<const typename C::Element*>(p.x) + (group * std::int64_t{g.in_channels} + first) * g.input + place;
  const int left = g.in_channels - first, depth = left < C::kPackedQuads * C::kVector ? left : C::kPackedQuads * C::kVector;
  prefetch_depth(from, g.input, depth);
  gpu::wait_for_kernel_before();  // x, the workspace, and weights that the next kernel reads without waiting
  gpu::let_next_kernel_start();
  if (slot >= p.w.packed_slots) return;
  Quad<C> quads[C::kPackedQuads];
  fetch_depth<C>(from, g.input, depth, quads);
  if constexpr (C::kWordElements == 2) {
#pragma unroll
    for (Quad<C>& quad : quads) {
#pragma unroll
      for (int four = 0; four < C::kVector; four += 4) {
        const typename C::Element second = quad.value[four + 1];
        quad.value[four + 1] = p.w.swapped ? quad.value[four + 2] : second;
        quad.value[four + 2] = p.w.swapped ? second : quad.value[four + 2];
      }
    }
  }
  const std::int64_t first_plane = (std::int64_t{group} * g.channel_blocks + channel_block) * C::kPlanes;
#pragma unroll
  for (int i = 0; i < C::kPackedQuads; ++i) {
    put<C>(quads[i], static_cast<uint4*>(p.y) + (first_plane + plane_of<C>(first_quad + i)) * p.w.packed_slots + slot, p.w.packed_slots);
  }
}

/// Fills the ring with all of the block's chunks, a part of each for each loading warp. One lane of it has the copies made, with addresses that all lanes know: where
/// each lane has its own, the warp takes a hundred cycles for each of them. A block's first copies wait for this code, so it works out little before them.
template <class C>
class TransposedLoader {
 public:
  using Element = typename C::Element;

  /// `thread`: among those that load.
  __device__ __forceinline__ TransposedLoader(const typename C::Params& p, const Shared& shared, int thread)
      : p_(p), shared_(shared), warp_(uniform(thread / 32)), lane_(thread % 32), row_(p.g.out_channels * p.g.kernel), now_(p) {
    start_tile();
  }

  /// A stage's barrier gets an arrival of each thread.
  __device__ __forceinline__ void run() {
    bool first = true;
    while (!now_.done()) {
      const int stage = now_.ring.stage;
      std::uint64_t* const full = shared_.full(stage);
      gpu::barrier_wait(shared_.empty(stage), now_.ring.parity ^ 1);
      unsigned bytes = start_weights(shared_.weight(stage), full);
      if (first) gpu::wait_for_kernel_before();  // weights do not wait for x to be put into order
      first = false;
      bytes += start_positions(shared_.x(stage), full);
      gpu::fence_async_proxy();  // the stage will be written by the copy engine again: its zeros of now come first
      // Copies may end before their bytes are announced: the phase waits for this warp's arrivals.
      gpu::barrier_arrive_expect(full, lane_ == 0 ? bytes : 0);
      now_.advance();
      if (now_.c == 0) start_tile();
    }
  }

 private:
  static constexpr int kWarps = kTransposedLoading / 32;
  static constexpr int kWarpChannels = C::kChannels / kWarps, kWarpPlanes = C::kPlanes / kWarps;
  static_assert(kWarpPlanes * kWarps == C::kPlanes);

  /// Of the tile: where its part of the weights' rows begins in the group's first one, and elements from there on.
  __device__ __forceinline__ void start_tile() {
    const WeightTiles& w = p_.w;
    const int first = w.parts.quotient(now_.tile.column), at = first * w.channels * p_.g.kernel;  // a row has at most 2^30 elements
    first_residue_ = (now_.tile.column - first * w.parts.divisor()) * C::kColumns;
    weight_ = static_cast<const Element*>(p_.weight) + at;
    if (now_.tile.group > 0) weight_ += std::int64_t{now_.tile.group} * p_.g.in_channels * row_;
    left_in_row_ = row_ - at;
  }

  /// Pieces of the rows of weights; how many bytes this warp makes come to `barrier`.
  __device__ __forceinline__ unsigned start_weights(unsigned char* stage, std::uint64_t* barrier) const {
    const WeightTiles& w = p_.w;
    const ImplicitGeometry& g = p_.g;
    const int first_channel = now_.chunk.channel_block * C::kChannels + warp_ * kWarpChannels, left = g.in_channels - first_channel;
    const int channels = left < 0 ? 0 : left < kWarpChannels ? left : kWarpChannels;
    const Element* const weight = weight_ + std::int64_t{first_channel} * row_;
    Element* to = reinterpret_cast<Element*>(stage) + warp_ * kWarpChannels * w.pitch;
    unsigned bytes = 0;
    for (int piece = 0; piece < w.pieces; ++piece, to += C::kChannels * w.pitch) {
      int at = 0, exist = left_in_row_;
      if (w.parts.divisor() > 1) {  // one for each tap
        at = first_residue_ + (now_.chunk.tap_block * g.chunk_taps + piece) * g.tap_step;
        exist = g.kernel - at < g.residues - first_residue_ ? g.kernel - at : g.residues - first_residue_;
      }
      const int length = exist < w.length ? exist : w.length;
      if (length > 0) {
        const unsigned of_piece = static_cast<unsigned>(length) * unsigned(sizeof(Element));
        if (gpu::elect()) {
          unsigned char* into = reinterpret_cast<unsigned char*>(to);
          const unsigned char* from = reinterpret_cast<const unsigned char*>(weight + at);
          const int pitch_bytes = w.pitch * int(sizeof(Element));
          const std::int64_t row_bytes = std::int64_t{row_} * int(sizeof(Element));
#pragma unroll 4
          for (int channel = 0; channel < channels; ++channel, into += pitch_bytes, from += row_bytes) gpu::bulk_copy(into, from, of_piece, barrier);
        }
        bytes += of_piece * static_cast<unsigned>(channels);
      }
      // x has zeros where there is no channel, which must not meet what is no number.
      for (int i = channels * w.pitch + lane_ * C::kVector; i < kWarpChannels * w.pitch; i += 32 * C::kVector) {
        *reinterpret_cast<uint4*>(to + i) = make_uint4(0, 0, 0, 0);
      }
    }
    return bytes;
  }

  /// The tile's slots of planes of x, from the workspace; how many bytes this warp makes come to `barrier`.
  __device__ __forceinline__ unsigned start_positions(unsigned char* stage, std::uint64_t* barrier) const {
    const ImplicitGeometry& g = p_.g;
    const std::int64_t first_plane = (std::int64_t{now_.tile.group} * g.channel_blocks + now_.chunk.channel_block) * C::kPlanes + warp_ * kWarpPlanes;
    if constexpr (C::kManyAxes) {
      const PlaneTiles& planes = p_.planes;
      const uint4* const first = static_cast<const uint4*>(p_.x) + first_plane * p_.w.packed_slots + (now_.tile.row * g.tile_rows + g.halo);
      const unsigned bytes = static_cast<unsigned>(planes.run_slots) * 16u;
      if (gpu::elect()) {
#pragma unroll 1
        for (int run = 0; run < planes.runs; ++run) {
          const uint4* const from = first - planes.run_before[run];
#pragma unroll
          for (int plane = 0; plane < kWarpPlanes; ++plane) {
            gpu::bulk_copy(stage + ((warp_ * kWarpPlanes + plane) * g.slots + run * planes.run_slots) * 16, from + std::int64_t{plane} * p_.w.packed_slots, bytes, barrier);
          }
        }
      }
      return bytes * unsigned(kWarpPlanes * planes.runs);
    }
    const uint4* const from = static_cast<const uint4*>(p_.x) + first_plane * p_.w.packed_slots + (first_slot(g, now_.tile, now_.chunk) + p_.w.slots_before);
    const unsigned bytes = static_cast<unsigned>(C::kPositions + (g.chunk_taps - 1) * g.input_step) * 16u;
    if (gpu::elect()) {
#pragma unroll
      for (int plane = 0; plane < kWarpPlanes; ++plane) {
        gpu::bulk_copy(stage + (warp_ * kWarpPlanes + plane) * g.slots * 16, from + std::int64_t{plane} * p_.w.packed_slots, bytes, barrier);
      }
    }
    return bytes * unsigned(kWarpPlanes);
  }

  const typename C::Params& p_;
  const Shared& shared_;
  int warp_, lane_;
  int row_;  ///< elements of a row of weights
  TransposedCursor<C> now_;
  const Element* weight_;
  int left_in_row_, first_residue_;
};

}  // namespace convt_gemm::implicit
