// Denormalises a tile: centre + scale * residual. Included once per instruction set, inside its namespace.

// residual [width, kTileRows], clipped to +-end, to out [width, people, draws] of everybody.
template <typename T>
SECONDGRAM_TARGET void in_units_of_many(const FinishRequest& q, std::size_t width, const float* residual, float end,
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
