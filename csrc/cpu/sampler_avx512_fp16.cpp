// The tiles of one instruction set (isa.hpp).
#define SECONDGRAM_FOR_AVX512_FP16
#include "sampler_tile.hpp"

#include "postprocess_tile.hpp"
