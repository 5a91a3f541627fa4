/* test_ckpt.c -- checkpoints: what is written is read, what is damaged is refused, what is kept.
 *     test_ckpt write DIR FROM TO    writes the checkpoints of steps FROM to TO, keeping two
 *     test_ckpt async DIR FROM TO    the same through the background writer
 *     test_ckpt again DIR STEP       writes one step again, with other content
 *     test_ckpt clean DIR            what a run does at start
 *     test_ckpt golden DIR           writes what tests/golden holds of each format version
 *     test_ckpt check DIR            prints "STEP VARIANT" of what opens, or "none"
 * test_ckpt_faults.py runs these under strace and kills them at every system call that matters. */
#include "core/ckpt.h"
#include "core/ckpt_async.h"
#include "core/ckpt_folder.h"
#include "core/json.h"
#include "tests/test.h"

#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WIDE = 3000 };

/* The weights of a step; `variant` tells a rewritten checkpoint from the first. */
struct model {
    float weight[WIDE];
    float moment[WIDE];
    uint64_t cursor[2];
    char state[128];
    struct pk_tensor_ref params[2], optimizer[1];
    struct pk_ckpt_file file[2];
    struct pk_ckpt_content content;
};

static void make(struct model *m, int64_t step, int variant)
{
    for (int i = 0; i < WIDE; i++) {
        m->weight[i] = (float)(step * 7 + i) + (float)variant * 0.5f;
        m->moment[i] = (float)(step - i);
    }
    m->cursor[0] = (uint64_t)step * 1000;
    m->cursor[1] = (uint64_t)variant;
    snprintf(m->state, sizeof m->state, "{\"step\": %lld, \"variant\": %d}", (long long)step,
             variant);
    m->params[0] = (struct pk_tensor_ref){"encoder.weight", PK_TENSOR_F32, 2, {30, 100}, m->weight};
    m->params[1] = (struct pk_tensor_ref){"cursor", PK_TENSOR_U64, 1, {2}, m->cursor};
    m->optimizer[0] = (struct pk_tensor_ref){"encoder.weight", PK_TENSOR_F32, 1, {WIDE}, m->moment};
    m->file[0] = (struct pk_ckpt_file){"model.safetensors", m->params, 2};
    m->file[1] = (struct pk_ckpt_file){"adam_m.safetensors", m->optimizer, 1};
    m->content = (struct pk_ckpt_content){step, 2, m->file, m->state};
}

/* Reads an open checkpoint back and compares every value; -1 when anything is wrong. */
static int read_back(const struct pk_ckpt *c, struct pk_err *err)
{
    struct model got, want;
    struct pk_json j;
    if (pk_json_parse(&j, c->state, strlen(c->state), "state", err) != PK_OK) return -1;
    int variant = (int)pk_json_i64(&j, "variant", -1);
    int64_t step = pk_json_i64(&j, "step", -1);
    pk_json_free(&j);
    make(&got, 0, 0);
    make(&want, step, variant);
    memset(got.weight, 0, sizeof got.weight);
    if (step != c->step ||
        pk_ckpt_read(c, "model.safetensors", got.params, 2, true, err) != PK_OK ||
        pk_ckpt_read(c, "adam_m.safetensors", got.optimizer, 1, true, err) != PK_OK)
        return -1;
    bool same = !memcmp(got.weight, want.weight, sizeof want.weight) &&
                !memcmp(got.moment, want.moment, sizeof want.moment) &&
                !memcmp(got.cursor, want.cursor, sizeof want.cursor);
    return same ? variant : -1;
}

static int fails(const struct pk_err *err, enum pk_status s)
{
    fprintf(stderr, "error: %s\n", err->message);
    return pk_exit_code(s);
}

