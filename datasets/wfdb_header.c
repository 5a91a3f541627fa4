/* wfdb_header.c -- the text header of a WFDB record, header(5).
 *
 * Strict about everything a wrong guess would turn into wrong samples; a field that is optional in
 * the format may be missing, one that is there must be what the format says. */
#include "datasets/wfdb.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A line being taken apart. Tokens are cut out in place. */
struct line {
    struct pk_wfdb_header *header;
    char *start, *at;
    int32_t number;
};

static enum pk_status fail_at(const struct line *l, const char *where, struct pk_err *err,
                              const char *fmt, ...) PK_PRINTF(4, 5);
static enum pk_status fail_at(const struct line *l, const char *where, struct pk_err *err,
                              const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return pk_fail(err, PK_EDATA, "%s:%d:%d: %s", l->header->path, l->number,
                   (int)(where - l->start) + 1, text);
}

enum pk_status pk_wfdb_open(int *fd, int64_t *size, const char *path, struct pk_err *err)
{
    struct stat st;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0) return pk_fail_errno(err, PK_EIO, "cannot open %s", path);
    if (fstat(*fd, &st) != 0) {
        pk_fail_errno(err, PK_EIO, "cannot stat %s", path);
    } else if (!S_ISREG(st.st_mode)) {
        pk_fail(err, PK_EIO, "%s is not an ordinary file", path);
    } else {
        *size = (int64_t)st.st_size;
        return PK_OK;
    }
    close(*fd);
    *fd = -1;
    return PK_EIO;
}

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

/* The next run of non-blanks, NUL terminated, or NULL at the end of the line. */
static char *next_token(struct line *l)
{
    while (blank(*l->at)) l->at++;
    if (!*l->at) return NULL;
    char *token = l->at;
    while (*l->at && !blank(*l->at)) l->at++;
    if (*l->at) *l->at++ = 0;
    return token;
}

static bool take_i64(char **p, int64_t *out)
{
    char *end;
    char first = **p == '-' || **p == '+' ? (*p)[1] : **p;
    if (first < '0' || first > '9') return false;
    errno = 0;
    long long v = strtoll(*p, &end, 10);
    if (errno) return false;
    *out = v;
    *p = end;
    return true;
}

/* Decimal numbers only: strtod alone would also take hexadecimal, inf and nan. */
static bool take_f64(char **p, double *out)
{
    const char *q = *p + (**p == '-' || **p == '+');
    char *end;
    if (*q == '.') q++;
    if (*q < '0' || *q > '9' || (*q == '0' && (q[1] == 'x' || q[1] == 'X'))) return false;
    double v = strtod(*p, &end);
    if (!(v <= 1e300 && v >= -1e300)) return false;
    *out = v;
    *p = end;
    return true;
}

/* A whole-number token within limits; absent leaves *out alone and clears *given. */
static enum pk_status optional_i32(struct line *l, const char *what, int64_t low, int64_t high,
                                   int32_t *out, bool *given, struct pk_err *err)
{
    int64_t v;
    char *token = next_token(l), *p = token;
    *given = token != NULL;
    if (!token) return PK_OK;
    if (!take_i64(&p, &v) || *p || v < low || v > high)
        return fail_at(l, token, err, "%s '%.40s': a whole number from %lld to %lld was expected",
                       what, token, (long long)low, (long long)high);
    *out = (int32_t)v;
    return PK_OK;
}

/* Names come from the file: they must stay inside the record's folder. */
static enum pk_status check_name(const struct line *l, const char *name, struct pk_err *err)
{
    if (!strcmp(name, "-"))
        return fail_at(l, name, err, "the signal file is standard input ('-'), which is refused");
    if (name[0] == '/' || !strncmp(name, "../", 3) || !strcmp(name, "..") || strstr(name, "/../"))
        return fail_at(l, name, err, "'%.200s' is outside of the record's folder", name);
    if (strlen(name) > 255) return fail_at(l, name, err, "file name longer than 255 bytes");
    return PK_OK;
}

