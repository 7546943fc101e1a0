// How fast weights reach the blocks of a GPU: the ring of stages of block_program.hpp with nothing multiplied, so that the size
// of a tile and of a cluster can be chosen by measurement.
#pragma once

#include "block_program.hpp"

namespace secondgram::cuda {

struct StreamList {
  const unsigned char* weights;  // [squares]
  std::uint32_t* sums;           // [blocks, consumers]: the words read, added up, so that no copy is left out
  std::uint32_t squares, of_a_stage, stages, cluster, rounds;
};

template <class Machine>
class Streamer {
 public:
  SECONDGRAM_DEVICE static void run(const StreamList& list) {
    const std::uint32_t thread = Machine::thread(), warp = thread / 32;
    if (thread == 0)
      for (std::uint32_t s = 0; s < list.stages; ++s) {
        Machine::barrier_init(kFull + 8 * s, Machine::kFullArrivals);
        Machine::barrier_init(kEmpty + 8 * s, kConsumers / 32 * list.cluster);
      }
    Machine::barriers_ready(list.cluster);
    std::uint32_t slot = 0, phase = 0, sum = 0, first = 0;
    if (warp <= kConsumers / 32)
      for (std::uint32_t round = 0; round < list.rounds; ++round) {
        const std::uint32_t at = kStages + slot * list.of_a_stage * kSquareBytes;
        if (warp == kConsumers / 32) {
          const std::uint32_t part = kSquareBytes / list.cluster, offset = part * Machine::rank();
          Machine::wait(kEmpty + 8 * slot, phase ^ 1);
          Machine::announce(kFull + 8 * slot, list.of_a_stage * kSquareBytes);
          for (std::uint32_t p = 0; p < list.of_a_stage; ++p)
            Machine::copy(at + p * kSquareBytes + offset,
                          list.weights + static_cast<std::size_t>(first + p) * kSquareBytes + offset, part,
                          kFull + 8 * slot, list.cluster);
          Machine::commit(kFull + 8 * slot);
        } else {
          Machine::wait(kFull + 8 * slot, phase);
          sum += Machine::template load<std::uint32_t>(at + 4 * thread);
          Machine::release(kEmpty + 8 * slot, list.cluster);
        }
        first += list.of_a_stage;
        if (first + list.of_a_stage > list.squares) first = 0;
        if (++slot == list.stages) slot = 0, phase ^= 1;
      }
    if (warp < kConsumers / 32) list.sums[Machine::block_x() * kConsumers + thread] = sum;
    Machine::leave(list.cluster);
  }
};

}  // namespace secondgram::cuda