static int driver_write(const char *dir, int64_t from, int64_t to, int variant, bool async)
{
    struct model m;
    struct pk_err err = {0};
    struct pk_ckpt_keep keep = {.last = 2};
    struct pk_ckpt_writer *w = NULL;
    enum pk_status s = pk_ckpt_clean(dir, &err);
    if (s == PK_OK && async) s = pk_ckpt_writer_start(&w, dir, &err);
    for (int64_t step = from; step <= to && s == PK_OK; step++) {
        make(&m, step, variant);
        if (async) {
            s = pk_ckpt_writer_submit(w, &m.content, &keep, &err);
        } else {
            s = pk_ckpt_write(dir, &m.content, &err);
            if (s == PK_OK) s = pk_ckpt_prune(dir, &keep, &err);
        }
    }
    struct pk_err late = {0};
    enum pk_status stop = pk_ckpt_writer_stop(w, &late);
    if (s == PK_OK && stop != PK_OK) return fails(&late, stop);
    return s == PK_OK ? 0 : fails(&err, s);
}

static int driver_check(const char *dir)
{
    struct pk_ckpt c;
    struct pk_err err = {0};
    enum pk_status s = pk_ckpt_open(&c, dir, &err);
    if (s == PK_EMISSING) {
        printf("none\n");
        return 0;
    }
    if (s != PK_OK) return fails(&err, s);
    int variant = read_back(&c, &err);
    printf("%lld %d\n", (long long)c.step, variant);
    if (c.warning[0]) fprintf(stderr, "warning: %s\n", c.warning);
    pk_ckpt_close(&c);
    return variant < 0;
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

static long size_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (long)st.st_size : -1;
}

static const char *in(const char *dir, const char *name)
{
    static char path[PK_PATH_MAX];
    snprintf(path, sizeof path, "%.2000s/%.1000s", dir, name);
    return path;
}

static void write_steps(const char *dir, int64_t from, int64_t to)
{
    static struct model m;
    struct pk_err err = {0};
    for (int64_t step = from; step <= to; step++) {
        make(&m, step, 0);
        CHECK_OK(pk_ckpt_write(dir, &m.content, &err), &err);
    }
}

static int64_t opens(const char *dir, struct pk_ckpt *c)
{
    struct pk_err err = {0};
    if (pk_ckpt_open(c, dir, &err) != PK_OK) return -1;
    CHECK(read_back(c, &err) >= 0);
    return c->step;
}

static void write_and_open(const char *run)
{
    struct pk_ckpt c;
    struct pk_err err = {0};
    static struct model m;
    static char dir[PK_PATH_MAX];
    char *latest;
    snprintf(dir, sizeof dir, "%s/checkpoints", run);
    CHECK_FAILS(pk_ckpt_open(&c, in(run, "nowhere"), &err), PK_EMISSING, &err, "does not exist");
    CHECK(mkdir(run, 0777) == 0);
    CHECK_FAILS(pk_ckpt_open(&c, run, &err), PK_EMISSING, &err, "no checkpoint");
    write_steps(dir, 1, 3);
    CHECK(opens(run, &c) == 3); // a run, its checkpoints, or one of them
    CHECK(pk_ckpt_has(&c, "adam_m.safetensors") && !pk_ckpt_has(&c, "adam_v.safetensors"));
    make(&m, 0, 0);
    CHECK_FAILS(pk_ckpt_read(&c, "adam_v.safetensors", m.params, 1, true, &err), PK_EDATA, &err,
                "holds no adam_v");
    m.params[0].shape[0] = 31;
    CHECK_FAILS(pk_ckpt_read(&c, "model.safetensors", m.params, 2, true, &err), PK_EDATA, &err,
                "expected F32 [31, 100]");
    pk_ckpt_close(&c);
    CHECK(opens(dir, &c) == 3);
    pk_ckpt_close(&c);
    CHECK(opens(in(dir, "step-000000002"), &c) == 2);
    pk_ckpt_close(&c);
    CHECK_OK(pk_read_file(in(dir, "latest"), 100, &latest, NULL, &err), &err);
    CHECK(!strcmp(latest, "step-000000003\n"));
    free(latest);

    make(&m, 3, 5); // the same step again replaces it
    CHECK_OK(pk_ckpt_write(dir, &m.content, &err), &err);
    CHECK_OK(pk_ckpt_open(&c, dir, &err), &err);
    CHECK(c.step == 3 && read_back(&c, &err) == 5);
    pk_ckpt_close(&c);

    m.content.state = "not json";
    CHECK_FAILS(pk_ckpt_write(dir, &m.content, &err), PK_EDATA, &err, "checkpoint state:1:1");
    make(&m, 4, 0);
    m.file[1].name = "../evil";
    CHECK_FAILS(pk_ckpt_write(dir, &m.content, &err), PK_EINVAL, &err, "../evil");
    m.file[1].name = "model.safetensors";
    CHECK_FAILS(pk_ckpt_write(dir, &m.content, &err), PK_EINVAL, &err, "model.safetensors");
    make(&m, 4, 0);
    m.params[0].name = "cursor";
    CHECK_FAILS(pk_ckpt_write(dir, &m.content, &err), PK_EINVAL, &err, "'cursor'");
    CHECK(!pk_exists(in(dir, ".tmp-step-000000004")));
    make(&m, 4, 0);
    CHECK_FAILS(pk_ckpt_write("/proc/nothing", &m.content, &err), PK_EWRITE, &err, "/proc/nothing");
    CHECK(opens(dir, &c) == 3);
    pk_ckpt_close(&c);
}

