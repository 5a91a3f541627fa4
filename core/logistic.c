/* logistic.c -- logistic regression to convergence (see linear_model.h).
 *
 * One-vs-rest is one independent problem per output; they advance in step, so that each pass over
 * the rows serves all of them. Multinomial is one problem over all outputs. A problem is an L-BFGS
 * iteration (Nocedal 1980) of its own. Its initial inverse Hessian is that of Boehning and
 * Lindsay's bound, H <= transpose(z) z / 4 + penalty, factored once per penalty: strongly
 * correlated features, as embeddings have, then cost no iterations.
 *
 * The bound is loose where probabilities are near 0 or 1 (separable classes, small penalties). A
 * problem that has spent as many iterations as one Hessian costs gets its own Hessian at the
 * current point instead (multinomial: its diagonal blocks), which also serves the next penalty. */
#include "core/dense.h"
#include "core/linear_model.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MEMORY = 12, CHUNK = 64, TRIES = 40 };

struct block { // one L-BFGS iteration over `size` numbers: outputs x (features, then intercept)
    int64_t size;
    double *x, *g, *p;        // point, gradient, direction
    double *trial, *trial_g;  // where the loss is evaluated next
    double *s, *y, *rho;      // [MEMORY, size] steps and changes of the gradient, [MEMORY]
    double f, trial_f, slope; // slope: g.p
    double step;
    int used, next, tries;
    int32_t output, outputs;   // among those that are fitted
    int32_t iterations, since; // since: the last Hessian
    int32_t active;            // where its outputs are in the last evaluation
    bool done, stalled;
};

/* Hessian of an output with weights D = p (1 - p) of the rows. The intercept is eliminated:
 * sum D (z - centre)(z - centre)' + penalty remains for the weights. */
struct hessian {
    bool made;
    struct pk_design rows; // sqrt(D) (z - centre); kept when the Gram matrix is the dual
    struct pk_gram gram;
    double *cross; // [features] sum D z
    double sum;    // of D
};

struct problem {
    const struct pk_design *z;
    const struct pk_logistic_options *o;
    struct pk_gram *gram;
    struct pk_pool *pool;
    int32_t outputs; // that are fitted
    int32_t *column; // [outputs] of the labels
    const uint8_t *label;
    int32_t labels; // columns of label
    double penalty;
    int32_t blocks;
    struct block *block;
    struct hessian *hessian; // [outputs]
    double *store;           // behind the blocks' arrays
    double *weight;          // [active, features] of the trial points
    double *bias;            // [active]
    int32_t *active;         // [active] outputs
    int32_t actives;
    double *residual; // [rows, active] probability - label
    double *loss;     // [chunks, active]; multinomial: the first column
    double *gradient; // [active, features]
};

/* --- loss and gradient --------------------------------------------------------------------- */

