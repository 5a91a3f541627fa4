/* shard_none.c -- in place of shard_hdf5.c in a build without HDF5: says so. */
#include "datasets/shard.h"

enum pk_status pk_shard_write(const char *path, struct pk_shard *s, struct pk_err *err)
{
    (void)s;
    return pk_fail(err, PK_EMISSING,
                   "%s: this purkinje was built without HDF5 and writes no shards", path);
}

enum pk_status pk_shard_read(const char *path, struct pk_shard *s, struct pk_err *err)
{
    (void)s;
    return pk_fail(err, PK_EMISSING, "%s: this purkinje was built without HDF5 and reads no shards",
                   path);
}
