/* test_contrast.c -- losses over the rows of a batch, normalised rows and the injected gradient. */
#include "tests/op/op_sweep.h"

static const struct {
    int64_t rows, keys, cols;
    float temperature;
    int64_t groups; // rows of a group
    const char *why;
} shapes[] = {
    {2, 2, 1, 1, 2, "one pair of numbers"},
    {3, 5, 7, 0.5f, 2, "a row without a partner"},
    {8, 8, 16, 0.1f, 2, "one round of lanes"},
    {16, 4, 33, 0.2f, 4, "several positives, odd width"},
    {65, 63, 17, 0.1f, 3, "one row beyond a tile, one key short of it"},
    {128, 130, 128, 0.1f, 2, "a batch of SimCLR"},
    {40, 300, 24, 0.04f, 5, "more keys than a block has threads, coldest temperature"},
    {12, 9, 300, 0.3f, 3, "wider than the tile of sums"},
};

static double inner(const struct op_case *t, int x, int64_t i, int y, int64_t j, int64_t cols,
                    sweep_round R)
{
    double sum = 0;
    for (int64_t k = 0; k < cols; k++)
        sum = R(sum + R(sweep_at(t, x, i * cols + k) * sweep_at(t, y, j * cols + k)));
    return sum;
}

static void normalize(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t rows = pk_view_rows(&t->in[0]), cols = pk_view_cols(&t->in[0]);
    const double eps = (double)t->node.attr.normalize.eps;
    for (int64_t r = 0; r < rows; r++) {
        const double norm = fmax(R(sqrt(inner(t, 0, r, 0, r, cols, R))), eps);
        for (int64_t k = 0; k < cols; k++)
            y[0][r * cols + k] = R(sweep_at(t, 0, r * cols + k) / norm);
    }
}

static void normalize_grad(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t rows = pk_view_rows(&t->in[1]), cols = pk_view_cols(&t->in[1]);
    const double eps = (double)t->node.attr.normalize.eps;
    for (int64_t r = 0; r < rows; r++) {
        const double norm = R(sqrt(inner(t, 1, r, 1, r, cols, R)));
        const double along = norm > eps ? R(R(inner(t, 0, r, 1, r, cols, R) / norm) / norm) : 0;
        for (int64_t k = 0; k < cols; k++) {
            const double x = sweep_at(t, 1, r * cols + k), dy = sweep_at(t, 0, r * cols + k);
            y[0][r * cols + k] = R(R(dy - R(x * along)) / fmax(norm, eps));
        }
    }
}

static void test_normalize(int64_t rows, int64_t cols, float size, const char *why)
{
    for (int grad = 0; grad < 2; grad++) {
        struct op_sweep t;
        sweep_begin(&t, grad ? PK_OP_L2_NORMALIZE_GRAD : PK_OP_L2_NORMALIZE, why);
        t.reference = grad ? normalize_grad : normalize;
        t.c.node.attr.normalize.eps = 1e-3f;
        float *dy = grad ? sweep_in(&t, DIMS(rows, cols)) : NULL;
        float *x = sweep_in(&t, DIMS(rows, cols));
        for (int64_t i = 0; i < rows * cols; i++) x[i] *= size;
        // A number by itself has the gradient 0, a difference: of powers of two it is exact.
        for (int64_t i = 0; cols == 1 && grad && i < rows; i++) {
            x[i] = i % 2 ? -2 : 4;
            dy[i] = i % 3 ? 0.5f : -1;
        }
        for (int64_t i = 0; rows > 2 && i < cols; i++) x[2 * cols + i] = 0; // dy / eps
        sweep_out(&t, grad, DIMS(rows, cols));
        sweep_run(&t);
    }
}

/* Whether key j is the query i itself, and whether it is a positive. */
static bool itself(const struct op_case *t, int64_t i, int64_t j)
{
    return !t->call.in[1] && i == j;
}

static bool positive(const struct op_case *t, int64_t i, int64_t j)
{
    const int64_t *q = t->data[2], *k = t->data[t->call.in[1] ? 3 : 2];
    return q[i] == k[j];
}

static int64_t keys_of(const struct op_case *t)
{
    return pk_view_rows(&t->in[t->call.in[1] ? 1 : 0]);
}

