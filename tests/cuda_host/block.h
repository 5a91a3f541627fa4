/* block.h -- inside the executor: one kernel launch run to its end, block after block. */
#ifndef PK_HOST_BLOCK_H
#define PK_HOST_BLOCK_H

#include <cuda_runtime.h>
#include <string>

namespace pk_host
{

enum { MAX_THREADS = 1024, LANES = 32, SHARED_LIMIT = 227 * 1024, SHARED_DEFAULT = 48 * 1024 };

/* The order of blocks, warps and lanes in one launch. */
enum run_order { ASCENDING, DESCENDING, SHUFFLED };

struct kernel_run {
    const char *name;
    dim3 grid, block;
    size_t shared_bytes;
    invoke_function invoke;
    const void *call;
    run_order order;
    uint64_t seed; // of SHUFFLED
};
/* Runs the kernel. Empty when all went well, else what was wrong: kernel, block, thread, text. */
std::string run_kernel(const kernel_run &k);

} // namespace pk_host

#endif
