/* test_supervised.c -- losses against labels and targets, some missing, and their gradients.
 *
 *     test_supervised          the checks
 *     test_supervised dump     cases with what the kernels make of them, as JSON, for
 *                              tests/op/test_supervised_torch.py */
#include "tests/op/op_sweep.h"

#include "core/ops.h"

enum known { ALL, SOME, NONE }; // labels that are known

static const struct {
    int64_t rows, cols;
    double scale; // of the predictions
    const char *why;
} shapes[] = {
    {1, 1, 1, "one number"},
    {3, 5, 1, "a few"},
    {128, 71, 4, "batch and classes of PTB-XL"},
    {9, 5, 60, "logits where e^z overflows in float"},
    {33, 100, 2, "more classes than a warp has lanes"},
    {3, 1031, 1, "more classes than a block has threads"},
    {2100, 5, 1, "more rows than 256 blocks have warps"},
    {13200, 5, 1, "more entries than 256 blocks have threads"},
};

/* One loss with its attributes, weights and labels. */
static const struct variant {
    const char *name;
    enum pk_op op;
    union pk_attr attr;
    bool weighted, soft; // weights of columns; labels as float between 0 and 1
    enum known known;
} variants[] = {
    {"bce", PK_OP_MULTILABEL_LOSS, {.raw = {0}}, false, false, ALL},
    {"bce, weighted", PK_OP_MULTILABEL_LOSS, {.raw = {0}}, true, false, SOME},
    {"bce, soft", PK_OP_MULTILABEL_LOSS, {.multilabel = {.smoothing = .1f}}, true, true, SOME},
    {"focal",
     PK_OP_MULTILABEL_LOSS,
     {.multilabel = {.gamma_positive = 2, .gamma_negative = 2, .alpha = .25f}},
     false,
     false,
     SOME},
    {"asymmetric",
     PK_OP_MULTILABEL_LOSS,
     {.multilabel = {.gamma_positive = 1, .gamma_negative = 4, .margin = .05f}},
     true,
     false,
     ALL},
    {"asymmetric, soft",
     PK_OP_MULTILABEL_LOSS,
     {.multilabel = {.gamma_positive = .5f, .gamma_negative = 1.5f, .margin = .2f}},
     false,
     true,
     SOME},
    {"multi-label, none known", PK_OP_MULTILABEL_LOSS, {.raw = {0}}, true, false, NONE},
    {"softmax", PK_OP_MULTICLASS_LOSS, {.raw = {0}}, false, false, ALL},
    {"softmax, weighted", PK_OP_MULTICLASS_LOSS, {.raw = {0}}, true, false, SOME},
    {"softmax, smooth", PK_OP_MULTICLASS_LOSS, {.multiclass = {.1f}}, true, false, SOME},
    {"softmax, soft", PK_OP_MULTICLASS_LOSS, {.multiclass = {.2f}}, true, true, SOME},
    {"softmax, none known", PK_OP_MULTICLASS_LOSS, {.multiclass = {.2f}}, false, true, NONE},
    {"squared", PK_OP_REGRESSION_LOSS, {.regression = {PK_REGRESSION_SQUARED, 0}}, false, 0, ALL},
    {"absolute", PK_OP_REGRESSION_LOSS, {.regression = {PK_REGRESSION_ABSOLUTE, 0}}, true, 0, SOME},
    {"huber", PK_OP_REGRESSION_LOSS, {.regression = {PK_REGRESSION_HUBER, .7f}}, true, 0, SOME},
    {"none known", PK_OP_REGRESSION_LOSS, {.regression = {PK_REGRESSION_SQUARED, 0}}, 0, 0, NONE},
};

static enum pk_op gradient(enum pk_op op)
{
    return op == PK_OP_MULTILABEL_LOSS   ? PK_OP_MULTILABEL_LOSS_GRAD
           : op == PK_OP_MULTICLASS_LOSS ? PK_OP_MULTICLASS_LOSS_GRAD
                                         : PK_OP_REGRESSION_LOSS_GRAD;
}

/* --- the reference -------------------------------------------------------------------------- */

static bool is(const struct op_case *t, enum pk_op op)
{
    return t->node.op == op || t->node.op == gradient(op);
}

static double label_at(const struct op_case *t, int64_t i)
{
    if (t->in[1].dtype != PK_U8) return sweep_at(t, 1, i);
    const uint8_t label = ((const uint8_t *)t->data[1])[i];
    return label == 255 ? (double)NAN : label;
}