static double logit(const struct op_case *t, int64_t i, int64_t j, sweep_round R)
{
    const double sum = inner(t, 0, i, t->call.in[1] ? 1 : 0, j, pk_view_cols(&t->in[0]), R);
    return R(sum / (double)t->node.attr.contrast.temperature);
}

static void contrast(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t rows = pk_view_rows(&t->in[0]), keys = keys_of(t);
    double total = 0;
    for (int64_t i = 0; i < rows; i++) {
        double top = -INFINITY, sum = 0, near = 0, count = 0;
        for (int64_t j = 0; j < keys; j++)
            if (!itself(t, i, j)) top = fmax(top, logit(t, i, j, R));
        for (int64_t j = 0; j < keys; j++) {
            if (itself(t, i, j)) continue;
            const double s = logit(t, i, j, R);
            sum = R(sum + R(exp(R(s - top))));
            if (positive(t, i, j)) near = R(near + s), count++;
        }
        const double lse = R(top + R(log(sum)));
        if (count > 0) total = R(total + R(lse - R(near / count)));
        y[1][i] = lse;
        y[1][rows + i] = count;
    }
    y[0][0] = R(R(total / (double)rows) * (double)t->node.attr.contrast.weight);
}

static double slope(const struct op_case *t, int64_t i, int64_t j, sweep_round R)
{
    const int64_t rows = pk_view_rows(&t->in[0]);
    const double lse = sweep_at(t, 4, i), count = sweep_at(t, 4, rows + i);
    if (itself(t, i, j) || count == 0) return 0;
    const double p = R(exp(R(logit(t, i, j, R) - lse)));
    return R(p - (positive(t, i, j) ? R(1 / count) : 0));
}

static void contrast_grad(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t rows = pk_view_rows(&t->in[0]), keys = keys_of(t), cols = pk_view_cols(&t->in[0]);
    const double scale = sweep_at(t, 5, 0) * (double)t->node.attr.contrast.weight /
                         (double)t->node.attr.contrast.temperature / (double)rows;
    const bool self = !t->call.in[1];
    for (int64_t i = 0; y[0] && i < rows * cols; i++) y[0][i] = 0;
    for (int64_t i = 0; y[1] && i < keys * cols; i++) y[1][i] = 0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < keys; j++) {
            double w = slope(t, i, j, R);
            if (self) w = R(w + slope(t, j, i, R));
            w = R(w * R(scale));
            for (int64_t k = 0; k < cols; k++) {
                double *dq = y[0] ? &y[0][i * cols + k] : NULL;
                double *dk = y[1] ? &y[1][j * cols + k] : NULL;
                if (dq) *dq = R(*dq + R(w * sweep_at(t, self ? 0 : 1, j * cols + k)));
                if (dk) *dk = R(*dk + R(w * sweep_at(t, 0, i * cols + k)));
            }
        }
}

/* Rows of length 1, those of a group alike; in storage precision not exactly so. */
static void fill_rows(struct op_sweep *t, float *x, int64_t rows, int64_t cols)
{
    (void)t;
    for (int64_t r = 0; r < rows; r++) {
        double square = 0;
        for (int64_t k = 0; k < cols; k++)
            square += (double)x[r * cols + k] * (double)x[r * cols + k];
        for (int64_t k = 0; k < cols; k++) x[r * cols + k] /= (float)sqrt(square);
    }
}

static void put_inputs(struct op_sweep *t, size_t s, bool self)
{
    const int64_t rows = shapes[s].rows, keys = shapes[s].keys, cols = shapes[s].cols;
    t->c.node.attr.contrast.temperature = shapes[s].temperature;
    t->c.node.attr.contrast.ranks = 1;
    t->c.node.attr.contrast.weight = 0.75f;
    fill_rows(t, sweep_in(t, DIMS(rows, cols)), rows, cols);
    if (self)
        sweep_in_absent(t);
    else
        fill_rows(t, sweep_in(t, DIMS(keys, cols)), keys, cols);
    int64_t *group = sweep_in_of(t, PK_I64, DIMS(rows));
    for (int64_t i = 0; i < rows; i++) group[i] = ((int64_t)1 << 40) + i / shapes[s].groups;
    if (self) {
        sweep_in_absent(t);
        return;
    }
    group = sweep_in_of(t, PK_I64, DIMS(keys));
    for (int64_t i = 0; i < keys; i++)
        group[i] = ((int64_t)1 << 40) + (keys - 1 - i) / shapes[s].groups;
}

