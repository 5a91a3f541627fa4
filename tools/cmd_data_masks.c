/* cmd_data_masks.c -- purkinje data masks: the masks that pretraining would draw, for statistics
 * and for comparing against other implementations. */
#include "core/mask.h"
#include "core/npy.h"
#include "tools/cli.h"

#include <stdlib.h>

#define BYTES_MAX ((int64_t)1 << 30) // of the array

struct request {
    int64_t tokens, keep, min_block, seed, first, count;
};

/* visible[count, tokens]: 1 where the token stays. */
static enum pk_status draw(const struct request *q, uint8_t *visible, struct pk_err *err)
{
    int32_t *kept, *hidden;
    PK_TRY(pk_alloc(&kept, (size_t)q->tokens * 2, sizeof *kept, "token lists", err));
    hidden = kept + q->tokens;
    for (int64_t i = 0; i < q->count; i++) {
        pk_mask_sample((uint64_t)q->seed, (uint64_t)(q->first + i), (int32_t)q->tokens,
                       (int32_t)q->keep, (int32_t)q->min_block, kept, hidden);
        for (int64_t k = 0; k < q->keep; k++) visible[i * q->tokens + kept[k]] = 1;
    }
    free(kept);
    return PK_OK;
}

static enum pk_status print(const struct request *q, const uint8_t *visible, struct pk_err *err)
{
    for (int64_t i = 0; i < q->count; i++) {
        for (int64_t t = 0; t < q->tokens; t++) putchar(visible[i * q->tokens + t] ? '#' : '.');
        putchar('\n');
    }
    return ferror(stdout) ? pk_fail_errno(err, PK_EWRITE, "standard output") : PK_OK;
}

static enum pk_status run(const struct pk_args *args, struct pk_err *err)
{
    struct request q = {.tokens = 200, .keep = 40, .min_block = 10, .count = 8};
    uint8_t *visible;
    if (args->count) return pk_fail(err, PK_EUSAGE, "data masks takes options only");
    PK_TRY(pk_arg_i64(args, "tokens", 1, PK_MASK_TOKENS_MAX, &q.tokens, err));
    PK_TRY(pk_arg_i64(args, "keep", 0, PK_MASK_TOKENS_MAX, &q.keep, err));
    PK_TRY(pk_arg_i64(args, "min-block", 1, PK_MASK_TOKENS_MAX, &q.min_block, err));
    PK_TRY(pk_arg_i64(args, "seed", 0, INT64_MAX, &q.seed, err));
    PK_TRY(pk_arg_i64(args, "first", 0, (int64_t)1 << 55, &q.first, err));
    PK_TRY(pk_arg_i64(args, "count", 1, BYTES_MAX, &q.count, err));
    PK_TRY(pk_mask_check((int32_t)q.tokens, (int32_t)q.keep, (int32_t)q.min_block, err));
    if (q.count > BYTES_MAX / q.tokens)
        return pk_fail(err, PK_EUSAGE,
                       "%lld masks of %lld tokens are over 1 GiB: give --count %lld",
                       (long long)q.count, (long long)q.tokens, (long long)(BYTES_MAX / q.tokens));
    PK_TRY(pk_alloc(&visible, (size_t)q.count, (size_t)q.tokens, "masks", err));
    const char *path = pk_arg(args, "npy");
    enum pk_status s = draw(&q, visible, err);
    if (s == PK_OK && path)
        s = pk_npy_save(path, PK_NPY_U8, 2, (int64_t[]){q.count, q.tokens}, visible, err);
    else if (s == PK_OK)
        s = print(&q, visible, err);
    free(visible);
    return s;
}

static const struct pk_option options[] = {
    {"tokens", "N", "tokens of a record (200)"},
    {"keep", "N", "tokens that stay visible (40)"},
    {"min-block", "N", "shortest hidden block (10)"},
    {"seed", "S", "seed of the run (0)"},
    {"first", "N", "first sample number (0)"},
    {"count", "N", "samples (8)"},
    {"npy", "FILE", "write [samples, tokens] as uint8, 1 = visible, instead of printing"},
    {0}};

static const struct pk_example examples[] = {
    {"data masks --count 4", "prints four masks, # visible and . hidden"},
    {"data masks --tokens 200 --keep 40 --min-block 10 --seed 1 --count 1000 --npy masks.npy",
     "writes a thousand masks for NumPy"},
    {0}};

const struct pk_command pk_cmd_data_masks = {
    .name = "data masks",
    .synopsis = "",
    .summary = "the multi-block masks of pretraining",
    .details = "The mask of a sample depends on the seed and the sample's number alone. Tokens "
               "are hidden in blocks until only --keep are left (core/mask.h has the rule).",
    .options = options,
    .examples = examples,
    .run = run};
