#pragma once
// The warpgroups that load: x with its halo, zeros outside of it, and the weights in the order in which the tensor cores
// read them.
#include "implicit/operands.cuh"

namespace convt_gemm::implicit {

/// 32-bit words of the weights as a product's operand; with kSplit the low part is `low`.
struct WeightWord {
  std::uint32_t high, low;
};

template <class C>
__device__ __forceinline__ WeightWord weight_word(const typename C::Element (&value)[C::kWordElements]) {
  if constexpr (C::kWordElements == 2) {
    return {std::uint32_t{value[0].bits} | std::uint32_t{value[1].bits} << 16, 0};
  } else {
    const std::uint32_t high = gpu::round_tf32(value[0]);
    return {high, C::kSplit ? gpu::round_tf32(value[0] - __uint_as_float(high)) : 0};
  }
}

/// Writes the weights of one chunk to `to`: for each tap and each 8 words of depth, core matrices of 8 columns x 4 words (see
/// gpu::matrix_descriptor), all columns of the tile for the first 4 words, then for the other 4; with kSplit once more for
/// the low parts. Columns, taps and channels that do not exist are zero. `to` may be shared or global memory.
template <class C>
__device__ void write_weights(const Params& p, const Tile& tile, const Chunk& chunk, std::uint32_t* to, int thread) {
  using Element = typename C::Element;
  const ImplicitGeometry& g = p.g;
  constexpr int kCore = 32, kHalf = C::kColumns / 8 * kCore, kStep = 2 * kHalf * (C::kSplit ? 2 : 1);
  // A thread has one column of each of its core matrices, and in each four words of depth one.
  constexpr int kWarps = kWarpgroup / 32, kCores = C::kColumns / 8 / kWarps, kQuads = C::kWords / 4;
  // What is loaded before the first store: so much that the latency is worth it, and that it fits the registers.
  constexpr int kLoads = C::kLoaders == 2 || C::kRowBlocks * C::kColumns > 128 || (C::kSplit && C::kColumns == 128) ? 16 : 32;
  constexpr int kTogether = kLoads / (kCores * C::kWordElements) < kQuads ? kLoads / (kCores * C::kWordElements) : kQuads;
  constexpr int kTaps = kTogether < kQuads ? 1 : kLoads / (kCores * C::kWordElements * kQuads);
  const int warp = thread / 32, lane = thread % 32;
  const std::int64_t channel_stride = std::int64_t{g.out_channels} * g.kernel;
  const int first_channel = (chunk.channel_block * C::kWords + lane % 4) * C::kWordElements;
  const Element* weight = static_cast<const Element*>(p.weight) +
                          (std::int64_t{tile.group} * g.in_channels + first_channel) * channel_stride;
  const Element* column_weight[kCores];  // of the first tap
  int taps[kCores];                      // of the column's residue
#pragma unroll
  for (int c = 0; c < kCores; ++c) {
    const int n = (warp + c * kWarps) * 8 + lane / 4;
    const Column column = column_of(g, tile.column * C::kColumnBlocks + n / kColumnBlock, n % kColumnBlock);
    column_weight[c] = weight + (column.valid ? std::int64_t{column.channel} * g.kernel + column.residue : 0);
    const int more = g.taps - 1;  // or one less
    taps[c] = !column.valid ? 0 : column.residue + std::int64_t{more} * g.tap_step < g.kernel ? more + 1 : more;
  }
  for (int j0 = 0; j0 < g.chunk_taps; j0 += kTaps) {
    for (int i0 = 0; i0 < kQuads; i0 += kTogether) {
      Element value[kTaps][kCores][kTogether][C::kWordElements];
#pragma unroll
      for (int j = 0; j < kTaps; ++j) {
        const int tap = chunk.tap_block * g.chunk_taps + j0 + j;
#pragma unroll
        for (int c = 0; c < kCores; ++c) {
          const Element* from = column_weight[c] + std::int64_t{tap} * g.tap_step;
          const bool exists = tap < taps[c] && j0 + j < g.chunk_taps;
#pragma unroll
          for (int i = 0; i < kTogether; ++i) {
#pragma unroll
            for (int e = 0; e < C::kWordElements; ++e) {
              const int channel = 4 * (i0 + i) * C::kWordElements + e;
              value[j][c][i][e] =
                  exists && first_channel + channel < g.in_channels ? from[channel * channel_stride] : Element{};
            }
          }
        }
      }
#pragma unroll
      for (int j = 0; j < kTaps; ++j) {
        if (j0 + j >= g.chunk_taps) break;
#pragma unroll
        for (int c = 0; c < kCores; ++c) {
#pragma unroll
          for (int i = 0; i < kTogether; ++i) {
            const WeightWord word = weight_word<C>(value[j][c][i]);
            const int quad = i0 + i;
            std::uint32_t* at = to + ((j0 + j) * C::kSteps + quad / 2) * kStep + quad % 2 * kHalf +
                                (warp + c * kWarps) * kCore + lane;
            *at = word.high;
            if (C::kSplit) at[2 * kHalf] = word.low;
          }
        }
      }
    }
  }
}

/// What a copy reads (nothing, and zero, if null) and where in the stage it goes, in elements.
template <class Element>
struct Copy {
  const Element* from;
  int to;
};

/// Copies `items` elements, of which `copy_of(i)` tells where from and to. Those of 16 bits are too small for cp.async, so many are
/// loaded before the first is stored.
template <class Element, class CopyOf>
__device__ __forceinline__ void copy_elements(int items, int thread, int threads, const Element* any, Element* stage,
                                              CopyOf copy_of) {
  if constexpr (sizeof(Element) == 4) {
    for (int item = thread; item < items; item += threads) {
      const Copy<Element> copy = copy_of(item);
      gpu::copy_async<4>(stage + copy.to, copy.from != nullptr ? copy.from : any, copy.from != nullptr ? 4 : 0);
    }
  } else {
    constexpr int kTogether = 16;
    for (int first = thread; first < items; first += kTogether * threads) {
      Element value[kTogether];
      int to[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int item = first + i * threads;
        to[i] = -1;
        if (item >= items) continue;
        const Copy<Element> copy = copy_of(item);
        value[i] = copy.from != nullptr ? *copy.from : Element{};
        to[i] = copy.to;
      }
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        if (to[i] >= 0) stage[to[i]] = value[i];
      }
    }
  }
}

