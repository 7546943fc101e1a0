#include "sampler.hpp"

#include <stdexcept>

#include "dispatch.hpp"
#include "parallel_for.hpp"
#include "partition.hpp"

namespace secondgram::cpu {

std::size_t tiles(const SampleRequest& q, unsigned threads) { return Partition(q.people, q.n_draws, threads).tiles(); }

void sample(const Network& net, const SampleRequest& q, float* out, unsigned threads, const std::string& architecture,
            std::atomic<std::size_t>& done, const std::atomic<bool>& cancel) {
  const Architecture* entry = find_architecture(architecture, net.precision);
  if (entry == nullptr) throw std::invalid_argument("no instruction set " + architecture);
  const Partition partition(q.people, q.n_draws, threads);
  parallel_for(partition.tiles(), threads, [&] {
    return [&, workspace = Workspace(net.sizes, net.precision, partition.rows())](std::size_t number) mutable {
      if (cancel.load()) return;
      const TileRange tile = partition.tile(number);
      entry->run_tile(net, q, workspace, tile.person, tile.people, tile.draw, tile.draws, out, cancel);
      done.fetch_add(1);
    };
  });
}

}  // namespace secondgram::cpu