static enum pk_status parse_rate(struct line *l, char *token, struct pk_err *err)
{
    struct pk_wfdb_header *h = l->header;
    char *p = token;
    bool good = take_f64(&p, &h->rate) && h->rate > 0;
    h->counter_rate = h->rate;
    if (good && *p == '/') {
        p++;
        good = take_f64(&p, &h->counter_rate);
        if (good && *p == '(') {
            p++;
            good = take_f64(&p, &h->base_counter) && *p == ')';
            p += good;
        }
    }
    if (!good || *p)
        return fail_at(l, token, err,
                       "sampling rate '%.60s': RATE, RATE/COUNTER or RATE/COUNTER(BASE) in Hz was "
                       "expected",
                       token);
    return PK_OK;
}

static enum pk_status parse_record_line(struct line *l, struct pk_err *err)
{
    struct pk_wfdb_header *h = l->header;
    int64_t v = 0;
    char *name = next_token(l), *slash = strchr(name, '/'), *p = slash ? slash + 1 : NULL;
    h->name = name;
    if (slash) {
        if (!take_i64(&p, &h->segments) || *p || h->segments < 1)
            return fail_at(l, slash + 1, err,
                           "number of segments '%.40s': a whole number from 1 "
                           "was expected",
                           slash + 1);
        *slash = 0;
    }
    char *token = p = next_token(l);
    if (!token) return fail_at(l, l->at, err, "the record line ends before the number of signals");
    if (!take_i64(&p, &v) || *p || v < 0 || v > PK_WFDB_SIGNALS_MAX)
        return fail_at(l, token, err,
                       "number of signals '%.40s': a whole number from 0 to %d was "
                       "expected",
                       token, PK_WFDB_SIGNALS_MAX);
    h->signals = (int32_t)v;
    h->rate = h->counter_rate = 250; // the format's default
    h->length = -1;
    h->base_time = h->base_date = "";
    if ((token = next_token(l)) != NULL) PK_TRY(parse_rate(l, token, err));
    if ((token = p = next_token(l)) != NULL) {
        if (!take_i64(&p, &v) || *p || v < 0)
            return fail_at(l, token, err,
                           "number of samples '%.40s': a whole number from 0 was "
                           "expected",
                           token);
        h->length = v ? v : -1; // 0 says "not known"
    }
    for (int i = 0; i < 2 && (token = next_token(l)) != NULL; i++) {
        // CinC headers put the date (05-Feb-2020) before the time
        if (strchr(token, ':') || !(strchr(token, '-') || strchr(token, '/')))
            h->base_time = token;
        else
            h->base_date = token;
    }
    return PK_OK;
}

/* FORMAT[xSAMPLES_PER_FRAME][:SKEW][+OFFSET] */
static enum pk_status parse_format(struct line *l, struct pk_wfdb_signal *s, struct pk_err *err)
{
    char *token = next_token(l), *p = token;
    int64_t format = 0, per_frame = 1, skew = 0, offset = 0;
    if (!token) return fail_at(l, l->at, err, "the signal line ends before the format");
    bool good = take_i64(&p, &format) && format >= 0 && format <= 10000;
    if (good && *p == 'x') good = (p++, take_i64(&p, &per_frame));
    if (good && *p == ':') good = (p++, take_i64(&p, &skew));
    if (good && *p == '+') good = (p++, take_i64(&p, &offset));
    if (!good || *p)
        return fail_at(l, token, err,
                       "signal format '%.60s': FORMAT[xSAMPLES][:SKEW][+OFFSET] was "
                       "expected",
                       token);
    if (per_frame < 1 || per_frame > PK_WFDB_FRAME_MAX || skew < 0 || skew > PK_WFDB_FRAME_MAX ||
        offset < 0 || offset > PK_WFDB_BYTES_MAX)
        return fail_at(l, token, err,
                       "signal format '%.60s': samples per frame from 1 to %d, skew "
                       "from 0 to %d and offset from 0 to %d were expected",
                       token, PK_WFDB_FRAME_MAX, PK_WFDB_FRAME_MAX, PK_WFDB_BYTES_MAX);
    s->format = (int32_t)format;
    s->samples_per_frame = (int32_t)per_frame;
    s->skew = (int32_t)skew;
    s->offset = offset;
    return PK_OK;
}

