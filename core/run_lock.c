/* run_lock.c -- the lock of a run's folder (see run.h).
 *
 * The lock file is emptied, never deleted: deleting it while another process waits for it would
 * give the two of them a lock each. */
#include "core/run_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { REMOTE_STALE = 600 }; // seconds without a sign of life from another host

struct owner {
    char host[256];
    int64_t pid;
};

/* Contents are "HOST PID\n"; anything else is nobody. */
static bool read_owner(int fd, struct owner *out)
{
    char text[320];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    if (n <= 0) return false;
    text[n] = 0;
    char *space = strchr(text, ' '), *end = strchr(text, '\n');
    if (!space || !end || space > end || (size_t)(space - text) >= sizeof out->host) return false;
    *space = *end = 0;
    memcpy(out->host, text, (size_t)(space - text) + 1);
    return pk_parse_i64(space + 1, &out->pid) && out->pid > 0;
}

/* Seconds since anything of the run was written. */
static double idle(const struct pk_run *r)
{
    static const char *const names[] = {"lock", "run.json", "metrics.jsonl"};
    time_t newest = 0;
    for (size_t i = 0; i < PK_COUNT(names); i++) {
        char path[PK_PATH_MAX];
        struct stat st;
        if (pk_path(path, NULL, "%s/%s", r->dir, names[i]) == PK_OK && stat(path, &st) == 0)
            newest = PK_MAX(newest, st.st_mtime);
    }
    return difftime(time(NULL), newest);
}

static enum pk_status busy(const struct pk_run *r, const struct owner *o, struct pk_err *err)
{
    return pk_fail(err, PK_EMISSING,
                   "run %s is in use by process %lld on host %s; wait for it, stop it (kill %lld "
                   "there), or choose another folder",
                   r->dir, (long long)o->pid, o->host, (long long)o->pid);
}

/* The file is ours as far as flock can tell; decides what its contents mean. */
static enum pk_status judge(struct pk_run *r, const struct owner *o, bool flocked,
                            struct pk_err *err)
{
    bool here = !strcmp(o->host, r->host);
    if (here && !flocked && kill((pid_t)o->pid, 0) == 0) return busy(r, o, err);
    double quiet = idle(r);
    if (!here && quiet < REMOTE_STALE)
        return pk_fail(err, PK_EMISSING,
                       "run %s is in use by process %lld on host %s; if that host is gone, try "
                       "again in %.0f s or delete %s/lock",
                       r->dir, (long long)o->pid, o->host, REMOTE_STALE - quiet, r->dir);
    snprintf(r->note, sizeof r->note,
             "took over the lock of process %lld on host %.200s, which ended without releasing it",
             (long long)o->pid, o->host);
    return PK_OK;
}

enum pk_status pk_run_lock(struct pk_run *r, struct pk_err *err)
{
    char path[PK_PATH_MAX], text[320];
    struct owner owner = {"(unknown)", 0};
    PK_TRY(pk_path(path, err, "%s/lock", r->dir));
    if (gethostname(r->host, sizeof r->host - 1) != 0 || !r->host[0] || strchr(r->host, ' '))
        snprintf(r->host, sizeof r->host, "localhost");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return pk_fail_errno(err, PK_EWRITE, "cannot lock run %s", path);
    bool flocked = flock(fd, LOCK_EX | LOCK_NB) == 0;
    enum pk_status s = PK_OK;
    bool held = read_owner(fd, &owner);
    if (!flocked && (errno == EWOULDBLOCK || errno == EAGAIN))
        s = busy(r, &owner, err);
    else if (held)
        s = judge(r, &owner, flocked, err);
    int n = snprintf(text, sizeof text, "%s %lld\n", r->host, (long long)getpid());
    if (s == PK_OK && (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)n, 0) != n))
        s = pk_fail_errno(err, PK_EWRITE, "cannot write %s", path);
    if (s != PK_OK) {
        close(fd);
        return s;
    }
    r->lock_fd = fd;
    return PK_OK;
}

void pk_run_unlock(struct pk_run *r)
{
    if (r->lock_fd < 0) return;
    // Should emptying fail, the next start takes the lock of a dead process over, with a note.
    int ignored = ftruncate(r->lock_fd, 0);
    (void)ignored;
    close(r->lock_fd);
    r->lock_fd = -1;
}
