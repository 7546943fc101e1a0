// The whole reverse chain for many people and draws on the CPU.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "network.hpp"
#include "../core/step.hpp"

namespace secondgram::cpu {

struct SampleRequest {
  const float* conditions;       // [people, conditions]
  const std::uint64_t* keys;     // [people]
  const std::uint32_t* draws;    // [draws] draw numbers
  std::size_t people, n_draws;
  std::uint64_t seed;
  const float* times;            // [steps, 6, embedding] terms of the time in each block's embedding
  const Coefficients* steps;     // [steps]
  std::size_t n_steps;
  const float* start;            // [people, features] mean of the first state, or null for zero
  float start_noise;             // its deviation
  std::uint32_t start_purpose, step_purpose;
};

// Fill out [draws, people, features]. Tiles done are counted in `done`; `cancel` ends the work early.
void sample(const Network& net, const SampleRequest& request, float* out, unsigned threads, const std::string& architecture,
            std::atomic<std::size_t>& done, const std::atomic<bool>& cancel);
std::size_t tiles(const SampleRequest& request, unsigned threads);

}  // namespace secondgram::cpu
