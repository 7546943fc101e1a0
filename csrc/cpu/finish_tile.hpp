// Included once per instruction set after its products: one tile of people and draws, from components to residuals.

namespace secondgram::cpu::SECONDGRAM_ARCH {
namespace {

// values [count] through the map of one column.
SECONDGRAM_TARGET void apply(const Maps& maps, std::size_t column, float* values, std::size_t count) {
  const std::size_t knots = maps.knots;
  const float* start = maps.start.data() + column * (knots + 1);
  const float* value = maps.value.data() + column * (knots + 1);
  const float* slope = maps.slope.data() + column * (knots + 1);
  std::int32_t place[kTileRows];
  if (const float per_unit = maps.per_unit[column]; per_unit > 0.0f) {
    const float last = static_cast<float>(knots);
    for (std::size_t i = 0; i < count; ++i) {
      const float at = (values[i] - start[0]) * per_unit + 1.0f;
      place[i] = static_cast<std::int32_t>(std::min(std::max(at, 0.0f), last));
    }
  } else {
    // Counting the knots that are not above takes no branch: a search would.
    for (std::size_t i = 0; i < count; ++i) place[i] = 0;
    for (std::size_t k = 1; k <= knots; ++k)
      for (std::size_t i = 0; i < count; ++i) place[i] += values[i] >= start[k] ? 1 : 0;
  }
  for (std::size_t i = 0; i < count; ++i)
    values[i] = value[place[i]] + slope[place[i]] * (values[i] - start[place[i]]);
}

// What a product leaves, column by column.
struct Transposed {
  float* to;
  SECONDGRAM_TARGET void operator()(std::size_t r, std::size_t column, std::size_t count, const float* sums) const {
    for (std::size_t j = 0; j < count; ++j) to[(column + j) * kTileRows + r] = sums[j];
  }
};

}  // namespace

// residual [width, kTileRows]: row r of the tile is person r / draws and draw r % draws.
SECONDGRAM_TARGET void finish_tile(const Finish& by, const FinishRequest& q, FinishScratch& w, std::size_t person,
                                   std::size_t people, std::size_t draw, std::size_t draws) {
  const std::size_t width = by.width, rows = people * draws;
  if (by.loading.inputs == 0) {
    for (std::size_t r = 0; r < rows; ++r) {
      const float* from = q.source + ((draw + r % draws) * q.people + person + r / draws) * width;
      for (std::size_t j = 0; j < width; ++j) w.residual[j * kTileRows + r] = from[j];
    }
  } else {
    for (std::size_t p = 0; p < people; ++p) {
      const NoiseRequest noise{q.keys + person + p, q.draws + draw, 1, draws, width, q.seed, q.purpose, 0};
      SECONDGRAM_NORMALS(noise, w.noise.data(), 1);
      for (std::size_t d = 0; d < draws; ++d)
        std::copy_n(w.noise.data() + d * width, width, w.components.row(p * draws + d));
    }
    float column[kTileRows];
    for (std::size_t j = 0; j < by.components.columns; ++j) {
      if (by.components.identity[j]) continue;
      for (std::size_t r = 0; r < rows; ++r) column[r] = w.components.row(r)[j];
      apply(by.components, j, column, rows);
      for (std::size_t r = 0; r < rows; ++r) w.components.row(r)[j] = column[r];
    }
    for (std::size_t r = 0; r < rows && q.source != nullptr; ++r) {
      const float* from = q.source + ((draw + r % draws) * q.people + person + r / draws) * q.n_source;
      for (std::size_t k = 0; k < q.n_source; ++k) w.components.row(r)[q.places[k]] = from[k];
    }
    const Segment segments[] = {{&w.components, &by.loading}};
    Arch::product(segments, 1, rows, width, w.scratch, Transposed{w.residual.data()});
  }
  for (std::size_t j = 0; j < by.margins.columns; ++j)
    if (!by.margins.identity[j]) apply(by.margins, j, w.residual.data() + j * kTileRows, rows);
  if (by.clip > 0.0f)
    for (float& value : w.residual) value = std::min(std::max(value, -by.clip), by.clip);
}

}  // namespace secondgram::cpu::SECONDGRAM_ARCH
