/* bind.c -- dividing cores among ranks (see bind.h); topology from /sys. */
#define _GNU_SOURCE // cpu_set_t
#include "tools/bind.h"

#include "core/rendezvous.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum { NODES = 256 };

struct pk_core {
    int number;              // of the logical core
    int node, package, core; // where it sits; hyperthreads share all three
};

/* The number in a file of /sys, or `otherwise`. */
static int read_number(int otherwise, const char *path)
{
    int n = otherwise;
    FILE *f = fopen(path, "r");
    if (f && fscanf(f, "%d", &n) != 1) n = otherwise;
    if (f) fclose(f);
    return n;
}

static int node_of(int cpu)
{
    char path[128];
    for (int node = 0; node < NODES; node++) {
        snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpu%d", node, cpu);
        if (pk_exists(path)) return node;
    }
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const struct pk_core *x = a, *y = b;
    if (x->node != y->node) return x->node - y->node;
    if (x->package != y->package) return x->package - y->package;
    if (x->core != y->core) return x->core - y->core;
    return x->number - y->number;
}

enum pk_status pk_bind_open(struct pk_bind_plan *out, const char *mode, int ranks,
                            struct pk_err *err)
{
    static const char *const modes[] = {"none", "core", "numa"};
    cpu_set_t mine;
    *out = (struct pk_bind_plan){.ranks = ranks};
    while (mode && out->bind <= PK_BIND_NUMA && strcmp(mode, modes[out->bind]) != 0) out->bind++;
    if (out->bind > PK_BIND_NUMA)
        return pk_fail(err, PK_EUSAGE, "--bind %s: none, core or numa was expected", mode);
    if (sched_getaffinity(0, sizeof mine, &mine) != 0)
        return pk_fail_errno(err, PK_EMISSING, "cannot find out which cores this process may use");
    PK_TRY(pk_alloc(&out->core, (size_t)CPU_COUNT(&mine), sizeof *out->core, "cores", err));
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        char path[128];
        if (!CPU_ISSET(cpu, &mine)) continue;
        struct pk_core *c = &out->core[out->cores++];
        *c = (struct pk_core){.number = cpu, .node = node_of(cpu)};
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/physical_package_id",
                 cpu);
        c->package = read_number(0, path);
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/core_id", cpu);
        c->core = read_number(cpu, path);
    }
    qsort(out->core, (size_t)out->cores, sizeof *out->core, by_place);
    for (int i = 0; i < out->cores; i++)
        out->nodes += i == 0 || out->core[i].node != out->core[i - 1].node;
    return PK_OK;
}

/* The cores [*first, *end) of a rank; all of them where it is bound to none. */
static void share(const struct pk_bind_plan *b, int rank, int *first, int *end)
{
    *first = 0;
    *end = b->cores;
    if (b->bind == PK_BIND_CORE && b->cores >= b->ranks) {
        *first = (int)((int64_t)rank * b->cores / b->ranks);
        *end = (int)((int64_t)(rank + 1) * b->cores / b->ranks);
    } else if (b->bind == PK_BIND_CORE) { // more ranks than cores: they take turns
        *first = rank % b->cores;
        *end = *first + 1;
    } else if (b->bind == PK_BIND_NUMA) {
        int wanted = b->ranks > b->nodes ? (int)((int64_t)rank * b->nodes / b->ranks) : rank;
        for (int i = 0, n = -1; i < b->cores; i++) {
            if (i == 0 || b->core[i].node != b->core[i - 1].node) n++;
            if (n < wanted) *first = i + 1;
            if (n <= wanted) *end = i + 1;
        }
    }
}

bool pk_bind_apply(const struct pk_bind_plan *b, int rank)
{
    int first, end;
    cpu_set_t set;
    if (b->bind == PK_BIND_NONE) return true;
    share(b, rank, &first, &end);
    CPU_ZERO(&set);
    for (int i = first; i < end; i++) CPU_SET(b->core[i].number, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0;
}

void pk_bind_text(const struct pk_bind_plan *b, int rank, char *text, size_t size)
{
    int first, end;
    bool core[CPU_SETSIZE] = {false}, node[NODES] = {false};
    char cores[256], nodes[64];
    share(b, rank, &first, &end);
    for (int i = first; i < end; i++) {
        core[b->core[i].number] = true;
        node[b->core[i].node] = true;
    }
    pk_rank_list(cores, sizeof cores, core, CPU_SETSIZE);
    pk_rank_list(nodes, sizeof nodes, node, NODES);
    snprintf(text, size, "core%s %s, NUMA node %s", end - first > 1 ? "s" : "", cores, nodes);
}

int pk_bind_threads(const struct pk_bind_plan *b, int rank)
{
    int first, end, same = 0;
    share(b, rank, &first, &end);
    for (int r = 0; r < b->ranks; r++) { // how many ranks share these cores
        int f, e;
        share(b, r, &f, &e);
        same += f == first;
    }
    return PK_MAX((end - first) / PK_MAX(same, 1), 1);
}

void pk_bind_free(struct pk_bind_plan *b)
{
    free(b->core);
    b->core = NULL;
}
