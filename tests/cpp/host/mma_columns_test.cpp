// Geometry of the column kernel with tensor cores: which problems it takes, and that its blocks are within the GPU's limits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>

#include "plan/direct_columns.h"
#include "plan/mma_columns.h"
#include "support/problems.h"

namespace convt_gemm::testing {
namespace {

using direct::ColumnShape;
using direct::MmaColumnGeometry;

bool mma_columns_serve(const Problem& problem, Precision precision = Precision::tf32) { return direct::mma_columns_serve(problem, precision); }

Problem half(Problem problem, DType dtype = DType::bfloat16) {
  problem.dtype = dtype;
  return problem;
}

TEST(MmaColumns, ServeWhatTheyAreFor) {
  const Problem decoder = make_problem(8, 512, 1, {{4001, 16, 8, 8}});
  EXPECT_TRUE(mma_columns_serve(half(decoder)));
  EXPECT_TRUE(mma_columns_serve(half(decoder, DType::float16)));
  EXPECT_TRUE(mma_columns_serve(half(decoder, DType::float32)));
  EXPECT_FALSE(mma_columns_serve(half(decoder, DType::float32), Precision::ieee));
  EXPECT_FALSE(mma_columns_serve(half(decoder, DType::float32), Precision::tf32x3));
  EXPECT_FALSE(mma_columns_serve(half(decoder, DType::float64)));
  EXPECT_TRUE(mma_columns_serve(half(make_problem(1, 16, 8, {{300, 4, 2, 1}}, 1, true))));
  EXPECT_TRUE(mma_columns_serve(half(make_problem(16, 64, 1, {{320, 2, 2}, {320, 2, 2}}, 1, true))));
  EXPECT_TRUE(mma_columns_serve(half(make_problem(1, 2, 1, {{1, 1}}))));
  EXPECT_FALSE(mma_columns_serve(half(make_problem(1, 11, 1, {{48001, 20, 5}})))) << "frames";
  EXPECT_FALSE(mma_columns_serve(half(make_problem(1, 16, 9, {{300, 4, 2, 1}})))) << "36 columns";
  EXPECT_FALSE(mma_columns_serve(half(make_problem(1, 8, 1, {{9, 3, 2}, {9, 3, 2}})))) << "rows overlap";
  EXPECT_TRUE(mma_columns_serve(half(make_problem(1, 1536, 1, {{300, 16, 8}}))));
  EXPECT_FALSE(mma_columns_serve(half(make_problem(1, 1537, 1, {{300, 16, 8}})))) << "weights";
  EXPECT_TRUE(mma_columns_serve(half(make_problem(1, 768, 1, {{300, 32, 16}}))));
  EXPECT_FALSE(mma_columns_serve(half(make_problem(1, std::int64_t{1} << 40, 1, {{1, 1}})))) << "weights";
}

/// Whatever the shape, also of problems that leave little room for stages.
TEST(MmaColumns, KeepWithinABlocksLimits) {
  for (const Problem& problem : {half(make_problem(8, 512, 1, {{4001, 16, 8, 8}})), half(make_problem(1, 1536, 1, {{3000, 16, 1}})), half(make_problem(2, 768, 2, {{3000, 16, 2}})),
                                 half(make_problem(1, 16, 8, {{110208, 4, 2, 1}})), half(make_problem(16, 64, 1, {{320, 2, 2}, {320, 2, 2}})), half(make_problem(1, 3, 1, {{5, 3, 1}})),
                                 half(make_problem(8, 512, 1, {{4001, 16, 8, 8}}), DType::float32), half(make_problem(1, 768, 1, {{3000, 16, 1}}), DType::float32)}) {
    for (int slices = 1; slices <= direct::kMmaWarps; ++slices) {
      for (int splits = 1; splits * slices <= direct::kMmaWarps; ++splits) {
        const MmaColumnGeometry g = direct::mma_column_geometry(problem, {slices, splits});
        SCOPED_TRACE(to_string(problem) + " slices " + std::to_string(slices) + " splits " + std::to_string(splits));
        EXPECT_LE(g.shared_bytes, 113 << 10);
        EXPECT_GE(direct::resident_mma_blocks(g), 2) << "the next kernel's block has no room beside this one's";
        EXPECT_GE(g.stages, splits);
        EXPECT_LE(g.stages, direct::kMostMmaStages);
        EXPECT_EQ(g.stages % splits, 0) << "a stage would be two splits' in turn";
        EXPECT_EQ(g.row_pitch % 64, 32) << "neighbouring rows meet in banks";
        EXPECT_GE(g.row_pitch, std::int64_t(size_of(problem.dtype)) * slices * direct::kMmaSlice + 16) << "a row that begins late";
        EXPECT_GE(g.columns.tiles * g.columns.own, problem.axes[2].input);
        EXPECT_LT((g.columns.tiles - 1) * g.columns.own, problem.axes[2].input);
      }
    }
  }
}

TEST(MmaColumns, FillTheGpuInOneWave) {
  const Problem problem = half(make_problem(8, 512, 1, {{4001, 16, 8, 8}}));
  const ColumnShape shape = direct::choose_mma_column_shape(problem);
  EXPECT_EQ(shape.slices, 8);
  EXPECT_EQ(shape.splits, 1);
  const MmaColumnGeometry g = direct::mma_column_geometry(problem, shape);
  EXPECT_EQ(g.columns.blocks, 128);
  EXPECT_GE(g.stages * g.stage_bytes(), 40 << 10) << "bytes on their way to a multiprocessor";
  EXPECT_LE(g.stages * g.stage_bytes(), 60 << 10) << "room for the next kernel's blocks";
}

/// Rows that need several tiles have tiles of nearly equal size.
TEST(MmaColumns, CutRowsEvenly) {
  const ColumnShape shape = direct::choose_mma_column_shape(half(make_problem(16, 64, 1, {{320, 2, 2}, {320, 2, 2}})));
  EXPECT_EQ(shape.slices, 5);
  EXPECT_EQ(direct::choose_mma_column_shape(half(make_problem(1, 512, 1, {{18, 2, 2}}))).splits, 8) << "a short row's warps share the channels";
}

}  // namespace
}  // namespace convt_gemm::testing
