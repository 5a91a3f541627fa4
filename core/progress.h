/* progress.h -- what a long run shows while it works.
 *
 * On a terminal one line that is redrawn: a bar, the step, the time left and named values, cut to
 * the width of the window. Elsewhere (a log, a batch system) a plain line each interval, without
 * carriage returns or escape codes. NO_COLOR (https://no-color.org) removes the escape codes from
 * the terminal too. Quiet shows nothing. Failures to write are ignored: progress never ends a run.
 */
#ifndef PK_PROGRESS_H
#define PK_PROGRESS_H

#include "core/base.h"

enum pk_progress_format {
    PK_FORMAT_GENERAL,    // 4 significant digits
    PK_FORMAT_SCIENTIFIC, // 1.0e-03, for learning rates
    PK_FORMAT_PERCENT,    // of a fraction: 0.05 is 5.0%
    PK_FORMAT_BYTES,      // binary units, 1.5 GiB
    PK_FORMAT_COUNT       // a whole number
};

struct pk_progress_field {
    const char *name; // e.g. "loss"
    double value;
    enum pk_progress_format format;
};

struct pk_progress {
    FILE *out;         // usually stderr; borrowed
    const char *label; // e.g. "pretrain"; borrowed
    int64_t total;     // steps of the run
    double interval;   // s between plain lines
    bool quiet;
    bool terminal; // redraw one line; found by pk_progress_begin
    bool escapes;  // escape codes are allowed; found by pk_progress_begin
    int columns;   // of the terminal; 0 asks the system each time
    /* private */
    int64_t seen_step; // at the previous call
    double seen_time, shown_time;
    double recent_seconds; // of about the last minute ...
    double recent_steps;   // ... and the steps done in them
    bool shown_any;        // something was printed
    int drawn;             // characters on the terminal's line, 0 when it is clean
};

/* Starts at `step` (0, or where a resumed run goes on) and at time `now`; fills p. interval <= 0
 * means 10 s. All times are pk_seconds(), passed in so that tests can make them up. */
void pk_progress_begin(struct pk_progress *p, FILE *out, const char *label, int64_t step,
                       int64_t total, double interval, bool quiet, double now);
/* Says that `step` steps are done. Cheap when nothing is due: the terminal is redrawn at most ten
 * times a second, a plain line is printed each interval and at the last step. */
void pk_progress_update(struct pk_progress *p, int64_t step, double now,
                        const struct pk_progress_field *field, int count);
/* Prints a line of its own above the bar; nothing when quiet. */
void pk_progress_print(struct pk_progress *p, const char *fmt, ...) PK_PRINTF(2, 3);
/* Leaves the last line standing and ends it. */
void pk_progress_end(struct pk_progress *p);

/* "45 s", "12 min 05 s", "3 h 20 min", "2 d 04 h"; "?" for unknown (negative, NaN or infinite). */
void pk_format_duration(char *out, size_t size, double seconds);
/* "312 B", "1.5 GiB". */
void pk_format_bytes(char *out, size_t size, double bytes);

#endif
