/* test_launch_env.c -- which rank a process is: the table environments.txt, and lists of hosts. */
#include "core/hostlist.h"
#include "core/launch_env.h"
#include "tests/test.h"

enum { WORDS = 64, ROWS_AT_LEAST = 200 };

struct row {
    char *word[WORDS]; // ends with NULL
    struct pk_launch_flags flags;
    const char *want;
    int line;
};

/* Cuts "A=1 --rank 0 -> WANT" into its parts; false for comments and empty lines. */
static bool cut(char *text, struct row *row)
{
    const char *words[] = {"--rank", "--world-size", "--local-rank", "--master", "--interface"};
    const char **value[] = {&row->flags.rank, &row->flags.world_size, &row->flags.local_rank,
                            &row->flags.master, &row->flags.interface};
    int n = 0;
    char *arrow = strstr(text, "-> ");
    if (text[0] == '#' || !text[0]) return false;
    if (!arrow) {
        fprintf(stderr, "environments.txt:%d: no arrow\n", row->line);
        exit(1);
    }
    *arrow = 0;
    row->want = arrow + 3;
    for (char *p = text; *p;) {
        char *end = strchr(p, ' ');
        if (end) *end = 0;
        if (*p && n < WORDS - 1) row->word[n++] = p;
        if (!end) break;
        p = end + 1;
    }
    for (int i = 0; i + 1 < n; i++)
        for (size_t f = 0; f < PK_COUNT(words); f++)
            if (!strcmp(row->word[i], words[f])) *value[f] = row->word[i + 1];
    return true;
}

static void check_row(const struct row *row)
{
    struct pk_launch l;
    struct pk_err err = {0};
    char got[PK_ERR_MAX + 64];
    enum pk_status s = pk_launch_detect(&l, (const char *const *)row->word, &row->flags, &err);
    bool good;
    if (s != PK_OK) {
        snprintf(got, sizeof got, "error %s", err.message);
        good = !strncmp(row->want, "error ", 6) && s == PK_EUSAGE &&
               strstr(err.message, row->want + 6);
    } else {
        int n = snprintf(got, sizeof got, "%d/%d local %d/%d %s", l.rank, l.size, l.local_rank,
                         l.local_size, pk_launch_source_name(l.source));
        if (l.master[0]) snprintf(got + n, 300, " master %s:%d", l.master, l.port);
        good = !strcmp(got, row->want);
    }
    CHECK(good);
    if (!good)
        fprintf(stderr, "environments.txt:%d: wanted '%s', got '%s'\n", row->line, row->want, got);
}

static void test_table(void)
{
    char *text = NULL;
    struct pk_err err = {0};
    int rows = 0, line = 0;
    CHECK_OK(pk_read_file(PK_SOURCE_DIR "/tests/dist/environments.txt", 1 << 20, &text, NULL, &err),
             &err);
    if (!text) return;
    for (char *p = text; p && *p;) {
        struct row row = {.line = ++line};
        char *end = strchr(p, '\n');
        if (end) *end = 0;
        if (cut(p, &row)) {
            check_row(&row);
            rows++;
        }
        p = end ? end + 1 : NULL;
    }
    fprintf(stderr, "%d environments\n", rows);
    CHECK(rows >= ROWS_AT_LEAST);
    free(text);
}

static void test_job_names(void)
{
    static const char *const one[] = {"SLURM_JOB_ID=7",       "SLURM_STEP_ID=0",
                                      "SLURM_PROCID=1",       "SLURM_NTASKS=2",
                                      "SLURM_JOB_NODELIST=a", "SLURM_JOB_START_TIME=99",
                                      "PURKINJE_TOKEN=s3",    "PURKINJE_INTERFACE=ib0",
                                      "PURKINJE_TIMEOUT=1.5", NULL};
    static const char *const two[] = {"SLURM_JOB_ID=7", "SLURM_STEP_ID=1",      "SLURM_PROCID=1",
                                      "SLURM_NTASKS=2", "SLURM_JOB_NODELIST=a", NULL};
    struct pk_launch a, b;
    struct pk_err err = {0};
    CHECK_OK(pk_launch_detect(&a, one, NULL, &err), &err);
    CHECK_OK(pk_launch_detect(&b, two, NULL, &err), &err);
    CHECK(a.job[0] && b.job[0] && strcmp(a.job, b.job) != 0); // two steps are two jobs
    CHECK(!strcmp(a.token, "s3") && !strcmp(a.interface, "ib0") && a.listen_fd == -1);
    CHECK_NEAR(a.timeout_s, 1.5, 0);
    CHECK_NEAR(b.timeout_s, 300, 0);
    CHECK_OK(pk_launch_detect(&a, NULL, NULL, &err), &err); // no environment at all
    CHECK(a.size == 1 && a.source == PK_LAUNCH_SINGLE);
}

static void test_hostlist(void)
{
    static const struct {
        const char *list, *all;
    } cases[] = {
        {"a[01-03,7],b2", "a01 a02 a03 a7 b2"}, // widths belong to ranges
        {"n[9-11]", "n9 n10 n11"},              // a width that grows
        {"n[098-101]", "n098 n099 n100 n101"},  // and one that does not
        {"r[0-1]n[1-2]x,z", "r0n1x r0n2x r1n1x r1n2x z"},
        {"one", "one"},
        {"c[5]", "c5"},
        {"[1-2]", "1 2"},
    };
    struct pk_err err = {0};
    char name[64];
    int64_t n;
    for (size_t i = 0; i < PK_COUNT(cases); i++) {
        struct pk_text t = {0};
        CHECK_OK(pk_hostlist_count(cases[i].list, &n, &err), &err);
        for (int64_t k = 0; k < n; k++) {
            CHECK_OK(pk_hostlist_get(cases[i].list, k, name, sizeof name, &err), &err);
            pk_text_add(&t, "%s%s", k ? " " : "", name);
        }
        CHECK(t.s && !strcmp(t.s, cases[i].all));
        CHECK_FAILS(pk_hostlist_get(cases[i].list, n, name, sizeof name, &err), PK_EUSAGE, &err,
                    "no number");
        pk_text_free(&t);
    }
    CHECK_FAILS(pk_hostlist_count("", &n, &err), PK_EUSAGE, &err, "name was expected");
    CHECK_FAILS(pk_hostlist_count("a[1-2", &n, &err), PK_EUSAGE, &err, "',' or ']'");
    CHECK_FAILS(pk_hostlist_count("a b", &n, &err), PK_EUSAGE, &err, "a blank");
    CHECK_FAILS(pk_hostlist_count("a[1000000000-1000000001]", &n, &err), PK_EUSAGE, &err, "number");
    CHECK_FAILS(pk_hostlist_count("a[0-999][0-9999]", &n, &err), PK_EUSAGE, &err, "more hosts");
    CHECK_FAILS(pk_hostlist_get("abcdef[1-3]", 2, name, 7, &err), PK_EUSAGE, &err, "longer");
}

int main(void)
{
    test_table();
    test_job_names();
    test_hostlist();
    return TEST_END();
}
