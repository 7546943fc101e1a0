// Denormalises a tile: centre + scale * residual, in original units.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "isa.hpp"
#include "matrix.hpp"
#include "partition.hpp"
#include "postprocess.hpp"
#include "vectors.hpp"

namespace secondgram::cpu::SECONDGRAM_ISA {
namespace {

// residual [width, kTileRows], clipped to +-end, to out [width, people, draws] of everybody.
template <typename T>
SECONDGRAM_TARGET void denormalise_any(const PostprocessRequest& q, std::size_t width, const float* residual, float end,
                                std::size_t person, std::size_t people, std::size_t draw, std::size_t draws, T* out) {
  for (std::size_t j = 0; j < width; ++j)
    for (std::size_t p = 0; p < people; ++p) {
      const std::size_t here = person + p;
      const T centre = static_cast<T>(q.centre[here * width + j]), scale = static_cast<T>(q.scale[here * width + j]);
      const float* from = residual + j * kTileRows + p * draws;
      T* to = out + (j * q.people + here) * q.n_draws + draw;
      for (std::size_t d = 0; d < draws; ++d)
        to[d] = centre + scale * static_cast<T>(std::min(std::max(from[d], -end), end));
    }
}

#if SECONDGRAM_LANES == 16
// For tiles of few people, centre and scale of all of them fit in one vector, and a permutation gives each row those of
// its person.

// A tile's values of a column, `kCount` rows at a time. place : the person of each row;  store : stores `left` of them, at an
// address of a whole cache line where that is kCount or more.
struct DoubleColumn {
  static constexpr std::size_t kCount = 8;
  using Value = double;
  using Vector = __m512d;
  SECONDGRAM_TARGET static __m512i places(const std::uint32_t* from) {
    return _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  SECONDGRAM_TARGET static Vector of(__m512i place, const double* values) {
    return _mm512_permutexvar_pd(place, _mm512_load_pd(values));
  }
  SECONDGRAM_TARGET static Vector residual(const float* from, float end) {
    const __m256 ends = _mm256_set1_ps(end);
    return _mm512_cvtps_pd(_mm256_min_ps(_mm256_max_ps(_mm256_loadu_ps(from), -ends), ends));
  }
  SECONDGRAM_TARGET static Vector fused(Vector a, Vector b, Vector c) { return _mm512_fmadd_pd(a, b, c); }
  SECONDGRAM_TARGET static void store(double* to, Vector v, std::size_t left) {
    if (left >= kCount) return _mm512_stream_pd(to, v);
    _mm512_mask_storeu_pd(to, static_cast<__mmask8>(first_of(left)), v);
  }
};

struct FloatColumn {
  static constexpr std::size_t kCount = 16;
  using Value = float;
  using Vector = __m512;
  SECONDGRAM_TARGET static __m512i places(const std::uint32_t* from) { return _mm512_loadu_si512(from); }
  SECONDGRAM_TARGET static Vector of(__m512i place, const float* values) {
    return _mm512_permutexvar_ps(place, _mm512_load_ps(values));
  }
  SECONDGRAM_TARGET static Vector residual(const float* from, float end) {
    const __m512 ends = _mm512_set1_ps(end);
    return _mm512_min_ps(_mm512_max_ps(_mm512_loadu_ps(from), -ends), ends);
  }
  SECONDGRAM_TARGET static Vector fused(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  SECONDGRAM_TARGET static void store(float* to, Vector v, std::size_t left) {
    if (left >= kCount) return _mm512_stream_ps(to, v);
    _mm512_mask_storeu_ps(to, first_of(left), v);
  }
};

// denormalise_any for at most kCount people.
template <typename Kind>
SECONDGRAM_TARGET void denormalise_few_people(const PostprocessRequest& q, std::size_t width, const float* residual,
                                              float end, std::size_t person, std::size_t people, std::size_t draw,
                                              std::size_t draws, typename Kind::Value* out) {
  using T = typename Kind::Value;
  constexpr std::size_t kBlock = 16;  // columns person_of_row centres are read person by person before they are used
  const std::size_t rows = people * draws;
  std::uint32_t person_of_row[kTileRows + 16] = {};
  for (std::size_t r = 0; r < rows; ++r) person_of_row[r] = static_cast<std::uint32_t>(r / draws);
  alignas(kLine) T centre[kBlock][Kind::kCount] = {}, scale[kBlock][Kind::kCount] = {};
  for (std::size_t start = 0; start < width; start += kBlock) {
    const std::size_t columns = std::min(kBlock, width - start);
    for (std::size_t p = 0; p < people; ++p)
      for (std::size_t j = 0; j < columns; ++j) {
        centre[j][p] = static_cast<T>(q.centre[(person + p) * width + start + j]);
        scale[j][p] = static_cast<T>(q.scale[(person + p) * width + start + j]);
      }
    for (std::size_t j = 0; j < columns; ++j) {
      const float* from = residual + (start + j) * kTileRows;
      T* to = out + ((start + j) * q.people + person) * q.n_draws + draw;  // a tile's rows lie together
      const auto at = [&](std::size_t r) SECONDGRAM_TARGET {
        const __m512i place = Kind::places(person_of_row + r);
        return Kind::fused(Kind::of(place, scale[j]), Kind::residual(from + r, end), Kind::of(place, centre[j]));
      };
      // Whole cache lines go past the caches.
      const std::size_t first = std::min(rows, (kLine - reinterpret_cast<std::uintptr_t>(to) % kLine) % kLine / sizeof(T));
      if (first > 0) Kind::store(to, at(0), first);
      for (std::size_t r = first; r < rows; r += Kind::kCount) Kind::store(to + r, at(r), rows - r);
    }
  }
  _mm_sfence();
}
#endif

// Denormalises a tile: centre + scale * residual, in original units.
template <typename T>
SECONDGRAM_TARGET void denormalise(const PostprocessRequest& q, std::size_t width, const float* residual, float end,
                                std::size_t person, std::size_t people, std::size_t draw, std::size_t draws, T* out) {
#if SECONDGRAM_LANES == 16
  using Kind = std::conditional_t<std::is_same_v<T, double>, DoubleColumn, FloatColumn>;
  if (people <= Kind::kCount) return denormalise_few_people<Kind>(q, width, residual, end, person, people, draw, draws, out);
#endif
  denormalise_any(q, width, residual, end, person, people, draw, draws, out);
}

}  // namespace
}  // namespace secondgram::cpu::SECONDGRAM_ISA
