/* The gate of Gated CNN blocks: every dtype, activation, remainder and alignment. */
#include "driver.h"

#include "gated_cnn/gate.c"

static void run(const long *s, long shift, long threads, struct array *results) {
    long pixels = s[0], hidden = s[1], inner = s[2], rows = s[3], dtype = s[4], outer = hidden - inner;
    long size = dtype == FLOAT32 ? 4 : 2, tasks = (pixels + rows - 1) / rows, width = hidden + inner;
    struct array read[] = {numbers(pixels * width, size, shift * size),
                           numbers(pixels * outer, size, shift * size),
                           numbers(pixels * hidden, size, shift * size)};
    struct array once = array(pixels * hidden, size, shift * size);
    results[0] = array(pixels * hidden, size, shift * size);
    results[1] = array(pixels * width, size, shift * size);
    results[2] = array(pixels * outer, size, shift * size);
    results[3] = array(tasks * width, 4, shift * 4);
    struct gate forward = {.gi = read[0].data, .mixed = read[1].data, .y = once.data,
                           .pixels = pixels, .hidden = hidden, .inner = inner, .dtype = dtype,
                           .activation = s[5], .rows = rows, .threads = threads};
    gate_forward(&forward);
    struct gate backward = forward;
    backward.grad = read[2].data;
    backward.y = results[0].data;
    backward.grad_gi = results[1].data;
    backward.grad_mixed = results[2].data;
    backward.sums = results[3].data;
    gate_backward(&backward);
    release(read, 3);
    release(&once, 1);
}

int main(void) {
    /* pixels, hidden, inner, pixels of a task: none at all, no convolution, nothing but it, widths
     * around those of vectors, several tasks. */
    const long shapes[][4] = {{0, 8, 3, 1},    {1, 1, 0, 1},     {1, 1, 1, 1},   {3, 5, 5, 2},
                              {3, 5, 0, 3},    {7, 16, 16, 10},  {5, 31, 15, 1}, {5, 33, 17, 2},
                              {19, 64, 48, 9}, {40, 67, 3, 17},  {1, 200, 7, 1}, {70, 67, 41, 8},
                              {2, 2000, 9, 1}};
    use_parallel_region(region_of_pthreads);
    for (unsigned k = 0; k < sizeof shapes / sizeof shapes[0]; k++)
        for (long kind = 0; kind < 4; kind++) {
            const long *s = shapes[k];
            check(run, (long[]){s[0], s[1], s[2], s[3], kind % 2 ? BFLOAT16 : FLOAT32,
                                kind / 2 ? SILU : GELU});
        }
    return 0;
}
