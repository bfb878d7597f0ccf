/* load: the client of the benchmarks, many keep-alive connections in one thread.

   usage: load --port N --key KEY --connections N --seconds S [--prompt-bytes N] [--tls]
               [--period-us N] [--stream --events N --pace-us N [--ask-usage]]

   Each connection POSTs chat completions, at least one, and begins none after S seconds: one after
   another without pause, or with --period-us by a timetable, one in each period, the connections
   evenly apart. A timetable keeps streams out of step. Without it, those that a pause of the
   gateway has ended together would begin together, and from then on speak together: bunches would
   be measured, and they would only grow.

   Every answer is checked: status 200, the whole body by its own framing, and of a stream each
   event in its order, the finish, [DONE], and token counts if and only if they were asked for.
   What is not as it should be is an error; its connection is given up.

   Prints one JSON object:
     requests, events    answered as they should be; content events of streams
     errors, error       how many, and what the first one was
     reconnects          connections that the server closed between two answers
     most_open           the most answers that were under way at the same time
     seconds             from the first request to the end of the last answer
     first_byte_us       from a request's first byte to the first byte of its answer's body
     event_us            from an event's making (the model's "t") to its arrival; paced streams only
   The last two as p50, p99 and max, in microseconds. Exit status 1 when there were errors. */
#define _GNU_SOURCE
#include <ctype.h>
#include <getopt.h>
#include <stdarg.h>

#include "wire.h"

#define SILENCE_MS 30000 /* nothing at all for so long: those that still wait have failed */

enum reading { HANDSHAKE, HEAD, BODY_BY_LENGTH, CHUNK_SIZE, CHUNK_BYTES, CHUNK_END, TRAILER, DONE };

struct client {
    struct wire wire; /* closed: not begun, or ended */
    long begin_ns; /* when its latest request began */
    int idle;      /* open, and waiting for the timetable */
    int owed;      /* requests that were due before the one before them had ended */
    size_t sent;
    int sending; /* the socket is full, or not connected yet: EPOLLOUT goes on */
    int open;    /* its answer has begun, and not ended */

    enum reading reading;
    char head[8192];
    size_t head_used;
    int closes;     /* the answer said "Connection: close" */
    size_t left;    /* bytes until the end of the body or chunk */
    size_t body_bytes;

    char line[4096]; /* an event's line that has not come whole */
    size_t line_used;
    int next_event, saw_finish, saw_usage, saw_done;
};

/* Times in microseconds, as many as come. */
struct times {
    float *us;
    size_t used, capacity;
};

static struct {
    int port, connections, stream, events, ask_usage, tls;
    long pace_us, period_us, prompt_bytes;
    double seconds;
    const char *key;
} option = {.connections = 1, .seconds = 1, .events = 20, .key = ""};

static int epoll_fd;
static char *request;
static size_t request_bytes;
static long deadline_ns;
static int live; /* connections that have not ended */
static int open_now, most_open;
static long requests_done, events_seen, errors, reconnects;
static char first_error[256];
static struct times first_byte, event_delay;

static void note(struct times *times, long ns) {
    if (times->used == times->capacity) {
        times->capacity = times->capacity ? times->capacity * 2 : 1 << 16;
        times->us = allocate(times->us, times->capacity * sizeof *times->us);
    }
    times->us[times->used++] = (float)ns / 1000;
}

/* ---- The request ---- */

/* A prompt like a coding assistant's: messages of source text, with what JSON has to escape. */
static char *make_messages(size_t size) {
    static const char *open[] = {"{\"role\":\"user\",\"content\":\"",
                                 "{\"role\":\"assistant\",\"content\":\""};
    static const char line[] =
        "    if name not in self._known:\\n        raise KeyError(f\\\"unknown: {name}\\\")\\n";
    const size_t message_bytes = 4096;
    char *text = allocate(NULL, size + message_bytes + 256), *at = text;
    *at++ = '[';
    for (int number = 0; number == 0 || (size_t)(at - text) < size; number++) {
        if (number) *at++ = ',';
        at = stpcpy(at, open[number % 2]);
        /* In the text: some gateways pass on no fields but those that they know. */
        if (option.stream && number == 0)
            at += sprintf(at, "events=%d pace_us=%ld ", option.events, option.pace_us);
        if (size == 0) at = stpcpy(at, "Say hello.");
        else
            for (char *end = at + message_bytes; at < end && (size_t)(at - text) < size;)
                at = stpcpy(at, line);
        at = stpcpy(at, "\"}");
    }
    stpcpy(at, "]");
    return text;
}

