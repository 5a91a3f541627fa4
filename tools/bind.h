/* bind.h -- which cores a rank computes on.
 *
 * none   wherever the system puts it
 * core   a share of this process's cores of its own: whole physical cores, neighbours of one NUMA
 *        node as far as the division allows
 * numa   all cores of one NUMA node; ranks are spread over the nodes in order */
#ifndef PK_BIND_H
#define PK_BIND_H

#include "core/base.h"

enum pk_bind { PK_BIND_NONE, PK_BIND_CORE, PK_BIND_NUMA };

struct pk_bind_plan {
    enum pk_bind bind;
    int ranks;
    struct pk_core *core; // those this process may use, sorted by node, physical core, number
    int cores, nodes;
};

/* mode is "none", "core" or "numa", or NULL for none.
 * Errors  PK_EUSAGE another mode;  PK_EMISSING the cores cannot be found out */
enum pk_status pk_bind_open(struct pk_bind_plan *out, const char *mode, int ranks,
                            struct pk_err *err);
/* Restricts the calling process to rank's cores; false if the system refuses. */
bool pk_bind_apply(const struct pk_bind_plan *b, int rank);
/* "cores 0-3, NUMA node 0" */
void pk_bind_text(const struct pk_bind_plan *b, int rank, char *text, size_t size);
/* Threads for one rank: its share of the cores, at least 1. */
int pk_bind_threads(const struct pk_bind_plan *b, int rank);
void pk_bind_free(struct pk_bind_plan *b);

#endif
