// The kernels, and the device that launches them. Linked with the static runtime, which loads the driver at its first
// use.
#include <cuda_runtime.h>

#include <chrono>
#include <cstring>
#include <stdexcept>
#include <thread>

#include "device.hpp"
#include "gpu.cuh"
#include "stream.hpp"

namespace secondgram::cuda {

template <int kRows, int kColumns>
__global__ void __launch_bounds__(kThreads, 1) block_program(const __grid_constant__ BlockProgram list) {
  // Four columns of sums need the registers that only groups of warps can have; elsewhere nobody asks for them.
  if constexpr (kColumns < 4 || ThisGpu::kGroups)
    ProgramRunner<ThisGpu, kRows, kColumns>(list).run();
  else
    __trap();
}

// Which instructions this was compiled for: code for sm_90 without the a runs on the same device and has none of them.
__global__ void tell_groups(int* groups) { *groups = ThisGpu::kGroups ? 1 : 0; }

__global__ void __launch_bounds__(kThreads, 1) stream_weights(const __grid_constant__ StreamList list) {
  Streamer<ThisGpu>::run(list);
}

constexpr unsigned kFragmentThreads = 256;

template <class Work>
__global__ void __launch_bounds__(kFragmentThreads) fragments(const __grid_constant__ Work work) {
  const std::uint32_t units = work.units(), count = work.fragments();
  for (std::uint32_t unit = blockIdx.x; unit < units; unit += gridDim.x)
    for (std::uint32_t i = threadIdx.x; i < count; i += blockDim.x) work.fragment(unit, i);
}

namespace {

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clears an error that is not sticky
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

using ProgramKernel = void (*)(const BlockProgram);

ProgramKernel kernel_of(std::uint32_t rows, std::uint32_t columns) {
  if (rows == 1) return block_program<1, 2>;
  return columns == 2 ? block_program<2, 2> : block_program<2, 4>;
}

// Selects a device for as long as it lives.
class Selected {
 public:
  explicit Selected(int number) {
    check(cudaGetDevice(&before_), "cannot ask for the current CUDA device");
    if (before_ != number) check(cudaSetDevice(number), "cannot select the CUDA device");
    number_ = number;
  }
  ~Selected() {
    if (before_ != number_) cudaSetDevice(before_);
  }

 private:
  int before_ = 0, number_ = 0;
};

bool is_on_device(const void* place) {
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, place) == cudaSuccess) return attributes.type == cudaMemoryTypeDevice;
  cudaGetLastError();
  return false;
}

template <class... Arguments>
void start(void (*kernel)(Arguments...), dim3 grid, unsigned threads, std::size_t shared, unsigned cluster,
           cudaStream_t stream, const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = dim3(threads), config.dynamicSmemBytes = shared, config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = cluster, attribute.val.clusterDim.y = 1, attribute.val.clusterDim.z = 1;
  config.attrs = &attribute, config.numAttrs = cluster > 1 ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "a kernel could not be launched");
}

}  // namespace

int count_devices(std::string* reason) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    *reason = cudaGetErrorString(error);
    return 0;
  }
  if (count == 0) *reason = "no CUDA device";
  return count;
}

std::string compiler() {
  return std::to_string(__CUDACC_VER_MAJOR__) + "." + std::to_string(__CUDACC_VER_MINOR__) + "." +
         std::to_string(__CUDACC_VER_BUILD__);
}

struct Device::State {
  cudaStream_t stream = nullptr, copies = nullptr;
  unsigned char* memory = nullptr;
  std::size_t bytes = 0;
  // Events of the last two waits; results on their way through two pinned buffers.
  cudaEvent_t passed[2] = {}, arrived[2] = {};
  unsigned turns = 0, transfers = 0;
  unsigned char* pinned[2] = {};
  std::size_t pinned_bytes[2] = {};
  std::function<void()> deliver[2];
  // Events of the inputs of chunks: they have left pinned memory, and they have been read from `landing`.
  cudaEvent_t staged[2] = {}, taken[2] = {};
  unsigned char* pinned_inputs[2] = {};
  std::size_t pinned_input_bytes[2] = {};
  std::size_t largest_pitch = 0;

  ~State() {
    if (copies != nullptr) cudaStreamSynchronize(copies);
    if (stream != nullptr) cudaStreamSynchronize(stream);
    cudaFree(memory);
    for (int i = 0; i < 2; ++i) {
      cudaFreeHost(pinned[i]);
      cudaFreeHost(pinned_inputs[i]);
      if (staged[i] != nullptr) cudaEventDestroy(staged[i]);
      if (taken[i] != nullptr) cudaEventDestroy(taken[i]);
      if (passed[i] != nullptr) cudaEventDestroy(passed[i]);
      if (arrived[i] != nullptr) cudaEventDestroy(arrived[i]);
    }
    if (copies != nullptr) cudaStreamDestroy(copies);
    if (stream != nullptr) cudaStreamDestroy(stream);
  }

