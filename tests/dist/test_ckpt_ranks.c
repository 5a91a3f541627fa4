/* test_ckpt_ranks.c -- checkpoints that several ranks write together: what they wrote is read,
 * whatever their number; training does not wait for a disk; a rank that cannot write fails all of
 * them and leaves what was there.
 *     test_ckpt_ranks write RANK FD DIR FROM TO   one of two ranks, FD leads to the other
 *     test_ckpt_ranks check DIR                   prints the step of what opens, or "none"
 * test_ckpt_ranks_faults.py kills these two ranks at every system call that matters. */
#include "core/ckpt_folder.h"
#include "core/ckpt_ranks.h"
#include "tests/dist/ranks.h"

#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

enum { TENSORS = 10, WIDE = 1000, STALL_STEPS = 40 };

/* A disk that answers when it is let: the library's syncs come here. */
static atomic_bool disk_hangs;

int fsync(int fd)
{
    const struct timespec moment = {0, 1000000};
    while (atomic_load(&disk_hangs)) nanosleep(&moment, NULL);
    return (int)syscall(SYS_fsync, fd);
}

struct model {
    float weight[WIDE], moment[TENSORS][WIDE];
    char name[TENSORS][24], shard[48], state[64];
    struct pk_tensor_ref weights, moments[TENSORS];
    struct pk_ckpt_file file[2];
};

static void make(struct model *m, int64_t step)
{
    for (int i = 0; i < WIDE; i++) m->weight[i] = (float)(step * 7 + i);
    m->weights = (struct pk_tensor_ref){"weight", PK_TENSOR_F32, 1, {WIDE}, m->weight};
    for (int k = 0; k < TENSORS; k++) {
        for (int i = 0; i < WIDE; i++) m->moment[k][i] = (float)(step * 100 + k) - (float)i;
        if (!m->name[k][0]) snprintf(m->name[k], sizeof m->name[k], "tensor.%d", k); // borrowed
        m->moments[k] =
            (struct pk_tensor_ref){m->name[k], PK_TENSOR_F32, 1, {WIDE - k}, m->moment[k]};
    }
    snprintf(m->state, sizeof m->state, "{\"step\": %lld}", (long long)step);
}

/* This rank's files: the first has the weights too; with 4 ranks, one has no moments. */
static struct pk_ckpt_content share(struct model *m, int64_t step, int rank, int ranks)
{
    const int units = ranks == 4 ? 3 : ranks, unit = PK_MIN(rank, units);
    const int first = TENSORS * unit / units, last = TENSORS * PK_MIN(unit + 1, units) / units;
    make(m, step);
    char shard[sizeof m->shard];
    snprintf(shard, sizeof shard, "moment-%05d-of-%05d.safetensors", rank + 1, ranks);
    if (strcmp(m->shard, shard) != 0) memcpy(m->shard, shard, sizeof shard);
    m->file[0] = (struct pk_ckpt_file){m->shard, m->moments + first, last - first};
    m->file[1] = (struct pk_ckpt_file){"model.safetensors", &m->weights, 1};
    return (struct pk_ckpt_content){step, rank == 0 ? 2 : 1, m->file, rank ? NULL : m->state};
}

/* The step of what opens and has the right content; 0 nothing there, -1 broken. */
static int64_t opens(const char *dir, struct pk_err *err)
{
    static struct model got, want;
    struct pk_ckpt c;
    enum pk_status s = pk_ckpt_open(&c, dir, err);
    if (s != PK_OK) return s == PK_EMISSING ? 0 : -1;
    make(&got, 0);
    make(&want, c.step);
    s = pk_ckpt_read(&c, "model.safetensors", &got.weights, 1, true, err);
    if (s == PK_OK) s = pk_ckpt_read(&c, "moment.safetensors", got.moments, TENSORS, true, err);
    bool same = s == PK_OK && !memcmp(got.weight, want.weight, sizeof want.weight);
    for (int k = 0; k < TENSORS; k++) // what a tensor does not have keeps the value of step 0
        same = same && !memcmp(got.moment[k], want.moment[k], (WIDE - (size_t)k) * sizeof(float));
    const int64_t step = same ? c.step : -1;
    pk_ckpt_close(&c);
    return step;
}

/* What is in a folder besides checkpoints and `latest`. */
static int leftovers(const char *dir)
{
    struct dirent *e;
    int n = 0;
    DIR *d = opendir(dir);
    while (d && (e = readdir(d)))
        n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && strcmp(e->d_name, "latest") &&
             strncmp(e->d_name, "step-", 5);
    if (d) closedir(d);
    return n;
}

