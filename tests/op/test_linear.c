/* test_linear.c -- linear layers and GELU against their definition in double. */
#include "core/cpu/gemm.h"
#include "tests/op/op_case.h"

static const struct row {
    int64_t batch, tokens, n, k; // x is [batch, tokens, k], w [n, k]
    const char *why;
} rows[] = {
    {1, 1, 1, 1, "the smallest there is"},
    {1, 2, 5, 3, "every extent below a vector"},
    {2, 7, 17, 31, "one beyond a vector, one before two"},
    {1, 201, 33, 20, "tall and narrow"},
    {3, 41, 96, 96, "predictor projection of ViT-XS"},
    {2, 50, 384, 96, "predictor MLP: several vectors, more rows than a tile"},
    {1, 65, 192, 200, "patch embedding"},
    {2, 201, 768, 192, "ViT-XS MLP: several panels of rows, the last one short"},
    {1, 16, 8, 16, "one product of a tensor core"},
    {1, 127, 65, 40, "rows short of a tile, columns beyond one"},
    {1, 128, 128, 64, "whole tiles"},
    {1, 129, 130, 72, "beyond a tile both ways"},
    {1, 96, 120, 24, "depth in eights, not sixteens"},
    {3, 43, 200, 100, "depth in fours: rows of bf16 start unaligned"},
    {1, 100, 71, 33, "classes of PTB-XL, odd depth"},
    {5, 1, 1, 192, "one logit"},
    {2, 1100, 16, 24, "many rows, small weights: sums over rows in several parts"},
    {1, 64, 48, 520, "deep"},
};

/* y[m, n] = a[m, k] b[k, n] with element strides, in double and as a float program would. */
static void product(int64_t m, int64_t n, int64_t k, const float *a, int64_t ai, int64_t ak,
                    const float *b, int64_t bk, int64_t bj, const float *bias, float *naive,
                    double *exact)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            float s = 0;
            double d = 0;
            for (int64_t p = 0; p < k; p++) {
                s += a[i * ai + p * ak] * b[p * bk + j * bj];
                d += (double)a[i * ai + p * ak] * (double)b[p * bk + j * bj];
            }
            naive[i * n + j] = bias ? s + bias[j] : s;
            exact[i * n + j] = bias ? d + (double)bias[j] : d;
        }
}

static double gelu(double x)
{
    return 0.5 * x * (1 + erf(x * sqrt(0.5)));
}

static double gelu_slope(double x)
{
    return 0.5 * (1 + erf(x * sqrt(0.5))) + x * exp(-0.5 * x * x) / sqrt(2 * acos(-1.0));
}

static float gelu_float(float x)
{
    return 0.5f * x * (1 + erff(x * 0.70710678f));
}

static float gelu_slope_float(float x)
{
    return 0.5f * (1 + erff(x * 0.70710678f)) + x * expf(-0.5f * x * x) * 0.39894228f;
}

static void forward(const struct row *s, const struct op_variant *v, bool bias, bool activate,
                    bool keep_pre)
{
    int64_t m = s->batch * s->tokens, n = s->n, k = s->k, y_slot = activate;
    struct op_case c;
    op_begin(&c, activate ? PK_OP_LINEAR_GELU : PK_OP_LINEAR, v);
    float *x = op_in(&c, 0, OP_DIMS(s->batch, s->tokens, k)), *w = op_in(&c, 1, OP_DIMS(n, k));
    float *b = bias ? op_in_vector(&c, 2, OP_DIMS(n)) : NULL;
    for (int64_t i = 0; i < n * k; i++) w[i] /= sqrtf((float)k);
    if (keep_pre) op_out(&c, 0, false, OP_DIMS(s->batch, s->tokens, n));
    op_out(&c, (int)y_slot, false, OP_DIMS(s->batch, s->tokens, n));
    op_settle(&c);

    float *naive = op_floats(m * n);
    double *exact = op_doubles(m * n);
    product(m, n, k, x, k, 1, w, 1, k, b, naive, exact);
    if (op_run(&c, 0)) {
        if (keep_pre) op_check(&c, 0, naive, exact, s->why);
        for (int64_t i = 0; activate && i < m * n; i++) {
            naive[i] = gelu_float(naive[i]);
            exact[i] = gelu(exact[i]);
        }
        op_check(&c, (int)y_slot, naive, exact, s->why);
    }
    op_end(&c);
    free(naive), free(exact);
}