/* [GAIN[(BASELINE)][/UNITS]]; *has_baseline tells whether adc_zero must stand in. */
static enum pk_status parse_gain(struct line *l, struct pk_wfdb_signal *s, bool *has_baseline,
                                 struct pk_err *err)
{
    char *token = next_token(l), *p = token;
    int64_t baseline = 0;
    *has_baseline = false;
    s->gain = 200;
    s->units = "mV";
    if (!token) return PK_OK;
    bool good = take_f64(&p, &s->gain);
    if (good && *p == '(') {
        p++;
        good =
            take_i64(&p, &baseline) && *p == ')' && baseline >= INT32_MIN && baseline <= INT32_MAX;
        p += good;
        *has_baseline = good;
    }
    if (good && *p == '/') {
        s->units = p[1] ? p + 1 : "mV";
        p += strlen(p);
    }
    if (!good || *p)
        return fail_at(l, token, err, "gain '%.60s': GAIN[(BASELINE)][/UNITS] was expected", token);
    if (s->gain == 0) s->gain = 200; // "not calibrated"
    s->baseline = (int32_t)baseline;
    return PK_OK;
}

static enum pk_status parse_signal_line(struct line *l, struct pk_wfdb_signal *s,
                                        struct pk_err *err)
{
    bool has_baseline, given;
    int32_t checksum = 0, block = 0;
    s->line = l->number;
    s->file = next_token(l);
    PK_TRY(check_name(l, s->file, err));
    PK_TRY(parse_format(l, s, err));
    PK_TRY(parse_gain(l, s, &has_baseline, err));
    PK_TRY(optional_i32(l, "ADC resolution", 0, 64, &s->resolution, &given, err));
    PK_TRY(optional_i32(l, "ADC zero", INT32_MIN, INT32_MAX, &s->adc_zero, &given, err));
    if (!has_baseline) s->baseline = s->adc_zero;
    s->initial = s->adc_zero;
    PK_TRY(optional_i32(l, "initial value", INT32_MIN, INT32_MAX, &s->initial, &given, err));
    PK_TRY(optional_i32(l, "checksum", -32768, 65535, &checksum, &s->has_checksum, err));
    s->checksum = (uint16_t)checksum; // written signed by some programs, unsigned by others
    PK_TRY(optional_i32(l, "block size", 0, INT32_MAX, &block, &given, err));
    while (blank(*l->at)) l->at++;
    s->description = l->at;
    for (char *end = l->at + strlen(l->at); end > l->at && blank(end[-1]);) *--end = 0;
    return PK_OK;
}

static enum pk_status parse_segment_line(struct line *l, struct pk_wfdb_segment *s,
                                         struct pk_err *err)
{
    s->line = l->number;
    s->name = next_token(l);
    PK_TRY(check_name(l, s->name, err));
    char *token = next_token(l), *p = token;
    if (!token) return fail_at(l, l->at, err, "the segment line ends before the number of samples");
    if (!take_i64(&p, &s->length) || *p || s->length < 0)
        return fail_at(l, token, err, "segment length '%.40s': a whole number from 0 was expected",
                       token);
    if ((token = next_token(l)) != NULL)
        return fail_at(l, token, err, "'%.40s' follows the segment's length", token);
    return PK_OK;
}

/* Cuts the next line out of the text (CR LF or LF); false at the end. */
static bool next_line(struct line *l, char **rest)
{
    if (!**rest) return false;
    char *end = strchr(*rest, '\n');
    l->start = l->at = *rest;
    l->number++;
    if (end) {
        *rest = end + 1;
        *end = 0;
    } else {
        *rest = end = *rest + strlen(*rest);
    }
    if (end > l->start && end[-1] == '\r') end[-1] = 0;
    return true;
}

