// A GPU's block on a CPU, for tests: every thread of a cluster is a fiber, and the instructions that block_program.hpp
// takes from its `Machine` are carried out as their documentation has them.
//
// Races of a device show here: asynchronous copies land late, in any order, and leave nonsense in
// between; products of a group of warps read their operands only at the end, and not what was written without a fence;
// an adversary, drawn from a seed, holds warps, a whole group of them or those that copy back while everything else runs
// as far ahead as barriers let it; threads that wait for ever are reported.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "block_program.hpp"

namespace secondgram::cuda::emulation {

constexpr std::size_t kFiberStack = 128 << 10;

// A rendezvous of some threads; the last one to arrive does the common work.
struct Meeting {
  std::uint32_t arrived = 0, generation = 0;
  const char* what = nullptr;
  void* brought[kThreads * 8] = {};  // of the largest cluster
};

struct Barrier {
  std::uint32_t count = 0, pending = 0, phase = 0;
  std::int64_t bytes = 0;
  void settle() {
    if (pending == 0 && bytes == 0) pending = count, phase ^= 1;
  }
};

struct GroupProduct {
  std::uint32_t rows, weights;
  int outputs;
  float (*sums[128])[4];
};

struct Cluster;

struct Block {
  Cluster* cluster;
  std::uint32_t x, y, rank;
  std::vector<unsigned char> shared;
  std::map<std::uint32_t, Barrier> barriers;
  Meeting all, consumers, warps[kThreads / 32], groups[2];
  std::vector<GroupProduct> products[2];
  // For each 16 bytes, the thread (from 1) whose write no fence has followed yet.
  std::vector<std::uint16_t> unfenced;
};

struct Fiber {
  Block* block;
  std::uint32_t thread;
  std::unique_ptr<unsigned char[]> stack;
  jmp_buf place;
  bool started = false, done = false;
  std::function<bool()> ready;                 // empty where it can run
  std::deque<std::function<void()>> landings;  // copies of its own, in order; cp.async
  std::vector<std::uint32_t> unfenced;         // 16 bytes each that it wrote since its last fence
};

// Which warps are held back, for how many rounds, and when bulk copies land. Threads that are held back move only where
// nothing else can: whatever no barrier rules out happens to one of them sooner or later.
struct Adversary {
  enum class Held { nobody, some_warps, first_group, second_group, copies, kinds };
  enum class Landing { at_random, at_once, last, kinds };
  Held held = Held::nobody;
  Landing landing = Landing::at_random;
  std::uint32_t rounds = 0, block = 0;  // block: of the cluster, whose warps are held; its number of blocks for all
  bool copies_before_held = false;
  std::vector<bool> still;  // warps of all blocks

