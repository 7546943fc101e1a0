// The GPU instructions that block_program.hpp uses, as the PTX manual defines them; emulator.hpp executes the same ones
// on a CPU.
#pragma once

#include <cstdint>

#include "block_program.hpp"

namespace secondgram::cuda {

extern __shared__ __align__(1024) unsigned char block_memory[];

// kBulk: bulk copies (sm_90 and later); else copies of 16 bytes by every lane (sm_80).
// kGroupProducts: matrix products of four warps together, and copies to all blocks of a cluster (sm_90a).
template <bool kBulk, bool kGroupProducts>
struct Gpu {
  static constexpr bool kGroups = kGroupProducts;
  static constexpr std::uint32_t kFullArrivals = kBulk ? 1 : 32;

  SECONDGRAM_DEVICE static std::uint32_t thread() { return threadIdx.x; }
  SECONDGRAM_DEVICE static std::uint32_t block_x() { return blockIdx.x; }
  SECONDGRAM_DEVICE static std::uint32_t block_y() { return blockIdx.y; }
  SECONDGRAM_DEVICE static std::uint32_t rank() {
    std::uint32_t rank = 0;
    if constexpr (kBulk) asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
  }

  SECONDGRAM_DEVICE static std::uint32_t address(std::uint32_t offset) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(block_memory)) + offset;
  }
  template <typename T>
  SECONDGRAM_DEVICE static T load(std::uint32_t offset) {
    return *reinterpret_cast<const T*>(block_memory + offset);
  }
  template <typename T>
  SECONDGRAM_DEVICE static void store(std::uint32_t offset, T value) {
    *reinterpret_cast<T*>(block_memory + offset) = value;
  }

  SECONDGRAM_DEVICE static unsigned char* memory(std::uint32_t offset) { return block_memory + offset; }
  // Two columns to activations, in shared memory or not.
  SECONDGRAM_DEVICE static void put(unsigned char* to, std::uint32_t pair) {
    *reinterpret_cast<std::uint32_t*>(to) = pair;
  }

  SECONDGRAM_DEVICE static void barrier_init(std::uint32_t barrier, std::uint32_t count) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(address(barrier)), "r"(count) : "memory");
  }
  SECONDGRAM_DEVICE static void barriers_ready(std::uint32_t cluster) {
    if (address(0) % 1024 != 0) __trap();  // squares lie in the banks that their order is made for
    if constexpr (kBulk) asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    sync_all(cluster);
  }
  // Nobody of a cluster leaves while another may still write into its memory.
  SECONDGRAM_DEVICE static void leave(std::uint32_t cluster) {
    if (cluster > 1) sync_all(cluster);
  }
  SECONDGRAM_DEVICE static void wait(std::uint32_t barrier, std::uint32_t parity) {
    std::uint32_t over;
    do {
      if constexpr (kBulk)
        asm volatile(
            "{\n.reg .pred p;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
            "selp.u32 %0, 1, 0, p;\n}"
            : "=r"(over)
            : "r"(address(barrier)), "r"(parity)
            : "memory");
      else
        asm volatile(
            "{\n.reg .pred p;\n"
            "mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
            "selp.u32 %0, 1, 0, p;\n}"
            : "=r"(over)
            : "r"(address(barrier)), "r"(parity)
            : "memory");
    } while (over == 0);
    // No lane falls behind by more than a phase, and the lanes of the warp continue together.
    __syncwarp();
  }
  SECONDGRAM_DEVICE static void announce(std::uint32_t barrier, std::uint32_t bytes) {
    if constexpr (kBulk)
      if (threadIdx.x % 32 == 0)
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(barrier)), "r"(bytes)
                     : "memory");
  }
  SECONDGRAM_DEVICE static void copy(std::uint32_t to, const unsigned char* from, std::uint32_t bytes,
                                     std::uint32_t barrier, std::uint32_t blocks) {
    if constexpr (kBulk) {
      if (threadIdx.x % 32 != 0) return;
      if constexpr (kGroupProducts) {
        if (blocks > 1) {
          asm volatile(
              "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, "
              "[%3], %4;" ::"r"(address(to)),
              "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(address(barrier)),
              "h"(static_cast<std::uint16_t>((1u << blocks) - 1))
              : "memory");
          return;
        }
      }
      asm volatile(
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(address(to)),
          "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(address(barrier))
          : "memory");
    } else {
#pragma unroll 4
      for (std::uint32_t fragment = 16 * (threadIdx.x % 32); fragment < bytes; fragment += 512)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address(to + fragment)),
                     "l"(__cvta_generic_to_global(from + fragment))
                     : "memory");
    }
  }
  SECONDGRAM_DEVICE static void commit(std::uint32_t barrier) {
    if constexpr (!kBulk)
      asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(address(barrier)) : "memory");
  }
  // A warp has read a stage: said to every block that brings it something.
  SECONDGRAM_DEVICE static void release(std::uint32_t barrier, std::uint32_t blocks) {
    __syncwarp();
    const std::uint32_t lane = threadIdx.x % 32;
    if constexpr (kGroupProducts) {
      if (blocks > 1) {
        // Signals only that a stage may be overwritten, and hands over no data: no fence of the cluster's memory.
        if (lane < blocks)
          asm volatile(
              "{\n.reg .b32 there;\n"
              "mapa.shared::cluster.u32 there, %0, %1;\n"
              "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(address(barrier)),
              "r"(lane)
              : "memory");
        return;
      }
    }
    if (lane != 0) return;
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(address(barrier)) : "memory");
  }
  SECONDGRAM_DEVICE static void consumers_sync() { asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory"); }
  SECONDGRAM_DEVICE static void group_sync() {
    asm volatile("bar.sync %0, 128;" ::"r"(2 + threadIdx.x / 128) : "memory");
  }
  SECONDGRAM_DEVICE static void publish(std::uint32_t offset, std::uint32_t value) {
    asm volatile("st.release.cta.shared.u32 [%0], %1;" ::"r"(address(offset)), "r"(value) : "memory");
  }
  SECONDGRAM_DEVICE static void await(std::uint32_t offset, std::uint32_t value) {
    std::uint32_t now;
    do {
      asm volatile("ld.acquire.cta.shared.u32 %0, [%1];" : "=r"(now) : "r"(address(offset)) : "memory");
    } while (now < value);
    proxy_fence(true);
  }
  // Orders this thread's writes before reads by tensor cores and bulk copies: of shared memory, or of global memory too,
  // which takes longer.
  SECONDGRAM_DEVICE static void proxy_fence(bool global) {
    if constexpr (kBulk) {
      if (global)
        asm volatile("fence.proxy.async;" ::: "memory");
      else
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
  }

  SECONDGRAM_DEVICE static void load_matrices(std::uint32_t (&m)[4], std::uint32_t offset) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address(offset))
                 : "memory");
  }
  SECONDGRAM_DEVICE static void multiply(float (&sums)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                         std::uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }

  // Registers move from the warps that copy to the groups that multiply.
  template <bool kMoved>
  SECONDGRAM_DEVICE static void few_registers() {
    if constexpr (kMoved) asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
  }
  template <bool kMoved>
  SECONDGRAM_DEVICE static void many_registers() {
    if constexpr (kMoved) asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
  }

  template <int kWide>
  SECONDGRAM_DEVICE static void group_begin(float (&sums)[kWide][4]) {
    hold(sums);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  }
  template <int kWide>
  SECONDGRAM_DEVICE static void group_end(float (&sums)[kWide][4]) {
    asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
    hold(sums);
  }
  // A square's rows of 64 values: swizzle of 128 bytes, eight rows 1,024 bytes apart from the next eight.
  SECONDGRAM_DEVICE static std::uint64_t operand(std::uint32_t offset) {
    return static_cast<std::uint64_t>((address(offset) & 0x3FFFFu) >> 4) | std::uint64_t{1} << 16 |
           std::uint64_t{1024 >> 4} << 32 | std::uint64_t{1} << 62;
  }

