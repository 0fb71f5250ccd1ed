#pragma once
// The warpgroups that load: x with its halo, zeros outside of it, and the weights, both in the order in which the tensor cores read
// them: 16 bytes hold four words of depth of one position or column. In memory depth is not contiguous (but for x of
// channels_last). Where rows of x are aligned, threads copy 16 bytes of each channel of theirs to a stage asynchronously, up to three
// chunks ahead, and transpose them there. Else they load elements one by one, neighbouring threads neighbouring ones.
#include <cmath>

#include "implicit/operands.cuh"

namespace convt_gemm::implicit {

/// The elements of 16 bytes of an operand, as loaded.
template <class C>
struct Quad {
  typename C::Element value[C::kVector];
};

/// A value as a TF32 operand: the tensor cores ignore the low 13 bits, so adding half of their unit is the rounding (to nearest, ties
/// away from zero). The instruction cvt.rna.tf32 takes one more.
__device__ __forceinline__ std::uint32_t tf32_operand(float value) {
  const std::uint32_t bits = __float_as_uint(value);
  return fabsf(value) < INFINITY ? bits + 0x1000u : bits;  // the sum would make a number of some NaN
}

/// Puts the words of a quad where products read it: at `to`, and with kSplit the low parts two planes of `plane` quads further.
template <class C>
__device__ __forceinline__ void put(const std::uint32_t (&word)[4], uint4* to, int plane) {
  if constexpr (C::kWordElements == 2) {
    *to = make_uint4(word[0], word[1], word[2], word[3]);
  } else {
    std::uint32_t high[4], low[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float value = __uint_as_float(word[i]);
      high[i] = tf32_operand(value);
      if constexpr (C::kSplit) low[i] = tf32_operand(value - __uint_as_float(high[i] & 0xffffe000u));
    }
    *to = make_uint4(high[0], high[1], high[2], high[3]);
    if constexpr (C::kSplit) to[2 * plane] = make_uint4(low[0], low[1], low[2], low[3]);
  }
}

template <class C>
__device__ __forceinline__ void put(const Quad<C>& quad, uint4* to, int plane) {
  std::uint32_t word[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (C::kWordElements == 2) {
      word[i] = std::uint32_t{quad.value[2 * i].bits} | std::uint32_t{quad.value[2 * i + 1].bits} << 16;
    } else {
      word[i] = __float_as_uint(quad.value[i]);
    }
  }
  put<C>(word, to, plane);
}

/// A quad's depth at kVectorPositions neighbouring positions, as loaded: each channel's positions together.
template <class C>
struct Block {
  static constexpr int kWords = kVectorPositions / C::kWordElements;  // of one channel
  std::uint32_t word[C::kVector * kWords];

  /// The quad of position `i`.
  __device__ __forceinline__ void quad(int i, std::uint32_t (&to)[4]) const {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if constexpr (C::kWordElements == 2) {
        to[e] = __byte_perm(word[2 * e * kWords + i / 2], word[(2 * e + 1) * kWords + i / 2], i % 2 == 0 ? 0x5410u : 0x7632u);
      } else {
        to[e] = word[e * kWords + i];
      }
    }
  }
};

/// Index of a quad's plane: depth in eights, each with its parts.
template <class C>
__device__ __forceinline__ int plane_of(int quad) {
  return quad / 2 * (2 * C::kParts) + quad % 2;
}

/// An element, or zero unless `exists`.
template <class Element>
__device__ __forceinline__ Element load_or_zero(const Element* from, bool exists) {
  if constexpr (sizeof(Element) == 4) {
    return __uint_as_float(gpu::load_or_zero(reinterpret_cast<const std::uint32_t*>(from), exists));
  } else {
    return {gpu::load_or_zero(&from->bits, exists)};
  }
}

