/* The gate of a Gated CNN block and its gradients, in one pass each.
 *
 * With g and m, each `hidden` wide, and m = [i | mixed] (arXiv 2405.07992, algorithm 1; mixed is the
 * convolution's output):
 *
 *     y = act(g) m      grad_g = grad m act'(g)      grad_m = grad act(g)
 *
 * act is GELU, x P(X <= x) of the normal distribution, or SiLU, x sigmoid(x).
 *
 * Layout: rows are pixels. [g | i] is one array with rows of hidden + inner, mixed one with rows of
 * hidden - inner; likewise their gradients. Arithmetic is float32, memory float32 or bfloat16. A task
 * takes `rows` pixels, and has a row of its own in `sums`, so that the sums do not depend on threads.
 */
#include "../native/columns.h"
#include "../native/parallel.h"
#include "../native/vector.h"

enum activation { GELU, SILU };

/* Pixels between two additions to the sums in memory; they stay in the cache. */
enum { PIXELS = 8 };

struct gate {
    const void *gi;    /* (pixels, hidden + inner) */
    const void *mixed; /* (pixels, hidden - inner) */
    const void *grad;  /* (pixels, hidden); of y */
    void *y;           /* (pixels, hidden) */
    void *grad_gi;
    void *grad_mixed;
    float *sums; /* (tasks, hidden + inner): column sums of grad_gi */
    long pixels, hidden, inner, dtype, activation, rows, threads;
};

/* act(x) and act'(x). */
INLINE vec activate(vec x, enum activation activation, vec *slope) {
    if (activation == GELU) {
        vec density;
        vec p = normal_cdf(x, &density);
        *slope = p + x * density;
        return x * p;
    }
    vec p = 1.0f / (1.0f + exp_of(-x));
    *slope = p * (1.0f + x * (1.0f - p));
    return x * p;
}

/* `count` elements of g, of what it is multiplied with, and of the results. */
INLINE void part(const void *g, const void *m, const void *grad, void *y, void *grad_g, void *grad_m,
                 long at_g, long at_m, long at_y, long count, int backward, enum dtype dtype,
                 enum activation activation) {
    long k = 0;
    for (; k + 2 * WIDTH <= count; k += 2 * WIDTH) {
        vec x[2], factor[2], a[2], slope[2], d[2];
        load_pair(g, at_g + k, x, dtype);
        load_pair(m, at_m + k, factor, dtype);
        if (backward) load_pair(grad, at_y + k, d, dtype);
        for (int i = 0; i < 2; i++) {
            a[i] = activate(x[i], activation, &slope[i]);
            x[i] = a[i] * factor[i];
            if (backward) {
                slope[i] *= d[i] * factor[i];
                a[i] *= d[i];
            }
        }
        store_pair(y, at_y + k, x, dtype);
        if (backward) {
            store_pair(grad_g, at_g + k, slope, dtype);
            store_pair(grad_m, at_m + k, a, dtype);
        }
    }
    while (k < count) {
        long rest = count - k < WIDTH ? count - k : WIDTH;
        vec slope, x = load_part(g, at_g + k, rest, dtype);
        vec factor = load_part(m, at_m + k, rest, dtype);
        vec a = activate(x, activation, &slope);
        store_part(y, at_y + k, rest, a * factor, dtype);
        if (backward) {
            vec d = load_part(grad, at_y + k, rest, dtype);
            store_part(grad_g, at_g + k, rest, d * factor * slope, dtype);
            store_part(grad_m, at_m + k, rest, d * a, dtype);
        }
        k += rest;
    }
}

INLINE void pixels(const struct gate *a, long first, long last, int backward, enum dtype dtype,
                   enum activation activation) {
    long h = a->hidden, inner = a->inner, width = h + inner, outer = h - inner;
    for (long p = first; p < last; p++) {
        part(a->gi, a->gi, a->grad, a->y, a->grad_gi, a->grad_gi, p * width, p * width + h, p * h,
             inner, backward, dtype, activation);
        part(a->gi, a->mixed, a->grad, a->y, a->grad_gi, a->grad_mixed, p * width + inner, p * outer,
             p * h + inner, outer, backward, dtype, activation);
    }
}

INLINE void rows_of(const struct gate *a, long index, int backward, enum dtype dtype,
                    enum activation activation) {
    long first = index * a->rows, last = first + a->rows, width = a->hidden + a->inner;
    if (last > a->pixels) last = a->pixels;
    if (!backward) {
        pixels(a, first, last, backward, dtype, activation);
        return;
    }
    float *sums = a->sums + index * width;
    memset(sums, 0, (size_t)width * sizeof *sums);
    for (long p = first; p < last; p += PIXELS) {
        long end = p + PIXELS < last ? p + PIXELS : last;
        pixels(a, p, end, backward, dtype, activation);
        add_columns(sums, a->grad_gi, p * width, end - p, width, dtype);
    }
}

INLINE void task_of(const struct gate *a, long index, int backward) {
    if (a->dtype == FLOAT32 && a->activation == GELU)
        rows_of(a, index, backward, FLOAT32, GELU);
    else if (a->dtype == FLOAT32)
        rows_of(a, index, backward, FLOAT32, SILU);
    else if (a->activation == GELU)
        rows_of(a, index, backward, BFLOAT16, GELU);
    else
        rows_of(a, index, backward, BFLOAT16, SILU);
}

static void forward_task(const void *arguments, long index) { task_of(arguments, index, 0); }

static void backward_task(const void *arguments, long index) { task_of(arguments, index, 1); }

/* Writes y. */
void gate_forward(const struct gate *a) {
    run_tasks(forward_task, a, (a->pixels + a->rows - 1) / a->rows, a->threads);
}

/* Writes y, grad_gi, grad_mixed and sums. */
void gate_backward(const struct gate *a) {
    run_tasks(backward_task, a, (a->pixels + a->rows - 1) / a->rows, a->threads);
}
