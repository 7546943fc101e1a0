// Python bindings of the CUDA sampler. Addresses, sizes and plain numbers only: the one caller, secondgram/ops/cuda.py,
// owns, checks and keeps alive every array.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "device.hpp"
#include "plan.hpp"

namespace py = pybind11;
using namespace secondgram;
using namespace secondgram::cuda;

namespace {

template <typename T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

std::unique_ptr<PackedNetwork> network(std::size_t features, std::size_t conditions, std::size_t embedding,
                                const std::vector<std::size_t>& widths,
                                const std::vector<std::tuple<std::uintptr_t, std::size_t, std::size_t>>& arrays) {
  if (widths.size() != 3) throw std::invalid_argument("a denoiser has three widths");
  std::vector<Array> listed;
  for (const auto& [address, rows, columns] : arrays) listed.push_back({at<const float>(address), rows, columns});
  return std::make_unique<PackedNetwork>(Shape{features, conditions, embedding, {widths[0], widths[1], widths[2]}}, listed);
}

Options options_of(const std::map<std::string, std::size_t>& named) {
  Options o;
  for (const auto& [name, value] : named) {
    const auto small = static_cast<std::uint32_t>(value);
    if (name == "persistent")
      o.persistent = value != 0;
    else if (name == "recorded")
      o.recorded = value != 0;
    else if (name == "rows")
      o.rows = small;
    else if (name == "columns")
      o.columns = small;
    else if (name == "stages")
      o.stages = small;
    else if (name == "cluster")
      o.cluster = small;
    else if (name == "step_block")
      o.step_block = small;
    else if (name == "context")
      o.context = small;
    else if (name == "chunk_rows")
      o.chunk_rows = value;
    else
      throw std::invalid_argument("the CUDA sampler has no option " + name);
  }
  return o;
}

py::dict facts_of(const Tile& t) {
  py::dict facts;
  facts["rows"] = t.rows * kSide;
  facts["columns"] = t.columns * kSide;
  facts["stages"] = t.stages;
  facts["cluster"] = t.cluster;
  facts["shared_bytes"] = t.shared_bytes;
  facts["weight_bytes"] = t.weight_bytes;
  facts["activation_bytes"] = t.activation_bytes;
  facts["received_bytes"] = t.received_bytes;
  const char* const names[kBuffers] = {"state", "inner", "first", "second", "third", "fourth", "up1", "up2", "up3"};
  std::map<std::string, std::uint32_t> places;
  for (int b = 0; b < kBuffers; ++b)
    if (t.shared[b] != kNowhere) places[names[b]] = t.shared[b];
  facts["places"] = places;
  facts["strip_bytes"] = t.strip * kSquareBytes;
  return facts;
}

// The plan for so many people, draws and steps on a device with these limits; no device is needed.
py::dict plan(const PackedNetwork& net, std::size_t people, std::size_t draws, std::size_t steps,
              const std::map<std::string, std::size_t>& options, std::uint32_t shared_bytes, std::uint32_t processors,
              std::size_t memory_bytes, bool groups) {
  const std::vector<Coefficients> coefficients(steps, Coefficients{});
  Request request{};
  request.people = people, request.n_draws = draws, request.n_steps = steps, request.steps = coefficients.data();
  const Plan made(net, request, options_of(options), Limits{shared_bytes, processors, memory_bytes, groups});
  py::dict facts;
  facts["people"] = made.people;
  facts["draws"] = made.draws;
  facts["memory_bytes"] = made.at.total;
  facts["step_block"] = made.step_block;
  facts["tile"] = facts_of(made.middle);
  if (!made.persistent) {
    facts["launches_per_step"] = made.step(nullptr, 0).size();
    facts["product_tile"] = facts_of(made.tile);
  }
  return facts;
}

void sample_on(Device& device, const PackedNetwork& net, std::uintptr_t out, std::uintptr_t conditions, std::uintptr_t keys,
               std::size_t people, std::uintptr_t draws, std::size_t n_draws, std::uint64_t seed, std::uintptr_t times,
               std::uintptr_t steps, std::size_t n_steps, std::uintptr_t start, float start_noise,
               std::uint32_t start_purpose, std::uint32_t step_purpose, std::uintptr_t stream,
               const std::map<std::string, std::size_t>& options, const py::object& progress) {
  const Request request{at<const float>(conditions),
                        at<const std::uint64_t>(keys),
                        at<const std::uint32_t>(draws),
                        people,
                        n_draws,
                        seed,
                        at<const float>(times),
                        at<const Coefficients>(steps),
                        n_steps,
                        at<const float>(start),
                        start_noise,
                        start_purpose,
                        step_purpose,
                        at<float>(out)};
  const Options chosen = options_of(options);
  std::unique_ptr<py::error_already_set> interrupted;
  const auto report = [&](double share) {
    const py::gil_scoped_acquire hold;
    try {
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (!progress.is_none()) progress(share);
      return true;
    } catch (py::error_already_set& error) {
      interrupted = std::make_unique<py::error_already_set>(std::move(error));
      return false;
    }
  };
  try {
    const py::gil_scoped_release release;
    const std::lock_guard<std::mutex> alone(device.busy());
    device.begin(stream);
    sample(device, net, request, chosen, device.limits(), report);
  } catch (const Cancelled&) {
  }
  if (interrupted) throw py::error_already_set(std::move(*interrupted));
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "CUDA sampler of secondgram. Not a public interface.";
  // Raised whenever a signature changes, so that a stale build is recognised.
  m.attr("interface") = 1;
  m.attr("compiler") = compiler();
  py::class_<PackedNetwork>(m, "Network");
  m.def("network", &network, py::arg("features"), py::arg("conditions"), py::arg("embedding"), py::arg("widths"),
        py::arg("arrays"));
  m.def("plan", &plan, py::arg("network"), py::arg("people"), py::arg("draws"), py::arg("steps"), py::arg("options"),
        py::arg("shared_bytes"), py::arg("processors"), py::arg("memory_bytes"), py::arg("groups"));
  m.def("devices", [] {
    std::string reason;
    const int count = count_devices(&reason);
    return py::make_tuple(count, reason);
  });
  py::class_<Device>(m, "Device")
      .def(py::init<int>(), py::arg("number"))
      .def_property_readonly("name", &Device::name)
      .def_property_readonly("facts",
                             [](const Device& device) {
                               const Limits limits = device.limits();
                               py::dict facts;
                               facts["name"] = device.name();
                               facts["clock_khz"] = device.clock_khz();
                               facts["processors"] = limits.processors;
                               facts["shared_bytes"] = limits.shared_bytes;
                               facts["memory_bytes"] = limits.memory_bytes;
                               facts["groups"] = limits.groups;
                               return facts;
                             })
      .def(
          "stream",
          [](Device& device, std::uint32_t squares, std::uint32_t of_a_stage, std::uint32_t stages,
             std::uint32_t cluster, std::uint32_t rounds) {
            const py::gil_scoped_release release;
            const std::lock_guard<std::mutex> alone(device.busy());
            return device.stream(squares, of_a_stage, stages, cluster, rounds);
          },
          py::arg("squares"), py::arg("of_a_stage"), py::arg("stages"), py::arg("cluster"), py::arg("rounds"))
      .def("release",
           [](Device& device) {
             const py::gil_scoped_release release;
             const std::lock_guard<std::mutex> alone(device.busy());
             device.release();
           })
      .def("sample", &sample_on, py::arg("network"), py::arg("out"), py::arg("conditions"), py::arg("keys"),
           py::arg("people"), py::arg("draws"), py::arg("n_draws"), py::arg("seed"), py::arg("times"), py::arg("steps"),
           py::arg("n_steps"), py::arg("start"), py::arg("start_noise"), py::arg("start_purpose"),
           py::arg("step_purpose"), py::arg("stream"), py::arg("options"), py::arg("progress"));
}
