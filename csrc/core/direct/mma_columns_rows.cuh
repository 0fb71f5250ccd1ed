#pragma once
// How mma_columns_kernel.cuh brings x to shared memory: a ring of stages, and rows that begin anywhere. The copy engine takes whole 16 bytes only, so it brings each row
// from those on that its first element is in. In its stage the row begins up to 7 elements (3 of float32) late, and who multiplies reads it from there.
#include <cstdint>

#include "direct/columns_kernel.cuh"
#include "direct/mma_columns_params.h"
#include "implicit/gpu_ops.cuh"
#include "plan/mma_columns.h"

namespace convt_gemm {
namespace direct {

/// A block's shared memory.
struct MmaColumnRing {
  std::uint64_t* barriers;
  uint4* weights;
  unsigned char* stages;
  int stage_bytes;

  __device__ __forceinline__ MmaColumnRing(const MmaColumnParams& params, unsigned char* shared)
      : barriers(reinterpret_cast<std::uint64_t*>(shared)),
        weights(reinterpret_cast<uint4*>(shared + kMmaBarrierBytes)),
        stages(shared + kMmaBarrierBytes + params.weight_bytes),
        stage_bytes(kMmaChannels * params.row_pitch) {}

  __device__ __forceinline__ std::uint64_t* full(int stage) const { return barriers + stage; }
  __device__ __forceinline__ std::uint64_t* empty(int stage) const { return barriers + kMostMmaStages + stage; }
  __device__ __forceinline__ unsigned char* stage(int number) const { return stages + number * stage_bytes; }

  /// By one thread, before the block's first barrier. `readers`: threads that read each stage.
  __device__ __forceinline__ void init_barriers(int stage_count, int readers) const {
#pragma unroll 1
    for (int stage = 0; stage < stage_count; ++stage) {
      gpu::barrier_init(full(stage), kMmaLoaders);
      gpu::barrier_init(empty(stage), readers);
    }
    gpu::barrier_init_fence();
  }
};

/// The rows of one loader: every kMmaLoaders-th one of each chunk.
template <class T>
class MmaColumnRows {
 public:
  template <class Block>
  __device__ __forceinline__ MmaColumnRows(const MmaColumnParams& params, const Block& block, const MmaColumnRing& ring, int loader)
      : params_(params),
        ring_(ring),
        x_(static_cast<const unsigned char*>(params.input)),
        loader_(loader),
        row_bytes_(params.columns.channel_bytes),
        first_((block.input_row + block.tile_begin) * kElement + loader * row_bytes_),
        length_((block.tile_end - block.tile_begin) * kElement),
        last_(down(params.input_bytes)) {}

  /// Elements that row `row` of a chunk begins late: the same in all chunks, and in row + 8 (and row + 4 of float32), since so many elements are whole units.
  template <class Block>
  static __device__ __forceinline__ int late(const ColumnParams& p, const Block& block, int row) {
    const unsigned elements = static_cast<unsigned>(block.input_row) + static_cast<unsigned>(block.tile_begin) + static_cast<unsigned>(row) * static_cast<unsigned>(p.input_positions);
    return static_cast<int>(elements % (kUnit / kElement));
  }

  /// Asks for what the first stages hold at first.
  __device__ __forceinline__ void prefetch() const {
    constexpr int kChunks = kPrefetchedMmaStages;
    const int stages = params_.stages < kChunks ? params_.stages : kChunks, chunks = params_.chunks < stages ? params_.chunks : stages, all = params_.columns.group_in_channels;
    const int channels = chunks * kMmaChannels < all ? chunks * kMmaChannels : all;
    std::int64_t at = first_;
#pragma unroll 1
    for (int channel = loader_; channel < channels; channel += kMmaLoaders, at += kMmaLoaders * row_bytes_) gpu::prefetch_run(x_ + at, static_cast<unsigned>(length_));
  }

