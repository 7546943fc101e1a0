// Included once per instruction set, inside its namespace: the quantile map of one column applied to values [count].

SECONDGRAM_TARGET inline void through_memory(const Maps& maps, std::size_t column, float* values, std::size_t count) {
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
