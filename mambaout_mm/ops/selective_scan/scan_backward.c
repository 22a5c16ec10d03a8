/* Selective scan, backward: gradients of all inputs. Formula and terms: scan.h.
 *
 * The adjoint g of the states runs backwards, with a_t = exp(dt_t A) and dy_t the gradient of y_t:
 *
 *     g_t = C_t dy_t + q_t      q_{t-1} = a_t g_t      (0 after the last step)
 *
 *     grad_B_t = sum over channels of g_t dt_t u_t      grad_C_t = sum over channels of dy_t h_t
 *     grad_A = sum over t of q_{t-1} h_{t-1} dt_t
 *     grad_u_t = D dy_t + dt_t (sum over N of g_t B_t)
 *     grad_dt_t = sum over N of g_t B_t u_t + q_{t-1} h_{t-1} A
 *
 * The states of a segment are computed again from the state before it. q is carried in `adjoints`:
 * a chunk finds there what comes to its end.
 */
#include "tile.h"

/* WIDTH channels at one step: what every state reads and adds to, side by side in memory. */
struct step {
    vec dt, input, grad_y; /* input: dt u */
    vec grad_input;        /* sum over N of g B */
    vec grad_dt;           /* by way of the decay */
};

/* WIDTH channels in a segment. */
struct block {
    struct step steps[SEGMENT];
    vec u[SEGMENT], slope[SEGMENT]; /* slope: of dt as a function of delta */
};

/* One state of WIDTH channels before a step, and its decay. */
struct before {
    vec h, decay;
};

/* Shared by channels: sums over a slab, not yet over the lanes. */
struct shared {
    vec grad_B[SEGMENT], grad_C[SEGMENT];
};

INLINE void add_floats(float *x, long index, long count, vec value) {
    store_floats(x, index, count, load_floats(x, index, count) + value);
}

INLINE void zero(float *x, long count) { memset(x, 0, count * sizeof *x); }

static void read_block(const struct scan *a, const struct place *p, struct block *v, long channel,
                       long time, long steps) {
    vec delta[SEGMENT], grad_y[SEGMENT];
    long count = least(WIDTH, p->last - channel);
    long at_u = index_of(&a->u, p, channel, time), at_delta = index_of(&a->delta, p, channel, time);
    long at_grad_y = index_of(&a->grad_y, p, channel, time);
    vec bias = bias_of(a, p, channel, count);
    read_tile(v->u, &a->u, at_u, count, steps);
    read_tile(delta, &a->delta, at_delta, count, steps);
    read_tile(grad_y, &a->grad_y, at_grad_y, count, steps);
    for (long t = 0; t < steps; t++) {
        vec dt = step_of(a, delta[t] + bias, &v->slope[t]);
        v->steps[t] = (struct step){dt, dt * v->u[t], grad_y[t], splat(0), splat(0)};
        fetch_row(&a->u, at_u, t - SEGMENT);
        fetch_row(&a->delta, at_delta, t - SEGMENT);
        fetch_row(&a->grad_y, at_grad_y, t - SEGMENT);
        fetch_row(&a->grad_u, index_of(&a->grad_u, p, channel, time), t);
        fetch_row(&a->grad_delta, index_of(&a->grad_delta, p, channel, time), t);
    }
    /* Too scattered for the processor to foresee. */
    for (long n = 0; n < a->states; n++)
        __builtin_prefetch(a->starts + state_element(a, p, time / SEGMENT, a->states, n, channel));
}

/* Gradients of u, delta, D and delta_bias. */
static void write_block(const struct scan *a, const struct place *p, const struct block *v,
                        long channel, long time, long steps) {
    vec grad_u[SEGMENT], grad_delta[SEGMENT], grad_skip = splat(0), grad_bias = splat(0);
    long count = least(WIDTH, p->last - channel), at = p->group * a->channels + channel;
    vec skip = a->skip ? load_floats(a->skip, at, count) : splat(0);
    for (long t = 0; t < steps; t++) {
        const struct step *x = &v->steps[t];
        grad_delta[t] = (x->grad_dt + x->grad_input * v->u[t]) * v->slope[t];
        grad_u[t] = x->grad_input * x->dt;
        if (a->skip) grad_u[t] += skip * x->grad_y;
        grad_skip += x->grad_y * v->u[t];
        grad_bias += grad_delta[t];
    }
    write_tile(grad_u, &a->grad_u, index_of(&a->grad_u, p, channel, time), count, steps);
    write_tile(grad_delta, &a->grad_delta, index_of(&a->grad_delta, p, channel, time), count, steps);
    at = state_element(a, p, p->chunk, 1, 0, channel);
    if (a->skip) add_floats(a->grad_skip, at, count, grad_skip);
    if (a->bias) add_floats(a->grad_bias, at, count, grad_bias);
}

/* One state of WIDTH channels through a segment, forwards and backwards.
 *
 * The slab's first block writes the shared gradients, others add to them. */
