#include "sampler.hpp"

#include <algorithm>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <vector>

#ifdef SECONDGRAM_X86
#include <cpuid.h>
#endif

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
#ifdef SECONDGRAM_AVX512_BF16
SECONDGRAM_DECLARE(avx512_bf16)
#endif
#ifdef SECONDGRAM_AVX512_FP16
SECONDGRAM_DECLARE(avx512_fp16)
#endif
#endif

namespace {

struct Entry {
  const char* name;
  Precision precision;
  bool (*present)();
  decltype(&portable::run_tile) run;
};

#ifdef SECONDGRAM_X86
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
// Bits of cpuid leaf 7 that not every compiler has a name for. What the system saves is told by has_avx512.
bool leaf7(unsigned subleaf, bool in_edx, unsigned bit) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, subleaf, &a, &b, &c, &d) != 0 && ((in_edx ? d : a) >> bit & 1u) != 0;
}
#endif

const Entry kEntries[] = {
#ifdef SECONDGRAM_X86
#ifdef SECONDGRAM_AVX512_FP16
    {"avx512", Precision::fp16, [] { return has_avx512() && leaf7(0, true, 23); }, avx512_fp16::run_tile},
#endif
#ifdef SECONDGRAM_AVX512_BF16
    {"avx512", Precision::bf16, [] { return has_avx512() && leaf7(1, false, 5); }, avx512_bf16::run_tile},
#endif
    {"avx512", Precision::fp32, has_avx512, avx512::run_tile},
    {"avx2", Precision::fp32, has_avx2, avx2::run_tile},
#endif
    {"portable", Precision::fp32, [] { return true; }, portable::run_tile},
};

const Entry* find(const std::string& name, Precision precision) {
  for (const Entry& entry : kEntries)
    if (entry.name == name && entry.precision == precision && entry.present()) return &entry;
  return nullptr;
}

// A tile is some people times some draws: all draws of several people, or a part of the draws of one. Where there are few
// tiles, they are made alike, so that no thread waits for another's last one.
struct Cut {
  std::size_t people, draws, by_people, by_draws;
  Cut(const SampleRequest& q, unsigned threads) {
    draws = std::min(q.n_draws, kTileRows);
    by_draws = (q.n_draws + draws - 1) / draws;
    const std::size_t most = std::max<std::size_t>(1, kTileRows / q.n_draws), few = 8 * std::max(threads, 1u);
    std::size_t parts = (q.people + most - 1) / most;
    if (parts < few) parts = std::min(q.people, (parts + threads - 1) / threads * threads);
    people = (q.people + parts - 1) / parts;
    by_people = (q.people + people - 1) / people;
  }
};

}  // namespace

std::vector<std::string> architectures(Precision precision) {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries)
    if (entry.precision == precision && entry.present()) names.emplace_back(entry.name);
  return names;
}

bool supported(const std::string& architecture, Precision precision) { return find(architecture, precision) != nullptr; }

std::size_t tiles(const SampleRequest& q, unsigned threads) {
  const Cut cut(q, threads);
  return cut.by_people * cut.by_draws;
}

void sample(const Network& net, const SampleRequest& q, float* out, unsigned threads, const std::string& architecture,
            std::atomic<std::size_t>& done, const std::atomic<bool>& cancel) {
  const Cut cut(q, threads);
  const std::size_t total = cut.by_people * cut.by_draws;
  const Entry* entry = find(architecture, net.precision);
  if (entry == nullptr) throw std::invalid_argument("no instruction set " + architecture);
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    Workspace workspace(net.sizes, cut.people * cut.draws);
    Matrix conditions(workspace.rows, net.sizes.conditions);
    for (std::size_t tile; !cancel.load() && (tile = next.fetch_add(1)) < total; done.fetch_add(1)) {
      const std::size_t person = tile / cut.by_draws * cut.people, draw = tile % cut.by_draws * cut.draws;
      entry->run(net, q, workspace, conditions, person, std::min(cut.people, q.people - person), draw,
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