  void draw(std::mt19937& random, std::uint32_t blocks) {
    constexpr std::uint32_t kWarps = kThreads / 32, kRounds[] = {32, 512, 4096};
    held = static_cast<Held>(random() % static_cast<std::uint32_t>(Held::kinds));
    landing = static_cast<Landing>(random() % static_cast<std::uint32_t>(Landing::kinds));
    rounds = kRounds[random() % 3], block = random() % (blocks + 1), copies_before_held = random() % 2 != 0;
    still.assign(std::size_t{blocks} * kWarps, false);
    for (std::uint32_t w = 0; w < still.size(); ++w) {
      if (block != blocks && w / kWarps != block) continue;
      const std::uint32_t group = w % kWarps / 4;  // of four warps: two that multiply, one that copies
      still[w] = held == Held::some_warps     ? random() % 3 == 0
                 : held == Held::first_group  ? group == 0
                 : held == Held::second_group ? group == 1
                 : held == Held::copies       ? group == 2
                                              : false;
    }
  }
};

struct Cluster {
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<std::function<void()>> landings;  // bulk copies, in any order
  Meeting all;
  std::mt19937 random;
  std::function<void()> body;
  Fiber* current = nullptr;
  jmp_buf scheduler;
  std::string failure;
};

inline Cluster*& cluster() {
  static thread_local Cluster* current = nullptr;
  return current;
}
inline Fiber& fiber() { return *cluster()->current; }
inline Block& block() { return *fiber().block; }

[[noreturn]] inline void leave_fiber() { _longjmp(cluster()->scheduler, 1); }

[[noreturn]] inline void fail(const std::string& why) {
  cluster()->failure = why;
  leave_fiber();
}

inline void wait_until(std::function<bool()> ready) {
  Fiber& self = fiber();
  if (ready()) return;
  self.ready = std::move(ready);
  if (_setjmp(self.place) == 0) leave_fiber();
}

template <class Last>
void meet(Meeting& meeting, std::uint32_t size, const char* what, std::uint32_t place, void* brought,
          const Last& last) {
  if (meeting.arrived == 0)
    meeting.what = what;
  else if (meeting.what != what)
    fail(std::string("threads that belong together came to ") + meeting.what + " and " + what);
  meeting.brought[place] = brought;
  const std::uint32_t generation = meeting.generation;
  if (++meeting.arrived == size) {
    last(meeting.brought);
    meeting.arrived = 0;
    ++meeting.generation;
  } else {
    wait_until([&meeting, generation] { return meeting.generation != generation; });
  }
}

template <class Last>
void meet_warp(const char* what, void* brought, const Last& last) {
  const std::uint32_t thread = fiber().thread;
  meet(block().warps[thread / 32], 32, what, thread % 32, brought, last);
}

inline void first_call() {
  cluster()->body();
  fiber().done = true;
  leave_fiber();
}

// Runs a fiber until it waits or ends.
__attribute__((noinline)) inline void resume(Cluster& all, Fiber& f) {
  all.current = &f;
  if (_setjmp(all.scheduler) != 0) return;
  if (f.started) _longjmp(f.place, 1);
  f.started = true;
  static thread_local ucontext_t start, unused;  // no fiber returns
  getcontext(&start);
  start.uc_stack.ss_sp = f.stack.get();
  start.uc_stack.ss_size = kFiberStack;
  start.uc_link = &unused;
  makecontext(&start, first_call, 0);
  setcontext(&start);
}

// Carries one cluster through `body`, called once for each thread.
inline void run_cluster(std::uint32_t blocks, std::uint32_t first_x, std::uint32_t y, std::uint32_t shared_bytes,
                        std::uint32_t seed, std::vector<std::unique_ptr<unsigned char[]>>& stacks,
                        const std::function<void()>& body) {
  Cluster all;
  cluster() = &all;
  all.random.seed(seed);
  all.body = body;
  for (std::uint32_t b = 0; b < blocks; ++b) {
    auto made = std::make_unique<Block>();
    made->cluster = &all, made->x = first_x + b, made->y = y, made->rank = b;
    made->shared.assign(shared_bytes, 0xFF);
    made->unfenced.assign(shared_bytes / 16 + 1, 0);
    for (std::uint32_t t = 0; t < kThreads; ++t) {
      auto one = std::make_unique<Fiber>();
      one->block = made.get(), one->thread = t;
      if (stacks.empty()) {
        one->stack.reset(new unsigned char[kFiberStack]);
      } else {
        one->stack = std::move(stacks.back());
        stacks.pop_back();
      }
      all.fibers.push_back(std::move(one));
    }
    all.blocks.push_back(std::move(made));
  }
  std::vector<std::size_t> order(all.fibers.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), all.random);
  std::size_t left = order.size();
  const auto land = [&](bool one_at_least, bool every) {
    bool landed = false;
    const auto due = [&] { return every || (one_at_least && !landed) || all.random() % 4 == 0; };
    for (auto& f : all.fibers)
      while (!f->landings.empty() && due()) {
        f->landings.front()();
        f->landings.pop_front();
        landed = true;
      }
    while (!all.landings.empty() && due()) {
      const std::size_t i = all.random() % all.landings.size();
      std::swap(all.landings[i], all.landings.back());
      all.landings.back()();
      all.landings.pop_back();
      landed = true;
    }
    return landed;
  };
  Adversary adversary;
  const auto run = [&](bool held) {
    bool moved = false;
    for (const std::size_t i : order) {
      Fiber& f = *all.fibers[i];
      if (f.done || adversary.still[i / 32] != held || (f.ready && !f.ready())) continue;
      moved = true;
      f.ready = nullptr;
      resume(all, f);
      if (f.done) --left;
      if (!all.failure.empty()) break;
    }
    return moved;
  };
  while (left > 0 && all.failure.empty()) {
    if (adversary.rounds-- == 0) adversary.draw(all.random, blocks);
    bool moved = run(false);
    if (adversary.landing != Adversary::Landing::last)
      moved = land(false, adversary.landing == Adversary::Landing::at_once) || moved;
    // Where nothing else can go on, those that are held back do, each to its next wait, or a copy lands.
    for (const bool copies : {adversary.copies_before_held, !adversary.copies_before_held})
      if (!moved && left > 0 && all.failure.empty()) moved = copies ? land(true, false) : run(true);
    if (!moved && left > 0 && all.failure.empty()) all.failure = "threads wait for one another for ever";
  }
  if (all.failure.empty() && !all.landings.empty()) all.failure = "a block ended before its copies had landed";
  for (auto& f : all.fibers) {
    if (all.failure.empty() && !f->landings.empty()) all.failure = "a block ended before its copies had landed";
    stacks.push_back(std::move(f->stack));
  }
  cluster() = nullptr;
  if (!all.failure.empty()) throw std::runtime_error("emulated block: " + all.failure);
}

