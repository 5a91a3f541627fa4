/* scaling.c -- a model of data-parallel steps (see scaling.h). */
#include "core/scaling.h"

#include <stdlib.h>

/* --- links ----------------------------------------------------------------------------------- */

struct shape {
    double inside, between; // share of a rank's bytes that a reduce-scatter sends on each link
    double doublings;       // ceil(log2 nodes)
};

static struct shape shape_of(const struct pk_scaling_net *net, int64_t n)
{
    const int64_t g = PK_MIN(n, net->gpus_per_node), m = n / g;
    struct shape s = {.inside = (double)(g - 1) / (double)g,
                      .between = (double)(m - 1) / (double)m / (double)g};
    for (int64_t i = 1; i < m; i *= 2) s.doublings++;
    return s;
}

/* Half of an all-reduce: scattering sums, or gathering parts, each over both links. */
static double half_seconds(const struct pk_scaling_net *net, int64_t n, double bytes)
{
    const struct shape s = shape_of(net, n);
    double t = 0;
    if (s.inside > 0) t += net->latency / 2 + bytes * s.inside / net->bandwidth;
    if (s.between > 0)
        t += net->net_latency * s.doublings / 2 + bytes * s.between / net->net_bandwidth;
    return t;
}

double pk_scaling_allreduce(const struct pk_scaling_net *net, int64_t n, double bytes)
{
    return 2 * half_seconds(net, n, bytes);
}

/* --- gradients and buckets ------------------------------------------------------------------- */

static int by_ready(const void *a, const void *b)
{
    const struct pk_scaling_gradient *x = a, *y = b;
    if (x->node != y->node) return x->node < y->node ? -1 : 1;
    return x->param < y->param ? -1 : x->param > y->param; // all ranks sort alike
}

static void touch(struct pk_scaling_gradient *g, const struct pk_prog *p, int64_t k, int32_t v,
                  double now)
{
    if (v < 0 || p->value[v].storage != PK_STORE_GRAD) return;
    const int32_t w = p->value[v].param;
    g[w] = (struct pk_scaling_gradient){
        .ready = now, .elements = p->params->item[w].count, .param = w, .node = k};
}

enum pk_status pk_scaling_gradients(struct pk_scaling_gradient **out, int64_t *count,
                                    const struct pk_prog *p, const double *seconds,
                                    struct pk_err *err)
{
    double now = 0;
    int64_t n = 0;
    *out = NULL;
    *count = 0;
    const int64_t params = p->params->count;
    PK_TRY(pk_alloc(out, (size_t)params, sizeof **out, "gradients", err));
    for (int64_t k = 0; k < p->nodes; k++) {
        now += seconds ? seconds[k] : 1;
        for (int i = 0; i < p->node[k].n_in; i++) touch(*out, p, k, p->node[k].in[i], now);
        for (int i = 0; i < p->node[k].n_out; i++) touch(*out, p, k, p->node[k].out[i], now);
    }
    for (int64_t i = 0; i < params; i++)
        if ((*out)[i].elements > 0) (*out)[n++] = (*out)[i];
    if (!n) {
        free(*out);
        *out = NULL;
        return pk_fail(err, PK_EINVAL, "the program writes no gradient: there is nothing to send");
    }
    qsort(*out, (size_t)n, sizeof **out, by_ready);
    *count = n;
    return PK_OK;
}

int32_t pk_scaling_pack(struct pk_scaling_bucket *out, int32_t want,
                        const struct pk_scaling_gradient *g, int64_t count)
{
    int64_t total = 0, packed = 0;
    int32_t n = 0;
    for (int64_t i = 0; i < count; i++) total += g[i].elements;
    for (int64_t i = 0; i < count; i++) {
        if (!n || packed * want >= total * n) out[n++] = (struct pk_scaling_bucket){0};
        out[n - 1].elements += g[i].elements;
        out[n - 1].ready = g[i].ready;
        out[n - 1].gradients++;
        packed += g[i].elements;
    }
    return n;
}

