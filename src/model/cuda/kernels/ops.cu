// Norms, activations, heads and rotary embedding, embeddings.
#include "common.cuh"

// ---- norms: y = (x - mean) / sqrt(variance + eps) * (weight + plus) ----

struct Moments {
    float mean, scale;
};

// Mean (0 unless `center`) and one over the root of the second moment about it.
template <typename T> __device__ Moments moments(const T *x, i64 width, float eps, int center) {
    float mean = 0;
    if (center) {
        float sum = 0;
        for (i64 c = threadIdx.x; c < width; c += blockDim.x) sum += load(x, c);
        mean = block_sum(sum) / width;
    }
    float sum = 0;
    for (i64 c = threadIdx.x; c < width; c += blockDim.x) {
        float distance = load(x, c) - mean;
        sum += distance * distance;
    }
    return {mean, 1.0f / sqrtf(block_sum(sum) / width + eps)};
}

// One block per row.
template <typename T>
__device__ void norm(const T *x, const T *weight, T *y, i64 width, float eps, float plus,
                     int center) {
    x += blockIdx.x * width;
    y += blockIdx.x * width;
    Moments m = moments(x, width, eps, center);
    for (i64 c = threadIdx.x; c < width; c += blockDim.x)
        store(y, c, (load(x, c) - m.mean) * m.scale * (load(weight, c) + plus));
}
#define NORM(T) (const T *x, const T *weight, T *y, i64 width, float eps, float plus, int center)
FOR_TYPES(norm, NORM, (x, weight, y, width, eps, plus, center))

// Blocks take rows in turn; each sums the gradient of the weight over its rows into its own row of
// `dweight` (blocks, width), which starts as zeros.
template <typename T>
__device__ void norm_backward(const T *x, const T *weight, const T *grad, T *dx, float *dweight,
                              i64 rows, i64 width, float eps, float plus, int center) {
    dweight += blockIdx.x * width;
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const T *xr = x + row * width, *gr = grad + row * width;
        T *dr = dx + row * width;
        Moments m = moments(xr, width, eps, center);
        float along = 0, sum = 0;
        for (i64 c = threadIdx.x; c < width; c += blockDim.x) {
            float g = load(gr, c), unit = (load(xr, c) - m.mean) * m.scale;
            dweight[c] += g * unit;
            float scaled = g * (load(weight, c) + plus);
            along += scaled * unit;
            sum += scaled;
        }
        along = block_sum(along) / width;
        sum = center ? block_sum(sum) / width : 0;
        for (i64 c = threadIdx.x; c < width; c += blockDim.x) {
            float unit = (load(xr, c) - m.mean) * m.scale;
            float scaled = load(gr, c) * (load(weight, c) + plus);
            store(dr, c, (scaled - sum - unit * along) * m.scale);
        }
    }
}
#define NORM_BACKWARD(T)                                                                            \
    (const T *x, const T *weight, const T *grad, T *dx, float *dweight, i64 rows, i64 width,        \
     float eps, float plus, int center)
FOR_TYPES(norm_backward, NORM_BACKWARD,
          (x, weight, grad, dx, dweight, rows, width, eps, plus, center))

// y[c] = sum of x[r][c] over rows r, in order. One thread per column.
template <typename T> __device__ void sum_rows(const float *x, T *y, i64 rows, i64 width) {
    FOR_EACH(c, width) {
        float sum = 0;
        for (i64 r = 0; r < rows; r++) sum += x[r * width + c];
        store(y, c, sum);
    }
}
#define SUM_ROWS(T) (const float *x, T *y, i64 rows, i64 width)
FOR_TYPES(sum_rows, SUM_ROWS, (x, y, rows, width))

// ---- gated activations: y = f(gate) * up ----

struct Activated {
    float value, slope;
};

// 0: SiLU, 1: GELU by its tanh approximation, 2: GELU by the error function.
__device__ inline Activated activate(float x, int kind) {
    if (kind == 0) {
        float sigma = 1.0f / (1.0f + expf(-x));
        return {x * sigma, sigma * (1.0f + x * (1.0f - sigma))};
    }
    if (kind == 1) {
        const float root = 0.7978845608028654f, cubic = 0.044715f;
        float t = tanhf(root * (x + cubic * x * x * x));
        float inner = root * (1.0f + 3.0f * cubic * x * x);
        return {0.5f * x * (1.0f + t), 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner};
    }
    float half = 0.5f * (1.0f + erff(x * 0.7071067811865476f));
    return {x * half, half + x * 0.3989422804014327f * expf(-0.5f * x * x)};
}

template <typename T>
__device__ void gated(const T *gate, const T *up, T *y, i64 count, int kind) {
    FOR_EACH(i, count) store(y, i, activate(load(gate, i), kind).value * load(up, i));
}
#define GATED(T) (const T *gate, const T *up, T *y, i64 count, int kind)
FOR_TYPES(gated, GATED, (gate, up, y, count, kind))

