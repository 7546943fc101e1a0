// Transpose of a tile. Included once per instruction set without AVX-512, inside its namespace.

// to[j][r] = from[r][j] for 16 columns and at least `rows` rows.
SECONDGRAM_TARGET inline void turn(const float* from, std::size_t stride, std::size_t rows, float* to,
                                   std::size_t to_stride) {
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t j = 0; j < 16; ++j) to[j * to_stride + r] = from[r * stride + j];
}

SECONDGRAM_TARGET inline void turn_back(const float* from, std::size_t stride, std::size_t rows, float* to,
                                        std::size_t to_stride) {
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t j = 0; j < 16; ++j) to[r * to_stride + j] = from[j * stride + r];
}
