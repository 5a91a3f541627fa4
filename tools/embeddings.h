/* embeddings.h -- embeddings of records of a corpus, computed by a model or read from the file that
 * 'purkinje embed' wrote. */
#ifndef PK_EMBEDDINGS_H
#define PK_EMBEDDINGS_H

#include "datasets/corpus.h"
#include "tools/model.h"

struct pk_embeddings {
    const char *path; // of the model, or of the file; borrowed
    bool file;
    struct pk_model model; // !file
    bool random;   // !file, to be set after opening: the same network with random weights, a
    uint64_t seed; // baseline that every evaluation of a pretrained encoder needs
    char made_by[PK_PATH_MAX];         // the model
    char weights[16], data[64];        // which ones; version of the data, "" when unknown
    double rate, window, stride, step; // Hz, s, s; NaN when unknown
    int32_t width;                     // numbers of an embedding
    int64_t rows;                      // of the file
    float *value;                      // [rows, width] of the file
    char *id;                          // [rows, id_size], NUL padded
    int64_t id_size;
    uint64_t *patient; // [rows]
    int64_t *order;    // [rows] by id
};

/* Opens a file (a name that ends in .h5) or a model, whose EMA weights are taken if `ema`. Close
 * with pk_embeddings_close, after a failure too.
 * Errors  PK_EIO, PK_EDATA  the file, see pk_table_read; two rows of one id */
enum pk_status pk_embeddings_open(struct pk_embeddings *e, const char *path, bool ema,
                                  struct pk_err *err);
/* Embeddings of rows of a dataset, in their order, into *out [rows.count, e->width]; free it. From
 * a file they are found by record id. window, stride: as in pk_model_on; both 0 for a file. Errors
 * PK_EDATA  a record that the file does not have, or has as another patient's: it was made of
 * another corpus;  those of pk_model_on and pk_evaluate */
enum pk_status pk_embeddings_get(float **out, struct pk_embeddings *e, const struct pk_dataset *d,
                                 const struct pk_rows *rows, const struct pk_backend *backend,
                                 double window, double stride, struct pk_err *err);
void pk_embeddings_close(struct pk_embeddings *e);

#endif
