/* data.c -- lookups and ownership of datasets (see data.h). */
#include "core/data.h"

#include <stdlib.h>
#include <string.h>

void pk_dataset_free(struct pk_dataset *d)
{
    if (d->close) d->close(d);
    for (int32_t i = 0; i < d->tasks; i++) {
        free(d->task[i].class_name);
        free(d->task[i].label);
    }
    for (int32_t i = 0; i < d->targets; i++) free(d->target[i].value);
    free(d->task);
    free(d->target);
    free(d->source);
    free(d->record);
    *d = (struct pk_dataset){0};
}

const struct pk_task *pk_dataset_task(const struct pk_dataset *d, const char *name)
{
    for (int32_t i = 0; i < d->tasks; i++)
        if (!strcmp(d->task[i].name, name)) return &d->task[i];
    return NULL;
}

const struct pk_target *pk_dataset_target(const struct pk_dataset *d, const char *name)
{
    for (int32_t i = 0; i < d->targets; i++)
        if (!strcmp(d->target[i].name, name)) return &d->target[i];
    return NULL;
}
