/* Selective scans: all layouts, parts of vectors, slabs, segments and chunks. */
#include "driver.h"

#include "selective_scan/scan_backward.c"
#include "selective_scan/scan_forward.c"

enum { CHANNELS_LAST, LENGTH_LAST, NEITHER };

/* A (batches, groups, rows, length) series of `data` in a memory layout. */
static struct series series(void *data, long groups, long rows, long length, long layout,
                            long dtype) {
    struct series x = {.data = data, .dtype = dtype, .batch = groups * rows * length,
                       .group = rows * length, .channel = length, .time = 1};
    if (layout == CHANNELS_LAST) {
        x.channel = 1;
        x.time = rows;
    }
    if (layout == NEITHER) { /* groups innermost */
        x.group = 1;
        x.channel = length * groups;
        x.time = groups;
    }
    return x;
}

static void run(const long *s, long shift, long threads, struct array *results) {
    long batches = s[0], groups = s[1], channels = s[2], states = s[3], length = s[4];
    long chunk = s[6], layout = s[7], dtype = s[8];
    long slab = least(SLAB, (channels + s[5] - 1) / s[5] + WIDTH - 1) / WIDTH * WIDTH;
    long slabs = (channels + slab - 1) / slab, segments = (length + SEGMENT - 1) / SEGMENT;
    long chunks = (segments + chunk - 1) / chunk, size = dtype == FLOAT32 ? 4 : 2;
    long u = batches * groups * channels * length, B = batches * groups * states * length;
    long state = batches * groups * states * channels;
    struct array arrays[] = {
        numbers(u, size, shift * size),       numbers(u, size, shift * size),
        numbers(B, 4, shift * 4),             numbers(B, 4, shift * 4),
        numbers(state / batches, 4, shift * 4), numbers(groups * channels, 4, shift * 4),
        numbers(groups * channels, 4, shift * 4), numbers(u, 4, shift * 4),
        array(segments * state, 4, shift * 4), array(chunks * batches * groups * channels, 4, 0),
        array(chunks * state, 4, 0),          array(chunks * state, 4, 0),
        array(chunks * batches * groups * channels, 4, 0),
        array(chunks * batches * groups * channels, 4, 0),
        array(slabs * B, 4, 0),               array(slabs * B, 4, 0),
        array(B, 4, shift * 4),               array(B, 4, shift * 4),
    };
    enum { U, DELTA, B_, C_, A_, SKIP, BIAS, GRAD_Y, STARTS, STEPS, ADJOINTS, GRAD_A, GRAD_SKIP,
           GRAD_BIAS, PARTS_B, PARTS_C, GRAD_B, GRAD_C, COUNT };
    results[0] = array(u, 4, shift * 4);
    results[1] = array(u, size, shift * size);
    results[2] = array(u, size, shift * size);
    struct scan a = {.batches = batches, .groups = groups, .channels = channels, .length = length,
                     .states = states, .segment = SEGMENT, .slab = slab, .slabs = slabs,
                     .chunk = chunk, .chunks = chunks, .softplus = s[9], .threads = threads};
    a.u = series(arrays[U].data, groups, channels, length, layout, dtype);
    a.delta = series(arrays[DELTA].data, groups, channels, length, layout, dtype);
    a.B = series(arrays[B_].data, groups, states, length, layout, FLOAT32);
    a.C = series(arrays[C_].data, groups, states, length, layout, FLOAT32);
    a.A = arrays[A_].data;
    a.skip = s[9] ? arrays[SKIP].data : 0;
    a.bias = s[9] ? arrays[BIAS].data : 0;
    a.starts = arrays[STARTS].data;
    a.steps = arrays[STEPS].data;
    a.y = series(results[0].data, groups, channels, length, layout, FLOAT32);
    a.grad_y = series(arrays[GRAD_Y].data, groups, channels, length, layout, FLOAT32);
    a.grad_u = series(results[1].data, groups, channels, length, layout, dtype);
    a.grad_delta = series(results[2].data, groups, channels, length, layout, dtype);
    a.grad_B = series(arrays[GRAD_B].data, groups, states, length, layout, FLOAT32);
    a.grad_C = series(arrays[GRAD_C].data, groups, states, length, layout, FLOAT32);
    a.adjoints = arrays[ADJOINTS].data;
    a.grad_A = arrays[GRAD_A].data;
    a.grad_skip = s[9] ? arrays[GRAD_SKIP].data : 0;
    a.grad_bias = s[9] ? arrays[GRAD_BIAS].data : 0;
    a.parts_B = arrays[PARTS_B].data;
    a.parts_C = arrays[PARTS_C].data;
    if (selective_scan_forward(&a) || selective_scan_backward(&a)) abort();
    release(arrays, COUNT);
}

int main(void) {
    /* batches, groups, channels, states, length, slabs about, segments of a chunk */
    const long shapes[][7] = {{1, 1, 1, 1, 1, 1, 1},    {2, 3, 5, 2, 63, 1, 1},
                              {1, 2, 16, 1, 64, 1, 1},  {1, 1, 17, 3, 65, 2, 2},
                              {1, 4, 35, 2, 150, 3, 1}, {2, 1, 97, 1, 200, 2, 2}};
    use_parallel_region(region_of_pthreads);
    for (unsigned k = 0; k < sizeof shapes / sizeof shapes[0]; k++)
        for (long kind = 0; kind < 12; kind++) {
            const long *s = shapes[k];
            check(run, (long[]){s[0], s[1], s[2], s[3], s[4], s[5], s[6], kind % 3,
                                kind / 3 % 2 ? BFLOAT16 : FLOAT32, kind / 6});
        }
    return 0;
}