/* A step of training, as far as checkpoints go: the ranks' votes, and what follows from them. */
static enum pk_status train(struct pk_ckpt_ranks *r, struct pk_comm *c, bool *settled,
                            struct pk_err *err)
{
    unsigned char votes[WORLD_MAX] = {0}, any = 0;
    votes[c->rank] = pk_ckpt_ranks_writing(r);
    PK_TRY(pk_comm_all_gather(c, votes, 1, err));
    for (int k = 0; k < c->size; k++) any |= votes[k];
    *settled = !any;
    return any ? PK_OK : pk_ckpt_ranks_settle(r, err);
}

static enum pk_status save(struct pk_ckpt_ranks *r, struct pk_comm *c, int64_t step,
                           struct pk_err *err)
{
    static struct model m;
    const struct pk_ckpt_keep keep = {.last = 2};
    const struct pk_ckpt_content mine = share(&m, step, c->rank, c->size);
    return pk_ckpt_ranks_submit(r, &mine, 1 << 20, &keep, err);
}

static enum pk_status write_all(struct pk_comm *c, const char *dir, int64_t from, int64_t to,
                                struct pk_err *err)
{
    struct pk_ckpt_ranks *r = NULL;
    bool settled = false;
    enum pk_status s = pk_ckpt_ranks_start(&r, c, dir, err);
    for (int64_t step = from; s == PK_OK && step <= to; step++) {
        s = save(r, c, step, err);
        for (settled = step % 2; s == PK_OK && !settled;) s = train(r, c, &settled, err);
    }
    if (s == PK_OK) s = pk_ckpt_ranks_finish(r, err);
    pk_ckpt_ranks_stop(r);
    return s;
}

/* --- tests ----------------------------------------------------------------------------------- */

static void write_three(struct pk_comm *c, void *ctx)
{
    struct pk_err err = {0};
    int blind = 7;
    CHECK_OK(pk_ckpt_ranks_see(c, ctx, &blind, &err), &err);
    CHECK(blind == -1 && (c->rank || leftovers(ctx) == 0));
    CHECK_OK(write_all(c, ctx, 1, 3, &err), &err);
}

static void flip(const char *path, long offset)
{
    FILE *f = fopen(path, "r+b");
    CHECK(f != NULL);
    if (!f) return;
    fseek(f, offset, SEEK_SET);
    int c = fgetc(f);
    fseek(f, offset, SEEK_SET);
    fputc(c ^ 1 << (offset % 8), f);
    fclose(f);
}

/* A byte of any file that changes is found, and the checkpoint before is taken. */
static void damage(const char *dir, int ranks)
{
    char path[PK_PATH_MAX], folder[PK_PATH_MAX];
    struct pk_ckpt c;
    struct stat info;
    struct pk_err err = {0};
    CHECK_OK(pk_ckpt_folder(folder, dir, "", 3, &err), &err);
    CHECK_OK(pk_ckpt_open(&c, folder, &err), &err);
    CHECK(c.files == ranks + 2); // moments, weights and state
    for (int32_t i = 0; i < c.files; i++) {
        CHECK_OK(pk_path(path, &err, "%s/%s", folder, c.file[i].name), &err);
        CHECK(stat(path, &info) == 0);
        for (int k = 0; k < 5; k++) {
            flip(path, info.st_size * k / 5);
            CHECK(opens(dir, &err) == 2);
            CHECK(opens(folder, &err) == -1 && strstr(err.message, c.file[i].name));
            flip(path, info.st_size * k / 5);
        }
    }
    pk_ckpt_close(&c);
    CHECK(opens(dir, &err) == 3);
}

static void worlds(const char *dir)
{
    struct pk_err err = {0};
    for (int n = 1; n <= 4; n++) {
        world_run(n, 20, 0, write_three, (char *)dir);
        CHECK(opens(dir, &err) == 3 && leftovers(dir) == 0);
        int64_t *step = NULL, count = 0;
        CHECK_OK(pk_ckpt_steps(dir, &step, &count, &err), &err);
        CHECK(count == 2 && step[0] == 2);
        free(step);
        damage(dir, n);
        CHECK_OK(pk_ckpt_drop_after(dir, -1, &err), &err);
    }
}

/* One rank's disk hangs, whichever it is. Everybody's training goes on: the submit and 40 steps
 * after it are through before the disk moves, so the stall is none of them; after the disk answers,
 * the ranks settle within the step in which they hear of it. */
