/* SiLU of a depthwise causal convolution along time, and its gradients.
 *
 * For each channel, with `size` taps w and x_t = 0 before the first step:
 *
 *     z_t = bias + sum over j of w_j x_{t - size + 1 + j}        y_t = z_t sigmoid(z_t)
 *
 * The backward pass computes z again. With d_t = grad_y_t y'(z_t), and d_t = 0 after the last step:
 *
 *     grad_x_t = sum over j of w_j d_{t + size - 1 - j}
 *     grad_w_j = sum over t of d_t x_{t - size + 1 + j}          grad_bias = sum over t of d_t
 *
 * A vector holds WIDTH channels of one group at one step. Work is cut by the shape alone, so that
 * results do not depend on the number of threads:
 *
 *     slab   up to SLAB channels of a group
 *     chunk  CHUNK steps; a task is a slab in a chunk, and has sums of its own
 *     tile   TILE steps of a vector, which share what they read; tiles of a chunk are taken from the
 *            first (forward) or the last (backward: d of the next tile is at hand)
 */
#include "../native/parallel.h"
#include "../native/vector.h"

enum { TILE = 8, CHUNK = 128, SLAB = 256, MOST_TAPS = 8, ROWS = TILE + MOST_TAPS - 1 };

/* (batch, group, time, channel), channels side by side; strides in elements. */
struct steps {
    void *data;
    long batch, group, time;
};

/* causal_conv/native.py has the same. Arithmetic is float32; of `dtype` are the four arrays of steps. */
struct causal_conv {
    long batches, groups, length, channels, size, dtype, chunk, threads; /* chunk: must be CHUNK */
    struct steps x, y, grad_y, grad_x; /* y: forward only; grad_y and grad_x: backward only */
    const float *weight;               /* (size, groups, channels) */
    const float *bias;                 /* (groups, channels) */
    float *sums; /* backward only: (batches, chunks, size + 1, groups, channels), of w and bias */
};

/* A task's part of the arrays. */
struct place {
    long batch, group, chunk, first, last; /* first, last: channels */
};

/* What a tile is made of: WIDTH channels from `channel` on, or the `count` that there are. */
struct tile {
    long channel, time, count;
    int whole; /* all of the channels, and of the steps that it reads, are there */
};

INLINE long chunks_of(const struct causal_conv *a) { return (a->length + CHUNK - 1) / CHUNK; }

INLINE long tasks_of(const struct causal_conv *a) {
    return a->batches * chunks_of(a) * a->groups * ((a->channels + SLAB - 1) / SLAB);
}

INLINE struct place place_of(const struct causal_conv *a, long task) {
    long slabs = (a->channels + SLAB - 1) / SLAB;
    struct place p = {.first = task % slabs * SLAB};
    p.last = least(p.first + SLAB, a->channels);
    task /= slabs;
    p.group = task % a->groups;
    task /= a->groups;
    p.chunk = task % chunks_of(a);
    p.batch = task / chunks_of(a);
    return p;
}

INLINE struct tile tile_at(const struct causal_conv *a, const struct place *p, long channel,
                           long time) {
    struct tile tile = {channel, time, least(WIDTH, p->last - channel), 0};
    tile.whole = tile.count == WIDTH && time >= a->size - 1 && time + TILE <= a->length;
    return tile;
}

INLINE long index_of(const struct steps *x, const struct place *p, long channel, long time) {
    return p->batch * x->batch + p->group * x->group + time * x->time + channel;
}

/* One step, 0 where there is none. */
INLINE vec read_step(const struct causal_conv *a, const struct steps *x, const struct place *p,
                     const struct tile *tile, long time, int whole, enum dtype dtype) {
    if (!whole && (time < 0 || time >= a->length)) return splat(0);
    long at = index_of(x, p, tile->channel, time);
    if (whole || tile->count == WIDTH) return load(x->data, at, dtype);
    return load_part(x->data, at, tile->count, dtype);
}

INLINE void write_step(const struct causal_conv *a, const struct steps *x, const struct place *p,
                       const struct tile *tile, long time, vec value, int whole,
                       enum dtype dtype) {
    if (!whole && time >= a->length) return;
    long at = index_of(x, p, tile->channel, time);
    if (whole || tile->count == WIDTH)
        store(x->data, at, value, dtype);
    else
        store_part(x->data, at, tile->count, value, dtype);
}