/// kCount quads along the depth from `from` on, elements `stride` apart, of which the first `depth` exist; zeros if `from` is null.
template <class C, int kCount>
__device__ __forceinline__ void fetch_depth(const typename C::Element* from, std::int64_t stride, int depth, Quad<C> (&quads)[kCount]) {
  if (depth >= kCount * C::kVector) {  // all chunks but the last: one test instead of one for each element
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int e = 0; e < C::kVector; ++e) quads[i].value[e] = load_or_zero(from + (i * C::kVector + e) * stride, from != nullptr);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int e = 0; e < C::kVector; ++e) {
        const int at = i * C::kVector + e;
        quads[i].value[e] = load_or_zero(from + at * stride, from != nullptr && at < depth);
      }
    }
  }
}

/// Where in x the slots of a stage lie.
template <class C>
struct XPlaces {
  using Element = typename C::Element;
  static constexpr std::int64_t kNowhere = -1;

  const ImplicitGeometry& g;
  const Element* x;
  std::int64_t channels;  ///< of a sample

  __device__ __forceinline__ explicit XPlaces(const Params& p)
      : g(p.g), x(static_cast<const Element*>(p.x)), channels(std::int64_t{p.g.in_channels} * p.g.groups) {}

  /// Slot 0 of a chunk's stage among the slots of all samples.
  __device__ __forceinline__ int shift(const Tile& tile, const Chunk& chunk) const {
    return tile.row * g.tile_rows + g.halo - ((chunk.tap_block + 1) * g.chunk_taps - 1) * g.input_step - slots_before(g, chunk);
  }

  static __device__ __forceinline__ int first_channel(const Chunk& chunk) { return chunk.channel_block * C::kQuads * C::kVector; }

  /// Sample 0 of the chunk's first channel.
  __device__ __forceinline__ const Element* base(const Tile& tile, const Chunk& chunk) const {
    return x + (tile.group * std::int64_t{g.in_channels} + first_channel(chunk)) * (C::kChannelsLast ? 1 : g.input);
  }

  /// Index from base() on of a slot, numbered among those of all samples; kNowhere if it lies outside of x.
  __device__ __forceinline__ std::int64_t of(int slot) const {
    const int sample = g.sample_rows.quotient(slot < 0 ? 0 : slot);
    const std::int64_t at = g.first_position - g.halo + (slot - sample * g.sample_rows.divisor());
    if (slot < 0 || sample >= g.batch || at < 0 || at >= g.input) return kNowhere;
    return C::kChannelsLast ? (sample * g.input + at) * channels : sample * channels * g.input + at;
  }
};

/// Loads stages of x for one team where rows of x are aligned: for each eight words of depth and each part, two planes of g.slots quads.
/// An item is a quad of kVectorPositions slots, whose bytes lie together; its channels are copied there one after the other, and
/// transposed by the thread that copied them. No two of eight neighbouring threads use the same banks: they have two neighbouring
/// items of four neighbouring planes.
template <class C>
class VectorXLoader {
 public:
  using Element = typename C::Element;
  static constexpr int kQuadsTogether = 4;
  static_assert(C::kQuads % kQuadsTogether == 0);

  __device__ __forceinline__ VectorXLoader(const Params& p, int thread, int threads) : places_(p), g_(p.g), thread_(thread), threads_(threads) {
    groups_ = g_.slot_groups;
  }

  /// Starts to copy a chunk to its stage; the caller closes the group.
  __device__ __forceinline__ void start(const Tile& tile, const Chunk& chunk, unsigned char* stage) const {
    constexpr int kBytes = kVectorPositions * int(sizeof(Element));
    const Element* const base = places_.base(tile, chunk);
    const int shift = places_.shift(tile, chunk), left = g_.in_channels - places_.first_channel(chunk);
    for_each_item([&](int group, int first_quad) {
      const std::int64_t place = places_.of(group * kVectorPositions + shift);
#pragma unroll
      for (int part = 0; part < C::kQuads / kQuadsTogether; ++part) {
        const int quad = first_quad + part * kQuadsTogether, channel = quad * C::kVector;
        const Element* from = base + ((place < 0 ? 0 : place) + channel * g_.input);
        unsigned char* const to = item_at(stage, group, quad);
        const int exist = place < 0 ? 0 : left - channel;
#pragma unroll
        for (int e = 0; e < C::kVector; ++e) {
          gpu::copy_async<kBytes>(to + e * kBytes, from + e * g_.input, e < exist ? kBytes : 0);  // of what does not exist nothing is read
        }
      }
    });
  }

