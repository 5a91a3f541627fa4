/* model_card.h -- the texts that go with exported weights: preprocessing as JSON, a model card. */
#ifndef PK_MODEL_CARD_H
#define PK_MODEL_CARD_H

#include "tools/model.h"

/* preprocessor_config.json: what a signal must be like and what is done to it. */
void pk_preprocessor_write(struct pk_text *out, const struct pk_model_info *m);
/* README.md in the form of Hugging Face's model cards. result: RUN/result.json, or NULL. name: of
 * the model, for the title. Appends to *out, whose `failed` says that memory ran out. */
void pk_model_card_write(struct pk_text *out, const struct pk_model *m, const char *name,
                         const struct pk_json *result);

#endif