inline unsigned char* at(Block& b, std::uint32_t offset, std::uint32_t bytes) {
  if (offset + static_cast<std::size_t>(bytes) > b.shared.size() || offset % std::min(bytes, 16u) != 0)
    fail("shared memory at " + std::to_string(offset) + " was asked for");
  return b.shared.data() + offset;
}

// kBulk: copies and group products as sm_90 has them; else as sm_80.
template <bool kBulk>
struct Emulated {
  static constexpr bool kGroups = kBulk;
  static constexpr std::uint32_t kFullArrivals = kBulk ? 1 : 32;

  static std::uint32_t thread() { return fiber().thread; }
  static std::uint32_t block_x() { return block().x; }
  static std::uint32_t block_y() { return block().y; }
  static std::uint32_t rank() { return block().rank; }

  template <typename T>
  static T load(std::uint32_t offset) {
    T value;
    std::memcpy(&value, at(block(), offset, sizeof(T)), sizeof(T));
    return value;
  }
  template <typename T>
  static void store(std::uint32_t offset, T value) {
    std::memcpy(at(block(), offset, sizeof(T)), &value, sizeof(T));
    block().unfenced[offset / 16] = static_cast<std::uint16_t>(thread() + 1);
    fiber().unfenced.push_back(offset / 16);
  }

  static unsigned char* memory(std::uint32_t offset) { return at(block(), offset, 4); }
  static void put(unsigned char* to, std::uint32_t pair) {
    const std::vector<unsigned char>& shared = block().shared;
    if (to >= shared.data() && to < shared.data() + shared.size())
      store(static_cast<std::uint32_t>(to - shared.data()), pair);
    else
      std::memcpy(to, &pair, sizeof pair);
  }

