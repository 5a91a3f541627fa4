/* ppg_import.h -- from folders of PPG recordings (and ECG recorded with them) to a corpus.
 *
 * A source lists its recordings in a catalog and reads one at a time; everything else is common:
 * windows (datasets/ppg.h), folds by subject (datasets/fold.h), workers, report. The same folder
 * and settings give the same bytes, whatever the number of workers and ranks. */
#ifndef PK_PPG_IMPORT_H
#define PK_PPG_IMPORT_H

#include "datasets/fold.h"
#include "datasets/ppg.h"

struct pk_ppg_item {    // one recording
    char id[PK_ID_MAX]; // its windows are ID_00000, ID_00001 ... (ID alone with one_window)
    char *path;         // of its main file; owned
    uint64_t patient;   // pk_subject_hash, 0 where the subject is not known
    float target[PK_TARGETS_MAX]; // constant ones; NaN where missing or from a series
    uint8_t *label;               // all tasks one after the other, or NULL; owned
    char *statements;             // the source's own labels, or NULL; owned
    char *problem;                // why it cannot be imported, or NULL; owned
};

struct pk_ppg_catalog {
    char name[PK_NAME_MAX]; // of the database in the corpus
    char version[64];
    double rate, window; // what the corpus gets unless the user says otherwise; s
    bool one_window;     // recordings are segments already: one window each
    int32_t leads;       // of the corpus
    char lead_name[PK_LEADS_MAX][8];
    char lead_source[PK_LEADS_MAX][64]; // what it is called in the source
    bool lead_ecg[PK_LEADS_MAX];
    int32_t tasks, targets;
    struct pk_task *task; // classes and names; owned
    char target_name[PK_TARGETS_MAX][PK_NAME_MAX];
    struct pk_ppg_item *item; // [count], owned, sorted as the corpus will be
    int64_t count, capacity;
    void *self; // of the source
    enum pk_status (*read)(const struct pk_ppg_catalog *c, const struct pk_ppg_item *item,
                           struct pk_recording *out, struct pk_err *err);
    void (*close)(void *self); // may be NULL
};

void pk_ppg_catalog_free(struct pk_ppg_catalog *c); // safe on a zeroed struct

struct pk_import_ranks;

struct pk_ppg_job {
    const char *source; // "bidmc", ...
    const char *folder, *out;
    const char *leads;       // "II,PPG"; NULL: the source's default
    const char *subject;     // regular expression: its first group in a recording's path below
                             // folder is the subject; NULL: the source's way
    const char *description; // YAML file of source "files"
    struct pk_ppg_options options; // rate and window 0: the catalog's; stride 0: window
    bool no_folds;                 // fold 0 for all
    int32_t workers;
    int64_t shard_records;
    struct pk_import_ranks *ranks; // that share the work; NULL: this process is alone
    /* done and count are recordings; called from the importing process; may be NULL. */
    void (*progress)(void *self, int64_t done, int64_t count, int64_t rejected);
    void *progress_self;
};

struct pk_ppg_summary {
    char version[64];
    int64_t recordings, rejected; // found; of these without a window in the corpus
    struct pk_ppg_counts counts;  // of all windows
    char report[PK_PATH_MAX];     // OUT/import_report.json
};

/* The sources, ends with NULL. */
struct pk_ppg_source {
    const char *name, *summary;
    enum pk_status (*open)(struct pk_ppg_catalog *c, const struct pk_ppg_job *job,
                           struct pk_err *err);
};
extern const struct pk_ppg_source pk_ppg_sources[];

/* Under several ranks the summary is whole at rank 0 alone.
 * Errors  PK_EUSAGE  unknown source; PK_EINVAL settings
 *         PK_EMISSING nothing of the source is in the folder
 *         PK_EDATA   tables damaged, or not one window is left; PK_EWRITE
 *         those of pk_import_share */
enum pk_status pk_ppg_import(const struct pk_ppg_job *job, struct pk_ppg_summary *summary,
                             struct pk_err *err);

/* ---- for the sources ---- */

/* Adds an item with NaN targets. */
enum pk_status pk_ppg_add_item(struct pk_ppg_catalog *c, const char *id, const char *path,
                               struct pk_ppg_item **out, struct pk_err *err);
/* "Cannot be imported", with the message of err. */
enum pk_status pk_ppg_set_problem(struct pk_ppg_item *item, struct pk_err *err);
/* The subject of a path by the job's expression, or `fallback` without one; PK_EDATA when the
 * expression does not match, PK_EUSAGE when it is none. */
enum pk_status pk_ppg_subject(char out[256], const char *expression, const char *path,
                              const char *fallback, struct pk_err *err);
/* Chooses the corpus's leads: job->leads, or `fallback`, out of "NAME=source name" pairs in `known`
 * (NULL-terminated). Names as in ECG corpora where they are standard leads. */
enum pk_status pk_ppg_choose_leads(struct pk_ppg_catalog *c, const char *leads,
                                   const char *fallback, const char *const *known,
                                   struct pk_err *err);
/* Adds a single-choice task; classes are sorted by the caller. */
enum pk_status pk_ppg_add_task(struct pk_ppg_catalog *c, const char *name, int32_t classes,
                               const char *const *class_name, struct pk_err *err);
/* Gives the recording a channel; x is taken over also after a failure. */
enum pk_status pk_ppg_add_channel(const struct pk_ppg_catalog *c, struct pk_recording *r,
                                  int32_t lead, double rate, double *x, int64_t n,
                                  struct pk_err *err);
/* Times of a column must not fall; with `strict` they must rise. PK_EDATA with file:line. */
struct pk_numbers;
enum pk_status pk_ppg_check_times(const struct pk_numbers *n, int32_t column, bool strict,
                                  struct pk_err *err);
/* A target that changes; x is taken over. */
enum pk_status pk_ppg_add_series(struct pk_recording *r, int32_t target, double start, double rate,
                                 double *x, int64_t n, struct pk_err *err);

struct pk_file_list {
    char **name; // [count] relative to the folder, sorted by bytes; owned
    int64_t count, capacity;
};
/* Ordinary files below folder whose relative path (with a '/' in pattern) or name matches the
 * shell pattern. Folders deeper than 8 are not entered. Errors PK_EIO, PK_ENOMEM */
enum pk_status pk_list_files(struct pk_file_list *out, const char *folder, const char *pattern,
                             struct pk_err *err);
void pk_file_list_free(struct pk_file_list *l);

enum pk_status pk_ppg_open_bidmc(struct pk_ppg_catalog *, const struct pk_ppg_job *,
                                 struct pk_err *);
enum pk_status pk_ppg_open_ppgbp(struct pk_ppg_catalog *, const struct pk_ppg_job *,
                                 struct pk_err *);
enum pk_status pk_ppg_open_e4(struct pk_ppg_catalog *, const struct pk_ppg_job *, struct pk_err *);
enum pk_status pk_ppg_open_wfdb(struct pk_ppg_catalog *, const struct pk_ppg_job *,
                                struct pk_err *);
enum pk_status pk_ppg_open_files(struct pk_ppg_catalog *, const struct pk_ppg_job *,
                                 struct pk_err *);

#endif