static enum pk_status add_comment(struct pk_wfdb_header *h, int64_t *capacity, char *text,
                                  struct pk_err *err)
{
    while (*text == '#' || blank(*text)) text++;
    PK_TRY(pk_grow(&h->comment, capacity, h->comments + 1, sizeof *h->comment, "comments", err));
    h->comment[h->comments++] = text;
    return PK_OK;
}

static enum pk_status parse(struct pk_wfdb_header *h, struct pk_err *err)
{
    struct line l = {.header = h};
    char *rest = h->text;
    int64_t signals = 0, segments = 0, signal_room = 0, segment_room = 0, comment_room = 0;
    while (next_line(&l, &rest)) {
        while (blank(*l.at)) l.at++;
        if (!*l.at) continue;
        if (*l.at == '#') {
            PK_TRY(add_comment(h, &comment_room, l.at, err));
        } else if (!h->name) {
            PK_TRY(parse_record_line(&l, err));
        } else if (h->segments && segments < h->segments) {
            PK_TRY(pk_grow(&h->segment, &segment_room, segments + 1, sizeof *h->segment, "segments",
                           err));
            PK_TRY(parse_segment_line(&l, &h->segment[segments++], err));
        } else if (!h->segments && signals < h->signals) {
            PK_TRY(
                pk_grow(&h->signal, &signal_room, signals + 1, sizeof *h->signal, "signals", err));
            PK_TRY(parse_signal_line(&l, &h->signal[signals++], err));
        } else {
            return fail_at(&l, l.at, err, "a line more than the %lld %s the record line promises",
                           (long long)(h->segments ? h->segments : h->signals),
                           h->segments ? "segments" : "signals");
        }
    }
    if (!h->name) return pk_fail(err, PK_EDATA, "%s: the header has no record line", h->path);
    if (h->segments ? segments < h->segments : signals < h->signals)
        return pk_fail(err, PK_EDATA, "%s: the record line promises %lld %s, %lld follow", h->path,
                       (long long)(h->segments ? h->segments : h->signals),
                       h->segments ? "segments" : "signals",
                       (long long)(h->segments ? segments : signals));
    return PK_OK;
}

static enum pk_status load_text(struct pk_wfdb_header *h, struct pk_err *err)
{
    int fd;
    int64_t size;
    PK_TRY(pk_wfdb_open(&fd, &size, h->path, err));
    enum pk_status s;
    if (size > PK_WFDB_HEADER_MAX)
        s = pk_fail(err, PK_EDATA, "%s has %lld bytes; a header has at most %d", h->path,
                    (long long)size, PK_WFDB_HEADER_MAX);
    else if ((s = pk_alloc(&h->text, (size_t)size + 1, 1, "header", err)) == PK_OK)
        s = pk_pread(fd, h->text, (size_t)size, 0, h->path, err);
    close(fd);
    if (s != PK_OK) return s;
    const char *zero = memchr(h->text, 0, (size_t)size);
    if (zero)
        return pk_fail(err, PK_EDATA, "%s: byte %lld is 0; this is not a text header", h->path,
                       (long long)(zero - h->text));
    return PK_OK;
}

enum pk_status pk_wfdb_header_load(struct pk_wfdb_header *out, const char *record,
                                   struct pk_err *err)
{
    size_t n = strlen(record);
    bool has_suffix = n > 4 && !strcmp(record + n - 4, ".hea");
    *out = (struct pk_wfdb_header){0};
    PK_TRY(pk_path(out->path, err, "%s%s", record, has_suffix ? "" : ".hea"));
    enum pk_status s = load_text(out, err);
    if (s == PK_OK) s = parse(out, err);
    if (s != PK_OK) pk_wfdb_header_free(out);
    return s;
}

void pk_wfdb_header_free(struct pk_wfdb_header *h)
{
    free(h->signal);
    free(h->segment);
    free(h->comment);
    free(h->text);
    *h = (struct pk_wfdb_header){0};
}