  /// Transposes a chunk in its stage, once this thread's copies are done.
  __device__ __forceinline__ void finish(unsigned char* stage) const {
    for_each_item([&](int group, int first_quad) {
#pragma unroll
      for (int part = 0; part < C::kQuads / kQuadsTogether; ++part) {
        uint4* const item = reinterpret_cast<uint4*>(item_at(stage, group, first_quad + part * kQuadsTogether));
        Block<C> block;
#pragma unroll
        for (int i = 0; i < kVectorPositions; ++i) {
          const uint4 words = item[i];
          block.word[4 * i] = words.x, block.word[4 * i + 1] = words.y, block.word[4 * i + 2] = words.z, block.word[4 * i + 3] = words.w;
        }
#pragma unroll
        for (int i = 0; i < kVectorPositions; ++i) {
          std::uint32_t words[4];
          block.quad(i, words);
          put<C>(words, item + i, g_.slots);
        }
      }
    });
  }

 private:
  /// Calls visit(group of slots, first of the quads that are kQuadsTogether apart) for this thread's items.
  template <class Visit>
  __device__ __forceinline__ void for_each_item(Visit visit) const {
    for (int item = thread_; item / (2 * kQuadsTogether) * 2 < groups_; item += threads_) {
      const int group = item / (2 * kQuadsTogether) * 2 + item % 2;
      if (group < groups_) visit(group, item / 2 % kQuadsTogether);
    }
  }

  __device__ __forceinline__ unsigned char* item_at(unsigned char* stage, int group, int quad) const {
    return stage + (plane_of<C>(quad) * g_.slots + group * kVectorPositions) * 16;
  }

  const XPlaces<C> places_;
  const ImplicitGeometry& g_;
  int thread_, threads_;
  int groups_;
};

/// Loads stages of x of any alignment for one team, through registers. A thread has the same slots in all chunks; as many as the team has
/// rows are loaded in items of kDepth quads of a slot, the quads of the rest, the halo, are dealt out one by one.
template <class C>
class ScalarXLoader {
 public:
  using Element = typename C::Element;
  static constexpr int kDepth = 16 / C::kVector < C::kQuads ? 16 / C::kVector : C::kQuads;  // quads of an item: 16 loads
  static constexpr int kItems = C::kLoaders == 1 && C::kColumns < 128 && !C::kSplit ? 2 : 1;  // that a thread loads at a time

  __device__ __forceinline__ ScalarXLoader(const Params& p, int thread, int threads) : places_(p), g_(p.g), thread_(thread), threads_(threads) {
    row_items_ = g_.team_rows * (C::kQuads / kDepth);
    halo_items_ = (g_.slots - g_.team_rows) * C::kQuads;
  }

  /// Starts to load as much of a chunk as a thread loads at a time.
  __device__ __forceinline__ void fetch(const Tile& tile, const Chunk& chunk) {
    base_ = places_.base(tile, chunk);
    left_ = g_.in_channels - places_.first_channel(chunk);
    const int shift = places_.shift(tile, chunk);
    if constexpr (!C::kChannelsLast) {
      if (shift != shift_) {  // where a slot lies in a channel's row is the same for all chunks of a tile
        shift_ = shift;
#pragma unroll
        for (int i = 0; i < kItems; ++i) row_places_[i] = row_place(thread_ + i * threads_);
        halo_place_ = halo_place(thread_);
      }
#pragma unroll
      for (int i = 0; i < kItems; ++i) fetch_row(row_places_[i], thread_ + i * threads_, rows_[i]);
      fetch_halo(halo_place_, thread_, halo_);
    }
    shift_ = shift;
  }

