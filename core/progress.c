/* progress.c -- the progress line on terminals and in logs (see progress.h). */
#include "core/progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { BAR_WIDTH = 20, LINE_MAX_BYTES = 1024 };

void pk_format_duration(char *out, size_t size, double seconds)
{
    if (!(seconds >= 0) || seconds > 1e10) {
        snprintf(out, size, "?");
        return;
    }
    long long s = llround(seconds);
    if (s < 60)
        snprintf(out, size, "%lld s", s);
    else if (s < 3600)
        snprintf(out, size, "%lld min %02lld s", s / 60, s % 60);
    else if (s < 86400)
        snprintf(out, size, "%lld h %02lld min", s / 3600, s / 60 % 60);
    else
        snprintf(out, size, "%lld d %02lld h", s / 86400, s / 3600 % 24);
}

void pk_format_bytes(char *out, size_t size, double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    size_t u = 0;
    while (u + 1 < PK_COUNT(units) && fabs(bytes) >= 1023.95) { // what %.1f would print as 1024.0
        bytes /= 1024;
        u++;
    }
    snprintf(out, size, u ? "%.1f %s" : "%.0f %s", bytes, units[u]);
}

void pk_progress_begin(struct pk_progress *p, FILE *out, const char *label, int64_t step,
                       int64_t total, double interval, bool quiet, double now)
{
    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    *p = (struct pk_progress){.out = out,
                              .label = label,
                              .total = total,
                              .interval = interval > 0 ? interval : 10,
                              .quiet = quiet,
                              .seen_step = step,
                              .seen_time = now,
                              .shown_time = now};
    p->terminal = isatty(fileno(out)) && term && strcmp(term, "dumb") != 0;
    p->escapes = p->terminal && !(no_color && *no_color);
}

static void format_value(char *out, size_t size, const struct pk_progress_field *f)
{
    switch (f->format) {
    case PK_FORMAT_GENERAL:
        snprintf(out, size, "%.4g", f->value);
        break;
    case PK_FORMAT_SCIENTIFIC:
        snprintf(out, size, "%.1e", f->value);
        break;
    case PK_FORMAT_PERCENT:
        snprintf(out, size, "%.1f%%", 100 * f->value);
        break;
    case PK_FORMAT_BYTES:
        pk_format_bytes(out, size, f->value);
        break;
    case PK_FORMAT_COUNT:
        snprintf(out, size, "%.0f", f->value);
        break;
    }
}

static void append(char *line, const char *text)
{
    size_t used = strlen(line);
    snprintf(line + used, LINE_MAX_BYTES - used, "%s", text);
}

static double fraction_done(const struct pk_progress *p, int64_t step)
{
    double f = p->total > 0 ? (double)step / (double)p->total : 0;
    return fmin(fmax(f, 0), 1);
}

static void compose(const struct pk_progress *p, char line[LINE_MAX_BYTES], int64_t step,
                    const struct pk_progress_field *field, int count)
{
    char text[128], eta[32], bar[BAR_WIDTH + 1];
    int full = (int)(fraction_done(p, step) * BAR_WIDTH);
    double left = (double)PK_MAX(p->total - step, (int64_t)0), pace = -1; // unknown at first
    if (p->recent_steps > 0) pace = p->recent_seconds / p->recent_steps;
    if (left > 0) left *= pace;
    for (int i = 0; i < BAR_WIDTH; i++) bar[i] = i < full ? '#' : '.';
    bar[BAR_WIDTH] = 0;
    pk_format_duration(eta, sizeof eta, left);
    snprintf(line, LINE_MAX_BYTES, "%s", p->label);
    if (p->terminal) {
        snprintf(text, sizeof text, " [%s]", bar);
        append(line, text);
    }
    snprintf(text, sizeof text, " %3.0f%%  step %lld/%lld  eta %s",
             floor(100 * fraction_done(p, step)), (long long)step, (long long)p->total, eta);
    append(line, text);
    for (int i = 0; i < count; i++) {
        format_value(text, sizeof text, &field[i]);
        append(line, "  ");
        append(line, field[i].name);
        append(line, " ");
        append(line, text);
    }
}

static int terminal_columns(const struct pk_progress *p)
{
    struct winsize w;
    if (p->columns) return p->columns;
    return ioctl(fileno(p->out), TIOCGWINSZ, &w) == 0 && w.ws_col ? w.ws_col : 80;
}

/* Columns taken by UTF-8 text, one for each code point, and the bytes that fit into `limit` of
 * them: a line that wraps could not be redrawn. */
static int fit(char *line, int limit)
{
    int columns = 0;
    for (char *s = line; *s; s++) {
        if (((unsigned char)*s & 0xc0) == 0x80) continue;
        if (columns == limit) {
            *s = 0;
            break;
        }
        columns++;
    }
    return columns;
}

static void clear_line(struct pk_progress *p)
{
    if (!p->drawn) return;
    if (p->escapes)
        fputs("\r\x1b[K", p->out);
    else
        fprintf(p->out, "\r%*s\r", p->drawn, "");
    p->drawn = 0;
}

static void show(struct pk_progress *p, char line[LINE_MAX_BYTES])
{
    if (!p->terminal) {
        fprintf(p->out, "%s\n", line);
        fflush(p->out);
        return;
    }
    int before = p->drawn;
    int columns = fit(line, PK_MAX(terminal_columns(p) - 1, 1));
    fprintf(p->out, "\r%s", line);
    if (p->escapes)
        fputs("\x1b[K", p->out);
    else if (before > columns)
        fprintf(p->out, "%*s", before - columns, "");
    fflush(p->out);
    p->drawn = columns;
}

void pk_progress_update(struct pk_progress *p, int64_t step, double now,
                        const struct pk_progress_field *field, int count)
{
    char line[LINE_MAX_BYTES];
    if (step > p->seen_step && now > p->seen_time) {
        /* Time and steps, both fading over a minute: a slow first step or a pause does not last. */
        double elapsed = now - p->seen_time, keep = exp(-elapsed / 60);
        p->recent_seconds = keep * p->recent_seconds + elapsed;
        p->recent_steps = keep * p->recent_steps + (double)(step - p->seen_step);
        p->seen_step = step;
        p->seen_time = now;
    }
    double due = p->terminal ? 0.1 : p->interval;
    bool last = step >= p->total;
    if (p->quiet || (!last && p->shown_any && now - p->shown_time < due)) return;
    if (!last && !p->shown_any && !p->terminal && now - p->shown_time < due) return;
    compose(p, line, step, field, count);
    show(p, line);
    p->shown_any = true;
    p->shown_time = now;
}

void pk_progress_print(struct pk_progress *p, const char *fmt, ...)
{
    va_list ap;
    if (p->quiet) return;
    clear_line(p);
    va_start(ap, fmt);
    vfprintf(p->out, fmt, ap);
    va_end(ap);
    fputc('\n', p->out);
    fflush(p->out);
}

void pk_progress_end(struct pk_progress *p)
{
    if (p->drawn) fputc('\n', p->out);
    fflush(p->out);
    p->drawn = 0;
}
