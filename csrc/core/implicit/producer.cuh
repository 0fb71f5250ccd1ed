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
      high[i] = gpu::tf32_operand(value);
      if constexpr (C::kSplit) low[i] = gpu::tf32_operand(value - __uint_as_float(high[i] & 0xffffe000u));
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

/// Asks for a block's share of memory that all blocks together read, most of it many times; of more than half of what the L2 cache has for nothing.
__device__ __forceinline__ void prefetch_share(const void* memory, std::int64_t bytes, unsigned block, unsigned blocks) {
  constexpr int kLine = 128;
  constexpr std::int64_t kMost = 24 << 20;
  if (bytes > kMost) return;
  const unsigned all = static_cast<unsigned>(bytes), share = (all / kLine / blocks + 1) * kLine, first = share * block;
  if (first < all) gpu::prefetch_run(static_cast<const unsigned char*>(memory) + first, all - first < share ? all - first : share);
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
  static constexpr int kQuadsTogether = C::kQuads < 4 ? C::kQuads : 4;
  static_assert(C::kQuads % kQuadsTogether == 0);

  __device__ __forceinline__ VectorXLoader(const Params& p, int thread, int threads) : places_(p), g_(p.g), threads_(threads) {
    first_group_ = thread / (2 * kQuadsTogether) * 2 + thread % 2, first_quad_ = thread / 2 % kQuadsTogether;
    to_ = (plane_of<C>(first_quad_) * g_.slots + first_group_ * kVectorPositions) * 16;
    step_ = threads_ / (2 * kQuadsTogether) * 2 * kVectorPositions * 16;
  }

  /// Starts to copy a chunk to its stage; the caller closes the group.
  __device__ __forceinline__ void start(const Tile& tile, const Chunk& chunk, unsigned char* stage) {
    const int shift = first_slot(g_, tile, chunk), left = g_.in_channels - places_.first_channel(chunk);
    if (shift != shift_) {  // places are the same for all chunks of a tile
      shift_ = shift;
#pragma unroll
      for (int i = 0; i < kRounds; ++i) items_[i] = item_of(i);
    }
    const Element* const base = places_.base(tile, chunk) + first_quad_ * C::kVector * g_.input;
    const int exist = left >= C::kQuads * C::kVector ? C::kQuads * C::kVector : left - first_quad_ * C::kVector;
    unsigned char* to = stage + to_;
#pragma unroll
    for (int i = 0; i < kRounds; ++i, to += step_) {
      if (is_used(i)) copy(base, items_[i], exist, to);
    }
    for (int i = kRounds; is_used(i); ++i, to += step_) copy(base, item_of(i), exist, to);  // a long halo
  }

  /// Transposes a chunk in its stage, once this thread's copies are done.
  __device__ __forceinline__ void finish(unsigned char* stage) const {
    unsigned char* to = stage + to_;
#pragma unroll
    for (int i = 0; i < kRounds; ++i, to += step_) {
      if (is_used(i)) transpose(to);
    }
    for (int i = kRounds; is_used(i); ++i, to += step_) transpose(to);
  }

 private:
  static constexpr int kParts = C::kQuads / kQuadsTogether;
  /// Rounds whose places are kept: a loader's threads have, in each, one item of each part for 64 rows, and need one more for the halo.
  static constexpr int kRounds = C::kRowBlocks + 1;

  /// Where an item's slots are in x, from the chunk's first channel on; negative if they lie outside of it.
  __device__ __forceinline__ std::int64_t item_of(int round) const {
    return is_used(round) ? places_.of(group_of(round) * kVectorPositions + shift_) : XPlaces<C>::kNowhere;
  }

  __device__ __forceinline__ int group_of(int round) const { return first_group_ + round * (threads_ / (2 * kQuadsTogether) * 2); }
  __device__ __forceinline__ bool is_used(int round) const { return group_of(round) < g_.slot_groups; }

  /// Bytes from an item to that of the same slots kQuadsTogether quads further.
  __device__ __forceinline__ int part_step() const { return plane_of<C>(kQuadsTogether) * g_.slots * 16; }

  /// Copies an item of each part. Of the channels from `base` on the first `exist` exist.
  __device__ __forceinline__ void copy(const Element* base, std::int64_t place, int exist, unsigned char* to) const {
    constexpr int kBytes = kVectorPositions * int(sizeof(Element));
    const Element* from = base + (place < 0 ? 0 : place);
    if (place < 0) exist = 0;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int e = 0; e < C::kVector; ++e) {
        const int channel = part * kQuadsTogether * C::kVector + e;
        // Of what does not exist nothing is read.
        gpu::copy_async<kBytes>(to + part * part_step() + e * kBytes, from + channel * g_.input, channel < exist ? kBytes : 0);
      }
    }
  }

  __device__ __forceinline__ void transpose(unsigned char* to) const {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      uint4* const item = reinterpret_cast<uint4*>(to + part * part_step());
      Block<C> block;
#pragma unroll
      for (int e = 0; e < kVectorPositions; ++e) {
        const uint4 words = item[e];
        block.word[4 * e] = words.x, block.word[4 * e + 1] = words.y, block.word[4 * e + 2] = words.z, block.word[4 * e + 3] = words.w;
      }
#pragma unroll
      for (int e = 0; e < kVectorPositions; ++e) {
        std::uint32_t words[4];
        block.quad(e, words);
        put<C>(words, item + e, g_.slots);
      }
    }
  }

  const XPlaces<C> places_;
  const ImplicitGeometry& g_;
  int threads_;
  int first_group_, first_quad_;
  int to_, step_;  ///< bytes to the first item, and from one to the next

  // Of the chunk started last.
  int shift_ = -(1 << 30);
  std::int64_t items_[kRounds];
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
    const int shift = first_slot(g_, tile, chunk);
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
    return item < row_items_ ? places_.of(slot_of_item(item) + shift_) : XPlaces<C>::kNowhere;
  }
  __device__ __forceinline__ std::int64_t halo_place(int item) const {
    return item < halo_items_ ? places_.of(g_.team_rows + item / C::kQuads + shift_) : XPlaces<C>::kNowhere;
  }

  /// Items are numbered by slot, then by depth.
  __device__ __forceinline__ int slot_of_item(int item) const { return item - g_.team_rows_divisor.quotient(item) * g_.team_rows; }
  __device__ __forceinline__ int first_quad_of(int item) const { return g_.team_rows_divisor.quotient(item) * kDepth; }

  __device__ __forceinline__ void fetch_row(std::int64_t place, int item, Quad<C> (&to)[kDepth]) const {
    const int channel = first_quad_of(item) * C::kVector;
    const Element* from = base_ + (place + channel * g_.input);
    fetch_depth<C>(place >= 0 ? from : nullptr, g_.input, left_ - channel, to);
  }

  __device__ __forceinline__ void put_row(const Quad<C> (&quads)[kDepth], int item, uint4* stage) const {
    if (item >= row_items_) return;
    const int quad = first_quad_of(item);
    uint4* const to = stage + slot_of_item(item);
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

/// Loads stages of x of any alignment as they lie in memory, a warp each: the copy engine brings all whole 16 bytes of a row, lanes what is
/// left at its ends, and the zeros around it. An item is the part of one channel that is of one sample.
template <class C>
class RawXLoader {
 public:
  __device__ __forceinline__ RawXLoader(const Params& p, int lane) : p_(p), g_(p.g), lane_(lane) {}

  /// Works out where a chunk's items are, if that is not where the last one's were.
  __device__ __forceinline__ void prepare(const Tile& tile, const Chunk& chunk) {
    if (tile.row == tile_.row && tile.group == tile_.group && chunk.tap_block == tap_block_) return;
    tile_ = tile, tap_block_ = chunk.tap_block;
    first_ = first_slot(g_, tile, chunk), slots_ = g_.team_rows + (g_.chunk_taps - 1) * g_.input_step + g_.sets - 1;
    first_sample_ = first_ < 0 ? 0 : g_.sample_rows.quotient(first_);
    samples_ = g_.sample_rows.quotient(first_ + slots_ - 1) - first_sample_ + 1;
    item_ = item_of(lane_);
    // Mostly a chunk is a piece of each channel's row and nothing else, as far after 16 bytes in one as in the other.
    const bool piece = samples_ == 1 && g_.input % 4 == 0 && item_.low == item_.begin && item_.high == item_.end && item_.after > item_.whole;
    pieces_ = uniform(piece);
    piece_at_ = uniform(item_.whole), piece_bytes_ = uniform(item_.after - item_.whole) * int(sizeof(float));
    piece_to_ = uniform(item_.to), piece_from_ = __shfl_sync(0xffffffffu, item_.from, 0);
  }

  /// Starts to load a chunk that prepare() was called for to its stage; says how many bytes will come to `barrier`.
  __device__ __forceinline__ unsigned start(const Chunk& chunk, unsigned char* stage, std::uint64_t* barrier) const {
    const int left = g_.in_channels - chunk.channel_block * C::kWords;
    const float* const x = static_cast<const float*>(p_.x) + std::int64_t{chunk.channel_block} * C::kWords * g_.input;
    if (pieces_) return start_pieces(x, left, reinterpret_cast<float*>(stage), barrier);
    unsigned bytes = load(item_, x, left, reinterpret_cast<float*>(stage), barrier);
    for (int number = lane_ + 32; number < samples_ * C::kWords; number += 32) {
      bytes += load(item_of(number), x, left, reinterpret_cast<float*>(stage), barrier);
    }
    return bytes;
  }

 private:
  /// All counted in elements from the item's slot of number first_ on.
  struct Item {
    int channel;       ///< in the chunk
    int begin, end;    ///< that are its own
    int low, high;     ///< that are of the row; the others are zero
    int whole, after;  ///< that the copy engine brings
    int to;            ///< in the stage
    std::int64_t from;  ///< in x, for the first chunk of channels
  };

  /// All copies by one lane, whose addresses all lanes know: where each lane has its own, the warp takes a hundred cycles for each of them.
  __device__ __forceinline__ unsigned start_pieces(const float* x, int left, float* stage, std::uint64_t* barrier) const {
    const int channels = left < C::kWords ? left : C::kWords;
    const float* const from = x + (piece_from_ + piece_at_);
    float* const to = stage + (piece_to_ + piece_at_);
    if (gpu::elect()) {
      const float* source = from;
      float* into = to;
#pragma unroll 4
      for (int channel = 0; channel < channels; ++channel, into += g_.slots, source += g_.input) {
        gpu::bulk_copy(into, source, static_cast<unsigned>(piece_bytes_), barrier);
      }
    }
    for (int channel = channels + lane_; channel < C::kWords; channel += 32) zero(stage + piece_to_ + channel * g_.slots, 0, slots_);
    return lane_ == 0 ? static_cast<unsigned>(channels * piece_bytes_) : 0;
  }

  __device__ __forceinline__ Item item_of(int number) const {
    Item item;
    item.channel = number % C::kWords;
    const int in_tile = number / C::kWords, sample = first_sample_ + in_tile;
    const int zero = sample * g_.sample_rows.divisor() - first_;
    item.begin = in_tile == 0 ? 0 : zero, item.end = in_tile >= samples_ - 1 ? slots_ : zero + g_.sample_rows.divisor();
    const int element = zero + g_.halo - static_cast<int>(g_.first_position);  // the row's first
    const std::int64_t after_row = element + g_.input;
    const int phase = phase_of(p_, tile_, Chunk{0, tap_block_}, item.channel);
    item.low = element > item.begin ? element : item.begin;
    item.high = after_row < item.end ? static_cast<int>(after_row) : item.end;
    if (sample >= g_.batch || item.high <= item.low) item.low = item.high = item.end;
    // Whole 16 bytes: beyond what is needed, where the row goes on there and no other sample's slots are.
    item.whole = ((item.low + phase) & -4) - phase, item.after = ((item.high + phase + 3) & -4) - phase;
    if (item.whole < (in_tile == 0 ? element : item.low)) item.whole += 4;
    if (item.after > (in_tile >= samples_ - 1 ? after_row : item.high)) item.after -= 4;
    if (item.low == item.high || item.after <= item.whole) item.whole = item.after = item.high;
    item.to = item.channel * g_.slots + phase;
    item.from = ((std::int64_t{sample} * g_.groups + tile_.group) * g_.in_channels + item.channel) * g_.input - element;
    if (in_tile >= samples_) item.begin = item.low = item.high = item.whole = item.after = item.end;  // a lane without an item
    return item;
  }

  __device__ __forceinline__ unsigned load(const Item& item, const float* x, int left, float* stage, std::uint64_t* barrier) const {
    float* const to = stage + item.to;
    if (item.channel >= left) {
      zero(to, item.begin, item.end);
      return 0;
    }
    const float* const from = x + item.from;
    unsigned bytes = 0;
    if (item.after > item.whole) {
      bytes = static_cast<unsigned>(item.after - item.whole) * unsigned(sizeof(float));
      gpu::bulk_copy(to + item.whole, from + item.whole, bytes, barrier);
    }
    zero(to, item.begin, item.low);
    for (int i = item.low; i < item.whole; ++i) to[i] = from[i];
    for (int i = item.after; i < item.high; ++i) to[i] = from[i];
    zero(to, item.high, item.end);
    return bytes;
  }

  __device__ __forceinline__ static void zero(float* to, int begin, int end) {
    if (begin >= end) return;
    int i = begin;
    for (; i < end && reinterpret_cast<std::uintptr_t>(to + i) % 16 != 0; ++i) to[i] = 0;
    for (; i + 4 <= end; i += 4) *reinterpret_cast<uint4*>(to + i) = make_uint4(0, 0, 0, 0);
    for (; i < end; ++i) to[i] = 0;
  }

  const Params& p_;
  const ImplicitGeometry& g_;
  int lane_;

  // Of the chunk prepared last.
  Tile tile_{-1, -1, -1};
  int tap_block_ = -1;
  int first_ = 0, slots_ = 0, first_sample_ = 0, samples_ = 0;
  Item item_{};  ///< the lane's first: mostly the only one
  bool pieces_ = false;                ///< all items are a copy each, that of the first channel:
  int piece_at_ = 0, piece_bytes_ = 0;  ///< from Item::whole on
  int piece_to_ = 0;
  std::int64_t piece_from_ = 0;
};

/// Weights of a column tile, a warpgroup at a time: for each tap, each eight words of depth and each part, two planes of C::kColumns
/// quads. Columns, taps and channels that do not exist are zero. They may go to shared or to global memory.
template <class C>
class WeightLoader {
 public:
  using Element = typename C::Element;
  static constexpr int kPlaces = kWarpgroup / C::kColumns < C::kQuads ? kWarpgroup / C::kColumns : C::kQuads;  // threads that share a column
  static constexpr int kDepth = C::kQuads / kPlaces;        // quads of a tap that each of them loads
  // What a thread loads at a time: quads of a tap, and taps.
  static constexpr int kBatch = 32 / C::kVector < kDepth ? 32 / C::kVector : kDepth;
  static constexpr int kTaps = C::kLoaders == 1 && kBatch == kDepth && kDepth * C::kVector <= 16 ? 32 / (kDepth * C::kVector) : 1;
  static_assert((C::kHasWindow || kWarpgroup % C::kColumns == 0) && C::kQuads % kPlaces == 0 && kDepth % kBatch == 0);

  __device__ __forceinline__ WeightLoader(const Params& p, const Tile& tile, int thread) : g_(p.g) {
    column_ = thread % C::kColumns, quad_ = thread / C::kColumns * kDepth;
    const Column column = column_of_tile<C>(g_, tile.column, column_);
    stride_ = std::int64_t{g_.out_channels} * g_.weights;
    weight_ = static_cast<const Element*>(p.weight) +
              (std::int64_t{tile.group} * g_.in_channels + quad_ * C::kVector) * stride_ +
              (column.valid ? std::int64_t{column.channel} * g_.weights + column.first_tap : 0);
    const int more = g_.taps - 1;  // or one less
    taps_ = !column.valid ? 0 : column.first_tap + std::int64_t{more} * g_.tap_step < g_.kernel ? more + 1 : more;
  }

  /// Loads a chunk to `to`; `wait` is called before the first is written.
  template <class Wait>
  __device__ __forceinline__ void load(const Chunk& chunk, unsigned char* to, Wait wait) const {
    const int first_tap = chunk.tap_block * g_.chunk_taps, first_channel = chunk.channel_block * kChunkChannels;
    load_taps<kTaps>(0, kTaps, g_.chunk_taps, [&](int j) { return Place{first_channel, first_tap + j, 0}; }, to, wait);
  }

  /// Loads a part of all chunks, each of which has all `kAllTaps`: every `parts`-th few of their taps from `part` on. `channels_of` says a chunk's first channel,
  /// and how many elements its taps are after the first ones; negative if they do not exist.
  template <int kAllTaps, class ChannelsOf>
  __device__ __forceinline__ void load_all(unsigned char* to, int part, int parts, ChannelsOf channels_of) const {
    if (quad_ >= C::kQuads) return;  // a thread of those that columns leave over
    const int taps = g_.chunks * kAllTaps;
    const auto place_of = [&](int j) {
      Place place{0, j % kAllTaps, 0};
      place.before = channels_of(j / kAllTaps, &place.first_channel);
      return place;
    };
    if (taps <= parts) {  // no code for taps that there are not: what runs once takes time to fetch
      load_taps<1>(part, parts, taps, place_of, to, [] {});
    } else {
      load_taps<kTaps>(part * kTaps, parts * kTaps, taps, place_of, to, [] {});
    }
  }

 private:
  static constexpr int kChunkChannels = C::kQuads * C::kVector;
  struct Place {
    int first_channel, tap;
    int before;  ///< elements before the tap's, besides those of the taps before it; negative if the place does not exist
  };

  /// Loads kCount taps at a time of those below `taps`, from `begin` on every `step`-th.
  template <int kCount, class PlaceOf, class Wait>
  __device__ __forceinline__ void load_taps(int begin, int step, int taps, PlaceOf place_of, unsigned char* to, Wait wait) const {
    bool waited = false;
    for (int j = begin; j < taps; j += step) {
#pragma unroll
      for (int i = 0; i < kDepth; i += kBatch) {
        Quad<C> quads[kCount][kBatch];
#pragma unroll
        for (int t = 0; t < kCount; ++t) {
          const Place place = place_of(j + t);
          const Element* from = weight_ + (place.first_channel + i * C::kVector) * stride_ + (place.before + std::int64_t{place.tap} * g_.tap_step);
          fetch_depth<C>(place.tap < taps_ && place.before >= 0 ? from : nullptr, stride_, g_.in_channels - place.first_channel - (quad_ + i) * C::kVector, quads[t]);
        }
        if (!waited) wait();
        waited = true;
#pragma unroll
        for (int t = 0; t < kCount; ++t) {
          if (j + t >= taps) break;
          uint4* const tap = reinterpret_cast<uint4*>(to) + (j + t) * C::kQuads * C::kParts * C::kColumns + column_;
#pragma unroll
          for (int b = 0; b < kBatch; ++b) put<C>(quads[t][b], tap + plane_of<C>(quad_ + i + b) * C::kColumns, C::kColumns);
        }
      }
    }
  }

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

/// The same with rows of x as they lie in memory, and streamed weights from the workspace, for one warp: what a lane does for a chunk is done
/// when the chunk is started.
template <class C>
__device__ __forceinline__ void produce_raw(const Params& p, const Shared& shared, int lane, int loader, int loaders) {
  const ImplicitGeometry& g = p.g;
  RawXLoader<C> x(p, lane);
  ChunkCursor now(g, shared.team);
  for (int skipped = 0; skipped < loader && !now.done(); ++skipped) now.advance(g);
  while (!now.done()) {
    const RingPosition ring = now.ring;
    std::uint64_t* const full = shared.full(ring.stage);
    unsigned bytes = 0;
    x.prepare(now.tile, now.chunk);
    gpu::barrier_wait(shared.empty(ring.stage), ring.parity ^ 1);
    if (!g.resident && lane == 0) {
      bytes = static_cast<unsigned>(g.weight_bytes);
      gpu::bulk_copy(shared.weight(ring.stage), packed_chunk(p, now.tile, now.chunk), bytes, full);
    }
    bytes += x.start(now.chunk, shared.x(ring.stage), full);
    gpu::fence_async_proxy();  // the stage will be written by the copy engine again: its zeros of now come first
    gpu::barrier_arrive_expect(full, bytes);
    for (int i = 0; i < loaders && !now.done(); ++i) now.advance(g);
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