static double weight_at(const struct op_case *t, int k, int64_t col)
{
    return t->data[k] ? sweep_at(t, k, col) : 1;
}

/* Loss or slope of the positive (1) or negative (0) term of logit z. */
static double term(const struct op_case *t, double z, int positive, bool slope, sweep_round R)
{
    const double m = (double)t->node.attr.multilabel.margin;
    const double e = R(exp(-fabs(z))), p = R((z > 0 ? 1 : e) / R(1 + e)),
                 q = R((z > 0 ? e : 1) / R(1 + e)), tail = R(log1p(e));
    if (positive) {
        const double gamma = (double)t->node.attr.multilabel.gamma_positive;
        const double focus = R(pow(q, gamma)), log_p = R(fmin(z, 0) - tail);
        return slope ? R(focus * R(R(gamma * R(p * log_p)) - q)) : -R(focus * log_p);
    }
    const double gamma = (double)t->node.attr.multilabel.gamma_negative;
    if (m > 0 && R(p - m) <= 0) return 0;
    const double n = m > 0 ? R(p - m) : p, rest = m > 0 ? R(1 - n) : q;
    const double focus = R(pow(n, gamma)), log_rest = m > 0 ? R(log(rest)) : R(fmin(-z, 0) - tail);
    if (!slope) return -R(focus * log_rest);
    const double through = m > 0 ? R(R(p * q) / rest) : p, lever = m > 0 ? R(R(p * q) / n) : q;
    return R(focus * R(through - R(gamma * R(lever * log_rest))));
}

static double entry(const struct op_case *t, int64_t i, bool slope, sweep_round R)
{
    const int64_t col = i % pk_view_cols(&t->in[0]);
    const double x = sweep_at(t, 0, i), y = label_at(t, i);
    if (is(t, PK_OP_REGRESSION_LOSS)) {
        const double d = R(x - y), delta = (double)t->node.attr.regression.delta;
        const double sign = d > 0 ? 1 : d < 0 ? -1 : 0, w = weight_at(t, 2, col);
        if (t->node.attr.regression.kind == PK_REGRESSION_SQUARED)
            return R(w * (slope ? 2 * d : R(d * d)));
        if (t->node.attr.regression.kind == PK_REGRESSION_ABSOLUTE)
            return R(w * (slope ? sign : fabs(d)));
        if (fabs(d) < delta) return R(w * (slope ? d : R(d * d) / 2));
        return R(w * (slope ? delta * sign : R(delta * R(fabs(d) - delta / 2))));
    }
    const double s = (double)t->node.attr.multilabel.smoothing,
                 alpha = (double)t->node.attr.multilabel.alpha;
    const double smooth = R(R(y * R(1 - s)) + s / 2), w = weight_at(t, 3, col);
    const double up = R(R(w * weight_at(t, 2, col)) * R((alpha > 0 ? alpha : 1) * smooth));
    const double down = R(w * R((alpha > 0 ? R(1 - alpha) : 1) * R(1 - smooth)));
    return R(R(up * term(t, x, 1, slope, R)) + R(down * term(t, x, 0, slope, R)));
}

static void entries(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    double sum = 0, known = 0;
    for (int64_t i = 0; i < pk_view_count(&t->in[0]); i++) {
        if (isnan(label_at(t, i))) continue;
        sum = R(sum + entry(t, i, false, R));
        known++;
    }
    y[0][0] = known > 0 ? R(sum / known) : 0;
    y[1][0] = known;
}

static double scale_of(const struct op_case *t, sweep_round R)
{
    const double divisor = sweep_at(t, t->node.n_in - 2, 0);
    return divisor > 0 ? R(sweep_at(t, t->node.n_in - 1, 0) / divisor) : 0;
}

static void entries_grad(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    for (int64_t i = 0; i < pk_view_count(&t->in[0]); i++)
        y[0][i] = isnan(label_at(t, i)) ? 0 : R(scale_of(t, R) * entry(t, i, true, R));
}

struct row {
    double lse, labels, weight, pull;
};

static double smooth(const struct op_case *t, int64_t i, sweep_round R)
{
    const double s = (double)t->node.attr.multiclass.smoothing;
    const int64_t n = pk_view_cols(&t->in[0]);
    const double y = R(R(label_at(t, i) * R(1 - s)) + R(s / (double)n));
    return R(weight_at(t, 2, i % n) * y);
}

