/* cli.c -- parsing, help and errors of the command line, from the command table (see cli.h). */
#include "tools/cli.h"
#include "core/launch_env.h"
#include "core/recipe_schema.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

#define PK_X(name) extern const struct pk_command pk_cmd_##name;
#include "tools/commands.def"
#undef PK_X

static const struct pk_command *const commands[] = {
#define PK_X(name) &pk_cmd_##name,
#include "tools/commands.def"
#undef PK_X
};

const struct pk_command *const *pk_commands(int *count)
{
    *count = (int)PK_COUNT(commands);
    return commands;
}

const char *pk_arg(const struct pk_args *args, const char *name)
{
    for (int i = 0; args->command->options && args->command->options[i].name; i++)
        if (!strcmp(args->command->options[i].name, name)) return args->given[i];
    return NULL;
}

enum pk_status pk_arg_i64(const struct pk_args *args, const char *name, int64_t low, int64_t high,
                          int64_t *out, struct pk_err *err)
{
    const char *s = pk_arg(args, name);
    int64_t v;
    if (!s) return PK_OK;
    if (!pk_parse_i64(s, &v) || v < low || v > high)
        return pk_fail(err, PK_EUSAGE, "--%s %s: a whole number from %lld to %lld was expected",
                       name, s, (long long)low, (long long)high);
    *out = v;
    return PK_OK;
}

enum pk_status pk_arg_f64(const struct pk_args *args, const char *name, double low, double high,
                          double *out, struct pk_err *err)
{
    const char *s = pk_arg(args, name);
    double v;
    if (!s) return PK_OK;
    if (!pk_parse_f64(s, &v) || !(v >= low && v <= high))
        return pk_fail(err, PK_EUSAGE, "--%s %s: a number from %g to %g was expected", name, s, low,
                       high);
    *out = v;
    return PK_OK;
}

const char *pk_option_dashes(const char *name)
{
    return name[0] && !name[1] ? "-" : "--";
}

static void print_help(const struct pk_command *c)
{
    printf("purkinje %s -- %s\n\nusage: purkinje %s [options] %s\n", c->name, c->summary, c->name,
           c->synopsis);
    if (c->details) printf("\n%s\n", c->details);
    printf("\noptions:\n");
    for (int i = 0; c->options && c->options[i].name; i++) {
        char left[80];
        snprintf(left, sizeof left, "%s%s%s%s", pk_option_dashes(c->options[i].name),
                 c->options[i].name, c->options[i].value ? " " : "",
                 c->options[i].value ? c->options[i].value : "");
        printf("  %-24s %s\n", left, c->options[i].help);
    }
    printf("  %-24s %s\n  %-24s %s\n  %-24s %s\n", "-q, --quiet", "only results and errors",
           "-v, --verbose", "more of what happens", "-h, --help", "this text");
    printf("\nexamples:\n");
    for (int i = 0; c->examples && c->examples[i].command; i++)
        printf("  purkinje %s\n      %s\n", c->examples[i].command, c->examples[i].says);
}