/// The part [begin, end) of a span of x that lies in [0, input); the span begins at position `start`.
struct Clip {
  int begin, end;
};

__device__ __forceinline__ Clip clip(std::int64_t start, int span, std::int64_t input) {
  const std::int64_t begin = start < 0 ? -start : 0, end = input - start;
  Clip c;
  c.end = end < 0 ? 0 : end < span ? static_cast<int>(end) : span;
  c.begin = begin < c.end ? static_cast<int>(begin) : c.end;
  return c;
}

/// Loads x of channels_first: g.x_pitch elements for each channel, in it g.span for each line. Returns the bytes that
/// bulk copies bring, which are the same for each caller.
template <class C>
__device__ unsigned load_x_rows(const Params& p, const Tile& tile, const Chunk& chunk, unsigned char* shared,
                                std::uint64_t* full, int thread, int threads) {
  using Element = typename C::Element;
  const ImplicitGeometry& g = p.g;
  constexpr int kChannels = C::kWords * C::kWordElements;
  Element* stage = reinterpret_cast<Element*>(shared);
  const int first_channel = chunk.channel_block * kChannels;
  const int channels = g.in_channels - first_channel < kChannels ? g.in_channels - first_channel : kChannels;
  const std::int64_t last_tap = std::int64_t{chunk.tap_block} * g.chunk_taps + g.chunk_taps - 1;
  const std::int64_t shift = last_tap * g.input_step + lead_of<C>(g, chunk);
  const std::int64_t x_channels = std::int64_t{g.in_channels} * g.groups;
  const auto channel_row = [&](const Line& line, int channel) {
    return static_cast<const Element*>(p.x) +
           (line.sample * x_channels + tile.group * std::int64_t{g.in_channels} + first_channel + channel) * g.input;
  };

  if (g.x_copy == XCopy::bulk) {
    unsigned bytes = 0;
    for (int l = 0; l < g.lines; ++l) {
      const Line line = line_of(g, tile, l);
      const Clip part = clip(line.position - shift, g.span, line.valid ? g.input : 0);
      bytes += static_cast<unsigned>(part.end - part.begin) * channels * sizeof(Element);
    }
    // Copies may end before one thread announces their bytes: the phase waits for that thread's arrival.
    for (int item = thread; item < kChannels << g.log2_lines; item += threads) {
      const int channel = item >> g.log2_lines, l = item & (g.lines - 1);
      const Line line = line_of(g, tile, l);
      const std::int64_t start = line.position - shift;
      const bool exists = line.valid && channel < channels;
      const Clip part = clip(start, g.span, exists ? g.input : 0);
      Element* to = stage + channel * g.x_pitch + l * g.span;
      if (part.begin < part.end) {
        gpu::bulk_copy(to + part.begin, channel_row(line, channel) + start + part.begin,
                       static_cast<unsigned>(part.end - part.begin) * sizeof(Element), full);
      }
      if (part.begin == 0 && part.end == g.span) continue;
      for (int i = 0; i < g.span; i += C::kVector) {
        if (i < part.begin || i >= part.end) *reinterpret_cast<uint4*>(to + i) = make_uint4(0, 0, 0, 0);
      }
    }
    return bytes;
  }

  const int width = g.x_copy == XCopy::vectors ? C::kVector : 1;
  const auto copy_of = [&](int item) -> Copy<Element> {
    const int row = g.row_items.quotient(item), i = (item - row * g.row_items.divisor()) * width;
    const int channel = row >> g.log2_lines, l = row & (g.lines - 1);
    const Line line = line_of(g, tile, l);
    const std::int64_t at = line.position - shift + i;
    const bool exists = line.valid && channel < channels && at >= 0 && at < g.input;
    return {exists ? channel_row(line, channel) + at : nullptr, channel * g.x_pitch + l * g.span + i};
  };
  const int items = (kChannels << g.log2_lines) * g.row_items.divisor();
  const Element* any = static_cast<const Element*>(p.x);
  if (g.x_copy == XCopy::elements) {
    copy_elements(items, thread, threads, any, stage, copy_of);
    return 0;
  }
  for (int item = thread; item < items; item += threads) {
    const Copy<Element> copy = copy_of(item);  // rows are whole vectors, so a vector is in or out
    gpu::copy_async<16>(stage + copy.to, copy.from != nullptr ? copy.from : any, copy.from != nullptr ? 16 : 0);
  }
  return 0;
}