static struct row row_at(const struct op_case *t, int64_t r, sweep_round R)
{
    const int64_t n = pk_view_cols(&t->in[0]);
    struct row row = {0};
    double top = -INFINITY, sum = 0;
    for (int64_t k = 0; k < n; k++) {
        const double y = label_at(t, r * n + k);
        top = fmax(top, sweep_at(t, 0, r * n + k));
        row.labels = R(row.labels + y);
        row.weight = R(row.weight + R(y * weight_at(t, 2, k)));
        row.pull = R(row.pull + smooth(t, r * n + k, R));
    }
    if (!(row.labels > 0)) return (struct row){0};
    for (int64_t k = 0; k < n; k++) sum = R(sum + R(exp(R(sweep_at(t, 0, r * n + k) - top))));
    row.lse = R(top + R(log(sum)));
    row.weight = R(row.weight / row.labels);
    return row;
}

static void rows(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t n = pk_view_cols(&t->in[0]);
    double sum = 0, divisor = 0;
    for (int64_t r = 0; r < pk_view_rows(&t->in[0]); r++) {
        const struct row row = row_at(t, r, R);
        divisor = R(divisor + row.weight);
        for (int64_t k = 0; row.labels > 0 && k < n; k++)
            sum = R(sum + R(smooth(t, r * n + k, R) * R(row.lse - sweep_at(t, 0, r * n + k))));
    }
    y[0][0] = divisor > 0 ? R(sum / divisor) : 0;
    y[1][0] = divisor;
}

static void rows_grad(const struct op_case *t, sweep_round R, double *const y[PK_NODE_OUT])
{
    const int64_t n = pk_view_cols(&t->in[0]);
    for (int64_t r = 0; r < pk_view_rows(&t->in[0]); r++) {
        const struct row row = row_at(t, r, R);
        for (int64_t i = r * n; i < (r + 1) * n; i++) {
            const double p = R(exp(R(sweep_at(t, 0, i) - row.lse)));
            const double d = row.labels > 0 ? R(R(row.pull * p) - smooth(t, i, R)) : 0;
            y[0][i] = R(scale_of(t, R) * d);
        }
    }
}

/* --- cases ---------------------------------------------------------------------------------- */

/* Labels of a row, some of them missing; row 1 of a multi-class task has none. */
static void fill_labels(struct op_sweep *t, const struct variant *v, int64_t r, int64_t cols,
                        uint8_t *byte, float *real)
{
    const bool one = v->op == PK_OP_MULTICLASS_LOSS, target = v->op == PK_OP_REGRESSION_LOSS;
    const int64_t chosen = (int64_t)pk_rng_below(&t->c.rng, (uint64_t)cols);
    const double share = pk_rng_uniform(&t->c.rng);
    for (int64_t i = r * cols; i < (r + 1) * cols; i++) {
        const bool yes = one ? i % cols == chosen && r != 1 : pk_rng_below(&t->c.rng, 3) == 0;
        const bool lost =
            v->known == NONE || (v->known == SOME && pk_rng_below(&t->c.rng, one ? 40 : 4) == 0);
        double y = yes;
        if (v->soft && one)
            y = (yes ? share : 0) + (i % cols == cols / 2 && r != 1 ? 1 - share : 0);
        if (v->soft && !one) y = pk_rng_uniform(&t->c.rng);
        if (byte) byte[i] = lost ? 255 : yes;
        if (real && !target) real[i] = lost ? (float)NAN : (float)y;
        if (real && target && lost) real[i] = (float)NAN;
    }
}

static void weigh(struct op_sweep *t, bool there, int64_t cols)
{
    if (!there) {
        sweep_in_absent(t);
        return;
    }
    float *w = sweep_in_vector(t, DIMS(cols));
    for (int64_t k = 0; k < cols; k++) w[k] = k % 7 == 3 ? 0 : (float)exp(0.5 * (double)w[k]);
}

