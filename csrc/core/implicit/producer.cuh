#pragma once
// The warpgroups that load: x with its halo, zeros outside of it, and the weights, both in the order in which the tensor cores read
// them: 16 bytes hold four words of depth of one position or column. In memory depth is not contiguous (but for x of
// channels_last), so threads load 16 bytes' elements one by one, neighbouring threads neighbouring ones, many before the first store.
#include <cmath>

#include "implicit/operands.cuh"

namespace convt_gemm::implicit {

/// The elements of 16 bytes of an operand, as loaded.
template <class C>
struct Quad {
  typename C::Element value[C::kVector];
};

/// A value as a TF32 operand: the tensor cores ignore the low 13 bits, so adding half of their unit is the rounding (to nearest, ties
/// away from zero). One instruction less than gpu::round_tf32.
__device__ __forceinline__ std::uint32_t tf32_operand(float value) {
  const std::uint32_t bits = __float_as_uint(value);
  return fabsf(value) < INFINITY ? bits + 0x1000u : bits;  // the sum would make a number of some NaN
}

/// Puts a quad where products read it: at `to`, and with kSplit the low parts two planes of `plane` quads further.
template <class C>
__device__ __forceinline__ void put(const Quad<C>& quad, uint4* to, int plane) {
  std::uint32_t high[4], low[4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (C::kWordElements == 2) {
      high[i] = std::uint32_t{quad.value[2 * i].bits} | std::uint32_t{quad.value[2 * i + 1].bits} << 16;
    } else {
      high[i] = tf32_operand(quad.value[i]);
      if constexpr (C::kSplit) low[i] = tf32_operand(quad.value[i] - __uint_as_float(high[i] & 0xffffe000u));
    }
  }
  *to = make_uint4(high[0], high[1], high[2], high[3]);
  if constexpr (C::kSplit) to[2 * plane] = make_uint4(low[0], low[1], low[2], low[3]);
}

/// Index of a quad's plane: depth in eights, each with its parts.
template <class C>
__device__ __forceinline__ int plane_of(int quad) {
  return quad / 2 * (2 * C::kParts) + quad % 2;
}

/// kCount quads along the depth from `from` on, elements `stride` apart, of which the first `depth` exist; zeros if `from` is null.
template <class C, int kCount>
__device__ __forceinline__ void fetch_depth(const typename C::Element* from, std::int64_t stride, int depth, Quad<C> (&quads)[kCount]) {
  if (depth >= kCount * C::kVector) {  // all chunks but the last: one test instead of one for each element
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int e = 0; e < C::kVector; ++e) quads[i].value[e] = from != nullptr ? from[(i * C::kVector + e) * stride] : typename C::Element{};
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int e = 0; e < C::kVector; ++e) {
        const int at = i * C::kVector + e;
        quads[i].value[e] = from != nullptr && at < depth ? from[at * stride] : typename C::Element{};
      }
    }
  }
}

/// Loads stages of x for one team: for each eight words of depth and each part, two planes of g.slots quads. A thread has the same
/// slots in all chunks; the halo's quads are dealt out one by one.
template <class C>
class XLoader {
 public:
  using Element = typename C::Element;
  static constexpr int kDepth = 16 / C::kVector < C::kQuads ? 16 / C::kVector : C::kQuads;  // quads of an item: 16 loads
  static constexpr int kItems = C::kLoaders == 1 && C::kColumns < 128 && !C::kSplit ? 2 : 1;   // that a thread loads at a time

  /// A chunk that is under way: as much as a thread loads at a time. The rest is loaded when it is put.
  struct Batch {
    const Element* x;  ///< of the chunk's group and first channel, sample 0
    int shift;         ///< slot 0 among the slots of all samples
    int channels;      ///< that the chunk has, or more
    Quad<C> rows[kItems][kDepth];
    Quad<C> halo;
  };