static void hang(struct pk_comm *c, void *ctx, int slow)
{
    struct pk_ckpt_ranks *r = NULL;
    struct pk_err err = {0};
    bool settled = false;
    int steps = 0;
    CHECK_OK(pk_ckpt_ranks_start(&r, c, ctx, &err), &err);
    atomic_store(&disk_hangs, c->rank == slow);
    CHECK_OK(save(r, c, 10 + slow, &err), &err);
    for (; steps < STALL_STEPS; steps++) {
        CHECK_OK(train(r, c, &settled, &err), &err);
        CHECK(!settled);
    }
    CHECK(c->rank != slow || pk_ckpt_ranks_writing(r));
    CHECK(pk_ckpt_ranks_done(r) == -1);
    atomic_store(&disk_hangs, false);
    while (!settled && test_bad_ == 0) CHECK_OK(train(r, c, &settled, &err), &err);
    if (c->rank == 0) { // and now the one that completes it hangs
        atomic_store(&disk_hangs, true);
    }
    CHECK_OK(pk_comm_barrier(c, &err), &err);
    for (steps = 0; steps < STALL_STEPS; steps++) CHECK_OK(train(r, c, &settled, &err), &err);
    atomic_store(&disk_hangs, false);
    CHECK_OK(pk_ckpt_ranks_finish(r, &err), &err);
    CHECK(c->rank || pk_ckpt_ranks_done(r) == 10 + slow);
    pk_ckpt_ranks_stop(r);
}

static void hang_0(struct pk_comm *c, void *ctx)
{
    hang(c, ctx, 0);
}

static void hang_2(struct pk_comm *c, void *ctx)
{
    hang(c, ctx, 2);
}

/* Rank 1 cannot write as much as it has to, as on a full disk. */
static void full_disk(struct pk_comm *c, void *ctx)
{
    struct pk_ckpt_ranks *r = NULL;
    struct pk_err err = {0};
    const char *dir = ctx;
    struct rlimit old;
    CHECK_OK(pk_ckpt_ranks_start(&r, c, dir, &err), &err);
    CHECK_OK(save(r, c, 1, &err), &err);
    CHECK_OK(pk_ckpt_ranks_finish(r, &err), &err);
    CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0);
    signal(SIGXFSZ, SIG_IGN);
    const struct rlimit small = {8192, old.rlim_max};
    if (c->rank == 1) CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK_OK(save(r, c, 2, &err), &err);
    CHECK_FAILS(pk_ckpt_ranks_finish(r, &err), PK_EWRITE, &err, "rank 1 of 3: ");
    CHECK(strstr(err.message, "rank 1 of 3: ") == err.message);
    CHECK(!strstr(err.message + 1, "rank 1 of 3: ")); // once
    CHECK(strstr(err.message, dir) && strstr(err.message, "moment-00002-of-00003"));
    CHECK(strstr(err.message, "needs ") && strstr(err.message, "8192 are written"));
    CHECK(strstr(err.message, " are free"));
    CHECK_OK(pk_comm_barrier(c, &err), &err);
    CHECK(opens(dir, &err) == 1 && leftovers(dir) == 0);
    CHECK_OK(pk_comm_barrier(c, &err), &err);
    CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
    CHECK_OK(save(r, c, 3, &err), &err); // and there is room again
    CHECK_OK(pk_ckpt_ranks_finish(r, &err), &err);
    pk_ckpt_ranks_stop(r);
}

static void no_room(struct pk_comm *c, void *ctx)
{
    static struct model m;
    struct pk_ckpt_ranks *r = NULL;
    struct pk_err err = {0};
    const char *dir = ctx;
    struct pk_ckpt_content mine = share(&m, 4, c->rank, c->size);
    CHECK_OK(pk_ckpt_ranks_start(&r, c, dir, &err), &err);
    CHECK_FAILS(pk_ckpt_ranks_submit(r, &mine, (int64_t)1 << 60, NULL, &err), PK_EWRITE, &err,
                "it needs 1152921504606846976 bytes");
    CHECK(strstr(err.message, "rank 0 of 2: ") == err.message);
    mine.file = NULL;
    mine.files = PK_CKPT_RANK_FILES + 1;
    CHECK_FAILS(pk_ckpt_ranks_submit(r, &mine, 1, NULL, &err), PK_EINTERNAL, &err, "7 files");
    mine = share(&m, 4, c->rank, c->size);
    m.file[0].name = c->rank ? "../evil" : m.file[0].name;
    CHECK_FAILS(pk_ckpt_ranks_submit(r, &mine, 1, NULL, &err), PK_EINVAL, &err, "../evil");
    CHECK_OK(pk_ckpt_ranks_settle(r, &err), &err); // nothing to settle
    CHECK(!pk_ckpt_ranks_writing(r) && !pk_ckpt_ranks_writing(NULL));
    CHECK_OK(pk_ckpt_ranks_finish(r, &err), &err);
    CHECK_OK(pk_comm_barrier(c, &err), &err);
    CHECK(opens(dir, &err) == 3 && leftovers(dir) == 0);
    pk_ckpt_ranks_stop(r);
}