static void test_contrast(size_t s, bool self)
{
    struct op_sweep t;
    sweep_begin(&t, PK_OP_CONTRAST_LOSS, shapes[s].why);
    t.reference = contrast;
    put_inputs(&t, s, self);
    sweep_out_vector(&t, false, DIMS(1));
    sweep_out_vector(&t, false, DIMS(2, shapes[s].rows));
    sweep_run(&t);
}

/* outs: bit 0 the gradient of the queries, bit 1 that of the keys. */
static void test_contrast_grad(size_t s, bool self, int outs)
{
    const int64_t rows = shapes[s].rows, keys = shapes[s].keys, cols = shapes[s].cols;
    struct op_sweep t;
    sweep_begin(&t, PK_OP_CONTRAST_LOSS_GRAD, shapes[s].why);
    t.reference = contrast_grad;
    put_inputs(&t, s, self);
    float *stat = sweep_in_vector(&t, DIMS(2, rows));
    double *y[PK_NODE_OUT] = {op_doubles(1), op_doubles(2 * rows)};
    contrast(&t.c, sweep_identity, y);
    for (int64_t i = 0; i < 2 * rows; i++) stat[i] = (float)y[1][i];
    free(y[0]);
    free(y[1]);
    sweep_in_vector(&t, DIMS(1));
    if (outs & 1)
        sweep_out(&t, true, DIMS(rows, cols));
    else
        sweep_out_absent(&t);
    if (outs & 2) sweep_out(&t, true, DIMS(keys, cols));
    sweep_run(&t);
}

static double distance(const struct op_case *t, int64_t i, int64_t j, sweep_round R)
{
    const int64_t cols = pk_view_cols(&t->in[0]);
    double sum = 0;
    for (int64_t k = 0; k < cols; k++) {
        const double d = R(sweep_at(t, 0, i * cols + k) - sweep_at(t, 0, j * cols + k));
        sum = R(sum + R(d * d));
    }
    return R(sqrt(sum));
}

static int64_t nearest_of(const struct op_case *t, int64_t i)
{
    int64_t best = i ? 0 : 1;
    for (int64_t j = 0; j < pk_view_rows(&t->in[0]); j++)
        if (j != i && distance(t, i, j, sweep_identity) < distance(t, i, best, sweep_identity))
            best = j;
    return best;
}

static void koleo(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t rows = pk_view_rows(&t->in[0]);
    const double eps = (double)t->node.attr.koleo.eps;
    double total = 0;
    for (int64_t i = 0; i < rows; i++) {
        y[1][i] = (double)nearest_of(t, i);
        y[2][i] = distance(t, i, (int64_t)y[1][i], R);
        total = R(total - R(log(R(y[2][i] + eps))));
    }
    y[0][0] = R(R(total / (double)rows) * (double)t->node.attr.koleo.weight);
}

static void koleo_grad(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t rows = pk_view_rows(&t->in[0]), cols = pk_view_cols(&t->in[0]);
    const int32_t *nearest = t->data[1];
    const double eps = (double)t->node.attr.koleo.eps;
    const double scale = R(-sweep_at(t, 3, 0) * (double)t->node.attr.koleo.weight / (double)rows);
    for (int64_t i = 0; i < rows * cols; i++) y[0][i] = 0;
    for (int64_t i = 0; i < rows; i++) {
        const double d = sweep_at(t, 2, i);
        if (d == 0) continue;
        const double f = R(scale / R(d * R(d + eps)));
        for (int64_t k = 0; k < cols; k++) {
            double *here = &y[0][i * cols + k], *there = &y[0][nearest[i] * cols + k];
            const double gap =
                R(sweep_at(t, 0, i * cols + k) - sweep_at(t, 0, nearest[i] * cols + k));
            *here = R(*here + R(gap * f));
            *there = R(*there - R(gap * f));
        }
    }
}

