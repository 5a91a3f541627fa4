/* rendezvous_file.h -- the file in which rank 0 publishes where it listens.
 *
 * It is there from the moment rank 0 listens until all ranks have joined. One that was left by a
 * job that died is replaced; one of a living rank 0 on this host is respected. */
#ifndef PK_RENDEZVOUS_FILE_H
#define PK_RENDEZVOUS_FILE_H

#include "core/reception.h"

struct pk_meeting {
    char address[PK_ADDRESS_TEXT];
    int port;
    int64_t pid;
    char host[PK_HOST_TEXT];
    char token[PK_TOKEN_BYTES];
    double written; // wall clock, s
};

/* Errors  PK_ERANK a living process of this host owns the file;  PK_EWRITE */
enum pk_status pk_meeting_publish(const char *path, const struct pk_meeting *m, struct pk_err *err);
/* Errors  PK_ERANK there is no such file yet, or it is no such file */
enum pk_status pk_meeting_read(const char *path, struct pk_meeting *m, struct pk_err *err);
/* Removes the file if it is still this process's. */
void pk_meeting_withdraw(const char *path, const struct pk_meeting *m);
/* 32 random hexadecimal digits. */
enum pk_status pk_token_random(char token[PK_TOKEN_BYTES], struct pk_err *err);

#endif
