/* test_buckets.c -- the buckets of gradients that ranks on GPUs send: every gradient is in one,
 * none is touched after its bucket has left, and most leave before the end. Then what travels and
 * what is compared: bf16 and back, and the hash of replicas. */
#include "core/ops.h"
#include "cuda/state.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>

enum { ROWS = 6, COLS = 32, DEPTH = 5 };

/* A stack of layers whose first weight is also its last, and is read three times. */
static enum pk_status build(struct pk_prog *p, struct pk_params *params, struct pk_err *err)
{
    struct pk_build *b;
    PK_TRY(pk_build_begin(&b, p, params, err));
    struct pk_val x = pk_input(b, "x", PK_F32, 2, (int64_t[]){ROWS, COLS});
    struct pk_val target = pk_input(b, "target", PK_F32, 2, (int64_t[]){ROWS, COLS});
    struct pk_val h = pk_linear_bias(b, x, COLS, "tied");
    for (int i = 0; i < DEPTH; i++) {
        char name[24], norm[24];
        snprintf(name, sizeof name, "layer%d", i);
        snprintf(norm, sizeof norm, "norm%d", i);
        h = pk_layernorm(b, pk_linear_bias(b, h, COLS, name), 1e-6f, norm);
    }
    pk_loss(b, pk_l1_loss(b, pk_linear_bias(b, h, COLS, "tied"), target));
    return pk_build_finish(b, err);
}

/* The part whose ranges hold this element, -1 for none, -2 for several. */
static int part_of(const struct pk_cuda_part *part, int32_t parts, int64_t element)
{
    int found = -1;
    for (int32_t k = 0; k < parts; k++)
        for (int32_t i = 0; i < part[k].ranges; i++) {
            const struct pk_cuda_range r = part[k].range[i];
            if (element < r.first || element >= r.first + r.count) continue;
            found = found == -1 ? k : -2;
        }
    return found;
}

static void check_node(const struct pk_prog *p, const struct pk_cuda_part *part, int32_t parts,
                       int64_t node, int32_t value)
{
    if (value < 0 || p->value[value].storage != PK_STORE_GRAD) return;
    const struct pk_param *w = &p->params->item[p->value[value].param];
    for (int64_t i = 0; i < w->count; i++) {
        const int k = part_of(part, parts, w->offset + i);
        if (!(k >= 0 && node < part[k].end)) {
            fprintf(stderr, "node %lld touches %s, which is in part %d\n", (long long)node, w->name,
                    k);
            CHECK(k >= 0 && node < part[k].end);
            return;
        }
    }
}

static void test_parts(int ranks)
{
    struct pk_params params = {0};
    struct pk_prog p;
    struct pk_err err = {0};
    struct pk_comm comm = {.size = ranks};
    struct pk_exec x = {.params = &params, .comm = ranks > 1 ? &comm : NULL};
    struct pk_cuda_part *part = NULL;
    int32_t parts = 0;
    CHECK_OK(build(&p, &params, &err), &err);
    CHECK_OK(pk_cuda_parts(&x, &p, &part, &parts, &err), &err);
    CHECK(parts == (ranks > 1 ? PK_CUDA_BUCKETS : 1));
    CHECK(part[parts - 1].end == p.nodes);
    if (ranks == 1) CHECK(part[0].ranges == 0); // nothing leaves
    for (int32_t k = 1; k < parts; k++) CHECK(part[k].end >= part[k - 1].end);
    if (ranks > 1) CHECK(part[0].end < p.nodes - 5); // the first leaves long before the end
    for (int64_t n = 0; ranks > 1 && n < p.nodes; n++) {
        for (int i = 0; i < p.node[n].n_in; i++) check_node(&p, part, parts, n, p.node[n].in[i]);
        for (int i = 0; i < p.node[n].n_out; i++) check_node(&p, part, parts, n, p.node[n].out[i]);
    }
    pk_cuda_free_parts(part, parts);
    pk_prog_free(&p);
    pk_params_free(&params);
}

static void test_widen(void)
{
    enum { COUNT = 1031 }; // the last vector partly filled
    struct pk_queue q = {0};
    struct pk_err err = {0};
    float *x = NULL, *y = NULL;
    void *low = NULL;
    CHECK(cudaMalloc((void **)&x, COUNT * sizeof *x) == cudaSuccess);
    CHECK(cudaMalloc((void **)&y, COUNT * sizeof *y) == cudaSuccess);
    CHECK(cudaMalloc(&low, COUNT * 2) == cudaSuccess);
    for (int i = 0; i < COUNT; i++) x[i] = sinf((float)i) * ldexpf(1, i % 60 - 30);
    CHECK_OK(pk_cuda_cast(&q, low, x, COUNT, &err), &err);
    CHECK_OK(pk_cuda_widen(&q, y, low, COUNT, &err), &err);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    for (int i = 0; i < COUNT; i++) {
        CHECK(fabsf(y[i] - x[i]) <= ldexpf(fabsf(x[i]), -8));
        uint32_t bits;
        memcpy(&bits, &y[i], sizeof bits);
        CHECK((bits & 0xffff) == 0);
    }
    cudaFree(x);
    cudaFree(y);
    cudaFree(low);
}

static uint64_t hash_of(const float *x, int64_t count, uint64_t arena)
{
    struct pk_queue q = {0};
    struct pk_err err = {0};
    uint64_t *sum = NULL, out = 0;
    CHECK(cudaMalloc((void **)&sum, sizeof *sum) == cudaSuccess);
    CHECK(cudaMemset(sum, 0, sizeof *sum) == cudaSuccess);
    CHECK_OK(pk_cuda_add_hash(&q, sum, x, count, arena, &err), &err);
    CHECK(cudaMemcpy(&out, sum, sizeof out, cudaMemcpyDeviceToHost) == cudaSuccess);
    cudaFree(sum);
    return out;
}

static void test_hash(void)
{
    enum { COUNT = 777, FLIPS = 100 };
    float *x = NULL;
    CHECK(cudaMalloc((void **)&x, COUNT * sizeof *x) == cudaSuccess);
    for (int i = 0; i < COUNT; i++) x[i] = cosf((float)i);
    const uint64_t right = hash_of(x, COUNT, 1);
    CHECK(hash_of(x, COUNT, 1) == right); // in another order of blocks and threads
    CHECK(hash_of(x, COUNT, 2) != right);
    CHECK(hash_of(x, COUNT - 1, 1) != right);
    for (int i = 0; i < FLIPS; i++) {
        uint32_t bits;
        float *at = &x[i * 31 % COUNT];
        const float kept = *at;
        memcpy(&bits, at, sizeof bits);
        bits ^= 1u << i % 32;
        memcpy(at, &bits, sizeof bits);
        CHECK(hash_of(x, COUNT, 1) != right);
        *at = kept;
    }
    const float first = x[0]; // the same words elsewhere
    x[0] = x[1];
    x[1] = first;
    CHECK(hash_of(x, COUNT, 1) != right);
    cudaFree(x);
}

int main(void)
{
    test_parts(1);
    test_parts(2);
    test_widen();
    test_hash();
    return TEST_END();
}
