// Runs CUDA kernels on the host: the threads of a block are threads of the machine, blocks come
// one after another, barriers and warp operations wait for all that take part.
#pragma once
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __shared__ static

struct Index { unsigned x, y, z; };
inline thread_local Index threadIdx, blockIdx;
inline Index blockDim, gridDim;

struct Warp {
    std::barrier<> arrive{32};
    alignas(8) unsigned char slots[32][16];
};
inline std::unique_ptr<std::barrier<>> block_barrier;
inline std::vector<std::unique_ptr<Warp>> warps;
inline std::vector<int> votes;

inline void __syncthreads() { block_barrier->arrive_and_wait(); }
inline int __syncthreads_or(int value) {
    votes[threadIdx.x] = value;
    __syncthreads();
    int any = 0;
    for (unsigned t = 0; t < blockDim.x; t++) any |= votes[t] != 0;
    __syncthreads();
    return any;
}
template <typename T> T __shfl_xor_sync(unsigned, T value, int mask) {
    static_assert(sizeof(T) <= 16);
    Warp &warp = *warps[threadIdx.x / 32];
    std::memcpy(warp.slots[threadIdx.x % 32], &value, sizeof(T));
    warp.arrive.arrive_and_wait();
    std::memcpy(&value, warp.slots[(threadIdx.x % 32) ^ mask], sizeof(T));
    warp.arrive.arrive_and_wait();
    return value;
}
inline unsigned __ballot_sync(unsigned, int value) {
    Warp &warp = *warps[threadIdx.x / 32];
    warp.slots[threadIdx.x % 32][0] = value != 0;
    warp.arrive.arrive_and_wait();
    unsigned bits = 0;
    for (int lane = 0; lane < 32; lane++) bits |= (unsigned)warp.slots[lane][0] << lane;
    warp.arrive.arrive_and_wait();
    return bits;
}
inline int __ffs(int value) { return __builtin_ffs(value); }
using std::isfinite;

inline void run(unsigned x, unsigned y, unsigned threads, const std::function<void()> &kernel) {
    gridDim = {x, y, 1};
    blockDim = {threads, 1, 1};
    block_barrier = std::make_unique<std::barrier<>>(threads);
    votes.assign(threads, 0);
    warps.clear();
    for (unsigned w = 0; w < threads / 32; w++) warps.push_back(std::make_unique<Warp>());
    std::vector<std::thread> all;
    for (unsigned t = 0; t < threads; t++)
        all.emplace_back([=, &kernel] {
            for (unsigned by = 0; by < y; by++)
                for (unsigned bx = 0; bx < x; bx++) {
                    threadIdx = {t, 0, 0};
                    blockIdx = {bx, by, 0};
                    kernel();
                    __syncthreads();
                }
        });
    for (auto &thread : all) thread.join();
}
