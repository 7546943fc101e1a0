// Included once per instruction set, with SECONDGRAM_ARCH naming a namespace: the matrix product in vectors of
// SECONDGRAM_LANES floats, and the walk of one tile through all steps.
//
// SECONDGRAM_TARGET names the instruction set function by function, not file by file: an inline function of a header that
// is compiled with a file's flags may be the one copy that the linker keeps for all.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../core/network.hpp"
#include "noise.hpp"
#include "sampler.hpp"

namespace secondgram::cpu::SECONDGRAM_ARCH {
namespace {

constexpr std::size_t kLanes = SECONDGRAM_LANES;
constexpr std::size_t kVectors = SECONDGRAM_VECTORS;  // vectors of a strip, so that all sums stay in registers
constexpr std::size_t kSpan = kLanes * kVectors;      // columns worked on at a time; divides kWidestSpan
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
// The same at any address: through memcpy, GCC loads a vector of eight in halves and waits for them to meet.
typedef float Loose __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));

SECONDGRAM_TARGET inline void load(Vector& v, const float* p) { v = *reinterpret_cast<const Loose*>(p); }
SECONDGRAM_TARGET inline void store(float* p, const Vector& v) { *reinterpret_cast<Loose*>(p) = v; }

// exp(x) to 1 unit in the last place or so, for loops that the compiler turns into vectors. Clamped to +-60, where a
// logistic is 0 or 1 for all that a sum can tell: further out, quotients are denormal, which is slow.
SECONDGRAM_TARGET inline float exponential(float x) {
  x = x < -60.0f ? -60.0f : (x > 60.0f ? 60.0f : x);
  const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to a whole number in the low bits
  const float whole = shifted - 12582912.0f;
  // ln 2 in two parts, the first of them exact in products with small whole numbers.
  const float rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  float series = 1.9875691500e-4f;
  series = series * rest + 1.3981999507e-3f;
  series = series * rest + 8.3334519073e-3f;
  series = series * rest + 4.1665795894e-2f;
  series = series * rest + 1.6666665459e-1f;
  series = series * rest + 5.0000001201e-1f;
  const float fraction = series * rest * rest + rest + 1.0f;
  std::int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + 0x3f800000;  // the low bits of `shifted` are the exponent
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return fraction * power;
}

struct Arch {
  SECONDGRAM_TARGET static void silu_of_sum(const float* a, const float* b, float* out, std::size_t count) {
    for (std::size_t j = 0; j < count; ++j) {
      const float x = a[j] + b[j];
      out[j] = x / (1.0f + exponential(-x));
    }
  }
  SECONDGRAM_TARGET static void silu_scaled(const float* a, float scale, const float* b, float* out, std::size_t count) {
    for (std::size_t j = 0; j < count; ++j) {
      const float x = scale * a[j] + b[j];
      out[j] = x / (1.0f + exponential(-x));
    }
  }
  // 1 / sqrt(variance + 1e-5) of a row, the variance about the mean in a second pass.
  SECONDGRAM_TARGET static float reciprocal_deviation(const float* x, std::size_t count) {
    const float mean = sum(x, count, 0.0f, false) / static_cast<float>(count);
    const float variance = sum(x, count, mean, true) / static_cast<float>(count);
    return 1.0f / std::sqrt(variance + 1e-5f);
  }

  template <typename Finish>
  SECONDGRAM_TARGET static void product(const Segment* segments, std::size_t n_segments, std::size_t rows, std::size_t columns,
                      const Finish& finish) {
    // `finish` gets a wide piece of a row at a time, however narrow the strips: its loops are short enough as they are.
    float sums[kStrip][kWidestSpan];
    for (std::size_t start = 0; start < columns; start += kWidestSpan) {
      const std::size_t count = std::min(kWidestSpan, columns - start);
      for (std::size_t r = 0; r < rows; r += kStrip) {
        for (std::size_t part = 0; part < count; part += kSpan)
          strip(segments, n_segments, r, start + part, &sums[0][part]);
        for (std::size_t i = 0; i < kStrip && r + i < rows; ++i) finish(r + i, start, count, sums[i]);
      }
    }
  }

