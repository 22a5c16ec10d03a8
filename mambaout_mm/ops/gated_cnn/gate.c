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
 * hidden - inner; likewise their gradients. Arithmetic is float32, memory float32 or bfloat16.
 */
#include "../native/parallel.h"
#include "../native/vector.h"

enum activation { GELU, SILU };

/* Enough work for a task to outweigh its start, small enough for many tasks. */
enum { ELEMENTS_OF_TASK = 1 << 14 };

struct gate {
    const void *gi;    /* (pixels, hidden + inner) */
    const void *mixed; /* (pixels, hidden - inner) */
    const void *grad;  /* (pixels, hidden); of y */
    void *y;           /* (pixels, hidden) */
    void *grad_gi;
    void *grad_mixed;
    long pixels, hidden, inner, dtype, activation, threads;
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
    vec slope;
    for (; k + WIDTH <= count; k += WIDTH) {
        vec x = load(g, at_g + k, dtype), factor = load(m, at_m + k, dtype);
        vec a = activate(x, activation, &slope);
        store(y, at_y + k, a * factor, dtype);
        if (backward) {
            vec d = load(grad, at_y + k, dtype);
            store(grad_g, at_g + k, d * factor * slope, dtype);
            store(grad_m, at_m + k, d * a, dtype);
        }
    }
    long rest = count - k;
    if (!rest) return;
    vec x = load_part(g, at_g + k, rest, dtype), factor = load_part(m, at_m + k, rest, dtype);
    vec a = activate(x, activation, &slope);
    store_part(y, at_y + k, rest, a * factor, dtype);
    if (backward) {
        vec d = load_part(grad, at_y + k, rest, dtype);
        store_part(grad_g, at_g + k, rest, d * factor * slope, dtype);
        store_part(grad_m, at_m + k, rest, d * a, dtype);
    }
}

INLINE void rows(const struct gate *a, long first, long last, int backward, enum dtype dtype,
                 enum activation activation) {
    long h = a->hidden, inner = a->inner, width = h + inner, outer = h - inner;
    for (long p = first; p < last; p++) {
        part(a->gi, a->gi, a->grad, a->y, a->grad_gi, a->grad_gi, p * width, p * width + h, p * h,
             inner, backward, dtype, activation);
        part(a->gi, a->mixed, a->grad, a->y, a->grad_gi, a->grad_mixed, p * width + inner, p * outer,
             p * h + inner, outer, backward, dtype, activation);
    }
}

INLINE long rows_of_task(const struct gate *a) {
    long rows = ELEMENTS_OF_TASK / a->hidden;
    return rows > 0 ? rows : 1;
}

INLINE void task_of(const struct gate *a, long index, int backward) {
    long rows_each = rows_of_task(a), first = index * rows_each, last = first + rows_each;
    if (last > a->pixels) last = a->pixels;
    if (a->dtype == FLOAT32 && a->activation == GELU)
        rows(a, first, last, backward, FLOAT32, GELU);
    else if (a->dtype == FLOAT32)
        rows(a, first, last, backward, FLOAT32, SILU);
    else if (a->activation == GELU)
        rows(a, first, last, backward, BFLOAT16, GELU);
    else
        rows(a, first, last, backward, BFLOAT16, SILU);
}

static void forward_task(const void *arguments, long index) { task_of(arguments, index, 0); }

static void backward_task(const void *arguments, long index) { task_of(arguments, index, 1); }

static long tasks(const struct gate *a) {
    long rows_each = rows_of_task(a);
    return (a->pixels + rows_each - 1) / rows_each;
}

/* Writes y. */
void gate_forward(const struct gate *a) { run_tasks(forward_task, a, tasks(a), a->threads); }

/* Writes y, grad_gi and grad_mixed. */
void gate_backward(const struct gate *a) { run_tasks(backward_task, a, tasks(a), a->threads); }
