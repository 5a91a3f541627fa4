/* wfdb.h -- reading WFDB records: a text header (NAME.hea) and the signal files it names.
 *
 * Implements the header(5) and signal(5) pages of the WFDB Applications Guide: signal formats 0, 8,
 * 16, 24, 32, 61, 80, 160, 212, 310, 311; several signals per file and samples per frame, skew,
 * byte offsets (CinC's .mat files are format 16 at offset 24), multi-segment records of fixed and
 * variable layout, invalid-sample codes, 16-bit checksums. The FLAC formats 508, 516 and 524 are
 * refused by name. Annotations are not read here.
 *
 * Files are not trusted: a header has at most 16 MiB, the signal files of one record at most 64 MiB
 * and 64 Mi samples, only ordinary files in the record's own folder (or below it) are opened. */
#ifndef PK_WFDB_H
#define PK_WFDB_H

#include "core/base.h"

#define PK_WFDB_INVALID INT32_MIN // a digital sample without value, whatever the format's own code

enum {
    PK_WFDB_HEADER_MAX = 16 << 20,  // bytes of a header
    PK_WFDB_BYTES_MAX = 64 << 20,   // bytes of all signal files of a record
    PK_WFDB_SAMPLES_MAX = 64 << 20, // samples of a record, all signals together
    PK_WFDB_SIGNALS_MAX = 1024,
    PK_WFDB_FRAME_MAX = 65536 // samples of one signal in a frame, and frames of skew
};

/* One signal line. Texts point into the header that owns it. */
struct pk_wfdb_signal {
    const char *file;          // "~" when there is none (layout headers)
    int32_t format;            // 0: no samples are stored, all are invalid
    int32_t samples_per_frame; // at least 1
    int32_t skew;              // frames by which this signal is late in the file
    int64_t offset;            // bytes before the first sample
    double gain;               // digital units per physical unit; 200 where not given or 0
    int32_t baseline;          // digital value of physical 0; adc_zero where not given
    const char *units;         // "mV" where not given
    int32_t resolution;        // bits, 0 where not given
    int32_t adc_zero;
    int32_t initial; // value before the first difference of format 8
    bool has_checksum;
    uint16_t checksum;       // sum of all samples, modulo 65536
    const char *description; // usually the lead's name; "" where not given
    int32_t line;            // in the header, from 1
};

struct pk_wfdb_segment {
    const char *name; // "~" for a gap
    int64_t length;   // frames
    int32_t line;
};

struct pk_wfdb_header {
    char path[PK_PATH_MAX]; // of the header file, for messages
    const char *name;       // as the record line says
    int32_t signals;        // of a layout header: of the layout
    double rate;            // frames per second; 250 where not given
    double counter_rate;    // equals rate where not given
    double base_counter;
    int64_t length;                  // frames, -1 where not given
    const char *base_time;           // as written, or ""
    const char *base_date;           // as written, or ""
    struct pk_wfdb_signal *signal;   // [signals], NULL for a multi-segment header
    int64_t segments;                // 0 for an ordinary record
    struct pk_wfdb_segment *segment; // [segments]
    int64_t comments;
    const char **comment; // [comments], without '#' and the blanks after it
    char *text;           // owns the texts
};

/* Reads RECORD.hea (record is a path, with or without ".hea").
 * Errors   PK_EIO    the file cannot be read
 *          PK_EDATA  the header breaks the format; the message has file:line:column */
enum pk_status pk_wfdb_header_load(struct pk_wfdb_header *out, const char *record,
                                   struct pk_err *err);
void pk_wfdb_header_free(struct pk_wfdb_header *h); // safe on a zeroed struct

/* From `start` on, physical = (digital - baseline) / gain. Segments may differ in calibration. */
struct pk_wfdb_piece {
    int64_t start; // sample of the channel
    double gain;
    int32_t baseline;
};

struct pk_wfdb_channel {
    const char *description, *units;
    int32_t samples_per_frame;
    int32_t format;   // of the first segment that has it
    int64_t count;    // samples: length * samples_per_frame
    int32_t *digital; // [count], skew removed; PK_WFDB_INVALID where there is no value
    int64_t invalid;  // how many of them
    int64_t pieces, piece_capacity;
    struct pk_wfdb_piece *piece; // [pieces], ascending start; the first starts at 0
};

struct pk_wfdb_record {
    struct pk_wfdb_header header; // of the record
    struct pk_wfdb_header layout; // owns the channels' texts in a multi-segment record
    int64_t length;               // frames
    int32_t channels;
    struct pk_wfdb_channel *channel; // [channels]
};

struct pk_wfdb_options {
    bool ignore_checksum; // read on where a signal's checksum differs from the header's
    int64_t max_frames;   // refuse longer records before reading them; 0: only the limits above
};

/* Reads a whole record. options may be NULL.
 * Errors   PK_EIO      a header or a signal file is missing or unreadable
 *          PK_EDATA    header damaged, format not supported, file shorter than the header promises
 *                      (expected and actual bytes), checksum differs, larger than the limits
 *          PK_ENOMEM */
enum pk_status pk_wfdb_read(struct pk_wfdb_record *out, const char *record,
                            const struct pk_wfdb_options *options, struct pk_err *err);
void pk_wfdb_free(struct pk_wfdb_record *r); // safe on a zeroed struct

/* dst [channel->count]: samples in the channel's units, NaN where invalid. */
void pk_wfdb_physical(const struct pk_wfdb_channel *channel, double *dst);

/* ---- used inside the reader, and by its tests ---- */

/* True for the formats that can be read, 0 included. */
bool pk_wfdb_format_known(int32_t format);
/* Bytes that n samples of a format occupy at least; and the most samples in `bytes`. */
int64_t pk_wfdb_bytes(int32_t format, int64_t n);
int64_t pk_wfdb_samples(int32_t format, int64_t bytes);
/* Unpacks n samples; format 8 yields the differences as they are. Returns the format's code of an
 * invalid sample in *invalid (PK_WFDB_INVALID where it has none). */
void pk_wfdb_unpack(int32_t format, const uint8_t *bytes, int64_t n, int32_t *dst,
                    int32_t *invalid);
/* Opens an ordinary file for reading (a pipe or device is refused, without waiting for it). */
enum pk_status pk_wfdb_open(int *fd, int64_t *size, const char *path, struct pk_err *err);

#endif
