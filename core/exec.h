/* exec.h -- runs programs: on this machine's threads, or on a device through its backend.
 *
 * CPU: a batch is cut into micro-batches; each worker runs a micro-batch through the whole program,
 * so its activations stay in its caches and there is no barrier inside a step. Gradients of a batch
 * are summed in PK_SHARDS virtual shards (consecutive micro-batches, in order), which then meet in
 * a fixed tree: the result does not depend on the number of threads or on timing.
 *
 * Ranks (CPU): each of 2, 4 or 8 ranks has its share of the shards and of the micro-batches, and
 * the upper levels of the same tree join the ranks (core/comm.h), once per optimizer step: the bits
 * are those of a single rank. Other numbers of ranks, and batches of fewer than PK_SHARDS
 * micro-batches whose number is no power of two, are equal up to rounding.
 * docs/decisions/013-data-parallel.md
 *
 * Ranks (devices): each has its share of the micro-batches; the backend sums the gradients of the
 * last one bucket by bucket while the rest of the backward pass goes on. All ranks get the same
 * bits; those of one rank are the same up to rounding. docs/decisions/016-ranks-on-gpus.md
 *
 * Device: a run is enqueued and the call returns; pk_exec_result tells how a step went when it is
 * over. The arenas below are then the host's copies: pk_exec_push takes them to the device,
 * pk_exec_pull brings them back. On the CPU both do nothing. */
#ifndef PK_EXEC_H
#define PK_EXEC_H

#include "core/comm.h"
#include "core/cpu/kernels.h"
#include "core/optim.h"
#include "core/plan.h"
#include "core/thread.h"

enum { PK_SHARDS = 8 };

struct pk_exec;
struct pk_bound;
struct pk_exec_batch;
struct pk_resident;
struct pk_exec_rows;

struct pk_exec_result { // of one optimizer step
    int64_t step;
    double loss;       // mean of the batch
    double norm;       // of the gradient, before clipping
    bool taken;        // false: loss or gradient is not finite, and no weight has changed
    struct pk_err why; // not taken: PK_EDIVERGED in the user's words
};

struct pk_exec_need { // what decides how much memory a device will hold
    int64_t elements; // of the parameter table
    enum pk_dtype storage;
    bool ema, train;
    bool convolves; // some program has a convolution
    int64_t inputs; // bytes of IN of the largest program
    int64_t rows;   // floats of pk_exec_rows, of all
    int64_t arena, constants;
};

struct pk_op_timing { // of one node of a program, by itself, on random data
    const struct pk_prog *prog;
    int64_t node;
    double seconds; // to spend
    double median, least;
    int64_t calls; // that these are of
};

/* A device, as one static table; each function has the meaning of the pk_exec function of its name
 * and is called for an executor that was opened on it. */
struct pk_backend {
    const char *name;              // "cuda"
    const pk_workspace *workspace; // [PK_OP_COUNT], what its kernels need
    enum pk_status (*open)(struct pk_exec *x, struct pk_err *err);
    void (*close)(struct pk_exec *x);
    enum pk_status (*bind)(struct pk_exec *x, struct pk_bound *b, struct pk_err *err);
    void (*unbind)(struct pk_bound *b);
    /* Joins the devices of x->comm's ranks, after open on all of them; a collective. out: for
     * people, which rank has which device. */
    enum pk_status (*connect)(struct pk_exec *x, struct pk_text *out, struct pk_err *err);
    /* A number that changes with any bit of weight, ema, m and v. */
    enum pk_status (*hash)(struct pk_exec *x, uint64_t *out, struct pk_err *err);
    enum pk_status (*optim)(struct pk_exec *x, const struct pk_optim_spec *spec,
                            struct pk_err *err);
    enum pk_status (*run)(struct pk_exec *x, struct pk_bound *b, const struct pk_exec_batch *run,
                          struct pk_err *err);
    enum pk_status (*update)(struct pk_exec *x, const struct pk_optim_step *step,
                             struct pk_err *err);
    enum pk_status (*result)(struct pk_exec *x, int lag, struct pk_exec_result *out, bool *have,
                             struct pk_err *err);
    enum pk_status (*push)(struct pk_exec *x, struct pk_err *err);
    enum pk_status (*pull)(struct pk_exec *x, struct pk_err *err);
    enum pk_status (*pin)(struct pk_exec *x, void *memory, size_t bytes, struct pk_err *err);
    /* FLOP/s of the best matrix product of the storage type, measured for a fraction of a second.
     */
    enum pk_status (*ceiling)(struct pk_exec *x, double *flops_per_s, struct pk_err *err);
    void (*describe)(const struct pk_exec *x, struct pk_text *out);
    /* For 'purkinje bench ops', without an executor. rates: bytes/s read and written by a copy, and
     * FLOP/s of the best bf16 product, measured for about a second. time_op: fills t->median ...;
     * before each call the caches hold nothing of the op's inputs. */
    enum pk_status (*rates)(double *bytes_per_s, double *flops_per_s, struct pk_err *err);
    enum pk_status (*time_op)(struct pk_op_timing *t, struct pk_err *err);
    void (*choices)(const struct pk_exec *x, struct pk_text *out);
    enum pk_status (*choose)(struct pk_exec *x, const char *text, size_t n, struct pk_err *err);
    bool (*resident)(struct pk_exec *x, struct pk_resident *r, int64_t reserve);
    enum pk_status (*resident_write)(struct pk_exec *x, const struct pk_resident *r, int64_t first,
                                     int64_t count, const int16_t *signal, struct pk_err *err);
    void (*resident_free)(struct pk_exec *x, struct pk_resident *r);
    enum pk_status (*rows)(struct pk_exec *x, struct pk_exec_rows *r, const char *what,
                           struct pk_err *err);
    void (*rows_free)(struct pk_exec *x, struct pk_exec_rows *r);
    enum pk_status (*rows_gather)(struct pk_exec *x, const struct pk_exec_rows *r,
                                  struct pk_err *err);
    enum pk_status (*rows_scale)(struct pk_exec *x, const struct pk_exec_rows *r, int64_t first,
                                 int64_t count, float factor, struct pk_err *err);
    enum pk_status (*rows_read)(struct pk_exec *x, const struct pk_exec_rows *r, float *out,
                                struct pk_err *err);
    /* Bytes that an executor will allocate, one line of table for each; needs no device. */
    int64_t (*predict)(const struct pk_exec_need *need, struct pk_text *table);
};