/* --- the step -------------------------------------------------------------------------------- */

struct clock {
    double now;  // of the computing stream
    double done; // computed so far, in seconds of undisturbed computing
    double busy; // until when the second stream sends
};

/* Computes until `work` is done; what is sent meanwhile slows it. */
static void compute_until(struct clock *c, double work, double slowdown)
{
    double left = PK_MAX(work - c->done, 0.0);
    c->done += left;
    if (c->busy > c->now) {
        const double meanwhile = (c->busy - c->now) / slowdown;
        if (left <= meanwhile) {
            c->now += left * slowdown;
            return;
        }
        left -= meanwhile;
        c->now = c->busy;
    }
    c->now += left;
}

static enum pk_status check(const struct pk_scaling_step *s, const struct pk_scaling_net *net,
                            int64_t n, struct pk_err *err)
{
    if (n < 1 || net->gpus_per_node < 1 || (n > net->gpus_per_node && n % net->gpus_per_node))
        return pk_fail(err, PK_EINVAL, "%lld ranks do not fill nodes of %lld GPUs", (long long)n,
                       (long long)net->gpus_per_node);
    if (!(net->latency >= 0 && net->net_latency >= 0 && net->bandwidth > 0 &&
          net->net_bandwidth > 0))
        return pk_fail(err, PK_EINVAL, "a link needs a latency of 0 or more and a bandwidth");
    if (!(s->run_seconds > 0 && s->optimizer_seconds >= 0 && s->slowdown >= 1) || s->runs < 1 ||
        s->buckets < 1)
        return pk_fail(err, PK_EINVAL,
                       "a step needs time, runs, buckets and a slow-down of 1 "
                       "or more");
    return PK_OK;
}

enum pk_status pk_scaling_simulate(struct pk_scaling_result *out, const struct pk_scaling_step *s,
                                   const struct pk_scaling_net *net, int64_t n, struct pk_err *err)
{
    PK_TRY(check(s, net, n, err));
    const struct shape shape = shape_of(net, n);
    const double before = (double)(s->runs - 1) * s->run_seconds;
    const double work = before + s->run_seconds;
    double elements = 0, sent = 0;
    struct clock c = {0};
    const double gather =
        s->gathers ? s->gathers * half_seconds(net, n, s->gather_bytes / s->gathers) : 0;
    *out = (struct pk_scaling_result){.alone = s->before_seconds + work + s->optimizer_seconds,
                                      .comm = gather};
    for (int32_t i = 0; i < s->buckets; i++) {
        const double bytes = (double)s->bucket[i].elements * s->element_bytes;
        const double cost = (s->zero1 ? 1 : 2) * half_seconds(net, n, bytes);
        compute_until(&c, before + s->bucket[i].ready, s->slowdown);
        c.busy = PK_MAX(c.busy, c.now) + cost;
        out->comm += cost;
        sent += (s->zero1 ? 1 : 2) * bytes;
        elements += (double)s->bucket[i].elements;
    }
    compute_until(&c, work, s->slowdown);
    out->step = s->before_seconds + gather + PK_MAX(c.now, c.busy);
    sent += s->gather_bytes;
    if (s->zero1 && n > 1) { // the norm of all gradients, then the update, then the weights
        const double norm = pk_scaling_allreduce(net, n, sizeof(float));
        const double gather = half_seconds(net, n, elements * s->weight_bytes);
        out->step += norm + s->optimizer_seconds / (double)n + gather;
        out->comm += norm + gather;
        sent += elements * s->weight_bytes + 2 * sizeof(float);
    } else {
        out->step += s->optimizer_seconds;
    }
    const double own = s->optimizer_seconds / (s->zero1 ? (double)n : 1.0);
    // not the rounding of the sums
    out->exposed = PK_MAX(out->step - s->before_seconds - work - own, 0.0);
    out->inside = sent * shape.inside;
    out->between = sent * shape.between;
    return PK_OK;
}