  void grow(unsigned char*& memory, std::size_t& held, std::size_t bytes) {
    if (held >= bytes) return;
    check(cudaFreeHost(memory), "cannot give pinned memory back");
    memory = nullptr, held = 0;
    check(cudaMallocHost(&memory, bytes), "too little memory that can be pinned");
    held = bytes;
  }
};

Device::Device(int number) : state_(new State), number_(number) {
  const Selected selected(number);
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, number), "cannot read the CUDA device's properties");
  name_ = properties.name;
  check(cudaDeviceGetAttribute(&clock_khz_, cudaDevAttrClockRate, number), "cannot read the CUDA device's clock");
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, block_program<1, 2>), "no kernel was built for this CUDA device");
  const int shared = static_cast<int>(properties.sharedMemPerBlockOptin);
  for (const TileSize& size : kTileSizes)
    check(cudaFuncSetAttribute(kernel_of(size.rows, size.columns), cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
          "the CUDA device refuses its shared memory");
  check(cudaFuncSetAttribute(stream_weights, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
        "the CUDA device refuses its shared memory");
  // Kernels are loaded now, because none can be loaded while a graph is recorded.
  const void* const kernels[] = {
      reinterpret_cast<const void*>(fragments<Begin>), reinterpret_cast<const void*>(fragments<Pack>),
      reinterpret_cast<const void*>(fragments<Embed>), reinterpret_cast<const void*>(fragments<End>)};
  for (const void* kernel : kernels)
    check(cudaFuncGetAttributes(&attributes, kernel), "no kernel was built for this CUDA device");
  check(cudaStreamCreateWithFlags(&state_->stream, cudaStreamNonBlocking), "cannot make a CUDA stream");
  check(cudaStreamCreateWithFlags(&state_->copies, cudaStreamNonBlocking), "cannot make a CUDA stream");
  limits_.shared_bytes = static_cast<std::uint32_t>(properties.sharedMemPerBlockOptin);
  limits_.processors = static_cast<std::uint32_t>(properties.multiProcessorCount);
  state_->largest_pitch = properties.memPitch;
  int groups = 0;
  unsigned char* told = reserve(sizeof groups);
  tell_groups<<<1, 1, 0, state_->stream>>>(reinterpret_cast<int*>(told));
  check(cudaGetLastError(), "a kernel could not be launched");
  check(cudaMemcpyAsync(&groups, told, sizeof groups, cudaMemcpyDeviceToHost, state_->stream),
        "copying from the CUDA device failed");
  check(cudaStreamSynchronize(state_->stream), "work on the CUDA device failed");
  limits_.groups = groups != 0;
  for (int i = 0; i < 2; ++i) {
    check(cudaEventCreateWithFlags(&state_->staged[i], cudaEventDisableTiming), "cannot make a CUDA event");
    check(cudaEventCreateWithFlags(&state_->taken[i], cudaEventDisableTiming), "cannot make a CUDA event");
    check(cudaEventCreateWithFlags(&state_->passed[i], cudaEventDisableTiming), "cannot make a CUDA event");
    check(cudaEventCreateWithFlags(&state_->arrived[i], cudaEventDisableTiming), "cannot make a CUDA event");
  }
}

Device::~Device() {
  try {
    const Selected selected(number_);
    kept_ = {};
    state_.reset();
  } catch (...) {
    state_.release();  // the driver has gone already, as it has when the process ends
  }
}

Limits Device::limits() const {
  const Selected selected(number_);
  Limits limits = limits_;
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cannot ask how much of the CUDA device's memory is free");
  // Memory that is held already is reused; a fifth of the free memory is left to other processes.
  limits.memory_bytes = state_->bytes + free / 10 * 8;
  return limits;
}

void Device::begin(std::uintptr_t stream) {
  const Selected selected(number_);
  // Results of a request that failed are dropped.
  check(cudaStreamSynchronize(state_->copies), "work on the CUDA device failed");
  check(cudaStreamSynchronize(state_->stream), "work on the CUDA device failed");
  for (auto& deliver : state_->deliver) deliver = nullptr;
  check(cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(stream)), "work on the stream failed");
}

void Device::release() {
  const Selected selected(number_);
  check(cudaStreamSynchronize(state_->copies), "work on the CUDA device failed");
  check(cudaStreamSynchronize(state_->stream), "work on the CUDA device failed");
  kept_ = {};
  check(cudaFree(state_->memory), "cannot give memory of the CUDA device back");
  state_->memory = nullptr, state_->bytes = 0;
}

