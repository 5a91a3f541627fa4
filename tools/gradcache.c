/* gradcache.c -- a loss over a whole batch, micro-batch by micro-batch (see gradcache.h). */
#include "tools/gradcache.h"

#include <string.h>

enum { FEEDS = 16, FETCHES = 8 };

enum pk_status pk_gradcache_create(struct pk_gradcache *out, const struct pk_gradcache *spec,
                                   struct pk_err *err)
{
    const int64_t count = spec->records * spec->micros * spec->width;
    enum pk_status s;
    *out = *spec;
    out->projected = out->gradient = out->key = (struct pk_exec_rows){0};
    s = pk_exec_rows(out->x, &out->projected, count, "projections", err);
    if (s == PK_OK) s = pk_exec_rows(out->x, &out->gradient, count, "their gradients", err);
    if (s == PK_OK && spec->keys) s = pk_exec_rows(out->x, &out->key, count, "keys", err);
    if (s != PK_OK) pk_gradcache_free(out);
    return s;
}

void pk_gradcache_free(struct pk_gradcache *g)
{
    pk_exec_rows_free(g->x, &g->projected);
    pk_exec_rows_free(g->x, &g->gradient);
    pk_exec_rows_free(g->x, &g->key);
}

static int64_t ranks(const struct pk_gradcache *g)
{
    return g->x->comm ? g->x->comm->size : 1;
}

/* Numbers of this rank's rows, and the first of them. */
static int64_t own_count(const struct pk_gradcache *g)
{
    return g->micros / ranks(g) * g->records * g->width;
}

static int64_t own(const struct pk_gradcache *g)
{
    return g->x->comm ? g->x->comm->rank * own_count(g) : 0;
}

/* Rows [records * micros, width], of which each rank has its own, become complete. */
static enum pk_status gather(const struct pk_gradcache *g, const struct pk_exec_rows *rows,
                             struct pk_err *err)
{
    if (!g->x->comm) return PK_OK;
    pk_heartbeat_at(g->heartbeat, g->step, "gathering projections");
    PK_TRY(pk_exec_rows_gather(g->x, rows, err));
    pk_heartbeat_at(g->heartbeat, g->step, "computing");
    return PK_OK;
}

static enum pk_status embed(struct pk_gradcache *g, const struct pk_exec_batch *run,
                            struct pk_err *err)
{
    struct pk_fetch out[FETCHES];
    struct pk_exec_batch forward = *run;
    if (run->fetches > FETCHES - 2)
        return pk_fail(err, PK_EINTERNAL, "%d outputs of an embedding program are asked for",
                       run->fetches);
    for (int i = 0; i < run->fetches; i++) out[i] = run->fetch[i];
    forward.fetch = out;
    forward.micros = g->micros / ranks(g);
    forward.loss_scale = 1;
    forward.add = false;
    out[forward.fetches++] = (struct pk_fetch){"projected", g->projected.data + own(g)};
    if (g->keys) out[forward.fetches++] = (struct pk_fetch){"key", g->key.data + own(g)};
    PK_TRY(pk_exec_run(g->x, g->embed, &forward, err));
    PK_TRY(gather(g, &g->projected, err));
    return g->keys ? gather(g, &g->key, err) : PK_OK;
}

static enum pk_status lose(struct pk_gradcache *g, const int64_t *group,
                           const struct pk_exec_batch *run, double *loss, struct pk_err *err)
{
    float value = 0;
    const struct pk_feed feed[] = {
        {"projected", g->projected.data, 0}, {"group", group, 0}, {"key", g->key.data, 0}};
    const struct pk_fetch fetch[] = {{"d_projected", g->gradient.data}, {"loss", &value}};
    const struct pk_exec_batch once = {.feed = feed,
                                       .feeds = g->keys ? 3 : 2,
                                       .fetch = fetch,
                                       .fetches = loss ? 2 : 1,
                                       .micros = 1,
                                       .loss_scale = run->loss_scale,
                                       .add = run->add,
                                       .more = true,
                                       .shared = true};
    pk_heartbeat_at(g->heartbeat, g->step, "comparing projections");
    PK_TRY(pk_exec_run(g->x, g->loss, &once, err));
    pk_heartbeat_at(g->heartbeat, g->step, "computing");
    if (loss) *loss = (double)value;
    return PK_OK;
}

/* The third program's scale is a micro-batch's share of the step, as everywhere, since running
 * statistics are moved by it. The gradient of the loss is already the whole batch's: it is raised
 * by what that share will take away. */
static enum pk_status back(struct pk_gradcache *g, const struct pk_exec_batch *run,
                           struct pk_err *err)
{
    struct pk_feed in[FEEDS];
    struct pk_exec_batch again = *run;
    const float raise = (float)((double)g->micros / run->loss_scale);
    PK_TRY(pk_exec_rows_scale(g->x, &g->gradient, own(g), own_count(g), raise, err));
    memcpy(in, run->feed, (size_t)run->feeds * sizeof *in);
    in[run->feeds] = (struct pk_feed){"d_projected", g->gradient.data + own(g),
                                      (size_t)(g->records * g->width) * sizeof(float)};
    again.feed = in;
    again.feeds = run->feeds + 1;
    again.fetch = NULL;
    again.fetches = 0;
    again.micros = g->micros / ranks(g);
    again.loss_scale = run->loss_scale / (double)g->micros;
    again.add = true;
    return pk_exec_run(g->x, g->back, &again, err);
}

enum pk_status pk_gradcache_run(struct pk_gradcache *g, const struct pk_exec_batch *run,
                                const int64_t *group, double *loss, struct pk_err *err)
{
    if (run->feeds > FEEDS - 1)
        return pk_fail(err, PK_EINTERNAL, "%d inputs of an embedding program", run->feeds);
    PK_TRY(embed(g, run, err));
    PK_TRY(lose(g, group, run, loss, err)); // also clears the gradient arena, unless it adds
    return back(g, run, err);
}
