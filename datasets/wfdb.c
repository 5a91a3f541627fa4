/* wfdb.c -- the samples of a WFDB record: signal files, frames, skew, checksums, segments. */
#include "datasets/wfdb.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What a read has left of the limits; one budget covers all segments of a record. */
struct budget {
    int64_t bytes;
    int64_t frames;
    const char *record; // path of the record's header, for the message
    bool ignore_checksum;
};

static enum pk_status spend(struct budget *b, int64_t bytes, struct pk_err *err)
{
    if (bytes > b->bytes)
        return pk_fail(err, PK_EDATA,
                       "%s: the record's files have more than the %d MiB that are "
                       "read at once",
                       b->record, PK_WFDB_BYTES_MAX >> 20);
    b->bytes -= bytes;
    return PK_OK;
}

static enum pk_status check_samples(const struct budget *b, const char *path, int64_t frames,
                                    int64_t per_frame, struct pk_err *err)
{
    if (frames > b->frames)
        return pk_fail(err, PK_EDATA, "%s has %lld samples, at most %lld were expected", path,
                       (long long)frames, (long long)b->frames);
    if (frames > PK_WFDB_SAMPLES_MAX || frames * per_frame > PK_WFDB_SAMPLES_MAX)
        return pk_fail(err, PK_EDATA,
                       "%s: %lld frames of %lld samples are more than the %d Mi "
                       "samples that are read at once",
                       path, (long long)frames, (long long)per_frame, PK_WFDB_SAMPLES_MAX >> 20);
    return PK_OK;
}

/* Path of a file that a header names: beside the header. */
static enum pk_status beside(char out[PK_PATH_MAX], const struct pk_wfdb_header *h,
                             const char *name, struct pk_err *err)
{
    const char *slash = strrchr(h->path, '/');
    int folder = slash ? (int)(slash - h->path) + 1 : 0;
    return pk_path(out, err, "%.*s%s", folder, h->path, name);
}

static bool stored(const struct pk_wfdb_signal *s)
{
    return s->format != 0;
}

/* Is signal i the first of its file? */
static bool opens_file(const struct pk_wfdb_header *h, int32_t i)
{
    if (!stored(&h->signal[i])) return false;
    for (int32_t k = 0; k < i; k++)
        if (stored(&h->signal[k]) && !strcmp(h->signal[k].file, h->signal[i].file)) return false;
    return true;
}

/* Samples in one frame of the file that signal `first` opens; all its signals must agree. */
static enum pk_status frame_of(const struct pk_wfdb_header *h, int32_t first, int64_t *per_frame,
                               struct pk_err *err)
{
    const struct pk_wfdb_signal *f = &h->signal[first];
    *per_frame = 0;
    if (!pk_wfdb_format_known(f->format))
        return pk_fail(
            err, PK_EDATA, "%s:%d: signal file %s has format %d, which is not supported%s", h->path,
            f->line, f->file, f->format,
            f->format == 508 || f->format == 516 || f->format == 524
                ? " (FLAC); convert it with the WFDB library's xform to format 16, 24 or 32"
                : " (8 16 24 32 61 80 160 212 310 311 are)");
    for (int32_t i = first; i < h->signals; i++) {
        const struct pk_wfdb_signal *s = &h->signal[i];
        if (!stored(s) || strcmp(s->file, f->file)) continue;
        if (s->format != f->format || s->offset != f->offset)
            return pk_fail(err, PK_EDATA,
                           "%s:%d: signal file %s has format %d offset %lld here, and "
                           "format %d offset %lld in line %d",
                           h->path, s->line, s->file, s->format, (long long)s->offset, f->format,
                           (long long)f->offset, f->line);
        *per_frame += s->samples_per_frame;
    }
    return PK_OK;
}

