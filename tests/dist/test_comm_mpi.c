/* test_comm_mpi.c -- the collectives over MPI: starts itself under mpirun with one to five ranks.
 * Skipped where the build has no MPI or no mpirun is there. */
#include "tests/dist/collectives.h"

#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void *abort_soon(void *ctx)
{
    struct pk_comm *c = ctx;
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    pk_comm_abort(c, "the disk is full");
    return NULL;
}

/* Ranks 1 .. wait for rank 0, which waits for rank 1, a thread of which ends that. */
static void one_gives_up(struct pk_comm *c)
{
    pthread_t thread;
    struct pk_err err = {0}, again = {0};
    char byte = 0, all[10];
    CHECK_OK(pk_comm_barrier(c, &err), &err); // all have started
    if (c->rank == 1) CHECK(pthread_create(&thread, NULL, abort_soon, c) == 0);
    enum pk_status s = c->rank ? pk_comm_broadcast(c, 0, &byte, 1, &err)
                               : pk_comm_gather(c, 0, &byte, all, 1, &err);
    CHECK_FAILS(s, PK_ERANK, &err, "rank 1 gave up: the disk is full");
    CHECK_FAILS(pk_comm_barrier(c, &again), PK_ERANK, &again, err.message);
    if (c->rank == 1) pthread_join(thread, NULL);
}

/* mpirun tells little about a job that fails, so each rank leaves a line in a file. */
static void leave_word(int rank)
{
    FILE *f = fopen(getenv("PK_TEST_WORD"), "a");
    if (!f) return;
    fprintf(f, "%d %s\n", rank, test_bad_ ? "bad" : "good");
    fclose(f);
}

static int count_good(const char *path)
{
    char *text = NULL;
    size_t n;
    int good = 0;
    if (pk_read_file(path, 1000, &text, &n, NULL) != PK_OK) return -1;
    for (const char *at = text; (at = strstr(at, "good")) != NULL; at++) good++;
    free(text);
    return good;
}

/* mpirun kills the others when one rank ends with an error. */
static void wait_for_words(int count)
{
    const double end = pk_seconds() + 30;
    const struct timespec moment = {.tv_nsec = 10000000};
    while (count_good(getenv("PK_TEST_WORD")) < count && pk_seconds() < end)
        nanosleep(&moment, NULL);
}

static int be_a_rank(const char *what)
{
    struct pk_comm *c;
    struct pk_err err = {0};
    alarm(60);
    CHECK_OK(pk_comm_mpi(&c, 30, &err), &err);
    if (!c) return 1;
    CHECK(c->size == (getenv("PK_TEST_RANKS")[0] - '0'));
    if (!strcmp(what, "collectives"))
        check_collectives(c);
    else
        one_gives_up(c);
    leave_word(c->rank);
    wait_for_words(c->size);
    pk_comm_free(c);
    return test_bad_ || !test_good_ ? 1 : !strcmp(what, "abort") ? pk_exit_code(PK_ERANK) : 0;
}

/* mpirun with this program; its exit status, -1 when it could not be started. */
static int launch(const char *mpirun, const char *self, int ranks, const char *what)
{
    char n[2] = {(char)('0' + ranks), 0};
    char *const words[] = {(char *)(uintptr_t)mpirun, "-n", n, (char *)(uintptr_t)self,
                           (char *)(uintptr_t)what,   NULL};
    pid_t pid;
    int status = -1;
    setenv("PK_TEST_RANKS", n, 1);
    if (posix_spawnp(&pid, mpirun, NULL, NULL, words, environ) != 0) return -1;
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
}

int main(int argc, char **argv)
{
#ifdef PK_WITH_MPI
    static const int sizes[] = {1, 2, 3, 4, 5};
    const char *mpirun = PK_MPIEXEC;
    if (argc == 2) return be_a_rank(argv[1]);
    if (access(mpirun, X_OK)) {
        fprintf(stderr, "skipped: no mpirun at '%s'\n", mpirun);
        return 77;
    }
    /* Open MPI refuses root, and more ranks than cores; other libraries do not look. */
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 1);
    setenv("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe", 1);
    char word[64];
    snprintf(word, sizeof word, "/tmp/pk-test-mpi-%ld", (long)getpid());
    setenv("PK_TEST_WORD", word, 1);
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1); // the library's own, of the ranks only
    for (size_t i = 0; i < PK_COUNT(sizes); i++) {
        remove(word);
        CHECK(launch(mpirun, argv[0], sizes[i], "collectives") == 0);
        CHECK(count_good(word) == sizes[i]);
    }
    remove(word);
    const int code = launch(mpirun, argv[0], 3, "abort");
    CHECK(code == 71 || code == SIGKILL); // Hydra kills the rest, and may pass on that
    CHECK(count_good(word) == 3);
    remove(word);
    return TEST_END();
#else
    struct pk_comm *c;
    struct pk_err err = {0};
    (void)argc, (void)argv;
    CHECK_FAILS(pk_comm_mpi(&c, 0, &err), PK_EMISSING, &err, "this build has no MPI");
    fprintf(stderr, "skipped: built without MPI\n");
    return test_bad_ ? 1 : 77;
#endif
}
