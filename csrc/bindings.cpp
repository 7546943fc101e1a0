// Python bindings of the CPU extension. Addresses, sizes and plain numbers only: the one caller, secondgram/ops/native.py,
// owns, checks and keeps alive every array.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "core/philox.hpp"
#include "cpu/noise.hpp"
#ifdef SECONDGRAM_SAMPLER
#include "cpu/dispatch.hpp"
#include "cpu/gram.hpp"
#include "cpu/missing.hpp"
#include "cpu/network.hpp"
#include "cpu/postprocess.hpp"
#include "cpu/rows.hpp"
#include "cpu/sampler.hpp"
#ifdef SECONDGRAM_X86
#include "cpu/task_sums.hpp"
#endif
#endif

namespace py = pybind11;

namespace {

template <typename T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void normals(std::uintptr_t out, bool doubles, std::uintptr_t keys, std::size_t n_keys, std::uintptr_t draws,
             std::size_t n_draws, std::size_t width, std::uint64_t seed, std::uint32_t purpose, std::uint32_t step,
             unsigned threads) {
  const secondgram::cpu::NoiseRequest request{
      at<const std::uint64_t>(keys), at<const std::uint32_t>(draws), n_keys, n_draws, width, seed, purpose, step};
  const py::gil_scoped_release release;
  if (doubles)
    secondgram::cpu::fill_normals(request, at<double>(out), threads);
  else
    secondgram::cpu::fill_normals(request, at<float>(out), threads);
}

void philox(std::uintptr_t counters, std::size_t n, std::uint64_t seed, std::uintptr_t out) {
  const auto* in = at<const secondgram::Words4>(counters);
  auto* words = at<secondgram::Words4>(out);
  const py::gil_scoped_release release;
  for (std::size_t i = 0; i < n; ++i)
    words[i] = secondgram::philox4x32_10(in[i], secondgram::key_of_seed(seed));
}

#ifdef SECONDGRAM_SAMPLER

using Array = std::tuple<std::uintptr_t, std::size_t, std::size_t>;  // address of floats, rows, columns

// Hands out the arrays of a folded denoiser in the order in which secondgram/ops/native.py lists them.
class Reader {
 public:
  Reader(const std::vector<Array>& arrays, secondgram::Precision precision) : arrays_(arrays), precision_(precision) {}
  secondgram::PackedMatrix matrix(std::size_t inputs, std::size_t outputs) {
    return secondgram::PackedMatrix(next(inputs, outputs), inputs, outputs, precision_);
  }
  std::vector<float> vector(std::size_t count) {
    const float* from = next(1, count);
    return std::vector<float>(from, from + count);
  }
  secondgram::DenseLayer dense(std::size_t inputs, std::size_t outputs) {
    secondgram::DenseLayer layer;
    layer.weight = matrix(inputs, outputs);
    layer.bias = vector(outputs);
    return layer;
  }
  void end() const {
    if (place_ != arrays_.size()) throw std::invalid_argument("too many arrays for a denoiser");
  }

