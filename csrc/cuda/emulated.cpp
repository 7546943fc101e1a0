// The sampler of csrc/cuda on a CPU, for tests: a C interface to the emulation, built by tests/test_cuda_sampler.py.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "emulator.hpp"
#include "plan.hpp"
#include "stream.hpp"

namespace {

using namespace secondgram;
using namespace secondgram::cuda;

struct EmulatedDevice {
  using Recording = std::vector<Launch>;
  bool bulk = false;
  std::uint32_t seed = 0;
  std::size_t uploads = 0, recordings = 0, replays = 0;
  std::vector<unsigned char> memory;
  std::vector<std::unique_ptr<unsigned char[]>> stacks;
  Kept<Recording> kept_;

  // Aligned to 1,024 bytes, because squares are copied in fragments of 16 bytes. Filled with 0xFF, which is NaN, so that a read
  // before a write shows.
  unsigned char* reserve(std::size_t bytes) {
    if (memory.size() < bytes + 1024) {
      kept_ = {};
      memory.assign(bytes + 1024, 0xFF);
    }
    return begin();
  }
  unsigned char* begin() { return memory.data() + (1024 - reinterpret_cast<std::uintptr_t>(memory.data()) % 1024); }
  // Between two requests, everything but the network is overwritten: a device promises no more.
  void forget(const PackedNetwork& network) {
    if (!memory.empty())
      std::fill(begin() + network.bytes.size(), memory.data() + memory.size(), static_cast<unsigned char>(0xFF));
  }
  Kept<Recording>& kept() { return kept_; }
  void upload(unsigned char* to, const void* from, std::size_t bytes) {
    ++uploads;
    std::memcpy(to, from, bytes);
  }
  void stage(unsigned, unsigned char* landing, std::size_t bytes, const std::vector<Input>& inputs) {
    std::memset(landing, 0xFF, bytes);
    for (const Input& one : inputs) std::memcpy(landing + one.to, one.from, one.bytes);
  }
  void hand_over(unsigned, unsigned char* to, unsigned char* landing, std::size_t bytes) {
    std::memcpy(to, landing, bytes);
    std::memset(landing, 0xFF, bytes);
  }
  void download(float* to, std::size_t pitch, const unsigned char* from, std::size_t bytes, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i)
      std::memcpy(reinterpret_cast<unsigned char*>(to) + i * pitch, from + i * bytes, bytes);
  }
  Recording record(const std::vector<Launch>& launches) {
    ++recordings;
    return launches;
  }
  void replay(const Recording& launches) {
    ++replays;
    for (const Launch& one : launches) launch(one);
  }
  void finish() {}
  template <class Report>
  void wait(const Report& report) {
    report();
  }
  void launch(const Launch& one) {
    if (const auto* fragments = std::get_if<FragmentLaunch>(&one)) {
      std::visit(
          [](const auto& work) {
            for (std::uint32_t unit = 0; unit < work.units(); ++unit)
              for (std::uint32_t i = 0; i < work.fragments(); ++i) work.fragment(unit, i);
          },
          fragments->work);
      return;
    }
    const ProgramLaunch& program = std::get<ProgramLaunch>(one);
    for (const TileSize& size : kTileSizes)
      if (size.rows == program.rows && size.columns == program.columns) {
        if (bulk)
          run<emulation::Emulated<true>>(program);
        else
          run<emulation::Emulated<false>>(program);
      }
  }
  template <class Machine>
  void run(const ProgramLaunch& l) {
    const auto body = [&l] {
      if (l.rows == 1)
        ProgramRunner<Machine, 1, 2>(l.program).run();
      else if (l.columns == 2)
        ProgramRunner<Machine, 2, 2>(l.program).run();
      else
        ProgramRunner<Machine, 2, 4>(l.program).run();
    };
    for (std::uint32_t y = 0; y < l.blocks_y; ++y)
      for (std::uint32_t x = 0; x < l.blocks_x; x += l.program.cluster)
        emulation::run_cluster(l.program.cluster, x, y, l.shared_bytes, seed++, stacks, body);
  }
};

