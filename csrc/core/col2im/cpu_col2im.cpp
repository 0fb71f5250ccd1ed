#include "col2im/cpu_col2im.h"

#include <algorithm>
#include <type_traits>

#include "plan/arithmetic.h"
#include "util/half_types.h"
#include "util/transpose.h"

namespace convt_gemm {
namespace {

constexpr std::int64_t floor_div(std::int64_t a, std::int64_t b) { return a >= 0 ? a / b : -ceil_div(-a, b); }

/// The lead of an output and its position, if it has one.
struct Residue {
  std::int64_t lead = -1;  ///< -1: no tap reaches the output
  std::int64_t position = 0;
};

std::int64_t lead_of(const Residues& r, std::int64_t residue) {
  if (r.input_step == 1) return residue;
  return std::int64_t(static_cast<__int128>(residue) * r.inverse % r.tap_step);
}

Residue residue_of(const CpuAxis& a, std::int64_t output) {
  const std::int64_t q = output + a.axis.padding;
  Residue residue;
  if (q % a.residues.gcd != 0) return residue;
  const std::int64_t u = q / a.residues.gcd;
  const std::int64_t lead = lead_of(a.residues, u % a.residues.tap_step);
  if (lead >= a.leads) return residue;
  residue.lead = lead;
  residue.position = (u - lead * a.residues.input_step) / a.residues.tap_step;
  return residue;
}

/// The columns of one output line (axis 2) of one channel: [class of axis 2], each [lead][position].
template <typename T>
struct LineColumns {
  std::array<const T*, kMaxLeadClasses> of_class{};
};

/// Outputs first, first + stride, … of a line; output number i finds its column at
/// LineColumns::of_class[lead_class][offset + i], or has no taps if lead_class is -1.
struct Run {
  int lead_class = -1;
  std::int64_t offset = 0;
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// Axis 2 of one tile. A group is the `stride` outputs that begin at a multiple of the stride, counted from the padded
/// origin; the outputs at one place of the groups have the same lead and neighbouring columns.
class Line {
 public:
  Line(const CpuAxis& axis, const CpuTileAxis& tile, std::int64_t row_step)
      : axis_(axis), tile_(tile), row_step_(row_step), stride_(axis.axis.stride) {
    const std::int64_t begin = tile.output.begin + axis.axis.padding, end = tile.output.end + axis.axis.padding;
    groups_ = {begin / stride_, (end - 1) / stride_ + 1};
    whole_.begin = ceil_div(begin, stride_);
    whole_.end = std::max(whole_.begin, end / stride_);
    for (std::int64_t place = 0; place < std::min<std::int64_t>(stride_, kFewPlaces); ++place)
      few_[place] = look_up(place);
  }

  /// Calls body(run) until every output of the line is in one run. Runs are short, so that those of one group meet in
  /// the cache.
  template <typename Body>
  void for_each_run(Body body) const {
    for (std::int64_t group = groups_.begin; group < groups_.end; group += kRun) {
      for_each_place({group, std::min(group + kRun, groups_.end)}, body);
    }
  }

  /// The same for the outputs before and after whole_groups().
  template <typename Body>
  void for_each_edge(Body body) const {
    for_each_place({groups_.begin, whole_.begin}, body);
    for_each_place({whole_.end, groups_.end}, body);
  }

  /// Groups that lie wholly in the tile.
  Range whole_groups() const { return whole_; }

  /// The column of the output at `place` of group 0; null if there are no taps.
  template <typename T>
  const T* source(const LineColumns<T>& columns, std::int64_t place) const {
    const Place p = place_at(place);
    return p.lead_class < 0 ? nullptr : columns.of_class[p.lead_class] + p.offset;
  }

  std::int64_t stride() const { return stride_; }
  std::int64_t first_output_of(std::int64_t group) const { return group * stride_ - axis_.axis.padding; }

 private:
  static constexpr std::int64_t kRun = 16;
  static constexpr std::int64_t kFewPlaces = 16;

  struct Place {
    int lead_class = -1;
    std::int64_t offset = 0;
  };

  Place look_up(std::int64_t place) const {
    const Residues& r = axis_.residues;
    Place p;
    if (place % r.gcd != 0) return p;
    const std::int64_t residue = place / r.gcd;
    const std::int64_t lead = lead_of(r, residue);
    if (lead >= axis_.leads) return p;
    p.lead_class = axis_.class_of(lead);
    const std::int64_t row = lead - axis_.lead_class[p.lead_class].first;
    const std::int64_t shift = (lead * r.input_step - residue) / r.tap_step;
    p.offset = row * row_step_ - shift - tile_.first_position;
    return p;
  }

  Place place_at(std::int64_t place) const { return place < kFewPlaces ? few_[place] : look_up(place); }

  template <typename Body>
  void for_each_place(Range groups, Body body) const {
    if (groups.size() <= 0) return;
    for (std::int64_t place = 0; place < stride_; ++place) {
      const std::int64_t output = place - axis_.axis.padding;
      const std::int64_t begin = groups.begin + (groups.begin * stride_ + output < tile_.output.begin ? 1 : 0);
      const std::int64_t end = groups.end - ((groups.end - 1) * stride_ + output >= tile_.output.end ? 1 : 0);
      if (begin >= end) continue;
      const Place p = place_at(place);
      body(Run{p.lead_class, p.offset + begin, begin * stride_ + output, end - begin});
    }
  }

