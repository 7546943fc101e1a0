// The tiles of one instruction set (isa.hpp).
#define SECONDGRAM_FOR_PORTABLE
#include "sampler_tile.hpp"

#include "postprocess_tile.hpp"