struct pk_exec_run_note { // a run with a loss, of the step so far
    int64_t micros;       // of this rank
    double scale;
    bool shared; // by all ranks
};

struct pk_exec { // the arenas of one model, each made once
    const struct pk_params *params;
    struct pk_comm *comm;             // the ranks that train together, or NULL: this one alone
    const struct pk_backend *backend; // NULL: the CPU
    void *device;                     // the backend's own state
    bool eager;                       // device: launch kernel by kernel, no graphs
    bool skip_nan;                    // a step that is not finite is left out; else it is the last
    enum pk_dtype wire;               // device: of gradients between ranks
    bool sync_norm;                   // several ranks: batch norm is over all of them
    const pk_kernel *kernel;          // [PK_OP_COUNT] of the CPU
    const struct pk_cpu_flat *flat;
    enum pk_isa isa;
    struct pk_pool *pool;
    int threads;
    int64_t elements;      // params->elements when the arenas were made; must not have grown
    float *weight;         // [params->elements]
    float *ema;            // the same, or NULL
    float *m, *v;          // moments [moments], or NULL when nothing is trained
    int64_t moments;       // elements of each: all, or those of this rank's share
    int64_t *share;        // [size + 1] where ranks' parameters begin that moments are shared out
                           // by (ZeRO stage 1), or NULL: every rank has all
    float *grad;           // CPU: [shards][params->elements]; the sum ends in shard 0; or NULL.
                           // Device: NULL, or [params->elements] for pk_exec_pull to fill
    int64_t shards;        // gradient arenas there are: PK_SHARDS, or this rank's share
    int64_t live;          // of which this many hold sums that have not met yet; 1 after the tree
    unsigned char **arena; // CPU: [threads] activations
    int64_t arena_bytes;   // of each; on a device, of the only one
    struct pk_optim *optim;
    float *joined; // CPU: [joined_cap] what nodes exchange: [ranks + 1][bound->joined]
    int64_t joined_cap;
    float *micro_loss; // [micro_cap] of the last run
    int64_t micro_cap;
    double loss;                   // of the step so far, of this rank
    struct pk_exec_run_note *note; // [notes], since the last update; for ranks
    float *noted;                  // [noted_count] the losses of their micro-batches, in order
    int64_t notes, note_cap, noted_count, noted_cap;
    uint32_t vote, votes; // ranks: of this one for the next update; or-ed over all, of the last one
    struct pk_exec_result result; // CPU: of the last update
    bool has_result;
};