  static void barrier_init(std::uint32_t barrier, std::uint32_t count) { block().barriers[barrier] = {count, count}; }
  static void barriers_ready(std::uint32_t) { leave(0); }
  // Nobody of a cluster leaves while another may still write into its memory.
  static void leave(std::uint32_t) {
    const auto blocks = static_cast<std::uint32_t>(cluster()->blocks.size());
    const std::uint32_t place = block().rank * kThreads + thread();
    meet(cluster()->all, blocks * kThreads, "the whole cluster", place, nullptr, [](void**) {});
  }
  static void wait(std::uint32_t barrier, std::uint32_t parity) {
    const Barrier& b = block().barriers.at(barrier);
    wait_until([&b, parity] { return b.phase != parity; });
    meet_warp("the end of a wait", nullptr, [](void**) {});
  }
  static void arrive(Block& b, std::uint32_t barrier) {
    Barrier& one = b.barriers.at(barrier);
    if (one.pending == 0) fail("more threads came to a barrier than it counts");
    --one.pending;
    one.settle();
  }
  static void announce(std::uint32_t barrier, std::uint32_t bytes) {
    if (!kBulk || thread() % 32 != 0) return;
    block().barriers.at(barrier).bytes += bytes;
    arrive(block(), barrier);
  }
  static void copy(std::uint32_t to, const unsigned char* from, std::uint32_t bytes, std::uint32_t barrier,
                   std::uint32_t blocks) {
    if constexpr (kBulk) {
      if (thread() % 32 != 0) return;
      for (std::uint32_t b = 0; b < blocks; ++b) {
        Block& target = blocks == 1 ? block() : *cluster()->blocks[b];
        unsigned char* place = at(target, to, bytes);
        std::memset(place, 0xFF, bytes);
        cluster()->landings.push_back([&target, place, from, bytes, barrier] {
          std::memcpy(place, from, bytes);
          std::fill_n(target.unfenced.begin() + (place - target.shared.data()) / 16, bytes / 16, std::uint16_t{0});
          Barrier& one = target.barriers.at(barrier);
          one.bytes -= bytes;
          one.settle();
        });
      }
    } else {
      for (std::uint32_t fragment = 16 * (thread() % 32); fragment < bytes; fragment += 512)
        std::memset(at(block(), to + fragment, 16), 0xFF, 16);
      fiber().landings.push_back([place = at(block(), to, bytes), from, bytes, lane = thread() % 32] {
        for (std::uint32_t fragment = 16 * lane; fragment < bytes; fragment += 512)
          std::memcpy(place + fragment, from + fragment, 16);
      });
    }
  }
  static void commit(std::uint32_t barrier) {
    if constexpr (!kBulk) fiber().landings.push_back([&b = block(), barrier] { arrive(b, barrier); });
  }
  static void release(std::uint32_t barrier, std::uint32_t blocks) {
    meet_warp("release", nullptr, [](void**) {});
    if (thread() % 32 != 0) return;
    for (std::uint32_t b = 0; b < blocks; ++b) arrive(blocks == 1 ? block() : *cluster()->blocks[b], barrier);
  }
  static void consumers_sync() {
    meet(block().consumers, kConsumers, "the eight warps' barrier", thread(), nullptr, [](void**) {});
  }
  static void group_sync() {
    const std::uint32_t group = thread() / 128;
    meet(block().groups[group], 128, "a group's barrier", thread() % 128, nullptr, [](void**) {});
  }
  template <bool>
  static void few_registers() {}
  template <bool>
  static void many_registers() {}
  static void publish(std::uint32_t offset, std::uint32_t value) { store(offset, value); }
  static void await(std::uint32_t offset, std::uint32_t value) {
    const unsigned char* place = at(block(), offset, 4);
    wait_until([place, value] {
      std::uint32_t now;
      std::memcpy(&now, place, sizeof now);
      return now >= value;
    });
  }
  static void proxy_fence(bool) {
    for (const std::uint32_t place : fiber().unfenced)
      if (block().unfenced[place] == thread() + 1) block().unfenced[place] = 0;
    fiber().unfenced.clear();
  }

  static void load_matrices(std::uint32_t (&m)[4], std::uint32_t offset) {
    struct Lane {
      std::uint32_t* m;
      std::uint32_t offset;
    } lane{m, offset};
    meet_warp("ldmatrix", &lane, [](void** lanes) {
      for (int matrix = 0; matrix < 4; ++matrix)
        for (int i = 0; i < 32; ++i)
          std::memcpy(static_cast<Lane*>(lanes[i])->m + matrix,
                      at(block(), static_cast<Lane*>(lanes[8 * matrix + i / 4])->offset, 16) + 4 * (i % 4), 4);
    });
  }

  // mma.m16n8k16: the sums of a 16 x 8 fragment, activations [16, 16], weights [8, 16].
  static void multiply(float (&sums)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
    struct Lane {
      float* sums;
      const std::uint32_t* a;
      std::uint32_t b[2];
    } lane{sums, a, {b0, b1}};
    meet_warp("mma", &lane, [](void** lanes) {
      float rows[16][16], weights[16][8];
      for (int i = 0; i < 32; ++i) {
        const Lane& one = *static_cast<Lane*>(lanes[i]);
        const int g = i / 4, t = i % 4;
        for (int part = 0; part < 4; ++part)
          for (int e = 0; e < 2; ++e)
            rows[g + 8 * (part & 1)][2 * t + 8 * (part >> 1) + e] = float_of_bf16(one.a[part] >> 16 * e & 0xFFFFu);
        for (int part = 0; part < 2; ++part)
          for (int e = 0; e < 2; ++e) weights[2 * t + 8 * part + e][g] = float_of_bf16(one.b[part] >> 16 * e & 0xFFFFu);
      }
      float out[16][8] = {};
      for (int r = 0; r < 16; ++r)
        for (int k = 0; k < 16; ++k)
          for (int c = 0; c < 8; ++c) out[r][c] += rows[r][k] * weights[k][c];
      for (int i = 0; i < 32; ++i)
        for (int e = 0; e < 4; ++e)
          static_cast<Lane*>(lanes[i])->sums[e] += out[i / 4 + 8 * (e >> 1)][2 * (i % 4) + (e & 1)];
    });
  }