/* Bring the step of another tile into the cache. */
INLINE void fetch_step(const struct steps *x, const struct place *p, long channel, long time,
                       enum dtype dtype) {
    long bytes = dtype == FLOAT32 ? 4 : 2;
    __builtin_prefetch((const char *)x->data + index_of(x, p, channel, time) * bytes);
}

INLINE vec floats(const float *x, long index, const struct tile *tile, int whole) {
    return whole || tile->count == WIDTH ? load(x, index, FLOAT32)
                                         : load_part(x, index, tile->count, FLOAT32);
}

/* The tile's taps, and the steps that it reads: rows[t] to rows[t + size - 1] give z of step t. */
INLINE void read_tile(const struct causal_conv *a, const struct place *p, const struct tile *tile,
                      vec *taps, vec *rows, long size, int whole, enum dtype dtype) {
    for (long j = 0; j < size; j++) {
        long at = (j * a->groups + p->group) * a->channels + tile->channel;
        taps[j] = floats(a->weight, at, tile, whole);
    }
    for (long i = 0; i < TILE + size - 1; i++)
        rows[i] = read_step(a, &a->x, p, tile, tile->time + i - (size - 1), whole, dtype);
}

/* z of one step. */
INLINE vec convolve(const vec *rows, const vec *taps, vec bias, long size) {
    for (long j = 0; j < size; j++) bias += taps[j] * rows[j];
    return bias;
}

INLINE vec sigmoid(vec z) { return 1.0f / (1.0f + exp_of(-z)); }

INLINE void outputs(const struct causal_conv *a, const struct place *p, const struct tile *tile,
                    long size, int whole, enum dtype dtype) {
    vec taps[MOST_TAPS], rows[ROWS];
    read_tile(a, p, tile, taps, rows, size, whole, dtype);
    vec bias = floats(a->bias, p->group * a->channels + tile->channel, tile, whole);
    for (long t = 0; t < TILE; t++) {
        vec z = convolve(rows + t, taps, bias, size);
        write_step(a, &a->y, p, tile, tile->time + t, z * sigmoid(z), whole, dtype);
        fetch_step(&a->x, p, tile->channel, tile->time + t + TILE, dtype);
    }
}

INLINE void add_floats(float *x, long index, vec value, const struct tile *tile, int whole) {
    value += floats(x, index, tile, whole);
    if (whole || tile->count == WIDTH)
        store(x, index, value, FLOAT32);
    else
        store_part(x, index, tile->count, value, FLOAT32);
}

/* d of the tile's first `steps` steps, and what `read_tile` reads. */
INLINE void slopes(const struct causal_conv *a, const struct place *p, const struct tile *tile,
                   vec *taps, vec *rows, vec *d, long steps, long size, int whole,
                   enum dtype dtype) {
    read_tile(a, p, tile, taps, rows, size, whole, dtype);
    vec bias = floats(a->bias, p->group * a->channels + tile->channel, tile, whole);
    for (long t = 0; t < steps; t++) {
        long time = tile->time + t;
        vec z = convolve(rows + t, taps, bias, size), s = sigmoid(z);
        vec grad = read_step(a, &a->grad_y, p, tile, time, whole, dtype);
        d[t] = grad * s * (1.0f + z * (1.0f - s));
        if (!whole && time >= a->length) d[t] = splat(0); /* not 0 times infinity */
    }
}

/* Leave the first size - 1 steps of d in `later`, (size - 1, SLAB), for the tile before. */
INLINE void keep_slopes(const struct place *p, const struct tile *tile, const vec *d, float *later,
                        long size) {
    for (long i = 0; i < size - 1; i++)
        store(later, i * SLAB + tile->channel - p->first, d[i], FLOAT32);
}

/* What the chunk's last tile needs of another task's first. */
INLINE void later_slopes(const struct causal_conv *a, const struct place *p,
                         const struct tile *tile, float *later, long size, int whole,
                         enum dtype dtype) {
    vec taps[MOST_TAPS], rows[ROWS], d[ROWS];
    slopes(a, p, tile, taps, rows, d, size - 1, size, whole, dtype);
    keep_slopes(p, tile, d, later, size);
}