  __device__ __forceinline__ XLoader(const Params& p, int thread, int threads)
      : g_(p.g), x_(static_cast<const Element*>(p.x)), thread_(thread), threads_(threads) {
    channels_ = std::int64_t{g_.in_channels} * g_.groups;
    row_items_ = g_.team_rows * (C::kQuads / kDepth);
    halo_items_ = (g_.slots - g_.team_rows) * C::kQuads;
  }

  /// Starts to load a chunk. Chunks come in order.
  __device__ __forceinline__ void fetch(const Tile& tile, const Chunk& chunk, Batch& batch) {
    const int first_channel = chunk.channel_block * C::kQuads * C::kVector;
    batch.shift = tile.row * g_.team_rows + g_.halo - ((chunk.tap_block + 1) * g_.chunk_taps - 1) * g_.input_step;
    batch.channels = g_.in_channels - first_channel;
    batch.x = x_ + (tile.group * std::int64_t{g_.in_channels} + first_channel) * (C::kChannelsLast ? 1 : g_.input);
    if constexpr (!C::kChannelsLast) {
      if (batch.shift != shift_) {  // where a slot lies in a channel's row is the same for all chunks of a tile
        shift_ = batch.shift;
#pragma unroll
        for (int i = 0; i < kItems; ++i) row_places_[i] = row_place(batch, thread_ + i * threads_);
        halo_place_ = thread_ < halo_items_ ? place(batch, g_.team_rows + thread_ / C::kQuads) : kNowhere;
      }
#pragma unroll
      for (int i = 0; i < kItems; ++i) fetch_row(batch, row_places_[i], thread_ + i * threads_, batch.rows[i]);
      fetch_halo(batch, halo_place_, thread_, batch.halo);
    }
  }

  /// Puts a chunk into its stage.
  __device__ __forceinline__ void put(Batch& batch, unsigned char* to) const {
    uint4* const stage = reinterpret_cast<uint4*>(to);
    if constexpr (C::kChannelsLast) {
      put_channels_last(batch, stage);
    } else {
#pragma unroll
      for (int i = 0; i < kItems; ++i) put_row(batch.rows[i], thread_ + i * threads_, stage);
      put_halo(batch.halo, thread_, stage);
      for (int item = thread_ + kItems * threads_; item < row_items_; item += threads_) {
        fetch_row(batch, row_place(batch, item), item, batch.rows[0]);
        put_row(batch.rows[0], item, stage);
      }
      for (int item = thread_ + threads_; item < halo_items_; item += threads_) {
        fetch_halo(batch, place(batch, g_.team_rows + item / C::kQuads), item, batch.halo);
        put_halo(batch.halo, item, stage);
      }
    }
  }

 private:
  static constexpr std::int64_t kNowhere = -1;

  /// Index of a slot in x, from the chunk's first channel of sample 0 on; kNowhere if it lies outside of x.
  __device__ __forceinline__ std::int64_t place(const Batch& batch, int slot) const {
    const int all = slot + batch.shift;
    const int sample = g_.sample_rows.quotient(all < 0 ? 0 : all);
    const std::int64_t at = g_.first_position - g_.halo + (all - sample * g_.sample_rows.divisor());
    if (all < 0 || sample >= g_.batch || at < 0 || at >= g_.input) return kNowhere;
    return C::kChannelsLast ? (sample * g_.input + at) * channels_ : sample * channels_ * g_.input + at;
  }

  __device__ __forceinline__ std::int64_t row_place(const Batch& batch, int item) const {
    return item < row_items_ ? place(batch, item & (g_.team_rows - 1)) : kNowhere;
  }

  /// First quad of an item: items are numbered by slot, then by depth. (A team's rows are a power of two.)
  __device__ __forceinline__ int quad_of(int item) const { return (item >> g_.log2_team_rows) * kDepth; }

  __device__ __forceinline__ void fetch_row(const Batch& batch, std::int64_t place, int item, Quad<C> (&to)[kDepth]) const {
    const int channel = quad_of(item) * C::kVector;
    const Element* from = batch.x + (place + channel * g_.input);
    fetch_depth<C>(place >= 0 ? from : nullptr, g_.input, batch.channels - channel, to);
  }

