// Attributes of functions that are compiled for several instruction sets (chosen at load time), and of their helpers.
#pragma once

// Set by CMakeLists.txt to target_clones(...) where compiler and system can choose.
#ifndef SECONDGRAM_CLONES
#define SECONDGRAM_CLONES
#endif

// Of a helper that is inlined into its callers, and so compiled for the instruction set of each.
#ifdef __GNUC__
#define SECONDGRAM_FLAT __attribute__((always_inline)) inline
#else
#define SECONDGRAM_FLAT inline
#endif
