/* launch_env.c -- which rank of how many this process is (see launch_env.h).
 *
 * Every launcher makes a claim: rank and size, or half of it, or nothing. The first complete claim
 * in the order of the header wins, and the others must not contradict it: an outer launcher (one
 * torchrun per Slurm task) may name fewer processes, never more, and never another rank of as many.
 */
#include "core/launch_env.h"
#include "core/hostlist.h"

#include <string.h>

enum { VALUES = 64, SOURCES = PK_LAUNCH_KUBERNETES + 1 };
/* Slurm's numbers for steps that are not tasks: pending, extern, batch, interactive. */
#define SLURM_SPECIAL_STEP 4294967280

enum claim_state { NOTHING, HALF, OUTSIDE, WHOLE }; // OUTSIDE: in a job, but not one of its tasks

struct claim {
    enum claim_state state;
    int64_t rank, size, local_rank, local_size; // -1 where not said
};

struct detect {
    const char *const *env;
    struct pk_launch *out;
    struct pk_err *err;
    struct claim claim[SOURCES];
};

/* The variables that a claim is read from; the first name of each list that is set counts. */
static const struct {
    const char *rank[3], *size[3], *local_rank, *local_size;
} variables[SOURCES] = {
    [PK_LAUNCH_TORCHRUN] = {{"RANK"}, {"WORLD_SIZE"}, "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    [PK_LAUNCH_KUBEFLOW] = {{"PET_NODE_RANK"}, {"PET_NNODES"}, NULL, NULL},
    [PK_LAUNCH_SLURM] = {{"SLURM_PROCID"},
                         {"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"},
                         "SLURM_LOCALID",
                         NULL},
    [PK_LAUNCH_OPENMPI] = {{"OMPI_COMM_WORLD_RANK"},
                           {"OMPI_COMM_WORLD_SIZE"},
                           "OMPI_COMM_WORLD_LOCAL_RANK",
                           "OMPI_COMM_WORLD_LOCAL_SIZE"},
    [PK_LAUNCH_MPICH] = {{"PMI_RANK"}, {"PMI_SIZE"}, "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
    [PK_LAUNCH_KUBERNETES] = {{"JOB_COMPLETION_INDEX"},
                              {"PURKINJE_WORLD_SIZE", "WORLD_SIZE"},
                              NULL,
                              NULL},
};

/* What an error lists when it is set. */
static const char *const shown[] = {"RANK",
                                    "WORLD_SIZE",
                                    "LOCAL_RANK",
                                    "LOCAL_WORLD_SIZE",
                                    "MASTER_ADDR",
                                    "MASTER_PORT",
                                    "TORCHELASTIC_RUN_ID",
                                    "PET_NODE_RANK",
                                    "PET_NNODES",
                                    "PET_NPROC_PER_NODE",
                                    "PET_MASTER_ADDR",
                                    "PET_MASTER_PORT",
                                    "SLURM_JOB_ID",
                                    "SLURM_STEP_ID",
                                    "SLURM_PROCID",
                                    "SLURM_NTASKS",
                                    "SLURM_STEP_NUM_TASKS",
                                    "SLURM_NPROCS",
                                    "SLURM_NTASKS_PER_NODE",
                                    "SLURM_JOB_NUM_NODES",
                                    "SLURM_LOCALID",
                                    "SLURM_JOB_NODELIST",
                                    "OMPI_COMM_WORLD_RANK",
                                    "OMPI_COMM_WORLD_SIZE",
                                    "OMPI_COMM_WORLD_LOCAL_RANK",
                                    "PMI_RANK",
                                    "PMI_SIZE",
                                    "MPI_LOCALRANKID",
                                    "JOB_COMPLETION_INDEX",
                                    "PURKINJE_WORLD_SIZE",
                                    "PURKINJE_RENDEZVOUS"};

const char *pk_launch_source_name(enum pk_launch_source s)
{
    static const char *const names[] = {
#define PK_X(name, text) text,
        PK_LAUNCH_SOURCES(PK_X)
#undef PK_X
    };
    return (size_t)s < PK_COUNT(names) ? names[s] : "unknown";
}

static const char *get(const struct detect *d, const char *name)
{
    size_t n = strlen(name);
    for (const char *const *e = d->env; e && *e; e++)
        if (!strncmp(*e, name, n) && (*e)[n] == '=') return *e + n + 1;
    return NULL;
}

/* Fails with `why`, what is set, and `help`. */
static enum pk_status refuse(const struct detect *d, const char *help, const char *fmt, ...)
    PK_PRINTF(3, 4);
static enum pk_status refuse(const struct detect *d, const char *help, const char *fmt, ...)
{
    char why[512], seen[1024] = "";
    size_t used = 0;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    for (size_t i = 0; i < PK_COUNT(shown) && used < sizeof seen - 1; i++) {
        const char *v = get(d, shown[i]);
        if (!v) continue;
        int n = snprintf(seen + used, sizeof seen - used, " %s=%.60s", shown[i], v);
        used += (size_t)PK_MAX(n, 0);
    }
    return pk_fail(d->err, PK_EUSAGE, "%s\n  seen:%s\nhelp: %s", why, used ? seen : " (nothing)",
                   help);
}

/* A count or rank in variable `name`; left alone where it is not set. */
static enum pk_status number(const struct detect *d, const char *name, int64_t low, int64_t *out)
{
    const char *s = name ? get(d, name) : NULL;
    if (!s) return PK_OK;
    if (!pk_parse_i64(s, out) || *out < low || *out > PK_WORLD_MAX)
        return refuse(d, "set it to a number, or unset it",
                      "%s is '%.60s', a whole number from %lld to %d was expected", name, s,
                      (long long)low, PK_WORLD_MAX);
    return PK_OK;
}

static const char *first_set(const struct detect *d, const char *const names[3])
{
    for (int i = 0; i < 3 && names[i]; i++)
        if (get(d, names[i])) return names[i];
    return NULL;
}

static enum pk_status read_claim(struct detect *d, enum pk_launch_source s)
{
    struct claim *c = &d->claim[s];
    *c = (struct claim){NOTHING, -1, -1, -1, -1};
    PK_TRY(number(d, first_set(d, variables[s].rank), 0, &c->rank));
    PK_TRY(number(d, first_set(d, variables[s].size), 1, &c->size));
    PK_TRY(number(d, variables[s].local_rank, 0, &c->local_rank));
    PK_TRY(number(d, variables[s].local_size, 1, &c->local_size));
    c->state = c->rank >= 0 && c->size >= 0                         ? WHOLE
               : c->rank >= 0 || c->size >= 0 || c->local_rank >= 0 ? HALF
                                                                    : NOTHING;
    return PK_OK;
}

static enum pk_status check_ranges(struct detect *d, enum pk_launch_source s)
{
    const struct claim *c = &d->claim[s];
    const char *name = pk_launch_source_name(s);
    if (c->state != WHOLE) return PK_OK;
    if (c->rank >= c->size)
        return refuse(d, "ranks count from 0", "%s: rank %lld of %lld ranks does not exist", name,
                      (long long)c->rank, (long long)c->size);
    if (c->local_rank >= c->size || (c->local_size >= 0 && c->local_rank >= c->local_size))
        return refuse(d, "local ranks count from 0 on every host",
                      "%s: local rank %lld does not fit %lld local of %lld ranks", name,
                      (long long)c->local_rank, (long long)c->local_size, (long long)c->size);
    if (c->local_size > c->size)
        return refuse(d, "the size of the world counts all hosts",
                      "%s: %lld ranks on this host, but %lld in all", name,
                      (long long)c->local_size, (long long)c->size);
    return PK_OK;
}

/* PET_* describes a node for torchrun; a node is a rank only if it runs one process. */
static enum pk_status claim_kubeflow(struct detect *d)
{
    struct claim *c = &d->claim[PK_LAUNCH_KUBEFLOW];
    const char *per_node = get(d, "PET_NPROC_PER_NODE"), *nodes = get(d, "PET_NNODES");
    int64_t n = 1;
    bool torchrun = d->claim[PK_LAUNCH_TORCHRUN].state == WHOLE; // which PET_* was meant for
    if (nodes && strchr(nodes, ':') && torchrun) return PK_OK;
    if (nodes && strchr(nodes, ':'))
        return refuse(d, "set numNodes to one number", "PET_NNODES asks for an elastic job");
    PK_TRY(read_claim(d, PK_LAUNCH_KUBEFLOW));
    if (c->state == NOTHING && (get(d, "PET_MASTER_ADDR") || per_node)) c->state = HALF;
    if (!torchrun && c->state == WHOLE && per_node && (!pk_parse_i64(per_node, &n) || n != 1))
        return refuse(d, "set numProcPerNode: 1, or start with 'torchrun --no_python purkinje ...'",
                      "PET_NPROC_PER_NODE is '%.60s', but this process was started once per node",
                      per_node);
    if (c->state == WHOLE) c->local_rank = 0, c->local_size = 1;
    return PK_OK;
}

/* The tasks of the whole allocation, as far as it says; 1 if it says nothing. */
static enum pk_status slurm_allocation(struct detect *d, int64_t *tasks)
{
    int64_t nodes = 1, per_node = 1, n = 1, old = 1;
    PK_TRY(number(d, get(d, "SLURM_JOB_NUM_NODES") ? "SLURM_JOB_NUM_NODES" : "SLURM_NNODES", 1,
                  &nodes));
    PK_TRY(number(d, "SLURM_NTASKS_PER_NODE", 1, &per_node));
    PK_TRY(number(d, "SLURM_NTASKS", 1, &n));
    PK_TRY(number(d, "SLURM_NPROCS", 1, &old));
    *tasks = PK_MAX(PK_MAX(n, old), nodes * per_node);
    return PK_OK;
}

/* A task has a step of its own. The shell of sbatch or salloc has none (or a special one), though
 * it has a SLURM_PROCID; there a job of one task is a single process. */
static enum pk_status claim_slurm(struct detect *d)
{
    struct claim *c = &d->claim[PK_LAUNCH_SLURM];
    const char *step = get(d, "SLURM_STEP_ID") ? get(d, "SLURM_STEP_ID") : get(d, "SLURM_STEPID");
    int64_t id = -1, tasks = 1, all = -1;
    PK_TRY(read_claim(d, PK_LAUNCH_SLURM));
    bool job = get(d, "SLURM_JOB_ID") || get(d, "SLURM_JOBID");
    if (c->state == NOTHING && !job && !step) return PK_OK;
    if (step && (!pk_parse_i64(step, &id) || id < 0))
        return refuse(d, "start with srun", "SLURM_STEP_ID is '%.60s', not a number", step);
    PK_TRY(slurm_allocation(d, &tasks));
    if ((!step && c->rank <= 0 && (job || c->rank < 0 || c->size < 0)) ||
        id >= SLURM_SPECIAL_STEP) {
        c->state = tasks > 1 ? OUTSIDE : NOTHING;
        return PK_OK;
    }
    if (c->rank < 0 || c->size < 0) {
        c->state = HALF;
        return PK_OK;
    }
    PK_TRY(number(d, "SLURM_NTASKS", 1, &all));
    if (all >= 0 && all != c->size)
        return refuse(d, "start with srun -n N, from a shell that exports no SLURM_ variables",
                      "Slurm's variables contradict each other: this step has %lld tasks, "
                      "SLURM_NTASKS is %lld",
                      (long long)c->size, (long long)all);
    return PK_OK;
}

/* The index is a rank; how many there are the Job does not tell its pods. */
static enum pk_status claim_kubernetes(struct detect *d)
{
    struct claim *c = &d->claim[PK_LAUNCH_KUBERNETES];
    bool other = d->claim[PK_LAUNCH_TORCHRUN].state == WHOLE && !get(d, "PURKINJE_WORLD_SIZE");
    PK_TRY(read_claim(d, PK_LAUNCH_KUBERNETES));
    if (c->rank < 0) c->state = get(d, "PURKINJE_WORLD_SIZE") ? HALF : NOTHING;
    if (c->rank >= 0 && other) { // WORLD_SIZE belongs to RANK; the index says there are so many
        c->size = c->rank + 1;
        c->state = HALF;
    }
    return PK_OK;
}

static enum pk_status read_claims(struct detect *d)
{
    PK_TRY(read_claim(d, PK_LAUNCH_TORCHRUN));
    PK_TRY(claim_kubeflow(d));
    PK_TRY(claim_slurm(d));
    PK_TRY(read_claim(d, PK_LAUNCH_OPENMPI));
    PK_TRY(read_claim(d, PK_LAUNCH_MPICH));
    PK_TRY(claim_kubernetes(d));
    for (int s = PK_LAUNCH_TORCHRUN; s < SOURCES; s++)
        PK_TRY(check_ranges(d, (enum pk_launch_source)s));
    return PK_OK;
}

static bool same(const struct claim *a, const struct claim *b)
{
    return a->rank == b->rank && a->size == b->size;
}

/* The first complete claim. mpirun starts its daemons as a Slurm step, one task per other node, so
 * that there Slurm's numbers are the daemon's and the larger world of MPI is the one. */
static enum pk_launch_source winner(const struct detect *d)
{
    for (int s = PK_LAUNCH_TORCHRUN; s < SOURCES; s++) {
        const struct claim *c = &d->claim[s];
        if (c->state != WHOLE) continue;
        if (s == PK_LAUNCH_SLURM)
            for (int m = PK_LAUNCH_OPENMPI; m <= PK_LAUNCH_MPICH; m++)
                if (d->claim[m].state == WHOLE && d->claim[m].size > c->size)
                    return (enum pk_launch_source)m;
        return (enum pk_launch_source)s;
    }
    return PK_LAUNCH_SINGLE;
}

/* Nobody says it completely: a single process only if nobody says anything. */
static enum pk_status no_winner(const struct detect *d)
{
    static const char *const help[SOURCES] = {
        [PK_LAUNCH_TORCHRUN] = "set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in every process",
        [PK_LAUNCH_KUBEFLOW] = "set PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT",
        [PK_LAUNCH_SLURM] = "start every task with srun",
        [PK_LAUNCH_OPENMPI] = "start with mpirun, which sets OMPI_COMM_WORLD_RANK and _SIZE",
        [PK_LAUNCH_MPICH] = "start with mpiexec, which sets PMI_RANK and PMI_SIZE",
        [PK_LAUNCH_KUBERNETES] =
            "set WORLD_SIZE to the Job's completions (1 if every pod is a run of its own)",
    };
    char text[512];
    for (int s = PK_LAUNCH_TORCHRUN; s < SOURCES; s++) {
        enum claim_state state = d->claim[s].state;
        if (state == NOTHING) continue;
        snprintf(text, sizeof text, "%s; for a single process: --rank 0 --world-size 1", help[s]);
        if (state == OUTSIDE)
            return refuse(
                d, "start with srun; for a single process: --rank 0 --world-size 1",
                "this shell belongs to a Slurm job of several tasks, but is none of them");
        return refuse(d, text, "the environment is partial: it looks like one rank of several (%s)",
                      pk_launch_source_name((enum pk_launch_source)s));
    }
    if (get(d, "MASTER_ADDR") || get(d, "MASTER_PORT"))
        return refuse(d, "set RANK and WORLD_SIZE too, or unset MASTER_ADDR and MASTER_PORT",
                      "the environment is partial: a master, but neither rank nor world size");
    return PK_OK;
}

static bool differ(int64_t a, int64_t b)
{
    return a >= 0 && b >= 0 && a != b;
}

/* What the others say must not contradict the winner w. */
static enum pk_status check_others(const struct detect *d, enum pk_launch_source w)
{
    const struct claim *a = &d->claim[w];
    for (int s = PK_LAUNCH_TORCHRUN; s < SOURCES; s++) {
        const struct claim *b = &d->claim[s];
        const char *one = pk_launch_source_name(w);
        const char *two = pk_launch_source_name((enum pk_launch_source)s);
        bool copies = s != PK_LAUNCH_KUBERNETES || b->state == WHOLE || a->size < b->size;
        if (s == (int)w || b->state == NOTHING || b->state == OUTSIDE || !copies) continue;
        if (b->state == HALF && s > (int)w && b->size <= a->size) continue;
        if (b->state == HALF && s < (int)w && !differ(a->rank, b->rank) &&
            !differ(a->size, b->size) && !differ(a->local_rank, b->local_rank))
            continue; // WORLD_SIZE exported next to Slurm's own
        if (b->state == WHOLE && same(a, b)) continue;
        // torchrun numbers its workers in any order; one node's world is a copy per task
        bool elastic = w == PK_LAUNCH_TORCHRUN && get(d, "TORCHELASTIC_RUN_ID");
        bool alone = b->size > 1 && a->local_size == a->size && a->size != b->size;
        bool outer = w != PK_LAUNCH_SLURM; // nobody starts mpirun once per task
        if (b->state == WHOLE && outer && !alone && a->size > b->size) continue;
        if (b->state == WHOLE && !alone && a->size == b->size && elastic) continue;
        return refuse(d,
                      "unset the variables of the launcher that did not start this process, or say "
                      "--rank, --world-size and --master",
                      "the environment contradicts itself: %s says rank %lld of %lld, %s says rank "
                      "%lld of %lld (-1: not said)",
                      one, (long long)a->rank, (long long)a->size, two, (long long)b->rank,
                      (long long)b->size);
    }
    return PK_OK;
}

/* --rank and --world-size; *found says whether they were there. */
static enum pk_status claim_flags(struct detect *d, const struct pk_launch_flags *f, bool *found)
{
    struct claim *c = &d->claim[PK_LAUNCH_FLAGS];
    *c = (struct claim){NOTHING, -1, -1, -1, -1};
    *found = f->rank || f->world_size;
    if (*found && !(f->rank && f->world_size))
        return refuse(d, "give both, for example --rank 0 --world-size 4", "%s without %s",
                      f->rank ? "--rank" : "--world-size", f->rank ? "--world-size" : "--rank");
    if (f->rank && (!pk_parse_i64(f->rank, &c->rank) || c->rank < 0 || c->rank >= PK_WORLD_MAX))
        return refuse(d, "ranks count from 0", "--rank %.60s is no rank", f->rank);
    if (f->world_size &&
        (!pk_parse_i64(f->world_size, &c->size) || c->size < 1 || c->size > PK_WORLD_MAX))
        return refuse(d, "it counts processes", "--world-size %.60s: 1 to %d was expected",
                      f->world_size, PK_WORLD_MAX);
    if (f->local_rank && (!pk_parse_i64(f->local_rank, &c->local_rank) || c->local_rank < 0))
        return refuse(d, "local ranks count from 0", "--local-rank %.60s is no rank",
                      f->local_rank);
    c->state = *found ? WHOLE : NOTHING;
    return check_ranges(d, PK_LAUNCH_FLAGS);
}

static enum pk_status keep(const struct detect *d, char *out, size_t size, const char *what,
                           const char *text, size_t n)
{
    if (n >= size) return pk_fail(d->err, PK_EUSAGE, "%s is longer than %zu bytes", what, size - 1);
    memcpy(out, text, n);
    out[n] = 0;
    return PK_OK;
}

static enum pk_status keep_port(struct detect *d, const char *what, const char *text)
{
    int64_t port;
    if (!pk_parse_i64(text, &port) || port < 0 || port > 65535)
        return refuse(d, "ports are 1 to 65535, 0 lets rank 0 choose", "%s: '%.60s' is no port",
                      what, text);
    d->out->port = (int)port;
    return PK_OK;
}

/* HOST:PORT, [v6]:PORT, HOST. */
static enum pk_status keep_master(struct detect *d, const char *what, const char *text)
{
    const char *host = text, *end = strrchr(text, ':');
    const char *bracket = text[0] == '[' ? strchr(text, ']') : NULL;
    size_t n = end ? (size_t)(end - text) : strlen(text);
    if (bracket) {
        host = text + 1;
        n = (size_t)(bracket - host);
        end = bracket[1] == ':' ? bracket + 1 : NULL;
    } else if (end && strchr(text, ':') != end) { // an IPv6 address without a port
        n = strlen(text);
        end = NULL;
    }
    if (n == 0) return refuse(d, "say HOST:PORT", "%s '%.60s' names no host", what, text);
    PK_TRY(keep(d, d->out->master, sizeof d->out->master, what, host, n));
    return end ? keep_port(d, what, end + 1) : PK_OK;
}

/* The master that variables name, whoever set the ranks. */
static enum pk_status find_master(struct detect *d, const struct pk_launch_flags *f)
{
    bool pet = d->out->source == PK_LAUNCH_KUBEFLOW;
    const char *host = get(d, "MASTER_ADDR"), *port = get(d, "MASTER_PORT");
    if (pet && get(d, "PET_MASTER_ADDR")) host = get(d, "PET_MASTER_ADDR");
    if (pet && get(d, "PET_MASTER_PORT")) port = get(d, "PET_MASTER_PORT");
    if (pet && !host && get(d, "PET_RDZV_ENDPOINT"))
        PK_TRY(keep_master(d, "PET_RDZV_ENDPOINT", get(d, "PET_RDZV_ENDPOINT")));
    if (host && *host)
        PK_TRY(keep(d, d->out->master, sizeof d->out->master, "MASTER_ADDR", host, strlen(host)));
    if (port) PK_TRY(keep_port(d, "MASTER_PORT", port));
    return f->master ? keep_master(d, "--master", f->master) : PK_OK;
}

/* Slurm says where rank 0 is, and enough about the job to tell it from others. */
static enum pk_status add_slurm(struct detect *d)
{
    static const char *const parts[] = {"SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID",
                                        "SLURM_JOB_START_TIME", "SLURM_RESTART_COUNT"};
    const char *list = get(d, "SLURM_STEP_NODELIST");
    size_t used = 0;
    if (!list) list = get(d, "SLURM_JOB_NODELIST");
    if (!list) list = get(d, "SLURM_NODELIST");
    if (list) {
        int64_t nodes;
        PK_TRY(pk_hostlist_count(list, &nodes, d->err));
        if (nodes == 1) d->out->local_size = d->out->size;
        if (!d->out->master[0])
            PK_TRY(pk_hostlist_get(list, 0, d->out->master, sizeof d->out->master, d->err));
    }
    for (size_t i = 0; i < PK_COUNT(parts); i++) {
        const char *v = get(d, parts[i]);
        int n = snprintf(d->out->job + used, sizeof d->out->job - used, "%s%.40s", i ? "/" : "",
                         v ? v : "");
        used += (size_t)PK_MAX(n, 0);
    }
    return PK_OK;
}

/* Whether the ranks can find each other with what is known. */
static enum pk_status check_meeting(struct detect *d)
{
    struct pk_launch *o = d->out;
    const char *job = NULL;
    if (o->source == PK_LAUNCH_SLURM) PK_TRY(add_slurm(d));
    bool local = o->local_size == o->size;
    if (o->source == PK_LAUNCH_OPENMPI) job = get(d, "PMIX_NAMESPACE");
    if (o->source == PK_LAUNCH_OPENMPI && !job) job = get(d, "OMPI_MCA_ess_base_jobid");
    if (job) snprintf(o->job, sizeof o->job, "openmpi/%.200s", job);
    if (local && !o->master[0]) snprintf(o->master, sizeof o->master, "127.0.0.1");
    if (o->file[0] || (o->master[0] && (o->port || o->job[0]))) return PK_OK;
    return refuse(d,
                  "set MASTER_ADDR and MASTER_PORT (or --master HOST:PORT), or PURKINJE_RENDEZVOUS "
                  "to a file in a folder that all hosts share",
                  "rank %d of %d (%s): %s", o->rank, o->size, pk_launch_source_name(o->source),
                  o->master[0] ? "the port of rank 0 is not known"
                               : "the host of rank 0 is not known");
}

/* What is set besides ranks: tokens, files, time. */
static enum pk_status read_extras(struct detect *d, const struct pk_launch_flags *f)
{
    struct pk_launch *o = d->out;
    const char *v = f->interface ? f->interface : get(d, "PURKINJE_INTERFACE");
    int64_t fd = -1;
    if (v) PK_TRY(keep(d, o->interface, sizeof o->interface, "the interface", v, strlen(v)));
    if ((v = get(d, "PURKINJE_TOKEN")))
        PK_TRY(keep(d, o->token, sizeof o->token, "PURKINJE_TOKEN", v, strlen(v)));
    if ((v = get(d, "PURKINJE_RENDEZVOUS")))
        PK_TRY(keep(d, o->file, sizeof o->file, "PURKINJE_RENDEZVOUS", v, strlen(v)));
    PK_TRY(number(d, "PURKINJE_LISTEN_FD", 3, &fd));
    o->listen_fd = o->rank == 0 ? (int)fd : -1;
    v = get(d, "PURKINJE_TIMEOUT");
    if (v && (!pk_parse_f64(v, &o->timeout_s) || !(o->timeout_s > 0 && o->timeout_s <= 86400)))
        return refuse(d, "it is in seconds", "PURKINJE_TIMEOUT is '%.60s': up to 86400", v);
    return PK_OK;
}

enum pk_status pk_launch_detect(struct pk_launch *out, const char *const *environment,
                                const struct pk_launch_flags *flags, struct pk_err *err)
{
    static const struct pk_launch_flags none;
    struct detect d = {.env = environment, .out = out, .err = err};
    const struct pk_launch_flags *f = flags ? flags : &none;
    bool explicit;
    *out = (struct pk_launch){.size = 1, .local_rank = 0, .local_size = 1, .listen_fd = -1};
    out->timeout_s = 300;
    PK_TRY(claim_flags(&d, f, &explicit));
    enum pk_launch_source w = PK_LAUNCH_FLAGS;
    if (!explicit) {
        PK_TRY(read_claims(&d));
        w = winner(&d);
        PK_TRY(w == PK_LAUNCH_SINGLE ? no_winner(&d) : check_others(&d, w));
    }
    out->source = w;
    if (w != PK_LAUNCH_SINGLE) {
        const struct claim *c = &d.claim[w];
        out->rank = (int)c->rank;
        out->size = (int)c->size;
        out->local_rank = (int)c->local_rank;
        out->local_size = (int)c->local_size;
        if (f->local_rank) out->local_rank = (int)d.claim[PK_LAUNCH_FLAGS].local_rank;
    }
    if (out->size == 1) out->local_rank = 0, out->local_size = 1;
    PK_TRY(read_extras(&d, f));
    PK_TRY(find_master(&d, f));
    return out->size > 1 ? check_meeting(&d) : PK_OK;
}
