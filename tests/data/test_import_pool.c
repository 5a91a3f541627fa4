/* test_import_pool.c -- results come in order whatever the workers do: die, hang, fail, lag. */
#include "datasets/import.h"
#include "tests/test.h"

#include <signal.h>
#include <sys/wait.h>
#include <errno.h>
#include <time.h>
#include <unistd.h>

enum { ITEMS = 500 };

struct seen {
    int64_t next, accepted, rejected, wrong;
    char why[ITEMS][96];
    int64_t stop_at; // accept fails there
    bool deadly;     // some items kill their worker
    bool hangs;      // one item never ends
};

static enum pk_status convert(void *self, int64_t item, void *slot, struct pk_err *err)
{
    const struct seen *s = self;
    int64_t *out = slot;
    if (out[0] || out[100]) return pk_fail(err, PK_EINTERNAL, "slot not zeroed");
    if (item % 7 == 3) { // some are slow, so that others overtake them
        struct timespec t = {.tv_nsec = 300000};
        nanosleep(&t, NULL);
    }
    if (s->deadly && item == 41) raise(SIGKILL);
    if (s->deadly && (item == 42 || item == 43)) {
        signal(SIGSEGV, SIG_DFL); // a sanitizer's handler takes seconds to tell its story
        raise(SIGSEGV);
    }
    if (s->deadly && item == 77) _exit(9);
    if (s->hangs && item == 130) pause();
    if (item % 50 == 49) return pk_fail(err, PK_EDATA, "item %lld is bad", (long long)item);
    for (int64_t k = 0; k <= 100; k++) out[k] = item * 1000 + k + 1;
    return PK_OK;
}

static enum pk_status accept(void *self, int64_t item, const void *slot, FILE *spill,
                             struct pk_err *err)
{
    struct seen *s = self;
    const int64_t *out = slot;
    s->wrong += spill != NULL;
    if (item == s->stop_at) return pk_fail(err, PK_EWRITE, "disk full");
    s->wrong += item != s->next++;
    for (int64_t k = 0; k <= 100; k++) s->wrong += out[k] != item * 1000 + k + 1;
    s->accepted++;
    return PK_OK;
}

static enum pk_status reject(void *self, int64_t item, const char *why, struct pk_err *err)
{
    struct seen *s = self;
    (void)err;
    s->wrong += item != s->next++;
    snprintf(s->why[item], sizeof s->why[item], "%s", why);
    s->rejected++;
    return PK_OK;
}

static struct pk_import job(struct seen *s, int32_t workers)
{
    return (struct pk_import){.count = ITEMS,
                              .slot_bytes = 101 * sizeof(int64_t),
                              .workers = workers,
                              .stall_seconds = s->hangs ? 5 : 60,
                              .self = s,
                              .convert = convert,
                              .accept = accept,
                              .reject = reject};
}

static bool no_children(void)
{
    return waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD;
}

int main(void)
{
    static const int32_t workers[] = {1, 2, 3, 8};
    static struct seen s;
    struct pk_err err = {0};
    for (size_t i = 0; i < PK_COUNT(workers); i++) {
        s = (struct seen){.stop_at = -1};
        struct pk_import j = job(&s, workers[i]);
        CHECK_OK(pk_import_run(&j, &err), &err);
        CHECK(s.next == ITEMS && s.wrong == 0 && s.rejected == 10 && s.accepted == 490);
        CHECK(!strcmp(s.why[49], "item 49 is bad"));
        CHECK(no_children());
        s = (struct seen){.stop_at = -1, .deadly = true, .hangs = workers[i] == 2};
        j = job(&s, workers[i]);
        CHECK_OK(pk_import_run(&j, &err), &err);
        CHECK(s.next == ITEMS && s.wrong == 0 && s.rejected == 14 + s.hangs &&
              s.accepted == 486 - s.hangs);
        CHECK(!strcmp(s.why[41], "the worker process died of signal 9 while converting it"));
        CHECK(strstr(s.why[42], "the worker process ") && strstr(s.why[43], "the worker process "));
        CHECK(!strcmp(s.why[77], "the worker process ended with code 9 while converting it"));
        CHECK(!s.hangs || !strcmp(s.why[130], "its conversion took longer than 5 s and was ended"));
        CHECK(no_children());
        s = (struct seen){.stop_at = 123};
        CHECK_FAILS(pk_import_run(&j, &err), PK_EWRITE, &err, "disk full");
        CHECK(s.next == 123 && no_children());
    }
    s = (struct seen){.stop_at = -1};
    struct pk_import j = job(&s, 2);
    j.count = 0;
    CHECK_OK(pk_import_run(&j, &err), &err);
    j.workers = 0;
    CHECK_FAILS(pk_import_run(&j, &err), PK_EINVAL, &err, "0 workers; 1 to 256");
    return TEST_END();
}
