#include "sampler.hpp"

#include <algorithm>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

namespace secondgram::cpu {

#define SECONDGRAM_DECLARE(arch)                                                                                    \
  namespace arch {                                                                                                  \
  void run_tile(const Network&, const SampleRequest&, Workspace&, Matrix&, std::size_t, std::size_t, std::size_t,   \
                std::size_t, float*, const std::atomic<bool>&);                                                     \
  }
SECONDGRAM_DECLARE(portable)
#ifdef SECONDGRAM_X86
SECONDGRAM_DECLARE(avx2)
SECONDGRAM_DECLARE(avx512)
#endif

namespace {

using RunTile = decltype(&portable::run_tile);

struct Entry {
  const char* name;
  RunTile run;
};

const Entry kEntries[] = {
#ifdef SECONDGRAM_X86
    {"avx512", avx512::run_tile},
    {"avx2", avx2::run_tile},
#endif
    {"portable", portable::run_tile},
};

RunTile find(const char* name) {
  for (const Entry& entry : kEntries)
    if (std::strcmp(entry.name, name) == 0) return entry.run;
  return portable::run_tile;
}

// A tile is some people times some draws: all draws of several people, or a part of the draws of one.
struct Cut {
  std::size_t people, draws, by_people, by_draws;
  explicit Cut(const SampleRequest& q)
      : people(std::min(q.people, std::max<std::size_t>(1, kTileRows / q.n_draws))),
        draws(std::min(q.n_draws, kTileRows)),
        by_people((q.people + people - 1) / people),
        by_draws((q.n_draws + draws - 1) / draws) {}
};

}  // namespace

const char* const* architectures(std::size_t* count) {
  static const char* names[std::size(kEntries)];
  for (std::size_t i = 0; i < std::size(kEntries); ++i) names[i] = kEntries[i].name;
  *count = std::size(kEntries);
  return names;
}

bool supported(const char* architecture) {
#ifdef SECONDGRAM_X86
  if (std::strcmp(architecture, "avx512") == 0)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
  if (std::strcmp(architecture, "avx2") == 0) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return std::strcmp(architecture, "portable") == 0;
}

std::size_t tiles(const SampleRequest& q) {
  const Cut cut(q);
  return cut.by_people * cut.by_draws;
}

void sample(const Network& net, const SampleRequest& q, float* out, unsigned threads, const char* architecture,
            std::atomic<std::size_t>& done, const std::atomic<bool>& cancel) {
  const Cut cut(q);
  const std::size_t total = cut.by_people * cut.by_draws;
  const RunTile run = find(architecture);
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    Workspace workspace(net.sizes, cut.people * cut.draws);
    Matrix conditions(workspace.rows, net.sizes.conditions);
    for (std::size_t tile; !cancel.load() && (tile = next.fetch_add(1)) < total; done.fetch_add(1)) {
      const std::size_t person = tile / cut.by_draws * cut.people, draw = tile % cut.by_draws * cut.draws;
      run(net, q, workspace, conditions, person, std::min(cut.people, q.people - person), draw,
          std::min(cut.draws, q.n_draws - draw), out, cancel);
    }
  };
  std::vector<std::thread> workers;
  const std::size_t count = std::min<std::size_t>(std::max(threads, 1u), total);
  for (std::size_t i = 1; i < count; ++i) {
    try {
      workers.emplace_back(work);
    } catch (const std::system_error&) {
      break;  // the system refused a thread: the others do its share
    }
  }
  work();
  for (std::thread& worker : workers) worker.join();
}

}  // namespace secondgram::cpu
