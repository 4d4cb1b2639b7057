/* Bytes of certificates and keys: of files, and of one certificate. */
#include "tls/openssl_config.h"

#include "sys.h"

#ifndef LIBUS_NO_SSL

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <string.h>

#define FIRST_READ 16384u

static int open_file(const char *path) {
    int fd;
    do {
        fd = sys_open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    } while (fd == -EINTR);
    return fd;
}

/* Twice as much room, and no copy of the bytes left behind. */
static int grow(struct usx_tls_bytes *bytes, size_t *capacity) {
    size_t larger = *capacity == 0 ? FIRST_READ : *capacity * 2;
    char *data = sys_malloc(larger);
    if (data == NULL) {
        return -ENOMEM;
    }
    size_t length = bytes->length;
    if (length > 0) {
        memcpy(data, bytes->data, length);
    }
    us_internal_tls_free_bytes(bytes);
    bytes->data = data;
    bytes->length = length;
    *capacity = larger;
    return 0;
}

/* Until the end: what is read may be no regular file and tell no size. */
static int read_all(int fd, struct usx_tls_bytes *bytes) {
    size_t capacity = 0;
    while (bytes->length <= MATERIAL_MAX) {
        if (bytes->length == capacity) {
            int result = grow(bytes, &capacity);
            if (result < 0) {
                return result;
            }
        }
        ssize_t count = sys_read(fd, (char *) (uintptr_t) bytes->data + bytes->length,
                                 capacity - bytes->length);
        if (count == 0) {
            return 0;
        }
        if (count < 0 && count != -EINTR) {
            return (int) count;
        }
        bytes->length += count > 0 ? (size_t) count : 0;
    }
    return -EFBIG;
}

int us_internal_tls_read_file(const char *path, struct usx_tls_bytes *bytes) {
    *bytes = (struct usx_tls_bytes){0};
    int fd = open_file(path);
    if (fd < 0) {
        return fd;
    }
    int result = read_all(fd, bytes);
    (void) sys_close(fd);
    if (result < 0) {
        us_internal_tls_free_bytes(bytes);
    }
    return result;
}

void us_internal_tls_free_bytes(struct usx_tls_bytes *bytes) {
    void *data = (void *) (uintptr_t) bytes->data;
    if (data != NULL) {
        OPENSSL_cleanse(data, bytes->length);
        sys_free(data);
    }
    *bytes = (struct usx_tls_bytes){0};
}

X509 *us_internal_tls_certificate_of_der(const struct usx_tls_bytes *bytes) {
    const unsigned char *next = bytes->data;
    if (next == NULL || bytes->length > MATERIAL_MAX) {
        return NULL;
    }
    X509 *certificate = d2i_X509(NULL, &next, (long) bytes->length);
    if (certificate != NULL && next != (const unsigned char *) bytes->data + bytes->length) {
        X509_free(certificate);
        return NULL;
    }
    return certificate;
}

int us_internal_tls_no_passphrase(char *buffer, int size, int is_writing, void *argument) {
    (void) buffer;
    (void) size;
    (void) is_writing;
    (void) argument;
    return -1;
}

X509 *us_internal_tls_certificate_of_pem(BIO *in) {
    return PEM_read_bio_X509_AUX(in, NULL, us_internal_tls_no_passphrase, NULL);
}

int us_internal_tls_at_end_of_pem(void) {
    unsigned long code = ERR_peek_last_error();
    if (ERR_GET_LIB(code) != ERR_LIB_PEM || ERR_GET_REASON(code) != PEM_R_NO_START_LINE) {
        return 0;
    }
    ERR_clear_error();
    return 1;
}

#endif
