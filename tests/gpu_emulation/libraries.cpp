// libcuda, libcublas and libcurand as far as the program uses them, on the host: memory of the GPU
// is memory of the host, and all work is done at once.
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <unordered_map>

#include "cuda_bf16.h"
#include "launch.h"

namespace {
std::mutex one_at_a_time;
// What is allocated, with its size; `used` and `peak` are sums.
std::unordered_map<void *, size_t> allocations;
size_t used = 0, peak = 0;

int allocate(void **at, size_t bytes) {
    std::lock_guard guard(one_at_a_time);
    if (bytes == 0) return 1;
    // Rubbish, as a GPU has it, that shows where it is used.
    *at = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    std::memset(*at, 0xff, bytes);
    allocations[*at] = bytes;
    used += bytes;
    peak = std::max(peak, used);
    return 0;
}
int release(void *at) {
    std::lock_guard guard(one_at_a_time);
    auto found = allocations.find(at);
    if (found == allocations.end()) return 1;
    used -= found->second;
    allocations.erase(found);
    std::free(at);
    return 0;
}
}  // namespace

#define API extern "C" int
typedef void *Any;
typedef unsigned long long Pointer;

API cuInit(unsigned) { return 0; }
API cuDriverGetVersion(int *version) { *version = 13000; return 0; }
API cuDeviceGetCount(int *count) { *count = 1; return 0; }
API cuDeviceGet(int *device, int) { *device = 0; return 0; }
API cuDeviceGetAttribute(int *value, int, int) { *value = 1; return 0; }
API cuDeviceGetName(char *name, int size, int) { std::snprintf(name, size, "emulated"); return 0; }
API cuDevicePrimaryCtxRetain(Any *context, int) { *context = &used; return 0; }
API cuDevicePrimaryCtxRelease_v2(int) { return 0; }
API cuCtxGetCurrent(Any *context) { *context = &used; return 0; }
API cuCtxSetCurrent(Any) { return 0; }
API cuCtxSynchronize() { return 0; }
API cuStreamCreate(Any *stream, unsigned) { *stream = &peak; return 0; }
API cuStreamDestroy_v2(Any) { return 0; }
API cuStreamSynchronize(Any) { return 0; }
API cuStreamWaitEvent(Any, Any, unsigned) { return 0; }
API cuStreamIsCapturing(Any, int *status) { *status = 0; return 0; }
API cuEventCreate(Any *event, unsigned) { *event = &used; return 0; }
API cuEventDestroy_v2(Any) { return 0; }
API cuEventRecord(Any, Any) { return 0; }
API cuMemAllocAsync(Any *at, size_t bytes, Any) { return allocate(at, bytes); }
API cuMemFreeAsync(Any at, Any) { return release(at); }
API cuMemAlloc_v2(Any *at, size_t bytes) { return allocate(at, bytes); }
API cuMemFree_v2(Any at) { return release(at); }
API cuMemcpyHtoDAsync_v2(Any to, const void *from, size_t n, Any) { std::memcpy(to, from, n); return 0; }
API cuMemcpyDtoHAsync_v2(Any to, const void *from, size_t n, Any) { std::memcpy(to, from, n); return 0; }
API cuMemcpyDtoDAsync_v2(Any to, const void *from, size_t n, Any) { std::memmove(to, from, n); return 0; }
API cuMemcpyHtoD_v2(Any to, const void *from, size_t n) { std::memcpy(to, from, n); return 0; }
API cuMemcpyDtoH_v2(Any to, const void *from, size_t n) { std::memcpy(to, from, n); return 0; }
API cuMemsetD8Async(Any at, unsigned char value, size_t n, Any) { std::memset(at, value, n); return 0; }
API cuMemGetInfo_v2(size_t *free, size_t *total) { *free = *total = 1ull << 34; return 0; }
API cuDeviceGetDefaultMemPool(Any *pool, int) { *pool = &used; return 0; }
API cuMemPoolSetAttribute(Any, int, void *) { peak = used; return 0; }
API cuMemPoolGetAttribute(Any, int, void *value) { *(uint64_t *)value = peak; return 0; }
API cuGetErrorString(int, const char **text) { *text = "an emulated error"; return 0; }
API cuGetErrorName(int, const char **text) { *text = "EMULATED"; return 0; }
API cuModuleLoadData(Any *module, const void *) { *module = &used; return 0; }
API cuModuleUnload(Any) { return 0; }
API cuModuleGetFunction(Any *function, Any, const char *name) {
    auto found = kernels().find(name);
    if (found == kernels().end()) {
        std::fprintf(stderr, "emulator: no kernel %s\n", name);
        return 500;
    }
    *function = (Any)found->second;
    return 0;
}
API cuLaunchKernel(Any function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned, Any, void **arguments, void **) {
    std::lock_guard guard(one_at_a_time);
    run_kernel({gx, gy, gz}, {bx, by, bz}, [=] { ((Launch)function)(arguments); });
    return 0;
}

