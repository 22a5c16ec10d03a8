/* Vectors of float, with loads and stores of float32 and bfloat16 memory.
 *
 * GCC's and Clang's vector types, so that one source gives good code for each instruction set. WIDTH
 * is a register's: 16 numbers with AVX-512, 8 with AVX2, 4 elsewhere. Kernels take the dtype as an
 * argument and are inlined once for each constant.
 *
 * exp2: range reduction to [-1/2, 1/2] and a polynomial of degree 6 (error 5e-9 before rounding).
 * erf: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26 (error 1.5e-7), which is
 * PyTorch's as well.
 */
#ifndef MAMBAOUT_MM_VECTOR_H
#define MAMBAOUT_MM_VECTOR_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { WIDTH = 16 };
#elif defined(__AVX2__)
enum { WIDTH = 8 };
#else
enum { WIDTH = 4 };
#endif

typedef float vec __attribute__((vector_size(WIDTH * sizeof(float))));
typedef float quad __attribute__((vector_size(4 * sizeof(float))));
typedef int32_t ints __attribute__((vector_size(WIDTH * sizeof(float))));
typedef uint32_t bits __attribute__((vector_size(WIDTH * sizeof(float))));
typedef uint16_t halves __attribute__((vector_size(WIDTH * sizeof(uint16_t))));

enum dtype { FLOAT32, BFLOAT16 };

#define INLINE static inline __attribute__((always_inline))

INLINE long least(long a, long b) { return a < b ? a : b; }

/* Where mask is -1 a, where it is 0 b. */
INLINE vec choose(ints mask, vec a, vec b) {
    return (vec)(((ints)a & mask) | ((ints)b & ~mask));
}

INLINE vec splat(float x) { return x - (vec){0}; }

/* a b + c, whose latency is one instruction's for a chain by way of b. Compilers left to themselves
 * fuse another product, if c is one. */
INLINE vec multiply_add(vec a, vec b, vec c) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

INLINE vec absolute(vec x) { return (vec)((bits)x & 0x7fffffffu); }

/* The larger; x where x is NaN. */
INLINE vec at_least(vec x, float low) { return choose(x < low, splat(low), x); }

/* The smaller; x where x is NaN. */
INLINE vec at_most(vec x, float high) { return choose(x > high, splat(high), x); }

INLINE float bfloat16_to_float(uint16_t x) {
    uint32_t u = (uint32_t)x << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* One element. */
INLINE float element(const void *base, long index, enum dtype dtype) {
    return dtype == FLOAT32 ? ((const float *)base)[index]
                            : bfloat16_to_float(((const uint16_t *)base)[index]);
}

/* The bits of bfloat16 in the upper half: to the nearest, ties to even; NaN stays NaN. */
INLINE bits round_to_bfloat16(vec x) {
    bits u = (bits)x;
    bits rounded = u + 0x7fffu + ((u >> 16) & 1u);
    return (bits)choose(x != x, (vec)(0x7fc00000u | (bits){0}), (vec)rounded);
}

INLINE halves to_bfloat16(vec x) {
    return __builtin_convertvector(round_to_bfloat16(x) >> 16, halves);
}

/* WIDTH elements from element `index` on. */
INLINE vec load(const void *base, long index, enum dtype dtype) {
    if (dtype == FLOAT32) {
        vec x;
        memcpy(&x, (const float *)base + index, sizeof x);
        return x;
    }
    halves h;
    memcpy(&h, (const uint16_t *)base + index, sizeof h);
    return (vec)(__builtin_convertvector(h, bits) << 16);
}

INLINE void store(void *base, long index, vec x, enum dtype dtype) {
    if (dtype == FLOAT32) {
        memcpy((float *)base + index, &x, sizeof x);
        return;
    }
    halves h = to_bfloat16(x);
    memcpy((uint16_t *)base + index, &h, sizeof h);
}

/* 2 * WIDTH elements, in an order of their own that `store_pair` puts right: in bfloat16 the even
 * ones and the odd ones, which takes fewer instructions. */
INLINE void load_pair(const void *base, long index, vec pair[2], enum dtype dtype) {
    if (dtype == FLOAT32) {
        pair[0] = load(base, index, dtype);
        pair[1] = load(base, index + WIDTH, dtype);
        return;
    }
    bits u;
    memcpy(&u, (const uint16_t *)base + index, sizeof u);
    pair[0] = (vec)(u << 16);
    pair[1] = (vec)(u & 0xffff0000u);
}

INLINE void store_pair(void *base, long index, const vec pair[2], enum dtype dtype) {
    if (dtype == FLOAT32) {
        store(base, index, pair[0], dtype);
        store(base, index + WIDTH, pair[1], dtype);
        return;
    }
    bits u = round_to_bfloat16(pair[0]) >> 16 | (round_to_bfloat16(pair[1]) & 0xffff0000u);
    memcpy((uint16_t *)base + index, &u, sizeof u);
}

/* The first `count` elements, the others 0. */
INLINE vec load_part(const void *base, long index, long count, enum dtype dtype) {
    vec x = {0};
    for (long k = 0; k < count; k++) x[k] = element(base, index + k, dtype);
    return x;
}

INLINE void store_part(void *base, long index, long count, vec x, enum dtype dtype) {
    halves h = to_bfloat16(x);
    for (long k = 0; k < count; k++) {
        if (dtype == FLOAT32)
            ((float *)base)[index + k] = x[k];
        else
            ((uint16_t *)base)[index + k] = h[k];
    }
}

INLINE float sum(vec x) {
    quad quads[WIDTH / 4], total = {0};
    memcpy(quads, &x, sizeof x);
    for (int k = 0; k < WIDTH / 4; k++) total += quads[k];
    return (total[0] + total[1]) + (total[2] + total[3]);
}

/* 2^x: 0 or denormal below -126, infinite from 128 on, NaN of NaN. */
INLINE vec exp2_of(vec x) {
#if defined(__AVX512F__)
    vec integer = (vec)_mm512_roundscale_ps((__m512)x, 0);
    vec r = x - integer;
#else
    const float to_nearest = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    x = at_most(at_least(x, -127.0f), 128.0f);
    vec shifted = x + to_nearest;
    vec r = x - (shifted - to_nearest);
#endif
    vec p = splat(1.54614515973882e-4f);
    p = p * r + 1.33908721296717e-3f;
    p = p * r + 9.61805665955297e-3f;
    p = p * r + 5.55035709529367e-2f;
    p = p * r + 2.40226509223911e-1f;
    p = p * r + 6.93147188031209e-1f;
    p = p * r + 1.0f;
#if defined(__AVX512F__)
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)integer); /* p NaN where x is infinite: right */
#else
    return (vec)((bits)p + ((bits)shifted << 23));
#endif
}

INLINE vec exp_of(vec x) { return exp2_of(x * 1.44269504088896341f); }

/* Standard normal distribution: cumulative probability, and density in *density. */
INLINE vec normal_cdf(vec x, vec *density) {
    vec t = 1.0f / (1.0f + 0.23164189f * absolute(x)); /* 0.3275911 / sqrt(2) */
    vec p = splat(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vec e = exp2_of(x * x * -0.72134752044448170f); /* exp(-x^2 / 2) */
    vec tail = 0.5f * p * t * e;
    *density = 0.39894228040143268f * e;
    return choose(x > 0.0f, 1.0f - tail, tail);
}

#endif