  __device__ __forceinline__ void put_row(const Quad<C> (&quads)[kDepth], int item, uint4* stage) const {
    if (item >= row_items_) return;
    const int quad = quad_of(item);
    uint4* const to = stage + (item & (g_.team_rows - 1));
#pragma unroll
    for (int i = 0; i < kDepth; ++i) implicit::put<C>(quads[i], to + plane_of<C>(quad + i) * g_.slots, g_.slots);
  }

  __device__ __forceinline__ void fetch_halo(const Batch& batch, std::int64_t place, int item, Quad<C>& to) const {
    const int channel = item % C::kQuads * C::kVector, left = batch.channels - channel;
    const Element* from = batch.x + (place + channel * g_.input);
#pragma unroll
    for (int e = 0; e < C::kVector; ++e) to.value[e] = place >= 0 && e < left ? from[e * g_.input] : Element{};
  }

  __device__ __forceinline__ void put_halo(const Quad<C>& quad, int item, uint4* stage) const {
    if (item >= halo_items_) return;
    implicit::put<C>(quad, stage + plane_of<C>(item % C::kQuads) * g_.slots + g_.team_rows + item / C::kQuads, g_.slots);
  }

  /// Depth is contiguous: neighbouring threads load neighbouring quads of a slot.
  __device__ __forceinline__ void put_channels_last(const Batch& batch, uint4* stage) const {
    const int items = g_.slots * C::kQuads;
    constexpr int kItems = 32 / C::kVector;
    for (int first = thread_; first < items; first += kItems * threads_) {
      Quad<C> quads[kItems];
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        const int item = first + i * threads_, quad = item % C::kQuads, left = batch.channels - quad * C::kVector;
        const std::int64_t index = item < items ? place(batch, item / C::kQuads) : kNowhere;
        const Element* from = index < 0 ? nullptr : batch.x + index + quad * C::kVector;
        if (g_.whole_quads) {
          uint4 words = make_uint4(0, 0, 0, 0);
          if (from != nullptr && left > 0) words = *reinterpret_cast<const uint4*>(from);
          static_assert(sizeof(words) == sizeof(Quad<C>));
          quads[i] = *reinterpret_cast<const Quad<C>*>(&words);
        } else {
#pragma unroll
          for (int e = 0; e < C::kVector; ++e) quads[i].value[e] = from != nullptr && e < left ? from[e] : Element{};
        }
      }
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        const int item = first + i * threads_;
        if (item < items) implicit::put<C>(quads[i], stage + plane_of<C>(item % C::kQuads) * g_.slots + item / C::kQuads, g_.slots);
      }
    }
  }

  const ImplicitGeometry& g_;
  const Element* x_;
  int thread_, threads_;
  int row_items_, halo_items_;
  std::int64_t channels_;

  // Of the chunk fetched last.
  int shift_ = -(1 << 30);
  std::int64_t row_places_[kItems], halo_place_;
};

/// Weights of a column tile, a warpgroup at a time: for each tap, each eight words of depth and each part, two planes of C::kColumns
/// quads. Columns, taps and channels that do not exist are zero. They may go to shared or to global memory.
template <class C>
class WeightLoader {
 public:
  using Element = typename C::Element;
  static constexpr int kPlaces = kWarpgroup / C::kColumns;  // threads that share a column
  static constexpr int kDepth = C::kQuads / kPlaces;        // quads of a tap that each of them loads
  // What a thread loads at a time: quads of a tap, and taps.
  static constexpr int kBatch = 32 / C::kVector < kDepth ? 32 / C::kVector : kDepth;
  static constexpr int kTaps = C::kLoaders == 1 && kBatch == kDepth && kDepth * C::kVector <= 16 ? 32 / (kDepth * C::kVector) : 1;
  static_assert(kWarpgroup % C::kColumns == 0 && C::kQuads % kPlaces == 0 && kDepth % kBatch == 0);