static void make_request(void) {
    char *messages = make_messages((size_t)option.prompt_bytes), *body;
    char how[160] = "\"stream\":false";
    if (option.stream)
        sprintf(how, "\"stream\":true,\"max_tokens\":%d%s", option.events,
                option.ask_usage ? ",\"stream_options\":{\"include_usage\":true}" : "");
    int size = asprintf(&body, "{\"model\":\"bench-model\",\"messages\":%s,%s}", messages, how);
    int all = asprintf(&request,
                       "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                       "Authorization: Bearer %s\r\nUser-Agent: llmproxy-benchmarks\r\n"
                       "Accept: */*\r\nContent-Type: application/json\r\n"
                       "Content-Length: %d\r\n\r\n%s",
                       option.port, option.key, size, body);
    if (size < 0 || all < 0) die("request");
    request_bytes = (size_t)all;
    free(messages);
    free(body);
}

/* ---- One connection ---- */

static void set_open(struct client *one, int open) {
    open_now += open - one->open;
    one->open = open;
    if (open_now > most_open) most_open = open_now;
}

static void end(struct client *one) {
    wire_close(&one->wire);
    set_open(one, 0);
    one->idle = 0;
    live--;
}

__attribute__((format(printf, 2, 3))) static void fail(struct client *one, const char *why, ...) {
    va_list values;
    va_start(values, why);
    if (errors++ == 0) vsnprintf(first_error, sizeof first_error, why, values);
    va_end(values);
    end(one);
}

static void watch(struct client *one, int sending) {
    if (one->sending == sending) return;
    one->sending = sending;
    struct epoll_event wanted = {.events = EPOLLIN | (sending ? EPOLLOUT : 0),
                                 .data = {.ptr = one}};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, one->wire.fd, &wanted);
}

static void go_on_sending(struct client *one) {
    while (one->sent < request_bytes) {
        ssize_t taken = wire_send(&one->wire, request + one->sent, request_bytes - one->sent);
        if (taken < 0 && errno == EAGAIN) {
            watch(one, 1);
            return;
        }
        if (taken < 0) {
            fail(one, "sending a request: %s", strerror(errno));
            return;
        }
        one->sent += (size_t)taken;
    }
    watch(one, 0);
}

static void begin_request(struct client *one) {
    one->begin_ns = now_ns();
    one->sent = one->head_used = one->line_used = one->left = one->body_bytes = 0;
    one->reading = HEAD;
    one->closes = one->next_event = one->saw_finish = one->saw_usage = one->saw_done = 0;
    go_on_sending(one);
}

/* Go on with a connection that is not there yet, and ask as soon as it is. */
static void go_on_shaking(struct client *one) {
    switch (wire_shake(&one->wire)) {
    case SHAKEN: begin_request(one); break;
    case WANTS_INPUT: watch(one, 0); break;
    case WANTS_OUTPUT: watch(one, 1); break;
    case FAILED: fail(one, "connecting: %s", strerror(errno)); break;
    }
}

static void open_connection(struct client *one) {
    one->reading = HANDSHAKE;
    if (wire_open(&one->wire, option.port) < 0) {
        fail(one, "connecting: %s", strerror(errno));
        return;
    }
    one->sending = 1;
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLOUT, .data = {.ptr = one}};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, one->wire.fd, &wanted);
}

/* Begin a request, on the connection that there is or on a new one. Returns 0 when that failed, or
   when what is left of a read belongs to the old connection. */
static int ask(struct client *one) {
    int renewed = one->closes;
    one->idle = 0;
    if (renewed) {
        reconnects++;
        wire_close(&one->wire);
    }
    if (one->wire.fd < 0) open_connection(one);
    else begin_request(one);
    return one->wire.fd >= 0 && !renewed;
}

