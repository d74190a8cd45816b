// The kernels of src/model/cuda/kernels as functions of the host, for check.py.
#include "../../src/model/cuda/kernels/attention.cu"
#include "../../src/model/cuda/kernels/ops.cu"
#include "../../src/model/cuda/kernels/optim.cu"
#include "../../src/model/cuda/kernels/vocabulary.cu"

// emulate(kernel, blocks x, blocks y, threads, arguments): arguments are passed as 8 bytes each with
// a letter for what they are: p pointer, l i64, i int, f float, d double.
struct Argument { char kind; union { void *p; i64 l; int i; float f; double d; }; };

template <typename R, typename... P, size_t... I>
static void call(R (*kernel)(P...), const Argument *a, std::index_sequence<I...>) {
    auto get = [&]<typename T>(const Argument &x, T *) -> T {
        if constexpr (std::is_pointer_v<T>) return (T)x.p;
        else if constexpr (std::is_same_v<T, i64>) return x.l;
        else if constexpr (std::is_same_v<T, int>) return x.i;
        else if constexpr (std::is_same_v<T, float>) return x.f;
        else return x.d;
    };
    kernel(get(a[I], (P *)nullptr)...);
}
template <typename... P>
static int start(const char *kinds, void (*kernel)(P...), unsigned x, unsigned y, unsigned threads,
                 const Argument *a, int count) {
    auto kind = []<typename T>(T *) {
        return std::is_pointer_v<T> ? 'p' : std::is_same_v<T, i64> ? 'l'
             : std::is_same_v<T, int> ? 'i' : std::is_same_v<T, float> ? 'f' : 'd';
    };
    const char want[] = {kind((P *)nullptr)...};
    if (count != (int)sizeof...(P)) return 1;
    for (int i = 0; i < count; i++) if (want[i] != kinds[i]) return 2;
    run(x, y, threads, [=] { call(kernel, a, std::index_sequence_for<P...>{}); });
    return 0;
}

#include <string>
extern "C" int emulate(const char *name, unsigned x, unsigned y, unsigned threads, const char *kinds,
                       const Argument *a, int count) {
    const std::string n = name;
#define KERNEL(NAME) if (n == #NAME) return start(kinds, NAME, x, y, threads, a, count);
#define KERNELS(NAME) KERNEL(NAME##_f32) KERNEL(NAME##_bf16) KERNEL(NAME##_f16)
    KERNELS(norm) KERNELS(norm_backward) KERNELS(sum_rows) KERNELS(gated) KERNELS(gated_backward)
    KERNELS(rotate) KERNELS(copy_rows) KERNELS(scatter_rows) KERNELS(embedding_backward)
    KERNELS(softmax) KERNELS(softmax_backward) KERNELS(fusion_loss) KERNEL(next_tokens)
    KERNELS(accumulate) KERNELS(square_sum) KERNELS(adamw)
    return 3;
}
