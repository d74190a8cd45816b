// Rows of f32 logits (rows, vocabulary): the most probable next tokens, and the training loss.
// One block per row.
#include "common.cuh"

// z becomes cap * tanh(z / cap).
extern "C" __global__ void softcap(float *z, i64 count, float cap) {
    FOR_EACH(i, count) z[i] = cap * tanhf(z[i] / cap);
}

// An entry of a row; greater values come first, among equals the lower id.
struct Entry {
    float value;
    int64_t id;
};

__device__ inline bool precedes(Entry a, Entry b) {
    return a.value > b.value || (a.value == b.value && a.id < b.id);
}

// The first of this thread's entries (ids threadIdx.x, threadIdx.x + blockDim.x, ...) that comes
// after `limit`.
__device__ inline Entry next_of_thread(const float *z, i64 vocabulary, Entry limit) {
    Entry best = {-INFINITY, INT64_MAX};
    for (i64 id = threadIdx.x; id < vocabulary; id += blockDim.x) {
        Entry entry = {z[id], id};
        if (precedes(limit, entry) && precedes(entry, best)) best = entry;
    }
    return best;
}

__device__ inline Entry block_first(Entry entry) {
    __shared__ Entry parts[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    for (int o = 16; o > 0; o /= 2) {
        Entry other = {__shfl_xor_sync(0xffffffffu, entry.value, o),
                       __shfl_xor_sync(0xffffffffu, entry.id, o)};
        if (precedes(other, entry)) entry = other;
    }
    __syncthreads();
    if (lane == 0) parts[warp] = entry;
    __syncthreads();
    entry = parts[0];
    for (int w = 1; w < warps; w++)
        if (precedes(parts[w], entry)) entry = parts[w];
    return entry;
}

// The `k` first entries of each row as ids and log-probabilities (rows, k), and in `scalars`
// (rows, 2) the log-probability of the target and the log of the mass outside the k; NaN for both
// where a logit is not finite. Exponentials are f32, their sums over the block and logarithms f64.
extern "C" __global__ void next_tokens(const float *logits, const uint32_t *targets, uint32_t *ids,
                                       float *logprobs, float *scalars, i64 vocabulary, i64 k) {
    i64 row = blockIdx.x;
    const float *z = logits + row * vocabulary;
    ids += row * k;
    logprobs += row * k;
    scalars += row * 2;
    int broken = 0;
    float top = -INFINITY;
    for (i64 id = threadIdx.x; id < vocabulary; id += blockDim.x) {
        broken |= !isfinite(z[id]);
        top = fmaxf(top, z[id]);
    }
    if (__syncthreads_or(broken)) {
        if (threadIdx.x == 0) scalars[0] = scalars[1] = NAN;
        return;
    }
    const float shift = block_max(top);
    double listed = 0;
    Entry last = {INFINITY, -1};
    Entry mine = next_of_thread(z, vocabulary, last);
    for (i64 rank = 0; rank < k; rank++) {
        last = block_first(mine);
        listed += expf(last.value - shift);
        if (threadIdx.x == 0) {
            ids[rank] = (uint32_t)last.id;
            logprobs[rank] = last.value;
        }
        if (last.id % blockDim.x == threadIdx.x) mine = next_of_thread(z, vocabulary, last);
    }
    // The rest is summed on its own: 1 minus the listed mass loses all digits where the model is sure.
    float sum = 0;
    for (i64 id = threadIdx.x; id < vocabulary; id += blockDim.x)
        if (precedes(last, {z[id], id})) sum += expf(z[id] - shift);
    double rest = block_sum((double)sum);
    double log_sum = log(listed + rest);
    __syncthreads();
    for (i64 rank = threadIdx.x; rank < k; rank += blockDim.x)
        logprobs[rank] = (float)((double)logprobs[rank] - shift - log_sum);
    if (threadIdx.x == 0) {
        scalars[0] = (float)((double)z[targets[row]] - shift - log_sum);
        scalars[1] = (float)(log(rest) - log_sum);
    }
}

// Loss of each row, and its gradient for the logits:
//
//   (a + b sum p) softmax(z) - a e_label - b p      b only for rows with a target
//
// The target of a row is `rest` for every id, and for the listed ids `probs` instead; entries of
// row r are offsets[r] .. offsets[r + 1]. `losses` (rows, 2) are the cross-entropies with the label
// and with the target. `gradient` may be null; it must not be `logits`. Where `cap` is positive,
// logits were capped by it, and the gradient is that for what they were before.
template <typename T>
__device__ void fusion_loss(const float *logits, T *gradient, const uint32_t *labels,
                            const uint32_t *offsets, const uint32_t *ids, const float *probs,
                            const float *rests, const uint8_t *targeted, double *losses,
                            i64 vocabulary, double a, double b, float cap) {
    i64 row = blockIdx.x;
    const float *z = logits + row * vocabulary;
    const uint32_t label = labels[row];
    const bool has_target = targeted[row];
    const double rest = rests[row];
    const uint32_t entries = offsets[row + 1] - offsets[row];
    ids += offsets[row];
    probs += offsets[row];
    if (!has_target) b = 0;

    // Sum of p z and sum of p.
    double expected = 0, mass = 0;
    for (uint32_t e = threadIdx.x; e < entries; e += blockDim.x) {
        double p = (double)probs[e] - rest;
        expected += p * z[ids[e]];
        mass += p;
    }
    float top = -INFINITY, all = 0;
    for (i64 id = threadIdx.x; id < vocabulary; id += blockDim.x) {
        top = fmaxf(top, z[id]);
        all += z[id];
    }
    const float shift = block_max(top);
    float partial = 0;
    for (i64 id = threadIdx.x; id < vocabulary; id += blockDim.x) partial += expf(z[id] - shift);
    expected = block_sum(expected + rest * all);
    mass = block_sum(mass) + rest * vocabulary;
    const double sum = block_sum((double)partial), log_sum = shift + log(sum);
    if (threadIdx.x == 0) {
        losses[2 * row] = log_sum - z[label];
        losses[2 * row + 1] = has_target ? mass * log_sum - expected : 0;
    }
    if (!gradient) return;

    gradient += row * vocabulary;
    const float scale = (float)((a + b * mass) / sum), even = (float)(b * rest);
    auto slope = [&](i64 id) { return cap > 0 ? 1.0f - z[id] / cap * (z[id] / cap) : 1.0f; };
    for (i64 id = threadIdx.x; id < vocabulary; id += blockDim.x)
        store(gradient, id, (expf(z[id] - shift) * scale - even) * slope(id));
    __syncthreads();
    // Listed ids and the label are computed again in full, since `T` may round what is there.
    for (uint32_t e = threadIdx.x; e < entries + 1; e += blockDim.x) {
        const uint32_t id = e < entries ? ids[e] : label;
        double less = id == label ? a : 0;
        for (uint32_t other = 0; other < entries; other++)
            if (ids[other] == id) less += b * ((double)probs[other] - rest);
        store(gradient, id, (expf(z[id] - shift) * scale - even - (float)less) * slope(id));
    }
}
#define FUSION_LOSS(T)                                                                              \
    (const float *logits, T *gradient, const uint32_t *labels, const uint32_t *offsets,             \
     const uint32_t *ids, const float *probs, const float *rests, const uint8_t *targeted,          \
     double *losses, i64 vocabulary, double a, double b, float cap)
FOR_TYPES(fusion_loss, FUSION_LOSS,
          (logits, gradient, labels, offsets, ids, probs, rests, targeted, losses, vocabulary, a, b,
           cap))