  __device__ __forceinline__ void load() const {
    const int safe = safe_chunks();
    // Rows of a chunk begin as late as those of the other chunks, and as the ones eight (four) further on.
    std::int64_t begin[kPeriod];
    unsigned bytes[kPeriod];
#pragma unroll
    for (int i = 0; i < kPeriod; ++i) {
      const std::int64_t at = first_ + i * kMmaLoaders * row_bytes_;
      begin[i] = down(at);
      bytes[i] = static_cast<unsigned>(up(at + length_) - begin[i]);
    }
    unsigned all_bytes = 0;
#pragma unroll
    for (int i = 0; i < kRows; ++i) all_bytes += bytes[i % kPeriod];
    int stage = 0, parity = 1;  // as if a round had been read already
#pragma unroll 1
    for (int chunk = 0; chunk < params_.chunks; ++chunk) {
      gpu::barrier_wait(ring_.empty(stage), parity);
      if (chunk < safe) {
        unsigned char* const to = ring_.stage(stage) + loader_ * params_.row_pitch;
        gpu::barrier_arrive_expect(ring_.full(stage), all_bytes);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          const std::int64_t from = begin[i % kPeriod] + i / kPeriod * kPeriod * kMmaLoaders * row_bytes_;
          gpu::bulk_copy(to + i * kMmaLoaders * params_.row_pitch, x_ + from, bytes[i % kPeriod], ring_.full(stage));
        }
      } else {
        load_carefully(chunk, stage);
      }
#pragma unroll
      for (int i = 0; i < kPeriod; ++i) begin[i] += kMmaChannels * row_bytes_;
      if (++stage == params_.stages) stage = 0, parity ^= 1;
    }
  }

 private:
  static constexpr int kElement = int(sizeof(T)), kUnit = 16;   // bytes
  static constexpr int kRows = kMmaChannels / kMmaLoaders;      // of a chunk
  static constexpr int kPeriod = kUnit / kElement / kMmaLoaders;  // rows after which they begin as late again
  static_assert(kRows % kPeriod == 0 && kPeriod * kMmaLoaders * kElement == kUnit);

  /// Of an offset, to whole units.
  static __device__ __forceinline__ std::int64_t down(std::int64_t at) { return at & ~std::int64_t{kUnit - 1}; }
  static __device__ __forceinline__ std::int64_t up(std::int64_t at) { return down(at + kUnit - 1); }

  /// Chunks whose channels are all there, and whose whole 16 bytes are. x may end with a part of 16 bytes, in which no more than the last 8 rows (4 of float32) of it end.
  __device__ __forceinline__ int safe_chunks() const {
    const int channels = params_.columns.group_in_channels, whole = channels / kMmaChannels;
    const bool inside = first_ + (channels - 1 - loader_) * row_bytes_ + length_ <= last_;
    return inside || whole == 0 ? whole : whole - 1;
  }

  /// Of the channels that there are, what there is: the copy engine takes whole 16 bytes of x only, and what is behind the last ones goes by itself.
  __device__ __forceinline__ void load_carefully(int chunk, int stage) const {
    const int channels = params_.columns.group_in_channels - chunk * kMmaChannels;
    const auto each = [&](auto take) {
#pragma unroll 1
      for (int row = loader_; row < kMmaChannels && row < channels; row += kMmaLoaders) {
        const std::int64_t at = first_ + (chunk * kMmaChannels + row - loader_) * row_bytes_, end = at + length_;
        take(ring_.stage(stage) + row * params_.row_pitch, down(at), up(end) < last_ ? up(end) : last_, end);
      }
    };
    unsigned bytes = 0;
    each([&](unsigned char* to, std::int64_t begin, std::int64_t copied_end, std::int64_t end) {
      if (copied_end > begin) bytes += static_cast<unsigned>(copied_end - begin);
      for (std::int64_t at = begin < last_ ? last_ : begin; at < end; at += kElement) *reinterpret_cast<T*>(to + (at - begin)) = *reinterpret_cast<const T*>(x_ + at);
    });
    gpu::barrier_arrive_expect(ring_.full(stage), bytes);
    each([&](unsigned char* to, std::int64_t begin, std::int64_t copied_end, std::int64_t) {
      if (copied_end > begin) gpu::bulk_copy(to, x_ + begin, static_cast<unsigned>(copied_end - begin), ring_.full(stage));
    });
  }

  const MmaColumnParams& params_;
  const MmaColumnRing& ring_;
  const unsigned char* x_;
  int loader_;
  std::int64_t row_bytes_;
  std::int64_t first_;  // bytes of x before the tile's in the loader's first row
  int length_;          // bytes of the tile in a row
  std::int64_t last_;   // bytes of x in whole 16
};

}  // namespace direct
}  // namespace convt_gemm
