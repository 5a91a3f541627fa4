/* test_rendezvous.c -- ranks, as processes of this host, find each other or say exactly why not. */
#include "core/rendezvous.h"
#include "core/rendezvous_file.h"
#include "tests/test.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 8, PATIENCE = 30 }; // seconds that a process may take which is to succeed
#define BUSY 4.0 // s by which a busy machine may hold up one process more than another

struct result {
    enum pk_status status;
    char message[PK_ERR_MAX], said[1024];
    int local_rank, local_size, rejected;
    double seconds;
    bool told, met;
};

struct process {
    struct pk_launch launch;
    struct pk_world_identity id;
    double delay; // s before it starts
    pid_t pid;
};

static struct result *results; // [MOST], shared with the children
static char folder[64];

static void hear(void *ctx, const char *line)
{
    char *text = ctx;
    size_t n = strlen(text);
    snprintf(text + n, 1024 - n, "%s\n", line);
}

/* Every pair exchanges its ranks over the mesh, and everybody with 0 over the heartbeat's. */
static bool greet(const struct pk_world *w)
{
    bool good = true;
    double end = pk_seconds() + PATIENCE;
    for (int r = 0; r < w->size; r++) {
        int64_t me = 1000 + w->rank, other = -1;
        if (r == w->rank) {
            good = good && w->fd[r] == -1;
            continue;
        }
        good = good && pk_send_all(w->fd[r], &me, sizeof me, end, "peer", NULL) == PK_OK;
        good = good && pk_receive_all(w->fd[r], &other, sizeof other, end, "peer", NULL) == PK_OK;
        good = good && other == 1000 + r && w->peer[r].pid > 0 && w->peer[r].host[0];
        bool beat = w->rank == 0 || r == 0;
        good = good && (w->beat_fd[r] >= 0) == beat;
        if (!beat) continue;
        me += 1000;
        good = good && pk_send_all(w->beat_fd[r], &me, sizeof me, end, "peer", NULL) == PK_OK;
        good = good && pk_receive_all(w->beat_fd[r], &other, 8, end, "peer", NULL) == PK_OK;
        good = good && other == 2000 + r;
    }
    return good;
}

static void child(const struct process *p, struct result *out)
{
    struct pk_world w;
    struct pk_err err = {0};
    struct pk_world_identity id = p->id;
    id.say = hear;
    id.ctx = out->said;
    pk_pause(p->delay);
    double begun = pk_seconds();
    out->status = pk_world_join(&w, &p->launch, &id, &err);
    out->seconds = pk_seconds() - begun;
    memcpy(out->message, err.message, sizeof out->message);
    out->told = w.told;
    out->rejected = w.rejected;
    out->local_rank = w.local_rank;
    out->local_size = w.local_size;
    if (out->status == PK_OK) out->met = greet(&w);
    pk_world_leave(&w);
    _exit(0);
}

static void start_one(struct process *p, int i)
{
    fflush(NULL);
    p[i].pid = fork();
    if (p[i].pid == 0) child(&p[i], &results[i]);
    CHECK(p[i].pid > 0);
}

static void start(struct process *p, int n)
{
    memset(results, 0, MOST * sizeof *results);
    for (int i = 0; i < n; i++) start_one(p, i);
}

static void finish(struct process *p, int n)
{
    for (int i = 0; i < n; i++) {
        int code = -1;
        CHECK(waitpid(p[i].pid, &code, 0) == p[i].pid);
        CHECK(WIFEXITED(code) || WIFSIGNALED(code));
    }
}

/* Processes that are ranks 0 .. n - 1 of n and meet through a file. */
static void prepare(struct process *p, int n, double timeout)
{
    for (int i = 0; i < n; i++) {
        p[i] = (struct process){.id = {.recipe = 7, .binary = 9}};
        p[i].launch = (struct pk_launch){.source = PK_LAUNCH_FLAGS,
                                         .rank = i,
                                         .size = n,
                                         .local_rank = -1,
                                         .local_size = -1,
                                         .listen_fd = -1,
                                         .timeout_s = timeout};
        snprintf(p[i].launch.file, sizeof p[i].launch.file, "%s/meet", folder);
    }
}

static void expect_joined(int n)
{
    for (int i = 0; i < n; i++) {
        CHECK(results[i].status == PK_OK && results[i].met);
        CHECK(results[i].local_rank == i && results[i].local_size == n);
        if (results[i].status != PK_OK) fprintf(stderr, "rank %d: %s\n", i, results[i].message);
    }
}

