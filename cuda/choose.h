/* choose.h -- what the choices of products (cuda/matmul.h) and of convolutions (cuda/conv.h) have
 * in common: the environment variable, the timing of candidates, members of their JSON. */
#ifndef PK_CUDA_CHOOSE_H
#define PK_CUDA_CHOOSE_H

#include "cuda/queue.h"

#ifdef __cplusplus
extern "C" {
#endif
#include "core/json.h"

enum pk_choose_mode {
    PK_CHOOSE_OWN,     // own kernels, no timing
    PK_CHOOSE_LIBRARY, // the library's first offer, own kernels for what it does not take
    PK_CHOOSE_TUNE     // timing; the default on a device
};

/* The mode that the environment variable names: own, tune or the name of the library. PK_EINVAL for
 * anything else; on the host executor, whose times mean nothing, own is the default. */
enum pk_status pk_choose_mode(enum pk_choose_mode *mode, const char *variable, const char *library,
                              struct pk_err *err);

/* Candidates 0 .. count - 1, of which the first `own` are own kernels. */
struct pk_contest {
    const struct pk_queue *q;
    enum pk_status (*run)(void *ctx, int i, struct pk_err *err); // enqueues candidate i once
    void *ctx;
    int own, count;
};
struct pk_contest_result {
    int best;           // a later candidate must be 2 % faster than the best so far
    double seconds;     // of the best; 0 when none could be run
    double own_seconds; // of the fastest own one; 0 likewise
    double fastest;     // of all, without the 2 %
};
/* Times the candidates on the stream and waits for it. One that fails before it runs is passed
 * over; when all do, the first one's error. PK_EDEVICE when the device has failed. */
enum pk_status pk_contest_hold(const struct pk_contest *c, struct pk_contest_result *out,
                               struct pk_err *err);
/* Random numbers into the activations that the call reads: all-zero operands run faster. */
enum pk_status pk_contest_scatter(const struct pk_queue *q, const struct pk_call *c,
                                  struct pk_err *err);

/* Members of an object that must be there and in range; false when they are not. */
const struct pk_json *pk_choice_member(const struct pk_json *j, const char *key,
                                       enum pk_json_kind kind);
bool pk_choice_flag(const struct pk_json *j, const char *key, bool *out);
bool pk_choice_count(const struct pk_json *j, const char *key, int64_t least, int64_t most,
                     int64_t *out);
bool pk_choice_seconds(const struct pk_json *j, const char *key, double *out);
bool pk_choice_type(const struct pk_json *j, enum pk_dtype *out); // "type": f32 or bf16

#ifdef __cplusplus
}
#endif

#endif
