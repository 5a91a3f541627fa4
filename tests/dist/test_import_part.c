/* test_import_part.c -- ranks that convert ranges: items arrive at rank 0 in order and whole,
 * whatever the number of ranks; a part that is damaged, missing or of another import is not
 * believed. */
#include "datasets/import_part.h"
#include "tests/dist/ranks.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { ITEMS = 37, WORDS = 20, SPILLED = 100000 };

enum mode { WHOLE, SPILLS, FLIPPED, REMOVED, FULL_DISK, OTHER_PLAN, OTHER_SETTINGS, REFUSED };

struct test {
    enum mode mode;
    int64_t items;
    char folder[256];
    struct pk_comm *comm;
    _Atomic int *ended; // shared by the ranks: one has failed
    int gathers;
    int64_t next, wrong;
};

static enum pk_status spill_path(void *self, int64_t item, char path[PK_PATH_MAX],
                                 struct pk_err *err)
{
    const struct test *t = self;
    return pk_path(path, err, "%s/recording-%lld.part", t->folder, (long long)item);
}

static bool is_bad(int64_t item)
{
    return item % 5 == 3;
}

static int64_t spilled(int64_t item) // bytes; some items have none
{
    return item % 4 * SPILLED / 3;
}

static enum pk_status convert(void *self, int64_t item, void *slot, struct pk_err *err)
{
    const struct test *t = self;
    int64_t *out = slot;
    char path[PK_PATH_MAX];
    FILE *f;
    if (t->mode == FULL_DISK && item == 30) return pk_fail(err, PK_EWRITE, "disk full");
    for (int k = 0; k < WORDS; k++) out[k] = item * 100 + k;
    if (t->mode == SPILLS) {
        PK_TRY(spill_path(self, item, path, err));
        PK_TRY(pk_open(&f, path, "wb", err));
        for (int64_t k = 0; k < spilled(item); k++) fputc((int)(item + k) & 255, f);
        if (fclose(f) != 0) return pk_fail_errno(err, PK_EWRITE, "cannot write %s", path);
    }
    if (is_bad(item)) return pk_fail(err, PK_EDATA, "item %lld is bad", (long long)item);
    return PK_OK;
}

static enum pk_status accept_item(void *self, int64_t item, const void *slot, FILE *spill,
                                  struct pk_err *err)
{
    struct test *t = self;
    const int64_t *in = slot;
    (void)err;
    CHECK(t->comm->rank == 0);
    t->wrong += item != t->next++ || is_bad(item) || (spill != NULL) != (t->mode == SPILLS);
    for (int k = 0; k < WORDS; k++) t->wrong += in[k] != item * 100 + k;
    // not all that is there, at times: the next item must not suffer
    for (int64_t k = 0; spill && k < spilled(item) / (item % 2 + 1); k++)
        t->wrong += fgetc(spill) != ((int)(item + k) & 255);
    return PK_OK;
}

static enum pk_status reject_item(void *self, int64_t item, const char *why, struct pk_err *err)
{
    struct test *t = self;
    char wanted[64];
    (void)err;
    snprintf(wanted, sizeof wanted, "item %lld is bad", (long long)item);
    t->wrong += item != t->next++ || !is_bad(item) || strcmp(why, wanted) != 0;
    return PK_OK;
}

static enum pk_status agree(void *self, enum pk_status s, struct pk_err *err)
{
    struct test *t = self;
    return pk_comm_agree(t->comm, s, err);
}

/* Names the parts in the folder; the last one's path, "" where there is none. */
static int list_parts(const char *folder, char last[PK_PATH_MAX])
{
    int n = 0;
    DIR *d = opendir(folder);
    CHECK(d);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strstr(e->d_name, ".part")) continue;
        n++;
        if (strstr(e->d_name, "-r1."))
            CHECK(pk_path(last, NULL, "%s/%s", folder, e->d_name) == PK_OK);
    }
    if (d) closedir(d);
    return n;
}

static enum pk_status gather(void *self, void *all, size_t bytes, struct pk_err *err)
{
    struct test *t = self;
    char part[PK_PATH_MAX] = "";
    const bool damages = ++t->gathers == 2 && t->comm->rank == 1; // its part is finished
    if (damages) list_parts(t->folder, part);
    if (damages && t->mode == FLIPPED) {
        struct stat st;
        unsigned char byte = 0;
        int fd = open(part, O_RDWR);
        CHECK(fd >= 0 && fstat(fd, &st) == 0 && pread(fd, &byte, 1, st.st_size / 2) == 1);
        byte ^= 16;
        CHECK(pwrite(fd, &byte, 1, st.st_size / 2) == 1 && close(fd) == 0);
    }
    if (damages && t->mode == REMOVED) CHECK(remove(part) == 0);
    return pk_comm_all_gather(t->comm, all, bytes, err);
}

static enum pk_status watch(void *self, struct pk_err *err)
{
    struct test *t = self;
    return *t->ended ? pk_fail(err, PK_ERANK, "another rank failed") : PK_OK;
}