API cublasCreate_v2(Any *handle) { *handle = &used; return 0; }
API cublasDestroy_v2(Any) { return 0; }
API cublasSetStream_v2(Any, Any) { return 0; }
API cublasSetPointerMode_v2(Any, int) { return 0; }

// Element `i` of an array of f32 (0), f16 (2) or bf16 (14), by NVIDIA's numbers.
static float get(const void *p, int type, long long i) {
    return type == 0 ? ((const float *)p)[i]
         : type == 2 ? (float)((const __half *)p)[i] : (float)((const __nv_bfloat16 *)p)[i];
}
static void put(void *p, int type, long long i, float x) {
    if (type == 0) ((float *)p)[i] = x;
    else if (type == 2) ((__half *)p)[i] = x;
    else ((__nv_bfloat16 *)p)[i] = x;
}
API cublasGemmStridedBatchedEx(Any, int ta, int tb, int m, int n, int k, const float *alpha,
                               const void *a, int atype, int lda, long long astep, const void *b,
                               int btype, int ldb, long long bstep, const float *beta, void *c,
                               int ctype, int ldc, long long cstep, int batch, int, int) {
    // What cuBLAS refuses.
    if (lda < std::max(1, ta ? k : m) || ldb < std::max(1, tb ? n : k) || ldc < std::max(1, m)) {
        std::fprintf(stderr, "emulator: leading dimensions %d %d %d for %d x %d x %d\n", lda, ldb, ldc, m, n, k);
        return 7;
    }
    if (atype != btype || (ctype != atype && ctype != 0)) return 15;
    for (long long s = 0; s < batch; s++)
        for (long long j = 0; j < n; j++)
            for (long long i = 0; i < m; i++) {
                float sum = 0;
                for (long long l = 0; l < k; l++)
                    sum += get(a, atype, s * astep + (ta ? i * lda + l : l * lda + i)) *
                           get(b, btype, s * bstep + (tb ? l * ldb + j : j * ldb + l));
                long long at = s * cstep + j * ldc + i;
                put(c, ctype, at, *alpha * sum + (*beta == 0 ? 0 : *beta * get(c, ctype, at)));
            }
    return 0;
}

API curandCreateGenerator(Any *generator, int) { *generator = &used; return 0; }
API curandDestroyGenerator(Any) { return 0; }
API curandSetPseudoRandomGeneratorSeed(Any, unsigned long long) { return 0; }
API curandSetGeneratorOffset(Any, unsigned long long) { return 0; }
API curandSetStream(Any, Any) { return 0; }
API curandGenerateNormal(Any, float *out, size_t n, float mean, float deviation) {
    for (size_t i = 0; i < n; i++) out[i] = mean + deviation * sinf((float)(i * 12.9898));
    return 0;
}
API curandGenerateUniform(Any, float *out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = (float)(i % 97) / 97;
    return 0;
}