  template <int kWide>
  static void group_begin(float (&)[kWide][4]) {}
  static void group_multiply_128(float (*sums)[4], std::uint32_t rows, std::uint32_t weights) {
    group_multiply(sums, rows, weights, 128);
  }
  static void group_multiply_64(float (*sums)[4], std::uint32_t rows, std::uint32_t weights) {
    group_multiply(sums, rows, weights, 64);
  }
  // The products asked for since group_begin, in order: wgmma m64 of 16 inputs, operands in the 128-byte swizzle.
  template <int kWide>
  static void group_end(float (&)[kWide][4]) {
    const std::uint32_t group = thread() / 128;
    meet(block().groups[group], 128, "the end of group products", thread() % 128, nullptr, [group](void**) {
      static thread_local float rows[64][16], weights[16][128], total[128];
      for (const GroupProduct& p : block().products[group]) {
        float values[16];
        for (int n = 0; n < p.outputs; ++n) {
          operand(p.weights, n, values);
          for (int k = 0; k < 16; ++k) weights[k][n] = values[k];
        }
        for (int r = 0; r < 64; ++r) operand(p.rows, r, rows[r]);
        for (int r = 0; r < 64; ++r) {
          std::fill_n(total, p.outputs, 0.0f);
          for (int k = 0; k < 16; ++k)
            for (int n = 0; n < p.outputs; ++n) total[n] += rows[r][k] * weights[k][n];
          for (int n = 0; n < p.outputs; ++n)
            p.sums[r / 16 * 32 + r % 8 * 4 + n % 8 / 2][n / 8][r % 16 / 8 * 2 + n % 2] += total[n];
        }
      }
      block().products[group].clear();
    });
  }

  static std::uint32_t shuffle(std::uint32_t value, std::uint32_t mask) {
    struct Lane {
      std::uint32_t value, got;
    } lane{value, 0};
    meet_warp("shuffle", &lane, [mask](void** lanes) {
      for (std::uint32_t i = 0; i < 32; ++i)
        static_cast<Lane*>(lanes[i])->got = static_cast<Lane*>(lanes[i ^ mask])->value;
    });
    return lane.got;
  }
  static float shuffle(float value, std::uint32_t mask) { return float_of(shuffle(bits_of(value), mask)); }

  static void silu(float& a, float& b) { a /= 1.0f + std::exp(-a), b /= 1.0f + std::exp(-b); }
  static void keep_order() {}
  static std::uint32_t renewed(std::uint32_t number) { return number; }
  static void prefetch(const void* place) {
    if (place == nullptr) fail("nothing was asked for ahead");
  }

 private:
  // Sixteen neighbours of one row of an operand: rows of 128 bytes, the address' bits 4-6 exchanged with its bits 7-9.
  static void operand(std::uint32_t offset, int row, float (&values)[16]) {
    for (int k = 0; k < 16; ++k) {
      std::uint32_t address = offset + 128 * row + 2 * k;
      address ^= (address >> 7 & 7u) << 4;
      std::uint16_t bits;
      std::memcpy(&bits, at(block(), address, 2), 2);
      if (block().unfenced[address / 16] != 0) fail("a group product reads what was written without a fence");
      values[k] = float_of_bf16(bits);
    }
  }

  static void group_multiply(float (*sums)[4], std::uint32_t rows, std::uint32_t weights, int outputs) {
    GroupProduct mine{rows, weights, outputs, {sums}};
    const std::uint32_t group = thread() / 128;
    meet(block().groups[group], 128, "a group product", thread() % 128, &mine, [group](void** lanes) {
      GroupProduct product = *static_cast<GroupProduct*>(lanes[0]);
      for (int i = 1; i < 128; ++i) {
        const GroupProduct& other = *static_cast<GroupProduct*>(lanes[i]);
        if (other.rows != product.rows || other.weights != product.weights || other.outputs != product.outputs)
          fail("operands of a group product differ between its threads");
        product.sums[i] = other.sums[0];
      }
      block().products[group].push_back(product);
    });
  }
};

}  // namespace secondgram::cuda::emulation
