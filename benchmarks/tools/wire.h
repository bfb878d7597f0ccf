/* wire.h: a connection of the client, plain or TLS: how it is opened, written, read and closed.

   Built with -DWITH_TLS=1 (and -lssl -lcrypto) it can speak TLS, otherwise it says that it cannot.
   Certificates are not checked: the peer is our own, and checking them is none of its costs. */
#ifndef WIRE_H
#define WIRE_H

#include <fcntl.h>

#include "loop.h"

#if WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#else
typedef void SSL;
#endif

struct wire {
    int fd; /* -1: closed */
    SSL *tls;
};

/* What the other side has to do before a handshake goes on. */
enum handshake { SHAKEN, WANTS_INPUT, WANTS_OUTPUT, FAILED };

#if WITH_TLS
static SSL_CTX *tls_context;

static inline void wire_use_tls(void) {
    tls_context = SSL_CTX_new(TLS_client_method());
    if (tls_context == NULL) die("TLS");
    SSL_CTX_set_verify(tls_context, SSL_VERIFY_NONE, NULL);
    /* Thousands of connections wait most of the time: they need no buffers meanwhile. */
    SSL_CTX_set_mode(tls_context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_RELEASE_BUFFERS |
                                      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}

/* Translate what OpenSSL says to what send and recv say: -1 and errno, 0 at the end. */
static inline ssize_t tls_result(struct wire *wire, int result) {
    if (result > 0) return result;
    switch (SSL_get_error(wire->tls, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE: errno = EAGAIN; return -1;
    case SSL_ERROR_ZERO_RETURN: return 0;
    case SSL_ERROR_SYSCALL:
        if (errno == 0 || errno == EAGAIN) return 0;
        return -1;
    default: errno = EPROTO; return -1;
    }
}
#else
static inline void wire_use_tls(void) {
    fprintf(stderr, "load: built without TLS: the headers of OpenSSL are missing\n");
    exit(2);
}
#endif

/* Begin a connection. Returns -1, with errno, when that is already known to fail. */
static inline int wire_open(struct wire *wire, int port) {
    struct sockaddr_in address = loopback(port);
    wire->tls = NULL;
    wire->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (wire->fd < 0) return -1;
    no_delay(wire->fd);
    if (connect(wire->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        return -1;
    return 0;
}

/* Go on with a connection that has begun; asked again whenever it can be read or written. */
static inline enum handshake wire_shake(struct wire *wire) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(wire->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        errno = error;
        return FAILED;
    }
#if WITH_TLS
    if (tls_context == NULL) return SHAKEN;
    if (wire->tls == NULL) {
        wire->tls = SSL_new(tls_context);
        if (wire->tls == NULL || SSL_set_fd(wire->tls, wire->fd) != 1) die("TLS");
    }
    ERR_clear_error();
    int result = SSL_connect(wire->tls);
    if (result == 1) return SHAKEN;
    switch (SSL_get_error(wire->tls, result)) {
    case SSL_ERROR_WANT_READ: return WANTS_INPUT;
    case SSL_ERROR_WANT_WRITE: return WANTS_OUTPUT;
    default: errno = EPROTO; return FAILED;
    }
#else
    return SHAKEN;
#endif
}

static inline ssize_t wire_send(struct wire *wire, const char *bytes, size_t size) {
#if WITH_TLS
    if (wire->tls) {
        ERR_clear_error();
        errno = 0;
        ssize_t taken = tls_result(wire, SSL_write(wire->tls, bytes, (int)size));
        if (taken == 0) errno = EPIPE;
        return taken > 0 ? taken : -1;
    }
#endif
    return send(wire->fd, bytes, size, MSG_NOSIGNAL);
}

static inline ssize_t wire_receive(struct wire *wire, char *bytes, size_t size) {
#if WITH_TLS
    if (wire->tls) {
        ERR_clear_error();
        errno = 0;
        return tls_result(wire, SSL_read(wire->tls, bytes, (int)size));
    }
#endif
    return recv(wire->fd, bytes, size, 0);
}

static inline void wire_close(struct wire *wire) {
#if WITH_TLS
    if (wire->tls) SSL_free(wire->tls);
#endif
    wire->tls = NULL;
    if (wire->fd >= 0) close(wire->fd);
    wire->fd = -1;
}

#endif
