/* import.c -- forked workers, a ring of shared slots, results in input order (see import.h).
 *
 * Each worker has one socket: the parent sends item numbers, the worker answers each with the same
 * number once its slot is filled. At most DEPTH items wait at a worker, so it never starves while
 * the parent writes. A closed socket means the worker is gone: the first item it had not answered
 * is the culprit, the others go to its replacement. */
#include "datasets/import.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DEPTH = 4, SLOTS_PER_WORKER = 2 * DEPTH, IDLE_DEATHS_MAX = 100 };

struct slot_head { // in shared memory, before the result; padded to 64 bytes
    enum pk_status status;
    char message[PK_ERR_MAX];
};

struct worker {
    pid_t pid;
    int fd; // our end of the socket, -1 when there is no worker
    int32_t waiting;
    int64_t item[DEPTH]; // not yet answered, oldest first
    double since;        // when item[0] became the oldest
};

struct pool {
    const struct pk_import *job;
    struct worker *worker; // [job->workers]
    unsigned char *memory; // [slots, stride], shared
    size_t stride;
    int64_t slots;
    bool *done;     // [slots]
    int64_t *again; // [again_count] items of dead workers, to be handed out first
    int64_t again_count;
    int64_t next_send, next_take;
    int64_t idle_deaths;
};

static double stall_limit(const struct pool *p)
{
    return p->job->stall_seconds > 0 ? p->job->stall_seconds : 120;
}

static size_t head_bytes(void)
{
    return (sizeof(struct slot_head) + 63) / 64 * 64;
}

static struct slot_head *slot_of(const struct pool *p, int64_t item)
{
    return (struct slot_head *)(void *)(p->memory + (size_t)(item % p->slots) * p->stride);
}

static void *result_of(const struct pool *p, int64_t item)
{
    return (unsigned char *)slot_of(p, item) + head_bytes();
}

