// Softmax of attention scores, forward and backward. One block per row.
#include "common.cuh"

// A row is (sample, head, query) of (samples, heads, queries); its columns are the keys
// `key_begin ..`.
struct Place {
    i64 sample, head, position;
    // First and last-plus-one column that the query sees.
    i64 begin, end;
};

__device__ inline Place place(i64 heads, i64 queries, i64 first_query, i64 offset, i64 window,
                              i64 key_begin, i64 len, const uint32_t *starts) {
    i64 row = blockIdx.x, query = first_query + row % queries;
    Place p;
    p.head = row / queries % heads;
    p.sample = row / queries / heads;
    p.position = offset + query;
    i64 begin = window > 0 && window <= p.position ? p.position + 1 - window : 0;
    if (starts) {
        i64 start = starts[p.sample * len + query];
        begin = start > begin ? start : begin;
    }
    p.begin = begin - key_begin;
    p.end = p.position + 1 - key_begin;
    return p;
}

// cap * tanh(scale * score / cap) + slope * (key - query).
__device__ inline float biased(float score, float scale, float cap, float slope, float distance) {
    float value = score * scale;
    if (cap > 0) value = cap * tanhf(value / cap);
    return value + slope * distance;
}

// Scores (rows, width) become weights; columns that a query does not see become 0. `starts`
// begins at the first sample, `slopes` has one per head; both may be null. `weights` may be `scores`.
template <typename T>
__device__ void softmax(const T *scores, T *weights, i64 width, float scale, float cap,
                        const float *slopes, const uint32_t *starts, i64 heads, i64 queries,
                        i64 first_query, i64 offset, i64 window, i64 key_begin, i64 len) {
    Place p = place(heads, queries, first_query, offset, window, key_begin, len, starts);
    scores += blockIdx.x * width;
    weights += blockIdx.x * width;
    float slope = slopes ? slopes[p.head] : 0.0f;
    i64 query = p.position - key_begin;
    float top = -INFINITY, sum = 0;
    for (i64 c = p.begin + threadIdx.x; c < p.end; c += blockDim.x) {
        float value = biased(load(scores, c), scale, cap, slope, (float)(c - query));
        if (value > top) {
            sum = sum * expf(top - value) + 1.0f;
            top = value;
        } else {
            sum += expf(value - top);
        }
    }
    float shift = block_max(top);
    // A thread without a column has the sum 0, and no maximum to compare.
    float inverse = 1.0f / block_sum(sum == 0.0f ? 0.0f : sum * expf(top - shift));
    for (i64 c = threadIdx.x; c < width; c += blockDim.x) {
        float weight = 0;
        if (c >= p.begin && c < p.end) {
            float value = biased(load(scores, c), scale, cap, slope, (float)(c - query));
            weight = expf(value - shift) * inverse;
        }
        store(weights, c, weight);
    }
}
#define SOFTMAX(T)                                                                                  \
    (const T *scores, T *weights, i64 width, float scale, float cap, const float *slopes,           \
     const uint32_t *starts, i64 heads, i64 queries, i64 first_query, i64 offset, i64 window,       \
     i64 key_begin, i64 len)
FOR_TYPES(softmax, SOFTMAX,
          (scores, weights, width, scale, cap, slopes, starts, heads, queries, first_query, offset,
           window, key_begin, len))

// The gradient of the weights becomes that of the scores, in place; `scores` is read only where
// there is a cap. Weights of what a query does not see are 0, and so is the gradient.
template <typename T>
__device__ void softmax_backward(T *grad, const T *weights, const T *scores, i64 width, float scale,
                                 float cap) {
    grad += blockIdx.x * width;
    weights += blockIdx.x * width;
    scores += blockIdx.x * width;
    float dot = 0;
    for (i64 c = threadIdx.x; c < width; c += blockDim.x) dot += load(grad, c) * load(weights, c);
    dot = block_sum(dot);
    for (i64 c = threadIdx.x; c < width; c += blockDim.x) {
        float weight = load(weights, c), value = 0;
        if (weight != 0) {
            value = scale * weight * (load(grad, c) - dot);
            if (cap > 0) {
                float t = tanhf(load(scores, c) * scale / cap);
                value *= 1.0f - t * t;
            }
        }
        store(grad, c, value);
    }
}
#define SOFTMAX_BACKWARD(T)                                                                         \
    (T *grad, const T *weights, const T *scores, i64 width, float scale, float cap)
FOR_TYPES(softmax_backward, SOFTMAX_BACKWARD, (grad, weights, scores, width, scale, cap))
