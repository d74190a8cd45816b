// bf16 on the host: round to nearest even, as on a GPU.
#pragma once
#include "emulator.h"
struct __nv_bfloat16 { uint16_t bits; };
inline float __bfloat162float(__nv_bfloat16 x) {
    uint32_t wide = (uint32_t)x.bits << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}
inline __nv_bfloat16 __float2bfloat16(float value) {
    uint32_t wide;
    std::memcpy(&wide, &value, 4);
    if (std::isnan(value)) return {0x7fff};
    return {(uint16_t)((wide + 0x7fff + ((wide >> 16) & 1)) >> 16)};
}