/* Length of a record whose header does not tell: what its files hold, which must agree. */
static enum pk_status infer_length(const struct pk_wfdb_header *h, int64_t *length,
                                   struct pk_err *err)
{
    const char *first = NULL;
    *length = 0;
    for (int32_t i = 0; i < h->signals; i++) {
        char path[PK_PATH_MAX];
        int fd;
        int64_t size, per_frame;
        if (!opens_file(h, i)) continue;
        PK_TRY(frame_of(h, i, &per_frame, err));
        PK_TRY(beside(path, h, h->signal[i].file, err));
        PK_TRY(pk_wfdb_open(&fd, &size, path, err));
        close(fd);
        int64_t bytes = PK_MAX(size - h->signal[i].offset, (int64_t)0);
        int64_t frames = pk_wfdb_samples(h->signal[i].format, bytes) / per_frame;
        if (first && frames != *length)
            return pk_fail(err, PK_EDATA,
                           "%s does not give the number of samples, and its files "
                           "disagree: %s holds %lld, %s holds %lld",
                           h->path, first, (long long)*length, h->signal[i].file,
                           (long long)frames);
        first = h->signal[i].file;
        *length = frames;
    }
    return PK_OK;
}

/* Reads and unpacks `count` samples of the file that signal s names into *out (malloc'ed). */
static enum pk_status load_samples(const struct pk_wfdb_header *h, const struct pk_wfdb_signal *s,
                                   int64_t frames, int64_t per_frame, struct budget *b,
                                   int32_t **out, int32_t *invalid, struct pk_err *err)
{
    char path[PK_PATH_MAX];
    int fd;
    int64_t size, count = frames * per_frame, bytes = pk_wfdb_bytes(s->format, count);
    uint8_t *raw = NULL;
    *out = NULL;
    PK_TRY(beside(path, h, s->file, err));
    PK_TRY(pk_wfdb_open(&fd, &size, path, err));
    enum pk_status status = PK_OK;
    if (size < s->offset + bytes)
        status = pk_fail(err, PK_EDATA,
                         "%s ends early: %lld samples x %lld in format %d need %lld "
                         "bytes, the file has %lld",
                         path, (long long)frames, (long long)per_frame, s->format,
                         (long long)(s->offset + bytes), (long long)size);
    if (status == PK_OK) status = spend(b, bytes, err);
    if (status == PK_OK) status = pk_alloc(&raw, (size_t)bytes, 1, path, err);
    if (status == PK_OK) status = pk_pread(fd, raw, (size_t)bytes, s->offset, path, err);
    if (status == PK_OK) status = pk_alloc(out, (size_t)count, sizeof **out, path, err);
    if (status == PK_OK) pk_wfdb_unpack(s->format, raw, count, *out, invalid);
    free(raw);
    close(fd);
    return status;
}

/* Checks the sum of what is in the file, then marks invalid samples and takes the skew out. */
static enum pk_status finish_channel(const struct pk_wfdb_header *h, int32_t index,
                                     struct pk_wfdb_channel *c, int32_t invalid,
                                     const struct budget *b, struct pk_err *err)
{
    const struct pk_wfdb_signal *s = &h->signal[index];
    uint32_t sum = s->format == 8 ? (uint32_t)s->initial : 0;
    if (s->format == 8) { // differences, from the header's initial value on; wraps like the sum
        for (int64_t i = 0; i < c->count; i++) {
            sum += (uint32_t)c->digital[i];
            c->digital[i] = (int32_t)sum;
        }
        sum = 0;
    }
    for (int64_t i = 0; i < c->count; i++) sum += (uint32_t)c->digital[i];
    if (s->has_checksum && (uint16_t)sum != s->checksum && !b->ignore_checksum)
        return pk_fail(err, PK_EDATA,
                       "%s:%d: checksum of signal %d '%s' in %s is %u, the samples "
                       "add up to %u (modulo 65536); the file is damaged or not the header's",
                       h->path, s->line, index, s->description, s->file, s->checksum,
                       (unsigned)(uint16_t)sum);
    for (int64_t i = 0; i < c->count && invalid != PK_WFDB_INVALID; i++)
        if (c->digital[i] == invalid) c->digital[i] = PK_WFDB_INVALID;
    int64_t late = PK_MIN((int64_t)s->skew * s->samples_per_frame, c->count);
    memmove(c->digital, c->digital + late, (size_t)(c->count - late) * sizeof *c->digital);
    for (int64_t i = c->count - late; i < c->count; i++) c->digital[i] = PK_WFDB_INVALID;
    return PK_OK;
}

