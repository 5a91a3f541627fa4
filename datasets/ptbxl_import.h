/* ptbxl_import.h -- from a folder of PTB-XL to a corpus: 12 leads by name, int16, LSB 1 uV,
 * filtered if asked for.
 *
 * The same folder gives the same bytes, whatever the number of workers and ranks. The corpus is
 * valid only once it is complete; an import that was interrupted is simply started again. */
#ifndef PK_PTBXL_IMPORT_H
#define PK_PTBXL_IMPORT_H

#include "core/base.h"

struct pk_import_ranks;

struct pk_ptbxl_import {
    const char *folder; // with ptbxl_database.csv, scp_statements.csv and records100/, records500/
    const char *out;    // folder of the corpus
    int32_t rate;       // Hz: 100 and 500 are the source's; others are made from 500
    double band[2];     // Hz, Butterworth of order 4 both ways; 0: no filter
    bool standardise;   // each lead of a record: (x - mean) / std
    int32_t workers;    // processes
    uint32_t folds;     // bit f: take fold f; 0 takes all
    bool allow_missing; // records without files are reported, not an error
    int64_t shard_records;         // 0: the corpus writer's choice
    struct pk_import_ranks *ranks; // that share the work; NULL: this process is alone
    /* Called now and then from the importing process; may be NULL. */
    void (*progress)(void *self, int64_t done, int64_t count, int64_t rejected);
    void *progress_self;
};

struct pk_ptbxl_summary {
    char version[64];
    int64_t rows;     // in the table
    int64_t selected; // of the folds asked for
    int64_t missing;  // of these, without header or signal file
    int64_t rejected; // with files that cannot be used
    int64_t imported;
    int64_t incomplete;       // of these, without a signal in some lead
    char report[PK_PATH_MAX]; // OUT/import_report.json: every missing, rejected and incomplete one,
                              // and why
};

/* Under several ranks the summary is whole at rank 0 alone.
 * Errors  PK_EMISSING records are missing and allow_missing is not set: count and first few
 *         PK_EDATA    tables damaged, or not one record could be imported
 *         PK_EWRITE   out holds a corpus already, or cannot be written
 *         those of pk_import_share */
enum pk_status pk_ptbxl_import(const struct pk_ptbxl_import *job, struct pk_ptbxl_summary *summary,
                               struct pk_err *err);

#endif
