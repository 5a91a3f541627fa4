/* cmd_data_dump.c -- purkinje data dump: what is in one WFDB record, and its samples as .npy. */
#include "core/json.h"
#include "datasets/wfdb.h"
#include "tools/cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Headers may hold any bytes, but JSON must be UTF-8 and a terminal obeys control characters: what
 * is not printable ASCII becomes '?'. */
static char *printable(const char *text)
{
    char *copy = pk_strdup(text);
    for (char *p = copy; p && *p; p++)
        if ((unsigned char)*p >= 0x7f || (unsigned char)*p < 0x20) *p = '?';
    return copy;
}

static void put_text(struct pk_json_writer *w, const char *key, const char *text)
{
    char *copy = printable(text);
    if (copy)
        pk_json_put_string(w, key, copy);
    else
        w->out->failed = true;
    free(copy);
}

static void put_channel(struct pk_json_writer *w, const struct pk_wfdb_channel *c)
{
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (int64_t i = 0; i < c->count; i++) {
        if (c->digital[i] == PK_WFDB_INVALID) continue;
        low = PK_MIN(low, c->digital[i]);
        high = PK_MAX(high, c->digital[i]);
    }
    pk_json_open(w, NULL, '{');
    put_text(w, "description", c->description);
    put_text(w, "units", c->units);
    pk_json_put_i64(w, "format", c->format);
    pk_json_put_i64(w, "samples_per_frame", c->samples_per_frame);
    pk_json_put_i64(w, "samples", c->count);
    pk_json_put_i64(w, "invalid", c->invalid);
    pk_json_put_f64(w, "gain", c->piece[0].gain);
    pk_json_put_i64(w, "baseline", c->piece[0].baseline);
    if (low <= high) {
        pk_json_put_i64(w, "lowest", low);
        pk_json_put_i64(w, "highest", high);
    }
    pk_json_close(w);
}

static enum pk_status print_json(const struct pk_wfdb_record *r, struct pk_err *err)
{
    struct pk_text text = {0};
    struct pk_json_writer w = {.out = &text, .indent = 2};
    pk_json_open(&w, NULL, '{');
    put_text(&w, "name", r->header.name);
    pk_json_put_f64(&w, "rate", r->header.rate);
    pk_json_put_f64(&w, "counter_rate", r->header.counter_rate);
    pk_json_put_f64(&w, "base_counter", r->header.base_counter);
    pk_json_put_i64(&w, "frames", r->length);
    put_text(&w, "base_time", r->header.base_time);
    put_text(&w, "base_date", r->header.base_date);
    pk_json_put_i64(&w, "segments", r->header.segments);
    pk_json_open(&w, "signals", '[');
    for (int32_t i = 0; i < r->channels; i++) put_channel(&w, &r->channel[i]);
    pk_json_close(&w);
    pk_json_open(&w, "comments", '[');
    for (int64_t i = 0; i < r->header.comments; i++) put_text(&w, NULL, r->header.comment[i]);
    pk_json_close(&w);
    pk_json_close(&w);
    return pk_print(&text, err);
}

static void print_table(const struct pk_wfdb_record *r)
{
    char *name = printable(r->header.name);
    printf("record   %s\nrate     %g Hz\nlength   %lld frames, %g s\n", name ? name : "",
           r->header.rate, (long long)r->length, (double)r->length / r->header.rate);
    free(name);
    if (r->header.segments) printf("segments %lld\n", (long long)r->header.segments);
    printf("%6s %6s %5s %9s %12s %9s %-8s %s\n", "signal", "format", "/fr", "samples", "gain",
           "invalid", "units", "description");
    for (int32_t i = 0; i < r->channels; i++) {
        const struct pk_wfdb_channel *c = &r->channel[i];
        char *units = printable(c->units), *description = printable(c->description);
        printf("%6d %6d %5d %9lld %12g %9lld %-8s %s\n", i, c->format, c->samples_per_frame,
               (long long)c->count, c->piece[0].gain, (long long)c->invalid, units ? units : "",
               description ? description : "");
        free(units);
        free(description);
    }
}