#define SECONDGRAM_SUMS4(j) "+f"(sums[j][0]), "+f"(sums[j][1]), "+f"(sums[j][2]), "+f"(sums[j][3])
#define SECONDGRAM_SUMS32                                                                                  \
  SECONDGRAM_SUMS4(0), SECONDGRAM_SUMS4(1), SECONDGRAM_SUMS4(2), SECONDGRAM_SUMS4(3), SECONDGRAM_SUMS4(4), \
      SECONDGRAM_SUMS4(5), SECONDGRAM_SUMS4(6), SECONDGRAM_SUMS4(7)
#define SECONDGRAM_SUMS64                                                                                  \
  SECONDGRAM_SUMS32, SECONDGRAM_SUMS4(8), SECONDGRAM_SUMS4(9), SECONDGRAM_SUMS4(10), SECONDGRAM_SUMS4(11), \
      SECONDGRAM_SUMS4(12), SECONDGRAM_SUMS4(13), SECONDGRAM_SUMS4(14), SECONDGRAM_SUMS4(15)
  SECONDGRAM_DEVICE static void group_multiply_64(float (*sums)[4], std::uint32_t rows, std::uint32_t weights) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, p, 1, 1, 0, 0;\n}"
        : SECONDGRAM_SUMS32
        : "l"(operand(rows)), "l"(operand(weights)));
  }
  SECONDGRAM_DEVICE static void group_multiply_128(float (*sums)[4], std::uint32_t rows, std::uint32_t weights) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, p, 1, 1, 0, 0;\n}"
        : SECONDGRAM_SUMS64
        : "l"(operand(rows)), "l"(operand(weights)));
  }
