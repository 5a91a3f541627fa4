/* workspace.h -- scratch that the CPU kernels need, in bytes, as upper bounds over the instruction
 * sets. The op rows hand these to the planner; every kernel lays its scratch out within them. */
#ifndef PK_CPU_WORKSPACE_H
#define PK_CPU_WORKSPACE_H

#include <stddef.h>
#include <stdint.h>

/* Rows are padded to 16 floats, the widest vector. */
static inline int64_t pk_cpu_pad(int64_t n)
{
    return (n + 15) / 16 * 16;
}

/* Query rows whose scores stay in scratch at a time in the backward pass: all of them up to about
 * 256 tokens, so that P and dS (256 KB each) fit a 1 MiB second-level cache with the rest. */
static inline int64_t pk_cpu_attention_rows(int64_t tokens)
{
    int64_t rows = 65536 / pk_cpu_pad(tokens);
    return rows < 8 ? 8 : rows > tokens ? tokens : rows / 8 * 8;
}

/* tokens x head panels: q and v, k transposed; a few rows of scores and their factors. */
static inline size_t pk_cpu_attention_workspace(int64_t tokens, int64_t head)
{
    int64_t t = pk_cpu_pad(tokens), d = pk_cpu_pad(head);
    return (size_t)(2 * tokens * d + head * t + 8 * t + 16) * sizeof(float);
}

/* q, k, v, dout, dk, dv and k, v transposed; P and dS of a block of rows; lse and delta. */
static inline size_t pk_cpu_attention_grad_workspace(int64_t tokens, int64_t head)
{
    int64_t t = pk_cpu_pad(tokens), d = pk_cpu_pad(head);
    return (size_t)(5 * tokens * d + 2 * head * t + 2 * pk_cpu_attention_rows(tokens) * t + t) *
           sizeof(float);
}

/* Gradients of the probabilities and of the query of one head. Forward pooling needs none. */
static inline size_t pk_cpu_attention_pool_grad_workspace(int64_t tokens, int64_t head)
{
    return (size_t)(pk_cpu_pad(tokens) + pk_cpu_pad(head)) * sizeof(float);
}

/* Windows of a convolution that are laid out at a time: 256 KB of them, since the matrix product
 * reads them from the second-level cache, but so many rows that reading the weights pays. */
static inline int64_t pk_cpu_conv1d_rows(int64_t rows, int64_t window)
{
    int64_t panel = 65536 / window / 8 * 8;
    panel = panel < 128 ? 128 : panel;
    return panel < rows ? panel : rows;
}

/* The weight [n, c, kernel] with the channels last, and a panel of windows (depthwise: none). */
static inline size_t pk_cpu_conv1d_workspace(int64_t rows, const int64_t w[3])
{
    const int64_t window = w[1] * w[2], packed = pk_cpu_pad(w[0] * window);
    return (size_t)(packed + pk_cpu_conv1d_rows(rows, window) * window) * sizeof(float);
}

#endif