struct pk_exec_spec {
    const struct pk_params *params;
    int threads;                      // 0: one per core
    bool ema, train;                  // which arenas are wanted
    const struct pk_backend *backend; // NULL: the CPU
    bool eager, skip_nan;             // as in struct pk_exec
    struct pk_comm *comm;             // borrowed; NULL or a world of one: no other ranks
    enum pk_dtype wire;               // PK_F32, or PK_BF16 on devices
    bool zero1; // ranks share out moments and the update; flags of params are final
    /* Batch norm in training takes the mean and variance of all ranks' records, and its gradient
     * goes through them (as torch.nn.SyncBatchNorm). Every run of a program that has one must be of
     * one micro-batch at each rank, of the same program. On one rank it changes nothing. */
    bool sync_norm;
};
/* comm of several ranks on devices: pk_comm_locate was called, so that each takes its own. */
enum pk_status pk_exec_create(struct pk_exec *out, const struct pk_exec_spec *spec,
                              struct pk_err *err);
/* Several ranks: before the first run, all together. Devices are joined; out (may be NULL) then
 * gets a line for each rank, and one on what joins them. Nothing to do on CPUs or without ranks.
 * Errors  PK_EMISSING no library for it, PK_EUSAGE two ranks on one device, PK_ERANK */
enum pk_status pk_exec_connect(struct pk_exec *x, struct pk_text *out, struct pk_err *err);
/* A number of weight, ema, m and v as they are after all steps so far, for comparing replicas. */
enum pk_status pk_exec_hash(struct pk_exec *x, uint64_t *out, struct pk_err *err);
void pk_exec_free(struct pk_exec *x);

struct pk_bound { // a program ready to run: plan and kernels
    const struct pk_prog *prog;
    struct pk_plan plan;
    double *seconds;  // [nodes] time of each node on worker 0, NULL unless profiling
    int64_t profiled; // micro-batches that these times are of
    int64_t
        joined;  // most numbers of a rank that one of its norms or losses exchanges; 0: none does
    bool shared; // the ranks share out the rows of a loss, so that all run it on the same batch
    const struct pk_backend *backend;
    void *device; // the backend's own: addresses, graphs
};
/* Plans and checks that every op has a kernel; grows the arenas of activations. prog is borrowed.
 * It was built over x->params, or over another table if it has no parameters. All programs of a
 * model must be built before pk_exec_create, since they add parameters. */
enum pk_status pk_exec_bind(struct pk_exec *x, struct pk_bound *out, const struct pk_prog *prog,
                            struct pk_err *err);
void pk_bound_free(struct pk_bound *b);

struct pk_resident { // records of int16 that live in a device's memory
    void *memory;    // [records, leads, samples]; NULL: there are none
    int64_t records;
    int32_t leads, samples;
};
struct pk_exec_rows { // numbers that programs hand to each other, on a device without leaving it
    float *data;      // [count] where the programs run: only on the CPU may the host look
    int64_t count;
    const struct pk_backend *backend; // whose memory it is; NULL: the host's
};
struct pk_feed { // where an input of each micro-batch is
    const char *name;
    const void *data; // the host's, or in rows; micro-batch i starts at data + i * stride bytes
    size_t stride;    // 0: all share it
};
struct pk_cut { // an input [n, leads, crop] of int16 that a device cuts from its residents
    const char *name;
    const struct pk_resident *resident; // NULL: none
    const int64_t *record;              // host: record k of micro-batch i is record[i * n + k]
    const int32_t *start;               // host: and its first sample start[i * n + k]
};
struct pk_fetch { // an output to be copied out after each micro-batch
    const char *name;
    void *data; // the host's, or in rows; micro-batch i goes to data + i * elements; bf16 comes out
                // as float
};
struct pk_exec_batch {
    const struct pk_feed *feed; // all inputs of the program but "seed"
    int feeds;
    struct pk_cut cut;            // overrides the feed of its name, whose data may be NULL
    const struct pk_fetch *fetch; // the host waits for a device's unless they go to rows
    int fetches;
    int64_t micros;    // micro-batches; of this rank, where there are several
    double loss_scale; // d objective / d loss of one micro-batch, e.g. 1 / micros of all ranks
    bool add;          // gradients are added to those of the run before (accumulation)
    bool more;         // another run with add follows in this step. Until the last one the shards
                       // stay apart, and nothing is sent to other ranks
    bool shared;       // ranks: all of them run these same micro-batches; their loss counts once
};
/* Runs all micro-batches. For a program with a loss the gradient sum ends in x->grad[0 ..] (or in
 * the device's), and the loss is noted for pk_exec_result. On a device the fed memory must stay
 * unchanged until the step's result, or that of a fetch, is there. */
enum pk_status pk_exec_run(struct pk_exec *x, struct pk_bound *b, const struct pk_exec_batch *run,
                           struct pk_err *err);

/* AdamW with these constants from now on; the flags of the parameters are read here. */
enum pk_status pk_exec_optim(struct pk_exec *x, const struct pk_optim_spec *spec,
                             struct pk_err *err);