#undef SECONDGRAM_SUMS64
#undef SECONDGRAM_SUMS32
#undef SECONDGRAM_SUMS4

  SECONDGRAM_DEVICE static std::uint32_t shuffle(std::uint32_t value, std::uint32_t mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, value, static_cast<int>(mask));
  }
  SECONDGRAM_DEVICE static float shuffle(float value, std::uint32_t mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, value, static_cast<int>(mask));
  }

  // Two at a time: one reciprocal of the product of both denominators serves both, as special functions are the limit.
  // An exponent of 2^57 is as good as infinite, and two of them still have a product.
  SECONDGRAM_DEVICE static void silu(float& a, float& b) {
    const float c = 1.0f + power_of_two(fminf(a * -1.442695041f, 57.0f));
    const float d = 1.0f + power_of_two(fminf(b * -1.442695041f, 57.0f));
    float both;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(both) : "f"(c * d));
    a *= both * d;
    b *= both * c;
  }
  // A compiler barrier: loads and stores before it stay before it.
  SECONDGRAM_DEVICE static void keep_order() { asm volatile("" ::: "memory"); }
  // The same number, which the compiler cannot know.
  SECONDGRAM_DEVICE static std::uint32_t renewed(std::uint32_t number) {
    asm volatile("" : "+r"(number));
    return number;
  }
  SECONDGRAM_DEVICE static void prefetch(const void* place) { asm volatile("prefetch.global.L2 [%0];" ::"l"(place)); }

 private:
  SECONDGRAM_DEVICE static float power_of_two(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
  }
  // A compiler barrier for the sums: operations on them are not moved across it.
  template <int kWide>
  SECONDGRAM_DEVICE static void hold(float (&sums)[kWide][4]) {
#pragma unroll
    for (int j = 0; j < kWide; ++j)
      asm volatile("" : "+f"(sums[j][0]), "+f"(sums[j][1]), "+f"(sums[j][2]), "+f"(sums[j][3])::"memory");
  }

  SECONDGRAM_DEVICE static void sync_all(std::uint32_t cluster) {
    if constexpr (kBulk) {
      if (cluster > 1) {
        asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
        return;
      }
    }
    __syncthreads();
  }
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
using ThisGpu = Gpu<true, true>;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
using ThisGpu = Gpu<true, false>;
#else
using ThisGpu = Gpu<false, false>;
#endif

}  // namespace secondgram::cuda
