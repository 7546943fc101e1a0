// Functions that are compiled for several instruction sets, one of which is chosen at load time, and what they are made of.
#pragma once

// Set by CMakeLists.txt to target_clones(...) where compiler and system can choose.
#ifndef SECONDGRAM_CLONES
#define SECONDGRAM_CLONES
#endif

// Of a function that is to become a part of whoever calls it, and so of each instruction set.
#ifdef __GNUC__
#define SECONDGRAM_FLAT __attribute__((always_inline)) inline
#else
#define SECONDGRAM_FLAT inline
#endif