static void check_outcome(struct test *t, enum pk_status s, const struct pk_err *err)
{
    const int rank = t->comm->rank;
    char part[PK_PATH_MAX];
    static const enum pk_status wanted[] = {
        [FLIPPED] = PK_EIO,       [REMOVED] = PK_EIO,           [FULL_DISK] = PK_ERANK,
        [OTHER_PLAN] = PK_EUSAGE, [OTHER_SETTINGS] = PK_EUSAGE, [REFUSED] = PK_EMISSING};
    CHECK(s == (t->mode == FULL_DISK && rank == 1 ? PK_EWRITE : wanted[t->mode]));
    if (s == PK_OK && rank == 0) CHECK(t->next == t->items && t->wrong == 0);
    if (rank == 0 && t->mode != FULL_DISK) CHECK(list_parts(t->folder, part) == 0);
    if (rank == 0 && t->mode == FLIPPED)
        CHECK(strstr(err->message, "-r1.part is damaged") && t->next <= (t->items + 1) / 2);
    if (rank == 0 && t->mode == REMOVED) CHECK(strstr(err->message, "not there"));
    if (rank == 1 && t->mode == OTHER_PLAN) CHECK(strstr(err->message, "rank 1 of 2"));
}

static void import(struct pk_comm *c, void *ctx)
{
    struct test *t = ctx;
    struct pk_err err = {0};
    t->comm = c;
    struct pk_import_ranks ranks = {.rank = c->rank,
                                    .size = c->size,
                                    .settings = t->mode == OTHER_SETTINGS ? (uint64_t)c->rank : 7,
                                    .self = t,
                                    .agree = agree,
                                    .gather = gather,
                                    .watch = watch};
    const struct pk_import job = {.count = t->items,
                                  .slot_bytes = WORDS * sizeof(int64_t),
                                  .workers = 2,
                                  .self = t,
                                  .convert = convert,
                                  .spill = t->mode == SPILLS ? spill_path : NULL,
                                  .accept = accept_item,
                                  .reject = reject_item};
    CHECK(pk_import_leads(&ranks) == (c->rank == 0) && pk_import_leads(NULL));
    enum pk_status s = t->mode == REFUSED && c->rank == c->size - 1
                           ? pk_fail(&err, PK_EMISSING, "no table")
                           : PK_OK;
    s = pk_import_agree(&ranks, s, &err);
    if (s == PK_OK)
        s = pk_import_share(&job, &ranks, t->folder, t->mode == OTHER_PLAN ? (uint64_t)c->rank : 5,
                            &err);
    if (s != PK_OK && t->mode == FULL_DISK) {
        *t->ended = 1;
        pk_comm_abort(c, "failed");
    }
    s = pk_import_agree(&ranks, s, &err);
    check_outcome(t, s, &err);
}

/* What a killed import leaves is gone afterwards, and nothing else is. */
static void check_clean(const char *folder)
{
    static const char *const name[] = {"import-0123456789abcdef-r3.part",
                                       "import-0123456789abcdef-r0.part.part", "import.part",
                                       "import_report.json", "shard-00000.h5"};
    char path[PK_PATH_MAX];
    for (size_t i = 0; i < PK_COUNT(name); i++) {
        CHECK(pk_path(path, NULL, "%s/%s", folder, name[i]) == PK_OK);
        CHECK(pk_write_file(path, "x", 1, NULL) == PK_OK);
    }
    pk_import_clean(folder);
    for (size_t i = 0; i < PK_COUNT(name); i++) {
        CHECK(pk_path(path, NULL, "%s/%s", folder, name[i]) == PK_OK);
        CHECK(pk_exists(path) == (i >= 2));
        remove(path);
    }
    pk_import_clean("/nothing/here");
}

int main(void)
{
    static struct test t;
    char path[PK_PATH_MAX];
    _Atomic int *ended =
        mmap(NULL, sizeof *ended, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const struct {
        enum mode mode;
        int size;
        int64_t items;
    } table[] = {{WHOLE, 1, ITEMS},     {WHOLE, 2, ITEMS},      {WHOLE, 3, ITEMS},
                 {WHOLE, 8, ITEMS},     {WHOLE, 8, 5}, // ranks without an item
                 {WHOLE, 3, 0},         {SPILLS, 1, ITEMS},     {SPILLS, 2, ITEMS},
                 {SPILLS, 5, ITEMS},    {FLIPPED, 2, ITEMS},    {REMOVED, 2, ITEMS},
                 {FULL_DISK, 2, ITEMS}, {OTHER_PLAN, 2, ITEMS}, {OTHER_SETTINGS, 2, ITEMS},
                 {REFUSED, 3, ITEMS}};
    CHECK(ended != MAP_FAILED);
    for (size_t i = 0; i < PK_COUNT(table); i++) {
        t = (struct test){.mode = table[i].mode, .items = table[i].items, .ended = ended};
        *ended = 0;
        snprintf(t.folder, sizeof t.folder, "/tmp/purkinje-import-XXXXXX");
        CHECK(mkdtemp(t.folder) != NULL);
        const int before = test_bad_;
        world_run(table[i].size, 30, 0, import, &t);
        if (test_bad_ != before)
            fprintf(stderr, "mode %d, %d ranks\n", table[i].mode, table[i].size);
        if (list_parts(t.folder, path)) fprintf(stderr, "%s: parts are left\n", t.folder);
        CHECK(list_parts(t.folder, path) == 0);
        check_clean(t.folder);
        CHECK(rmdir(t.folder) == 0);
    }
    munmap((void *)ended, sizeof *ended);
    return TEST_END();
}
