// Functions that are compiled for several instruction sets, one of which is chosen at load time.
#pragma once

// Set by CMakeLists.txt to target_clones(...) where compiler and system can choose.
#ifndef SECONDGRAM_CLONES
#define SECONDGRAM_CLONES
#endif
