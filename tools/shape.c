/* shape.c -- recipes without data (see shape.h). */
#include "tools/shape.h"

#include <math.h>
#include <string.h>

enum pk_status pk_recipe_open(struct pk_recipe **out, const char *path, int overrides,
                              char *const *override, struct pk_err *err)
{
    struct pk_text report = {0};
    enum pk_status s = pk_recipe_load(out, path, overrides, override, &report, err);
    if (s == PK_ERECIPE && report.s && report.len >= sizeof err->message)
        fprintf(stderr, "%s", report.s);
    pk_text_free(&report);
    return s;
}

enum pk_status pk_shape_of_recipe(struct pk_batch_shape *out, const struct pk_recipe *r,
                                  struct pk_err *err)
{
    static const char *const standard[] = {"I",  "II", "III", "aVR", "aVL", "aVF",
                                           "V1", "V2", "V3",  "V4",  "V5",  "V6"};
    int64_t leads = pk_recipe_count(r, "data.leads");
    bool ppg = pk_recipe_given(r, "data.synthetic") && pk_recipe_bool(r, "data.synthetic.ppg");
    *out = (struct pk_batch_shape){.rate = pk_recipe_f64(r, "data.rate")};
    if (!(out->rate > 0))
        return pk_fail(err, PK_ERECIPE, "%s: data.rate is not given, and there is no init_from",
                       pk_recipe_origin(r, "data.rate"));
    out->samples = (int32_t)lround(pk_recipe_f64(r, "data.crop") * out->rate);
    out->leads = (int32_t)(leads ? leads : ppg ? 1 : (int64_t)PK_COUNT(standard));
    for (int32_t l = 0; l < out->leads; l++) {
        const char *name = leads ? pk_recipe_item_str(r, "data.leads", l)
                           : ppg ? "PPG"
                                 : standard[l];
        snprintf(out->lead_name[l], sizeof out->lead_name[l], "%.7s", name);
    }
    return PK_OK;
}
