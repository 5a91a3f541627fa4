/* test_readers.c -- every reader of files from outside meets damaged ones: it reads them or says
 * what is wrong, and sanitizers find nothing.
 *
 * As a test it takes the seeds of tests/fuzz/seeds.h, each changed in MUTATIONS ways that are the
 * same every time. Compiled with -DPK_LIBFUZZER -fsanitize=fuzzer (tools/fuzz) it
 * searches for inputs that reach new code; PK_FUZZ_READER chooses the reader then. An input is the
 * reader's files one after the other, with lines "%%" between them. */
#include "core/json.h"
#include "core/npy.h"
#include "core/recipe.h"
#include "core/rng.h"
#include "core/safetensors.h"
#include "datasets/corpus_json.h"
#include "datasets/ppg_import.h"
#include "datasets/ptbxl.h"
#include "datasets/wfdb.h"
#include "tests/fuzz/seeds.h"
#include "tests/test.h"
#include "tools/model_info.h"

#include <sys/stat.h>
#include <unistd.h>

enum { MUTATIONS = 1000, INPUT_MAX = 1 << 16 };

/* ---- what the readers promise ---- */

static char why[PK_ERR_MAX]; // the last refusal

/* A refusal has words, and is never the program's own fault. Returns whether the input was read. */
static bool fine(enum pk_status s, const struct pk_err *err)
{
    if (s != PK_OK) snprintf(why, sizeof why, "%s", err->message);
    CHECK(s == PK_OK || (err->message[0] && s != PK_EINTERNAL));
    return s == PK_OK;
}

