#pragma once
// Layers of published models and of KernelBench level 1: the problems that speed is measured on.
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/problems.h"

namespace convt_gemm::testing {

/// Axis{input, kernel, stride, padding, output_padding, dilation}.
inline std::vector<NamedProblem> cases() {
  return {
      {"kernelbench-l1-57", make_problem(8, 64, 64, {{1024, 3}, {1024, 3}})},
      {"kernelbench-l1-61", make_problem(8, 48, 48, {{64, 3}, {64, 3}, {64, 3}})},
      {"kernelbench-l1-64", make_problem(64, 128, 128, {{65536, 3}})},
      {"kernelbench-l1-70", make_problem(8, 48, 24, {{96, 3}, {96, 3}, {96, 3}})},
      {"kernelbench-l1-72", make_problem(8, 32, 32, {{12, 3, 2, 1, 1}, {24, 5, 2, 2, 1}, {48, 7, 2, 3, 1}}, 4)},
      {"kernelbench-l1-74", make_problem(32, 32, 64, {{131072, 5, 1, 0, 0, 3}})},
      {"kernelbench-l1-75", make_problem(16, 32, 64, {{128, 3, 2, 1, 0, 2}, {256, 5, 3, 2}}, 4)},
      {"kernelbench-l1-79", make_problem(16, 32, 64, {{131072, 3, 2, 1, 0, 2}})},
      {"kernelbench-l1-81", make_problem(16, 32, 64, {{64, 3, 5, 1, 0, 2}, {128, 3, 5, 1, 0, 2}})},
      {"hifi-gan-v1.ups.0-train", make_problem(16, 512, 256, {{32, 16, 8, 4}}, 1, true)},
      {"hifi-gan-v2.ups.3-infer", make_problem(1, 16, 8, {{110208, 4, 2, 1}}, 1, true)},
      {"bigvgan-v2-44k-512x.ups.0-train", make_problem(4, 1536, 768, {{128, 16, 8, 4}}, 1, true)},
      {"bigvgan-v2-44k-512x.ups.5-infer", make_problem(1, 48, 24, {{220416, 4, 2, 1}}, 1, true)},
      {"bigvgan-v2-44k-512x.amp-activation1d.upsample-train", make_problem(4, 24, 24, {{65546, 12, 2}}, 24)},
      {"encodec-24k.decoder.convtr3-infer", make_problem(1, 64, 32, {{120000, 4, 2}}, 1, true)},
      {"dac-44.1k.decoder.block1-train", make_problem(12, 768, 384, {{264, 16, 8, 4}}, 1, true)},
      {"dac-44.1k.decoder.block3-train", make_problem(12, 192, 96, {{8448, 4, 2, 1}}, 1, true)},
      {"dac-24k.decoder.block1-infer", make_problem(1, 768, 384, {{6000, 10, 5, 3}}, 1, true)},
      {"snac-44k.decoder.block3-infer", make_problem(1, 192, 96, {{150528, 6, 3, 2, 1}}, 1, true)},
      {"mimi.upsample.convtr-infer", make_problem(1, 512, 512, {{125, 4, 2}}, 512)},
      {"mimi.decoder.convtr1-infer", make_problem(1, 512, 256, {{2000, 12, 6}}, 1, true)},
      {"mimi.decoder.convtr0-stream", make_problem(1, 1024, 512, {{2, 16, 8}}, 1, true)},
      {"stable-audio-2-oobleck.decoder.layers.5-train", make_problem(4, 128, 128, {{32768, 4, 2, 1}}, 1, true)},
      {"htdemucs.tdecoder.0-infer", make_problem(1, 384, 192, {{1344, 8, 4}}, 1, true)},
      {"htdemucs.decoder.0-infer", make_problem(1, 384, 192, {{8, 8, 4}, {336}}, 1, true)},
      {"waveglow.upsample-infer", make_problem(1, 80, 80, {{861, 1024, 256}}, 1, true)},
      {"kokoro-82m.customstft.inverse-infer", make_problem(1, 11, 1, {{48001, 20, 5}})},
      {"kokoro-82m.decoder.decode.3.pool-infer", make_problem(1, 1090, 1090, {{400, 3, 2, 1, 1}}, 1090, true)},
      {"kokoro-82m.generator.ups.0-infer", make_problem(1, 512, 256, {{800, 20, 10, 5}}, 1, true)},
      {"conv-tasnet.decoder-train", make_problem(8, 512, 1, {{4001, 16, 8, 8}})},
      {"dcgan.main.0-train", make_problem(64, 100, 512, {{1, 4}, {1, 4}})},
      {"pix2pix-unet_256.up.mid-train", make_problem(1, 1024, 512, {{8, 4, 2, 1}, {8, 4, 2, 1}})},
      {"cyclegan-resnet_9blocks.up-256->128-train",
       make_problem(1, 256, 128, {{64, 3, 2, 1, 1}, {64, 3, 2, 1, 1}}, 1, true)},
      {"u-net.up-128->64-train", make_problem(1, 128, 64, {{320, 2, 2}, {479, 2, 2}}, 1, true)},
      {"sam-mask-decoder.output_upscaling.3-infer", make_problem(64, 64, 32, {{128, 2, 2}, {128, 2, 2}}, 1, true)},
      {"simplebaseline-r50.deconv_layers.0-train", make_problem(64, 2048, 256, {{8, 4, 2, 1}, {6, 4, 2, 1}})},
      {"dpt-large.act_postprocess2.4-infer", make_problem(1, 512, 512, {{24, 2, 2}, {24, 2, 2}}, 1, true)},
      {"fcn-32s.upscore-train", make_problem(1, 21, 21, {{12, 64, 32}, {16, 64, 32}})},
      {"fsrcnn-x4.last_part-infer", make_problem(1, 56, 1, {{270, 9, 4, 4, 3}, {480, 9, 4, 4, 3}}, 1, true)},
      {"stylegan2.synthesis.b1024.conv0-train", make_problem(4, 64, 32, {{512, 3, 2}, {512, 3, 2}})},
      {"mask-r-cnn.mask_predictor.conv5_mask-train", make_problem(256, 256, 256, {{14, 2, 2}, {14, 2, 2}}, 1, true)},
      {"centernet-dla-34.dla_up.ida_2.up_1-/-ida_up.up_1-train",
       make_problem(16, 64, 64, {{64, 4, 2, 1}, {64, 4, 2, 1}}, 64)},
      {"pointpillars-kitti.deblocks.2-train", make_problem(4, 256, 128, {{62, 4, 4}, {54, 4, 4}})},
      {"second-kitti.deblocks.1-train", make_problem(4, 256, 256, {{100, 2, 2}, {88, 2, 2}})},
      {"dbnet.binarize.6-/-thresh.6-train", make_problem(16, 64, 1, {{320, 2, 2}, {320, 2, 2}}, 1, true)},
      {"world-models-vae.decoder.deconv2-train", make_problem(32, 128, 64, {{5, 5, 2}, {5, 5, 2}}, 1, true)},
      {"rife.block2.lastconv-infer", make_problem(1, 90, 5, {{272, 4, 2, 1}, {480, 4, 2, 1}}, 1, true)},
      {"nnu-net-resencl-toothfairy2.decoder.transpconvs.0-train",
       make_problem(2, 320, 320, {{5}, {5, 2, 2}, {5, 2, 2}}, 1, true)},
      {"nnu-net-resencl-toothfairy2.decoder.transpconvs.5-train",
       make_problem(2, 64, 32, {{80, 2, 2}, {160, 2, 2}, {160, 2, 2}}, 1, true)},
      {"nnu-net-3d_fullres.decoder.transpconvs.2-train",
       make_problem(2, 256, 128, {{16, 2, 2}, {16, 2, 2}, {16, 2, 2}}, 1, true)},
      {"v-net.up_tr32.up_conv-train", make_problem(2, 64, 16, {{32, 2, 2}, {64, 2, 2}, {64, 2, 2}}, 1, true)},
      {"monai-unet.up-32->2-train",
       make_problem(2, 32, 2, {{48, 3, 2, 1, 1}, {48, 3, 2, 1, 1}, {48, 3, 2, 1, 1}}, 1, true)},
      {"3d-gan.layer5-train", make_problem(32, 64, 1, {{32, 4, 2, 1}, {32, 4, 2, 1}, {32, 4, 2, 1}})},
      {"videogpt-vq-vae.decoder.convts.0-train",
       make_problem(16, 240, 240, {{6, 4, 2, 3}, {34, 4, 2, 3}, {34, 4, 2, 3}}, 1, true)},
  };
}

/// The first case whose name contains `part`.
inline Problem case_named(const std::string& part) {
  for (const NamedProblem& named : cases()) {
    if (named.name.find(part) != std::string::npos) return named.problem;
  }
  throw std::out_of_range("no case " + part);
}

/// The same layer with a smaller batch and fewer positions, until its arithmetic and its output are within the limits
/// or it has nothing left to give. Channels and kernel stay, and where possible the input sizes modulo 4, which decide
/// what is aligned.
inline Problem reduced(Problem problem, double flops, std::int64_t output_elements) {
  const auto too_large = [&] {
    return 2.0 * double(problem.batch * problem.input_positions()) * double(problem.weight_elements()) > flops ||
           problem.output_elements() > output_elements;
  };
  while (problem.batch > 2 && too_large()) problem.batch = (problem.batch + 1) / 2;
  while (too_large()) {
    Axis* largest = &problem.axes[0];
    for (Axis& axis : problem.axes) {
      if (axis.input > largest->input) largest = &axis;
    }
    if (largest->input <= 4) break;
    const std::int64_t before = largest->input;
    largest->input = before / 8 * 4 + before % 4;
    if (largest->input == 0 || largest->output() <= 0) largest->input = before - 2;
  }
  if (too_large()) problem.batch = std::min<std::int64_t>(problem.batch, 1);
  return problem;
}

inline std::vector<NamedProblem> reduced_cases(double flops, std::int64_t output_elements) {
  std::vector<NamedProblem> all = cases();
  for (NamedProblem& named : all) named.problem = reduced(named.problem, flops, output_elements);
  return all;
}

}  // namespace convt_gemm::testing
