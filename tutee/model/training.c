/* Elementwise parts of a training step, each one pass over memory: norms, rotary turns, the gated unit, softmax.

Rows are independent, so threads never share a sum and a result does not depend on their number. bfloat16 is read and
rounded here; all arithmetic is float32. `fused.py` says what each function computes, in PyTorch. */

#ifdef __AVX512F__
#pragma GCC target("prefer-vector-width=512") /* or gcc takes half of it */
#endif
#include "bfloat16.h"
#include <math.h>

/* e^x by 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]; relative error below 2e-7; 0 below -87. */
static inline float exponential(float x) {
    float clamped = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = floorf(clamped * 1.44269504f + 0.5f);
    float r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return x < -87.0f ? 0.0f : p * power;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

void norm(const float *x, const float *weight, float eps, bf16 *y, float *scale, long rows, long width) {
#pragma omp parallel for schedule(static)
    for (long t = 0; t < rows; t++) {
        const float *row = x + t * width;
        float sum = 0;
        for (long d = 0; d < width; d++) sum += row[d] * row[d];
        float by = 1.0f / sqrtf(sum / (float)width + eps);
        bf16 *out = y + t * width;
        for (long d = 0; d < width; d++) out[d] = store(row[d] * by * weight[d]);
        scale[t] = by;
    }
}

void norm_backward(const bf16 *dy, const bf16 *y, const float *scale, const float *weight, float *dx, bf16 *dx_rounded,
                   long rows, long width) {
#pragma omp parallel for schedule(static)
    for (long t = 0; t < rows; t++) {
        const bf16 *grad = dy + t * width, *out = y + t * width;
        float *row = dx + t * width;
        bf16 *rounded = dx_rounded + t * width;
        float sum = 0;
        for (long d = 0; d < width; d++) sum += load(grad[d]) * load(out[d]);
        float mean = sum / (float)width;
        for (long d = 0; d < width; d++) {
            float normed = weight[d] == 0.0f ? 0.0f : load(out[d]) / weight[d];
            float value = row[d] + scale[t] * (weight[d] * load(grad[d]) - normed * mean);
            row[d] = value;
            rounded[d] = store(value);
        }
    }
}

/* Columns are shared among threads: each sum has one owner. */
void norm_weight_gradient(const bf16 *dy, const bf16 *y, const float *weight, float *out, long rows, long width) {
#pragma omp parallel for schedule(static)
    for (long first = 0; first < width; first += 64) {
        long count = width - first < 64 ? width - first : 64;
        float sum[64] = {0};
        for (long t = 0; t < rows; t++) {
            const bf16 *grad = dy + t * width + first, *normed = y + t * width + first;
            for (long d = 0; d < count; d++) sum[d] += load(grad[d]) * load(normed[d]);
        }
        for (long d = 0; d < count; d++) out[first + d] = weight[first + d] == 0.0f ? 0.0f : sum[d] / weight[first + d];
    }
}

/* In place on the first `heads` heads of each row; `sign` is 1, or -1 to turn back. */
void rotate(bf16 *x, const int64_t *positions, const float *cosines, const float *sines, float sign, long rows,
            long stride, long heads, long half) {
#pragma omp parallel for schedule(static)
    for (long t = 0; t < rows; t++) {
        const float *cosine = cosines + positions[t] * half, *sine = sines + positions[t] * half;
        for (long h = 0; h < heads; h++) {
            bf16 *first = x + t * stride + 2 * h * half, *second = first + half;
            for (long k = 0; k < half; k++) {
                float a = load(first[k]), b = load(second[k]), s = sign * sine[k];
                first[k] = store(a * cosine[k] - b * s);
                second[k] = store(b * cosine[k] + a * s);
            }
        }
    }
}

void gated(const bf16 *gate_up, bf16 *out, long rows, long width) {
#pragma omp parallel for schedule(static)
    for (long t = 0; t < rows; t++) {
        const bf16 *gate = gate_up + 2 * t * width, *up = gate + width;
        bf16 *row = out + t * width;
        for (long f = 0; f < width; f++) {
            float g = load(gate[f]);
            row[f] = store(g * sigmoid(g) * load(up[f]));
        }
    }
}

/* `gate_up` becomes its own gradient and `d_out` becomes what `gated` had made, so that nothing is allocated. */
void gated_backward(bf16 *gate_up, bf16 *d_out, long rows, long width) {
#pragma omp parallel for schedule(static)
    for (long t = 0; t < rows; t++) {
        bf16 *gate = gate_up + 2 * t * width, *up = gate + width, *row = d_out + t * width;
        for (long f = 0; f < width; f++) {
            float g = load(gate[f]), u = load(up[f]), d = load(row[f]);
            float s = sigmoid(g), swish = g * s;
            gate[f] = store(d * u * (s + swish * (1.0f - s)));
            up[f] = store(d * swish);
            row[f] = store(swish * u);
        }
    }
}
