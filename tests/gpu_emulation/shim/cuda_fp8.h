// fp8 exists here in name only: nothing that is emulated uses it.
#pragma once
#include "cuda_bf16.h"
#include "cuda_fp16.h"
struct __nv_fp8_e4m3 {
    uint8_t __x;
    __nv_fp8_e4m3() = default;
    template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>>
    __nv_fp8_e4m3(T) : __x(0) {}
    operator float() const { return 0; }
};
enum { __NV_E4M3 };
inline __half __nv_cvt_fp8_to_halfraw(uint8_t, int) { return 0; }