INLINE void state_of_block(const struct scan *a, const struct place *p, struct step *v,
                           struct shared *shared, long n, long channel, long time, long steps,
                           int is_first) {
    struct before w[SEGMENT];
    long count = least(WIDTH, p->last - channel);
    const float *B = (const float *)a->B.data + index_of(&a->B, p, n, time);
    const float *C = (const float *)a->C.data + index_of(&a->C, p, n, time);
    long stride_B = a->B.time, stride_C = a->C.time;
    vec exponent = exponents(a, p, n, channel, count), grad_A = splat(0);
    vec A = load_floats(a->A, (p->group * a->states + n) * a->channels + channel, count);
    long start = state_element(a, p, time / SEGMENT, a->states, n, channel);
    vec h = load_floats(a->starts, start, count);
    for (long t = 0; t < steps; t++) {
        w[t] = (struct before){h, exp2_of(v[t].dt * exponent)};
        h = multiply_add(w[t].decay, h, v[t].input * B[t * stride_B]);
    }
    long at = state_element(a, p, p->chunk, a->states, n, channel);
    vec q = load_floats(a->adjoints, at, count);
    for (long t = steps - 1; t >= 0; t--) {
        vec x = v[t].grad_y * C[t * stride_C], g = q + x;
        vec grad_B = g * v[t].input, grad_C = v[t].grad_y * h;
        shared->grad_B[t] = is_first ? grad_B : shared->grad_B[t] + grad_B;
        shared->grad_C[t] = is_first ? grad_C : shared->grad_C[t] + grad_C;
        v[t].grad_input += g * B[t * stride_B];
        h = w[t].h;
        q = multiply_add(w[t].decay, q, w[t].decay * x); /* decay g */
        vec by_decay = q * h;                            /* gradient of dt A */
        grad_A += by_decay * v[t].dt;
        v[t].grad_dt += by_decay * A;
    }
    store_floats(a->adjoints, at, count, q);
    add_floats(a->grad_A, at, count, grad_A);
}

INLINE void add_neighbours(const float *restrict x, float *restrict y, long count) {
    for (long i = 0; i < count; i++) y[i] = x[2 * i] + x[2 * i + 1];
}

/* Sums over the lanes of each vector of a segment; the first `steps` are written. */
static void lane_sums(const vec *rows, float *sums, long steps) {
    float a[SEGMENT * WIDTH / 2], b[SEGMENT * WIDTH / 4];
    add_neighbours((const float *)rows, a, SEGMENT * WIDTH / 2);
    add_neighbours(a, b, SEGMENT * WIDTH / 4);
    for (long lanes = WIDTH / 4; lanes > 1; lanes /= 2) {
        memcpy(a, b, SEGMENT * lanes * sizeof *a);
        add_neighbours(a, b, SEGMENT * lanes / 2);
    }
    memcpy(sums, b, steps * sizeof *sums);
}

/* One state of all channels of a slab. */
static void state_of_slab(const struct scan *a, const struct place *p, struct block *blocks, long n,
                          long time, long steps) {
    struct shared shared;
    long k = (p->last - p->first - 1) / WIDTH; /* the last first: it may have fewer channels */
    long channel = p->first + k * WIDTH;
    state_of_block(a, p, blocks[k].steps, &shared, n, channel, time, steps, 1);
    for (long c = p->last - channel; c < WIDTH; c++) /* no channel, but maybe 0 * infinity */
        for (long t = 0; t < steps; t++) shared.grad_B[t][c] = shared.grad_C[t][c] = 0;
    while (--k >= 0) {
        channel -= WIDTH;
        state_of_block(a, p, blocks[k].steps, &shared, n, channel, time, steps, 0);
    }
    long row = ((p->slab * a->batches + p->batch) * a->groups + p->group) * a->states + n;
    lane_sums(shared.grad_B, a->parts_B + row * a->length + time, steps);
    lane_sums(shared.grad_C, a->parts_C + row * a->length + time, steps);
}

/* A chunk from an adjoint of zero: leave what comes to the chunk before, and the sum of steps. */
static void adjoint_from_zero(const void *arguments, long task) {
    const struct scan *a = arguments;
    struct place p = place_of(a, task); /* the chunk before */
    long chunk = p.chunk + 1, segments = (a->length + SEGMENT - 1) / SEGMENT;
    vec dt[SEGMENT], grad_y[SEGMENT];
    zero(a->steps + state_element(a, &p, chunk, 1, 0, p.first), p.last - p.first);
    for (long n = 0; n < a->states; n++)
        zero(a->adjoints + state_element(a, &p, p.chunk, a->states, n, p.first), p.last - p.first);
    for (long s = least((chunk + 1) * a->chunk, segments) - 1; s >= chunk * a->chunk; s--)
        for (long channel = p.first; channel < p.last; channel += WIDTH) {
            long time = s * SEGMENT, steps = least(SEGMENT, a->length - time);
            long count = least(WIDTH, p.last - channel);
            long at = index_of(&a->grad_y, &p, channel, time);
            vec bias = bias_of(a, &p, channel, count), sum = splat(0), slope;
            read_tile(dt, &a->delta, index_of(&a->delta, &p, channel, time), count, steps);
            read_tile(grad_y, &a->grad_y, at, count, steps);
            for (long t = 0; t < steps; t++) {
                dt[t] = step_of(a, dt[t] + bias, &slope);
                sum += dt[t];
            }
            for (long n = 0; n < a->states; n++) {
                const float *C = (const float *)a->C.data + index_of(&a->C, &p, n, time);
                vec exponent = exponents(a, &p, n, channel, count);
                at = state_element(a, &p, p.chunk, a->states, n, channel);
                vec q = load_floats(a->adjoints, at, count);
                for (long t = steps - 1; t >= 0; t--)
                    q = exp2_of(dt[t] * exponent) * (q + grad_y[t] * C[t * a->C.time]);
                store_floats(a->adjoints, at, count, q); /* of the chunk before */
            }
            add_floats(a->steps, state_element(a, &p, chunk, 1, 0, channel), count, sum);
        }
}

