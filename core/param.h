/* param.h -- the parameter table: the only place that knows names, order and offsets of weights.
 *
 * Arenas of weights, gradients, moments and EMA share one layout: element offset of parameter i,
 * 16-element (64-byte) aligned. Names are PyTorch's: "encoder.blocks.0.attn.qkv.weight". */
#ifndef PK_PARAM_H
#define PK_PARAM_H

#include "core/base.h"
#include "core/dtype.h"

enum pk_init {
    PK_INIT_ZERO,
    PK_INIT_ONE,
    PK_INIT_TRUNC_NORMAL, // std init_std, truncated at +-2 absolute
    PK_INIT_UNIFORM       // in +-init_std
};

enum { PK_PARAM_NAME_MAX = 128 };

struct pk_param {
    char name[PK_PARAM_NAME_MAX];
    int32_t rank;
    int64_t dim[4];
    int64_t count;  // elements
    int64_t offset; // first element in every arena
    enum pk_init init;
    float init_std;
    bool decay;   // weight decay applies
    bool trained; // some program differentiates it, or moves this state
    bool ema;     // some program reads the EMA copy
    /* State of batch norm, no weight: a step that moves it makes it state * keep + term * gain,
     * where the arena of gradients holds the term. */
    bool state;
    float keep, gain;
};

struct pk_params {
    struct pk_param *item;
    int64_t count, cap;
    int64_t elements; // arena length, padding included
    /* Storage of programs over these parameters: F32, or BF16 for activations and the matrices of
     * linear layers (vectors, tables and gradients stay F32). Set before the first program is
     * built; the CPU backend runs F32 only. */
    enum pk_dtype storage;
};

void pk_params_free(struct pk_params *p);
int64_t pk_params_find(const struct pk_params *p, const char *name); // index or -1
/* Sum of counts of the parameters whose name starts with prefix ("" for all). */
int64_t pk_params_total(const struct pk_params *p, const char *prefix);
/* Whether an optimizer step does the same with both. */
bool pk_param_alike(const struct pk_param *a, const struct pk_param *b);
/* What belongs to rank `rank` of `ranks` where parameters are shared out: [*first, *last), shares
 * of all ranks tile the table in order and are as equal in elements as whole runs of alike
 * parameters allow. A share may be empty. */
void pk_params_share(const struct pk_params *p, int rank, int ranks, int64_t *first, int64_t *last);
/* Fills weight[elements] from Philox keyed by (seed, parameter name): independent of order. */
void pk_params_init(const struct pk_params *p, uint64_t seed, float *weight);

#endif