static bool told(int i, enum pk_status s, const char *text)
{
    bool good = results[i].status == s && strstr(results[i].message, text);
    if (!good) fprintf(stderr, "process %d: '%s', wanted '%s'\n", i, results[i].message, text);
    return good;
}

static void test_sizes(void)
{
    static const int sizes[] = {1, 2, 4, 8};
    struct process p[MOST];
    for (size_t k = 0; k < PK_COUNT(sizes); k++) {
        int n = sizes[k];
        prepare(p, n, PATIENCE);
        p[0].delay = n == 4 ? 0.2 : 0; // the others have to wait for the file
        start(p, n);
        finish(p, n);
        expect_joined(n);
        CHECK(!pk_exists(p[0].launch.file)); // taken away once all are there
        if (n > 1) CHECK(strstr(results[0].said, "listens on"));
    }
}

static void test_ways_to_meet(void)
{
    struct process p[MOST];
    struct pk_listener l;
    struct pk_err err = {0};
    prepare(p, 3, PATIENCE); // a port that is known, on a socket that the launcher opened
    CHECK_OK(pk_listen(&l, "127.0.0.1", 0, &err), &err);
    for (int i = 0; i < 3; i++) {
        p[i].launch.file[0] = 0;
        snprintf(p[i].launch.master, sizeof p[i].launch.master, "localhost");
        p[i].launch.port = l.port;
    }
    p[0].launch.listen_fd = l.fd;
    start(p, 3);
    pk_listen_close(&l);
    finish(p, 3);
    expect_joined(3);
    for (int i = 0; i < 3; i++) { // ports that are derived from the job; one of them is taken
        p[i].launch.listen_fd = -1;
        p[i].launch.port = 0;
        snprintf(p[i].launch.job, sizeof p[i].launch.job, "cluster/77/%d", (int)getpid());
    }
    for (int i = 0; i < 3; i++) { // ranks of one host need no name for it
        p[i].launch.local_rank = i;
        p[i].launch.local_size = 3;
        snprintf(p[i].launch.master, sizeof p[i].launch.master, "no-such-host.invalid");
    }
    start(p, 3);
    finish(p, 3);
    expect_joined(3);
    int port = 20000 + (int)(pk_hash64(p[0].launch.job, strlen(p[0].launch.job), 0) % 12000);
    CHECK_OK(pk_listen(&l, "127.0.0.1", port, &err), &err); // a listener that never answers
    start(p, 3);
    finish(p, 3);
    pk_listen_close(&l);
    expect_joined(3);
}