/* Ends an optimizer step: pk_optim_step with the gradients of the runs before. A step whose loss or
 * gradient is not finite changes nothing. Several ranks first sum their gradients and losses, so
 * that all take the same step, and read each other's x->vote. Errors  PK_ERANK */
enum pk_status pk_exec_update(struct pk_exec *x, const struct pk_optim_step *step,
                              struct pk_err *err);
/* The result of the oldest step that has not been told yet; waits for it when more than `lag` steps
 * are under way, else *have is false. Call until it is. */
enum pk_status pk_exec_result(struct pk_exec *x, int lag, struct pk_exec_result *out, bool *have,
                              struct pk_err *err);
/* How many steps may be under way without the device running dry: 0 on the CPU, else 1. */
int pk_exec_lag(const struct pk_exec *x);

/* Takes weight, ema, m and v to the device, after they were filled; brings them back, after all
 * steps under way. */
enum pk_status pk_exec_push(struct pk_exec *x, struct pk_err *err);
enum pk_status pk_exec_pull(struct pk_exec *x, struct pk_err *err);
/* Memory that batches will be fed from, so that copies run beside the step. It must live as long
 * as x; refusal is no error. */
enum pk_status pk_exec_pin(struct pk_exec *x, void *memory, size_t bytes, struct pk_err *err);
/* For people, in one line: "2 threads, avx512 kernels", or a GPU's name and the storage type. */
void pk_exec_describe(const struct pk_exec *x, struct pk_text *out);
/* What a device timed and chose for its matrix products, as text; nothing on the CPU. The same
 * choices give the same bits, new timings may choose otherwise: a run keeps them and gives them
 * back, before its programs are bound, when it is resumed.
 * Errors  PK_EDATA not such a text;  PK_EMISSING choices of another version of a library */
void pk_exec_choices(const struct pk_exec *x, struct pk_text *out);
enum pk_status pk_exec_choose(struct pk_exec *x, const char *text, size_t n, struct pk_err *err);
/* Memory for r->records x leads x samples on the device; false: the backend has no such thing, or
 * the memory is not there beside `reserve` bytes for other uses. Then write them, in any order. */
bool pk_exec_resident(struct pk_exec *x, struct pk_resident *r, int64_t reserve);
enum pk_status pk_exec_resident_write(struct pk_exec *x, const struct pk_resident *r, int64_t first,
                                      int64_t count, const int16_t *signal, struct pk_err *err);
void pk_exec_resident_free(struct pk_exec *x, struct pk_resident *r); // after all steps
/* Memory of `count` floats for feeds and fetches. All that is done to it takes place in the order
 * of the calls; on a device it is enqueued, and nobody waits. what: for the message.
 * Errors  PK_ENOMEM, PK_EDEVICE */
enum pk_status pk_exec_rows(struct pk_exec *x, struct pk_exec_rows *r, int64_t count,
                            const char *what, struct pk_err *err);
void pk_exec_rows_free(struct pk_exec *x, struct pk_exec_rows *r); // before or after pk_exec_free
/* Each rank has its own of r->count / ranks numbers, in the order of ranks, and gets the others'.
 * A collective; on devices it is one of theirs. Without ranks there is nothing to do.
 * Errors  PK_ERANK, on a device perhaps later, as the step's */
enum pk_status pk_exec_rows_gather(struct pk_exec *x, const struct pk_exec_rows *r,
                                   struct pk_err *err);
/* data[i] *= factor for i in [first, first + count), rounded to float. */
enum pk_status pk_exec_rows_scale(struct pk_exec *x, const struct pk_exec_rows *r, int64_t first,
                                  int64_t count, float factor, struct pk_err *err);
/* Copies all to host memory [r->count] when everything enqueued so far is over. */
enum pk_status pk_exec_rows_read(struct pk_exec *x, const struct pk_exec_rows *r, float *out,
                                 struct pk_err *err);
/* Program inputs by slot -> feed, and outputs -> value index; shared by the backends. feed has
 * room for the program's inputs, fetched for run->fetches.
 * Errors  PK_EINTERNAL a name the program does not have, or an input not given */
enum pk_status pk_exec_resolve(const struct pk_prog *p, const struct pk_exec_batch *run,
                               const struct pk_feed **feed, int32_t *fetched, struct pk_err *err);

/* Splits [0, count) into one range per worker and runs fn on each, ranges 16-element aligned. */
void pk_exec_range(struct pk_exec *x, int64_t count,
                   void (*fn)(void *ctx, int64_t first, int64_t last), void *ctx);

#endif
