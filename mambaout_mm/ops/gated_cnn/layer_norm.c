/* LayerNorm over the channels of each pixel, with the cast to the dtype of the products behind it.
 *
 *     xhat = (x - mean(x)) / sqrt(var(x) + eps)      y = xhat weight + bias
 *
 * and, with d = grad weight, grad the gradient of y,
 *
 *     grad_x = (d - mean(d) - xhat mean(d xhat)) / sqrt(var(x) + eps)
 *     grad_weight = sum over pixels of grad xhat      grad_bias = sum over pixels of grad
 *
 * (arXiv 1607.06450). Mean and variance are computed anew in the backward pass. Rows are pixels.
 * Arithmetic is float32. A task takes `rows` pixels, and has rows of its own in `sums`, so that the
 * sums do not depend on threads.
 */
#include <math.h>

#include "../native/parallel.h"
#include "../native/vector.h"

/* Pixels between two additions to the sums in memory; they stay in the cache. */
enum { PIXELS = 8 };

struct norm {
    const void *x;       /* (pixels, channels) */
    const float *weight; /* (channels) */
    const float *bias;   /* (channels) */
    const void *grad;    /* (pixels, channels); of y */
    void *y;             /* (pixels, channels) */
    void *grad_x;        /* (pixels, channels) */
    float *sums;         /* (tasks, 2, channels): grad_weight, grad_bias */
    long pixels, channels, dtype_x, dtype_y, rows, threads;
    float eps;
};

struct moments {
    float mean, scale; /* 1 / sqrt(var + eps) */
};

INLINE struct moments moments_of(const void *x, long at, long channels, float eps, enum dtype dtype) {
    long whole = channels - channels % WIDTH, rest = channels - whole;
    vec total = {0};
    for (long k = 0; k < whole; k += WIDTH) total += load(x, at + k, dtype);
    if (rest) total += load_part(x, at + whole, rest, dtype);
    float mean = sum(total) / (float)channels;
    vec squares = {0};
    for (long k = 0; k < whole; k += WIDTH) {
        vec d = load(x, at + k, dtype) - mean;
        squares += d * d;
    }
    float rest_squares = 0;
    if (rest) {
        vec d = load_part(x, at + whole, rest, dtype) - mean;
        for (long k = 0; k < rest; k++) rest_squares += d[k] * d[k];
    }
    float variance = (sum(squares) + rest_squares) / (float)channels;
    return (struct moments){mean, 1.0f / sqrtf(variance + eps)};
}

INLINE void normalise(const struct norm *a, long at, enum dtype dtype_x, enum dtype dtype_y) {
    long channels = a->channels, k = 0;
    struct moments m = moments_of(a->x, at, channels, a->eps, dtype_x);
    for (; k + WIDTH <= channels; k += WIDTH) {
        vec scale = load(a->weight, k, FLOAT32) * m.scale;
        vec x = load(a->x, at + k, dtype_x) - m.mean;
        store(a->y, at + k, x * scale + load(a->bias, k, FLOAT32), dtype_y);
    }
    long rest = channels - k;
    if (!rest) return;
    vec scale = load_part(a->weight, k, rest, FLOAT32) * m.scale;
    vec x = load_part(a->x, at + k, rest, dtype_x) - m.mean;
    store_part(a->y, at + k, rest, x * scale + load_part(a->bias, k, rest, FLOAT32), dtype_y);
}

/* Numbers of a pixel: mean and scale, and the means of d and of d xhat. */
struct pixel {
    struct moments moments;
    float mean, slope;
};

INLINE struct pixel pixel_of(const struct norm *a, long at, enum dtype dtype_x, enum dtype dtype_y) {
    long channels = a->channels, whole = channels - channels % WIDTH, rest = channels - whole;
    struct moments m = moments_of(a->x, at, channels, a->eps, dtype_x);
    vec total = {0}, product = {0};
    for (long k = 0; k < whole; k += WIDTH) {
        vec xhat = (load(a->x, at + k, dtype_x) - m.mean) * m.scale;
        vec d = load(a->grad, at + k, dtype_y) * load(a->weight, k, FLOAT32);
        total += d;
        product += d * xhat;
    }
    if (rest) {
        vec xhat = (load_part(a->x, at + whole, rest, dtype_x) - m.mean) * m.scale;
        vec d = load_part(a->grad, at + whole, rest, dtype_y) *
                load_part(a->weight, whole, rest, FLOAT32);
        total += d; /* 0 behind the row's end */
        product += d * xhat;
    }
    return (struct pixel){m, sum(total) / (float)channels, sum(product) / (float)channels};
}