/* 1000 flipped bytes, spread over every file of the newest checkpoint: every one is noticed. */
static void damage(const char *dir)
{
    static const char *const files[] = {"model.safetensors", "adam_m.safetensors", "state.json",
                                        "MANIFEST.json"};
    char newest[64];
    static char path[PK_PATH_MAX];
    struct pk_ckpt c;
    struct pk_err err = {0};
    uint64_t random = 1;
    int unnoticed = 0;
    for (int i = 0; i < 1000; i++) {
        snprintf(newest, sizeof newest, "step-000000003/%s", files[i % 4]);
        snprintf(path, sizeof path, "%s", in(dir, newest));
        random = random * 6364136223846793005u + 1442695040888963407u;
        long offset = (long)((random >> 33) % (uint64_t)size_of(path));
        flip(path, offset);
        enum pk_status s = pk_ckpt_open(&c, dir, &err);
        unnoticed += s != PK_OK || c.step != 2 || !strstr(c.warning, "step-000000003");
        if (s == PK_OK) pk_ckpt_close(&c);
        flip(path, offset);
    }
    CHECK(unnoticed == 0);
    CHECK(opens(dir, &c) == 3 && !c.warning[0]);
    pk_ckpt_close(&c);

    long whole = size_of(in(dir, "step-000000003/model.safetensors"));
    CHECK(truncate(in(dir, "step-000000003/model.safetensors"), whole - 1) == 0);
    CHECK(opens(dir, &c) == 2 && strstr(c.warning, "the manifest says"));
    pk_ckpt_close(&c);
    CHECK(unlink(in(dir, "step-000000003/MANIFEST.json")) == 0);
    CHECK(opens(dir, &c) == 2 && strstr(c.warning, "MANIFEST.json"));
    pk_ckpt_close(&c);
    CHECK_FAILS(pk_ckpt_open(&c, in(dir, "step-000000003"), &err), PK_EIO, &err, "MANIFEST.json");
    flip(in(dir, "step-000000002/state.json"), 3);
    flip(in(dir, "step-000000001/state.json"), 3);
    CHECK_FAILS(pk_ckpt_open(&c, dir, &err), PK_EDATA, &err, "none of the 3");
    struct pk_ckpt_keep keep = {.last = 1};
    CHECK_FAILS(pk_ckpt_prune(dir, &keep, &err), PK_EDATA, &err, "none is deleted");
    CHECK(pk_exists(in(dir, "step-000000001/state.json")));
    flip(in(dir, "step-000000001/state.json"), 3);
    CHECK(opens(dir, &c) == 1);
    pk_ckpt_close(&c);
}