/* All channels of the file that signal `first` opens. */
static enum pk_status read_file(const struct pk_wfdb_header *h, int32_t first, int64_t frames,
                                struct pk_wfdb_channel *channel, struct budget *b,
                                struct pk_err *err)
{
    int64_t per_frame, place = 0;
    int32_t *flat = NULL, invalid = PK_WFDB_INVALID;
    PK_TRY(frame_of(h, first, &per_frame, err));
    enum pk_status status =
        load_samples(h, &h->signal[first], frames, per_frame, b, &flat, &invalid, err);
    for (int32_t i = first; status == PK_OK && i < h->signals; i++) {
        const struct pk_wfdb_signal *s = &h->signal[i];
        if (!stored(s) || strcmp(s->file, h->signal[first].file)) continue;
        int32_t n = s->samples_per_frame;
        for (int64_t t = 0; t < frames; t++)
            memcpy(channel[i].digital + t * n, flat + t * per_frame + place,
                   (size_t)n * sizeof *flat);
        place += n;
        status = finish_channel(h, i, &channel[i], invalid, b, err);
    }
    free(flat);
    return status;
}

static enum pk_status add_piece(struct pk_wfdb_channel *c, int64_t start, double gain,
                                int32_t baseline, struct pk_err *err)
{
    const struct pk_wfdb_piece *last = c->pieces ? &c->piece[c->pieces - 1] : NULL;
    if (last && last->gain == gain && last->baseline == baseline) return PK_OK;
    PK_TRY(pk_grow(&c->piece, &c->piece_capacity, c->pieces + 1, sizeof *c->piece, "calibration",
                   err));
    // what comes before the first segment that has the channel is invalid: any calibration will do
    c->piece[c->pieces] = (struct pk_wfdb_piece){c->pieces ? start : 0, gain, baseline};
    c->pieces++;
    return PK_OK;
}

/* Allocates the channels that the signals of h describe, all samples invalid. */
static enum pk_status make_channels(struct pk_wfdb_record *r, const struct pk_wfdb_header *h,
                                    const struct budget *b, struct pk_err *err)
{
    int64_t per_frame = 0;
    for (int32_t i = 0; i < h->signals; i++) per_frame += h->signal[i].samples_per_frame;
    PK_TRY(check_samples(b, h->path, r->length, per_frame, err));
    PK_TRY(pk_alloc(&r->channel, (size_t)h->signals, sizeof *r->channel, "channels", err));
    r->channels = h->signals;
    for (int32_t i = 0; i < h->signals; i++) {
        const struct pk_wfdb_signal *s = &h->signal[i];
        struct pk_wfdb_channel *c = &r->channel[i];
        c->description = s->description;
        c->units = s->units;
        c->samples_per_frame = s->samples_per_frame;
        c->format = s->format;
        c->count = r->length * s->samples_per_frame;
        PK_TRY(pk_alloc(&c->digital, (size_t)c->count, sizeof *c->digital, "samples", err));
        for (int64_t k = 0; k < c->count; k++) c->digital[k] = PK_WFDB_INVALID;
    }
    return PK_OK;
}

static void free_channels(struct pk_wfdb_record *r)
{
    for (int32_t i = 0; r->channel && i < r->channels; i++) {
        free(r->channel[i].digital);
        free(r->channel[i].piece);
    }
    free(r->channel);
    r->channel = NULL;
    r->channels = 0;
}

/* A record without segments; r->header is loaded. */
static enum pk_status read_single(struct pk_wfdb_record *r, struct budget *b, struct pk_err *err)
{
    const struct pk_wfdb_header *h = &r->header;
    r->length = h->length;
    for (int32_t i = 0; i < h->signals; i++) { // complain of formats before missing files
        int64_t per_frame;
        if (opens_file(h, i)) PK_TRY(frame_of(h, i, &per_frame, err));
    }
    if (r->length < 0) PK_TRY(infer_length(h, &r->length, err));
    PK_TRY(make_channels(r, h, b, err));
    for (int32_t i = 0; i < h->signals; i++) {
        if (opens_file(h, i)) PK_TRY(read_file(h, i, r->length, r->channel, b, err));
        PK_TRY(add_piece(&r->channel[i], 0, h->signal[i].gain, h->signal[i].baseline, err));
    }
    return PK_OK;
}