/* Make what comes to the ends of a slab's chunks true, from the last to the first. */
static void carry_adjoint(const void *arguments, long task) {
    const struct scan *a = arguments;
    struct place p = place_of(a, task);
    for (long k = a->chunks - 2; k > 0; k--)
        for (long n = 0; n < a->states; n++)
            for (long c = p.first; c < p.last; c += WIDTH) {
                long count = least(WIDTH, p.last - c);
                vec steps = load_floats(a->steps, state_element(a, &p, k, 1, 0, c), count);
                vec decay = decay_over(exponents(a, &p, n, c, count), steps);
                vec end = load_floats(a->adjoints, state_element(a, &p, k, a->states, n, c), count);
                add_floats(a->adjoints, state_element(a, &p, k - 1, a->states, n, c), count,
                           decay * end);
            }
}

static void chunk_of_gradients(const void *arguments, long task) {
    const struct scan *a = arguments;
    struct place p = place_of(a, task);
    struct block blocks[SLAB / WIDTH];
    long segments = (a->length + SEGMENT - 1) / SEGMENT, width = p.last - p.first;
    long at = state_element(a, &p, p.chunk, 1, 0, p.first);
    if (a->skip) zero(a->grad_skip + at, width);
    if (a->bias) zero(a->grad_bias + at, width);
    for (long n = 0; n < a->states; n++) {
        at = state_element(a, &p, p.chunk, a->states, n, p.first);
        zero(a->grad_A + at, width);
        if (p.chunk == a->chunks - 1) zero(a->adjoints + at, width);
    }
    for (long s = least((p.chunk + 1) * a->chunk, segments) - 1; s >= p.chunk * a->chunk; s--) {
        long time = s * SEGMENT, steps = least(SEGMENT, a->length - time);
        for (long k = 0; k * WIDTH < width; k++)
            read_block(a, &p, blocks + k, p.first + k * WIDTH, time, steps);
        for (long n = 0; n < a->states; n++) state_of_slab(a, &p, blocks, n, time, steps);
        for (long k = 0; k * WIDTH < width; k++)
            write_block(a, &p, blocks + k, p.first + k * WIDTH, time, steps);
    }
}

/* Sums over slabs of a gradient shared by channels, in WIDTH states and a segment. */
INLINE void sum_of_slabs(const struct scan *a, const struct place *p, float *parts,
                         const struct series *sum, long state, long time) {
    vec total[SEGMENT], part[SEGMENT];
    long count = least(WIDTH, a->states - state), steps = least(SEGMENT, a->length - time);
    long size = a->batches * a->groups * a->states * a->length;
    struct series x = {parts, a->groups * a->states * a->length, a->states * a->length,
                       a->length, 1, FLOAT32};
    long at = index_of(&x, p, state, time);
    read_tile(total, &x, at, count, steps);
    for (long slab = 1; slab < a->slabs; slab++) {
        read_tile(part, &x, slab * size + at, count, steps);
        for (long t = 0; t < steps; t++) total[t] += part[t];
    }
    write_tile(total, sum, index_of(sum, p, state, time), count, steps);
}

static void shared_gradients(const void *arguments, long task) {
    const struct scan *a = arguments;
    struct place p = {.group = task % a->groups};
    task /= a->groups;
    p.batch = task % a->batches;
    long time = task / a->batches * SEGMENT;
    for (long n = 0; n < a->states; n += WIDTH) {
        sum_of_slabs(a, &p, a->parts_B, &a->grad_B, n, time);
        sum_of_slabs(a, &p, a->parts_C, &a->grad_C, n, time);
    }
}

/* Writes all gradients and adjoints. Not 0 if Python has other sizes in mind. */
int selective_scan_backward(const struct scan *a) {
    if (a->segment != SEGMENT || a->slab > SLAB) return 1;
    if (a->chunks > 1) {
        run_tasks(adjoint_from_zero, a, tasks_of(a, a->chunks - 1), a->threads);
        run_tasks(carry_adjoint, a, tasks_of(a, 1), a->threads);
    }
    run_tasks(chunk_of_gradients, a, tasks_of(a, a->chunks), a->threads);
    long segments = (a->length + SEGMENT - 1) / SEGMENT;
    run_tasks(shared_gradients, a, a->batches * a->groups * segments, a->threads);
    return 0;
}
