/* transpose.h -- dst[cols, dst_stride] = the transpose of src[rows, src_stride], by 4 x 4 blocks in
 * registers: four 16-byte loads, eight shuffles, four stores, whatever the instruction set. */
#ifndef PK_CPU_TRANSPOSE_H
#define PK_CPU_TRANSPOSE_H

#include <stdint.h>
#include <string.h>

typedef float pk_quad __attribute__((vector_size(16)));

static inline void pk_transpose_block_(float *dst, int64_t dst_stride, const float *src,
                                       int64_t src_stride)
{
    pk_quad a, b, c, d, ab, cd;
    memcpy(&a, src, sizeof a);
    memcpy(&b, src + src_stride, sizeof b);
    memcpy(&c, src + 2 * src_stride, sizeof c);
    memcpy(&d, src + 3 * src_stride, sizeof d);
    ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    pk_quad r0 = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    pk_quad r1 = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    ab = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    cd = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    pk_quad r2 = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    pk_quad r3 = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    memcpy(dst, &r0, sizeof r0);
    memcpy(dst + dst_stride, &r1, sizeof r1);
    memcpy(dst + 2 * dst_stride, &r2, sizeof r2);
    memcpy(dst + 3 * dst_stride, &r3, sizeof r3);
}

static inline void pk_transpose(float *dst, int64_t dst_stride, const float *src,
                                int64_t src_stride, int64_t rows, int64_t cols)
{
    int64_t whole = cols / 4 * 4, j = 0;
    for (; j + 4 <= rows; j += 4) {
        for (int64_t c = 0; c < whole; c += 4)
            pk_transpose_block_(dst + c * dst_stride + j, dst_stride, src + j * src_stride + c,
                                src_stride);
        for (int64_t c = whole; c < cols; c++)
            for (int64_t r = j; r < j + 4; r++) dst[c * dst_stride + r] = src[r * src_stride + c];
    }
    for (; j < rows; j++)
        for (int64_t c = 0; c < cols; c++) dst[c * dst_stride + j] = src[j * src_stride + c];
}

#endif
