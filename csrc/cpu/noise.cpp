#include "noise.hpp"

#include <algorithm>

#include "../core/normal_float.hpp"
#include "../core/philox.hpp"
#include "dispatch.hpp"
#include "noise_group.hpp"
#include "normal_double.hpp"
#include "parallel_for.hpp"
#ifdef SECONDGRAM_X86
#include "noise_avx512.hpp"
#endif

namespace secondgram::cpu {
namespace {

// Below this many counters a thread costs more to start than it saves.
constexpr std::size_t kCountersPerThread = 1 << 14;

struct Exact {
  static Pair pair(std::uint32_t x0, std::uint32_t x1) { return box_muller(x0, x1); }
};
struct Rounded {
  static FloatPair pair(std::uint32_t x0, std::uint32_t x1) { return box_muller_float(x0, x1); }
};

template <typename Method, typename T>
SECONDGRAM_FLAT void normals_of_group(CounterGroup& g, Key2 key, T* out) {
  for (std::size_t i = 0; i < kGroup; ++i) {
    const Words4 x = philox4x32_10({g.w0[i], g.w1[i], g.w2[i], g.w3[i]}, key);
    g.w0[i] = x.w0, g.w1[i] = x.w1, g.w2[i] = x.w2, g.w3[i] = x.w3;
  }
  for (std::size_t i = 0; i < kGroup; ++i) {
    const auto a = Method::pair(g.w0[i], g.w1[i]);
    const auto b = Method::pair(g.w2[i], g.w3[i]);
    out[4 * i + 0] = static_cast<T>(a.first);
    out[4 * i + 1] = static_cast<T>(a.second);
    out[4 * i + 2] = static_cast<T>(b.first);
    out[4 * i + 3] = static_cast<T>(b.second);
  }
}

SECONDGRAM_CLONES void group_float(CounterGroup& g, Key2 key, float* out) { normals_of_group<Exact>(g, key, out); }
SECONDGRAM_CLONES void group_double(CounterGroup& g, Key2 key, double* out) { normals_of_group<Exact>(g, key, out); }
SECONDGRAM_CLONES void group_rounded(CounterGroup& g, Key2 key, float* out) { normals_of_group<Rounded>(g, key, out); }

// Counters [begin, end) of the flat list (draw, key, block of four features), blocks fastest.
template <typename T>
void fill_range(const NoiseRequest& r, std::size_t begin, std::size_t end, T* out, void (*make)(CounterGroup&, Key2, T*)) {
  const std::size_t blocks = (r.width + 3) / 4, stride = r.stride == 0 ? r.width : r.stride;
  const Key2 key = key_of_seed(r.seed);
  CounterGroup g{};
  T values[4 * kGroup];
  std::size_t row = begin / blocks, block = begin % blocks;
  while (begin < end) {
    const std::size_t count = std::min(kGroup, end - begin);
    const std::size_t first_row = row, first_block = block;
    for (std::size_t i = 0; i < count;) {
      const std::size_t run = std::min(count - i, blocks - block);
      const std::uint64_t person = r.keys[row % r.n_keys];
      const std::uint32_t w0 = r.purpose << 24 | static_cast<std::uint32_t>(block);
      const std::uint32_t w1 = r.draws[row / r.n_keys] * 4096u + r.step;
      for (std::size_t j = 0; j < run; ++j) {
        g.w0[i + j] = w0 + static_cast<std::uint32_t>(j);
        g.w1[i + j] = w1;
        g.w2[i + j] = static_cast<std::uint32_t>(person);
        g.w3[i + j] = static_cast<std::uint32_t>(person >> 32);
      }
      i += run;
      block += run;
      if (block == blocks) block = 0, ++row;
    }
    make(g, key, values);
    std::size_t to_row = first_row, to_block = first_block;
    for (std::size_t i = 0; i < count;) {
      const std::size_t run = std::min(count - i, blocks - to_block);
      const std::size_t feature = 4 * to_block;
      std::copy_n(values + 4 * i, std::min(4 * run, r.width - feature), out + to_row * stride + feature);
      i += run;
      to_block = 0, ++to_row;
    }
    begin += count;
  }
}

template <typename T>
void fill(const NoiseRequest& r, T* out, unsigned threads, void (*make)(CounterGroup&, Key2, T*)) {
  const std::size_t total = r.n_draws * r.n_keys * ((r.width + 3) / 4);
  if (total == 0) return;
  const std::size_t useful = std::max<std::size_t>(1, total / kCountersPerThread);
  const std::size_t parts = std::min<std::size_t>(std::max(threads, 1u), useful);
  parallel_for(parts, static_cast<unsigned>(parts), [&] {
    return [&](std::size_t p) { fill_range(r, total * p / parts, total * (p + 1) / parts, out, make); };
  });
}

}  // namespace

void fill_normals(const NoiseRequest& request, float* out, unsigned threads) { fill(request, out, threads, &group_float); }
void fill_normals(const NoiseRequest& request, double* out, unsigned threads) {
  fill(request, out, threads, &group_double);
}
void fill_cells(const NoiseRequest& r, const std::uint32_t* cells, std::size_t n_cells, float* out) {
  const Key2 key = key_of_seed(r.seed);
  const std::uint64_t person = r.keys[0];
  const std::size_t total = n_cells * r.n_draws;
  CounterGroup g{};
  float values[4 * kGroup];
  for (std::size_t from = 0; from < total; from += kGroup) {
    const std::size_t count = std::min(kGroup, total - from);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t cell = (from + i) / r.n_draws, draw = (from + i) % r.n_draws;
      g.w0[i] = r.purpose << 24 | cells[cell] / 4;
      g.w1[i] = r.draws[draw] * 4096u + r.step;
      g.w2[i] = static_cast<std::uint32_t>(person);
      g.w3[i] = static_cast<std::uint32_t>(person >> 32);
    }
    group_float(g, key, values);
    for (std::size_t i = 0; i < count; ++i) out[from + i] = values[4 * i + cells[(from + i) / r.n_draws] % 4];
  }
}

void fill_rounded_normals(const NoiseRequest& request, float* out, unsigned threads) {
  auto make = &group_rounded;
#ifdef SECONDGRAM_X86
  if (has_avx512()) make = &group_rounded_avx512;
#endif
  fill(request, out, threads, make);
}

}  // namespace secondgram::cpu