static bool steps_are(const char *dir, const char *want)
{
    struct pk_text t = {0};
    struct pk_err err = {0};
    int64_t *step = NULL, n;
    CHECK_OK(pk_ckpt_steps(dir, &step, &n, &err), &err);
    pk_text_bytes(&t, "", 0);
    for (int64_t i = 0; i < n; i++) pk_text_add(&t, "%s%lld", i ? " " : "", (long long)step[i]);
    bool same = !strcmp(t.s, want);
    if (!same) fprintf(stderr, "steps are '%s', expected '%s'\n", t.s, want);
    pk_text_free(&t);
    free(step);
    return same;
}

static void retention(const char *dir)
{
    struct pk_err err = {0};
    struct pk_ckpt c;
    struct pk_ckpt_keep keep = {.last = 2, .every = 5, .best = 3};
    CHECK(steps_are(dir, ""));
    CHECK_OK(pk_ckpt_prune(dir, &keep, &err), &err);
    write_steps(dir, 1, 12);
    CHECK_OK(pk_ckpt_prune(dir, &keep, &err), &err);
    CHECK(steps_are(dir, "3 5 10 11 12"));

    // The newest is broken: it does not count, stays, and the newest valid ones survive.
    flip(in(dir, "step-000000012/MANIFEST.json"), 9);
    keep = (struct pk_ckpt_keep){.last = 1};
    CHECK_OK(pk_ckpt_prune(dir, &keep, &err), &err);
    CHECK(steps_are(dir, "11 12"));
    // Rot that only checksums see: nothing may be deleted on the strength of 11 alone.
    write_steps(dir, 10, 10);
    flip(in(dir, "step-000000011/model.safetensors"), 5000);
    CHECK_FAILS(pk_ckpt_prune(dir, &keep, &err), PK_EDATA, &err, "none is deleted");
    CHECK(steps_are(dir, "10 11 12"));
    keep.last = 2;
    CHECK_OK(pk_ckpt_prune(dir, &keep, &err), &err);
    CHECK(opens(dir, &c) == 10);
    pk_ckpt_close(&c);

    CHECK_OK(pk_ckpt_drop_after(dir, 10, &err), &err);
    CHECK(steps_are(dir, "10"));
    CHECK_OK(pk_ckpt_drop_after(dir, -1, &err), &err);
    CHECK(steps_are(dir, "") && !pk_exists(in(dir, "latest")));
    CHECK_OK(pk_ckpt_drop_after(in(dir, "nowhere"), -1, &err), &err);
}

/* What each kind of crash leaves behind is tidied, and never at the cost of a checkpoint. */
static void leftovers(const char *dir)
{
    struct pk_err err = {0};
    struct pk_ckpt c;
    static char a[PK_PATH_MAX];
    write_steps(dir, 1, 2);
    CHECK(mkdir(in(dir, ".tmp-step-000000009"), 0777) == 0);
    CHECK_OK(pk_write_file(in(dir, ".tmp-step-000000009/x"), "x", 1, &err), &err);
    CHECK(mkdir(in(dir, ".del-step-000000008"), 0777) == 0);
    snprintf(a, sizeof a, "%s", in(dir, "step-000000002"));
    CHECK(rename(a, in(dir, ".old-step-000000002")) == 0); // cut between the two renames
    CHECK(opens(dir, &c) == 2);
    pk_ckpt_close(&c);
    CHECK_OK(pk_ckpt_clean(dir, &err), &err);
    CHECK(opens(dir, &c) == 2 && pk_exists(a));
    pk_ckpt_close(&c);
    CHECK(!pk_exists(in(dir, ".tmp-step-000000009")) && !pk_exists(in(dir, ".del-step-000000008")));
    CHECK_OK(pk_ckpt_clean(in(dir, "nowhere"), &err), &err);
    CHECK_OK(pk_ckpt_drop_after(dir, -1, &err), &err);
}