/* Format 1.0 of NumPy's .npy: magic, header length, a Python dict padded to 64 bytes, the data. */
static enum pk_status write_npy(const struct pk_wfdb_record *r, const char *path, bool digital,
                                struct pk_err *err)
{
    char dict[256], shape[64];
    int64_t total = 0;
    bool square = r->channels > 0;
    FILE *f = NULL;
    double *row = NULL;
    enum pk_status s = PK_OK;
    for (int32_t i = 0; i < r->channels; i++) {
        total += r->channel[i].count;
        square = square && r->channel[i].count == r->channel[0].count;
    }
    if (square)
        snprintf(shape, sizeof shape, "%d, %lld", r->channels, (long long)r->channel[0].count);
    else
        snprintf(shape, sizeof shape, "%lld,", (long long)total);
    int n = snprintf(dict, sizeof dict, "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }",
                     digital ? "<i4" : "<f8", shape);
    int padded = (10 + n + 1 + 63) / 64 * 64 - 10;
    const unsigned char head[10] = {0x93,
                                    'N',
                                    'U',
                                    'M',
                                    'P',
                                    'Y',
                                    1,
                                    0,
                                    (unsigned char)(padded & 255),
                                    (unsigned char)(padded >> 8)};
    PK_TRY(pk_open(&f, path, "wb", err));
    s = pk_write(f, head, sizeof head, path, err);
    if (s == PK_OK && fprintf(f, "%s%*s\n", dict, padded - n - 1, "") < 0)
        s = pk_fail_errno(err, PK_EWRITE, "cannot write %s", path);
    for (int32_t i = 0; s == PK_OK && i < r->channels; i++) {
        const struct pk_wfdb_channel *c = &r->channel[i];
        if (digital) {
            s = pk_write(f, c->digital, (size_t)c->count * sizeof *c->digital, path, err);
            continue;
        }
        if ((s = pk_alloc(&row, (size_t)c->count, sizeof *row, "samples", err)) != PK_OK) break;
        pk_wfdb_physical(c, row);
        s = pk_write(f, row, (size_t)c->count * sizeof *row, path, err);
        free(row);
    }
    if (s == PK_OK) return pk_sync_close(&f, path, err);
    fclose(f);
    remove(path);
    return s;
}

static enum pk_status run(const struct pk_args *args, struct pk_err *err)
{
    struct pk_wfdb_record r;
    const char *npy = pk_arg(args, "npy");
    const struct pk_wfdb_options options = {.ignore_checksum = pk_arg(args, "ignore-checksum")};
    if (args->count != 1)
        return pk_fail(err, PK_EUSAGE,
                       "data dump takes one record: the path of its header, with or "
                       "without .hea");
    PK_TRY(pk_wfdb_read(&r, args->word[0], &options, err));
    enum pk_status s = PK_OK;
    if (npy) s = write_npy(&r, npy, pk_arg(args, "digital") != NULL, err);
    if (s == PK_OK && pk_arg(args, "json"))
        s = print_json(&r, err);
    else if (s == PK_OK)
        print_table(&r);
    pk_wfdb_free(&r);
    return s;
}

static const struct pk_option options[] = {
    {"json", NULL, "print the description as JSON"},
    {"npy", "FILE", "write the samples in physical units, float64; invalid ones are NaN"},
    {"digital", NULL, "with --npy: the digital values, int32; invalid ones are -2147483648"},
    {"ignore-checksum", NULL, "read on where a checksum differs from the header's"},
    {0}};

static const struct pk_example examples[] = {
    {"data dump ptb-xl-1.0.3/records100/00000/00001_lr", "rate, length and leads of one record"},
    {"data dump ptb-xl-1.0.3/records100/00000/00001_lr --json --npy samples.npy",
     "the same as JSON, and the samples [leads, samples] for numpy.load"},
    {0}};

const struct pk_command pk_cmd_data_dump = {
    .name = "data dump",
    .synopsis = "RECORD",
    .summary = "show one WFDB record",
    .details =
        "RECORD is the path of a WFDB header, with or without .hea. The array of --npy is\n"
        "[signals, samples]; where signals have different numbers of samples per frame it is\n"
        "one row, signal after signal.",
    .options = options,
    .examples = examples,
    .run = run};
