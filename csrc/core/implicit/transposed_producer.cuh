#pragma once
// What comes before the products of the transposed form: x in the tensor cores' order, put into the workspace by a kernel of its own, and the warps that
// have the copy engine bring a tile's part of it, and rows of weights as they lie in memory.
#include "implicit/producer.cuh"
#include "implicit/transposed_operands.cuh"

namespace convt_gemm::implicit {

/// Puts a quad of x for each slot of all tiles into the workspace, which `p.y` is. A block has kWarpgroup slots of a plane, and with kSplit of the plane of the low
/// parts: blocks are (slots, quads of all channels).
template <class C>
__device__ __forceinline__ void pack_positions(const TransposedParams& p) {
  const ImplicitGeometry& g = p.g;
  gpu::let_next_kernel_start();
  const int slot = static_cast<int>(blockIdx.x) * kWarpgroup + static_cast<int>(threadIdx.x);
  if (slot >= p.w.packed_slots) return;
  const int channel_block = static_cast<int>(blockIdx.y) / C::kQuads, quad = static_cast<int>(blockIdx.y) - channel_block * C::kQuads;
  const int group = static_cast<int>(blockIdx.z), first = static_cast<int>(blockIdx.y) * C::kVector;
  const XPlaces<C> places(p);
  const std::int64_t place = places.of(slot - p.w.slots_before);
  Quad<C> quads[1];
  const typename C::Element* from = places.x + (group * std::int64_t{g.in_channels} + first) * g.input + place;
  fetch_depth<C>(place >= 0 ? from : nullptr, g.input, g.in_channels - first, quads);
  const std::int64_t plane = (std::int64_t{group} * g.channel_blocks + channel_block) * C::kPlanes + plane_of<C>(quad);
  put<C>(quads[0], static_cast<uint4*>(p.y) + plane * p.w.packed_slots + slot, p.w.packed_slots);
}

/// Copies of a chunk's operands to a stage, each thread its own. A warp takes about a hundred cycles for each of its lanes' copies, so all warps have some.
template <class C>
class TransposedLoader {
 public:
  using Element = typename C::Element;

  __device__ __forceinline__ TransposedLoader(const TransposedParams& p, int thread) : p_(p), thread_(number_of(thread)) {}

  /// Pieces of the rows of weights; how many bytes will come to `barrier`.
  __device__ __forceinline__ unsigned start_weights(const Tile& tile, const Chunk& chunk, unsigned char* stage, std::uint64_t* barrier) const {
    const WeightTiles& w = p_.w;
    const ImplicitGeometry& g = p_.g;
    const int first = w.parts.quotient(tile.column), part = tile.column - first * w.parts.divisor();
    const std::int64_t row = std::int64_t{g.out_channels} * g.kernel, tile_at = std::int64_t{first} * w.channels * g.kernel;
    const int first_channel = chunk.channel_block * C::kChannels;
    const Element* const weight =
        static_cast<const Element*>(p_.weight) + (std::int64_t{tile.group} * g.in_channels + first_channel) * row + tile_at;
    unsigned bytes = 0;
    for (int item = thread_; item < w.pieces * C::kChannels; item += kTransposedLoading) {  // by channel, then by tap
      const int tap = item / C::kChannels, channel = item % C::kChannels;
      Element* const to = reinterpret_cast<Element*>(stage) + item * w.pitch;
      if (first_channel + channel >= g.in_channels) {  // x has zeros there, which must not meet what is no number
        for (int i = 0; i < w.pitch; i += C::kVector) *reinterpret_cast<uint4*>(to + i) = make_uint4(0, 0, 0, 0);
        continue;
      }
      std::int64_t at = 0, left = row - tile_at;
      if (w.pieces > 1) {
        const std::int64_t residue = std::int64_t{part} * kWeightRows;
        at = residue + (std::int64_t{chunk.tap_block} * g.chunk_taps + tap) * g.tap_step;
        left = g.kernel - at < g.residues - residue ? g.kernel - at : g.residues - residue;
      }
      const int length = left < w.length ? static_cast<int>(left) : w.length;
      if (length <= 0) continue;
      const unsigned of_piece = static_cast<unsigned>(length) * unsigned(sizeof(Element));
      gpu::bulk_copy(to, weight + channel * row + at, of_piece, barrier);
      bytes += of_piece;
    }
    return bytes;
  }

  /// The tile's slots of each plane of x, from the workspace; how many bytes will come to `barrier`.
  __device__ __forceinline__ unsigned start_positions(const Tile& tile, const Chunk& chunk, unsigned char* stage, std::uint64_t* barrier) const {
    const ImplicitGeometry& g = p_.g;
    if (thread_ >= C::kPlanes) return 0;
    const std::int64_t plane = (std::int64_t{tile.group} * g.channel_blocks + chunk.channel_block) * C::kPlanes + thread_;
    const int slot = first_slot(g, tile, chunk) + p_.w.slots_before;
    const unsigned bytes = static_cast<unsigned>(C::kPositions + (g.chunk_taps - 1) * g.input_step) * 16u;
    gpu::bulk_copy(stage + thread_ * g.slots * 16, static_cast<const uint4*>(p_.x) + plane * p_.w.packed_slots + slot, bytes, barrier);
    return bytes;
  }

 private:
  /// Neighbouring numbers are in different warps.
  __device__ __forceinline__ static int number_of(int thread) { return thread % 32 * (kTransposedLoading / 32) + thread / 32; }

  const TransposedParams& p_;
  int thread_;
};

/// Fills the ring for all of the block's chunks. A stage's barrier gets an arrival of each thread.
template <class C>
__device__ __forceinline__ void produce_transposed(const TransposedParams& p, const Shared& shared, int thread) {
  const ImplicitGeometry& g = p.g;
  const TransposedLoader<C> loader(p, thread);
  bool packed = false;
  for (TransposedCursor now(p); !now.done(); now.advance(g)) {
    const int stage = now.ring.stage;
    std::uint64_t* const full = shared.full(stage);
    gpu::barrier_wait(shared.empty(stage), now.ring.parity ^ 1);
    unsigned bytes = loader.start_weights(now.tile, now.chunk, shared.weight(stage), full);
    if (!packed) gpu::wait_for_kernel_before();  // weights do not wait for x to be put into order
    packed = true;
    bytes += loader.start_positions(now.tile, now.chunk, shared.x(stage), full);
    gpu::fence_async_proxy();  // the stage will be written by the copy engine again: its zeros of now come first
    // Copies may end before their bytes are announced: the phase waits for this thread's arrival.
    gpu::barrier_arrive_expect(full, bytes);
  }
}

}  // namespace convt_gemm::implicit
