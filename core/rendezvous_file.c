/* rendezvous_file.c -- publishing rank 0 in a file (see rendezvous_file.h). */
#include "core/rendezvous_file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_MAX = 4096 };

enum pk_status pk_token_random(char token[PK_TOKEN_BYTES], struct pk_err *err)
{
    unsigned char bytes[16];
    memset(token, 0, PK_TOKEN_BYTES);
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return pk_fail_errno(err, PK_EINTERNAL, "no random bytes");
    for (size_t i = 0; i < sizeof bytes; i++) snprintf(token + 2 * i, 3, "%02x", bytes[i]);
    return PK_OK;
}

static enum pk_status not_ours(const char *path, struct pk_err *err)
{
    return pk_fail(err, PK_ERANK,
                   "%s is no rendezvous file of this version; delete it, or choose another "
                   "PURKINJE_RENDEZVOUS",
                   path);
}

/* The value of the line "name value" into out; false if it is missing or does not fit. */
static bool field(const char *text, const char *name, char *out, size_t size)
{
    size_t n = strlen(name);
    for (const char *p = text; p; p = strchr(p, '\n')) {
        if (*p == '\n') p++;
        if (strncmp(p, name, n) != 0 || p[n] != ' ') continue;
        const char *value = p + n + 1, *end = strchr(value, '\n');
        if (!end || (size_t)(end - value) >= size) return false;
        memcpy(out, value, (size_t)(end - value));
        out[end - value] = 0;
        return true;
    }
    return false;
}

enum pk_status pk_meeting_read(const char *path, struct pk_meeting *m, struct pk_err *err)
{
    char *text, port[16], pid[32], written[64];
    int64_t p;
    *m = (struct pk_meeting){0};
    if (!pk_exists(path))
        return pk_fail(err, PK_ERANK, "rank 0 has not published itself in %s", path);
    if (pk_read_file(path, FILE_MAX, &text, NULL, err) != PK_OK) {
        if (err) err->status = PK_ERANK;
        return PK_ERANK;
    }
    bool good = !strncmp(text, "purkinje-rendezvous 1\n", 22) &&
                field(text, "host", m->host, sizeof m->host) &&
                field(text, "address", m->address, sizeof m->address) &&
                field(text, "token", m->token, sizeof m->token) &&
                field(text, "port", port, sizeof port) && field(text, "pid", pid, sizeof pid) &&
                field(text, "written", written, sizeof written) && pk_parse_i64(port, &p) &&
                p > 0 && p < 65536 && pk_parse_i64(pid, &m->pid) &&
                pk_parse_f64(written, &m->written);
    free(text);
    if (!good) return not_ours(path, err);
    m->port = (int)p;
    return PK_OK;
}

/* Whether the file of another rank 0 is that of a living one, as far as this host can tell. */
static bool alive(const struct pk_meeting *old, const struct pk_meeting *mine)
{
    int fd;
    if (strcmp(old->host, mine->host) != 0 || old->pid == mine->pid) return false;
    if (kill((pid_t)old->pid, 0) != 0 && errno == ESRCH) return false;
    if (pk_connect(&fd, old->address, old->port, pk_seconds() + 1, NULL) != PK_OK) return false;
    close(fd); // a process number can be used again, a listening port rarely too
    return true;
}

enum pk_status pk_meeting_publish(const char *path, const struct pk_meeting *m, struct pk_err *err)
{
    char tmp[PK_PATH_MAX], text[FILE_MAX];
    struct pk_meeting old;
    if (pk_meeting_read(path, &old, NULL) == PK_OK && alive(&old, m))
        return pk_fail(err, PK_ERANK,
                       "%s belongs to process %lld on host %s, which is waiting for its ranks: was "
                       "rank 0 started twice, or is it another job's file?",
                       path, (long long)old.pid, old.host);
    int n = snprintf(text, sizeof text,
                     "purkinje-rendezvous 1\nhost %s\naddress %s\nport %d\npid %lld\nwritten %.3f\n"
                     "token %s\n",
                     m->host, m->address, m->port, (long long)m->pid, m->written, m->token);
    PK_TRY(pk_path(tmp, err, "%s.%lld.part", path, (long long)m->pid));
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return pk_fail_errno(err, PK_EWRITE, "cannot create %s", tmp);
    bool good = fchmod(fd, 0600) == 0 && write(fd, text, (size_t)n) == n && fsync(fd) == 0;
    int why = errno;
    close(fd);
    if (!good) {
        remove(tmp);
        errno = why;
        return pk_fail_errno(err, PK_EWRITE, "cannot write %s", tmp);
    }
    return pk_rename(tmp, path, err);
}

void pk_meeting_withdraw(const char *path, const struct pk_meeting *m)
{
    struct pk_meeting now;
    if (pk_meeting_read(path, &now, NULL) == PK_OK && now.pid == m->pid &&
        !strcmp(now.host, m->host) && !strcmp(now.token, m->token))
        remove(path);
}
