// Python's door to the CPU core. Addresses, sizes and plain numbers only: secondgram/ops/native.py is the one caller,
// and it owns, checks and keeps alive every array.
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>

#include "core/philox.hpp"
#include "cpu/noise.hpp"

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

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "CPU core of secondgram. Not a public interface.";
  // Raised whenever a signature changes, so that a stale build is told from a fresh one.
  m.attr("interface") = 1;
  m.def("normals", &normals, py::arg("out"), py::arg("doubles"), py::arg("keys"), py::arg("n_keys"), py::arg("draws"),
        py::arg("n_draws"), py::arg("width"), py::arg("seed"), py::arg("purpose"), py::arg("step"),
        py::arg("threads"));
  m.def("philox", &philox, py::arg("counters"), py::arg("n"), py::arg("seed"), py::arg("out"));
}
