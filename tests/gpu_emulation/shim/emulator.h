// CUDA on the host: what kernels use of the language and its libraries.
//
// Each thread of a block is a fibre on one thread of the machine; blocks come one after another.
#pragma once
#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __restrict__
#define __launch_bounds__(...)
#define __noinline__

struct Index { unsigned x, y, z; };
extern Index threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

// Waits until all running threads of the block, or of this thread's warp, have come here.
void block_barrier();
void warp_barrier();
// 16 bytes of each thread of this thread's warp, and one number of each thread of the block.
unsigned char *warp_slot(unsigned lane);
int *block_slot(unsigned thread);

inline void __syncthreads() { block_barrier(); }
inline void __syncwarp(unsigned = ~0u) { warp_barrier(); }
inline int __syncthreads_or(int value) {
    *block_slot(threadIdx.x) = value;
    block_barrier();
    int any = 0;
    for (unsigned t = 0; t < blockDim.x; t++) any |= *block_slot(t) != 0;
    block_barrier();
    return any;
}
template <typename T> T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
    static_assert(sizeof(T) <= 16);
    std::memcpy((void *)warp_slot(threadIdx.x % 32), (void *)&value, sizeof(T));
    warp_barrier();
    std::memcpy((void *)&value, (void *)warp_slot((threadIdx.x % 32) ^ mask), sizeof(T));
    warp_barrier();
    return value;
}
inline unsigned __ballot_sync(unsigned, int value) {
    *warp_slot(threadIdx.x % 32) = value != 0;
    warp_barrier();
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; lane++) bits |= (unsigned)*warp_slot(lane) << lane;
    warp_barrier();
    return bits;
}
inline int __ffs(int value) { return __builtin_ffs(value); }

using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;
using std::signbit;
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline double normcdf(double x) { return 0.5 * erfc(-x / sqrt(2.0)); }
inline float normcdff(float x) { return (float)normcdf(x); }
template <typename T> T atomicAdd(T *at, T value) {
    T old = *at;
    *at = old + value;
    return old;
}

// Candle's kernels name these; what is emulated does not come to them.
template <typename T, typename U> T atomicCAS(T *at, T, U value) { return std::exchange(*at, (T)value); }
template <typename T, typename U> T atomicMin(T *at, U value) { return std::exchange(*at, min(*at, (T)value)); }
template <typename T, typename U> T atomicMax(T *at, U value) { return std::exchange(*at, max(*at, (T)value)); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
template <typename T> T __ldg(const T *at) { return *at; }
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct uint2 { unsigned x, y; };
struct uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