/// Loads x of channels_last: for each line g.span positions of g.x_pitch words.
template <class C>
__device__ void load_x_positions(const Params& p, const Tile& tile, const Chunk& chunk, unsigned char* shared,
                                 int thread, int threads) {
  using Element = typename C::Element;
  const ImplicitGeometry& g = p.g;
  Element* stage = reinterpret_cast<Element*>(shared);
  const int first_channel = chunk.channel_block * C::kWords * C::kWordElements;
  const std::int64_t last_tap = std::int64_t{chunk.tap_block} * g.chunk_taps + g.chunk_taps - 1;
  const std::int64_t x_channels = std::int64_t{g.in_channels} * g.groups;
  const int width = g.x_copy == XCopy::vectors ? C::kVector : 1;
  const int row_items = g.row_items.divisor();
  const Element* any = static_cast<const Element*>(p.x);
  for (int l = 0; l < g.lines; ++l) {
    const Line line = line_of(g, tile, l);
    const std::int64_t start = line.position - last_tap * g.input_step;
    const auto copy_of = [&](int item) -> Copy<Element> {
      const int position = g.row_items.quotient(item), i = (item - position * row_items) * width;
      const std::int64_t at = start + position;
      const bool exists = line.valid && at >= 0 && at < g.input && first_channel + i < g.in_channels;
      const Element* from = nullptr;
      if (exists) from = any + (line.sample * g.input + at) * x_channels + tile.group * std::int64_t{g.in_channels} + first_channel + i;
      return {from, (l * g.span + position) * g.x_pitch * C::kWordElements + i};
    };
    if (g.x_copy == XCopy::elements) {
      copy_elements(g.span * row_items, thread, threads, any, stage, copy_of);
      continue;
    }
    for (int item = thread; item < g.span * row_items; item += threads) {
      const Copy<Element> copy = copy_of(item);
      gpu::copy_async<16>(stage + copy.to, copy.from != nullptr ? copy.from : any, copy.from != nullptr ? 16 : 0);
    }
  }
}

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
  Chunk chunk;
  for (int c = 0; c < g.chunks; ++c, chunk.advance(g)) {
    if (c % (C::kWarpgroups + C::kLoaders) != warpgroup) continue;
    if (g.packed) {
      copy_packed_weights(packed_chunk(p, tile, chunk), shared.weight(c), g.weight_bytes, thread);
    } else {
      write_weights<C>(p, tile, chunk, reinterpret_cast<std::uint32_t*>(shared.weight(c)), thread);
    }
  }
  gpu::copy_async_commit();
  gpu::copy_async_wait<0>();
  if (C::kFamily == Family::sm90) gpu::fence_async_proxy();
}

