/* hostlist.h -- Slurm's compressed lists of hosts: a[01-03,7],b2 is a01 a02 a03 a7 b2.
 *
 * The grammar is that of `scontrol show hostnames`: hosts separated by commas; a host may hold
 * several [...] groups, each a list of numbers and ranges, the last one running fastest; the width
 * of a range's first number pads its numbers with zeros. */
#ifndef PK_HOSTLIST_H
#define PK_HOSTLIST_H

#include "core/base.h"

enum { PK_HOSTLIST_MAX = 1 << 20 }; // hosts in a list, against a typing error's billions

/* Number of hosts in the list.
 * Errors  PK_EUSAGE  not such a list (says where), empty, or longer than PK_HOSTLIST_MAX */
enum pk_status pk_hostlist_count(const char *list, int64_t *count, struct pk_err *err);
/* Host number `index` from 0, into out [size].
 * Errors  PK_EUSAGE as above, or no such host, or a name that does not fit */
enum pk_status pk_hostlist_get(const char *list, int64_t index, char *out, size_t size,
                               struct pk_err *err);

#endif
