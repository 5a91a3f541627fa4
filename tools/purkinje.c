/* purkinje.c -- the program; everything it does is in the subcommands (tools/cmd_*.c). */
#include "tools/cli.h"

int main(int argc, char **argv)
{
    return pk_main(argc, argv);
}
