/* cli.h -- one table describes every subcommand: parsing, --help, man page and completion use it.
 *
 * A subcommand is a `const struct pk_command pk_cmd_NAME` in tools/cmd_NAME.c and one line in
 * tools/commands.def. Results go to stdout, progress and logs to stderr. */
#ifndef PK_CLI_H
#define PK_CLI_H

#include "core/base.h"

struct pk_option {
    const char *name;  // without dashes; a name of one letter is given as -n or --n
    const char *value; // NULL for a flag, else what the value is, e.g. "N", "FILE"
    const char *help;  // one line
};

struct pk_example {
    const char *command; // after "purkinje "; tests run it, from a scratch folder
    const char *says;    // what it shows
};

struct pk_args {
    int count;   // positional arguments, key=value included
    char **word; // [count], borrowed from argv
    const struct pk_command *command;
    const char *given[24]; // by index into command->options: value, "" for a flag, NULL if absent
    bool quiet, verbose;
    int argc; // the whole command line, for a run's records; borrowed
    char **argv;
};

struct pk_command {
    const char *name;                  // "pretrain", or "data import" for a two-word one
    const char *synopsis;              // positional arguments, e.g. "RECIPE [key=value ...]"
    const char *summary;               // one line
    const char *details;               // paragraphs, or NULL
    const struct pk_option *options;   // ends with {0}; -h/--help -q -v are everyone's
    const struct pk_example *examples; // at least two, ends with {0}
    enum pk_status (*run)(const struct pk_args *args, struct pk_err *err);
    bool alone; // writes what it makes: as one of several ranks it would be written once by each
    bool rest;  // what follows the first positional argument is not parsed: another command line
};

/* Value of --name ("" for a flag), or NULL when it was not given. */
const char *pk_arg(const struct pk_args *args, const char *name);
/* Integer / number options with a range check; *out keeps its default when not given. */
enum pk_status pk_arg_i64(const struct pk_args *args, const char *name, int64_t low, int64_t high,
                          int64_t *out, struct pk_err *err);
enum pk_status pk_arg_f64(const struct pk_args *args, const char *name, double low, double high,
                          double *out, struct pk_err *err);

/* "-" before an option of one letter, else "--"; static. */
const char *pk_option_dashes(const char *name);

/* Prints a finished result on stdout and frees it.
 * Errors  PK_ENOMEM  the text could not be made in full; nothing is printed */
enum pk_status pk_print(struct pk_text *text, struct pk_err *err);

/* Runs the program; returns the process exit code. */
int pk_main(int argc, char **argv);
/* All commands, in the order of commands.def. */
const struct pk_command *const *pk_commands(int *count);

#endif