  __device__ __forceinline__ WeightLoader(const Params& p, const Tile& tile, int thread) : g_(p.g) {
    column_ = thread % C::kColumns, quad_ = thread / C::kColumns * kDepth;
    const Column column = column_of(g_, tile.column * C::kColumnBlocks + column_ / kColumnBlock, column_ % kColumnBlock);
    stride_ = std::int64_t{g_.out_channels} * g_.kernel;
    weight_ = static_cast<const Element*>(p.weight) +
              (std::int64_t{tile.group} * g_.in_channels + quad_ * C::kVector) * stride_ +
              (column.valid ? std::int64_t{column.channel} * g_.kernel + column.residue : 0);
    const int more = g_.taps - 1;  // or one less
    taps_ = !column.valid ? 0 : column.residue + std::int64_t{more} * g_.tap_step < g_.kernel ? more + 1 : more;
  }

  /// Loads a chunk to `to`; `wait` is called before the first is written.
  template <class Wait>
  __device__ __forceinline__ void load(const Chunk& chunk, unsigned char* to, Wait wait) const {
    const int first_tap = chunk.tap_block * g_.chunk_taps, first_channel = chunk.channel_block * C::kQuads * C::kVector;
    bool waited = false;
    for (int j = 0; j < g_.chunk_taps; j += kTaps) {
#pragma unroll
      for (int i = 0; i < kDepth; i += kBatch) {
        Quad<C> quads[kTaps][kBatch];
#pragma unroll
        for (int t = 0; t < kTaps; ++t) {
          const int tap = first_tap + j + t;
          const Element* from = weight_ + (first_channel + i * C::kVector) * stride_ + std::int64_t{tap} * g_.tap_step;
          fetch_depth<C>(tap < taps_ ? from : nullptr, stride_, g_.in_channels - first_channel - (quad_ + i) * C::kVector, quads[t]);
        }
        if (!waited) wait();
        waited = true;
#pragma unroll
        for (int t = 0; t < kTaps; ++t) {
          if (j + t >= g_.chunk_taps) break;
          uint4* const tap = reinterpret_cast<uint4*>(to) + (j + t) * C::kQuads * C::kParts * C::kColumns + column_;
#pragma unroll
          for (int b = 0; b < kBatch; ++b) put<C>(quads[t][b], tap + plane_of<C>(quad_ + i + b) * C::kColumns, C::kColumns);
        }
      }
    }
  }

 private:
  const ImplicitGeometry& g_;
  int column_, quad_;
  std::int64_t stride_;    // elements from one input channel to the next
  const Element* weight_;  // of the thread's column: tap 0, its first quad
  int taps_;               // that the column has
};

/// Copies a packed chunk with 16-byte copies, by one warpgroup.
__device__ __forceinline__ void copy_packed_weights(const unsigned char* from, unsigned char* to, int bytes, int thread) {
  for (int i = thread * 16; i < bytes; i += kWarpgroup * 16) gpu::copy_async<16>(to + i, from + i, 16);
}

/// A chunk of packed weights.
__device__ __forceinline__ const unsigned char* packed_chunk(const Params& p, const Tile& tile, const Chunk& chunk) {
  const ImplicitGeometry& g = p.g;
  const std::int64_t number = (std::int64_t{tile.group} * g.column_tiles.divisor() + tile.column) * g.chunks +
                              chunk.channel_block * g.tap_blocks + chunk.tap_block;
  return static_cast<const unsigned char*>(p.weight) + number * g.weight_bytes;
}

/// Resident weights: all chunks of the block's column tile, by all its warpgroups. A __syncthreads has to follow.
template <class C>
__device__ void load_resident_weights(const Params& p, const Shared& shared, int warpgroup, int thread) {
  const ImplicitGeometry& g = p.g;
  const Tile tile = tile_of(g, TileRange(g, 0).first);
  const WeightLoader<C> weights(p, tile, thread);
  Chunk chunk;
  for (int c = 0; c < g.chunks; ++c, chunk.advance(g)) {
    if (c % (C::kWarpgroups + C::kLoaders) != warpgroup) continue;
    if (g.packed) {
      copy_packed_weights(packed_chunk(p, tile, chunk), shared.weight(c), g.weight_bytes, thread);
    } else {
      weights.load(chunk, shared.weight(c), [] {});
    }
  }
  gpu::copy_async_commit();
  gpu::copy_async_wait<0>();
  if (C::kFamily == Family::sm90) gpu::fence_async_proxy();
}

