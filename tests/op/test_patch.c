/* test_patch.c -- the loss of masked reconstruction and its gradient. */
#include "tests/op/op_sweep.h"

static const struct {
    int64_t rows, tokens, hide, size;
    const char *why;
} shapes[] = {
    {1, 1, 1, 2, "one patch of two samples"},
    {2, 5, 3, 7, "less than a warp"},
    {3, 4, 4, 32, "a warp each; every patch hidden"},
    {24, 30, 23, 75, "ST-MEM, two records of 12 leads"},
    {5, 12, 9, 300, "patches of all leads"},
    {2, 12, 9, 2250, "whole leads"},
    {700, 3, 2, 5, "more patches than blocks times warps"},
};

enum weighting { NO_WEIGHT, PER_ROW, PER_PATCH, WEIGHTINGS };

static double weight_at(const struct op_case *t, int64_t r, int64_t token)
{
    const int64_t rows = t->in[0].dim[0], tokens = t->in[1].dim[1];
    if (!t->data[3]) return 1;
    return sweep_at(t, 3, op_count(&t->in[3]) == rows ? r : r * tokens + token);
}

/* Difference i of hidden patch k: prediction less standardised sample. The naive algorithm sums
 * one sample after the other. */
static void difference(const struct op_case *t, sweep_round R, int64_t k, double *d, double *weight)
{
    const int64_t hide = t->in[0].dim[1], size = t->in[0].dim[2], tokens = t->in[1].dim[1];
    const int64_t r = k / hide, token = ((const int32_t *)t->data[2])[k];
    const int64_t at = (r * tokens + token) * size;
    double mean = 0, var = 0;
    for (int64_t i = 0; i < size; i++) mean = R(mean + sweep_at(t, 1, at + i));
    mean = R(mean / (double)size);
    for (int64_t i = 0; i < size; i++) {
        const double e = R(sweep_at(t, 1, at + i) - mean);
        var = R(var + R(e * e));
    }
    const double rstd =
        R(1 / R(sqrt(R(R(var / (double)size) + (double)t->node.attr.layernorm.eps))));
    for (int64_t i = 0; i < size; i++)
        d[i] = R(sweep_at(t, 0, k * size + i) - R(R(sweep_at(t, 1, at + i) - mean) * rstd));
    *weight = weight_at(t, r, token);
}

static void loss(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t n = t->in[0].dim[0] * t->in[0].dim[1], size = t->in[0].dim[2];
    double *d = op_doubles(size), sum = 0, weight;
    for (int64_t k = 0; k < n; k++) {
        double one = 0;
        difference(t, R, k, d, &weight);
        for (int64_t i = 0; i < size; i++) one = R(one + R(d[i] * d[i]));
        sum = R(sum + R(weight * one));
    }
    y[0][0] = R(sum / (double)(n * size));
    free(d);
}

static void loss_grad(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t n = t->in[0].dim[0] * t->in[0].dim[1], size = t->in[0].dim[2];
    double *d = op_doubles(size), weight;
    for (int64_t k = 0; k < n; k++) {
        difference(t, R, k, d, &weight);
        const double scale = R(R(2 * sweep_at(t, 4, 0) * weight) / (double)(n * size));
        for (int64_t i = 0; i < size; i++) y[0][k * size + i] = R(scale * d[i]);
    }
    free(d);
}

static int32_t *fill(struct op_sweep *t, size_t s, enum weighting w)
{
    const int64_t R = shapes[s].rows, T = shapes[s].tokens, H = shapes[s].hide, P = shapes[s].size;
    t->c.node.attr.layernorm.eps = 1e-6f;
    sweep_in(t, DIMS(R, H, P));
    float *patch = sweep_in(t, DIMS(R, T, P));
    for (int64_t i = 0; i < R * T; i++) { // each of its own level and scale, some flat
        const double scale = i % 5 == 4 ? 0 : 0.1 + pk_rng_uniform(&t->c.rng);
        const double level = pk_rng_normal(&t->c.rng);
        for (int64_t k = 0; k < P; k++)
            patch[i * P + k] = (float)(scale * (double)patch[i * P + k] + level);
    }
    int32_t *hidden = sweep_in_of(t, PK_I32, DIMS(R, H));
    for (int64_t r = 0; r < R; r++) {
        const uint64_t key = pk_rng_u64(&t->c.rng);
        for (int64_t k = 0; k < H; k++)
            hidden[r * H + k] = (int32_t)pk_bijection((uint64_t)k, (uint64_t)T, key);
    }
    float *weight = NULL;
    if (w == NO_WEIGHT)
        sweep_in_absent(t);
    else
        weight = sweep_in_vector(t, DIMS(R, w == PER_ROW ? 1 : T));
    for (int64_t i = 0; weight && i < R * (w == PER_ROW ? 1 : T); i++)
        weight[i] = i % 3 == 1 ? 0 : 1.5f;
    return hidden;
}

static void test_loss(size_t s, enum weighting w)
{
    struct op_sweep t;
    sweep_begin(&t, PK_OP_PATCH_LOSS, shapes[s].why);
    t.reference = loss;
    fill(&t, s, w);
    sweep_out_vector(&t, false, DIMS(1));
    sweep_run(&t);
    sweep_begin(&t, PK_OP_PATCH_LOSS_GRAD, shapes[s].why);
    t.reference = loss_grad;
    fill(&t, s, w);
    *sweep_in_vector(&t, DIMS(1)) = 0.7f * (float)(shapes[s].rows * shapes[s].hide);
    sweep_out(&t, true, DIMS(shapes[s].rows, shapes[s].hide, shapes[s].size));
    sweep_run(&t);
}

static void test_bad_index(bool grad)
{
    const int32_t bad[] = {5, -1, INT32_MAX, INT32_MIN};
    struct op_sweep t;
    sweep_begin(&t, grad ? PK_OP_PATCH_LOSS_GRAD : PK_OP_PATCH_LOSS, "index out of range");
    int32_t *hidden = fill(&t, 1, PER_ROW);
    if (grad) {
        sweep_in_vector(&t, DIMS(1));
        sweep_out(&t, false, DIMS(2, 3, 7));
    } else {
        sweep_out_vector(&t, false, DIMS(1));
    }
    for (size_t k = 0; k < PK_COUNT(bad); k++) {
        char text[32];
        snprintf(text, sizeof text, "index %d ", bad[k]);
        hidden[4] = bad[k];
        sweep_refused(&t, OP_FAULT_INDEX, 1, bad[k], text);
    }
    sweep_free(&t);
}

int main(void)
{
    for (size_t s = 0; s < PK_COUNT(shapes); s++)
        for (int w = 0; w < WEIGHTINGS; w++) test_loss(s, (enum weighting)w);
    test_bad_index(false);
    test_bad_index(true);
    return op_test_end();
}