thread_local std::string failure;

}  // namespace

extern "C" {

struct EmulatedArray {
  const float* data;
  std::size_t rows, columns;
};

struct EmulatedOptions {
  std::uint32_t persistent, recorded, rows, columns, stages, cluster, step_block, context, bulk, order, shared_bytes;
  std::uint64_t chunk_rows, memory_bytes;
};

const char* secondgram_failure() { return failure.c_str(); }

// sizes: features, conditions, embedding, three widths. Null where it went wrong.
void* secondgram_network(const std::size_t* sizes, const EmulatedArray* arrays, std::size_t n_arrays) {
  try {
    const Shape shape{sizes[0], sizes[1], sizes[2], {sizes[3], sizes[4], sizes[5]}};
    std::vector<Array> listed;
    for (std::size_t i = 0; i < n_arrays; ++i) listed.push_back({arrays[i].data, arrays[i].rows, arrays[i].columns});
    return new PackedNetwork(shape, listed);
  } catch (const std::exception& error) {
    failure = error.what();
    return nullptr;
  }
}
void secondgram_forget_network(void* network) { delete static_cast<PackedNetwork*>(network); }

void* secondgram_device() { return new EmulatedDevice; }
void secondgram_forget_device(void* device) { delete static_cast<EmulatedDevice*>(device); }
// Uploads, recordings and replays so far.
void secondgram_counts(const void* device, std::size_t* counts) {
  const EmulatedDevice& d = *static_cast<const EmulatedDevice*>(device);
  counts[0] = d.uploads, counts[1] = d.recordings, counts[2] = d.replays;
}

// 0 where it went well.
int secondgram_emulate(void* device, const void* network, const Request* request, const EmulatedOptions* o) {
  try {
    EmulatedDevice& d = *static_cast<EmulatedDevice*>(device);
    const PackedNetwork& net = *static_cast<const PackedNetwork*>(network);
    d.bulk = o->bulk != 0, d.seed = o->order;
    Options options;
    options.persistent = o->persistent != 0, options.recorded = o->recorded != 0;
    options.rows = o->rows, options.columns = o->columns, options.stages = o->stages, options.cluster = o->cluster;
    options.step_block = o->step_block, options.chunk_rows = o->chunk_rows, options.context = o->context;
    Limits limits;
    limits.processors = 2;
    limits.groups = d.bulk;
    if (o->shared_bytes != 0) limits.shared_bytes = o->shared_bytes;
    if (o->memory_bytes != 0) limits.memory_bytes = o->memory_bytes;
    sample(d, net, *request, options, limits, [](double) { return true; });
    d.forget(net);
    return 0;
  } catch (const std::exception& error) {
    failure = error.what();
    return 1;
  }
}

// Weights [squares] streamed by `blocks` blocks; sums [blocks, kConsumers].
int secondgram_emulate_stream(const unsigned char* weights, std::uint32_t squares, std::uint32_t of_a_stage,
                              std::uint32_t stages, std::uint32_t cluster, std::uint32_t rounds, std::uint32_t blocks,
                              std::uint32_t bulk, std::uint32_t* sums) {
  try {
    const StreamList list{weights, sums, squares, of_a_stage, stages, cluster, rounds};
    const std::uint32_t shared = kStages + stages * of_a_stage * kSquareBytes;
    std::vector<std::unique_ptr<unsigned char[]>> stacks;
    for (std::uint32_t x = 0; x < blocks; x += cluster)
      emulation::run_cluster(cluster, x, 0, shared, x, stacks, [&list, bulk] {
        if (bulk != 0)
          Streamer<emulation::Emulated<true>>::run(list);
        else
          Streamer<emulation::Emulated<false>>::run(list);
      });
    return 0;
  } catch (const std::exception& error) {
    failure = error.what();
    return 1;
  }
}

}  // extern "C"
