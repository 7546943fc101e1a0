// Weight gradients of linear layers by task, in one pass. Reference implementation: `layer_sums` in
// secondgram/ops/layer_sums.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "parallel_for.hpp"

namespace secondgram::cpu {

// A layer's rows, sorted by task: task t has the rows ends[t] .. ends[t + 1].
struct LayerRows {
  const float* dY;           // [rows, outputs]
  const float* X;            // [rows, inputs]
  std::size_t rows, outputs, inputs;
  const std::int64_t* ends;  // [tasks + 1]
  float* sum;                // [outputs, inputs], filled
};

// With W_t = dY_t^T X_t of each layer: its sum = sum over t of W_t, in their order; and K [tasks, tasks] = the sum over layers
// of <W_s, W_t>, with products and sums of doubles. No W_t ever leaves a cache. `threads` never changes a value. Only with
// AVX-512.
void task_sums(const std::vector<LayerRows>& layers, std::size_t tasks, double* K, unsigned threads, Team team);

}  // namespace secondgram::cpu