/* An answer has come whole: judge it, then ask again. Returns 0 when the connection failed. */
static int conclude(struct client *one) {
    if (option.stream) {
        if (one->next_event != option.events || !one->saw_finish || !one->saw_done) {
            fail(one, "a short stream: %d of %d events, %s finish, %s [DONE]", one->next_event,
                 option.events, one->saw_finish ? "a" : "no", one->saw_done ? "a" : "no");
            return 0;
        }
        if (one->saw_usage != option.ask_usage) {
            fail(one, "usage was %s, and came %d times",
                 option.ask_usage ? "asked for" : "not asked for", one->saw_usage);
            return 0;
        }
    } else if (one->body_bytes < 100) {
        fail(one, "a body of %zu bytes", one->body_bytes);
        return 0;
    }
    requests_done++;
    set_open(one, 0);
    if (now_ns() >= deadline_ns) {
        end(one);
        return 0;
    }
    if (option.period_us && one->owed == 0) {
        one->idle = 1;
        return 1;
    }
    if (one->owed) one->owed--;
    return ask(one);
}

/* ---- Events ---- */

/* Take one line of a stream. Returns 0 when the connection failed. */
static int take_line(struct client *one, const char *line, size_t size, long now) {
    static const char token[] = "\"content\":\" token-", stamp[] = "\"t\":";
    if (size == 0) return 1;
    if (size == 12 && memcmp(line, "data: [DONE]", 12) == 0) {
        one->saw_done++;
        return 1;
    }
    const char *at = memmem(line, size, token, sizeof token - 1);
    if (at == NULL) {
        if (memmem(line, size, "\"usage\":{", 9)) one->saw_usage++;
        else if (memmem(line, size, "\"finish_reason\":\"stop\"", 22)) one->saw_finish++;
        else {
            fail(one, "a line of a stream: %.*s", size > 200 ? 200 : (int)size, line);
            return 0;
        }
        return 1;
    }
    int number = atoi(at + sizeof token - 1);
    if (number != one->next_event) {
        fail(one, "event %d instead of event %d", number, one->next_event);
        return 0;
    }
    one->next_event++;
    events_seen++;
    if (option.pace_us && (at = memmem(line, size, stamp, sizeof stamp - 1)))
        note(&event_delay, now - atol(at + sizeof stamp - 1));
    return 1;
}

/* Take a piece of an answer's body. Returns 0 when the connection failed. */
static int take_body(struct client *one, const char *bytes, size_t size, long now) {
    if (one->body_bytes == 0) note(&first_byte, now - one->begin_ns);
    one->body_bytes += size;
    if (!option.stream) return 1;
    while (size > 0) {
        const char *feed = memchr(bytes, '\n', size);
        size_t part = feed ? (size_t)(feed - bytes) : size;
        const char *line = bytes;
        size_t line_bytes = part;
        if (one->line_used || !feed) { /* a line in several pieces */
            if (one->line_used + part >= sizeof one->line) {
                fail(one, "a line of more than %zu bytes", sizeof one->line);
                return 0;
            }
            memcpy(one->line + one->line_used, bytes, part);
            one->line_used += part;
            line = one->line;
            line_bytes = one->line_used;
        }
        if (!feed) return 1;
        one->line_used = 0;
        if (!take_line(one, line, line_bytes, now)) return 0;
        bytes += part + 1;
        size -= part + 1;
    }
    return 1;
}

/* ---- The answer's framing ---- */

/* Read a head that has come whole. Returns 0 when the connection failed. */
static int take_head(struct client *one) {
    int chunked = 0;
    one->left = 0;
    if (strncmp(one->head, "HTTP/1.1 200", 12) != 0) {
        fail(one, "an answer that begins: %.*s", (int)strcspn(one->head, "\r\n"), one->head);
        return 0;
    }
    for (char *line = strstr(one->head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, "content-length:", 15) == 0) one->left = (size_t)atol(line + 15);
        if (strncasecmp(line, "transfer-encoding: chunked", 26) == 0) chunked = 1;
        if (strncasecmp(line, "connection: close", 17) == 0) one->closes = 1;
    }
    set_open(one, 1);
    one->reading = chunked ? CHUNK_SIZE : one->left ? BODY_BY_LENGTH : DONE;
    one->left = chunked ? 0 : one->left;
    return 1;
}