  const CpuAxis& axis_;
  const CpuTileAxis& tile_;
  std::int64_t row_step_;
  std::int64_t stride_;
  Range groups_, whole_;
  std::array<Place, kFewPlaces> few_;
};

/// Whole groups of kStride outputs: the columns of the residues, interleaved.
template <int kStride, typename T>
void interleave(const std::array<const T*, kStride>& source, std::int64_t count, T bias, T* __restrict out) {
  for (std::int64_t i = 0; i < count; ++i) {
#pragma GCC unroll 8
    for (int place = 0; place < kStride; ++place) out[i * kStride + place] = source[place][i] + bias;
  }
}

template <int kStride, typename T>
bool interleave_line(const Line& line, const LineColumns<T>& columns, T bias, T* out) {
  const Range whole = line.whole_groups();
  std::array<const T*, kStride> source;
  for (int place = 0; place < kStride; ++place) {
    source[place] = line.source(columns, place);
    if (source[place] == nullptr) return false;
    source[place] += whole.begin;
  }
  interleave<kStride>(source, whole.size(), bias, out + line.first_output_of(whole.begin));
  return true;
}

/// One line of one channel; out[o] is output o of the line.
template <typename T>
void write_line(const Line& line, const LineColumns<T>& columns, T bias, T* out) {
  const auto strided = [&](const Run& run) {
    T* const to = out + run.first;
    const std::int64_t stride = line.stride();
    if (run.lead_class < 0) {
      for (std::int64_t i = 0; i < run.count; ++i) to[i * stride] = bias;
    } else {
      const T* const from = columns.of_class[run.lead_class] + run.offset;
      for (std::int64_t i = 0; i < run.count; ++i) to[i * stride] = from[i] + bias;
    }
  };
  bool done = false;
  switch (line.stride()) {
    case 1:
      done = interleave_line<1>(line, columns, bias, out);
      break;
    case 2:
      done = interleave_line<2>(line, columns, bias, out);
      break;
    case 4:
      done = interleave_line<4>(line, columns, bias, out);
      break;
    case 8:
      done = interleave_line<8>(line, columns, bias, out);
      break;
  }
  if (done) {
    line.for_each_edge(strided);
  } else {
    line.for_each_run(strided);
  }
}

/// The lines (o0, o1) of one tile and block, and where their columns and outputs are.
template <typename Stored, typename T>
class Lines {
 public:
  Lines(const CpuSchedule& schedule, const CpuTile& tile, std::int64_t block, const T* columns, const Stored* bias,
        T* line_buffer, Stored* output)
      : schedule_(schedule),
        problem_(schedule.problem),
        tile_(tile),
        channels_(channel_block(schedule, block)),
        first_channel_(tile.group * problem_.group_out_channels() + channels_.first),
        line_(schedule.axes[2], tile.axis[2], tile.layout.row_step),
        columns_(columns),
        bias_(bias),
        line_buffer_(line_buffer),
        output_(output) {}

  /// Channel outermost: neighbours in memory are written one after the other.
  void write_channels_first() const {
    const std::int64_t output1 = problem_.axes[1].output(), output2 = problem_.axes[2].output();
    for (std::int64_t s = 0; s < tile_.layout.samples; ++s) {
      for (std::int64_t c = 0; c < channels_.count; ++c) {
        Stored* const plane = output_ + ((tile_.first_sample + s) * problem_.out_channels + first_channel_ + c) *
                                            problem_.axes[0].output() * output1 * output2;
        for_each_line([&](std::int64_t o0, std::int64_t o1, const Residue& r0, const Residue& r1) {
          write_line_of(s, c, r0, r1, plane + (o0 * output1 + o1) * output2);
        });
      }
    }
  }

  /// Channel innermost, for the same reason.
  void write_channels_last() const {
    const std::int64_t output1 = problem_.axes[1].output(), output2 = problem_.axes[2].output();
    for (std::int64_t s = 0; s < tile_.layout.samples; ++s) {
      for_each_line([&](std::int64_t o0, std::int64_t o1, const Residue& r0, const Residue& r1) {
        Stored* const out = output_ + first_channel_ +
                            (((tile_.first_sample + s) * problem_.axes[0].output() + o0) * output1 + o1) * output2 *
                                problem_.out_channels;
        line_.for_each_run([&](Run run) {
          if (r0.lead < 0 || r1.lead < 0) run.lead_class = -1;
          write_transposed(s, r0, r1, run, out);
        });
      });
    }
  }

 private:
  template <typename Body>
  void for_each_line(Body body) const {
    const Range &out0 = tile_.axis[0].output, &out1 = tile_.axis[1].output;
    for (std::int64_t o0 = out0.begin; o0 < out0.end; ++o0) {
      const Residue r0 = residue_of(schedule_.axes[0], o0);
      for (std::int64_t o1 = out1.begin; o1 < out1.end; ++o1) body(o0, o1, r0, residue_of(schedule_.axes[1], o1));
    }
  }

