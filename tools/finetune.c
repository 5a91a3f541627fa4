#include "tools/finetune.h"
enum pk_status pk_finetune(const struct pk_recipe *r, const struct pk_finetune_options *o, struct pk_err *err){(void)r;(void)o;return pk_fail(err,PK_EINTERNAL,"x");}
