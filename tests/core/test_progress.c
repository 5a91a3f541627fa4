/* test_progress.c -- the text of progress lines, with made-up times. With "demo" as argument it
 * runs a short one on stderr, for test_progress_terminal.py. */
#include "core/progress.h"
#include "tests/test.h"

static char *text;
static size_t length;

static const struct pk_progress_field fields[] = {{"loss", .123456, PK_FORMAT_GENERAL},
                                                  {"lr", 1e-3, PK_FORMAT_SCIENTIFIC},
                                                  {"wait", .0512, PK_FORMAT_PERCENT},
                                                  {"mem", 1.5 * (1 << 30), PK_FORMAT_BYTES},
                                                  {"rec/s", 2048.4, PK_FORMAT_COUNT}};

static bool is(const char *wanted)
{
    bool same = text && !strcmp(text, wanted);
    if (!same) fprintf(stderr, "got '%s'\nnot '%s'\n", text ? text : "", wanted);
    return same;
}

/* A log: one line each 10 s and at the end, nothing but plain text. */
static void plain(bool quiet)
{
    struct pk_progress p;
    FILE *f = tmpfile();
    CHECK(f != NULL);
    if (!f) return;
    pk_progress_begin(&p, f, "pretrain", 0, 100, 10, quiet, 0);
    CHECK(!p.terminal && !p.escapes);
    for (int i = 1; i <= 100; i++) pk_progress_update(&p, i, i * .4, fields, i == 100 ? 0 : 5);
    pk_progress_print(&p, "checkpoint %s", "step-100");
    pk_progress_end(&p);
    length = (size_t)ftell(f);
    text = calloc(length + 1, 1);
    rewind(f);
    CHECK(text && fread(text, 1, length, f) == length);
    fclose(f);
    const char *tail = "  loss 0.1235  lr 1.0e-03  wait 5.1%  mem 1.5 GiB  rec/s 2048\n";
    char wanted[1024];
    snprintf(wanted, sizeof wanted,
             "pretrain  25%%  step 25/100  eta 30 s%spretrain  50%%  step 50/100  eta 20 s%s"
             "pretrain  75%%  step 75/100  eta 10 s%spretrain 100%%  step 100/100  eta 0 s\n"
             "checkpoint step-100\n",
             tail, tail, tail);
    CHECK(is(quiet ? "" : wanted));
    free(text);
}

/* A terminal of 60 columns: redraws at most each 0.1 s, cut to 59, cleared before a message. */
static void terminal(bool escapes)
{
    struct pk_progress p;
    FILE *f = open_memstream(&text, &length);
    CHECK(f != NULL);
    if (!f) return;
    pk_progress_begin(&p, stderr, "probe", 40, 80, 10, false, 0); // resumed at 40
    p.out = f;
    p.terminal = true;
    p.escapes = escapes;
    p.columns = 60;
    pk_progress_update(&p, 40, 0, NULL, 0);
    pk_progress_update(&p, 41, .05, NULL, 0); // too soon
    pk_progress_update(&p, 42, 2, fields, 5);
    pk_progress_print(&p, "note");
    pk_progress_update(&p, 80, 40, NULL, 0);
    pk_progress_end(&p);
    fclose(f);
    CHECK_NEAR(p.recent_seconds / p.recent_steps, 1, .02); // 40 steps in 40 s
    static const char *const with =
        "\rprobe [##########..........]  50%  step 40/80  eta ?\x1b[K"
        "\rprobe [##########..........]  52%  step 42/80  eta 39 s  lo\x1b[K"
        "\r\x1b[Knote\n"
        "\rprobe [####################] 100%  step 80/80  eta 0 s\x1b[K\n";
    static const char *const without =
        "\rprobe [##########..........]  50%  step 40/80  eta ?"
        "\rprobe [##########..........]  52%  step 42/80  eta 39 s  lo"
        "\r                                                           \rnote\n"
        "\rprobe [####################] 100%  step 80/80  eta 0 s\n";
    CHECK(is(escapes ? with : without));
    free(text);
}

static void formats(void)
{
    static const struct {
        double seconds;
        const char *text;
    } d[] = {{0, "0 s"},
             {59.4, "59 s"},
             {59.6, "1 min 00 s"},
             {725, "12 min 05 s"},
             {3599.7, "1 h 00 min"},
             {12000, "3 h 20 min"},
             {187200, "2 d 04 h"},
             {-1, "?"},
             {(double)NAN, "?"},
             {(double)INFINITY, "?"}};
    static const struct {
        double bytes;
        const char *text;
    } b[] = {{0, "0 B"},
             {312, "312 B"},
             {1023, "1023 B"},
             {1024, "1.0 KiB"},
             {1048575, "1.0 MiB"},
             {1.5 * 1073741824, "1.5 GiB"},
             {1e30, "888178419700125.2 PiB"}};
    char out[64];
    for (size_t i = 0; i < PK_COUNT(d); i++) {
        pk_format_duration(out, sizeof out, d[i].seconds);
        text = out;
        CHECK(is(d[i].text));
    }
    for (size_t i = 0; i < PK_COUNT(b); i++) {
        pk_format_bytes(out, sizeof out, b[i].bytes);
        text = out;
        CHECK(is(b[i].text));
    }
}

static void odd_input(void)
{
    struct pk_progress p;
    struct pk_progress_field many[40];
    FILE *f = open_memstream(&text, &length);
    CHECK(f != NULL);
    if (!f) return;
    for (int i = 0; i < 40; i++)
        many[i] = (struct pk_progress_field){"a name that is long enough to fill the line", 1e300,
                                             PK_FORMAT_COUNT};
    pk_progress_begin(&p, stderr, "x", 0, 0, 0, false, 0); // no steps at all
    p.out = f;
    p.terminal = false;
    pk_progress_update(&p, 0, 0, many, 40);
    p.terminal = true;
    p.columns = 4;
    pk_progress_update(&p, 5, 0, (struct pk_progress_field[]){{"\xce\xb7", 1, 0}}, 1);
    pk_progress_end(&p);
    fclose(f);
    CHECK(length < 1100 && !strncmp(text, "x   0%  step 0/0", 16) && strstr(text, "\n\rx [\n"));
    free(text);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        struct pk_progress p;
        pk_progress_begin(&p, stderr, "demo", 0, 4, 1, !strcmp(argv[1], "quiet"), 0);
        for (int i = 1; i <= 4; i++) pk_progress_update(&p, i, i, fields, 5);
        pk_progress_end(&p);
        return 0;
    }
    plain(false);
    plain(true);
    terminal(true);
    terminal(false);
    formats();
    odd_input();
    return TEST_END();
}
