#include "dispatch.hpp"

#include "matrix.hpp"

#ifdef SECONDGRAM_X86
#include <cpuid.h>
#endif

namespace secondgram::cpu {

#define SECONDGRAM_DECLARE(isa)                                                                                       \
  namespace isa {                                                                                                     \
  void run_tile(const Network&, const SampleRequest&, Workspace&, std::size_t, std::size_t, std::size_t, std::size_t, \
                float*, const std::atomic<bool>&);                                                                    \
  template <typename T>                                                                                               \
  void postprocess_tile(const Postprocess&, const PostprocessRequest&, PostprocessWorkspace&, std::size_t,            \
                        std::size_t, std::size_t, std::size_t, T*);                                                   \
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

#ifdef SECONDGRAM_X86
// Bits of cpuid leaf 7 that not every compiler has a name for. has_avx512 also checks that the system saves the registers.
bool leaf7(unsigned subleaf, bool in_edx, unsigned bit) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, subleaf, &a, &b, &c, &d) != 0 && ((in_edx ? d : a) >> bit & 1u) != 0;
}
#endif

#define SECONDGRAM_TILES(isa) isa::run_tile, isa::postprocess_tile<float>, isa::postprocess_tile<double>

const Architecture kArchitectures[] = {
#ifdef SECONDGRAM_X86
#ifdef SECONDGRAM_AVX512_FP16
    {"avx512", Precision::fp16, [] { return has_avx512() && leaf7(0, true, 23); }, SECONDGRAM_TILES(avx512_fp16)},
#endif
#ifdef SECONDGRAM_AVX512_BF16
    {"avx512", Precision::bf16, [] { return has_avx512() && leaf7(1, false, 5); }, SECONDGRAM_TILES(avx512_bf16)},
#endif
    {"avx512", Precision::fp32, has_avx512, SECONDGRAM_TILES(avx512)},
    {"avx2", Precision::fp32, has_avx2, SECONDGRAM_TILES(avx2)},
#endif
    {"portable", Precision::fp32, [] { return true; }, SECONDGRAM_TILES(portable)},
};

}  // namespace

const Architecture* find_architecture(const std::string& name, Precision precision) {
  for (const Architecture& entry : kArchitectures)
    if (entry.name == name && entry.precision == precision && entry.present()) return &entry;
  return nullptr;
}

std::vector<std::string> architectures(Precision precision) {
  std::vector<std::string> names;
  for (const Architecture& entry : kArchitectures)
    if (entry.precision == precision && entry.present()) names.emplace_back(entry.name);
  return names;
}

}  // namespace secondgram::cpu