static double log1p_exp(double x)
{
    return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

static void row_one_vs_rest(const struct problem *p, double *r, const uint8_t *y, double *loss)
{
    for (int32_t a = 0; a < p->actives; a++) {
        double m = r[a] + p->bias[a], e = exp(-fabs(m));
        int label = y[p->column[p->active[a]]];
        loss[a] += log1p_exp(label ? -m : m);
        r[a] = (m >= 0 ? 1 / (1 + e) : e / (1 + e)) - label;
    }
}

static void row_multinomial(const struct problem *p, double *r, const uint8_t *y, double *loss)
{
    double most = -INFINITY, sum = 0, own = 0;
    for (int32_t a = 0; a < p->actives; a++) {
        r[a] += p->bias[a];
        most = fmax(most, r[a]);
    }
    for (int32_t a = 0; a < p->actives; a++) {
        if (y[p->column[a]]) own = r[a] - most;
        r[a] = exp(r[a] - most);
        sum += r[a];
    }
    *loss += log(sum) - own;
    for (int32_t a = 0; a < p->actives; a++) r[a] = r[a] / sum - y[p->column[a]];
}

static void residual_worker(void *ctx, int worker, int workers)
{
    const struct problem *p = ctx;
    const struct pk_design *z = p->z;
    int64_t chunks = (z->rows + CHUNK - 1) / CHUNK, n = p->actives;
    for (int64_t c = worker; c < chunks; c += workers) {
        int64_t first = c * CHUNK, last = PK_MIN(first + CHUNK, z->rows);
        double *loss = p->loss + c * p->outputs;
        memset(loss, 0, (size_t)p->outputs * sizeof *loss);
        for (int64_t i = first; i < last; i++) {
            double *r = p->residual + i * n;
            for (int64_t a = 0; a < n; a++)
                r[a] =
                    pk_dense_dot(z->z + i * z->features, p->weight + a * z->features, z->features);
            if (p->o->multinomial)
                row_multinomial(p, r, p->label + i * p->labels, loss);
            else
                row_one_vs_rest(p, r, p->label + i * p->labels, loss);
        }
    }
}

/* Loss and gradient of every unfinished block at its trial point. */
static void evaluate(struct problem *p)
{
    int64_t d = p->z->features, rows = p->z->rows, chunks = (rows + CHUNK - 1) / CHUNK;
    p->actives = 0;
    for (int32_t b = 0; b < p->blocks; b++)
        for (int32_t k = 0; !p->block[b].done && k < p->block[b].outputs; k++) {
            const double *at = p->block[b].trial + k * (d + 1);
            memcpy(p->weight + p->actives * d, at, (size_t)d * sizeof *at);
            p->bias[p->actives] = at[d];
            p->active[p->actives++] = p->block[b].output + k;
        }
    pk_dense_run(p->pool, residual_worker, p);
    pk_dense_cross(p->gradient, p->residual, p->actives, p->z->z, d, rows, false, p->pool);
    int32_t a = 0;
    for (int32_t b = 0; b < p->blocks; b++) {
        struct block *k = &p->block[b];
        if (k->done) continue;
        k->active = a;
        k->trial_f = 0;
        for (int64_t c = 0; c < chunks; c++) k->trial_f += p->loss[c * p->outputs + a];
        for (int32_t i = 0; i < k->outputs; i++, a++) {
            const double *at = k->trial + i * (d + 1);
            double *g = k->trial_g + i * (d + 1);
            for (int64_t j = 0; j < d; j++) g[j] = p->gradient[a * d + j] + p->penalty * at[j];
            k->trial_f += 0.5 * p->penalty * pk_dense_dot(at, at, d);
            g[d] = 0;
            for (int64_t r = 0; r < rows; r++) g[d] += p->residual[r * p->actives + a];
        }
    }
}

/* --- one L-BFGS iteration ------------------------------------------------------------------ */

static void free_hessian(struct hessian *h)
{
    pk_gram_free(&h->gram);
    pk_design_free(&h->rows);
    free(h->cross);
    *h = (struct hessian){0};
}

/* The Hessian of output k of a block at the point that was evaluated last. */
static enum pk_status make_hessian(struct problem *p, const struct block *b, int32_t k,
                                   struct pk_err *err)
{
    const struct pk_design *z = p->z;
    struct hessian *h = &p->hessian[b->output + k];
    int64_t d = z->features, column = p->column[b->output + k];
    free_hessian(h);
    h->rows = (struct pk_design){.rows = z->rows, .features = z->features};
    PK_TRY(pk_alloc(&h->cross, (size_t)d, sizeof *h->cross, "Hessian", err));
    PK_TRY(pk_alloc(&h->rows.z, (size_t)z->rows, (size_t)d * sizeof(double), "Hessian", err));
    h->sum = DBL_EPSILON * (double)z->rows;
    for (int64_t i = 0; i < z->rows; i++) {
        double r = p->residual[i * p->actives + b->active + k];
        double prob = r + p->label[i * p->labels + column], weight = prob * (1 - prob);
        h->sum += weight;
        pk_dense_add(h->cross, weight, z->z + i * d, d);
        h->rows.z[i * d] = weight; // until the centre is known
    }
    for (int64_t i = 0; i < z->rows; i++) {
        double *row = h->rows.z + i * d, root = sqrt(fmax(0, row[0]));
        for (int64_t j = 0; j < d; j++) row[j] = root * (z->z[i * d + j] - h->cross[j] / h->sum);
    }
    PK_TRY(pk_gram_make(&h->gram, &h->rows, p->pool, err));
    if (!h->gram.dual) pk_design_free(&h->rows);
    h->made = true;
    return pk_gram_factor(&h->gram, 1, p->penalty, err);
}

/* Adding the same to all outputs of a softmax changes nothing but the penalty, so the optimum has
 * sum 0 over the outputs. Different Hessians would leave that plane, off which the loss has next to
 * no curvature. */
static void project(const struct block *b, double *v)
{
    int64_t n = b->size / b->outputs;
    for (int64_t j = 0; j < n; j++) {
        double mean = 0;
        for (int32_t k = 0; k < b->outputs; k++) mean += v[k * n + j] / b->outputs;
        for (int32_t k = 0; k < b->outputs; k++) v[k * n + j] -= mean;
    }
}

/* v := inverse of the Hessian, or of its bound, times v. */
static void precondition(const struct problem *p, const struct block *b, double *v)
{
    int64_t d = p->z->features;
    for (int32_t k = 0; k < b->outputs; k++) {
        struct hessian *h = &p->hessian[b->output + k];
        double *at = v + k * (d + 1);
        if (!h->made) {
            pk_gram_solve(p->gram, at);
            at[d] /= 0.25 * (double)p->z->rows;
            continue;
        }
        pk_dense_add(at, -at[d] / h->sum, h->cross, d);
        pk_gram_solve(&h->gram, at);
        at[d] = (at[d] - pk_dense_dot(h->cross, at, d)) / h->sum;
    }
    if (p->o->multinomial) project(b, v);
}

/* Two-loop recursion; falls back to the preconditioned gradient should rounding spoil it. */
static void choose_direction(const struct problem *p, struct block *b)
{
    double alpha[MEMORY];
    memcpy(b->p, b->g, (size_t)b->size * sizeof *b->p);
    for (int i = 0; i < b->used; i++) {
        int k = (b->next - 1 - i + 2 * MEMORY) % MEMORY;
        alpha[k] = b->rho[k] * pk_dense_dot(b->s + k * b->size, b->p, b->size);
        pk_dense_add(b->p, -alpha[k], b->y + k * b->size, b->size);
    }
    precondition(p, b, b->p);
    for (int i = b->used - 1; i >= 0; i--) {
        int k = (b->next - 1 - i + 2 * MEMORY) % MEMORY;
        double beta = b->rho[k] * pk_dense_dot(b->y + k * b->size, b->p, b->size);
        pk_dense_add(b->p, alpha[k] - beta, b->s + k * b->size, b->size);
    }
    for (int64_t j = 0; j < b->size; j++) b->p[j] = -b->p[j];
    b->slope = pk_dense_dot(b->g, b->p, b->size);
    if (!(b->slope < 0) && b->used) {
        b->used = 0;
        choose_direction(p, b);
        return;
    }
    b->step = 1;
    b->tries = 0;
}

static void set_trial(struct block *b)
{
    for (int64_t j = 0; j < b->size; j++) b->trial[j] = b->x[j] + b->step * b->p[j];
}

static double largest(const double *g, int64_t n)
{
    double most = 0;
    for (int64_t j = 0; j < n; j++) most = isnan(g[j]) ? INFINITY : fmax(most, fabs(g[j]));
    return most;
}

static void remember(struct block *b)
{
    double *s = b->s + b->next * b->size, *y = b->y + b->next * b->size;
    for (int64_t j = 0; j < b->size; j++) {
        s[j] = b->trial[j] - b->x[j];
        y[j] = b->trial_g[j] - b->g[j];
    }
    double sy = pk_dense_dot(s, y, b->size);
    if (!(sy > DBL_EPSILON * pk_dense_dot(y, y, b->size) * 1e-8)) return;
    b->rho[b->next] = 1 / sy;
    b->next = (b->next + 1) % MEMORY;
    b->used = PK_MIN(b->used + 1, MEMORY);
}

/* After an evaluation: accepts the trial point or shortens the step. Near the optimum the loss
 * differs by less than its rounding; the slope then decides (Hager and Zhang 2005). */
static enum pk_status advance(struct problem *p, struct block *b, double tolerance,
                              struct pk_err *err)
{
    double noise = 1e-13 * (1 + fabs(b->f)), slope = pk_dense_dot(b->trial_g, b->p, b->size);
    bool less = b->trial_f <= b->f + 1e-4 * b->step * b->slope;
    bool flat = b->trial_f <= b->f + noise && fabs(slope) <= 0.9 * fabs(b->slope);
    if (!less && !flat) {
        double curve = b->trial_f - b->f - b->step * b->slope;
        double factor = curve > 0 ? -0.5 * b->step * b->slope / curve : 0.1;
        b->step *= fmin(0.5, fmax(0.1, factor));
        if (++b->tries > TRIES) b->done = b->stalled = true;
        set_trial(b);
        return PK_OK;
    }
    remember(b);
    memcpy(b->x, b->trial, (size_t)b->size * sizeof *b->x);
    memcpy(b->g, b->trial_g, (size_t)b->size * sizeof *b->g);
    b->f = b->trial_f;
    b->iterations++;
    b->done = largest(b->g, b->size) <= tolerance;
    if (b->done) return PK_OK;
    // A Hessian costs rows features^2 / 2, in a faster loop than the 2 rows features of a step.
    if (++b->since > PK_MAX(8, p->gram->order / 8)) {
        for (int32_t k = 0; k < b->outputs; k++) PK_TRY(make_hessian(p, b, k, err));
        b->since = b->used = 0;
    }
    choose_direction(p, b);
    set_trial(b);
    return PK_OK;
}

/* The target of the largest gradient component: as asked, but not below what its sum over rows
 * resolves. */
static double target(const struct problem *p)
{
    double asked = p->o->tolerance > 0 ? p->o->tolerance : 1e-8;
    return fmax(asked * fmin(1, p->penalty), 16 * DBL_EPSILON * (double)p->z->rows);
}

static enum pk_status minimise(struct problem *p, struct pk_err *err)
{
    double tolerance = target(p);
    int32_t limit = p->o->iterations ? p->o->iterations : 2000, left = p->blocks;
    PK_TRY(pk_gram_factor(p->gram, 0.25, p->penalty, err));
    for (int32_t k = 0; k < p->outputs; k++)
        if (p->hessian[k].made) PK_TRY(pk_gram_factor(&p->hessian[k].gram, 1, p->penalty, err));
    for (int32_t b = 0; b < p->blocks; b++) {
        struct block *k = &p->block[b];
        k->done = k->stalled = false;
        k->used = k->next = k->iterations = k->since = 0;
        memcpy(k->trial, k->x, (size_t)k->size * sizeof *k->x);
    }
    if (left) evaluate(p);
    for (int32_t b = 0; b < p->blocks; b++) { // the starting point
        struct block *k = &p->block[b];
        memcpy(k->g, k->trial_g, (size_t)k->size * sizeof *k->g);
        k->f = k->trial_f;
        k->done = largest(k->g, k->size) <= tolerance;
        if (k->done) continue;
        choose_direction(p, k);
        set_trial(k);
    }
    while (left) {
        left = 0;
        for (int32_t b = 0; b < p->blocks; b++) {
            struct block *k = &p->block[b];
            if (!k->done && k->iterations >= limit) k->done = k->stalled = true;
            left += !k->done;
        }
        if (!left) break;
        evaluate(p);
        for (int32_t b = 0; b < p->blocks; b++)
            if (!p->block[b].done) PK_TRY(advance(p, &p->block[b], tolerance, err));
    }
    for (int32_t b = 0; b < p->blocks; b++) {
        const struct block *k = &p->block[b];
        double g = largest(k->g, k->size);
        // A line search that stalls within rounding of the target has arrived.
        if (k->stalled && !(g <= 1e3 * tolerance))
            return pk_fail(err, PK_EDATA,
                           "logistic regression (penalty %g) did not converge: gradient %g after "
                           "%d iterations, %g is wanted; a larger penalty helps",
                           p->penalty, g, k->iterations, tolerance);
    }
    return PK_OK;
}

/* --- the path of penalties ----------------------------------------------------------------- */

/* Counts rows per label; which outputs can be fitted. */
static enum pk_status choose_outputs(struct problem *p, int64_t *positives, struct pk_err *err)
{
    for (int64_t i = 0; i < p->z->rows; i++) {
        int labels = 0;
        for (int32_t k = 0; k < p->labels; k++) {
            positives[k] += p->label[i * p->labels + k] != 0;
            labels += p->label[i * p->labels + k] != 0;
        }
        if (p->o->multinomial && labels != 1)
            return pk_fail(err, PK_EDATA,
                           "row %lld has %d labels; multinomial regression needs exactly one",
                           (long long)i, labels);
    }
    for (int32_t k = 0; k < p->labels; k++)
        if (positives[k] && (p->o->multinomial || positives[k] < p->z->rows))
            p->column[p->outputs++] = k;
    return PK_OK;
}

static enum pk_status make_blocks(struct problem *p, struct pk_err *err)
{
    int64_t d = p->z->features, n = p->outputs, chunks = (p->z->rows + CHUNK - 1) / CHUNK;
    int64_t each = (d + 1) * (5 + 2 * MEMORY);
    if (!n) return PK_OK;
    p->blocks = p->o->multinomial ? 1 : (int32_t)n;
    PK_TRY(pk_alloc(&p->hessian, (size_t)n, sizeof *p->hessian, "optimiser", err));
    PK_TRY(pk_alloc(&p->block, (size_t)p->blocks, sizeof *p->block, "optimiser", err));
    size_t store = (size_t)(n * each + p->blocks * MEMORY);
    PK_TRY(pk_alloc(&p->store, store, sizeof(double), "optimiser", err));
    PK_TRY(pk_alloc(&p->weight, (size_t)(n * d), sizeof(double), "weights", err));
    PK_TRY(pk_alloc(&p->bias, (size_t)n, sizeof(double), "intercepts", err));
    PK_TRY(pk_alloc(&p->active, (size_t)n, sizeof *p->active, "outputs", err));
    PK_TRY(
        pk_alloc(&p->residual, (size_t)p->z->rows, (size_t)n * sizeof(double), "residuals", err));
    PK_TRY(pk_alloc(&p->loss, (size_t)chunks, (size_t)n * sizeof(double), "losses", err));
    PK_TRY(pk_alloc(&p->gradient, (size_t)n, (size_t)d * sizeof(double), "gradients", err));
    double *at = p->store;
    for (int32_t b = 0; b < p->blocks; b++) {
        struct block *k = &p->block[b];
        k->output = b;
        k->outputs = p->o->multinomial ? p->outputs : 1;
        k->size = k->outputs * (d + 1);
        double **array[] = {&k->x, &k->g, &k->p, &k->trial, &k->trial_g};
        for (size_t i = 0; i < PK_COUNT(array); i++, at += k->size) *array[i] = at;
        k->s = at, at += MEMORY * k->size;
        k->y = at, at += MEMORY * k->size;
        k->rho = at, at += MEMORY;
    }
    return PK_OK;
}

static void free_problem(struct problem *p)
{
    for (int32_t k = 0; p->hessian && k < p->outputs; k++) free_hessian(&p->hessian[k]);
    free(p->hessian);
    free(p->block);
    free(p->store);
    free(p->weight);
    free(p->bias);
    free(p->active);
    free(p->residual);
    free(p->loss);
    free(p->gradient);
    free(p->column);
}

static void take_model(struct pk_linear *m, const struct problem *p, const int64_t *positives)
{
    int64_t d = p->z->features;
    m->penalty = p->penalty;
    for (int32_t k = 0; k < p->labels; k++) {
        double yes = (double)positives[k], no = (double)(p->z->rows - positives[k]);
        m->constant[k] = true;
        m->intercept[k] = log((yes + 1) / (no + 1));
    }
    for (int32_t b = 0; b < p->blocks; b++) {
        const struct block *k = &p->block[b];
        m->iterations = PK_MAX(m->iterations, k->iterations);
        m->gradient = fmax(m->gradient, largest(k->g, k->size));
        for (int32_t i = 0; i < k->outputs; i++) {
            int32_t column = p->column[k->output + i];
            memcpy(m->weight + column * d, k->x + i * (d + 1), (size_t)d * sizeof *m->weight);
            m->intercept[column] = k->x[i * (d + 1) + d];
            m->constant[column] = false;
        }
    }
}

enum pk_status pk_logistic_path(struct pk_linear *out, const struct pk_design *z,
                                const uint8_t *label, int32_t outputs, const double *penalty,
                                int count, const struct pk_logistic_options *options,
                                struct pk_pool *pool, struct pk_err *err)
{
    struct pk_gram gram = {0};
    struct problem p = {
        .z = z, .o = options, .gram = &gram, .pool = pool, .label = label, .labels = outputs};
    int64_t *positives = NULL;
    for (int i = 0; i < count; i++) out[i] = (struct pk_linear){0};
    for (int i = 0; i < count; i++)
        if (!(penalty[i] > 0) || !isfinite(penalty[i]))
            return pk_fail(err, PK_EINVAL, "penalty %g: it must be above 0", penalty[i]);
    enum pk_status s = pk_alloc(&positives, (size_t)outputs, sizeof *positives, "classes", err);
    if (s == PK_OK) s = pk_alloc(&p.column, (size_t)outputs, sizeof *p.column, "classes", err);
    if (s == PK_OK) s = choose_outputs(&p, positives, err);
    if (s == PK_OK) s = make_blocks(&p, err);
    if (s == PK_OK) s = pk_gram_make(&gram, z, pool, err);
    for (int i = 0; s == PK_OK && i < count; i++) {
        p.penalty = penalty[i];
        s = pk_linear_alloc(&out[i], z->features, outputs, err);
        if (s == PK_OK) s = minimise(&p, err);
        if (s == PK_OK) take_model(&out[i], &p, positives);
    }
    pk_gram_free(&gram);
    free_problem(&p);
    free(positives);
    return s;
}
