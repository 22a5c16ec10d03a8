/* What the forward and the backward pass of the selective scan share.
 *
 * With dt = softplus(delta + bias), for each channel and each of its N states
 *
 *     h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t        y_t = sum over N of C_t h_t, plus D u_t
 *
 * (arXiv 2312.00752, algorithm 2). A vector holds WIDTH channels of one group at one step. Work is
 * cut by the shape alone, so that results do not depend on the number of threads:
 *
 *     slab     up to SLAB channels of a group; a group of one batch element has `slabs`
 *     segment  SEGMENT steps; the state before each is kept for the backward pass
 *     chunk    `chunk` segments; there is one chunk, unless there are few slabs
 *
 * A task is a slab in a chunk. Several chunks run side by side, twice: from zero, to learn the
 * state that each adds; then from the true state, carried from chunk to chunk in between.
 */
#ifndef MAMBAOUT_MM_SCAN_H
#define MAMBAOUT_MM_SCAN_H

#include "../native/parallel.h"
#include "../native/vector.h"

enum { SEGMENT = 64, SLAB = 96 };

/* (batch, groups, channels or states, length), in any memory layout; strides in elements. */
struct series {
    void *data;
    long batch, group, channel, time;
    long dtype;
};

/* selective_scan/native.py has the same. Arrays without strides are contiguous float32. */
struct scan {
    long batches, groups, channels, length, states;
    long segment, slab, slabs, chunk, chunks; /* segment: must be SEGMENT */
    long softplus, threads;
    struct series u, delta, B, C; /* B, C: float32 */
    const float *A;               /* (groups, states, channels) */
    const float *skip, *bias;     /* (groups, channels), or null */
    float *starts;                /* (segments, batches, groups, states, channels) */
    float *steps;                 /* (chunks, batches, groups, channels): sum of dt */
    struct series y;              /* forward only; float32 */

    /* The rest: backward only; grad_y: float32 */
    struct series grad_y, grad_u, grad_delta, grad_B, grad_C;
    float *adjoints;                          /* (chunks, batches, groups, states, channels) */
    float *grad_A;                            /* likewise */
    float *grad_skip, *grad_bias;             /* (chunks, batches, groups, channels) */
    float *parts_B, *parts_C; /* of grad_B, grad_C: (slabs, batches, groups, states, length) */
};

/* A task's part of the arrays. */
struct place {
    long batch, group, first, last, slab, chunk;
};

INLINE struct place place_of(const struct scan *a, long task) {
    struct place p;
    p.slab = task % a->slabs;
    p.first = p.slab * a->slab;
    p.last = least(p.first + a->slab, a->channels);
    task /= a->slabs;
    p.group = task % a->groups;
    task /= a->groups;
    p.batch = task % a->batches;
    p.chunk = task / a->batches;
    return p;
}

/* Tasks in a run of `chunks` chunks. */
INLINE long tasks_of(const struct scan *a, long chunks) {
    return a->slabs * a->groups * a->batches * chunks;
}

/* Index of element (batch, group, channel, time). */
INLINE long index_of(const struct series *x, const struct place *p, long channel, long time) {
    return p->batch * x->batch + p->group * x->group + channel * x->channel + time * x->time;
}

/* Element (row, batch, group, state, channel) of an array with `states` states. */
INLINE long state_element(const struct scan *a, const struct place *p, long row, long states,
                          long state, long channel) {
    return (((row * a->batches + p->batch) * a->groups + p->group) * states + state) * a->channels +
           channel;
}

/* WIDTH floats, or the `count` that there are, and zeros. */
INLINE vec load_floats(const float *x, long index, long count) {
    return count >= WIDTH ? load(x, index, FLOAT32) : load_part(x, index, count, FLOAT32);
}

INLINE void store_floats(float *x, long index, long count, vec value) {
    if (count >= WIDTH)
        store(x, index, value, FLOAT32);
    else
        store_part(x, index, count, value, FLOAT32);
}

/* A of one state times log2 e: decays are powers of two. */
INLINE vec exponents(const struct scan *a, const struct place *p, long state, long channel,
                     long count) {
    long at = (p->group * a->states + state) * a->channels + channel;
    return load_floats(a->A, at, count) * 1.44269504088896341f;
}

/* Decay over a chunk. Not 0, since infinite states stay infinite. */
INLINE vec decay_over(vec exponents, vec steps) {
    return exp2_of(at_least(exponents * steps, -126));
}

/* log(1 + e^x), and its derivative in *slope.
 *
 * With e = exp(-|x|) it is max(x, 0) + log(1 + e). log(1 + e) / e is a polynomial, the best one of
 * degree 9 by Remez' exchange (relative error 5e-9 before rounding). Rounding makes it the identity
 * above 20. */
INLINE vec softplus(vec x, vec *slope) {
    vec e = exp_of(-absolute(x));
    vec p = splat(-0.00324402461f);
    p = p * e + 0.01985145983f;
    p = p * e - 0.05695952954f;
    p = p * e + 0.1060365441f;
    p = p * e - 0.153055923f;
    p = p * e + 0.1967593917f;
    p = p * e - 0.2495413364f;
    p = p * e + 0.3332996242f;
    p = p * e - 0.4999990242f;
    p = p * e + 0.9999999953f;
    vec larger = 1.0f / (1.0f + e); /* of the slopes at x and -x */
    *slope = choose(x < 0.0f, e * larger, larger);
    return at_least(x, 0.0f) + e * p;
}

/* The step dt of delta + bias, and its derivative in *slope. */
INLINE vec step_of(const struct scan *a, vec x, vec *slope) {
    *slope = splat(1);
    return a->softplus ? softplus(x, slope) : x;
}

INLINE vec bias_of(const struct scan *a, const struct place *p, long channel, long count) {
    return a->bias ? load_floats(a->bias, p->group * a->channels + channel, count) : splat(0);
}

#endif