/* Take what one read gave. */
static void take(struct client *one, const char *bytes, size_t size, long now) {
    const char *stop = bytes + size;
    while (bytes < stop) {
        size_t rest = (size_t)(stop - bytes), part;
        switch (one->reading) {
        case HANDSHAKE: /* nothing is read before its end */
        case HEAD:
            if (one->head_used + 1 == sizeof one->head) {
                fail(one, "a head of more than %zu bytes", sizeof one->head);
                return;
            }
            one->head[one->head_used++] = *bytes++;
            if (one->head_used >= 4 && memcmp(one->head + one->head_used - 4, "\r\n\r\n", 4) == 0) {
                one->head[one->head_used] = '\0';
                if (!take_head(one)) return;
            }
            break;
        case CHUNK_SIZE: /* hexadecimal; extensions are none of ours */
            if (isxdigit((unsigned char)*bytes))
                one->left = one->left * 16 + (size_t)(isdigit((unsigned char)*bytes)
                                                          ? *bytes - '0'
                                                          : (*bytes | 32) - 'a' + 10);
            else if (*bytes == '\n') one->reading = one->left ? CHUNK_BYTES : TRAILER;
            else if (*bytes != '\r') {
                fail(one, "byte %d in a chunk size", *bytes);
                return;
            }
            bytes++;
            break;
        case BODY_BY_LENGTH:
        case CHUNK_BYTES:
            part = rest < one->left ? rest : one->left;
            if (!take_body(one, bytes, part, now)) return;
            bytes += part;
            one->left -= part;
            if (one->left == 0) one->reading = one->reading == CHUNK_BYTES ? CHUNK_END : DONE;
            break;
        case CHUNK_END:
            if (*bytes++ == '\n') one->reading = CHUNK_SIZE;
            break;
        case TRAILER: /* no trailers are expected: the next line is the empty one */
            if (*bytes++ == '\n') one->reading = DONE;
            break;
        case DONE:
            fail(one, "%zu bytes after an answer", rest);
            return;
        }
        if (one->reading == DONE && bytes == stop && !conclude(one)) return;
    }
}

/* Read what there is. Of TLS, all: what OpenSSL has read ahead, epoll does not tell of. */
static void receive(struct client *one) {
    static char bytes[256 * 1024];
    do {
        int fd = one->wire.fd;
        ssize_t got = wire_receive(&one->wire, bytes, sizeof bytes);
        long now = now_ns();
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) {
            fail(one, "the connection ended %s an answer", one->reading == HEAD ? "before" : "in");
            return;
        }
        take(one, bytes, (size_t)got, now);
        if (one->wire.fd != fd || one->reading == HANDSHAKE) return;
    } while (one->wire.tls);
}

/* ---- All of them ---- */

static int by_size(const void *left, const void *right) {
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

static void print_times(const char *name, struct times *times) {
    if (times->used == 0) return;
    size_t last = times->used - 1;
    qsort(times->us, times->used, sizeof *times->us, by_size);
    printf(",\"%s\":{\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f}", name, times->us[last / 2],
           times->us[(size_t)((double)last * 0.99)], times->us[last]);
}

static void print_quoted(const char *text) {
    putchar('"');
    for (; *text; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte == '"' || byte == '\\' || byte < 0x20 || byte > 0x7e) printf("\\u%04x", byte);
        else putchar(byte);
    }
    putchar('"');
}

/* When the request with this number of all is due. */
static long due_ns(long begun_ns, long number) {
    return begun_ns + option.period_us * 1000L / option.connections * number;
}