/* Writes grad_x of up to PIXELS pixels, and adds to the sums of their task. */
INLINE void differentiate(const struct norm *a, long first, long count, float *sums,
                          enum dtype dtype_x, enum dtype dtype_y) {
    struct pixel pixels[PIXELS];
    long channels = a->channels, k = 0;
    for (long p = 0; p < count; p++)
        pixels[p] = pixel_of(a, (first + p) * channels, dtype_x, dtype_y);
    for (; k + WIDTH <= channels; k += WIDTH) {
        vec weight = load(a->weight, k, FLOAT32);
        vec weight_sum = load(sums, k, FLOAT32), bias_sum = load(sums, channels + k, FLOAT32);
        for (long p = 0; p < count; p++) {
            struct pixel *m = pixels + p;
            long at = (first + p) * channels + k;
            vec xhat = (load(a->x, at, dtype_x) - m->moments.mean) * m->moments.scale;
            vec grad = load(a->grad, at, dtype_y);
            weight_sum += grad * xhat;
            bias_sum += grad;
            vec grad_x = (grad * weight - m->mean - xhat * m->slope) * m->moments.scale;
            store(a->grad_x, at, grad_x, dtype_x);
        }
        store(sums, k, weight_sum, FLOAT32);
        store(sums, channels + k, bias_sum, FLOAT32);
    }
    long rest = channels - k;
    if (!rest) return;
    vec weight = load_part(a->weight, k, rest, FLOAT32);
    for (long p = 0; p < count; p++) {
        struct pixel *m = pixels + p;
        long at = (first + p) * channels + k;
        vec xhat = (load_part(a->x, at, rest, dtype_x) - m->moments.mean) * m->moments.scale;
        vec grad = load_part(a->grad, at, rest, dtype_y);
        vec grad_x = (grad * weight - m->mean - xhat * m->slope) * m->moments.scale;
        store_part(a->grad_x, at, rest, grad_x, dtype_x);
        for (long i = 0; i < rest; i++) {
            sums[k + i] += grad[i] * xhat[i];
            sums[channels + k + i] += grad[i];
        }
    }
}

INLINE void rows_of(const struct norm *a, long index, int backward, enum dtype dtype_x,
                    enum dtype dtype_y) {
    long first = index * a->rows, last = first + a->rows;
    if (last > a->pixels) last = a->pixels;
    if (!backward) {
        for (long p = first; p < last; p++) normalise(a, p * a->channels, dtype_x, dtype_y);
        return;
    }
    float *sums = a->sums + 2 * index * a->channels;
    memset(sums, 0, 2 * (size_t)a->channels * sizeof *sums);
    for (long p = first; p < last; p += PIXELS)
        differentiate(a, p, last - p < PIXELS ? last - p : PIXELS, sums, dtype_x, dtype_y);
}

INLINE void task_of(const struct norm *a, long index, int backward) {
    if (a->dtype_x == FLOAT32 && a->dtype_y == FLOAT32)
        rows_of(a, index, backward, FLOAT32, FLOAT32);
    else if (a->dtype_x == FLOAT32)
        rows_of(a, index, backward, FLOAT32, BFLOAT16);
    else if (a->dtype_y == FLOAT32)
        rows_of(a, index, backward, BFLOAT16, FLOAT32);
    else
        rows_of(a, index, backward, BFLOAT16, BFLOAT16);
}

static void forward_task(const void *arguments, long index) { task_of(arguments, index, 0); }

static void backward_task(const void *arguments, long index) { task_of(arguments, index, 1); }

/* Writes y. */
void layer_norm_forward(const struct norm *a) {
    run_tasks(forward_task, a, (a->pixels + a->rows - 1) / a->rows, a->threads);
}

/* Writes grad_x and sums. */
void layer_norm_backward(const struct norm *a) {
    run_tasks(backward_task, a, (a->pixels + a->rows - 1) / a->rows, a->threads);
}
