/* test_joined_norm.c -- the kernels of batch norm over the records of several ranks, which here are
 * computed one after the other: against sums in double over all ranks' rows, where numbers are
 * ordinary, constant, far from zero, or differ between ranks only; both storage types; channels
 * that fill no vector. */
#include "core/rng.h"
#include "cuda/state.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>

enum { RANKS = 3, COLS = 104 };

enum fill { NORMAL, SHIFTED, CONSTANT, APART, FILLS }; // APART: each rank its own constant

struct meeting { // what the ranks have put into their rows, and whether all have
    cudaStream_t stream;
    float row[RANKS][2 * COLS];
    bool all;
    int calls;
};

struct sides { // of a rank, in device memory
    void *x, *dy, *y, *dx;
    float *saved, *terms, *state; // [3][cols] each: mean, rstd, variance; dgain, dbias; running
};

struct scene {
    struct pk_queue q;
    struct meeting meeting;
    struct pk_joined joined;
    struct pk_value matrix, vector, one;
    struct sides rank[RANKS];
    float *gain, *bias, *seed, *workspace; // of channels: bias in the place of running statistics
    int64_t rows, cols;
};

static void *device(size_t bytes)
{
    void *p = NULL;
    CHECK(cudaMalloc(&p, bytes) == cudaSuccess);
    return p;
}

/* The first time over all ranks each leaves its row, the second time it gets the others'. */
static enum pk_status meet(const struct pk_joined *j, int64_t count, struct pk_err *err)
{
    struct meeting *m = j->ctx;
    const size_t bytes = (size_t)count * sizeof(float);
    m->calls++;
    PK_TRY(pk_cuda_check(cudaStreamSynchronize(m->stream), "meeting", err));
    if (m->all) CHECK(!memcmp(m->row[j->rank], j->all + j->rank * count, bytes));
    memcpy(m->row[j->rank], j->all + j->rank * count, bytes);
    for (int k = 0; m->all && k < j->size; k++) memcpy(j->all + k * count, m->row[k], bytes);
    return PK_OK;
}

