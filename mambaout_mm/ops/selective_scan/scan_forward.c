/* Selective scan, forward: y and the state before each segment. Formula and terms: scan.h. */
#include "tile.h"

/* x where it is finite, else y. */
INLINE vec finite_or(vec x, vec y) { return choose(x - x == 0.0f, x, y); }

/* WIDTH channels in a segment: the state goes from `before` to `after`, which is null at the end.
 *
 * A slow state would stop growing half a last digit over 1 - exp(dt A) before its limit. Therefore
 * what a segment adds is summed from zero, too, and added to the state before it, decayed over the
 * whole segment. */
INLINE void block(const struct scan *a, const struct place *p, long channel, long time, long steps,
                  const float *before, float *after, int outputs) {
    vec dt[SEGMENT], input[SEGMENT], y[SEGMENT]; /* input: u, then dt u */
    long count = least(WIDTH, p->last - channel), at = p->group * a->channels + channel;
    long at_u = index_of(&a->u, p, channel, time), at_delta = index_of(&a->delta, p, channel, time);
    long at_y = index_of(&a->y, p, channel, time);
    read_tile(input, &a->u, at_u, count, steps);
    read_tile(dt, &a->delta, at_delta, count, steps);
    vec skip = a->skip ? load_floats(a->skip, at, count) : splat(0);
    vec bias = bias_of(a, p, channel, count), sum = splat(0), slope;
    for (long t = 0; t < steps; t++) {
        dt[t] = step_of(a, dt[t] + bias, &slope);
        y[t] = a->skip ? skip * input[t] : splat(0);
        input[t] *= dt[t];
        sum += dt[t];
        fetch_row(&a->u, at_u, t + SEGMENT);
        fetch_row(&a->delta, at_delta, t + SEGMENT);
        if (outputs) fetch_row(&a->y, at_y, t);
    }
    for (long n = 0; n < a->states; n++) {
        const float *B = (const float *)a->B.data + index_of(&a->B, p, n, time);
        const float *C = (const float *)a->C.data + index_of(&a->C, p, n, time);
        vec exponent = exponents(a, p, n, channel, count);
        vec start = load_floats(before, n * a->channels + channel, count);
        vec h = start, added = splat(0);
        for (long t = 0; t < steps; t++) {
            vec decay = exp2_of(dt[t] * exponent), x = input[t] * B[t * a->B.time];
            h = multiply_add(decay, h, x);
            added = multiply_add(decay, added, x);
            if (outputs) y[t] += h * C[t * a->C.time];
        }
        h = finite_or(added + exp2_of(sum * exponent) * start, h);
        if (after) store_floats(after, n * a->channels + channel, count, h);
    }
    if (outputs) {
        write_tile(y, &a->y, at_y, count, steps);
    } else {
        long sum_at = state_element(a, p, p->chunk, 1, 0, channel);
        store_floats(a->steps, sum_at, count, load_floats(a->steps, sum_at, count) + sum);
    }
}

INLINE float *start_of(const struct scan *a, const struct place *p, long segment) {
    return a->starts + state_element(a, p, segment, a->states, 0, 0);
}

/* A chunk from zero: leave its last state where the next chunk starts, and the sum of its steps. */
static void chunk_from_zero(const void *arguments, long task) {
    const struct scan *a = arguments;
    struct place p = place_of(a, task);
    float *state = start_of(a, &p, (p.chunk + 1) * a->chunk);
    for (long n = 0; n < a->states; n++)
        memset(state + n * a->channels + p.first, 0, (p.last - p.first) * sizeof *state);
    memset(a->steps + state_element(a, &p, p.chunk, 1, 0, p.first), 0,
           (p.last - p.first) * sizeof *a->steps);
    for (long s = p.chunk * a->chunk; s < (p.chunk + 1) * a->chunk; s++)
        for (long c = p.first; c < p.last; c += WIDTH)
            block(a, &p, c, s * SEGMENT, SEGMENT, state, state, 0);
}

/* Make the states that chunks of a slab start from true ones, one after the other. */
static void carry(const void *arguments, long task) {
    const struct scan *a = arguments;
    struct place p = place_of(a, task);
    for (long k = 2; k < a->chunks; k++)
        for (long n = 0; n < a->states; n++)
            for (long c = p.first; c < p.last; c += WIDTH) {
                long count = least(WIDTH, p.last - c), at = n * a->channels + c;
                const float *last = start_of(a, &p, (k - 1) * a->chunk);
                float *start = start_of(a, &p, k * a->chunk);
                vec steps = load_floats(a->steps, state_element(a, &p, k - 1, 1, 0, c), count);
                vec decay = decay_over(exponents(a, &p, n, c, count), steps);
                vec h = load_floats(start, at, count) + decay * load_floats(last, at, count);
                store_floats(start, at, count, h);
            }
}

/* y of a chunk, and the states before its segments but the first. */
static void chunk_of_outputs(const void *arguments, long task) {
    const struct scan *a = arguments;
    struct place p = place_of(a, task);
    if (p.chunk == 0)
        for (long n = 0; n < a->states; n++)
            memset(start_of(a, &p, 0) + n * a->channels + p.first, 0,
                   (p.last - p.first) * sizeof(float));
    long segments = (a->length + SEGMENT - 1) / SEGMENT;
    long end = least((p.chunk + 1) * a->chunk, segments);
    for (long s = p.chunk * a->chunk; s < end; s++) {
        long time = s * SEGMENT, steps = least(SEGMENT, a->length - time);
        /* The state that the next chunk starts from is there already. */
        float *after = s + 1 < end ? start_of(a, &p, s + 1) : 0;
        for (long c = p.first; c < p.last; c += WIDTH)
            block(a, &p, c, time, steps, start_of(a, &p, s), after, 1);
    }
}

/* Writes y, starts and, with several chunks, steps. Not 0 if Python has other sizes in mind. */
int selective_scan_forward(const struct scan *a) {
    if (a->segment != SEGMENT || a->slab > SLAB) return 1;
    if (a->chunks > 1) {
        run_tasks(chunk_from_zero, a, tasks_of(a, a->chunks - 1), a->threads);
        run_tasks(carry, a, tasks_of(a, 1), a->threads);
    }
    run_tasks(chunk_of_outputs, a, tasks_of(a, a->chunks), a->threads);
    return 0;
}
