// The reverse chain of one tile. Included once per instruction set, with the macros that csrc/README.md lists:
// SECONDGRAM_ARCH is the namespace, SECONDGRAM_LANES the floats of a vector, SECONDGRAM_STRIP rows by SECONDGRAM_VECTORS
// vectors are the micro-kernel, SECONDGRAM_PRODUCT and SECONDGRAM_SILU the files of micro-kernel and SiLU.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "../core/network.hpp"
#include "architectures.hpp"
#include "clones.hpp"
#include "noise.hpp"

namespace secondgram::cpu::SECONDGRAM_ARCH {
namespace {

constexpr std::size_t kStrip = SECONDGRAM_STRIP;
#include "vectors.hpp"
#include SECONDGRAM_PRODUCT
#include "product.hpp"

}  // namespace

// People [person, person + people) and draws [draw, draw + draws) of the request.
SECONDGRAM_TARGET void run_tile(const Network& net, const SampleRequest& q, Workspace& w, std::size_t person,
                                std::size_t people, std::size_t draw, std::size_t draws, float* out,
                                const std::atomic<bool>& cancel) {
  const std::size_t width = net.sizes.features, rows = people * draws;
  Walk<Arch> walk{net, w};
  for (std::size_t p = 0; p < people; ++p) {
    std::copy_n(q.conditions + (person + p) * net.sizes.conditions, net.sizes.conditions, w.conditions.row(p));
    Arch::as_factors(w.conditions, p, 0, net.sizes.conditions);
  }
  walk.meet(people);

  NoiseRequest noise{q.keys + person, q.draws + draw, people, draws, width, q.seed, q.start_purpose, 0};
  std::vector<float> z(rows * width);
  fill_rounded_normals(noise, z.data(), 1);
  for (std::size_t r = 0; r < rows; ++r) {
    const float* mean = q.start == nullptr ? nullptr : q.start + (person + r % people) * width;
    for (std::size_t j = 0; j < width; ++j)
      w.x.row(r)[j] = q.start_noise * z[r * width + j] + (mean == nullptr ? 0.0f : mean[j]);
    std::fill_n(w.before.row(r), width, 0.0f);
    Arch::as_factors(w.x, r, 0, width);
  }
  noise.purpose = q.step_purpose;
  for (std::size_t s = 0; s < q.n_steps && !cancel.load(std::memory_order_relaxed); ++s) {
    walk.begin_step(q.times + s * 6 * net.sizes.embedding, people);
    walk.forward(rows, people);
    const bool fresh = q.steps[s].fresh != 0.0f;
    if (fresh) {
      noise.step = static_cast<std::uint32_t>(s);
      fill_rounded_normals(noise, z.data(), 1);
    }
    for (std::size_t r = 0; r < rows; ++r) {
      solver_step(q.steps[s], w.x.row(r), w.output.row(r), w.before.row(r), fresh ? z.data() + r * width : nullptr,
                  width);
      Arch::as_factors(w.x, r, 0, width);
    }
  }
  for (std::size_t r = 0; r < rows; ++r)
    std::copy_n(w.x.row(r), width, out + ((draw + r / people) * q.people + person + r % people) * width);
}

double flop_of_round() { return kFlopOfVector * kStrip * SECONDGRAM_VECTORS; }
SECONDGRAM_TARGET float rounds_of_products(std::size_t rounds) { return multiply_adds(rounds, 0.5f, 0.25f); }

}  // namespace secondgram::cpu::SECONDGRAM_ARCH

#include "finish_tile.hpp"