static void begin(struct op_sweep *t, const struct variant *v, bool grad, int64_t n, int64_t cols,
                  double scale)
{
    const bool one = v->op == PK_OP_MULTICLASS_LOSS, target = v->op == PK_OP_REGRESSION_LOSS;
    sweep_begin(t, grad ? gradient(v->op) : v->op, v->name);
    t->c.rng = pk_rng_make(1, PK_RNG_TEST, (uint64_t)(n * cols), 0); // the same for both ops
    t->c.node.attr = v->attr;
    t->reference = one ? grad ? rows_grad : rows : grad ? entries_grad : entries;
    float *x = sweep_in(t, DIMS(n, cols));
    for (int64_t i = 0; i < n * cols; i++) x[i] *= (float)scale;
    const bool real = v->soft || target;
    void *label = real ? sweep_in_vector(t, DIMS(n, cols)) : sweep_in_of(t, PK_U8, DIMS(n, cols));
    for (int64_t r = 0; r < n; r++)
        fill_labels(t, v, r, cols, real ? NULL : label, real ? label : NULL);
    if (target && v->known == ALL) ((float *)label)[0] = x[0];
    weigh(t, v->weighted, cols);
    if (v->op == PK_OP_MULTILABEL_LOSS) weigh(t, v->weighted, cols);
    if (grad) {
        *sweep_in_vector(t, DIMS(1)) = v->known == NONE ? 0 : (float)(n * cols) * 0.75f;
        sweep_in_vector(t, DIMS(1));
        sweep_out(t, true, DIMS(n, cols));
    } else {
        sweep_out_vector(t, false, DIMS(1));
        sweep_out_vector(t, false, DIMS(1));
    }
}

/* Kernels on the host executor take their time: the many-sided variants alone see large shapes. */
static bool wanted(const struct variant *v, int64_t entries)
{
    if (entries > 20000) return v->op != PK_OP_MULTICLASS_LOSS && v->weighted && v->known == SOME;
    return entries < 3000 || (v->weighted && v->known == SOME);
}

static void test_kernels(void)
{
    for (size_t s = 0; s < PK_COUNT(shapes); s++)
        for (size_t k = 0; k < PK_COUNT(variants); k++)
            for (int grad = 0; grad < 2; grad++) {
                struct op_sweep t;
                if (!wanted(&variants[k], shapes[s].rows * shapes[s].cols)) continue;
                begin(&t, &variants[k], grad, shapes[s].rows, shapes[s].cols, shapes[s].scale);
                sweep_run(&t);
            }
}

/* Logits of +-1000 give the finite losses that the definition has; a NaN is not hidden. */
static void test_extremes(const struct op_variant *v)
{
    static const struct variant margin = {
        "margin", PK_OP_MULTILABEL_LOSS, {.multilabel = {.margin = .1f}}, false, false, ALL};
    for (int k = 0; k < 4; k++) {
        struct op_sweep t;
        begin(&t, k == 1 ? &variants[7] : k == 3 ? &margin : &variants[0], false, 1, 2, 1);
        float *z = t.c.data[0];
        uint8_t *label = t.c.data[1];
        z[0] = k < 2 ? 1000 : (float)NAN; // numbers of bf16
        z[1] = -1000;
        label[0] = 0;
        label[1] = 1; // wrong by 2000 (softmax), by 1000 twice (sigmoids)
        if (op_there(v, t.c.node.op)) {
            CHECK_OK(sweep_call(&t, v), &t.c.err);
            const double loss = op_got(&t.c, 0, 0);
            if (k < 2)
                CHECK_NEAR(loss, k == 1 ? 2000 : 1000, 1e-3);
            else
                CHECK(isnan(loss));
        }
        sweep_free(&t);
    }
}

/* What is missing has no part: the loss and the gradients are those of what is left, and a row
 * left out of a softmax loss is left out of the mean. */
static void test_left_out(const struct op_variant *v)
{
    for (int one = 0; one < 2; one++) {
        struct op_sweep t[2];
        double loss[2];
        for (int k = 0; k < 2; k++) {
            begin(&t[k], &variants[one ? 7 : 0], false, 4 - 2 * k, 3, 1);
            uint8_t *label = t[k].c.data[1];
            float *z = t[k].c.data[0];
            for (int i = 0; i < 12 - 6 * k; i++) {
                label[i] = i % 4 == 0; // one in each row
                z[i] = (float)(i % 5) - 2;
            }
            for (int i = 6; k == 0 && i < 12; i++) label[i] = 255;
            if (!op_there(v, t[k].c.node.op)) continue;
            CHECK_OK(sweep_call(&t[k], v), &t[k].c.err);
            loss[k] = op_got(&t[k].c, 0, 0);
            CHECK_NEAR(op_got(&t[k].c, 1, 0), one ? 2 : 6, 0);
        }
        CHECK_NEAR(loss[0], loss[1], 0);
        for (int k = 0; k < 2; k++) sweep_free(&t[k]);
    }
}