  /// From one channel to the next in the columns of a combination of classes.
  std::int64_t channel_step(const Residue& r0, const Residue& r1, int c2) const {
    const CpuAxis &a0 = schedule_.axes[0], &a1 = schedule_.axes[1], &a2 = schedule_.axes[2];
    return a0.lead_class[a0.class_of(r0.lead)].count * a1.lead_class[a1.class_of(r1.lead)].count *
           a2.lead_class[c2].count * tile_.layout.row_step;
  }

  /// Columns of the line for a channel of the block; both residues have a lead.
  LineColumns<T> columns_of(std::int64_t sample, std::int64_t channel, const Residue& r0, const Residue& r1) const {
    const CpuAxis &a0 = schedule_.axes[0], &a1 = schedule_.axes[1], &a2 = schedule_.axes[2];
    const LeadClass &k0 = a0.lead_class[a0.class_of(r0.lead)], &k1 = a1.lead_class[a1.class_of(r1.lead)];
    const std::int64_t column = tile_.layout.column_of(sample, r0.position - tile_.axis[0].first_position,
                                                       r1.position - tile_.axis[1].first_position);
    LineColumns<T> found;
    for (int c2 = 0; c2 < a2.classes; ++c2) {
      const LeadClass& k2 = a2.lead_class[c2];
      // Classes are stored one after the other, each [channel][lead 0][lead 1][lead 2].
      const std::int64_t first =
          channels_.count * ((k0.first * a1.leads + k0.count * k1.first) * a2.leads + k0.count * k1.count * k2.first);
      const std::int64_t lead = ((channel * k0.count + r0.lead - k0.first) * k1.count + r1.lead - k1.first) * k2.count;
      found.of_class[c2] = columns_ + (first + lead) * tile_.layout.row_step + column;
    }
    return found;
  }

  T bias_of(std::int64_t c) const { return bias_ == nullptr ? T(0) : T(to_accumulator(bias_[first_channel_ + c])); }

  void write_line_of(std::int64_t s, std::int64_t c, const Residue& r0, const Residue& r1, Stored* out) const {
    const Range range = tile_.axis[2].output;
    T* to;
    if constexpr (std::is_same_v<Stored, T>) {
      to = out;
    } else {
      to = line_buffer_ - range.begin;
    }
    if (r0.lead < 0 || r1.lead < 0) {
      std::fill(to + range.begin, to + range.end, bias_of(c));
    } else {
      write_line(line_, columns_of(s, c, r0, r1), bias_of(c), to);
    }
    if constexpr (!std::is_same_v<Stored, T>) {
      for (std::int64_t o = range.begin; o < range.end; ++o) out[o] = Rounding<Stored>::from(to[o]);
    }
  }

  void write_transposed(std::int64_t s, const Residue& r0, const Residue& r1, const Run& run, Stored* out) const {
    const std::int64_t step = line_.stride() * problem_.out_channels;
    Stored* const to = out + run.first * problem_.out_channels;
    if (run.lead_class < 0) {
      for (std::int64_t i = 0; i < run.count; ++i) {
        for (std::int64_t c = 0; c < channels_.count; ++c) to[i * step + c] = Rounding<Stored>::from(bias_of(c));
      }
      return;
    }
    const T* const first = columns_of(s, 0, r0, r1).of_class[run.lead_class] + run.offset;
    const std::int64_t between_channels = channel_step(r0, r1, run.lead_class);
    transpose(
        first, between_channels, channels_.count, run.count, [this](std::int64_t c) { return bias_of(c); }, to, step);
  }

  const CpuSchedule& schedule_;
  const Problem& problem_;
  const CpuTile& tile_;
  ChannelBlock channels_;
  std::int64_t first_channel_;
  Line line_;
  const T* columns_;
  const Stored* bias_;
  T* line_buffer_;
  Stored* output_;
};

}  // namespace

template <typename Stored, typename T>
void cpu_col2im(const CpuSchedule& schedule, const CpuTile& tile, std::int64_t block, const T* columns,
                const Stored* bias, T* line, Stored* output) {
  const Lines<Stored, T> lines(schedule, tile, block, columns, bias, line, output);
  if (schedule.problem.layout == Layout::channels_last) {
    lines.write_channels_last();
  } else {
    lines.write_channels_first();
  }
}

template void cpu_col2im(const CpuSchedule&, const CpuTile&, std::int64_t, const float*, const float*, float*, float*);
template void cpu_col2im(const CpuSchedule&, const CpuTile&, std::int64_t, const double*, const double*, double*,
                         double*);
template void cpu_col2im(const CpuSchedule&, const CpuTile&, std::int64_t, const float*, const BFloat16*, float*,
                         BFloat16*);
template void cpu_col2im(const CpuSchedule&, const CpuTile&, std::int64_t, const float*, const Float16*, float*,
                         Float16*);

}  // namespace convt_gemm