 private:
  const float* next(std::size_t rows, std::size_t columns) {
    if (place_ == arrays_.size()) throw std::invalid_argument("too few arrays for a denoiser");
    const auto& [address, have_rows, have_columns] = arrays_[place_++];
    if (have_rows != rows || have_columns != columns)
      throw std::invalid_argument("array " + std::to_string(place_ - 1) + " of a denoiser has another shape");
    return at<const float>(address);
  }
  const std::vector<Array>& arrays_;
  secondgram::Precision precision_;
  std::size_t place_ = 0;
};

secondgram::Precision precision_of(const std::string& name) {
  if (name == "fp32") return secondgram::Precision::fp32;
  if (name == "fp16") return secondgram::Precision::fp16;
  if (name == "bf16") return secondgram::Precision::bf16;
  throw std::invalid_argument("no precision is called " + name);
}

std::unique_ptr<secondgram::Network> network(std::size_t features, std::size_t conditions, std::size_t embedding,
                                             const std::vector<std::size_t>& widths, const std::string& precision,
                                             const std::vector<Array>& arrays) {
  if (widths.size() != 3) throw std::invalid_argument("a denoiser has three widths");
  auto net = std::make_unique<secondgram::Network>();
  net->sizes = {features, conditions, embedding, {widths[0], widths[1], widths[2]}};
  net->precision = precision_of(precision);
  Reader read(arrays, net->precision);
  net->condition[0] = read.dense(conditions, embedding);
  net->condition[1] = read.dense(embedding, embedding);
  for (int b = 0; b < 6; ++b) {
    secondgram::FoldedBlock& block = net->blocks[b];
    const std::size_t in = net->sizes.block_in(b), out = net->sizes.block_out(b);
    block.inner = read.matrix(in, embedding);
    block.inner_bias = read.vector(embedding);
    block.image = read.matrix(embedding, out);
    block.embed = read.matrix(embedding, embedding);
    block.embed_bias = read.vector(embedding);
    block.context = read.matrix(embedding, out);
    block.bias = read.vector(out);
    if (b >= 3) block.join = read.matrix(out, out);
  }
  for (auto& layers : net->bottleneck)
    for (auto& layer : layers) layer = read.dense(widths[2], widths[2]);
  net->out = read.dense(features, features);
  read.end();
  return net;
}

// The sampler works on other threads, while this one checks for Ctrl-C and reports progress a few times a second.
void sample(const secondgram::Network& net, std::uintptr_t out, std::uintptr_t conditions, std::uintptr_t keys,
            std::size_t people, std::uintptr_t draws, std::size_t n_draws, std::uint64_t seed, std::uintptr_t times,
            std::uintptr_t steps, std::size_t n_steps, std::uintptr_t start, float start_noise,
            std::uint32_t start_purpose, std::uint32_t step_purpose, unsigned threads, const std::string& architecture,
            const py::object& progress) {
  const secondgram::cpu::SampleRequest request{at<const float>(conditions), at<const std::uint64_t>(keys),
                                               at<const std::uint32_t>(draws), people, n_draws, seed,
                                               at<const float>(times), at<const secondgram::Coefficients>(steps),
                                               n_steps, at<const float>(start), start_noise, start_purpose,
                                               step_purpose};
  if (secondgram::cpu::find_architecture(architecture, net.precision) == nullptr)
    throw std::invalid_argument("this processor has no " + architecture + " for a network packed like this one");
  if (people == 0 || n_draws == 0) return;
  std::atomic<std::size_t> done{0};
  std::atomic<bool> cancel{false};
  std::mutex mutex;
  std::condition_variable ended;
  bool over = false;
  std::exception_ptr failure;
  std::thread worker([&] {
    try {
      secondgram::cpu::sample(net, request, at<float>(out), threads, architecture.c_str(), done, cancel);
    } catch (...) {
      failure = std::current_exception();
    }
    const std::lock_guard<std::mutex> lock(mutex);
    over = true;
    ended.notify_one();
  });
  const double total = static_cast<double>(secondgram::cpu::tiles(request, threads));
  try {
    for (bool finished = false; !finished;) {
      {
        const py::gil_scoped_release release;
        std::unique_lock<std::mutex> lock(mutex);
        finished = ended.wait_for(lock, std::chrono::milliseconds(100), [&] { return over; });
      }
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (!progress.is_none()) progress(static_cast<double>(done.load()) / total);
    }
  } catch (...) {
    cancel = true;
    {
      const py::gil_scoped_release release;
      worker.join();
    }
    throw;
  }
  worker.join();
  if (failure) std::rethrow_exception(failure);
}

// loading [width, width] or 0; maps as (starts, ends, knots), both [knots, width], or 0, 0, 0.
using MapArrays = std::tuple<std::uintptr_t, std::uintptr_t, std::size_t>;

std::unique_ptr<secondgram::cpu::Postprocess> postprocessor(std::size_t width, const std::string& precision,
                                                            std::uintptr_t loading, const MapArrays& components,
                                                            const MapArrays& margins, float clip) {
  auto made = std::make_unique<secondgram::cpu::Postprocess>();
  made->width = width;
  made->precision = precision_of(precision);
  made->clip = clip;
  if (loading != 0) made->loading = secondgram::PackedMatrix(at<const float>(loading), width, width, made->precision);
  const auto maps = [&](const MapArrays& arrays) {
    const auto& [start, end, knots] = arrays;
    return knots == 0 ? secondgram::cpu::QuantileMaps()
                      : secondgram::cpu::QuantileMaps(at<const double>(start), at<const double>(end), knots, width);
  };
  made->components = maps(components);
  made->margins = maps(margins);
  return made;
}

// Missing cells (PostprocessRequest): lost, cell, by, map, by_gap, gap, weight; zeros where there are none.
using MovedArrays = std::tuple<std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t,
                               std::uintptr_t, std::uintptr_t>;

void postprocess(const secondgram::cpu::Postprocess& by, std::uintptr_t out, bool doubles, std::uintptr_t keys,
                 std::size_t people, std::uintptr_t draws, std::size_t n_draws, std::uint64_t seed,
                 std::uint32_t purpose, std::uintptr_t source, std::size_t n_source, std::uintptr_t places,
                 std::uintptr_t centre, std::uintptr_t scale, const MovedArrays& moved, unsigned threads,
                 const std::string& architecture) {
  const auto& [lost, cell, moved_by, map, by_gap, gap, weight] = moved;
  const secondgram::cpu::PostprocessRequest request{
      people, n_draws, at<const std::uint64_t>(keys), at<const std::uint32_t>(draws), seed, purpose,
      at<const float>(source), n_source, at<const std::uint32_t>(places), at<const double>(centre), at<const double>(scale),
      at<const std::int64_t>(lost), at<const std::uint32_t>(cell), at<const float>(moved_by), at<const float>(map),
      at<const float>(by_gap), at<const float>(gap), at<const float>(weight)};
  if (people == 0 || n_draws == 0) return;
  const py::gil_scoped_release release;
  if (doubles)
    secondgram::cpu::postprocess(by, request, at<double>(out), threads, architecture);
  else
    secondgram::cpu::postprocess(by, request, at<float>(out), threads, architecture);
}

// width, precision, number of groups, cells, cell, members, person: see secondgram/ops/native.py.
using GroupArrays = std::tuple<std::size_t, std::uintptr_t, std::size_t, std::uintptr_t, std::uintptr_t, std::uintptr_t,
                               std::uintptr_t>;

secondgram::cpu::MissingRequest missing(const GroupArrays& groups) {
  const auto& [width, precision, count, cells, cell, members, person] = groups;
  return {width, at<const double>(precision), count, at<const std::int64_t>(cells), at<const std::uint32_t>(cell),
          at<const std::int64_t>(members), at<const std::int64_t>(person)};
}

void fill_missing(const GroupArrays& groups, std::uintptr_t values, unsigned threads) {
  const py::gil_scoped_release release;
  secondgram::cpu::fill_missing(missing(groups), at<double>(values), threads);
}

void scatter_missing(const GroupArrays& groups, std::uintptr_t keys, std::uintptr_t draws, std::size_t n_draws,
                     std::uint64_t seed, std::uint32_t purpose, std::uintptr_t start, std::uintptr_t out,
                     unsigned threads) {
  const secondgram::cpu::ScatterRequest scatter{at<const std::uint64_t>(keys), at<const std::uint32_t>(draws), n_draws,
                                                seed, purpose, at<const std::int64_t>(start)};
  const py::gil_scoped_release release;
  secondgram::cpu::scatter_missing(missing(groups), scatter, at<float>(out), threads);
}

std::vector<std::string> architectures(const std::string& precision) {
  return secondgram::cpu::architectures(precision_of(precision));
}

void gram(std::uintptr_t rows, std::size_t n_rows, std::size_t columns, std::size_t stride, std::uintptr_t out,
          unsigned threads, std::uintptr_t team) {
  const py::gil_scoped_release release;
  secondgram::cpu::gram(at<const float>(rows), n_rows, columns, stride, at<double>(out), threads,
                        reinterpret_cast<secondgram::cpu::Team>(team));
}

void row_products(std::uintptr_t X, std::size_t rows, std::size_t inputs, std::uintptr_t W, std::size_t columns,
                  std::uintptr_t out, unsigned threads) {
  const py::gil_scoped_release release;
  secondgram::cpu::row_products(at<const double>(X), rows, inputs, at<const double>(W), columns, at<double>(out), threads);
}

#ifdef SECONDGRAM_X86
using TaskLayer = std::tuple<std::uintptr_t, std::uintptr_t, std::size_t, std::size_t, std::size_t, std::uintptr_t,
                             std::uintptr_t>;  // dY, X, rows, outputs, inputs, ends, sum

void task_sums(const std::vector<TaskLayer>& layers, std::size_t tasks, std::uintptr_t out, unsigned threads,
               std::uintptr_t team) {
  std::vector<secondgram::cpu::LayerRows> given;
  for (const auto& [dY, X, rows, outputs, inputs, ends, sum] : layers)
    given.push_back({at<const float>(dY), at<const float>(X), rows, outputs, inputs, at<const std::int64_t>(ends),
                     at<float>(sum)});
  const py::gil_scoped_release release;
  secondgram::cpu::task_sums(given, tasks, at<double>(out), threads, reinterpret_cast<secondgram::cpu::Team>(team));
}
#endif

#endif  // SECONDGRAM_SAMPLER

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "CPU core of secondgram. Not a public interface.";
  // Raised whenever a signature changes, so that a stale build is recognised.
  m.attr("interface") = 9;
  m.def("normals", &normals, py::arg("out"), py::arg("doubles"), py::arg("keys"), py::arg("n_keys"), py::arg("draws"),
        py::arg("n_draws"), py::arg("width"), py::arg("seed"), py::arg("purpose"), py::arg("step"),
        py::arg("threads"));
  m.def("philox", &philox, py::arg("counters"), py::arg("n"), py::arg("seed"), py::arg("out"));
#ifdef SECONDGRAM_SAMPLER
  py::class_<secondgram::Network>(m, "Network");
  m.def("network", &network, py::arg("features"), py::arg("conditions"), py::arg("embedding"), py::arg("widths"),
        py::arg("precision"), py::arg("arrays"));
  m.def("architectures", &architectures, py::arg("precision"),
        "Instruction sets of the sampler that this processor has for a precision, best first.");
  m.def("sample", &sample, py::arg("network"), py::arg("out"), py::arg("conditions"), py::arg("keys"),
        py::arg("people"), py::arg("draws"), py::arg("n_draws"), py::arg("seed"), py::arg("times"), py::arg("steps"),
        py::arg("n_steps"), py::arg("start"), py::arg("start_noise"), py::arg("start_purpose"),
        py::arg("step_purpose"), py::arg("threads"), py::arg("architecture"), py::arg("progress"));
  m.def("row_products", &row_products, py::arg("X"), py::arg("rows"), py::arg("inputs"), py::arg("W"),
        py::arg("columns"), py::arg("out"), py::arg("threads"));
  m.def("gram", &gram, py::arg("rows"), py::arg("n_rows"), py::arg("columns"), py::arg("stride"), py::arg("out"),
        py::arg("threads"), py::arg("team"));
#ifdef SECONDGRAM_X86
  m.def("task_sums", &task_sums, py::arg("layers"), py::arg("tasks"), py::arg("out"), py::arg("threads"),
        py::arg("team"));
#endif
  py::class_<secondgram::cpu::Postprocess>(m, "Postprocess");
  m.def("postprocessor", &postprocessor, py::arg("width"), py::arg("precision"), py::arg("loading"),
        py::arg("components"), py::arg("margins"), py::arg("clip"));
  m.def("postprocess", &postprocess, py::arg("by"), py::arg("out"), py::arg("doubles"), py::arg("keys"),
        py::arg("people"), py::arg("draws"), py::arg("n_draws"), py::arg("seed"), py::arg("purpose"), py::arg("source"),
        py::arg("n_source"), py::arg("places"), py::arg("centre"), py::arg("scale"), py::arg("moved"),
        py::arg("threads"), py::arg("architecture"));
  m.def("fill_missing", &fill_missing, py::arg("groups"), py::arg("values"), py::arg("threads"));
  m.def("scatter_missing", &scatter_missing, py::arg("groups"), py::arg("keys"), py::arg("draws"), py::arg("n_draws"),
        py::arg("seed"), py::arg("purpose"), py::arg("start"), py::arg("out"), py::arg("threads"));
#endif
}
