// bf16 on the host: rounds to nearest even, computes in f32.
#pragma once
#include "cuda_fp16.h"
struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
    __nv_bfloat16(T from) {
        float value = (float)from;
        uint32_t wide;
        std::memcpy(&wide, &value, 4);
        bits = std::isnan(value) ? 0x7fff : (uint16_t)((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
    }
    operator float() const {
        uint32_t wide = (uint32_t)bits << 16;
        float value;
        std::memcpy(&value, &wide, 4);
        return value;
    }
    __nv_bfloat16 &operator+=(float x) { return *this = *this + x; }
    __nv_bfloat16 &operator*=(float x) { return *this = *this * x; }
};
typedef __nv_bfloat16 nv_bfloat16;
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
struct __nv_bfloat162 { __nv_bfloat16 x, y; };
inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x + b.x, a.y + b.y}; }
inline __nv_bfloat162 __hsub2(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x - b.x, a.y - b.y}; }
inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x * b.x, a.y * b.y}; }
inline __nv_bfloat162 __h2div(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x / b.x, a.y / b.y}; }
