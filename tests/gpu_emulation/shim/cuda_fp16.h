// f16 on the host: computes in f32.
#pragma once
#include "emulator.h"
struct __half {
    _Float16 value;
    __half() = default;
    template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
    __half(T from) : value((_Float16)(float)from) {}
    operator float() const { return (float)value; }
    __half &operator+=(float x) { return *this = *this + x; }
    __half &operator*=(float x) { return *this = *this * x; }
};
typedef __half half;
inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return x; }
inline bool __hisnan(float x) { return std::isnan(x); }
template <typename T> T __hmax_nan(T a, T b) { return __hisnan(a) || a > b ? a : b; }
template <typename T> T __hmin_nan(T a, T b) { return __hisnan(a) || a < b ? a : b; }
inline unsigned short __half_as_ushort(__half x) { return std::bit_cast<unsigned short>(x.value); }
inline __half __ushort_as_half(unsigned short x) { __half h; h.value = std::bit_cast<_Float16>(x); return h; }
template <typename T> T hsqrt(T x) { return sqrtf(x); }
template <typename T> T hcos(T x) { return cosf(x); }
template <typename T> T hsin(T x) { return sinf(x); }
template <typename T> T hlog(T x) { return logf(x); }
template <typename T> T hexp(T x) { return expf(x); }
template <typename T> T __habs(T x) { return fabsf(x); }
