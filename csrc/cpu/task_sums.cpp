#include "task_sums.hpp"

#include <immintrin.h>

#include <algorithm>
#include <vector>

#include "matrix.hpp"
#include "gram.hpp"

#define SECONDGRAM_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))

namespace secondgram::cpu {
namespace {

// Six outputs by four vectors of inputs are a tile: its sums fill 24 of the 32 registers.
constexpr std::size_t kLanes = 16, kOutputs = 6, kVectors = 4, kWidth = kLanes * kVectors, kTile = kOutputs * kWidth;
// Tiles that read a task's inputs while these are in the first-level cache; strips of six outputs in a piece of work, at
// most, which stay in the second-level cache while all inputs are read.
constexpr std::size_t kTogether = 4, kPiece = 43;
static_assert(kTile <= GramBlock::kColumns, "a tile is one block of columns");

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), may_alias));
typedef double Doubles __attribute__((vector_size(kLanes / 2 * sizeof(double))));
// The same at any address.
typedef float Loose __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));

// Copies a row of `count` of its `vectors` x 16 places, faster than memcpy, inlined or called.
template <std::size_t vectors>
SECONDGRAM_TARGET void copy(const float* from, std::size_t count, float* to) {
  if (count == vectors * kLanes) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < vectors; ++v)
      reinterpret_cast<Loose*>(to)[v] = reinterpret_cast<const Loose*>(from)[v];
  } else {
    for (std::size_t j = 0; j < count; ++j) to[j] = from[j];
  }
}

// tile [kOutputs, vectors] = the rows' sums of dY times X: both packed, `first` to `last` of the rows.
template <std::size_t vectors>
SECONDGRAM_TARGET void multiply(const float* dY, const float* X, std::size_t first, std::size_t last, float* tile) {
  Vector sum[kOutputs][vectors] = {};
  for (std::size_t r = first; r < last; ++r) {
    const Vector* x = reinterpret_cast<const Vector*>(X + r * kWidth);
    Vector beside[vectors];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < vectors; ++v) beside[v] = x[v];
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kOutputs; ++i) {
      const float here = dY[r * kOutputs + i];
#pragma GCC unroll 8
      for (std::size_t v = 0; v < vectors; ++v) sum[i][v] += here * beside[v];
    }
  }
  Vector* to = reinterpret_cast<Vector*>(tile);
#pragma GCC unroll 8
  for (std::size_t i = 0; i < kOutputs; ++i)
#pragma GCC unroll 8
    for (std::size_t v = 0; v < vectors; ++v) to[i * vectors + v] = sum[i][v];
}

// Adds <tile s, tile t> of `count` numbers to the upper half of K: few tasks fit into registers as they are widened.
template <std::size_t tasks>
SECONDGRAM_TARGET void few_products(const float* tiles, std::size_t count, double* K) {
  Doubles sum[tasks][tasks] = {};
  for (std::size_t j = 0; j < count; j += kLanes / 2) {
    Doubles wide[tasks];
#pragma GCC unroll 4
    for (std::size_t t = 0; t < tasks; ++t)
      wide[t] = _mm512_cvtps_pd(_mm256_load_ps(tiles + t * kTile + j));
#pragma GCC unroll 4
    for (std::size_t s = 0; s < tasks; ++s)
#pragma GCC unroll 4
      for (std::size_t t = s; t < tasks; ++t) sum[s][t] += wide[s] * wide[t];
  }
  for (std::size_t s = 0; s < tasks; ++s)
    for (std::size_t t = s; t < tasks; ++t)
      for (std::size_t part = 0; part < kLanes / 2; ++part) K[s * tasks + t] += sum[s][t][part];
}

// Workspace of one thread.
struct TaskWorkspace {
  Aligned<float> dY, X, tiles;
  GramBlock products;

  TaskWorkspace(std::size_t rows, std::size_t tasks)
      : dY(allocate<float>(kPiece * rows * kOutputs)), X(allocate<float>(rows * kWidth)),
        tiles(allocate<float>(kTogether * tasks * kTile)), products(tasks) {}
  float* strip(std::size_t number, std::size_t rows) const { return dY.get() + number * rows * kOutputs; }
};

// dY [rows, outputs] as strips [rows, kOutputs], the last filled up with zeros.
void pack_strip(const LayerRows& layer, std::size_t strip, float* to) {
  const std::size_t output = strip * kOutputs, count = std::min(kOutputs, layer.outputs - output);
  const float* from = layer.dY + output;
  if (count == kOutputs) {
    for (std::size_t r = 0; r < layer.rows; ++r)
      for (std::size_t i = 0; i < kOutputs; ++i) to[r * kOutputs + i] = from[r * layer.outputs + i];
  } else {
    for (std::size_t r = 0; r < layer.rows; ++r)
      for (std::size_t i = 0; i < kOutputs; ++i)
        to[r * kOutputs + i] = i < count ? from[r * layer.outputs + i] : 0.0f;
  }
}