INLINE void gradients(const struct causal_conv *a, const struct place *p, const struct tile *tile,
                      float *later, long size, int whole, enum dtype dtype) {
    vec taps[MOST_TAPS], rows[ROWS], d[ROWS], grad_bias = splat(0);
    long width = a->groups * a->channels, at = p->group * a->channels + tile->channel;
    float *sums = a->sums + (p->batch * chunks_of(a) + p->chunk) * (size + 1) * width;
    slopes(a, p, tile, taps, rows, d, TILE, size, whole, dtype);
    for (long i = 0; i < size - 1; i++)
        d[TILE + i] = load(later, i * SLAB + tile->channel - p->first, FLOAT32);
    keep_slopes(p, tile, d, later, size);
    for (long t = 0; t < TILE; t++) {
        vec grad_x = splat(0);
        for (long j = 0; j < size; j++) grad_x += taps[j] * d[t + size - 1 - j];
        write_step(a, &a->grad_x, p, tile, tile->time + t, grad_x, whole, dtype);
        grad_bias += d[t];
        fetch_step(&a->x, p, tile->channel, tile->time + t - TILE - (size - 1), dtype);
        fetch_step(&a->grad_y, p, tile->channel, tile->time + t - TILE, dtype);
    }
    for (long j = 0; j < size; j++) {
        vec sum = splat(0);
        for (long t = 0; t < TILE; t++) sum += d[t] * rows[t + j];
        add_floats(sums, j * width + at, sum, tile, whole);
    }
    add_floats(sums, size * width + at, grad_bias, tile, whole);
}

INLINE void forward_chunk(const struct causal_conv *a, const struct place *p, long size,
                          enum dtype dtype) {
    long end = least((p->chunk + 1) * CHUNK, a->length);
    for (long time = p->chunk * CHUNK; time < end; time += TILE)
        for (long c = p->first; c < p->last; c += WIDTH) {
            struct tile tile = tile_at(a, p, c, time);
            if (tile.whole)
                outputs(a, p, &tile, size, 1, dtype);
            else
                outputs(a, p, &tile, size, 0, dtype);
        }
}

INLINE void backward_chunk(const struct causal_conv *a, const struct place *p, long size,
                           enum dtype dtype) {
    float later[(MOST_TAPS - 1) * SLAB];
    long width = a->groups * a->channels, end = (p->chunk + 1) * CHUNK;
    float *sums = a->sums + (p->batch * chunks_of(a) + p->chunk) * (size + 1) * width;
    for (long j = 0; j <= size; j++)
        memset(sums + j * width + p->group * a->channels + p->first, 0,
               (size_t)(p->last - p->first) * sizeof *sums);
    for (long c = p->first; c < p->last; c += WIDTH) {
        struct tile tile = tile_at(a, p, c, end);
        later_slopes(a, p, &tile, later, size, 0, dtype);
    }
    for (long time = end - TILE; time >= p->chunk * CHUNK; time -= TILE) {
        if (time >= a->length) continue;
        for (long c = p->first; c < p->last; c += WIDTH) {
            struct tile tile = tile_at(a, p, c, time);
            if (tile.whole)
                gradients(a, p, &tile, later, size, 1, dtype);
            else
                gradients(a, p, &tile, later, size, 0, dtype);
        }
    }
}

INLINE void chunk_of(const struct causal_conv *a, long task, long size, int backward,
                     enum dtype dtype) {
    struct place p = place_of(a, task);
    if (backward)
        backward_chunk(a, &p, size, dtype);
    else
        forward_chunk(a, &p, size, dtype);
}

/* Compiled for Mamba's four taps, and for any number. */
INLINE void task_of(const struct causal_conv *a, long task, int backward) {
    if (a->dtype == FLOAT32 && a->size == 4)
        chunk_of(a, task, 4, backward, FLOAT32);
    else if (a->dtype == FLOAT32)
        chunk_of(a, task, a->size, backward, FLOAT32);
    else if (a->size == 4)
        chunk_of(a, task, 4, backward, BFLOAT16);
    else
        chunk_of(a, task, a->size, backward, BFLOAT16);
}

static void forward_task(const void *arguments, long task) { task_of(arguments, task, 0); }

static void backward_task(const void *arguments, long task) { task_of(arguments, task, 1); }

INLINE int fits(const struct causal_conv *a) {
    return a->chunk == CHUNK && a->size >= 1 && a->size <= MOST_TAPS;
}

/* Writes y. Not 0 if Python has other sizes in mind. */
int causal_conv_forward(const struct causal_conv *a) {
    if (!fits(a)) return 1;
    run_tasks(forward_task, a, tasks_of(a), a->threads);
    return 0;
}

/* Writes grad_x and sums. Likewise. */
int causal_conv_backward(const struct causal_conv *a) {
    if (!fits(a)) return 1;
    run_tasks(backward_task, a, tasks_of(a), a->threads);
    return 0;
}