/* Whole item numbers; false when the other side is gone. */
static bool send_item(int fd, int64_t item)
{
    ssize_t n;
    do n = send(fd, &item, sizeof item, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof item;
}

static bool receive_item(int fd, int64_t *item)
{
    ssize_t n;
    do n = recv(fd, item, sizeof *item, MSG_WAITALL);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof *item;
}

/* The life of a worker: it ends with the parent, whose end of the socket then closes. */
static void work(const struct pool *p, int fd)
{
    int64_t item;
    while (receive_item(fd, &item)) {
        struct slot_head *head = slot_of(p, item);
        struct pk_err err = {0};
        memset(result_of(p, item), 0, p->job->slot_bytes);
        head->status = p->job->convert(p->job->self, item, result_of(p, item), &err);
        memcpy(head->message, err.message, sizeof head->message);
        if (!send_item(fd, item)) break;
    }
    _exit(0); // not exit(): the parent's buffers and handlers are not ours
}

static enum pk_status start_worker(struct pool *p, struct worker *w, struct pk_err *err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        return pk_fail_errno(err, PK_EINTERNAL, "cannot create a socket for a worker");
    const pid_t parent = getpid();
    pid_t pid = fork();
    if (pid < 0) {
        pk_fail_errno(err, PK_EINTERNAL, "cannot start a worker process");
        close(pair[0]);
        close(pair[1]);
        return PK_EINTERNAL;
    }
    if (pid == 0) {
        // it holds copies of the parent's connections: who waits for those to close must not wait
        // for a worker that is still at an item
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(0);
        // a copy of another worker's socket here would hide the parent's end from that worker
        for (int32_t i = 0; i < p->job->workers; i++)
            if (p->worker[i].fd >= 0) close(p->worker[i].fd);
        close(pair[0]);
        work(p, pair[1]);
    }
    close(pair[1]);
    *w = (struct worker){.pid = pid, .fd = pair[0]};
    return PK_OK;
}

static void wait_for(const struct worker *w, int *how)
{
    while (waitpid(w->pid, how, 0) < 0 && errno == EINTR) {
    }
}

/* Notes an answer; false when it is not the one that is due. */
static bool note_answer(struct pool *p, struct worker *w, int64_t item)
{
    if (!w->waiting || item != w->item[0]) return false;
    p->done[item % p->slots] = true;
    memmove(w->item, w->item + 1, (size_t)--w->waiting * sizeof *w->item);
    w->since = pk_seconds();
    return true;
}

/* A worker is gone (or is made so, when `stalled`): rejects its oldest item, starts another. */
static enum pk_status replace_worker(struct pool *p, struct worker *w, bool stalled,
                                     struct pk_err *err)
{
    bool answered = false;
    int how = 0;
    int64_t answer;
    kill(w->pid, SIGKILL); // the socket may be closed while the process still lingers
    wait_for(w, &how);
    // what it finished before it died is still in the socket
    while (recv(w->fd, &answer, sizeof answer, MSG_DONTWAIT) == (ssize_t)sizeof answer)
        answered = note_answer(p, w, answer) || answered;
    close(w->fd);
    w->fd = -1;
    if (stalled && answered) { // it answered just before it was ended: nobody is to blame
        for (int32_t i = 0; i < w->waiting; i++) p->again[p->again_count++] = w->item[i];
    } else if (w->waiting) {
        struct slot_head *head = slot_of(p, w->item[0]);
        head->status = PK_EDATA;
        if (stalled)
            snprintf(head->message, sizeof head->message,
                     "its conversion took longer than %g s and "
                     "was ended",
                     stall_limit(p));
        else if (WIFSIGNALED(how))
            snprintf(head->message, sizeof head->message,
                     "the worker process died of signal %d "
                     "while converting it",
                     WTERMSIG(how));
        else
            snprintf(head->message, sizeof head->message,
                     "the worker process ended with code %d "
                     "while converting it",
                     WEXITSTATUS(how));
        p->done[w->item[0] % p->slots] = true;
        for (int32_t i = 1; i < w->waiting; i++) p->again[p->again_count++] = w->item[i];
    } else if (++p->idle_deaths > IDLE_DEATHS_MAX) {
        return pk_fail(err, PK_EINTERNAL, "worker processes keep dying before they get work");
    }
    return start_worker(p, w, err);
}

/* Hands out items while workers and slots have room. */
static enum pk_status hand_out(struct pool *p, struct pk_err *err)
{
    for (;;) {
        bool repeat = p->again_count > 0;
        if (!repeat && (p->next_send == p->job->count || p->next_send == p->next_take + p->slots))
            return PK_OK;
        struct worker *best = &p->worker[0];
        for (int32_t i = 1; i < p->job->workers; i++)
            if (p->worker[i].waiting < best->waiting) best = &p->worker[i];
        if (best->waiting == DEPTH) return PK_OK;
        int64_t item = repeat ? p->again[p->again_count - 1] : p->next_send;
        if (!send_item(best->fd, item)) {
            PK_TRY(replace_worker(p, best, false, err));
            continue;
        }
        if (repeat)
            p->again_count--;
        else
            p->next_send++;
        if (best->waiting == 0) best->since = pk_seconds();
        best->item[best->waiting++] = item;
    }
}

/* Waits for answers, up to a second, and notes them. */
static enum pk_status collect(struct pool *p, struct pollfd *fds, struct pk_err *err)
{
    double limit = stall_limit(p);
    for (int32_t i = 0; i < p->job->workers; i++)
        fds[i] = (struct pollfd){.fd = p->worker[i].fd, .events = POLLIN};
    if (poll(fds, (nfds_t)p->job->workers, (int)(1000 * PK_MIN(limit, 1.0))) < 0 && errno != EINTR)
        return pk_fail_errno(err, PK_EINTERNAL, "cannot wait for the workers");
    for (int32_t i = 0; i < p->job->workers; i++) {
        struct worker *w = &p->worker[i];
        int64_t item;
        if (fds[i].revents) {
            if (!receive_item(w->fd, &item) || !note_answer(p, w, item))
                PK_TRY(replace_worker(p, w, false, err));
        } else if (w->waiting && pk_seconds() - w->since > limit) {
            PK_TRY(replace_worker(p, w, true, err));
        }
    }
    return PK_OK;
}

static void remove_spill(const struct pool *p, int64_t item)
{
    char path[PK_PATH_MAX];
    struct pk_err ignored;
    if (p->job->spill && p->job->spill(p->job->self, item, path, &ignored) == PK_OK) remove(path);
}

static enum pk_status accept_item(const struct pool *p, int64_t item, struct pk_err *err)
{
    const struct pk_import *job = p->job;
    char path[PK_PATH_MAX];
    FILE *f = NULL;
    if (!job->spill) return job->accept(job->self, item, result_of(p, item), NULL, err);
    PK_TRY(job->spill(job->self, item, path, err));
    PK_TRY(pk_open(&f, path, "rb", err));
    enum pk_status s = job->accept(job->self, item, result_of(p, item), f, err);
    fclose(f);
    return s;
}

static enum pk_status take_results(struct pool *p, struct pk_err *err)
{
    while (p->next_take < p->next_send && p->done[p->next_take % p->slots]) {
        int64_t item = p->next_take;
        struct slot_head *head = slot_of(p, item);
        head->message[sizeof head->message - 1] = 0;
        if (head->status == PK_ENOMEM || head->status == PK_EWRITE)
            return pk_fail(err, head->status, "%s", head->message);
        if (head->status == PK_OK)
            PK_TRY(accept_item(p, item, err));
        else
            PK_TRY(p->job->reject(p->job->self, item, head->message, err));
        remove_spill(p, item);
        p->done[item % p->slots] = false;
        p->next_take++;
    }
    return PK_OK;
}

static enum pk_status run(struct pool *p, struct pollfd *fds, struct pk_err *err)
{
    for (int32_t i = 0; i < p->job->workers; i++) PK_TRY(start_worker(p, &p->worker[i], err));
    while (p->next_take < p->job->count) {
        if (p->job->watch) PK_TRY(p->job->watch(p->job->self, err));
        PK_TRY(hand_out(p, err));
        PK_TRY(collect(p, fds, err));
        PK_TRY(take_results(p, err));
    }
    return PK_OK;
}

enum pk_status pk_import_run(const struct pk_import *job, struct pk_err *err)
{
    if (job->workers < 1 || job->workers > PK_IMPORT_WORKERS_MAX)
        return pk_fail(err, PK_EINVAL, "%d workers; 1 to %d are possible", job->workers,
                       PK_IMPORT_WORKERS_MAX);
    struct pool p = {.job = job, .slots = (int64_t)job->workers * SLOTS_PER_WORKER};
    struct pollfd *fds = NULL;
    p.stride = head_bytes() + (job->slot_bytes + 63) / 64 * 64;
    size_t bytes = p.stride * (size_t)p.slots;
    p.memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p.memory == MAP_FAILED)
        return pk_fail_errno(err, PK_ENOMEM, "cannot map %zu bytes for %d workers", bytes,
                             job->workers);
    enum pk_status s = pk_alloc(&p.worker, (size_t)job->workers, sizeof *p.worker, "workers", err);
    for (int32_t i = 0; s == PK_OK && i < job->workers; i++) p.worker[i].fd = -1;
    if (s == PK_OK) s = pk_alloc(&p.done, (size_t)p.slots, sizeof *p.done, "slots", err);
    if (s == PK_OK) s = pk_alloc(&p.again, (size_t)p.slots, sizeof *p.again, "slots", err);
    if (s == PK_OK) s = pk_alloc(&fds, (size_t)job->workers, sizeof *fds, "workers", err);
    if (s == PK_OK) s = run(&p, fds, err);
    for (int32_t i = 0; p.worker && i < job->workers; i++) {
        int how;
        if (p.worker[i].fd < 0) continue;
        if (s != PK_OK) kill(p.worker[i].pid, SIGKILL);
        close(p.worker[i].fd); // an idle worker ends when it sees that
        wait_for(&p.worker[i], &how);
    }
    for (int64_t i = p.next_take; s != PK_OK && i < p.next_send; i++) remove_spill(&p, i);
    free(p.worker);
    free(p.done);
    free(p.again);
    free(fds);
    munmap(p.memory, bytes);
    return s;
}
