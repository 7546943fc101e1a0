// Quantile maps of columns.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "isa.hpp"
#include "matrix.hpp"
#include "partition.hpp"
#include "postprocess.hpp"
#include "transpose.hpp"
#include "vectors.hpp"

namespace secondgram::cpu::SECONDGRAM_ISA {
namespace {

// The map of one column applied to values [count].
SECONDGRAM_TARGET inline void map_by_gathers(const QuantileMaps& maps, std::size_t column, float* values,
                                             std::size_t count) {
  const float* tree = maps.tree.data() + column * maps.places;
  const float* start = maps.start.data() + column * maps.places;
  const float* value = maps.value.data() + column * maps.places;
  const float* slope = maps.slope.data() + column * maps.places;
  std::int32_t place[kTileRows] = {};
  for (std::size_t level = 0; level < maps.levels; ++level) {
    const float* nodes = tree + (std::size_t{1} << level);
    for (std::size_t i = 0; i < count; ++i) place[i] = 2 * place[i] + (values[i] >= nodes[place[i]] ? 1 : 0);
  }
  for (std::size_t i = 0; i < count; ++i)
    values[i] = value[place[i]] + slope[place[i]] * (values[i] - start[place[i]]);
}

#if SECONDGRAM_LANES == 16
// The same for a map of `kTablePlaces` places. Its tables stay in registers, where a look-up is a permutation and not a
// gather.
constexpr std::size_t kTablePlaces = 64;

struct Table {
  __m512 part[4];
};

SECONDGRAM_TARGET inline Table table(const float* from) {
  return {{_mm512_loadu_ps(from), _mm512_loadu_ps(from + 16), _mm512_loadu_ps(from + 32), _mm512_loadu_ps(from + 48)}};
}

SECONDGRAM_TARGET inline __m512 at(const Table& from, __m512i place, __mmask16 upper) {
  return _mm512_mask_blend_ps(upper, _mm512_permutex2var_ps(from.part[0], place, from.part[1]),
                              _mm512_permutex2var_ps(from.part[2], place, from.part[3]));
}

SECONDGRAM_TARGET inline void map_by_permutations(const QuantileMaps& maps, std::size_t column, float* values,
                                                  std::size_t count) {
  const std::size_t row = column * kTablePlaces;
  const Table tree = table(maps.tree.data() + row), start = table(maps.start.data() + row);
  const Table value = table(maps.value.data() + row), slope = table(maps.slope.data() + row);
  const __m512i one = _mm512_set1_epi32(1);
  for (std::size_t i = 0; i < count; i += 16) {
    const __mmask16 here = first_of(count - i);
    const __m512 x = _mm512_maskz_loadu_ps(here, values + i);
    __m512i place = _mm512_setzero_si512();
    const auto descend = [&](__m512 node) SECONDGRAM_TARGET {
      place = _mm512_add_epi32(place, place);
      place = _mm512_mask_add_epi32(place, _mm512_cmp_ps_mask(x, node, _CMP_GE_OQ), place, one);
    };
    // Levels of 1, 2, 4 and 8 nodes lie in the first register, that of 16 in the second, that of 32 in the others.
    for (int nodes = 1; nodes < 16; nodes *= 2)
      descend(_mm512_permutexvar_ps(_mm512_add_epi32(place, _mm512_set1_epi32(nodes)), tree.part[0]));
    descend(_mm512_permutexvar_ps(place, tree.part[1]));
    descend(_mm512_permutex2var_ps(tree.part[2], place, tree.part[3]));
    const __mmask16 upper = _mm512_test_epi32_mask(place, _mm512_set1_epi32(32));
    const __m512 moved = _mm512_sub_ps(x, at(start, place, upper));
    _mm512_mask_storeu_ps(values + i, here, _mm512_fmadd_ps(at(slope, place, upper), moved, at(value, place, upper)));
  }
}
#endif

SECONDGRAM_TARGET void apply_maps(const QuantileMaps& maps, std::size_t column, float* values, std::size_t count) {
#if SECONDGRAM_LANES == 16
  if (maps.places == kTablePlaces) return map_by_permutations(maps, column, values, count);
#endif
  map_by_gathers(maps, column, values, count);
}

// Applies the quantile maps of the columns of a matrix, by blocks of columns that are transposed for it.
SECONDGRAM_TARGET void apply_maps(const QuantileMaps& maps, Matrix& matrix, std::size_t rows) {
  constexpr std::size_t kBlock = 16;  // columns of a transpose
  float block[kBlock * kTileRows];
  for (std::size_t start = 0; start < maps.columns; start += kBlock) {
    const std::size_t count = std::min(kBlock, maps.columns - start);
    const unsigned char* same = maps.identity.data() + start;
    if (std::find(same, same + count, 0) == same + count) continue;
    transpose(matrix.row(0) + start, matrix.stride, rows, block, kTileRows);
    for (std::size_t j = 0; j < count; ++j)
      if (!maps.identity[start + j]) apply_maps(maps, start + j, block + j * kTileRows, rows);
    transpose_back(block, kTileRows, rows, matrix.row(0) + start, matrix.stride);
  }
}

}  // namespace
}  // namespace secondgram::cpu::SECONDGRAM_ISA
