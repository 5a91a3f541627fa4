/* gradcache.c -- a loss over a whole batch, micro-batch by micro-batch (see gradcache.h). */
#include "tools/gradcache.h"

#include <stdlib.h>
#include <string.h>

enum { FEEDS = 16, FETCHES = 8 };

enum pk_status pk_gradcache_create(struct pk_gradcache *out, const struct pk_gradcache *spec,
                                   struct pk_err *err)
{
    const size_t count = (size_t)(spec->records * spec->micros * spec->width);
    enum pk_status s;
    *out = *spec;
    out->projected = out->gradient = out->key = NULL;
    s = pk_alloc_aligned(&out->projected, count, sizeof(float), "projections", err);
    if (s == PK_OK)
        s = pk_alloc_aligned(&out->gradient, count, sizeof(float), "their gradients", err);
    if (s == PK_OK && spec->keys)
        s = pk_alloc_aligned(&out->key, count, sizeof(float), "keys", err);
    if (s != PK_OK) pk_gradcache_free(out);
    return s;
}

void pk_gradcache_free(struct pk_gradcache *g)
{
    free(g->projected);
    free(g->gradient);
    free(g->key);
    g->projected = g->gradient = g->key = NULL;
}

static enum pk_status embed(struct pk_gradcache *g, const struct pk_feed *feed, int feeds,
                            const struct pk_fetch *fetch, int fetches, struct pk_err *err)
{
    struct pk_fetch out[FETCHES];
    struct pk_exec_batch run = {
        .feed = feed, .feeds = feeds, .fetch = out, .micros = g->micros, .loss_scale = 1};
    if (fetches > FETCHES - 2)
        return pk_fail(err, PK_EINTERNAL, "%d outputs of an embedding program are asked for",
                       fetches);
    for (int i = 0; i < fetches; i++) out[run.fetches++] = fetch[i];
    out[run.fetches++] = (struct pk_fetch){"projected", g->projected};
    if (g->keys) out[run.fetches++] = (struct pk_fetch){"key", g->key};
    return pk_exec_run(g->x, g->embed, &run, err);
}

static enum pk_status lose(struct pk_gradcache *g, const int64_t *group, bool add, double *loss,
                           struct pk_err *err)
{
    float value;
    const struct pk_feed feed[] = {
        {"projected", g->projected, 0}, {"group", group, 0}, {"key", g->key, 0}};
    const struct pk_fetch fetch[] = {{"d_projected", g->gradient}, {"loss", &value}};
    const struct pk_exec_batch run = {.feed = feed,
                                      .feeds = g->keys ? 3 : 2,
                                      .fetch = fetch,
                                      .fetches = 2,
                                      .micros = 1,
                                      .loss_scale = 1,
                                      .add = add};
    PK_TRY(pk_exec_run(g->x, g->loss, &run, err));
    if (loss) *loss = (double)value;
    return PK_OK;
}

enum pk_status pk_gradcache_run(struct pk_gradcache *g, const struct pk_feed *feed, int feeds,
                                const int64_t *group, const struct pk_fetch *fetch, int fetches,
                                bool add, double *loss, struct pk_err *err)
{
    struct pk_feed in[FEEDS];
    if (feeds > FEEDS - 1)
        return pk_fail(err, PK_EINTERNAL, "%d inputs of an embedding program", feeds);
    PK_TRY(embed(g, feed, feeds, fetch, fetches, err));
    PK_TRY(lose(g, group, add, loss, err)); // also clears the gradient arena, unless it adds
    memcpy(in, feed, (size_t)feeds * sizeof *in);
    in[feeds] = (struct pk_feed){"d_projected", g->gradient,
                                 (size_t)(g->records * g->width) * sizeof(float)};
    const struct pk_exec_batch run = {
        .feed = in, .feeds = feeds + 1, .micros = g->micros, .loss_scale = 1, .add = true};
    return pk_exec_run(g->x, g->back, &run, err);
}
