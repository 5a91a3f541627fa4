/* lead.h -- the twelve standard leads: their order, and from physical samples to int16 rows. */
#ifndef PK_LEAD_H
#define PK_LEAD_H

#include "core/data.h"
#include "datasets/filter.h"
#include "datasets/wfdb.h"

enum { PK_LEADS_ECG = 12 };

/* I II III aVR aVL aVF V1 V2 V3 V4 V5 V6 */
extern const char pk_lead_ecg[PK_LEADS_ECG][8];
/* Place of a lead in that order, whatever its case; blanks around it are ignored. -1: none. */
int32_t pk_lead_index(const char *name);
/* Millivolts per unit: "mV", "uV" and its micro signs, "nV", "V"; 0 for anything else. */
double pk_lead_millivolts(const char *units);

struct pk_lead_rows {          // a record as the corpus stores it
    int32_t length;            // valid samples
    uint16_t lead_mask;        // bit l: lead l is present
    uint32_t quality;          // PK_QUALITY_*
    float scale[PK_LEADS_MAX]; // mV per LSB
    int16_t *signal;           // [leads, samples], not owned
};

/* One lead of n samples in mV (NaN: no value) to dst [samples], n <= samples. The LSB is 1 uV, or
 * as much larger as it takes for nothing to clip. NaNs are interpolated linearly, at the ends the
 * nearest value is kept (PK_QUALITY_INVALID); what lies after n is PK_INVALID. A constant lead is
 * flagged PK_QUALITY_FLAT. A lead without any value is PK_INVALID throughout; *present tells. mv is
 * overwritten.
 * Errors  PK_EDATA an infinite value */
enum pk_status pk_lead_quantise(double *mv, int64_t n, int16_t *dst, int64_t samples, float *scale,
                                uint32_t *quality, bool *present, struct pk_err *err);

/* What is done to a lead between the file and the corpus, in this order. Zero: nothing. */
struct pk_lead_preparation {
    int64_t up, down; // change of rate as pk_resample; 0 or equal: none
    bool filtered;    // forwards and backwards through `filter`
    struct pk_filter filter;
    bool standardised; // (x - mean) / std over the lead's samples, which are no millivolts then
};

/* The standard leads of a WFDB record, found by name, into rows->signal [12, samples]; other
 * signals are left out, leads that are not there are PK_INVALID and absent from the mask; so is a
 * constant lead that is to be standardised. rate: of the record, samples: of the rows.
 * Errors  PK_EDATA the rate is not `rate`, more samples than fit, too few to be filtered, units
 * that are not volts, a lead twice, no standard lead or none with a value */
enum pk_status pk_lead_from_wfdb(struct pk_lead_rows *rows, const struct pk_wfdb_record *record,
                                 double rate, int32_t samples,
                                 const struct pk_lead_preparation *how, struct pk_err *err);

#endif