template <typename T>
__device__ void gated_backward(const T *gate, const T *up, const T *grad, T *dgate, T *dup,
                               i64 count, int kind) {
    FOR_EACH(i, count) {
        float g = load(grad, i);
        Activated a = activate(load(gate, i), kind);
        store(dgate, i, g * load(up, i) * a.slope);
        store(dup, i, g * a.value);
    }
}
#define GATED_BACKWARD(T)                                                                           \
    (const T *gate, const T *up, const T *grad, T *dgate, T *dup, i64 count, int kind)
FOR_TYPES(gated_backward, GATED_BACKWARD, (gate, up, grad, dgate, dup, count, kind))

// ---- heads ----

// x (batch, outer, inner, d) to y (batch, inner, outer, d), where of each row the pairs
// (i, i + half) are rotated by the angle of their position and what follows them is copied.
// `outer` counts positions, or `inner` does where `inner_is_position`. `sign` -1 rotates backwards.
// cos and sin are (table, half): a row for each position, or for each of every sequence.
template <typename T>
__device__ void rotate(const T *x, const float *cos, const float *sin, T *y, i64 batch, i64 outer,
                       i64 inner, i64 d, i64 half, i64 table, float sign, int inner_is_position) {
    FOR_EACH(index, batch * outer * inner * d) {
        i64 i = index % d, row = index / d;
        i64 o = row % outer, n = row / outer % inner, b = row / outer / inner;
        const T *from = x + ((b * outer + o) * inner + n) * d;
        if (i >= 2 * half) {
            y[index] = from[i];
            continue;
        }
        i64 position = inner_is_position ? b * inner + n : b * outer + o;
        i64 angle = position % table * half + i % half;
        float c = cos[angle], s = sin[angle] * sign;
        float value = i < half ? load(from, i) * c - load(from, i + half) * s
                               : load(from, i - half) * s + load(from, i) * c;
        store(y, index, value);
    }
}
#define ROTATE(T)                                                                                   \
    (const T *x, const float *cos, const float *sin, T *y, i64 batch, i64 outer, i64 inner, i64 d,  \
     i64 half, i64 table, float sign, int inner_is_position)
FOR_TYPES(rotate, ROTATE,
          (x, cos, sin, y, batch, outer, inner, d, half, table, sign, inner_is_position))

// y[a, b, c, :] = x[a, b, c, :] for the given sizes, where both have strides for a, b and c.
template <typename T>
__device__ void copy_rows(const T *x, T *y, i64 na, i64 nb, i64 nc, i64 d, i64 xa, i64 xb, i64 xc,
                          i64 ya, i64 yb, i64 yc) {
    FOR_EACH(index, na * nb * nc * d) {
        i64 i = index % d, row = index / d;
        i64 c = row % nc, b = row / nc % nb, a = row / nc / nb;
        y[a * ya + b * yb + c * yc + i] = x[a * xa + b * xb + c * xc + i];
    }
}
#define COPY_ROWS(T)                                                                                \
    (const T *x, T *y, i64 na, i64 nb, i64 nc, i64 d, i64 xa, i64 xb, i64 xc, i64 ya, i64 yb, i64 yc)
FOR_TYPES(copy_rows, COPY_ROWS, (x, y, na, nb, nc, d, xa, xb, xc, ya, yb, yc))

// ---- embeddings ----

// y[index[r]] = x[r] for rows of `width`; no index occurs twice.
template <typename T>
__device__ void scatter_rows(const T *x, const uint32_t *index, T *y, i64 rows, i64 width) {
    FOR_EACH(i, rows * width) y[(i64)index[i / width] * width + i % width] = x[i];
}
#define SCATTER_ROWS(T) (const T *x, const uint32_t *index, T *y, i64 rows, i64 width)
FOR_TYPES(scatter_rows, SCATTER_ROWS, (x, index, y, rows, width))

// table[id] = sum of grad[r] over the rows r with ids[r] = id, in order; other rows are left as
// they are. Block (r, b) does columns b * blockDim.x .. of the id of row r if r is its first.
template <typename T>
__device__ void embedding_backward(const uint32_t *ids, const T *grad, T *table, i64 rows,
                                   i64 width) {
    __shared__ uint32_t masks[32];
    i64 first = blockIdx.x, column = (i64)blockIdx.y * blockDim.x + threadIdx.x;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    uint32_t id = ids[first];
    for (i64 begin = 0; begin < first; begin += blockDim.x) {
        i64 r = begin + threadIdx.x;
        if (__syncthreads_or(r < first && ids[r] == id)) return;
    }
    float sum = 0;
    for (i64 begin = first; begin < rows; begin += blockDim.x) {
        i64 r = begin + threadIdx.x;
        uint32_t same = __ballot_sync(0xffffffffu, r < rows && ids[r] == id);
        if (lane == 0) masks[warp] = same;
        __syncthreads();
        for (int w = 0; w < warps && column < width; w++)
            for (uint32_t left = masks[w]; left; left &= left - 1)
                sum += load(grad, (begin + w * 32 + __ffs((int)left) - 1) * width + column);
        __syncthreads();
    }
    if (column < width) store(table, (i64)id * width + column, sum);
}
#define EMBEDDING_BACKWARD(T)                                                                       \
    (const uint32_t *ids, const T *grad, T *table, i64 rows, i64 width)
FOR_TYPES(embedding_backward, EMBEDDING_BACKWARD, (ids, grad, table, rows, width))