/* Begin what is due, and tell when the next is; 0: nothing more is. */
static long keep_timetable(struct client *clients, long begun_ns) {
    static long number; /* of the next request of the timetable; the clients take turns */
    for (;; number++) {
        long due = due_ns(begun_ns, number);
        /* The first of each is due in any case; without a period there are no others. */
        if (number >= option.connections && (option.period_us == 0 || due >= deadline_ns)) break;
        if (due > now_ns()) return due;
        struct client *one = &clients[number % option.connections];
        if (number < option.connections || one->idle) ask(one);
        else if (one->wire.fd >= 0) one->owed++;
    }
    for (int i = 0; i < option.connections; i++)
        if (clients[i].idle) end(&clients[i]);
    return 0;
}

static void read_options(int count, char **words) {
    static const struct option names[] = {
        {"port", required_argument, NULL, 'p'},        {"key", required_argument, NULL, 'k'},
        {"connections", required_argument, NULL, 'c'}, {"seconds", required_argument, NULL, 's'},
        {"prompt-bytes", required_argument, NULL, 'b'}, {"stream", no_argument, NULL, 'S'},
        {"events", required_argument, NULL, 'e'},      {"pace-us", required_argument, NULL, 'P'},
        {"ask-usage", no_argument, NULL, 'u'},         {"period-us", required_argument, NULL, 'T'},
        {"tls", no_argument, NULL, 't'},               {NULL, 0, NULL, 0}};
    for (int name; (name = getopt_long(count, words, "", names, NULL)) != -1;) {
        switch (name) {
        case 'p': option.port = atoi(optarg); break;
        case 'k': option.key = optarg; break;
        case 'c': option.connections = atoi(optarg); break;
        case 's': option.seconds = atof(optarg); break;
        case 'b': option.prompt_bytes = atol(optarg); break;
        case 'S': option.stream = 1; break;
        case 'e': option.events = atoi(optarg); break;
        case 'P': option.pace_us = atol(optarg); break;
        case 'u': option.ask_usage = 1; break;
        case 'T': option.period_us = atol(optarg); break;
        case 't': option.tls = 1; break;
        default: exit(2);
        }
    }
    if (option.port <= 0 || option.connections <= 0 || option.events < 0 ||
        option.prompt_bytes < 0) {
        fprintf(stderr, "load: --port and --connections are needed\n");
        exit(2);
    }
}

int main(int count, char **words) {
    read_options(count, words);
    raise_open_files();
    if (option.tls) wire_use_tls();
    make_request();
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int timer = make_timer(epoll_fd);
    struct client *clients = calloc((size_t)option.connections, sizeof *clients);
    if (clients == NULL) die("memory");

    long begun_ns = now_ns();
    deadline_ns = begun_ns + (long)(option.seconds * NS_PER_S);
    live = option.connections;
    for (int i = 0; i < option.connections; i++) clients[i].wire.fd = -1;
    struct epoll_event events[512];
    for (;;) {
        set_timer(timer, keep_timetable(clients, begun_ns));
        if (live == 0) break;
        int ready = epoll_wait(epoll_fd, events, 512, SILENCE_MS);
        if (ready == 0) {
            for (int i = 0; i < option.connections; i++)
                if (clients[i].wire.fd >= 0) fail(&clients[i], "silence for %d ms", SILENCE_MS);
            break;
        }
        for (int i = 0; i < ready; i++) {
            struct client *one = events[i].data.ptr;
            if (one == NULL) continue; /* the timer: what is due is begun above */
            if (one->reading == HANDSHAKE) {
                go_on_shaking(one);
                continue;
            }
            if (events[i].events & EPOLLOUT) go_on_sending(one);
            if (one->wire.fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                receive(one);
        }
    }
    printf("{\"requests\":%ld,\"events\":%ld,\"errors\":%ld,\"error\":", requests_done, events_seen,
           errors);
    print_quoted(first_error);
    printf(",\"reconnects\":%ld,\"most_open\":%d,\"seconds\":%.6f", reconnects, most_open,
           (double)(now_ns() - begun_ns) / NS_PER_S);
    print_times("first_byte_us", &first_byte);
    print_times("event_us", &event_delay);
    printf("}\n");
    free(clients);
    return errors != 0;
}