/* Which channel of the record a segment's signal is: by place in a fixed layout, by description in
 * a variable one. */
static enum pk_status match(const struct pk_wfdb_record *r, const struct pk_wfdb_record *part,
                            int32_t index, bool variable, int32_t *channel, struct pk_err *err)
{
    const struct pk_wfdb_channel *c = &part->channel[index];
    *channel = index;
    if (variable)
        for (*channel = 0; *channel < r->channels; ++*channel)
            if (!strcmp(r->channel[*channel].description, c->description)) break;
    if (*channel >= r->channels)
        return pk_fail(err, PK_EDATA, "%s: signal %d '%s' is not in the layout %s",
                       part->header.path, index, c->description, r->layout.path);
    const struct pk_wfdb_channel *to = &r->channel[*channel];
    if (to->samples_per_frame != c->samples_per_frame || strcmp(to->units, c->units))
        return pk_fail(err, PK_EDATA,
                       "%s: signal %d '%s' has %d samples per frame in %s, the record "
                       "has %d in %s",
                       part->header.path, index, c->description, c->samples_per_frame, c->units,
                       to->samples_per_frame, to->units);
    return PK_OK;
}

/* Reads one segment and copies it to frame `start` of r. */
static enum pk_status read_segment(struct pk_wfdb_record *r, const struct pk_wfdb_segment *g,
                                   int64_t start, bool variable, struct budget *b,
                                   struct pk_err *err)
{
    char path[PK_PATH_MAX];
    struct pk_wfdb_record part = {0};
    PK_TRY(beside(path, &r->header, g->name, err));
    enum pk_status s = pk_wfdb_header_load(&part.header, path, err);
    if (s == PK_OK) s = spend(b, (int64_t)strlen(part.header.text) + 64, err);
    if (s == PK_OK && part.header.segments)
        s = pk_fail(err, PK_EDATA, "%s: a segment cannot have segments itself", part.header.path);
    if (s == PK_OK && part.header.length >= 0 && part.header.length != g->length)
        s = pk_fail(err, PK_EDATA, "%s has %lld samples, %s:%d promises %lld", part.header.path,
                    (long long)part.header.length, r->header.path, g->line, (long long)g->length);
    if (s == PK_OK && !variable && part.header.signals != r->channels)
        s = pk_fail(err, PK_EDATA, "%s has %d signals, the record has %d", part.header.path,
                    part.header.signals, r->channels);
    if (s == PK_OK) part.header.length = g->length;
    if (s == PK_OK) s = read_single(&part, b, err);
    for (int32_t i = 0; s == PK_OK && i < part.channels; i++) {
        int32_t to = 0;
        if ((s = match(r, &part, i, variable, &to, err)) != PK_OK) break;
        struct pk_wfdb_channel *c = &r->channel[to];
        int64_t first = start * c->samples_per_frame;
        memcpy(c->digital + first, part.channel[i].digital,
               (size_t)part.channel[i].count * sizeof *c->digital);
        if (c->format == 0) c->format = part.channel[i].format;
        s = add_piece(c, first, part.channel[i].piece[0].gain, part.channel[i].piece[0].baseline,
                      err);
    }
    pk_wfdb_free(&part);
    if (s != PK_OK) pk_err_context(err, "segment '%s' of %s", g->name, r->header.path);
    return s;
}

