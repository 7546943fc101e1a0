// The reverse chain of one tile.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../core/step.hpp"
#include "isa.hpp"
#include "network.hpp"
#include "noise.hpp"
#include "product.hpp"
#include "sampler.hpp"

namespace secondgram::cpu::SECONDGRAM_ISA {

// People [person, person + people) and draws [draw, draw + draws) of the request.
SECONDGRAM_TARGET void run_tile(const Network& net, const SampleRequest& q, Workspace& w, std::size_t person,
                                std::size_t people, std::size_t draw, std::size_t draws, float* out,
                                const std::atomic<bool>& cancel) {
  const std::size_t width = net.sizes.features, rows = people * draws;
  FoldedForward<Isa> network{net, w};
  for (std::size_t p = 0; p < people; ++p) {
    std::copy_n(q.conditions + (person + p) * net.sizes.conditions, net.sizes.conditions, w.conditions.row(p));
    Isa::to_operand(w.conditions, p, 0, net.sizes.conditions);
  }
  network.embed_people(people);

  NoiseRequest noise{q.keys + person, q.draws + draw, people, draws, width, q.seed, q.start_purpose, 0};
  std::vector<float> z(rows * width);
  fill_rounded_normals(noise, z.data(), 1);
  for (std::size_t r = 0; r < rows; ++r) {
    const float* mean = q.start == nullptr ? nullptr : q.start + (person + r % people) * width;
    for (std::size_t j = 0; j < width; ++j)
      w.x.row(r)[j] = q.start_noise * z[r * width + j] + (mean == nullptr ? 0.0f : mean[j]);
    std::fill_n(w.before.row(r), width, 0.0f);
    Isa::to_operand(w.x, r, 0, width);
  }
  noise.purpose = q.step_purpose;
  for (std::size_t s = 0; s < q.n_steps && !cancel.load(std::memory_order_relaxed); ++s) {
    network.begin_step(q.times + s * 6 * net.sizes.embedding, people);
    network.forward(rows, people);
    const bool fresh = q.steps[s].fresh != 0.0f;
    if (fresh) {
      noise.step = static_cast<std::uint32_t>(s);
      fill_rounded_normals(noise, z.data(), 1);
    }
    for (std::size_t r = 0; r < rows; ++r) {
      solver_step(q.steps[s], w.x.row(r), w.output.row(r), w.before.row(r), fresh ? z.data() + r * width : nullptr,
                  width);
      Isa::to_operand(w.x, r, 0, width);
    }
  }
  for (std::size_t r = 0; r < rows; ++r)
    std::copy_n(w.x.row(r), width, out + ((draw + r / people) * q.people + person + r % people) * width);
}

}  // namespace secondgram::cpu::SECONDGRAM_ISA
