// Included once per instruction set without AVX-512, inside its namespace: rows and columns change places.

// to[j][r] = from[r][j] for kColumns columns and at least `rows` rows.
template <std::size_t kCount>
SECONDGRAM_TARGET void turn(const float* from, std::size_t stride, std::size_t rows, float* to, std::size_t to_stride) {
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t j = 0; j < kCount; ++j) to[j * to_stride + r] = from[r * stride + j];
}

template <std::size_t kCount>
SECONDGRAM_TARGET void turn_back(const float* from, std::size_t stride, std::size_t rows, float* to, std::size_t to_stride) {
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t j = 0; j < kCount; ++j) to[r * to_stride + j] = from[j * stride + r];
}
