// Accumulating gradients, their norm, and AdamW.
#include "common.cuh"

// sum += x
template <typename T> __device__ void accumulate(float *sum, const T *x, i64 count) {
    FOR_EACH(i, count) sum[i] += load(x, i);
}
#define ACCUMULATE(T) (float *sum, const T *x, i64 count)
FOR_TYPES(accumulate, ACCUMULATE, (sum, x, count))

// partial[b] = sum of squares of the elements b * per_block .. of x.
template <typename T>
__device__ void square_sum(const T *x, double *partial, i64 count, i64 per_block) {
    i64 begin = blockIdx.x * per_block, end = begin + per_block < count ? begin + per_block : count;
    double total = 0;
    for (i64 i = begin + threadIdx.x; i < end; i += blockDim.x) {
        float value = load(x, i);
        total += (double)(value * value);
    }
    total = block_sum(total);
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}
#define SQUARE_SUM(T) (const T *x, double *partial, i64 count, i64 per_block)
FOR_TYPES(square_sum, SQUARE_SUM, (x, partial, count, per_block))

// One step. `master` holds the weights in f32 and `parameter` gets them rounded; for f32 both are
// the same. A null gradient is zero. `keep` is what weight decay leaves, `rate` the learning rate
// over the first moment's bias correction, `correction` one over the second's.
template <typename T>
__device__ void adamw(T *parameter, float *master, float *first, float *second,
                      const float *gradient, i64 count, float scale, float beta1, float beta2,
                      float new1, float new2, float eps, float rate, float correction, float keep) {
    FOR_EACH(i, count) {
        float g = gradient ? gradient[i] * scale : 0.0f;
        float m = first[i] * beta1 + g * new1;
        float v = second[i] * beta2 + g * g * new2;
        float w = master[i] * keep - rate * m / (sqrtf(v * correction) + eps);
        first[i] = m;
        second[i] = v;
        master[i] = w;
        store(parameter, i, w);
    }
}
#define ADAMW(T)                                                                                    \
    (T *parameter, float *master, float *first, float *second, const float *gradient, i64 count,    \
     float scale, float beta1, float beta2, float new1, float new2, float eps, float rate,          \
     float correction, float keep)
FOR_TYPES(adamw, ADAMW,
          (parameter, master, first, second, gradient, count, scale, beta1, beta2, new1, new2, eps,
           rate, correction, keep))