// Strips [from, to) of outputs, packed, by the inputs from `input` on, `vectors` vectors of them.
template <std::size_t vectors>
SECONDGRAM_TARGET void work(const LayerRows& layer, std::size_t tasks, std::size_t from, std::size_t to, std::size_t input,
                            TaskWorkspace& w, double* K) {
  const std::size_t width = vectors * kLanes, count = std::min(width, layer.inputs - input);
  for (std::size_t r = 0; r < layer.rows; ++r) {
    float* x = w.X.get() + r * kWidth;
    copy<vectors>(layer.X + r * layer.inputs + input, count, x);
    for (std::size_t j = count; j < width; ++j) x[j] = 0.0f;
  }
  for (std::size_t first = from; first < to; first += kTogether) {
    const std::size_t last = std::min(first + kTogether, to);
    const auto tile = [&](std::size_t strip, std::size_t t) {
      return w.tiles.get() + ((strip - first) * tasks + t) * kTile;
    };
    for (std::size_t t = 0; t < tasks; ++t)
      for (std::size_t s = first; s < last; ++s)
        multiply<vectors>(w.strip(s - from, layer.rows), w.X.get(), static_cast<std::size_t>(layer.ends[t]),
                          static_cast<std::size_t>(layer.ends[t + 1]), tile(s, t));
    for (std::size_t s = first; s < last; ++s) {
      if (tasks == 2) few_products<2>(tile(s, 0), kOutputs * width, K);
      else if (tasks == 3) few_products<3>(tile(s, 0), kOutputs * width, K);
      else if (tasks == 4) few_products<4>(tile(s, 0), kOutputs * width, K);
      else w.products.add(tile(s, 0), kTile, kOutputs * width, K);
      auto* total = reinterpret_cast<Vector*>(tile(s, 0));
      for (std::size_t t = 1; t < tasks; ++t) {
        const auto* more = reinterpret_cast<const Vector*>(tile(s, t));
        for (std::size_t v = 0; v < kOutputs * vectors; ++v) total[v] += more[v];
      }
      const std::size_t rows = std::min(kOutputs, layer.outputs - s * kOutputs);
      for (std::size_t i = 0; i < rows; ++i)
        copy<vectors>(tile(s, 0) + i * width, count, layer.sum + (s * kOutputs + i) * layer.inputs + input);
    }
  }
}

// Strips [from, to) of one layer.
struct Work {
  const LayerRows* layer;
  std::size_t from, to;
};

}  // namespace

void task_sums(const std::vector<LayerRows>& layers, std::size_t tasks, double* K, unsigned threads, Team team) {
  std::vector<Work> pieces;
  std::size_t rows = 0;
  for (const LayerRows& layer : layers) {
    const std::size_t strips = (layer.outputs + kOutputs - 1) / kOutputs, count = (strips + kPiece - 1) / kPiece;
    const std::size_t tall = count == 0 ? 0 : (strips + count - 1) / count;
    for (std::size_t piece = 0; piece < count; ++piece)
      pieces.push_back({&layer, piece * tall, std::min(strips, (piece + 1) * tall)});
    rows = std::max(rows, layer.rows);
  }
  const std::size_t area = tasks * tasks;
  std::vector<double> parts(pieces.size() * area, 0.0);
  parallel_for(pieces.size(), threads, [&] {
    return [&, w = TaskWorkspace(rows, tasks)](std::size_t number) mutable {
      const auto& [layer, from, to] = pieces[number];
      double* part = parts.data() + number * area;
      for (std::size_t strip = from; strip < to; ++strip) pack_strip(*layer, strip, w.strip(strip - from, layer->rows));
      for (std::size_t input = 0; input < layer->inputs; input += kWidth) {
        const std::size_t left = layer->inputs - input;
        if (left > 3 * kLanes) work<4>(*layer, tasks, from, to, input, w, part);
        else if (left > 2 * kLanes) work<3>(*layer, tasks, from, to, input, w, part);
        else if (left > kLanes) work<2>(*layer, tasks, from, to, input, w, part);
        else work<1>(*layer, tasks, from, to, input, w, part);
      }
    };
  }, team);
  std::fill_n(K, area, 0.0);
  for (std::size_t number = 0; number < pieces.size(); ++number)
    for (std::size_t i = 0; i < area; ++i) K[i] += parts[number * area + i];
  mirror(K, tasks);
}

}  // namespace secondgram::cpu
