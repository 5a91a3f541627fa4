/* hostlist.c -- expanding Slurm's compressed lists of hosts (see hostlist.h). */
#include "core/hostlist.h"

#include <string.h>

enum { RANGE_DIGITS = 9 }; // of a number in brackets, so that counts stay far from overflow

static enum pk_status bad(const char *list, const char *at, const char *why, struct pk_err *err)
{
    return pk_fail(err, PK_EUSAGE, "host list '%.200s': %s at character %d", list, why,
                   (int)(at - list) + 1);
}

/* Reads digits at *p; their number into *width. */
static bool read_number(const char **p, int64_t *value, int *width)
{
    const char *s = *p;
    *value = 0;
    for (*width = 0; s[*width] >= '0' && s[*width] <= '9'; ++*width) {
        if (*width >= RANGE_DIGITS) return false;
        *value = *value * 10 + (s[*width] - '0');
    }
    *p += *width;
    return *width > 0;
}

/* One [...] group, *p behind its '['. Counts it; with pick >= 0 also prints that number of it into
 * text. Leaves *p behind the ']'. */
static enum pk_status read_group(const char *list, const char **p, int64_t pick, int64_t *count,
                                 char text[16], struct pk_err *err)
{
    *count = 0;
    for (;;) {
        int64_t first, last;
        int width, ignored;
        if (!read_number(p, &first, &width)) return bad(list, *p, "a number was expected", err);
        last = first;
        if (**p == '-') {
            ++*p;
            if (!read_number(p, &last, &ignored))
                return bad(list, *p, "the end of a range was expected", err);
            if (last < first) return bad(list, *p, "a range that runs backwards", err);
        }
        if (pick >= *count && pick - *count <= last - first)
            snprintf(text, 16, "%0*lld", width, (long long)(first + pick - *count));
        *count += last - first + 1;
        if (*count > PK_HOSTLIST_MAX) return bad(list, *p, "more hosts than make sense", err);
        if (**p == ',')
            ++*p;
        else if (**p == ']')
            break;
        else
            return bad(list, *p, "',' or ']' was expected", err);
    }
    ++*p;
    return PK_OK;
}

/* The hosts of one item, which ends at a comma or at the end; *p behind it. */
static enum pk_status count_item(const char *list, const char **p, int64_t *count,
                                 struct pk_err *err)
{
    const char *begin = *p;
    *count = 1;
    while (**p && **p != ',') {
        char c = *(*p)++, text[16];
        int64_t group;
        if (c == ']') return bad(list, *p - 1, "']' without '['", err);
        if (c == ' ' || c == '\t') return bad(list, *p - 1, "a blank", err);
        if (c != '[') continue;
        PK_TRY(read_group(list, p, -1, &group, text, err));
        *count *= group;
        if (*count > PK_HOSTLIST_MAX) return bad(list, *p, "more hosts than make sense", err);
    }
    return *p == begin ? bad(list, *p, "a host's name was expected", err) : PK_OK;
}

enum pk_status pk_hostlist_count(const char *list, int64_t *count, struct pk_err *err)
{
    const char *p = list;
    for (*count = 0;; p++) {
        int64_t n;
        PK_TRY(count_item(list, &p, &n, err));
        *count += n;
        if (*count > PK_HOSTLIST_MAX) return bad(list, p, "more hosts than make sense", err);
        if (!*p) return PK_OK;
    }
}

/* Host `pick` of the `count` hosts of the item at p, which is known to be well formed. */
static enum pk_status print_item(const char *list, const char *p, int64_t pick, int64_t count,
                                 char *out, size_t size, struct pk_err *err)
{
    size_t used = 0;
    while (*p && *p != ',') {
        char text[16] = {*p, 0};
        if (*p++ == '[') {
            const char *again = p;
            int64_t group;
            PK_TRY(read_group(list, &p, -1, &group, text, err));
            count /= group; // hosts for each number of this group
            PK_TRY(read_group(list, &again, pick / count, &group, text, err));
            pick %= count;
        }
        size_t n = strlen(text);
        if (used + n + 1 > size)
            return pk_fail(err, PK_EUSAGE, "host list '%.200s': a name longer than %zu bytes", list,
                           size - 1);
        memcpy(out + used, text, n);
        used += n;
    }
    out[used] = 0;
    return PK_OK;
}

enum pk_status pk_hostlist_get(const char *list, int64_t index, char *out, size_t size,
                               struct pk_err *err)
{
    const char *p = list;
    for (int64_t before = 0;; p++) {
        const char *item = p;
        int64_t n;
        PK_TRY(count_item(list, &p, &n, err));
        if (index >= before && index < before + n)
            return print_item(list, item, index - before, n, out, size, err);
        before += n;
        if (!*p)
            return pk_fail(err, PK_EUSAGE, "host list '%.200s' has %lld hosts, no number %lld",
                           list, (long long)before, (long long)index);
    }
}