/* A checkpoint that cannot fit is refused before a byte is written. */
static void no_space(const char *dir)
{
    struct pk_err err = {0};
    struct pk_ckpt c;
    char byte = 0;
    struct pk_tensor_ref t = {"huge", PK_TENSOR_U8, 1, {1ll << 60}, &byte};
    struct pk_ckpt_file file = {"model.safetensors", &t, 1};
    struct pk_ckpt_content content = {2, 1, &file, "{}"};
    write_steps(dir, 1, 1);
    CHECK_FAILS(pk_ckpt_write(dir, &content, &err), PK_EWRITE, &err, "it needs 1152921504606");
    CHECK(strstr(err.message, dir) && strstr(err.message, "are free there"));
    CHECK(opens(dir, &c) == 1);
    pk_ckpt_close(&c);
    CHECK_OK(pk_ckpt_drop_after(dir, -1, &err), &err);
}

/* Manifests with a right checksum and wrong contents, as only an adversary would write them. */
static void hostile_manifests(const char *dir)
{
    static const struct {
        const char *name;
        int64_t bytes, step;
        const char *says;
    } cases[] = {{"../../../etc/passwd", 1, 1, "malformed"},
                 {"/etc/passwd", 1, 1, "malformed"},
                 {"..", 1, 1, "malformed"},
                 {"", 1, 1, "malformed"},
                 {"a", -5, 1, "malformed"},
                 {"a", INT64_MAX, 1, "manifest says"},
                 {"a", 1, -1, "not the manifest"}};
    struct pk_err err = {0};
    struct pk_ckpt c;
    write_steps(dir, 1, 1);
    CHECK_OK(pk_write_file(in(dir, "step-000000001/a"), "x", 1, &err), &err);
    for (size_t i = 0; i < PK_COUNT(cases); i++) {
        struct pk_text t = {0};
        struct pk_ckpt_entry e = {(char *)cases[i].name, cases[i].bytes, 0};
        CHECK_OK(pk_manifest_text(&t, cases[i].step, &e, 1, &err), &err);
        CHECK_OK(pk_write_file(in(dir, "step-000000001/MANIFEST.json"), t.s, t.len, &err), &err);
        pk_text_free(&t);
        CHECK_FAILS(pk_ckpt_open(&c, dir, &err), PK_EDATA, &err, cases[i].says);
    }
    CHECK_OK(pk_ckpt_drop_after(dir, -1, &err), &err);
}

/* The small checkpoint that tests/golden/checkpoint-vN holds, as the program of that version wrote
 * it. It must load for ever: a new version adds a folder, it never rewrites one. */
static float golden_values[3] = {1.5f, -2, 3e-5f};

static int golden_write(const char *dir)
{
    struct pk_err err = {0};
    struct pk_tensor_ref t = {"x", PK_TENSOR_F32, 1, {3}, golden_values};
    struct pk_ckpt_file file = {"model.safetensors", &t, 1};
    struct pk_ckpt_content c = {1234, 1, &file, "{\"seed\": 7}"};
    enum pk_status s = pk_ckpt_write(dir, &c, &err);
    return s == PK_OK ? 0 : fails(&err, s);
}

static void golden(void)
{
    struct pk_err err = {0};
    struct pk_ckpt c;
    float x[3] = {0};
    struct pk_tensor_ref t = {"x", PK_TENSOR_F32, 1, {3}, x};
    CHECK_OK(pk_ckpt_open(&c, PK_SOURCE_DIR "/tests/golden/checkpoint-v1", &err), &err);
    CHECK(c.step == 1234 && c.state && !strcmp(c.state, "{\"seed\": 7}"));
    CHECK_OK(pk_ckpt_read(&c, "model.safetensors", &t, 1, true, &err), &err);
    CHECK(!memcmp(x, golden_values, sizeof x));
    pk_ckpt_close(&c);
}