static void print_overview(FILE *out)
{
    fprintf(out,
            "purkinje %s -- pretrain and fine-tune models of ECG and PPG\n\n"
            "usage: purkinje COMMAND [options] ...\n\ncommands:\n",
            PK_VERSION);
    for (size_t i = 0; i < PK_COUNT(commands); i++)
        fprintf(out, "  %-16s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(out, "\n'purkinje COMMAND --help' tells more and shows examples.\n");
}

/* The commands "GROUP ...", such as those of recipe; how many there are. */
static int print_group(FILE *out, const char *group)
{
    int found = 0;
    size_t n = strlen(group);
    for (size_t i = 0; i < PK_COUNT(commands); i++) {
        if (strncmp(commands[i]->name, group, n) || commands[i]->name[n] != ' ') continue;
        if (!found++)
            fprintf(out, "usage: purkinje %s COMMAND [options] ...\n\ncommands:\n", group);
        fprintf(out, "  %-16s %s\n", commands[i]->name, commands[i]->summary);
    }
    if (found)
        fprintf(out, "\n'purkinje %s COMMAND --help' tells more and shows examples.\n", group);
    return found;
}

static bool is_help(const char *word)
{
    return !strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help");
}

/* `purkinje recipe`, `purkinje recipe --help`, or a command that does not exist; the exit code. */
static int no_command(int argc, char **argv)
{
    char typed[128];
    const char *guess = NULL;
    int best = INT_MAX;
    bool alone = argc == 2, help = argc > 2 && is_help(argv[2]);
    if ((alone || help) && print_group(help ? stdout : stderr, argv[1])) return help ? 0 : 2;
    for (int words = 1; words <= 2 && words < argc; words++) {
        snprintf(typed, sizeof typed, "%.60s%s%.60s", argv[1], words > 1 ? " " : "",
                 words > 1 ? argv[2] : "");
        for (size_t i = 0; i < PK_COUNT(commands); i++)
            if ((strchr(commands[i]->name, ' ') != NULL) == (words > 1) &&
                pk_better_guess(typed, commands[i]->name, &best))
                guess = commands[i]->name;
    }
    bool group = argc > 2 && argv[2][0] != '-';
    fprintf(stderr, "error: unknown command '%s%s%s'\nhelp: ", argv[1], group ? " " : "",
            group ? argv[2] : "");
    if (guess) fprintf(stderr, "did you mean '%s'? ", guess);
    fprintf(stderr, "%s'purkinje --help' lists the commands%s\n", guess ? "(" : "",
            guess ? ")" : "");
    return 2;
}

static const struct pk_command *find_command(int argc, char **argv, int *used)
{
    const struct pk_command *best = NULL;
    for (size_t i = 0; i < PK_COUNT(commands); i++) {
        char two[128];
        const char *name = commands[i]->name;
        snprintf(two, sizeof two, "%s %s", argv[1], argc > 2 ? argv[2] : "");
        if (strchr(name, ' ') && !strcmp(name, two)) {
            *used = 2;
            return commands[i];
        }
        if (!strcmp(name, argv[1])) {
            *used = 1;
            best = commands[i];
        }
    }
    return best;
}

static enum pk_status parse_option(struct pk_args *a, int argc, char **argv, int *i,
                                   struct pk_err *err)
{
    bool letter = argv[*i][1] != '-';
    const char *s = argv[*i] + (letter ? 1 : 2), *eq = strchr(s, '=');
    size_t n = eq ? (size_t)(eq - s) : strlen(s);
    const struct pk_option *o = a->command->options;
    for (int k = 0; o && o[k].name && k < (int)PK_COUNT(a->given); k++) {
        if (strlen(o[k].name) != n || strncmp(o[k].name, s, n) || (letter && n > 1)) continue;
        if (!o[k].value) {
            if (eq) return pk_fail(err, PK_EUSAGE, "--%s takes no value", o[k].name);
            a->given[k] = "";
        } else if (eq) {
            a->given[k] = eq + 1;
        } else if (*i + 1 < argc) {
            a->given[k] = argv[++*i];
        } else {
            return pk_fail(err, PK_EUSAGE, "--%s needs a value: %s", o[k].name, o[k].value);
        }
        return PK_OK;
    }
    return pk_fail(err, PK_EUSAGE, "unknown option %s; 'purkinje %s --help' lists them", argv[*i],
                   a->command->name);
}

static enum pk_status parse(struct pk_args *a, int argc, char **argv, int first, bool *help,
                            struct pk_err *err)
{
    bool only_words = false;
    for (int i = first; i < argc; i++) {
        const char *s = argv[i];
        bool rest = a->command->rest && a->count > 0;
        if (only_words || rest || s[0] != '-' || !s[1])
            a->word[a->count++] = argv[i];
        else if (!strcmp(s, "--"))
            only_words = true;
        else if (!strcmp(s, "-h") || !strcmp(s, "--help"))
            *help = true;
        else if (!strcmp(s, "-q") || !strcmp(s, "--quiet"))
            a->quiet = true;
        else if (!strcmp(s, "-v") || !strcmp(s, "--verbose"))
            a->verbose = true;
        else
            PK_TRY(parse_option(a, argc, argv, &i, err));
    }
    return PK_OK;
}

static int report(const struct pk_err *err, enum pk_status s)
{
    if (err->said) return pk_exit_code(s);
    const char *text = err->message[0] ? err->message : pk_status_text(s);
    // A list of errors brings its own prefixes; being stopped on request is no error.
    bool done = !strncmp(text, "error: ", 7) || s == PK_ESTOPPED;
    fprintf(stderr, "%s%s\n", done ? "" : "error: ", text);
    return pk_exit_code(s);
}

enum pk_status pk_print(struct pk_text *text, struct pk_err *err)
{
    enum pk_status s = text->failed ? pk_fail(err, PK_ENOMEM, "out of memory: results") : PK_OK;
    if (s == PK_OK && text->s) fwrite(text->s, 1, text->len, stdout); // pk_main checks the flush
    pk_text_free(text);
    return s;
}

/* An environment that says half of it is left to those commands that have a use for ranks. */
static enum pk_status check_alone(const struct pk_command *c, struct pk_err *err)
{
    struct pk_launch l;
    if (!c->alone || pk_launch_detect(&l, (const char *const *)environ, NULL, NULL) != PK_OK ||
        l.size == 1)
        return PK_OK;
    return pk_fail(err, PK_EUSAGE,
                   "%s runs in a single process, and this is rank %d of %d (%s): each would write "
                   "the same files\nhelp: start it once, without the launcher",
                   c->name, l.rank, l.size, pk_launch_source_name(l.source));
}

int pk_main(int argc, char **argv)
{
    struct pk_err err = {0};
    struct pk_args args = {.argc = argc, .argv = argv};
    bool help = false;
    int used = 0;
    if (argc < 2) {
        print_overview(stderr);
        return 2;
    }
    bool asked = is_help(argv[1]);
    if (asked && argc == 2) {
        print_overview(stdout);
        return 0;
    }
    if (asked) { // "help recipe ls" is "recipe ls --help"
        argc--, argv++;
        help = true;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("purkinje %s\n", PK_VERSION);
        return 0;
    }
    args.command = find_command(argc, argv, &used);
    if (!args.command && asked && argc == 2 && print_group(stdout, argv[1])) return 0;
    if (!args.command) return no_command(argc, argv);
    enum pk_status s = pk_alloc(&args.word, (size_t)argc, sizeof *args.word, "arguments", &err);
    if (s == PK_OK) s = parse(&args, argc, argv, 1 + used, &help, &err);
    if (s == PK_OK && !help) s = check_alone(args.command, &err);
    if (s == PK_OK && help)
        print_help(args.command);
    else if (s == PK_OK)
        s = args.command->run(&args, &err);
    int code = s == PK_OK ? 0 : report(&err, s);
    if (fflush(stdout) != 0 && code == 0) code = pk_exit_code(PK_EWRITE);
    free(args.word);
    return code;
}
