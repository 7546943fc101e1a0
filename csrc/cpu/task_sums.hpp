// Weight gradients of a linear layer by task, in one pass. The statement is `layer_sums` in secondgram/ops/layer_sums.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "workers.hpp"

namespace secondgram::cpu {

// Rows of a batch sorted by task: task t has the rows ends[t] .. ends[t + 1].
struct LayerRows {
  const float* dY;           // [rows, outputs]
  const float* X;            // [rows, inputs]
  std::size_t rows, outputs, inputs, tasks;
  const std::int64_t* ends;  // [tasks + 1]
};

// With W_t = dY_t^T X_t: sum [outputs, inputs] = sum over t of W_t, in their order, and K [tasks, tasks] = <W_s, W_t>, with
// products and sums of doubles. No W_t ever leaves a cache. `threads` never changes a value. Only with AVX-512.
void task_sums(const LayerRows& layer, float* sum, double* K, unsigned threads, Team team);

}  // namespace secondgram::cpu