static void input_grad(const struct row *s, const struct op_variant *v, bool accumulate,
                       bool through_gelu)
{
    int64_t m = s->batch * s->tokens, n = s->n, k = s->k;
    struct op_case c;
    op_begin(&c, through_gelu ? PK_OP_LINEAR_DX_GELU : PK_OP_LINEAR_DX, v);
    float *dy = op_in(&c, 0, OP_DIMS(s->batch, s->tokens, n)), *w = op_in(&c, 1, OP_DIMS(n, k));
    float *pre = through_gelu ? op_in(&c, 2, OP_DIMS(s->batch, s->tokens, k)) : NULL;
    op_out(&c, 0, accumulate, OP_DIMS(s->batch, s->tokens, k));
    op_settle(&c);

    float *naive = op_floats(m * k);
    double *exact = op_doubles(m * k);
    product(m, k, n, dy, n, 1, w, k, 1, NULL, naive, exact);
    for (int64_t i = 0; pre && i < m * k; i++) {
        naive[i] *= gelu_slope_float(pre[i]);
        exact[i] *= gelu_slope((double)pre[i]);
    }
    if (op_run(&c, 0)) op_check(&c, 0, naive, exact, s->why);
    op_end(&c);
    free(naive), free(exact);
}

static void weight_grad(const struct row *s, const struct op_variant *v, bool accumulate, bool bias)
{
    int64_t m = s->batch * s->tokens, n = s->n, k = s->k;
    struct op_case c;
    op_begin(&c, PK_OP_LINEAR_DW, v);
    float *dy = op_in(&c, 0, OP_DIMS(s->batch, s->tokens, n)),
          *x = op_in(&c, 1, OP_DIMS(s->batch, s->tokens, k));
    op_out_vector(&c, 0, accumulate, OP_DIMS(n, k));
    if (bias) op_out_vector(&c, 1, accumulate, OP_DIMS(n));
    op_settle(&c);

    const float one = 1;
    float *naive = op_floats(n * k), *sums = op_floats(n);
    double *exact = op_doubles(n * k), *sums_exact = op_doubles(n);
    product(n, k, m, dy, 1, n, x, k, 1, NULL, naive, exact);
    product(n, 1, m, dy, 1, n, &one, 0, 1, NULL, sums, sums_exact);
    if (op_run(&c, 0)) {
        op_check(&c, 0, naive, exact, s->why);
        if (bias) op_check(&c, 1, sums, sums_exact, s->why);
    }
    op_end(&c);
    free(naive), free(sums), free(exact), free(sums_exact);
}

/* Values from -12 to 12, so that the tails and the seam of the approximation are all visited. */
static void activation(int64_t n, const struct op_variant *v, bool accumulate)
{
    struct op_case c, g;
    op_begin(&c, PK_OP_GELU, v);
    op_begin(&g, PK_OP_GELU_GRAD, v);
    float *x = op_in(&c, 0, OP_DIMS(n)), *dy = op_in(&g, 0, OP_DIMS(n)),
          *x2 = op_in(&g, 1, OP_DIMS(n));
    op_out(&c, 0, false, OP_DIMS(n));
    op_out(&g, 0, accumulate, OP_DIMS(n));
    for (int64_t i = 0; i < n; i++)
        x[i] = x2[i] = n > 1 ? (float)(24.0 * (double)i / (double)(n - 1) - 12) : 0.3f;
    op_settle(&c), op_settle(&g);
    float *naive = op_floats(n), *slope = op_floats(n);
    double *exact = op_doubles(n), *slope_exact = op_doubles(n);
    for (int64_t i = 0; i < n; i++) {
        naive[i] = gelu_float(x[i]), exact[i] = gelu((double)x[i]);
        slope[i] = dy[i] * gelu_slope_float(x[i]);
        slope_exact[i] = (double)dy[i] * gelu_slope((double)x[i]);
    }
    if (op_run(&c, 0)) op_check(&c, 0, naive, exact, "GELU");
    if (op_run(&g, 0)) op_check(&g, 0, slope, slope_exact, "slope of GELU");
    op_end(&c), op_end(&g);
    free(naive), free(slope), free(exact), free(slope_exact);
}

/* Multiply-adds of one case of this row. */
static double work(const struct row *s)
{
    return (double)(s->batch * s->tokens) * (double)s->n * (double)s->k;
}

int main(void)
{
    const int64_t lengths[] = {1, 15, 16, 17, 4099, 100003}; // around a vector; many
    int count;
    const struct op_variant *list = op_variants(&count);
    pk_gemm_thread_init(); // as in training; threads of the library would wait for each other
    for (const struct op_variant *v = list; v < list + count; v++) {
        for (size_t i = 0; i < PK_COUNT(rows); i++) {
            if (!op_affords(v, work(&rows[i]))) continue;
            forward(&rows[i], v, i % 2, false, false);
            forward(&rows[i], v, i % 2 == 0, false, false);
            forward(&rows[i], v, i % 2, true, true);
            forward(&rows[i], v, true, true, false);
            input_grad(&rows[i], v, i % 2, false);
            input_grad(&rows[i], v, i % 2 == 0, false);
            input_grad(&rows[i], v, false, true);
            weight_grad(&rows[i], v, i % 2, true);
            weight_grad(&rows[i], v, i % 2 == 0, i % 3 != 0);
        }
        for (size_t i = 0; i < PK_COUNT(lengths); i++) activation(lengths[i], v, i % 2);
    }
    return op_test_end();
}
