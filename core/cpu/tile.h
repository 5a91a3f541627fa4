/* tile.h -- small matrix products held in registers, the building block of the attention kernels.
 *
 *     C[m, n] = A B          A(i, k) is any two strides, read one element at a time and broadcast;
 *                            B is row-major, rows readable up to the next multiple of PK_V
 *
 * A tile of at most PK_TILE_ROWS x PK_TILE_VECS vectors of C stays in registers for the whole inner
 * dimension: with AVX-512 8 x 3 accumulators, 3 vectors of B and a broadcast use 28 of 32
 * registers, and 11 loads feed 24 multiply-adds. Sums over k run in order, one accumulator each. */
#ifndef PK_CPU_TILE_H
#define PK_CPU_TILE_H

#include "core/base.h"
#include "core/cpu/simd.h"

#if defined(PK_ISA_avx512)
enum { PK_TILE_ROWS = 8, PK_TILE_VECS = 3 };
#else
enum { PK_TILE_ROWS = 4, PK_TILE_VECS = 3 }; // 16 registers: 12 + 3 + 1
#endif

#if defined(__clang__)
#define PK_UNROLL _Pragma("clang loop unroll(full)")
#else
#define PK_UNROLL _Pragma("GCC unroll 8")
#endif
#define PK_INLINE static inline __attribute__((always_inline))

struct pk_tile {
    int64_t m, n, k;
    const float *a;
    int64_t a_row, a_k; // elements between rows of A, and between its columns
    const float *b;
    int64_t ldb; // elements between rows of B
    float *c;
    int64_t ldc;
    const float *row_scale; // [m] multiplies the rows of A B, or NULL
    bool accumulate;        // C += instead of C =
};

/* One register tile: `rows` rows from i, `vecs` vectors from column j, of which the last has `last`
 * lanes inside C. */
PK_INLINE void pk_tile_block_(int rows, int vecs, const struct pk_tile *t, int64_t i, int64_t j,
                              int64_t last)
{
    pk_v acc[PK_TILE_ROWS][PK_TILE_VECS], bv[PK_TILE_VECS];
    const int64_t a_row = t->a_row, a_k = t->a_k, ldb = t->ldb, depth = t->k;
    const float *a = t->a + i * a_row, *b = t->b + j;
    PK_UNROLL for (int r = 0; r < rows; r++) PK_UNROLL for (int v = 0; v < vecs; v++) acc[r][v] =
        pk_v_zero();
    for (int64_t k = 0; k < depth; k++, a += a_k, b += ldb) {
        PK_UNROLL for (int v = 0; v < vecs; v++) bv[v] = pk_v_load(b + v * PK_V);
        PK_UNROLL for (int r = 0; r < rows; r++)
        {
            pk_v x = pk_v_set(a[r * a_row]);
            PK_UNROLL for (int v = 0; v < vecs; v++) acc[r][v] = pk_v_fma(x, bv[v], acc[r][v]);
        }
    }
    float *c = t->c + i * t->ldc + j;
    PK_UNROLL for (int r = 0; r < rows; r++)
    {
        float *row = c + r * t->ldc, *end = row + (vecs - 1) * PK_V;
        if (t->row_scale)
            PK_UNROLL for (int v = 0; v < vecs; v++) acc[r][v] =
                pk_v_mul(acc[r][v], pk_v_set(t->row_scale[i + r]));
        if (t->accumulate) {
            PK_UNROLL for (int v = 0; v < vecs - 1; v++) acc[r][v] =
                pk_v_add(acc[r][v], pk_v_load(row + v * PK_V));
            acc[r][vecs - 1] = pk_v_add(acc[r][vecs - 1], pk_v_load_n(end, last));
        }
        PK_UNROLL for (int v = 0; v < vecs - 1; v++) pk_v_store(row + v * PK_V, acc[r][v]);
        if (last == PK_V)
            pk_v_store(end, acc[r][vecs - 1]);
        else
            pk_v_store_n(end, last, acc[r][vecs - 1]);
    }
}

typedef void (*pk_tile_fn)(const struct pk_tile *t, int64_t i, int64_t j, int64_t last);
#define PK_TILE_FN_(rows, vecs)                                                                    \
    static void pk_tile_##rows##x##vecs(const struct pk_tile *t, int64_t i, int64_t j,             \
                                        int64_t last)                                              \
    {                                                                                              \
        pk_tile_block_(rows, vecs, t, i, j, last);                                                 \
    }
#define PK_TILE_ROW_(rows) PK_TILE_FN_(rows, 1) PK_TILE_FN_(rows, 2) PK_TILE_FN_(rows, 3)
#define PK_TILE_NAMES_(rows)                                                                       \
    {                                                                                              \
        pk_tile_##rows##x1, pk_tile_##rows##x2, pk_tile_##rows##x3                                 \
    }
PK_TILE_ROW_(1)
PK_TILE_ROW_(2)
PK_TILE_ROW_(3)
PK_TILE_ROW_(4)
#if defined(PK_ISA_avx512)
PK_TILE_ROW_(5)
PK_TILE_ROW_(6)
PK_TILE_ROW_(7)
PK_TILE_ROW_(8)
#endif
static const pk_tile_fn pk_tile_table[PK_TILE_ROWS][PK_TILE_VECS] = {
    PK_TILE_NAMES_(1), PK_TILE_NAMES_(2), PK_TILE_NAMES_(3), PK_TILE_NAMES_(4),
#if defined(PK_ISA_avx512)
    PK_TILE_NAMES_(5), PK_TILE_NAMES_(6), PK_TILE_NAMES_(7), PK_TILE_NAMES_(8),
#endif
};

/* The whole product. Rows and vectors are split into tiles of nearly equal size: 201 rows are 19
 * tiles of 8 and 7 of 7, not 25 of 8 and a slow one of 1. */
static void pk_tile_product(const struct pk_tile *t)
{
    int64_t vecs = (t->n + PK_V - 1) / PK_V, last = t->n - (vecs - 1) * PK_V;
    int64_t row_tiles = (t->m + PK_TILE_ROWS - 1) / PK_TILE_ROWS;
    int64_t vec_tiles = (vecs + PK_TILE_VECS - 1) / PK_TILE_VECS;
    for (int64_t p = 0, i = 0; p < row_tiles; p++) {
        int64_t rows = t->m / row_tiles + (p < t->m % row_tiles);
        for (int64_t q = 0, v = 0; q < vec_tiles; q++) {
            int64_t width = vecs / vec_tiles + (q < vecs % vec_tiles);
            pk_tile_table[rows - 1][width - 1](t, i, v * PK_V, v + width == vecs ? last : PK_V);
            v += width;
        }
        i += rows;
    }
}

#endif
