/* executor_case.h -- what the tests of the host executor share: a queue, device arrays, expected
 * errors. */
#ifndef PK_EXECUTOR_CASE_H
#define PK_EXECUTOR_CASE_H

#include "cuda/mma.h"

#include <pk_host.h>

#include "tests/test.h"

/* The queue that launches go to: the legacy stream. */
inline struct pk_queue queue_;
inline struct pk_err err_;

#define OK(call) CHECK((call) == cudaSuccess)

/* The kernel must fail, and the executor's words hold this text. */
#define CHECK_KERNEL_FAILS(launch, text)                                                           \
    do {                                                                                           \
        pk_host_quiet(true);                                                                       \
        CHECK((launch) == PK_OK);                                                                  \
        CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);                                  \
        if (!strstr(pk_host_error(), text)) {                                                      \
            test_bad_++;                                                                           \
            fprintf(stderr, "%s:%d: expected '%s', got: %s\n", __FILE__, __LINE__, text,           \
                    pk_host_error());                                                              \
        }                                                                                          \
        pk_host_reset();                                                                           \
        pk_host_quiet(false);                                                                      \
    } while (0)
/* The launch itself must be refused. */
#define CHECK_LAUNCH_FAILS(launch, text)                                                           \
    do {                                                                                           \
        pk_host_quiet(true);                                                                       \
        CHECK((launch) == PK_EDEVICE);                                                             \
        if (!strstr(pk_host_error(), text) && !strstr(err_.message, text)) {                       \
            test_bad_++;                                                                           \
            fprintf(stderr, "%s:%d: expected '%s', got: %s / %s\n", __FILE__, __LINE__, text,      \
                    pk_host_error(), err_.message);                                                \
        }                                                                                          \
        pk_host_reset();                                                                           \
        pk_host_quiet(false);                                                                      \
    } while (0)

template <typename T> inline T *device_array(size_t n)
{
    void *p = nullptr;
    OK(cudaMalloc(&p, n * sizeof(T)));
    return static_cast<T *>(p);
}

/* A small generator of its own: the tests must not depend on what they test. */
inline uint32_t random_state_ = 12345;
static inline uint32_t random_bits()
{
    random_state_ ^= random_state_ << 13;
    random_state_ ^= random_state_ >> 17;
    return random_state_ ^= random_state_ << 5;
}
static inline float random_float()
{
    return (float)(int32_t)random_bits() * 0x1p-30f;
}

#endif