static const char *in(const char *folder, const char *name)
{
    static char path[PK_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void walk(const struct pk_json *j)
{
    CHECK((j->kind == PK_JSON_STRING) == (j->string != NULL) && isfinite(j->number));
    for (int64_t i = 0; i < j->count; i++) {
        CHECK(j->kind != PK_JSON_OBJECT || pk_json_get(j, j->key[i]) == &j->item[i]);
        walk(&j->item[i]);
    }
}

static void read_json(const char *folder)
{
    struct pk_json j = {0};
    struct pk_err err = {0};
    if (fine(pk_json_load(&j, in(folder, "a.json"), INPUT_MAX, &err), &err)) walk(&j);
    pk_json_free(&j);
}

static void read_model(const char *folder)
{
    struct pk_json j = {0};
    struct pk_err err = {0};
    static struct pk_model_info m;
    if (fine(pk_json_load(&j, in(folder, "config.json"), INPUT_MAX, &err), &err))
        fine(pk_model_info_read(&m, &j, "config.json", &err), &err);
    pk_json_free(&j);
}

static void read_npy(const char *folder)
{
    struct pk_npy a = {0};
    struct pk_err err = {0};
    if (fine(pk_npy_load(&a, in(folder, "a.npy"), INPUT_MAX, &err), &err)) {
        int64_t numbers = 0, count = 1;
        for (int64_t i = 0; i < a.count; i++) numbers += !isnan(pk_npy_f64(&a, i));
        for (int d = 0; d < a.rank; d++) count *= a.shape[d];
        CHECK(numbers <= a.count && count == a.count);
    }
    pk_npy_free(&a);
}

static void read_safetensors(const char *folder)
{
    struct pk_safetensors st = {0};
    struct pk_err err = {0};
    static char bytes[INPUT_MAX];
    if (fine(pk_safetensors_open(&st, in(folder, "a.safetensors"), &err), &err))
        for (int64_t i = 0; i < st.count; i++) {
            const struct pk_tensor_info *t = &st.tensor[i];
            CHECK(t->bytes >= 0 && t->bytes <= st.file_bytes && pk_safetensors_find(&st, t->name));
            CHECK_OK(pk_safetensors_pread(&st, t, 0, bytes, t->bytes, &err), &err);
        }
    pk_safetensors_close(&st);
}

/* What a recipe prints is a recipe that means the same. */
static void read_recipe(const char *folder)
{
    struct pk_recipe *r = NULL, *again = NULL;
    struct pk_text text = {0};
    struct pk_err err = {0};
    if (fine(pk_recipe_load(&r, in(folder, "a.yaml"), 0, NULL, &text, &err), &err)) {
        CHECK_OK(pk_recipe_print(r, &text, &err), &err);
        CHECK_OK(pk_write_file(in(folder, "a.yaml"), text.s, text.len, &err), &err);
        CHECK_OK(pk_recipe_load(&again, in(folder, "a.yaml"), 0, NULL, NULL, &err), &err);
        CHECK(again && pk_recipe_hash(again) == pk_recipe_hash(r));
    } else {
        CHECK(text.len > 0);
    }
    pk_recipe_free(r);
    pk_recipe_free(again);
    pk_text_free(&text);
}

static void read_corpus(const char *folder)
{
    struct pk_corpus_info *c = calloc(2, sizeof *c);
    struct pk_err err = {0};
    if (c && fine(pk_corpus_json_read(folder, &c[0], &err), &err)) {
        CHECK_OK(pk_corpus_json_write(folder, &c[0], &err), &err);
        CHECK_OK(pk_corpus_json_read(folder, &c[1], &err), &err);
        CHECK(c[0].records == c[1].records && c[0].shards == c[1].shards);
    }
    for (int i = 0; c && i < 2; i++) pk_corpus_info_free(&c[i]);
    free(c);
}

static void read_wfdb(const char *folder)
{
    struct pk_err err = {0};
    const struct pk_wfdb_options options[2] = {{.max_frames = 1 << 20},
                                               {.max_frames = 1 << 20, .ignore_checksum = true}};
    for (int o = 0; o < 2; o++) {
        struct pk_wfdb_record r = {0};
        const bool good = fine(pk_wfdb_read(&r, in(folder, "r"), &options[o], &err), &err);
        for (int32_t k = 0; good && k < r.channels; k++) {
            const struct pk_wfdb_channel *c = &r.channel[k];
            double *x = calloc((size_t)c->count + 1, sizeof *x);
            if (x) pk_wfdb_physical(c, x);
            int64_t invalid = 0;
            for (int64_t i = 0; x && i < c->count; i++) invalid += isnan(x[i]);
            CHECK(!x || invalid >= c->invalid);
            free(x);
        }
        pk_wfdb_free(&r);
    }
}

static void read_ptbxl(const char *folder)
{
    struct pk_ptbxl p = {0};
    struct pk_err err = {0};
    if (fine(pk_ptbxl_open(&p, folder, &err), &err))
        for (int64_t i = 0; i < p.count; i++)
            CHECK(p.row[i].patient && p.row[i].fold >= 1 && p.row[i].fold <= 10);
    pk_ptbxl_free(&p);
}

static enum pk_status count_window(void *self, const struct pk_ppg_window *w, const int16_t *signal,
                                   struct pk_err *err)
{
    int64_t *kept = self;
    (void)signal, (void)err;
    CHECK(w->lead_mask != 0);
    ++*kept;
    return PK_OK;
}

/* A source's catalog, its recordings and their windows. */
static void read_source(const char *source, const char *folder, const char *about)
{
    char description[PK_PATH_MAX];
    snprintf(description, sizeof description, "%s/%s", folder, about);
    const struct pk_ppg_job job = {.source = source, .folder = folder, .description = description};
    struct pk_ppg_options o = {.rate = 50,
                               .window = 1,
                               .stride = 1,
                               .band = {0.5, 12},
                               .stop_db = 20,
                               .gap = 0.25,
                               .flat = 0.25,
                               .polarity = PK_POLARITY_AUTO,
                               .zscore = true};
    const struct pk_ppg_source *s = pk_ppg_sources;
    struct pk_ppg_catalog c = {0};
    struct pk_err err = {0};
    while (strcmp(s->name, source) != 0) s++;
    const bool opened = fine(s->open(&c, &job, &err), &err);
    for (int64_t i = 0; opened && i < c.count; i++) {
        struct pk_recording r = {0};
        struct pk_ppg_counts counts = {0};
        int64_t kept = 0;
        if (c.item[i].problem) continue;
        if (fine(c.read(&c, &c.item[i], &r, &err), &err) &&
            fine(pk_ppg_windows(&r, &o, c.leads, count_window, &kept, &counts, &err), &err))
            CHECK(kept == counts.kept && counts.kept <= counts.windows);
        pk_recording_free(&r);
    }
    pk_ppg_catalog_free(&c);
}

static void read_bidmc(const char *folder)
{
    read_source("bidmc", folder, "");
}
static void read_ppg_bp(const char *folder)
{
    read_source("ppg-bp", folder, "");
}
static void read_e4(const char *folder)
{
    read_source("e4", folder, "");
}
static void read_files(const char *folder)
{
    read_source("files", folder, "about.yaml");
}

/* ---- inputs ---- */

enum { FILES = 4, SEEDS = 4 };

static const struct reader {
    const char *name;
    void (*read)(const char *folder);
    const char *file[FILES]; // in the folder
    struct seed seed[SEEDS];
} readers[] = {
    {"json", read_json, {"a.json"}, {SEED(seed_json)}},
    {"model", read_model, {"config.json"}, {SEED(seed_model)}},
    {"npy", read_npy, {"a.npy"}, {SEED(seed_npy)}},
    {"safetensors", read_safetensors, {"a.safetensors"}, {SEED(seed_safetensors)}},
    {"recipe", read_recipe, {"a.yaml", "b.yaml"}, {SEED(seed_recipe), SEED(seed_stages)}},
    {"corpus", read_corpus, {"corpus.json"}, {SEED(seed_corpus)}},
    {"wfdb",
     read_wfdb,
     {"r.hea", "r.dat", "s.hea", "s.dat"},
     {SEED(seed_wfdb), SEED(seed_segments), SEED(seed_formats), SEED(seed_differences)}},
    {"ptbxl", read_ptbxl, {"ptbxl_database.csv", "scp_statements.csv"}, {SEED(seed_ptbxl)}},
    {"bidmc",
     read_bidmc,
     {"bidmc_01_Signals.csv", "bidmc_01_Numerics.csv", "bidmc_01_Fix.txt"},
     {SEED(seed_bidmc)}},
    {"ppg-bp", read_ppg_bp, {"subjects.csv", "2_1.txt"}, {SEED(seed_ppg_bp)}},
    {"e4", read_e4, {"BVP.csv", "HR.csv"}, {SEED(seed_e4)}},
    {"files", read_files, {"about.yaml", "a.csv", "people.csv"}, {SEED(seed_files)}},
};
enum { READERS = PK_COUNT(readers) };

/* Part k of the input is file k of the reader; the last takes the rest. */
static void read_input(const struct reader *r, const char *folder, const uint8_t *bytes, size_t n)
{
    struct pk_err err = {0};
    size_t at = 0;
    for (int k = 0; k < FILES && r->file[k]; k++) {
        const bool last = k + 1 == FILES || !r->file[k + 1];
        size_t end = at;
        while (end < n && (last || n - end < 3 || memcmp(bytes + end, "%%\n", 3) != 0)) end++;
        CHECK_OK(pk_write_file(in(folder, r->file[k]), bytes + at, end - at, &err), &err);
        at = PK_MIN(n, end + 3);
    }
    r->read(folder);
    for (int k = 0; k < FILES && r->file[k]; k++) remove(in(folder, r->file[k]));
}

static const char *make_folder(void)
{
    static char folder[] = "/tmp/purkinje-readers-XXXXXX",
                shm[] = "/dev/shm/purkinje-readers-XXXXXX";
    return mkdtemp(shm) ? shm : mkdtemp(folder);
}

#ifdef PK_LIBFUZZER

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static const struct reader *chosen = readers;
static const char *folder;

/* Leaves the seeds in the folder that is given for inputs. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *name = getenv("PK_FUZZ_READER");
    struct pk_err err = {0};
    folder = make_folder();
    for (int i = 0; i < READERS; i++)
        if (name && !strcmp(readers[i].name, name)) chosen = &readers[i];
    for (int i = 1; i < *argc; i++) {
        char path[PK_PATH_MAX];
        struct stat st;
        if (stat((*argv)[i], &st) != 0 || !S_ISDIR(st.st_mode)) continue;
        for (int k = 0; k < SEEDS && chosen->seed[k].bytes; k++) {
            snprintf(path, sizeof path, "%s/seed-%d", (*argv)[i], k);
            CHECK_OK(pk_write_file(path, chosen->seed[k].bytes, chosen->seed[k].n, &err), &err);
        }
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    read_input(chosen, folder, bytes, n);
    if (test_bad_) __builtin_trap();
    return 0;
}

#else

/* Changes one place: a byte, a piece left out, said twice or put elsewhere, a word that numbers
 * dislike, the end. */
static size_t change(uint8_t *x, size_t n, struct pk_rng *rng)
{
    static const char *const words[] = {"-1",    "0",        "99999999999999999999",
                                        "1e999", "nan",      "\"",
                                        "{",     "[",        "]",
                                        "}",     ",",        "\n",
                                        "\r",    " ",        "\t",
                                        "#",     ":",        "/",
                                        "%%\n",  "\xff\xfe", "-",
                                        ".",     "\\u0000",  "&",
                                        "*",     "!",        "|",
                                        ">",     "'",        "@",
                                        "?",     "~",        "="};
    const size_t at = (size_t)pk_rng_below(rng, n + 1),
                 piece = (size_t)pk_rng_below(rng, PK_MIN(n - at, 16) + 1);
    const char *word = words[pk_rng_below(rng, PK_COUNT(words))];
    size_t len = strlen(word);
    uint8_t copy[16];
    switch (pk_rng_below(rng, 7)) {
    case 0: // a bit
        if (at < n) x[at] ^= (uint8_t)(1U << pk_rng_below(rng, 8));
        return n;
    case 1: // any byte
        if (at < n) x[at] = (uint8_t)pk_rng_below(rng, 256);
        return n;
    case 2: // left out
        memmove(x + at, x + at + piece, n - at - piece);
        return n - piece;
    case 3:
        return at; // cut off
    case 4:        // said twice
        memcpy(copy, x + at, piece);
        word = (const char *)copy;
        len = piece;
        break;
    case 5: // replaced by a word
        memmove(x + at, x + at + piece, n - at - piece);
        n -= piece;
        break;
    default:
        break; // a word put in
    }
    memmove(x + at + len, x + at, n - at);
    memcpy(x + at, word, len);
    return n + len;
}

int main(void)
{
    static uint8_t x[INPUT_MAX];
    const char *folder = make_folder();
    if (!folder) return 1;
    for (int i = 0; i < READERS; i++)
        for (int k = 0; k < SEEDS && readers[i].seed[k].bytes; k++) {
            const struct seed *s = &readers[i].seed[k];
            const int before = test_bad_;
            struct pk_rng rng = pk_rng_make((uint64_t)i, PK_RNG_TEST, (uint64_t)k, 0);
            for (int m = 0; m <= MUTATIONS && test_bad_ == before; m++) {
                size_t n = s->n;
                memcpy(x, s->bytes, n);
                for (uint64_t c = m ? 1 + pk_rng_below(&rng, 4) : 0; c > 0; c--)
                    n = change(x, n, &rng);
                why[0] = 0;
                read_input(&readers[i], folder, x, n);
                if (m == 0 && strstr(why, "libyaml")) break; // built without it
                if (m == 0 && why[0]) fprintf(stderr, "%s: %s\n", readers[i].name, why);
                CHECK(m > 0 || !why[0]); // the seed itself
            }
            if (test_bad_ != before)
                fprintf(stderr, "reader %s, seed %d: %.*s\n", readers[i].name, k, (int)s->n, x);
        }
    CHECK(rmdir(folder) == 0);
    return TEST_END();
}

#endif