/// A team's chunks one after the other, through all its tiles, and the stages that they go to.
struct ChunkCursor {
  TileRange range;
  int number;  ///< of the tile
  Tile tile{};
  Chunk chunk;
  int c = 0;  ///< of the chunk in the tile
  RingPosition ring;

  __device__ __forceinline__ ChunkCursor(const ImplicitGeometry& g, int team) : range(g, team), number(range.first) {
    if (!done()) tile = tile_of(g, number);
  }

  __device__ __forceinline__ bool done() const { return number >= range.end; }

  __device__ __forceinline__ void advance(const ImplicitGeometry& g) {
    ring.advance(g.stages);
    chunk.advance(g);
    if (++c < g.chunks) return;
    c = 0;
    chunk = Chunk{};
    number += range.step;
    if (!done()) tile = tile_of(g, number);
  }
};

/// Fills a team's ring for all its tiles: chunks loader, loader + loaders, ... A stage's barrier gets one arrival of each of the
/// loader's threads once what the thread has put there is there. x is loaded one chunk ahead of the one that is put.
template <class C>
__device__ void produce(const Params& p, const Shared& shared, int thread, int threads, int loader, int loaders) {
  const ImplicitGeometry& g = p.g;
  XLoader<C> x(p, thread, threads);
  typename XLoader<C>::Batch even, odd;
  ChunkCursor at(g, shared.team);
  for (int i = 0; i < loader && !at.done(); ++i) at.advance(g);
  if (at.done()) return;
  x.fetch(at.tile, at.chunk, even);
  // Puts the chunk at the cursor, after the load of the next one has been started; false if there is none.
  const auto step = [&](typename XLoader<C>::Batch& now, typename XLoader<C>::Batch& next) {
    const Tile tile = at.tile;
    const Chunk chunk = at.chunk;
    const RingPosition ring = at.ring;
    for (int i = 0; i < loaders && !at.done(); ++i) at.advance(g);
    const bool more = !at.done();
    if (more) x.fetch(at.tile, at.chunk, next);

    std::uint64_t* full = shared.full(ring.stage);
    const auto wait = [&] { gpu::barrier_wait(shared.empty(ring.stage), ring.parity ^ 1); };
    unsigned bulk_bytes = 0;
    if (!g.resident && !g.packed) {
      WeightLoader<C>(p, tile, thread).load(chunk, shared.weight(ring.stage), wait);
    } else {
      wait();
      if (!g.resident) {
        unsigned char* to = shared.weight(ring.stage);
        if constexpr (C::kFamily == Family::sm90) {
          // The copy may end before its bytes are announced: the phase waits for this thread's arrival.
          if (thread == 0) gpu::bulk_copy(to, packed_chunk(p, tile, chunk), static_cast<unsigned>(g.weight_bytes), full);
          bulk_bytes = static_cast<unsigned>(g.weight_bytes);
        } else {
          copy_packed_weights(packed_chunk(p, tile, chunk), to, g.weight_bytes, thread);
          gpu::copy_async_commit();
        }
      }
    }
    x.put(now, shared.x(ring.stage));
    if constexpr (C::kFamily == Family::sm90) {
      gpu::fence_async_proxy();
    } else {
      gpu::copy_async_wait<0>();
    }
    if (bulk_bytes > 0 && thread == 0) {
      gpu::barrier_arrive_expect(full, bulk_bytes);
    } else {
      gpu::barrier_arrive(full);
    }
    return more;
  };
  while (step(even, odd) && step(odd, even)) {
  }
}

}  // namespace convt_gemm::implicit