static void test_koleo(int64_t rows, int64_t cols, bool equal, const char *why)
{
    for (int grad = 0; grad < 2; grad++) {
        struct op_sweep t;
        sweep_begin(&t, grad ? PK_OP_KOLEO_LOSS_GRAD : PK_OP_KOLEO_LOSS, why);
        t.reference = grad ? koleo_grad : koleo;
        t.c.node.attr.koleo.weight = 0.5f;
        t.c.node.attr.koleo.ranks = 1;
        t.c.node.attr.koleo.eps = equal ? 0.01f : 1e-8f;
        float *x = sweep_in(&t, DIMS(rows, cols));
        if (equal) memcpy(x + (rows - 1) * cols, x, (size_t)cols * sizeof *x);
        if (grad) {
            int count;
            int32_t *nearest = sweep_in_of(&t, PK_I32, DIMS(rows));
            float *d = sweep_in_vector(&t, DIMS(rows));
            const struct op_variant *v = op_variants(&count);
            t.c.variant = &v[count - 1]; // rounded to bf16 where there is such a variant
            op_settle(&t.c);
            for (int64_t i = 0; i < rows; i++) {
                nearest[i] = (int32_t)nearest_of(&t.c, i);
                d[i] = (float)distance(&t.c, i, nearest[i], sweep_identity);
            }
            sweep_in_vector(&t, DIMS(1));
            sweep_out(&t, true, DIMS(rows, cols));
        } else {
            sweep_out_vector(&t, false, DIMS(1));
            sweep_out_index(&t, DIMS(rows));
            sweep_out_vector(&t, false, DIMS(rows));
        }
        sweep_run(&t);
    }
}

static void dot(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    y[0][0] = inner(t, 0, 0, 1, 0, pk_view_count(&t->in[0]), R);
}

static void dot_grad(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    for (int64_t i = 0; i < pk_view_count(&t->in[0]); i++)
        y[0][i] = R(sweep_at(t, 0, i) * sweep_at(t, 1, 0));
}

static void test_dot(int64_t rows, int64_t cols, const char *why)
{
    for (int grad = 0; grad < 2; grad++) {
        struct op_sweep t;
        sweep_begin(&t, grad ? PK_OP_DOT_LOSS_GRAD : PK_OP_DOT_LOSS, why);
        t.reference = grad ? dot_grad : dot;
        if (!grad) sweep_in(&t, DIMS(rows, cols));
        sweep_in_vector(&t, DIMS(rows, cols));
        if (grad) sweep_in_vector(&t, DIMS(1));
        if (grad)
            sweep_out(&t, true, DIMS(rows, cols));
        else
            sweep_out_vector(&t, false, DIMS(1));
        sweep_run(&t);
    }
}

/* Equal rows in one group: softmax over n - 1 equal logits, so log(n - 1) whatever they are, even
 * where the exponential of a logit overflows. */
static void test_equal_rows(const struct op_variant *v)
{
    struct op_sweep t;
    sweep_begin(&t, PK_OP_CONTRAST_LOSS, "equal rows");
    t.c.node.attr.contrast.temperature = 0.03125f;
    t.c.node.attr.contrast.ranks = 1;
    t.c.node.attr.contrast.weight = 1;
    float *x = sweep_in(&t, DIMS(6, 4));
    for (int i = 0; i < 24; i++) x[i] = 2; // logits of 512
    sweep_in_absent(&t);
    sweep_in_of(&t, PK_I64, DIMS(6));
    sweep_in_absent(&t);
    sweep_out_vector(&t, false, DIMS(1));
    sweep_out_vector(&t, false, DIMS(2, 6));
    if (op_there(v, t.c.node.op)) {
        CHECK_OK(sweep_call(&t, v), &t.c.err);
        CHECK_NEAR(op_got(&t.c, 0, 0), log(5), 1e-6);
        CHECK(op_got(&t.c, 1, 6) == 5);
    }
    sweep_free(&t);
}

int main(void)
{
    for (size_t s = 0; s < PK_COUNT(shapes); s++) {
        test_normalize(shapes[s].rows, shapes[s].cols, 3, shapes[s].why);
        for (int self = 0; self < 2; self++) test_contrast(s, self);
        test_contrast_grad(s, true, 1);
        for (int outs = 1; outs < 4; outs++) test_contrast_grad(s, false, outs);
        test_koleo(shapes[s].rows, shapes[s].cols, false, shapes[s].why);
        test_dot(shapes[s].rows, shapes[s].cols, shapes[s].why);
    }
    test_normalize(5, 40, 1e-5f, "norms below eps");
    test_koleo(67, 20, true, "two equal rows");
    test_dot(1031, 1025, "more than one vector for every thread of 1,024 blocks");
    int count;
    const struct op_variant *v = op_variants(&count);
    for (int i = 0; i < count; i++) test_equal_rows(&v[i]);
    return op_test_end();
}