unsigned char* Device::reserve(std::size_t bytes) {
  const Selected selected(number_);
  if (bytes > state_->bytes) {
    release();
    check(cudaMalloc(&state_->memory, bytes), "the CUDA device has too little memory");
    state_->bytes = bytes;
  }
  return state_->memory;
}

void Device::upload(unsigned char* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  const Selected selected(number_);
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, state_->stream), "copying to the CUDA device failed");
}

void Device::stage(unsigned turn, unsigned char* landing, std::size_t bytes, const std::vector<Input>& inputs) {
  const Selected selected(number_);
  State& s = *state_;
  // An event that was never recorded counts as passed.
  check(cudaEventSynchronize(s.staged[turn]), "work on the CUDA device failed");
  check(cudaStreamWaitEvent(s.copies, s.taken[turn], 0), "cannot order CUDA streams");
  s.grow(s.pinned_inputs[turn], s.pinned_input_bytes[turn], bytes);
  for (const Input& one : inputs) {
    const void* from = one.from;
    if (!is_on_device(from)) {
      std::memcpy(s.pinned_inputs[turn] + one.to, from, one.bytes);
      from = s.pinned_inputs[turn] + one.to;
    }
    check(cudaMemcpyAsync(landing + one.to, from, one.bytes, cudaMemcpyDefault, s.copies),
          "copying to the CUDA device failed");
  }
  check(cudaEventRecord(s.staged[turn], s.copies), "cannot mark the CUDA stream");
}

void Device::hand_over(unsigned turn, unsigned char* to, const unsigned char* landing, std::size_t bytes) {
  const Selected selected(number_);
  State& s = *state_;
  check(cudaStreamWaitEvent(s.stream, s.staged[turn], 0), "cannot order CUDA streams");
  check(cudaMemcpyAsync(to, landing, bytes, cudaMemcpyDeviceToDevice, s.stream), "copying on the CUDA device failed");
  check(cudaEventRecord(s.taken[turn], s.stream), "cannot mark the CUDA stream");
}

void Device::download(float* to, std::size_t pitch, const unsigned char* from, std::size_t bytes, std::size_t count) {
  const Selected selected(number_);
  State& s = *state_;
  if (is_on_device(to)) {
    // Rows further apart than the driver's largest pitch are copied one by one.
    const std::size_t rows = pitch <= s.largest_pitch ? count : 1;
    for (std::size_t i = 0; i < count; i += rows)
      check(cudaMemcpy2DAsync(reinterpret_cast<unsigned char*>(to) + i * pitch, rows == 1 ? bytes : pitch,
                              from + i * bytes, bytes, bytes, rows, cudaMemcpyDeviceToDevice, s.stream),
            "copying on the CUDA device failed");
    return;
  }
  // Through pinned memory, so that the next chunk is worked on while this one is put where it belongs.
  const unsigned turn = s.transfers++ % 2;
  s.grow(s.pinned[turn], s.pinned_bytes[turn], bytes * count);
  check(cudaMemcpyAsync(s.pinned[turn], from, bytes * count, cudaMemcpyDeviceToHost, s.stream),
        "copying from the CUDA device failed");
  check(cudaEventRecord(s.arrived[turn], s.stream), "cannot mark the CUDA stream");
  s.deliver[turn] = [&s, turn, to, pitch, bytes, count] {
    check(cudaEventSynchronize(s.arrived[turn]), "work on the CUDA device failed");
    for (std::size_t i = 0; i < count; ++i)
      std::memcpy(reinterpret_cast<unsigned char*>(to) + i * pitch, s.pinned[turn] + i * bytes, bytes);
  };
  if (s.deliver[1 - turn]) s.deliver[1 - turn](), s.deliver[1 - turn] = nullptr;
}

void Device::finish() {
  const Selected selected(number_);
  for (auto& deliver : state_->deliver)
    if (deliver) deliver(), deliver = nullptr;
  check(cudaStreamSynchronize(state_->stream), "work on the CUDA device failed");
}

void Device::launch(const Launch& one) {
  const Selected selected(number_);
  const cudaStream_t stream = state_->stream;
  if (const auto* list = std::get_if<ProgramLaunch>(&one)) {
    start<BlockProgram>(kernel_of(list->rows, list->columns), dim3(list->blocks_x, list->blocks_y), kThreads,
                list->shared_bytes, list->program.cluster, stream, list->program);
    return;
  }
  const FragmentLaunch& some = std::get<FragmentLaunch>(one);
  const unsigned grid = static_cast<unsigned>(std::min<std::uint64_t>(std::max<std::uint64_t>(some.most, 1), 1u << 16));
  std::visit(
      [&](const auto& work) {
        start<std::decay_t<decltype(work)>>(fragments<std::decay_t<decltype(work)>>, dim3(grid), kFragmentThreads, 0, 1,
                                            stream, work);
      },
      some.work);
}