/* Ranks of another job, and strangers that send nonsense or nothing, do not get in or hold up. */
static void test_token(void)
{
    struct process p[MOST];
    struct pk_meeting m;
    struct pk_err err = {0};
    int noise[3] = {-1, -1, -1};
    prepare(p, 2, BUSY);
    snprintf(p[0].launch.token, PK_LAUNCH_TEXT, "secret");
    snprintf(p[1].launch.token, PK_LAUNCH_TEXT, "secreT");
    start(p, 2);
    finish(p, 2);
    CHECK(told(0, PK_ERANK, "rank 1 of 2 did not join"));
    CHECK(told(0, PK_ERANK, "turned away"));
    CHECK(told(1, PK_ERANK, "is not this job's rank 0") && !results[1].told);
    CHECK(results[0].seconds < 2 * BUSY && results[1].seconds < 2 * BUSY);

    prepare(p, 3, PATIENCE);
    start(p, 2); // rank 2 comes after the strangers
    while (pk_meeting_read(p[0].launch.file, &m, &err) != PK_OK) pk_pause(0.01);
    struct stat st;
    CHECK(stat(p[0].launch.file, &st) == 0 && (st.st_mode & 077) == 0); // a secret is in there
    CHECK(strlen(m.token) == 32);
    for (int i = 0; i < 3; i++)
        CHECK_OK(pk_connect(&noise[i], m.address, m.port, pk_seconds() + PATIENCE, &err), &err);
    CHECK(send(noise[0], "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL) == 18);
    uint64_t magic = pk_hello_magic();
    CHECK(send(noise[1], &magic, sizeof magic, MSG_NOSIGNAL) == 8); // and then nothing
    char byte;
    CHECK(recv(noise[0], &byte, 1, 0) <= 0); // is turned away
    start_one(p, 2);
    finish(p, 3);
    expect_joined(3);
    CHECK(results[0].rejected >= 1);
    for (int i = 0; i < 3; i++) close(noise[i]);
}

static void test_wrong_ranks(void)
{
    struct process p[MOST];
    prepare(p, 3, PATIENCE); // rank 1 twice, rank 2 not yet
    p[2].launch.rank = 1;
    start(p, 3);
    finish(p, 3);
    CHECK(told(0, PK_ERANK, "rank 1 (") && told(0, PK_ERANK, "was started twice"));
    CHECK(told(1, PK_ERANK, "was started twice") && told(2, PK_ERANK, "was started twice"));
    CHECK(results[0].seconds < PATIENCE / 2 && !results[0].told && results[1].told &&
          results[2].told);

    prepare(p, 4, BUSY); // 2 and 3 are missing
    start(p, 2);
    finish(p, 2);
    CHECK(told(0, PK_ERANK, "ranks 2-3 of 4 did not join"));
    CHECK(told(1, PK_ERANK, "ranks 2-3 of 4 did not join") && results[1].told);

    prepare(p, 3, 5); // one more than there may be
    p[2].launch.rank = 3;
    start(p + 2, 1);
    finish(p + 2, 1);
    CHECK(told(0, PK_EUSAGE, "rank 3 of 3 does not exist"));

    prepare(p, 3, PATIENCE); // different opinions on how many there are; rank 1 is in by then
    p[2].delay = 1.5;
    p[2].launch.size = 6;
    start(p, 3);
    finish(p, 3);
    CHECK(told(0, PK_EUSAGE, "says there are 6 ranks, rank 0 says 3"));
    CHECK(told(1, PK_EUSAGE, "says there are 6 ranks"));

    prepare(p, 3, PATIENCE); // one that dies while others are awaited
    start(p, 2);
    pk_pause(BUSY / 2);
    CHECK(kill(p[1].pid, SIGKILL) == 0);
    finish(p, 2);
    CHECK(told(0, PK_ERANK, "left again while others were awaited"));
}

static void test_identity(void)
{
    struct process p[MOST];
    prepare(p, 3, PATIENCE);
    p[2].delay = 1.5; // rank 1 is in by then
    p[2].id.recipe = 8;
    p[2].id.host = "elsewhere";
    start(p, 3);
    finish(p, 3);
    CHECK(told(0, PK_EUSAGE, "rank 2 (elsewhere, process"));
    CHECK(told(1, PK_EUSAGE, "another recipe than rank 0"));
    CHECK(told(2, PK_EUSAGE, "another recipe than rank 0"));

    prepare(p, 2, PATIENCE);
    p[1].id.version = "0.0.1";
    start(p, 2);
    finish(p, 2);
    CHECK(told(0, PK_EUSAGE, "another program than rank 0: version 0.0.1"));

    prepare(p, 2, PATIENCE);
    p[1].id.binary = 1;
    start(p, 2);
    finish(p, 2);
    CHECK(told(1, PK_EUSAGE, "another program than rank 0"));

    prepare(p, 4, PATIENCE); // two hosts, interleaved, one with a wrong clock
    for (int i = 0; i < 4; i++) p[i].id.host = i % 2 ? "odd" : "even";
    p[3].id.clock = (double)time(NULL) + 100;
    start(p, 4);
    finish(p, 4);
    for (int i = 0; i < 4; i++) {
        CHECK(results[i].status == PK_OK && results[i].met);
        CHECK(results[i].local_rank == i / 2 && results[i].local_size == 2);
    }
    const char *warning = "warning: the clock of rank 3 (odd) is ";
    const char *at = strstr(results[0].said, warning);
    CHECK(at && strstr(at, " s ahead of"));
    const double ahead = at ? strtod(at + strlen(warning), NULL) : 0;
    CHECK(ahead > 100 - PATIENCE && ahead <= 100); // less what it took to come there
}

static void test_files(void)
{
    struct process p[MOST];
    struct pk_meeting old = {.address = "127.0.0.1", .token = "old", .written = 1e9};
    struct pk_listener l;
    struct pk_err err = {0};
    char host[PK_HOST_TEXT] = "";
    CHECK(gethostname(host, sizeof host - 1) == 0);
    CHECK_OK(pk_listen(&l, "127.0.0.1", 0, &err), &err);
    memcpy(old.host, host, sizeof host);
    old.port = l.port;
    pid_t dead = fork();
    if (dead == 0) _exit(0);
    CHECK(waitpid(dead, NULL, 0) == dead);
    old.pid = dead;

    prepare(p, 3, PATIENCE); // left by a job that is gone, whose port somebody else has now
    CHECK_OK(pk_meeting_publish(p[0].launch.file, &old, &err), &err);
    p[0].delay = 0.3;
    start(p, 3);
    finish(p, 3);
    expect_joined(3);

    CHECK_OK(pk_meeting_publish(p[0].launch.file, &old, &err), &err);
    pk_listen_close(&l);
    prepare(p, 2, 0.5); // the same, and no rank 0
    start(p + 1, 1);
    finish(p + 1, 1);
    CHECK(told(0, PK_ERANK, "rank 1 on") && told(0, PK_ERANK, p[0].launch.file));
    CHECK(told(0, PK_ERANK, "cannot connect") && told(0, PK_ERANK, "s ago by process"));

    CHECK_OK(pk_listen(&l, "127.0.0.1", 0, &err), &err);
    old.pid = getppid(); // a living owner
    old.port = l.port;
    remove(p[0].launch.file);
    CHECK_OK(pk_meeting_publish(p[0].launch.file, &old, &err), &err);
    prepare(p, 2, 0.5);
    start(p, 1);
    finish(p, 1);
    CHECK(told(0, PK_ERANK, "was rank 0 started twice"));
    pk_listen_close(&l);
    remove(p[0].launch.file);

    CHECK_OK(pk_write_file(p[0].launch.file, "hello\n", 6, &err), &err);
    CHECK_FAILS(pk_meeting_read(p[0].launch.file, &old, &err), PK_ERANK, &err, "no rendezvous");
    remove(p[0].launch.file);
    CHECK_FAILS(pk_meeting_read(p[0].launch.file, &old, &err), PK_ERANK, &err, "not published");
}

static void test_addresses(void)
{
    struct process p[MOST];
    struct pk_listener l;
    struct pk_err err = {0};
    prepare(p, 2, PATIENCE);
    for (int i = 0; i < 2; i++) snprintf(p[i].launch.interface, PK_LAUNCH_TEXT, "lo");
    start(p, 2);
    finish(p, 2);
    expect_joined(2);
    CHECK(strstr(results[0].said, "interface lo"));

    prepare(p, 2, PATIENCE);
    snprintf(p[0].launch.interface, PK_LAUNCH_TEXT, "nonesuch");
    start(p, 1);
    finish(p, 1);
    CHECK(told(0, PK_EUSAGE, "no interface 'nonesuch'") && told(0, PK_EUSAGE, " lo"));

    CHECK_OK(pk_listen(&l, "127.0.0.1", 0, &err), &err); // MASTER_PORT is taken
    prepare(p, 2, 0.5);
    p[0].launch.file[0] = 0;
    p[0].launch.port = l.port;
    snprintf(p[0].launch.master, PK_LAUNCH_TEXT, "127.0.0.1");
    start(p, 1);
    finish(p, 1);
    CHECK(told(0, PK_ERANK, "is another rank 0 running") && told(0, PK_ERANK, "cannot listen"));
    pk_listen_close(&l);

    prepare(p, 2, 0.5); // a name that nobody has
    p[1].launch.file[0] = 0;
    p[1].launch.port = 9;
    snprintf(p[1].launch.master, PK_LAUNCH_TEXT, "no-such-host.invalid");
    start(p + 1, 1);
    finish(p + 1, 1);
    CHECK(told(0, PK_ERANK, "'no-such-host.invalid' cannot be resolved"));
}

static void test_rank_list(void)
{
    bool set[8] = {true, false, true, true, true, false, true, true};
    char text[64];
    pk_rank_list(text, sizeof text, set, 8);
    CHECK(!strcmp(text, "0, 2-4, 6-7"));
    pk_rank_list(text, 6, set, 8); // cut, never beyond the end
    CHECK(strlen(text) < 6);
}

int main(void)
{
    results = mmap(NULL, MOST * sizeof *results, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                   -1, 0);
    snprintf(folder, sizeof folder, "/tmp/purkinje-rendezvous-XXXXXX");
    if (results == MAP_FAILED || !mkdtemp(folder)) return 1;
    test_rank_list();
    test_sizes();
    test_ways_to_meet();
    test_token();
    test_wrong_ranks();
    test_identity();
    test_files();
    test_addresses();
    CHECK(rmdir(folder) == 0); // no test left anything there
    return TEST_END();
}