  /// Puts the chunk into its stage, and loads the rest of it.
  __device__ __forceinline__ void finish(unsigned char* to) {
    uint4* const stage = reinterpret_cast<uint4*>(to);
    if constexpr (C::kChannelsLast) {
      put_channels_last(stage);
    } else {
#pragma unroll
      for (int i = 0; i < kItems; ++i) put_row(rows_[i], thread_ + i * threads_, stage);
      put_halo(halo_, thread_, stage);
      for (int item = thread_ + kItems * threads_; item < row_items_; item += threads_) {
        fetch_row(row_place(item), item, rows_[0]);
        put_row(rows_[0], item, stage);
      }
      for (int item = thread_ + threads_; item < halo_items_; item += threads_) {
        fetch_halo(halo_place(item), item, halo_);
        put_halo(halo_, item, stage);
      }
    }
  }

 private:
  __device__ __forceinline__ std::int64_t row_place(int item) const {
    return item < row_items_ ? places_.of((item & (g_.team_rows - 1)) + shift_) : XPlaces<C>::kNowhere;
  }
  __device__ __forceinline__ std::int64_t halo_place(int item) const {
    return item < halo_items_ ? places_.of(g_.team_rows + item / C::kQuads + shift_) : XPlaces<C>::kNowhere;
  }

  /// First quad of an item: items are numbered by slot, then by depth. (A team's rows are a power of two.)
  __device__ __forceinline__ int quad_of(int item) const { return (item >> g_.log2_team_rows) * kDepth; }

  __device__ __forceinline__ void fetch_row(std::int64_t place, int item, Quad<C> (&to)[kDepth]) const {
    const int channel = quad_of(item) * C::kVector;
    const Element* from = base_ + (place + channel * g_.input);
    fetch_depth<C>(place >= 0 ? from : nullptr, g_.input, left_ - channel, to);
  }

  __device__ __forceinline__ void put_row(const Quad<C> (&quads)[kDepth], int item, uint4* stage) const {
    if (item >= row_items_) return;
    const int quad = quad_of(item);
    uint4* const to = stage + (item & (g_.team_rows - 1));
#pragma unroll
    for (int i = 0; i < kDepth; ++i) put<C>(quads[i], to + plane_of<C>(quad + i) * g_.slots, g_.slots);
  }

  __device__ __forceinline__ void fetch_halo(std::int64_t place, int item, Quad<C>& to) const {
    const int channel = item % C::kQuads * C::kVector;
    const Element* from = base_ + (place + channel * g_.input);
#pragma unroll
    for (int e = 0; e < C::kVector; ++e) to.value[e] = load_or_zero(from + e * g_.input, place >= 0 && e < left_ - channel);
  }

  __device__ __forceinline__ void put_halo(const Quad<C>& quad, int item, uint4* stage) const {
    if (item >= halo_items_) return;
    put<C>(quad, stage + plane_of<C>(item % C::kQuads) * g_.slots + g_.team_rows + item / C::kQuads, g_.slots);
  }

  /// Depth is contiguous: neighbouring threads load neighbouring quads of a slot.
  __device__ __forceinline__ void put_channels_last(uint4* stage) const {
    const int items = g_.slots * C::kQuads;
    constexpr int kItems = 32 / C::kVector;
    for (int first = thread_; first < items; first += kItems * threads_) {
      Quad<C> quads[kItems];
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        const int item = first + i * threads_, quad = item % C::kQuads, left = left_ - quad * C::kVector;
        const std::int64_t index = item < items ? places_.of(item / C::kQuads + shift_) : XPlaces<C>::kNowhere;
        const Element* from = index < 0 ? nullptr : base_ + index + quad * C::kVector;
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
        if (item < items) put<C>(quads[i], stage + plane_of<C>(item % C::kQuads) * g_.slots + item / C::kQuads, g_.slots);
      }
    }
  }

  const XPlaces<C> places_;
  const ImplicitGeometry& g_;
  int thread_, threads_;
  int row_items_, halo_items_;

  // Of the chunk fetched last.
  const Element* base_ = nullptr;
  int left_ = 0;  ///< channels
  int shift_ = -(1 << 30);
  std::int64_t row_places_[kItems], halo_place_;
  Quad<C> rows_[kItems][kDepth], halo_;
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