Device::Recording Device::record(const std::vector<Launch>& launches) {
  const Selected selected(number_);
  cudaGraph_t graph = nullptr;
  check(cudaStreamBeginCapture(state_->stream, cudaStreamCaptureModeThreadLocal), "cannot record a CUDA graph");
  try {
    for (const Launch& one : launches) launch(one);
  } catch (...) {
    cudaStreamEndCapture(state_->stream, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(state_->stream, &graph), "cannot record a CUDA graph");
  cudaGraphExec_t ready = nullptr;
  const cudaError_t error = cudaGraphInstantiate(&ready, graph, 0);
  cudaGraphDestroy(graph);
  check(error, "cannot make a CUDA graph ready");
  return Recording(ready, [](void* made) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(made)); });
}

void Device::replay(const Recording& recording) {
  const Selected selected(number_);
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(recording.get()), state_->stream),
        "a CUDA graph could not be launched");
}

void Device::wait(const std::function<bool()>& report) {
  const Selected selected(number_);
  State& s = *state_;
  const unsigned turn = s.turns++ % 2;
  check(cudaEventRecord(s.passed[turn], s.stream), "cannot mark the CUDA stream");
  auto asked = std::chrono::steady_clock::time_point{};
  for (;;) {
    const auto now = std::chrono::steady_clock::now();
    if (now - asked >= std::chrono::milliseconds(100)) {
      asked = now;
      if (!report()) {
        cudaStreamSynchronize(s.stream);
        throw Cancelled{};
      }
    }
    // An event that was never recorded counts as passed.
    const cudaError_t error = cudaEventQuery(s.passed[1 - turn]);
    if (error == cudaSuccess) return;
    if (error != cudaErrorNotReady) check(error, "work on the CUDA device failed");
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

float Device::stream(std::uint32_t squares, std::uint32_t of_a_stage, std::uint32_t stages, std::uint32_t cluster,
                     std::uint32_t rounds) {
  const Selected selected(number_);
  const std::uint32_t blocks = limits().processors / cluster * cluster;
  const std::size_t bytes = std::size_t{squares} * kSquareBytes, sums = std::size_t{blocks} * kConsumers;
  unsigned char* memory = reserve(bytes + sums * sizeof(std::uint32_t));
  kept_.network = 0;
  std::vector<std::uint32_t> words(bytes / 4), got(sums), expected(kConsumers, 0);
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = static_cast<std::uint32_t>(i * 2654435761u);
  upload(memory, words.data(), bytes);
  for (std::uint32_t round = 0, first = 0; round < rounds; ++round) {
    for (std::uint32_t t = 0; t < kConsumers; ++t) expected[t] += words[std::size_t{first} * (kSquareBytes / 4) + t];
    first += of_a_stage;
    if (first + of_a_stage > squares) first = 0;
  }
  const StreamList list{memory, reinterpret_cast<std::uint32_t*>(memory + bytes), squares, of_a_stage, stages, cluster,
                        rounds};
  const std::size_t shared = kStages + std::size_t{stages} * of_a_stage * kSquareBytes;
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "cannot make a CUDA event");
  check(cudaEventCreate(&end), "cannot make a CUDA event");
  start<StreamList>(stream_weights, dim3(blocks), kThreads, shared, cluster, state_->stream, list);
  check(cudaEventRecord(begin, state_->stream), "cannot mark the CUDA stream");
  start<StreamList>(stream_weights, dim3(blocks), kThreads, shared, cluster, state_->stream, list);
  check(cudaEventRecord(end, state_->stream), "cannot mark the CUDA stream");
  check(cudaMemcpyAsync(got.data(), list.sums, sums * sizeof(std::uint32_t), cudaMemcpyDeviceToHost, state_->stream),
        "copying from the CUDA device failed");
  check(cudaStreamSynchronize(state_->stream), "work on the CUDA device failed");
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, begin, end), "cannot time the CUDA stream");
  cudaEventDestroy(begin), cudaEventDestroy(end);
  for (std::size_t i = 0; i < sums; ++i)
    if (got[i] != expected[i % kConsumers]) throw std::runtime_error("streamed weights arrived wrong");
  return milliseconds;
}

}  // namespace secondgram::cuda
