/* matmul_table.h -- the inside of struct pk_matmul, for cuda/matmul*.c. */
#ifndef PK_CUDA_MATMUL_TABLE_H
#define PK_CUDA_MATMUL_TABLE_H

#include "cuda/conv.h"
#include "cuda/matmul.h"

struct pk_matmul_row {
    struct pk_matmul_key key;
    struct pk_matmul_choice choice;
    double seconds, own_seconds; // of the choice, of the best own tile; 0 when not measured
};

struct pk_matmul {
    enum pk_choose_mode mode;
    struct pk_matmul_row *row;
    int64_t rows, row_cap;
    struct pk_cublaslt *library; // NULL: none
    void *workspace;             // of the library, device memory
    int64_t workspace_bytes;
    struct pk_convs convs; // the same for convolutions, cuda/conv.h
    const struct pk_queue *q;
};

enum pk_status pk_matmul_keep(struct pk_matmul *m, const struct pk_matmul_row *row,
                              struct pk_err *err);
#endif
