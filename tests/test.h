/* test.h -- the smallest harness that tells where a check failed. A test program is
 *     int main(void) { test_something(); return TEST_END(); }
 * Comparisons are written so that NaN fails. */
#ifndef PK_TEST_H
#define PK_TEST_H

#include "core/base.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int test_bad_, test_good_;

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (cond) {                                                                                \
            test_good_++;                                                                          \
        } else {                                                                                   \
            test_bad_++;                                                                           \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #cond);                     \
        }                                                                                          \
    } while (0)
#define CHECK_OK(call, err)                                                                        \
    do {                                                                                           \
        if ((call) == PK_OK) {                                                                     \
            test_good_++;                                                                          \
        } else {                                                                                   \
            test_bad_++;                                                                           \
            fprintf(stderr, "%s:%d: failed: %s\n  %s\n", __FILE__, __LINE__, #call,                \
                    (err)->message);                                                               \
        }                                                                                          \
    } while (0)
#define CHECK_NEAR(a, b, tol)                                                                      \
    do {                                                                                           \
        double a_ = (a), b_ = (b), t_ = (tol);                                                     \
        if (fabs(a_ - b_) <= t_) {                                                                 \
            test_good_++;                                                                          \
        } else {                                                                                   \
            test_bad_++;                                                                           \
            fprintf(stderr, "%s:%d: failed: %s = %.17g, expected %.17g +- %g\n", __FILE__,         \
                    __LINE__, #a, a_, b_, t_);                                                     \
        }                                                                                          \
    } while (0)
/* The call must fail with this status and a message that holds this text. */
#define CHECK_FAILS(call, wanted, err, text)                                                       \
    do {                                                                                           \
        enum pk_status s_ = (call);                                                                \
        if (s_ == (wanted) && strstr((err)->message, text)) {                                      \
            test_good_++;                                                                          \
        } else {                                                                                   \
            test_bad_++;                                                                           \
            fprintf(stderr, "%s:%d: failed: %s\n  gave '%s', message: %s\n", __FILE__, __LINE__,   \
                    #call, pk_status_text(s_), (err)->message);                                    \
        }                                                                                          \
    } while (0)
#define TEST_END()                                                                                 \
    (fprintf(stderr, "%d checks passed, %d failed\n", test_good_, test_bad_),                      \
     test_bad_ || !test_good_ ? 1 : 0)

#endif