/* The header that tells the channels: the layout, or the first segment that is not a gap. */
static enum pk_status load_layout(struct pk_wfdb_record *r, bool variable, struct pk_err *err)
{
    const struct pk_wfdb_header *h = &r->header;
    char path[PK_PATH_MAX];
    int64_t k = 0;
    while (!variable && k < h->segments && !strcmp(h->segment[k].name, "~")) k++;
    if (k == h->segments)
        return pk_fail(err, PK_EDATA,
                       "%s: all segments are gaps, so that nothing tells the signals", h->path);
    PK_TRY(beside(path, h, h->segment[k].name, err));
    enum pk_status s = pk_wfdb_header_load(&r->layout, path, err);
    if (s == PK_OK && (r->layout.segments || r->layout.signals != h->signals))
        s = pk_fail(err, PK_EDATA, "%s has %d signals, the record has %d", r->layout.path,
                    r->layout.signals, h->signals);
    if (s != PK_OK) pk_err_context(err, "segment '%s' of %s", h->segment[k].name, h->path);
    return s;
}

static enum pk_status read_segments(struct pk_wfdb_record *r, struct budget *b, struct pk_err *err)
{
    const struct pk_wfdb_header *h = &r->header;
    bool variable = h->segment[0].length == 0;
    int64_t start = 0;
    r->length = 0;
    for (int64_t i = 0; i < h->segments; i++) {
        if (h->segment[i].length == 0 && i > 0)
            return pk_fail(err, PK_EDATA,
                           "%s:%d: segment '%s' has length 0, which only a layout (the "
                           "first segment) has",
                           h->path, h->segment[i].line, h->segment[i].name);
        if (h->segment[i].length > INT64_MAX - r->length)
            return pk_fail(err, PK_EDATA, "%s:%d: the segments are too long", h->path,
                           h->segment[i].line);
        r->length += h->segment[i].length;
    }
    if (h->length >= 0 && h->length != r->length)
        return pk_fail(err, PK_EDATA,
                       "%s: the record line promises %lld samples, the segments have "
                       "%lld together",
                       h->path, (long long)h->length, (long long)r->length);
    PK_TRY(load_layout(r, variable, err));
    PK_TRY(make_channels(r, &r->layout, b, err));
    for (int64_t i = variable; i < h->segments; i++) {
        if (strcmp(h->segment[i].name, "~"))
            PK_TRY(read_segment(r, &h->segment[i], start, variable, b, err));
        start += h->segment[i].length;
    }
    for (int32_t i = 0; i < r->channels; i++)
        if (!r->channel[i].pieces)
            PK_TRY(add_piece(&r->channel[i], 0, r->layout.signal[i].gain,
                             r->layout.signal[i].baseline, err));
    return PK_OK;
}

enum pk_status pk_wfdb_read(struct pk_wfdb_record *out, const char *record,
                            const struct pk_wfdb_options *options, struct pk_err *err)
{
    *out = (struct pk_wfdb_record){0};
    struct budget b = {.bytes = PK_WFDB_BYTES_MAX,
                       .frames = options && options->max_frames ? options->max_frames : INT64_MAX,
                       .ignore_checksum = options && options->ignore_checksum};
    enum pk_status s = pk_wfdb_header_load(&out->header, record, err);
    b.record = out->header.path;
    if (s == PK_OK)
        s = out->header.segments ? read_segments(out, &b, err) : read_single(out, &b, err);
    for (int32_t i = 0; s == PK_OK && i < out->channels; i++)
        for (int64_t k = 0; k < out->channel[i].count; k++)
            out->channel[i].invalid += out->channel[i].digital[k] == PK_WFDB_INVALID;
    if (s != PK_OK) pk_wfdb_free(out);
    return s;
}

void pk_wfdb_free(struct pk_wfdb_record *r)
{
    free_channels(r);
    pk_wfdb_header_free(&r->header);
    pk_wfdb_header_free(&r->layout);
    *r = (struct pk_wfdb_record){0};
}

void pk_wfdb_physical(const struct pk_wfdb_channel *channel, double *dst)
{
    int64_t at = 0;
    for (int64_t p = 0; p < channel->pieces; p++) {
        const struct pk_wfdb_piece *piece = &channel->piece[p];
        int64_t end = p + 1 < channel->pieces ? piece[1].start : channel->count;
        for (; at < end; at++)
            dst[at] = channel->digital[at] == PK_WFDB_INVALID
                          ? NAN
                          : ((double)channel->digital[at] - piece->baseline) / piece->gain;
    }
}
