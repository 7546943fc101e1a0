// Choice of the instruction set at run time: attributes of functions that the loader chooses, and the table of the tiles.
#pragma once

#include <atomic>
#include <cstddef>
#include <string>
#include <vector>

// Of a function whose copies for several instruction sets the compiler makes and the loader chooses from. CMakeLists.txt
// sets it to target_clones(...) where compiler and system can do that.
#ifndef SECONDGRAM_CLONES
#define SECONDGRAM_CLONES
#endif

// Of a helper that is inlined into its callers, and so compiled for the instruction set of each.
#ifdef __GNUC__
#define SECONDGRAM_FLAT __attribute__((always_inline)) inline
#else
#define SECONDGRAM_FLAT inline
#endif

namespace secondgram {

enum class Precision;
struct Network;
struct Workspace;

}  // namespace secondgram

namespace secondgram::cpu {

struct Postprocess;
struct PostprocessRequest;
struct PostprocessWorkspace;
struct SampleRequest;

#ifdef SECONDGRAM_X86
inline bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
inline bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

template <typename T>
using PostprocessTile = void (*)(const Postprocess&, const PostprocessRequest&, PostprocessWorkspace&,
                                 std::size_t person, std::size_t people, std::size_t draw, std::size_t draws, T* out);

// An instruction set that tiles are compiled for, with its functions of one tile.
struct Architecture {
  const char* name;
  Precision precision;
  bool (*present)();
  void (*run_tile)(const Network&, const SampleRequest&, Workspace&, std::size_t person, std::size_t people,
                   std::size_t draw, std::size_t draws, float* out, const std::atomic<bool>& cancel);
  PostprocessTile<float> postprocess_floats;
  PostprocessTile<double> postprocess_doubles;

  PostprocessTile<float> postprocess_tile(const float*) const { return postprocess_floats; }
  PostprocessTile<double> postprocess_tile(const double*) const { return postprocess_doubles; }
};

// Null where the instruction set was not compiled in or this processor lacks it.
const Architecture* find_architecture(const std::string& name, Precision precision);
// Names of those that this processor has for a precision, best first.
std::vector<std::string> architectures(Precision precision);

}  // namespace secondgram::cpu