static float as_float(const struct scene *s, const void *p, int64_t i)
{
    uint32_t bits;
    float x;
    if (s->matrix.dtype == PK_F32) return ((const float *)p)[i];
    bits = (uint32_t)((const uint16_t *)p)[i] << 16;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void put(const struct scene *s, void *p, int64_t i, float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (s->matrix.dtype == PK_F32)
        ((float *)p)[i] = x;
    else
        ((uint16_t *)p)[i] = (uint16_t)((bits + 0x8000) >> 16);
}

static void fill(struct scene *s, enum fill how)
{
    for (int r = 0; r < RANKS; r++) {
        struct pk_rng rng = pk_rng_make(3, PK_RNG_TEST, (uint64_t)how, (uint64_t)r);
        for (int64_t i = 0; i < s->rows * s->cols; i++) {
            const float n = (float)pk_rng_normal(&rng), c = 1 + (float)(i % s->cols);
            const float x[] = {n + (float)r, 1000 + n, 0.7f * c, 3.0f * (float)r + 0.5f * c};
            put(s, s->rank[r].x, i, x[how]);
            put(s, s->rank[r].dy, i, (float)pk_rng_normal(&rng) + 0.3f * (float)r);
        }
    }
}

static void open_scene(struct scene *s, int64_t rows, int64_t cols, enum pk_dtype storage)
{
    const size_t bytes = (size_t)(rows * cols) * sizeof(float), row = (size_t)cols * sizeof(float);
    struct pk_err err = {0};
    *s = (struct scene){.rows = rows, .cols = cols};
    CHECK_OK(pk_cuda_open_queue(&s->q, &err), &err);
    s->matrix = (struct pk_value){.dtype = storage, .rank = 2, .dim = {rows, cols}};
    s->vector = (struct pk_value){.dtype = PK_F32, .rank = 1, .dim = {cols}};
    s->one = (struct pk_value){.dtype = PK_F32, .rank = 1, .dim = {1}};
    s->meeting.stream = s->q.stream;
    s->joined = (struct pk_joined){
        .size = RANKS, .all = device(RANKS * 2 * row), .gather = meet, .ctx = &s->meeting};
    for (int r = 0; r < RANKS; r++)
        s->rank[r] = (struct sides){device(bytes),   device(bytes),   device(bytes),  device(bytes),
                                    device(3 * row), device(3 * row), device(3 * row)};
    s->gain = device(row), s->bias = device(row), s->seed = device(sizeof(float));
    for (int64_t i = 0; i < cols; i++)
        s->gain[i] = 0.5f + (float)(i % 7), s->bias[i] = (float)(i % 5) - 2;
    *s->seed = 0.25f;
    // more than a workspace takes: a part for 256 rows, and one
    s->workspace = device((size_t)(rows / 256 + 3) * 2 * row);
}

static void close_scene(struct scene *s)
{
    for (int r = 0; r < RANKS; r++) {
        void *all[] = {s->rank[r].x,     s->rank[r].dy,    s->rank[r].y,    s->rank[r].dx,
                       s->rank[r].saved, s->rank[r].terms, s->rank[r].state};
        for (size_t i = 0; i < PK_COUNT(all); i++) cudaFree(all[i]);
    }
    void *all[] = {s->joined.all, s->gain, s->bias, s->seed, s->workspace};
    for (size_t i = 0; i < PK_COUNT(all); i++) cudaFree(all[i]);
    cudaStreamDestroy(s->q.stream);
}

/* One node at one rank, in training unless told. */
static void call(struct scene *s, int rank, enum pk_op op, bool train, bool want_dx)
{
    const struct sides *t = &s->rank[rank];
    const struct pk_node node = {.op = op,
                                 .attr.batchnorm = {.eps = 1e-5f, .train = train, .rows = s->rows}};
    struct pk_call c = {
        .node = &node, .workspace = s->workspace, .queue = &s->q, .joined = &s->joined};
    float *const saved[3] = {t->saved, t->saved + s->cols, t->saved + 2 * s->cols};
    struct pk_err err = {0};
    for (int k = 0; k < PK_NODE_IN; k++) c.in[k] = &s->vector;
    for (int k = 0; k < PK_NODE_OUT; k++) c.out[k] = &s->vector;
    s->joined.rank = rank;
    c.in[0] = &s->matrix;
    if (op == PK_OP_BATCHNORM) {
        const void *src[] = {t->x, s->gain, s->bias, s->bias, s->gain};
        void *dst[] = {t->y, saved[0], saved[1], saved[2]};
        memcpy(c.src, src, sizeof src);
        memcpy(c.dst, dst, sizeof dst);
    } else if (op == PK_OP_BATCHNORM_GRAD) {
        const void *src[] = {t->dy, t->x, s->gain, saved[0], saved[1]};
        void *dst[] = {want_dx ? t->dx : NULL, t->terms, t->terms + s->cols};
        c.in[1] = &s->matrix;
        memcpy(c.src, src, sizeof src);
        memcpy(c.dst, dst, sizeof dst);
    } else {
        const void *src[] = {saved[0], saved[2], s->seed};
        void *dst[] = {t->state, t->state + s->cols, t->state + 2 * s->cols};
        c.in[0] = &s->vector, c.in[2] = &s->one;
        memcpy(c.src, src, sizeof src);
        memcpy(c.dst, dst, sizeof dst);
    }
    CHECK_OK(pk_cuda_kernels[op](&c, &err), &err);
    CHECK(cudaStreamSynchronize(s->q.stream) == cudaSuccess);
}

static void call_all(struct scene *s, enum pk_op op)
{
    s->meeting.all = false, s->meeting.calls = 0;
    for (int turn = 0; turn < 2; turn++, s->meeting.all = true)
        for (int r = 0; r < RANKS; r++) call(s, r, op, true, true);
    CHECK(s->meeting.calls == (op == PK_OP_BATCHNORM_STATE ? 0 : 2 * RANKS));
}

struct sums { // of a channel
    double mean, var, dy, dyx, own_dy[RANKS], own_dyx[RANKS];
};

static void sum_up(const struct scene *s, int64_t i, struct sums *to)
{
    const double n = (double)(s->rows * RANKS);
    *to = (struct sums){0};
    for (int r = 0; r < RANKS; r++)
        for (int64_t k = i; k < s->rows * s->cols; k += s->cols)
            to->mean += (double)as_float(s, s->rank[r].x, k) / n;
    for (int r = 0; r < RANKS; r++)
        for (int64_t k = i; k < s->rows * s->cols; k += s->cols)
            to->var += pow((double)as_float(s, s->rank[r].x, k) - to->mean, 2) / n;
    for (int r = 0; r < RANKS; r++) { // with the statistics that the kernel was given
        const double mean = (double)s->rank[r].saved[i],
                     rstd = (double)s->rank[r].saved[s->cols + i];
        for (int64_t k = i; k < s->rows * s->cols; k += s->cols) {
            const double dy = (double)as_float(s, s->rank[r].dy, k);
            to->own_dy[r] += dy;
            to->own_dyx[r] += dy * ((double)as_float(s, s->rank[r].x, k) - mean) * rstd;
        }
        to->dy += to->own_dy[r], to->dyx += to->own_dyx[r];
    }
}

/* Largest distances from the sums in double: of the mean in units of it, of the variance ... */
struct far {
    double mean, var, y, dx, terms, state;
};

static double off(double got, double want, double unit)
{
    return fabs(got - want) / unit;
}

/* Outputs against what follows from the statistics that were found, those against the rows. */
static void compare(const struct scene *s, int64_t i, struct far *f)
{
    const double n = (double)(s->rows * RANKS), gain = (double)s->gain[i];
    struct sums want;
    sum_up(s, i, &want);
    const double rstd = 1 / sqrt(want.var + 1e-5), root = sqrt(n);
    for (int r = 0; r < RANKS; r++) {
        const struct sides *t = &s->rank[r];
        const float *mean = t->saved, *root_var = mean + s->cols, *var = root_var + s->cols;
        const double m = (double)mean[i], q = (double)root_var[i];
        f->mean = fmax(f->mean, off(m, want.mean, fabs(want.mean) + 0.01));
        f->var = fmax(f->var, off((double)var[i], want.var, want.var + 1e-5));
        f->var = fmax(f->var, off(q, rstd, rstd));
        for (int64_t k = i; k < s->rows * s->cols; k += s->cols) {
            const double xhat = ((double)as_float(s, t->x, k) - m) * q;
            const double y = xhat * gain + (double)s->bias[i];
            const double d = (double)as_float(s, t->dy, k) - want.dy / n - xhat * want.dyx / n;
            f->y = fmax(f->y, off((double)as_float(s, t->y, k), y, fabs(y) + gain));
            f->dx = fmax(f->dx, off((double)as_float(s, t->dx, k), gain * q * d, gain * q));
        }
        f->terms = fmax(f->terms, off((double)t->terms[i], want.own_dyx[r], root));
        f->terms = fmax(f->terms, off((double)t->terms[s->cols + i], want.own_dy[r], root));
        const double unbiased = 0.25 * n / (n - 1) * (double)var[i];
        f->state = fmax(f->state, off((double)t->state[i], 0.25 * m, fabs(m) + 1e-3));
        f->state = fmax(f->state, off((double)t->state[s->cols + i], unbiased, unbiased + 1e-9));
        CHECK(t->state[2 * s->cols] == 0.25f);
    }
}

static void test_case(int64_t rows, int64_t cols, enum fill how, enum pk_dtype storage)
{
    static const char *const name[] = {"normal", "shifted", "constant", "apart"};
    static struct scene s;
    struct far f = {0};
    open_scene(&s, rows, cols, storage);
    fill(&s, how);
    call_all(&s, PK_OP_BATCHNORM);
    for (int r = 1; r < RANKS; r++)
        CHECK(!memcmp(s.rank[r].saved, s.rank[0].saved, (size_t)(3 * cols) * sizeof(float)));
    call_all(&s, PK_OP_BATCHNORM_GRAD);
    call_all(&s, PK_OP_BATCHNORM_STATE);
    for (int64_t i = 0; i < cols; i++) compare(&s, i, &f);
    fprintf(stderr,
            "%lld x %lld, %s, %s: mean %.1e var %.1e y %.1e dx %.1e terms %.1e state %.1e\n",
            (long long)rows, (long long)cols, name[how], pk_dtype_name(storage), f.mean, f.var, f.y,
            f.dx, f.terms, f.state);
    const double stored = storage == PK_BF16 ? 0x1p-8 : 0;
    // a mean of 1,000 is rounded by 6e-5, which its distance from another rank's is off by; the
    // mean square less the squared mean would be off by 6e-2
    CHECK(f.mean < 1e-6 && f.var < (how == SHIFTED || how == CONSTANT ? 2e-4 : 2e-6));
    CHECK(f.y < 4e-6 + stored && f.dx < 1e-5 + 8 * stored);
    CHECK(f.terms < 1e-4 && f.state < 1e-6);
    s.meeting.calls = 0; // nothing to be asked of the others
    call(&s, 1, PK_OP_BATCHNORM_GRAD, true, false);
    call(&s, 1, PK_OP_BATCHNORM_GRAD, false, true);
    call(&s, 1, PK_OP_BATCHNORM, false, true);
    CHECK(s.meeting.calls == 0);
    close_scene(&s);
}

int main(void)
{
    static const int64_t shape[][2] = {{2, 1}, {40, 7}, {63, 33}, {300, 100}, {2600, 9}, {257, 64}};
    for (size_t k = 0; k < PK_COUNT(shape); k++)
        for (int how = 0; how < FILLS; how++)
            for (int low = 0; low < 2; low++)
                test_case(shape[k][0], shape[k][1], (enum fill)how, low ? PK_BF16 : PK_F32);
    return TEST_END();
}
