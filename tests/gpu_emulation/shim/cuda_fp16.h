// f16 on the host.
#pragma once
#include "emulator.h"
struct __half { _Float16 value; };
inline float __half2float(__half x) { return (float)x.value; }
inline __half __float2half(float value) { return {(_Float16)value}; }
