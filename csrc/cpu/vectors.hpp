// Included once per instruction set, inside its namespace: vectors of SECONDGRAM_LANES floats and elementwise loops.
//
// SECONDGRAM_TARGET names the instruction set function by function, not file by file: an inline function of a header that
// is compiled with a file's flags may be the one copy that the linker keeps for all.

constexpr std::size_t kLanes = SECONDGRAM_LANES;
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));
// The same at any address: through memcpy, GCC loads a vector of eight in halves and waits for them to meet.
typedef float Loose __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));

SECONDGRAM_TARGET inline void load(Vector& v, const float* p) { v = *reinterpret_cast<const Loose*>(p); }
SECONDGRAM_TARGET inline void store(float* p, const Vector& v) { *reinterpret_cast<Loose*>(p) = v; }

#include SECONDGRAM_SILU

struct Elementwise {
  SECONDGRAM_TARGET static void silu_of_sum(const float* a, const float* b, float* out, std::size_t count) {
    silu(a, 1.0f, b, out, count);
  }
  SECONDGRAM_TARGET static void silu_scaled(const float* a, float scale, const float* b, float* out, std::size_t count) {
    silu(a, scale, b, out, count);
  }
  // 1 / sqrt(variance + 1e-5) of a row, the variance about the mean in a second pass.
  SECONDGRAM_TARGET static float reciprocal_deviation(const float* x, std::size_t count) {
    const float mean = sum(x, count, 0.0f, false) / static_cast<float>(count);
    const float variance = sum(x, count, mean, true) / static_cast<float>(count);
    return 1.0f / std::sqrt(variance + 1e-5f);
  }

 private:
  SECONDGRAM_TARGET static float sum(const float* x, std::size_t count, float middle, bool square) {
    Vector total = {};
    std::size_t j = 0;
    for (; j + kLanes <= count; j += kLanes) {
      Vector v;
      load(v, x + j);
      v -= middle;
      total += square ? v * v : v;
    }
    float all = 0.0f;
    for (std::size_t lane = 0; lane < kLanes; ++lane) all += total[lane];
    for (; j < count; ++j) all += square ? (x[j] - middle) * (x[j] - middle) : x[j] - middle;
    return all;
  }
};
