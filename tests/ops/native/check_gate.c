/* The gate of Gated CNN blocks: every dtype, activation, remainder and alignment. */
#include "driver.h"

#include "gated_cnn/gate.c"

struct results {
    struct array forward, y, grad_gi, grad_mixed;
};

static struct results run(long pixels, long hidden, long inner, enum dtype dtype,
                          enum activation activation, long offset, long threads) {
    long size = dtype == FLOAT32 ? 4 : 2, outer = hidden - inner;
    struct array gi = numbers(pixels * (hidden + inner), size, offset);
    struct array mixed = numbers(pixels * outer, size, offset);
    struct array grad = numbers(pixels * hidden, size, offset);
    struct results r = {array(pixels * hidden, size, offset), array(pixels * hidden, size, offset),
                        array(pixels * (hidden + inner), size, offset),
                        array(pixels * outer, size, offset)};
    struct gate forward = {.gi = gi.data, .mixed = mixed.data, .y = r.forward.data, .pixels = pixels,
                           .hidden = hidden, .inner = inner, .dtype = dtype,
                           .activation = activation, .threads = threads};
    gate_forward(&forward);
    struct gate backward = forward;
    backward.grad = grad.data;
    backward.y = r.y.data;
    backward.grad_gi = r.grad_gi.data;
    backward.grad_mixed = r.grad_mixed.data;
    gate_backward(&backward);
    free(gi.block);
    free(mixed.block);
    free(grad.block);
    return r;
}

static void release(struct results r) {
    free(r.forward.block);
    free(r.y.block);
    free(r.grad_gi.block);
    free(r.grad_mixed.block);
}

int main(void) {
    /* pixels, hidden, inner: nothing at all, no convolution, nothing but it, widths around those of
     * vectors, several tasks. */
    const long shapes[][3] = {{0, 8, 3},   {1, 1, 0},    {1, 1, 1},     {3, 5, 5},    {3, 5, 0},
                              {7, 16, 16}, {5, 31, 15},  {5, 33, 17},   {2, 64, 48},  {4, 67, 3},
                              {1, 200, 7}, {700, 67, 41}, {2, 20000, 9}};
    use_parallel_region(region_of_pthreads);
    for (unsigned k = 0; k < sizeof shapes / sizeof shapes[0]; k++)
        for (int kind = 0; kind < 4; kind++) {
            enum dtype dtype = kind & 1 ? BFLOAT16 : FLOAT32;
            enum activation activation = kind & 2 ? SILU : GELU;
            const long *s = shapes[k], element = dtype == FLOAT32 ? 4 : 2;
            struct results expected = run(s[0], s[1], s[2], dtype, activation, 0, 1);
            expect_equal("y of forward and backward pass", expected.forward, expected.y);
            for (long threads = 1; threads <= 3; threads += 2) {
                struct results r = run(s[0], s[1], s[2], dtype, activation, element, threads);
                expect_equal("y", expected.y, r.y);
                expect_equal("y of the forward pass", expected.forward, r.forward);
                expect_equal("grad_gi", expected.grad_gi, r.grad_gi);
                expect_equal("grad_mixed", expected.grad_mixed, r.grad_mixed);
                release(r);
            }
            release(expected);
        }
    return 0;
}
