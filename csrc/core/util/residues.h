#pragma once
// The residue form of one axis. With q = output + padding, g = gcd(stride, dilation), S' = stride/g and D' = dilation/g, an
// output has taps only if g divides q; then its taps are k0, k0+S', k0+2S', ... and the inputs they read i0, i0-D', i0-2D', ...
#include <cstdint>
#include <numeric>

#include "convt_gemm/problem.h"

namespace convt_gemm {

struct Residues {
  std::int64_t gcd = 1;
  std::int64_t tap_step = 1;    ///< S'
  std::int64_t input_step = 1;  ///< D'
  std::int64_t inverse = 0;     ///< of D' modulo S': the first tap of residue (q/g) mod S' is residue * inverse mod S'
  std::int64_t most_taps = 1;   ///< of any output: ceil(kernel / S')
};

inline Residues residues_of(const Axis& axis) {
  Residues r;
  r.gcd = std::gcd(axis.stride, axis.dilation);
  r.tap_step = axis.stride / r.gcd;
  r.input_step = axis.dilation / r.gcd;
  r.most_taps = (axis.kernel + r.tap_step - 1) / r.tap_step;
  // Extended Euclid on (D' mod S', S'); for S' == 1 every tap serves the only residue and the inverse is 0.
  std::int64_t a = r.input_step % r.tap_step, b = r.tap_step, u = 1, v = 0;
  while (b != 0) {
    const std::int64_t q = a / b;
    const std::int64_t rest = a - q * b, next = u - q * v;
    a = b, b = rest, u = v, v = next;
  }
  r.inverse = r.tap_step == 1 ? 0 : ((u % r.tap_step) + r.tap_step) % r.tap_step;
  return r;
}

}  // namespace convt_gemm