 private:
  SECONDGRAM_TARGET static float sum(const float* x, std::size_t count, float middle, bool square) {
    Vector total = {};
    std::size_t j = 0;
    for (; j + kLanes <= count; j += kLanes) {
      Vector v;
      load(v, x + j);
      v -= middle;
      total += square ? v * v : v;
    }
    float all = 0.0f;
    for (std::size_t lane = 0; lane < kLanes; ++lane) all += total[lane];
    for (; j < count; ++j) all += square ? (x[j] - middle) * (x[j] - middle) : x[j] - middle;
    return all;
  }

  // Six rows by kSpan columns, all inputs of all segments, in registers; into rows of kWidestSpan sums.
  SECONDGRAM_TARGET static void strip(const Segment* segments, std::size_t n_segments, std::size_t r, std::size_t start,
                    float* sums) {
    Vector acc[kStrip][kVectors] = {};
    for (std::size_t s = 0; s < n_segments; ++s) {
      const std::size_t stride = segments[s].from->stride, inputs = segments[s].weight->inputs;
      const float* a = segments[s].from->row(r);
      const float* w = segments[s].weight->panel(start / kPanel) + start % kPanel;
      const std::size_t next_panel = inputs * kPanel;
      for (std::size_t k = 0; k < inputs; ++k, w += kPanel) {
        Vector b[kVectors];
#pragma GCC unroll 8
        for (std::size_t v = 0; v < kVectors; ++v) load(b[v], w + v * kLanes / kPanel * next_panel + v * kLanes % kPanel);
#pragma GCC unroll 8
        for (std::size_t i = 0; i < kStrip; ++i) {
          const float scalar = a[i * stride + k];
#pragma GCC unroll 8
          for (std::size_t v = 0; v < kVectors; ++v) acc[i][v] += scalar * b[v];
        }
      }
    }
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kStrip; ++i)
#pragma GCC unroll 8
      for (std::size_t v = 0; v < kVectors; ++v) store(sums + i * kWidestSpan + v * kLanes, acc[i][v]);
  }
};

}  // namespace

// People [person, person + people) and draws [draw, draw + draws) of the request.
SECONDGRAM_TARGET void run_tile(const Network& net, const SampleRequest& q, Workspace& w, Matrix& conditions, std::size_t person,
              std::size_t people, std::size_t draw, std::size_t draws, float* out, const std::atomic<bool>& cancel) {
  const std::size_t width = net.sizes.features, rows = people * draws;
  Walk<Arch> walk{net, w};
  for (std::size_t p = 0; p < people; ++p)
    std::copy_n(q.conditions + (person + p) * net.sizes.conditions, net.sizes.conditions, conditions.row(p));
  walk.meet(conditions, people);

  NoiseRequest noise{q.keys + person, q.draws + draw, people, draws, width, q.seed, q.start_purpose, 0};
  std::vector<float> z(rows * width);
  fill_normals(noise, z.data(), 1);
  for (std::size_t r = 0; r < rows; ++r) {
    const float* mean = q.start == nullptr ? nullptr : q.start + (person + r % people) * width;
    for (std::size_t j = 0; j < width; ++j)
      w.x.row(r)[j] = q.start_noise * z[r * width + j] + (mean == nullptr ? 0.0f : mean[j]);
    std::fill_n(w.before.row(r), width, 0.0f);
  }
  noise.purpose = q.step_purpose;
  for (std::size_t s = 0; s < q.n_steps && !cancel.load(std::memory_order_relaxed); ++s) {
    walk.begin_step(q.times + s * 6 * net.sizes.embedding, people);
    walk.forward(rows, people);
    const bool fresh = q.steps[s].fresh != 0.0f;
    if (fresh) {
      noise.step = static_cast<std::uint32_t>(s);
      fill_normals(noise, z.data(), 1);
    }
    for (std::size_t r = 0; r < rows; ++r)
      solver_step(q.steps[s], w.x.row(r), w.output.row(r), w.before.row(r), fresh ? z.data() + r * width : nullptr,
                  width);
  }
  for (std::size_t r = 0; r < rows; ++r)
    std::copy_n(w.x.row(r), width, out + ((draw + r / people) * q.people + person + r % people) * width);
}

}  // namespace secondgram::cpu::SECONDGRAM_ARCH