/* A rank that dies while it writes ends the others; what was there stays. */
static void death(struct pk_comm *c, void *ctx)
{
    struct pk_ckpt_ranks *r = NULL;
    struct pk_err err = {0};
    CHECK_OK(pk_ckpt_ranks_start(&r, c, ctx, &err), &err);
    atomic_store(&disk_hangs, c->rank == 1);
    enum pk_status s = save(r, c, 5, &err);
    if (c->rank == 1) {
        CHECK_OK(s, &err);
        _exit(9);
    }
    if (s == PK_OK) s = pk_ckpt_ranks_settle(r, &err); // else it died before all had begun
    CHECK(s == PK_ERANK && strstr(err.message, "rank"));
    pk_ckpt_ranks_stop(r);
}

static void blind(struct pk_comm *c, void *ctx)
{
    struct pk_err err = {0};
    int who = 7;
    char other[128];
    snprintf(other, sizeof other, "%.100s-elsewhere", (const char *)ctx);
    CHECK_OK(pk_ckpt_ranks_see(c, c->rank == 2 ? other : ctx, &who, &err), &err);
    CHECK(who == 2 && (c->rank || leftovers(ctx) == 0) && !pk_exists(other));
    CHECK_OK(pk_comm_barrier(c, &err), &err);
    CHECK_OK(pk_ckpt_ranks_see(c, c->rank == 0 ? other : ctx, &who, &err), &err);
    CHECK(who == 1);
    CHECK(c->rank || rmdir(other) == 0);
    CHECK_FAILS(pk_ckpt_ranks_see(c, "/proc/nothing", &who, &err), PK_EWRITE, &err,
                "/proc/nothing");
}

static int driver_write(int rank, int fd, const char *dir, int64_t from, int64_t to)
{
    struct pk_comm *c = NULL;
    struct pk_err err = {0};
    int ends[2] = {fd, fd};
    enum pk_status s = pk_comm_tcp(&c, rank, 2, ends, 20, &err);
    if (s == PK_OK && rank == 0) s = pk_ckpt_clean(dir, &err);
    const bool own = s != PK_OK;
    if (c) s = pk_comm_agree(c, s, &err);
    if (c && own) pk_err_context(&err, "rank %d of 2", rank);
    if (s == PK_OK) s = write_all(c, dir, from, to, &err);
    pk_comm_free(c);
    if (s != PK_OK) fprintf(stderr, "error: %s\n", err.message);
    return pk_exit_code(s);
}

static int driver_check(const char *dir)
{
    struct pk_err err = {0};
    const int64_t step = opens(dir, &err);
    if (step == 0) printf("none\n");
    if (step > 0) printf("%lld\n", (long long)step);
    if (step < 0) fprintf(stderr, "broken: %s\n", err.message);
    return step < 0;
}

int main(int argc, char **argv)
{
    int64_t number[4] = {0};
    if (argc == 3 && !strcmp(argv[1], "check")) return driver_check(argv[2]);
    if (argc == 7 && !strcmp(argv[1], "write")) {
        for (int i = 0; i < 4; i++)
            if (!pk_parse_i64(argv[i < 2 ? 2 + i : 3 + i], &number[i])) return 2;
        return driver_write((int)number[0], (int)number[1], argv[4], number[2], number[3]);
    }
    char root[] = "test_ckpt_ranks.XXXXXX", dir[64];
    struct pk_err err = {0};
    CHECK(mkdtemp(root) != NULL);
    snprintf(dir, sizeof dir, "%s/checkpoints", root);
    worlds(dir);
    world_run(3, 20, 0, hang_0, dir);
    world_run(3, 20, 0, hang_2, dir);
    CHECK(opens(dir, &err) == 12 && leftovers(dir) == 0);
    CHECK_OK(pk_ckpt_drop_after(dir, -1, &err), &err);
    world_run(3, 20, 0, full_disk, dir);
    CHECK(opens(dir, &err) == 3);
    world_run(2, 20, 0, no_room, dir);
    world_run(3, 20, 1 << 1, death, dir);
    CHECK(opens(dir, &err) == 3);
    CHECK_OK(pk_ckpt_clean(dir, &err), &err);
    CHECK(leftovers(dir) == 0);
    world_run(3, 20, 0, blind, dir);
    CHECK(leftovers(dir) == 0);
    CHECK_OK(pk_ckpt_drop_after(dir, -1, &err), &err);
    CHECK(rmdir(dir) == 0 && rmdir(root) == 0); // nothing is left behind
    return TEST_END();
}
