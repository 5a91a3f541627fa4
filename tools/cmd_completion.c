/* cmd_completion.c -- purkinje completion: the man page and the shell completion.
 *
 * Both are printed from the command table that parsing and --help use, so they cannot fall behind.
 */
#include "tools/cli.h"

#include <string.h>

static const char *const everyone[] = {"help", "quiet", "verbose"}; // options of every command

/* Length of the first word of a command's name. */
static int first_word(const char *name)
{
    return (int)strcspn(name, " ");
}

/* Whether an earlier command starts with the same word ("data import", "data info"). pairs: of two
 * words, since "eval" is a command beside "eval scores". */
static bool seen_before(const struct pk_command *const *c, int i, bool pairs)
{
    for (int k = 0; k < i; k++)
        if ((!pairs || c[k]->name[first_word(c[k]->name)]) &&
            first_word(c[k]->name) == first_word(c[i]->name) &&
            !strncmp(c[k]->name, c[i]->name, (size_t)first_word(c[i]->name)))
            return true;
    return false;
}

static void bash_second_words(const struct pk_command *const *c, int count)
{
    printf("    local second=\n    case $1 in\n");
    for (int i = 0; i < count; i++) {
        int n = first_word(c[i]->name);
        if (!c[i]->name[n] || seen_before(c, i, true)) continue;
        printf("    %.*s) second='", n, c[i]->name);
        for (int k = i; k < count; k++)
            if (!strncmp(c[k]->name, c[i]->name, (size_t)n + 1)) printf(" %s", c[k]->name + n + 1);
        printf("' ;;\n");
    }
    printf("    esac\n    printf '%%s' \"$second\"\n");
}

static void bash(void)
{
    int count;
    const struct pk_command *const *c = pk_commands(&count);
    printf("# Completion of purkinje for bash: source <(purkinje completion bash)\n"
           "_purkinje_second() {\n");
    bash_second_words(c, count);
    printf("}\n_purkinje() {\n"
           "    local cur=${COMP_WORDS[COMP_CWORD]} name=${COMP_WORDS[1]} options=\n"
           "    local second=$(_purkinje_second \"$name\")\n"
           "    COMPREPLY=()\n"
           "    if ((COMP_CWORD == 1)); then\n"
           "        COMPREPLY=($(compgen -W '");
    for (int i = 0; i < count; i++)
        if (!seen_before(c, i, false)) printf("%.*s ", first_word(c[i]->name), c[i]->name);
    printf(
        "--help --version' -- \"$cur\"))\n        return\n    fi\n"
        "    if ((COMP_CWORD == 2)) && [[ $second && $cur != -* ]]; then\n"
        "        COMPREPLY=($(compgen -W \"$second\" -- \"$cur\"))\n        return\n    fi\n"
        "    [[ \" $second \" == *\" ${COMP_WORDS[2]} \"* ]] && name=\"$name ${COMP_WORDS[2]}\"\n"
        "    case $name in\n");
    for (int i = 0; i < count; i++) {
        printf("    '%s') options='", c[i]->name);
        for (int k = 0; c[i]->options && c[i]->options[k].name; k++)
            printf("%s%s ", pk_option_dashes(c[i]->options[k].name), c[i]->options[k].name);
        printf("' ;;\n");
    }
    printf("    esac\n    [[ $cur == -* ]] && COMPREPLY=($(compgen -W \"$options");
    for (size_t i = 0; i < PK_COUNT(everyone); i++) printf(" --%s", everyone[i]);
    printf("\" -- \"$cur\"))\n}\ncomplete -o default -F _purkinje purkinje\n");
}

/* Text for roff: backslashes, minus signs (to be copied as such) and leading dots are escaped. */
static void roff(const char *s)
{
    bool line_start = true;
    for (; *s; s++) {
        if (line_start && (*s == '.' || *s == '\'')) printf("\\&");
        if (*s == '\\')
            printf("\\e");
        else if (*s == '-')
            printf("\\-");
        else
            putchar(*s);
        line_start = *s == '\n';
    }
}

static void man_option(const char *name, const char *value, const char *help)
{
    printf(".TP\n\\fB\\-%s", name[1] ? "\\-" : "");
    roff(name);
    printf("\\fR");
    if (value) {
        printf(" \\fI");
        roff(value);
        printf("\\fR");
    }
    printf("\n");
    roff(help);
    printf("\n");
}

static void man_command(const struct pk_command *c)
{
    printf(".SS \"purkinje %s\"\n", c->name);
    roff(c->summary);
    printf("\n.PP\n\\fBpurkinje %s\\fR [\\fIoptions\\fR] ", c->name);
    roff(c->synopsis);
    printf("\n");
    if (c->details) {
        printf(".PP\n.nf\n");
        roff(c->details);
        printf("\n.fi\n");
    }
    for (int i = 0; c->options && c->options[i].name; i++)
        man_option(c->options[i].name, c->options[i].value, c->options[i].help);
    for (int i = 0; c->examples && c->examples[i].command; i++) {
        printf(".PP\n\\fBpurkinje ");
        roff(c->examples[i].command);
        printf("\\fR\n.RS 4\n");
        roff(c->examples[i].says);
        printf("\n.RE\n");
    }
}

static void man(void)
{
    static const struct {
        int code;
        const char *text;
    } codes[] = {{0, "done"},
#define PK_X(name, code, text) {code, text},
                 PK_STATUSES(PK_X)
#undef PK_X
    };
    int count;
    const struct pk_command *const *c = pk_commands(&count);
    printf(".TH PURKINJE 1 \"\" \"purkinje %s\" \"User Commands\"\n"
           ".SH NAME\npurkinje \\- pretrain and fine\\-tune models of ECG and PPG\n"
           ".SH SYNOPSIS\n\\fBpurkinje\\fR \\fICOMMAND\\fR [\\fIoptions\\fR] ...\n"
           ".SH OPTIONS\nof every command:\n",
           PK_VERSION);
    man_option("help", NULL, "prints usage and examples (also -h)");
    man_option("quiet", NULL, "only results and errors (also -q)");
    man_option("verbose", NULL, "more of what happens (also -v)");
    printf(".SH COMMANDS\n");
    for (int i = 0; i < count; i++) man_command(c[i]);
    printf(".SH \"EXIT STATUS\"\n");
    for (size_t i = 0; i < PK_COUNT(codes); i++) { // PK_OK is the "done" of the first row
        if (i == 1) continue;
        printf(".TP\n%d\n", codes[i].code);
        roff(codes[i].text);
        printf("\n");
    }
}

static enum pk_status run(const struct pk_args *args, struct pk_err *err)
{
    const char *what = args->count == 1 ? args->word[0] : "";
    if (!strcmp(what, "bash"))
        bash();
    else if (!strcmp(what, "man"))
        man();
    else
        return pk_fail(err, PK_EUSAGE, "completion takes one of: bash, man");
    return PK_OK;
}

static const struct pk_example examples[] = {
    {"completion bash", "the completion; in ~/.bashrc: source <(purkinje completion bash)"},
    {"completion man", "the man page; read it with: purkinje completion man | man -l -"},
    {0}};

const struct pk_command pk_cmd_completion = {.name = "completion",
                                             .synopsis = "bash|man",
                                             .summary =
                                                 "prints the shell completion or the man page",
                                             .examples = examples,
                                             .run = run};