/// Waits for this thread's copies but for those of the `pending` chunks, 0 to 2, started last.
__device__ __forceinline__ void wait_for_copies(int pending) {
  if (pending == 0) {
    gpu::copy_async_wait<0>();
  } else if (pending == 1) {
    gpu::copy_async_wait<1>();
  } else {
    gpu::copy_async_wait<2>();
  }
}

/// Fills a team's ring for all its tiles: chunks loader, loader + loaders, ... A stage's barrier gets one arrival of each of the
/// loader's threads once what the thread has put there is there. Chunks are started as early as stages are free, at most three ahead
/// (memory takes 2 us to answer when it is busy), or one if they go through registers.
template <class C, template <class> class XLoader>
__device__ __forceinline__ void produce(const Params& p, const Shared& shared, int thread, int threads, int loader, int loaders) {
  constexpr bool kVectors = std::is_same_v<XLoader<C>, VectorXLoader<C>>;
  const ImplicitGeometry& g = p.g;
  XLoader<C> x(p, thread, threads);
  ChunkCursor now(g, shared.team), next(g, shared.team);
  const auto advance = [&](ChunkCursor& cursor, int chunks) {
    for (int i = 0; i < chunks && !cursor.done(); ++i) cursor.advance(g);
  };
  advance(now, loader), advance(next, loader);
  const int stages = (g.stages + loaders - 1 - loader) / loaders;  // that this loader has at least
  const int ahead = !kVectors || stages <= 2 ? 1 : stages == 3 ? 2 : 3;
  const bool packed = g.packed || C::kTile.packed_only();
  const bool bulk = C::kFamily == Family::sm90 && !g.resident && packed;  // one thread copies a chunk's weights

  const auto start = [&] {
    if (!next.done()) {
      const RingPosition ring = next.ring;
      if constexpr (!kVectors) x.fetch(next.tile, next.chunk);
      const auto wait = [&] { gpu::barrier_wait(shared.empty(ring.stage), ring.parity ^ 1); };
      if (g.resident || packed) {
        wait();
      } else if constexpr (!C::kTile.packed_only()) {
        WeightLoader<C>(p, next.tile, thread).load(next.chunk, shared.weight(ring.stage), wait);
      }
      if (!g.resident && packed) {
        const unsigned char* from = packed_chunk(p, next.tile, next.chunk);
        if (!bulk) {
          copy_packed_weights(from, shared.weight(ring.stage), g.weight_bytes, thread);
        } else if (thread == 0) {  // it may end before its bytes are announced: the phase waits for this thread's arrival
          gpu::bulk_copy(shared.weight(ring.stage), from, static_cast<unsigned>(g.weight_bytes), shared.full(ring.stage));
        }
      }
      if constexpr (kVectors) x.start(next.tile, next.chunk, shared.x(ring.stage));
      advance(next, loaders);
    }
    gpu::copy_async_commit();  // an empty group, if there is nothing: groups are counted
  };

  for (int i = 0; i < ahead; ++i) start();
  while (!now.done()) {
    const int stage = now.ring.stage;
    wait_for_copies(ahead - 1);
    x.finish(shared.x(stage));
    if constexpr (C::kFamily == Family::sm90) gpu::fence_async_proxy();
    if (bulk && thread == 0) {
      gpu::barrier_arrive_expect(shared.full(stage), static_cast<unsigned>(g.weight_bytes));
    } else {
      gpu::barrier_arrive(shared.full(stage));
    }
    advance(now, loaders);
    start();
  }
}

template <class C>
__device__ void produce(const Params& p, const Shared& shared, int thread, int threads, int loader, int loaders) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(p.x) % 16 == 0;
  if (!C::kChannelsLast && p.g.vector_rows && aligned) {
    produce<C, VectorXLoader>(p, shared, thread, threads, loader, loaders);
  } else {
    produce<C, ScalarXLoader>(p, shared, thread, threads, loader, loaders);
  }
}

}  // namespace convt_gemm::implicit
