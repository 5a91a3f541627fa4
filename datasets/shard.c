/* shard.c -- the columns of a shard in memory (see shard.h). */
#include "datasets/shard.h"

#include <stdlib.h>

int32_t pk_shard_padded(int32_t leads, int32_t samples)
{
    int32_t unit = 8; // samples; 16 bytes
    while ((int64_t)unit * leads * 2 % PK_SHARD_ALIGN) unit *= 2;
    if (samples > 2048 && leads % 4 == 0) unit = 2560;
    return (samples + unit - 1) / unit * unit;
}

enum pk_status pk_shard_alloc(struct pk_shard *s, struct pk_err *err)
{
    const struct pk_corpus_spec *spec = s->spec;
    size_t n = (size_t)s->count;
    enum pk_status st = pk_alloc(&s->record, n, sizeof *s->record, "shard columns", err);
    if (st == PK_OK) st = pk_alloc(&s->id, n, sizeof *s->id, "record identifiers", err);
    if (st == PK_OK)
        st = pk_alloc(&s->label, (size_t)spec->tasks, sizeof *s->label, "shard labels", err);
    if (st == PK_OK)
        st = pk_alloc(&s->target, (size_t)spec->targets, sizeof *s->target, "shard targets", err);
    for (int32_t t = 0; t < spec->tasks && st == PK_OK; t++)
        st = pk_alloc(&s->label[t], n, (size_t)spec->task[t].classes, "shard labels", err);
    for (int32_t t = 0; t < spec->targets && st == PK_OK; t++)
        st = pk_alloc(&s->target[t], n, sizeof(float), "shard targets", err);
    if (st != PK_OK) pk_shard_free(s);
    return st;
}

void pk_shard_free(struct pk_shard *s)
{
    for (int32_t t = 0; s->label && t < s->spec->tasks; t++) free(s->label[t]);
    for (int32_t t = 0; s->target && t < s->spec->targets; t++) free(s->target[t]);
    free(s->label);
    free(s->target);
    free(s->record);
    free(s->id);
    free(s->statements);
    s->label = NULL;
    s->target = NULL;
    s->record = NULL;
    s->id = NULL;
    s->statements = NULL;
}
