/* evaluate.h -- records through a classifier by windows: scores, embeddings, results. */
#ifndef PK_EVALUATE_H
#define PK_EVALUATE_H

#include "core/exec.h"
#include "core/heartbeat.h"
#include "core/metrics.h"
#include "tools/inputs.h"
#include "tools/model_info.h"

enum { PK_EVAL_MICRO = 7, PK_EVAL_MICROS = 32 }; // windows computed at once

struct pk_evaluator {     // a forward program over windows
    struct pk_exec *exec; // borrowed
    struct pk_prog prog;
    struct pk_bound bound;
    struct pk_classifier model;
    int64_t micro;          // windows of a micro-batch
    int32_t window, stride; // samples
    bool max_sigmoid;       // aggregation: maximum of sigmoids, else mean of logits
    struct pk_comm *comm;   // ranks that share out the rows and all get all scores; NULL: none
    struct pk_heartbeat *heartbeat; // of the ranks, or NULL
};

enum pk_status pk_evaluator_open(struct pk_evaluator *e, struct pk_exec *exec,
                                 struct pk_params *params, const struct pk_classifier *model,
                                 struct pk_err *err);
void pk_evaluator_close(struct pk_evaluator *e);
/* Scores are logits, probabilities after max_sigmoid. score [rows.count, classes] and embedding
 * [rows.count, width] (mean over windows), each or NULL. mean, std per source as in pk_inputs. A
 * record shorter than a window is an error naming it. A row's numbers do not depend on the others,
 * nor on which rank computes them. */
enum pk_status pk_evaluate(struct pk_evaluator *e, const struct pk_dataset *data,
                           const struct pk_rows *rows, const double (*mean)[PK_LEADS_MAX],
                           const double (*std)[PK_LEADS_MAX], float *score, float *embedding,
                           struct pk_err *err);
/* Metrics of such scores [rows, classes] against label [rows, classes]; the logits of a
 * single-label model become softmax probabilities in place. */
enum pk_status pk_score_metrics(struct pk_metrics *out, const struct pk_evaluator *e, int64_t rows,
                                const uint8_t *label, const struct pk_metrics_options *options,
                                float *score, struct pk_err *err);
/* Scores of the rows into score [rows.count, classes], logits or, of a single-label model, softmax
 * probabilities; and their metrics against label [rows.count, classes]. */
enum pk_status pk_evaluate_metrics(struct pk_metrics *out, struct pk_evaluator *e,
                                   const struct pk_dataset *data, const struct pk_rows *rows,
                                   const double (*mean)[PK_LEADS_MAX],
                                   const double (*std)[PK_LEADS_MAX], const uint8_t *label,
                                   const struct pk_metrics_options *options, float *score,
                                   struct pk_err *err);
/* Labels of the rows, [rows.count, classes]; free with free. */
enum pk_status pk_evaluate_labels(uint8_t **out, const struct pk_task *task,
                                  const struct pk_rows *rows, struct pk_err *err);

/* Writes the numbers of one split as a JSON object, with everything that defines them. */
void pk_result_write(struct pk_json_writer *w, const char *key, const struct pk_metrics *m,
                     const struct pk_model_info *info);
/* A table for people. */
void pk_result_print(const char *title, const struct pk_metrics *m,
                     const struct pk_model_info *info);

#endif
