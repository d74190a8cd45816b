// What all kernels share. Arithmetic is in f32 whatever the type of the arguments.
//
// Conventions: a block has a multiple of 32 threads, at most 1024; rows are one block each; sizes
// and offsets are 64 bits wide; kernels of element-wise work stride over what the grid does not cover.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cstdint>

typedef long long i64;

__device__ inline float load(const float *p, i64 i) { return p[i]; }
__device__ inline float load(const __nv_bfloat16 *p, i64 i) { return __bfloat162float(p[i]); }
__device__ inline float load(const __half *p, i64 i) { return __half2float(p[i]); }
__device__ inline void store(float *p, i64 i, float value) { p[i] = value; }
__device__ inline void store(__nv_bfloat16 *p, i64 i, float value) { p[i] = __float2bfloat16(value); }
__device__ inline void store(__half *p, i64 i, float value) { p[i] = __float2half(value); }

// Defines kernel NAME_f32, NAME_bf16 and NAME_f16 that call the template NAME.
#define FOR_TYPES(NAME, PARAMETERS, ARGUMENTS)                                                      \
    FOR_TYPE(NAME, f32, float, PARAMETERS, ARGUMENTS)                                               \
    FOR_TYPE(NAME, bf16, __nv_bfloat16, PARAMETERS, ARGUMENTS)                                      \
    FOR_TYPE(NAME, f16, __half, PARAMETERS, ARGUMENTS)
#define FOR_TYPE(NAME, SUFFIX, TYPE, PARAMETERS, ARGUMENTS)                                         \
    extern "C" __global__ void NAME##_##SUFFIX PARAMETERS(TYPE) { NAME<TYPE> ARGUMENTS; }

#define FOR_EACH(i, count)                                                                          \
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < (count);                           \
         i += (i64)gridDim.x * blockDim.x)

// The sum over all threads of the block, in every thread.
template <typename T> __device__ T block_sum(T value) {
    __shared__ T parts[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    for (int o = 16; o > 0; o /= 2) value += __shfl_xor_sync(0xffffffffu, value, o);
    __syncthreads();
    if (lane == 0) parts[warp] = value;
    __syncthreads();
    value = lane < warps ? parts[lane] : T(0);
    for (int o = 16; o > 0; o /= 2) value += __shfl_xor_sync(0xffffffffu, value, o);
    return value;
}

// The largest value of all threads of the block, in every thread; NaN only where all are.
__device__ inline float block_max(float value) {
    __shared__ float parts[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    for (int o = 16; o > 0; o /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, o));
    __syncthreads();
    if (lane == 0) parts[warp] = value;
    __syncthreads();
    value = lane < warps ? parts[lane] : -INFINITY;
    for (int o = 16; o > 0; o /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, o));
    return value;
}
