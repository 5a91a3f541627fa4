/* jepa.h -- joint-embedding predictive pretraining of ECG (Weimann & Conrad 2024, arXiv
 * 2410.13867). */
#ifndef PK_JEPA_H
#define PK_JEPA_H

#include "models/signal.h"
#include "models/vit.h"

struct pk_jepa {
    struct pk_signal signal;
    struct pk_vit encoder, predictor;
    int32_t min_block; // tokens
    double keep[2];    // range of the kept share
    uint64_t seed;
};

enum pk_status pk_jepa_config(struct pk_jepa *out, const struct pk_recipe *r,
                              const struct pk_batch_shape *shape, struct pk_err *err);
/* Tokens that the batch of this step keeps: ceil(tokens * r), r ~ U(keep), keyed by (seed, step).
 */
int32_t pk_jepa_keep(const struct pk_jepa *j, int64_t step);
int32_t pk_jepa_keep_min(const struct pk_jepa *j);
int32_t pk_jepa_keep_max(const struct pk_jepa *j);
/* The work of one record that keeps `keep` tokens: 2 per multiply-add of the linear layers and of
 * attention, backward twice the forward. What an implementation recomputes is not counted, so that
 * rates compare between implementations. */
struct pk_jepa_flops {
    double target;             // forward only
    double context, predictor; // forward and backward
};
struct pk_jepa_flops pk_jepa_flops(const struct pk_jepa *j, int32_t keep);
/* The training program of one micro-batch of `records`. Outputs: loss; target_moments [2, width]
 * over hidden tokens; embedding [records, width], the mean-pooled target encoding. Parameters:
 * encoder.* and predictor.*. */
enum pk_status pk_jepa_build(struct pk_prog *out, struct pk_params *params, const struct pk_jepa *j,
                             int64_t records, int32_t keep, struct pk_err *err);

#endif