/* The loader lets only 0, 1 and 255 through, so the CPU does not look again; a device does, because
 * a wrong label would be a wrong number and no more. */
static void test_bad_label(enum pk_op op, bool grad, bool soft)
{
    const struct variant v = {"label out of range", op, {.raw = {0}}, false, soft, ALL};
    struct op_sweep t;
    begin(&t, &v, grad, 3, 5, 1);
    if (soft) {
        float *label = t.c.data[1];
        label[6] = 2.5f;
        sweep_refused(&t, OP_FAULT_LABEL, 1, 2, NULL);
        label[6] = -3;
        sweep_refused(&t, OP_FAULT_LABEL, 1, -3, NULL);
    } else {
        uint8_t *label = t.c.data[1];
        label[6] = 2;
        sweep_refused(&t, OP_FAULT_LABEL, 1, 2, NULL);
        label[6] = 254;
        sweep_refused(&t, OP_FAULT_LABEL, 1, 254, NULL);
    }
    sweep_free(&t);
}

/* --- for PyTorch ---------------------------------------------------------------------------- */

static void print_floats(const char *name, const float *x, int64_t n)
{
    printf(", \"%s\": ", name);
    for (int64_t i = 0; x && i < n; i++)
        if (isnan(x[i]))
            printf("%snull", i ? ", " : "[");
        else
            printf("%s%.9g", i ? ", " : "[", (double)x[i]);
    printf(x ? "]" : "null");
}

static void dump(const struct variant *v, const struct op_variant *kernels, int64_t n, int64_t cols)
{
    struct op_sweep t, g;
    const int64_t count = n * cols;
    const bool labels = v->op == PK_OP_MULTILABEL_LOSS;
    begin(&t, v, false, n, cols, 2);
    begin(&g, v, true, n, cols, 2);
    float *label = op_floats(count), *dx = op_floats(count);
    for (int64_t i = 0; i < count; i++) label[i] = (float)label_at(&t.c, i);
    CHECK_OK(sweep_call(&t, kernels), &t.c.err);
    const double loss = op_got(&t.c, 0, 0), divisor = op_got(&t.c, 1, 0);
    ((float *)g.c.data[g.c.node.n_in - 2])[0] = (float)divisor;
    ((float *)g.c.data[g.c.node.n_in - 1])[0] = 1;
    CHECK_OK(sweep_call(&g, kernels), &g.c.err);
    for (int64_t i = 0; i < count; i++) dx[i] = (float)op_got(&g.c, 0, i);
    const union pk_attr *a = &v->attr;
    printf("{\"name\": \"%s\", \"op\": %d, \"rows\": %d, \"soft\": %d", v->name,
           (v->op - PK_OP_MULTILABEL_LOSS) / 2, (int)n, v->soft);
    printf(", \"kind\": %d, \"delta\": %.9g", labels ? 0 : a->regression.kind,
           (double)a->regression.delta);
    const float of[5] = {a->multilabel.gamma_positive, a->multilabel.gamma_negative,
                         a->multilabel.margin, a->multilabel.alpha,
                         labels ? a->multilabel.smoothing : a->multiclass.smoothing};
    print_floats("attributes", of, 5);
    print_floats("x", t.c.data[0], count);
    print_floats("label", label, count);
    print_floats("positive", labels ? t.c.data[2] : NULL, cols);
    print_floats("weight", t.c.data[labels ? 3 : 2], cols);
    print_floats("dx", dx, count);
    printf(", \"loss\": %.9g}\n", loss);
    free(label);
    free(dx);
    sweep_free(&t);
    sweep_free(&g);
}

int main(int argc, char **argv)
{
    int count;
    const struct op_variant *v = op_variants(&count);
    if (argc > 1 && !strcmp(argv[1], "dump")) {
        for (size_t k = 0; k < PK_COUNT(variants); k++) dump(&variants[k], &v[count - 1], 12, 5);
        return test_bad_ != 0;
    }
    test_kernels();
    for (int k = 0; k < 4; k++) {
        test_bad_label(PK_OP_MULTILABEL_LOSS, k & 1, k & 2);
        test_bad_label(PK_OP_MULTICLASS_LOSS, k & 1, k & 2);
    }
    for (int i = 0; i < count; i++) {
        test_extremes(&v[i]);
        test_left_out(&v[i]);
    }
    return op_test_end();
}