static void background(const char *dir)
{
    static struct model m;
    struct pk_ckpt_writer *w;
    struct pk_err err = {0};
    struct pk_ckpt c;
    struct pk_ckpt_keep keep = {.last = 2};
    CHECK_OK(pk_ckpt_writer_start(&w, dir, &err), &err);
    CHECK(pk_ckpt_writer_done(w) == -1);
    for (int64_t step = 1; step <= 20; step++) {
        make(&m, step, 0);
        CHECK_OK(pk_ckpt_writer_submit(w, &m.content, &keep, &err), &err);
        memset(m.weight, 0xff, sizeof m.weight); // training goes on at once
        memset(m.state, 'x', sizeof m.state - 1);
    }
    CHECK_OK(pk_ckpt_writer_wait(w, &err), &err);
    CHECK(pk_ckpt_writer_done(w) == 20 && opens(dir, &c) == 20);
    pk_ckpt_close(&c);
    CHECK(steps_are(dir, "19 20"));
    CHECK_OK(pk_ckpt_writer_stop(w, &err), &err);

    // An error is told once, by the next call, and the write after it works again.
    CHECK_OK(pk_ckpt_writer_start(&w, "/proc/nothing", &err), &err);
    make(&m, 21, 0);
    CHECK_OK(pk_ckpt_writer_submit(w, &m.content, NULL, &err), &err);
    CHECK_FAILS(pk_ckpt_writer_submit(w, &m.content, NULL, &err), PK_EWRITE, &err, "/proc/nothing");
    CHECK_OK(pk_ckpt_writer_wait(w, &err), &err);
    CHECK_OK(pk_ckpt_writer_submit(w, &m.content, NULL, &err), &err);
    CHECK_FAILS(pk_ckpt_writer_stop(w, &err), PK_EWRITE, &err, "/proc/nothing");
    CHECK_OK(pk_ckpt_writer_stop(NULL, &err), &err);
    CHECK_OK(pk_ckpt_drop_after(dir, -1, &err), &err);
}

int main(int argc, char **argv)
{
    int64_t from = 0, to = 0;
    if (argc >= 4 && !pk_parse_i64(argv[3], &from)) return 2;
    if (argc >= 5 && !pk_parse_i64(argv[4], &to)) return 2;
    if (argc == 5 && !strcmp(argv[1], "write")) return driver_write(argv[2], from, to, 0, false);
    if (argc == 5 && !strcmp(argv[1], "async")) return driver_write(argv[2], from, to, 0, true);
    if (argc == 4 && !strcmp(argv[1], "again")) return driver_write(argv[2], from, from, 1, false);
    if (argc == 3 && !strcmp(argv[1], "check")) return driver_check(argv[2]);
    if (argc == 3 && !strcmp(argv[1], "golden")) return golden_write(argv[2]);
    if (argc == 3 && !strcmp(argv[1], "clean")) {
        struct pk_err err = {0};
        enum pk_status s = pk_ckpt_clean(argv[2], &err);
        return s == PK_OK ? 0 : fails(&err, s);
    }
    char root[] = "test_ckpt.XXXXXX", run[64], dir[80];
    struct pk_err err = {0};
    CHECK(mkdtemp(root) != NULL);
    snprintf(run, sizeof run, "%s/run", root);
    snprintf(dir, sizeof dir, "%s/checkpoints", run);
    write_and_open(run);
    damage(dir);
    CHECK_OK(pk_ckpt_drop_after(dir, -1, &err), &err);
    retention(dir);
    leftovers(dir);
    no_space(dir);
    hostile_manifests(dir);
    golden();
    background(dir);
    CHECK(rmdir(dir) == 0 && rmdir(run) == 0 && rmdir(root) == 0); // nothing is left behind
    return TEST_END();
}