/// Fills a team's ring for all its tiles: chunks loader, loader + loaders, ... A stage's barrier gets one arrival of each of the
/// loader's threads once what the thread has put there is there; copies that are still under way are waited for at the loader's
/// next chunk.
template <class C>
__device__ void produce(const Params& p, const Shared& shared, int thread, int threads, int loader, int loaders) {
  const ImplicitGeometry& g = p.g;
  const TileRange range(g, shared.team);
  RingPosition ring;
  int turn = loader;  // chunks until this loader's next one
  int signal = -1;    // the stage whose copies are under way
  const auto arrive = [&](int stage) {
    if (C::kFamily == Family::sm90) gpu::fence_async_proxy();
    gpu::barrier_arrive(shared.full(stage));
  };
  for (int number = range.first; number < g.tiles; number += range.step) {
    const Tile tile = tile_of(g, number);
    Chunk chunk;
    for (int c = 0; c < g.chunks; ++c, chunk.advance(g), ring.advance(g.stages)) {
      if (turn-- > 0) continue;
      turn = loaders - 1;
      std::uint64_t* full = shared.full(ring.stage);
      gpu::barrier_wait(shared.empty(ring.stage), ring.parity ^ 1);
      unsigned char* x = shared.x(ring.stage);
      unsigned bytes = 0;  // that bulk copies bring
      if constexpr (C::kChannelsLast) {
        load_x_positions<C>(p, tile, chunk, x, thread, threads);
      } else {
        bytes = load_x_rows<C>(p, tile, chunk, x, full, thread, threads);
      }
      const bool bulk = C::kFamily == Family::sm90 && g.x_copy == XCopy::bulk;
      if (!g.resident) {
        unsigned char* to = shared.weight(ring.stage);
        if (!g.packed) {
          write_weights<C>(p, tile, chunk, reinterpret_cast<std::uint32_t*>(to), thread);
        } else if (bulk) {
          if (thread == 0) gpu::bulk_copy(to, packed_chunk(p, tile, chunk), static_cast<unsigned>(g.weight_bytes), full);
          bytes += static_cast<unsigned>(g.weight_bytes);
        } else {
          copy_packed_weights(packed_chunk(p, tile, chunk), to, g.weight_bytes, thread);
        }
      }
      if (bulk) {
        gpu::fence_async_proxy();
        if (thread == 0) {
          gpu::barrier_arrive_expect(full, bytes);
        } else {
          gpu::barrier_arrive(full);
        }
      } else {
        gpu::copy_async_commit();
        if (g.stages < loaders + 2) {
          // Those who multiply keep a stage until they have read the next one, which therefore cannot wait for this one's return.
          gpu::copy_async_wait<0>();
          arrive(ring.stage);
        } else {
          if (signal >= 0) {
            gpu::copy_async_wait<1>();
            arrive(signal);
          }
          signal = ring.stage;
        }
      }
    }
  }
  if (signal >= 0) {
    gpu::copy_async_wait<0>();
    arrive(signal);
  }
}

}  // namespace convt_gemm::implicit
