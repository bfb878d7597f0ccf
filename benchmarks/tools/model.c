/* model: the backend of the benchmarks, a model server that costs next to nothing.

   usage: model [port]
   Listens on that loopback port, or on a free one, and prints it on a line of its own.

   GET  any path   200, a list with its one model: enough for health checks and model lists.
   POST any path   a chat completion. The request's own body says which:
     "stream": true                  a stream of events, otherwise one JSON object
     "include_usage": true           a last event with token counts
     events=N, in any text           N events with content (20)
     pace_us=U, in any text          one event each U microseconds; 0: as fast as they are taken
     mark=M, in any text             M, letters and digits, stands before each token: whose it is

   Every event carries its number, and "t": when it was made, in nanoseconds of CLOCK_MONOTONIC.
   Each event is an HTTP chunk of its own, as inference servers send them. One thread, one epoll. */
#define _GNU_SOURCE
#include <ctype.h>

#include "loop.h"

#define BATCH 64              /* events that a stream without pauses makes in one turn */
#define OUT_BYTES (64 * 1024) /* holds a batch and the end of a stream */

struct connection {
    int fd;
    char *in; /* the request as far as it has come */
    size_t in_used, in_capacity;
    size_t request_bytes; /* length of the request in `in`; 0 until its head is complete */
    char *out;            /* what the socket has not taken yet */
    size_t out_used, out_sent;
    int blocked;   /* the socket is full: EPOLLOUT goes on */
    int streaming; /* an answer is being streamed */
    int events_left, event_number, wants_usage;
    long pace_ns, due_ns; /* when the next event is to be made */
    char mark[32];        /* stands before each token */
    int heap_at;          /* where it stands in the heap; -1: nowhere */
};

static int epoll_fd;

/* ---- The streams that wait for their next event: a binary heap, the earliest first. ---- */

static struct connection **heap;
static int heap_used, heap_capacity;

static void heap_put(int at, struct connection *one) {
    heap[at] = one;
    one->heap_at = at;
}

static void heap_rise(int at) {
    struct connection *one = heap[at];
    for (; at > 0 && heap[(at - 1) / 2]->due_ns > one->due_ns; at = (at - 1) / 2)
        heap_put(at, heap[(at - 1) / 2]);
    heap_put(at, one);
}

static void heap_sink(int at) {
    struct connection *one = heap[at];
    for (int child; (child = 2 * at + 1) < heap_used; at = child) {
        if (child + 1 < heap_used && heap[child + 1]->due_ns < heap[child]->due_ns) child++;
        if (heap[child]->due_ns >= one->due_ns) break;
        heap_put(at, heap[child]);
    }
    heap_put(at, one);
}

static void wait_until_due(struct connection *one) {
    if (one->heap_at >= 0) return;
    if (heap_used == heap_capacity) {
        heap_capacity = heap_capacity ? heap_capacity * 2 : 1024;
        heap = allocate(heap, (size_t)heap_capacity * sizeof *heap);
    }
    heap_put(heap_used++, one);
    heap_rise(one->heap_at);
}

static void no_longer_wait(struct connection *one) {
    int at = one->heap_at;
    if (at < 0) return;
    one->heap_at = -1;
    struct connection *last = heap[--heap_used];
    if (last == one) return;
    heap_put(at, last);
    heap_rise(at);
    heap_sink(last->heap_at);
}

/* ---- Sending ---- */

static void drop(struct connection *one) {
    no_longer_wait(one);
    close(one->fd);
    free(one->in);
    free(one->out);
    free(one);
}

static void watch(struct connection *one, int blocked) {
    if (one->blocked == blocked) return;
    one->blocked = blocked;
    struct epoll_event wanted = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0),
                                 .data = {.ptr = one}};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, one->fd, &wanted);
}

/* Give the socket what it takes. Returns -1 when the peer is gone. */
static int flush(struct connection *one) {
    while (one->out_sent < one->out_used) {
        ssize_t taken = send(one->fd, one->out + one->out_sent, one->out_used - one->out_sent,
                             MSG_NOSIGNAL);
        if (taken < 0) {
            if (errno != EAGAIN) return -1;
            watch(one, 1);
            return 0;
        }
        one->out_sent += (size_t)taken;
    }
    one->out_sent = one->out_used = 0;
    watch(one, 0);
    return 0;
}

static void put(struct connection *one, const char *bytes, size_t size) {
    if (one->out_used + size > OUT_BYTES) {
        fprintf(stderr, "model: an answer outgrew its buffer\n");
        exit(2);
    }
    memcpy(one->out + one->out_used, bytes, size);
    one->out_used += size;
}

static void put_chunk(struct connection *one, const char *bytes, int size) {
    char head[16];
    put(one, head, (size_t)sprintf(head, "%x\r\n", size));
    put(one, bytes, (size_t)size);
    put(one, "\r\n", 2);
}

/* ---- The answers ---- */

#define CHUNK_OBJECT \
    "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1706745600," \
    "\"model\":\"bench-model\","

static void make_event(struct connection *one) {
    char text[512];
    put_chunk(one, text,
              sprintf(text,
                      CHUNK_OBJECT "\"t\":%ld,\"choices\":[{\"index\":0,\"delta\":{\"content\":"
                                   "\" %stoken-%06d\"},\"finish_reason\":null}]}\n\n",
                      now_ns(), one->mark, one->event_number));
    one->event_number++;
    one->events_left--;
}

static void end_stream(struct connection *one) {
    char text[512];
    put_chunk(one, text,
              sprintf(text, CHUNK_OBJECT "\"choices\":[{\"index\":0,\"delta\":{},"
                                         "\"finish_reason\":\"stop\"}]}\n\n"));
    if (one->wants_usage)
        put_chunk(one, text,
                  sprintf(text,
                          CHUNK_OBJECT "\"choices\":[],\"usage\":{\"prompt_tokens\":10,"
                                       "\"completion_tokens\":%d,\"total_tokens\":%d}}\n\n",
                          one->event_number, one->event_number + 10));
    put_chunk(one, "data: [DONE]\n\n", 14);
    put(one, "0\r\n\r\n", 5);
    one->streaming = 0;
}

static void answer_whole(struct connection *one, const char *status, const char *body) {
    char head[256];
    put(one, head,
        (size_t)sprintf(head,
                        "HTTP/1.1 %s\r\nContent-Type: application/json\r\n"
                        "Content-Length: %zu\r\n\r\n",
                        status, strlen(body)));
    put(one, body, strlen(body));
}

/* The number or word after a JSON key or other mark, found without parsing: it is nowhere else. */
static const char *value_of(const char *body, size_t size, const char *key) {
    const char *at = memmem(body, size, key, strlen(key));
    if (at == NULL) return "";
    for (at += strlen(key); *at == ' ' || *at == ':';) at++;
    return at;
}

static void answer(struct connection *one, const char *body, size_t size) {
    if (strncmp(one->in, "GET ", 4) == 0) {
        answer_whole(one, "200 OK",
                     "{\"object\":\"list\",\"data\":[{\"id\":\"bench-model\",\"object\":\"model\","
                     "\"created\":1706745600,\"owned_by\":\"benchmarks\"}]}");
        return;
    }
    if (strncmp(value_of(body, size, "\"stream\""), "true", 4) != 0) {
        answer_whole(one, "200 OK",
                     "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1706745600,"
                     "\"model\":\"bench-model\",\"choices\":[{\"index\":0,\"message\":{"
                     "\"role\":\"assistant\",\"content\":\"A short answer, given at once.\"},"
                     "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":10,"
                     "\"completion_tokens\":20,\"total_tokens\":30}}");
        return;
    }
    const char *head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                       "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
    put(one, head, strlen(head));
    const char *count = value_of(body, size, "events=");
    one->events_left = isdigit((unsigned char)*count) ? atoi(count) : 20;
    one->event_number = 0;
    one->wants_usage = strncmp(value_of(body, size, "\"include_usage\""), "true", 4) == 0;
    one->pace_ns = atol(value_of(body, size, "pace_us=")) * 1000;
    const char *mark = value_of(body, size, "mark=");
    size_t mark_bytes = 0;
    while (mark_bytes + 1 < sizeof one->mark && isalnum((unsigned char)mark[mark_bytes]))
        mark_bytes++;
    memcpy(one->mark, mark, mark_bytes);
    one->mark[mark_bytes] = '\0';
    one->due_ns = now_ns();
    one->streaming = 1;
    wait_until_due(one);
}

/* Make what is due of a stream. Returns -1 when the peer is gone. */
static int go_on(struct connection *one, long now) {
    int made = 0;
    while (one->due_ns <= now && made++ < BATCH) {
        if (one->events_left == 0) {
            end_stream(one);
            break;
        }
        make_event(one);
        one->due_ns += one->pace_ns;
    }
    if (flush(one) < 0) return -1;
    if (one->streaming && !one->blocked) {
        if (one->pace_ns == 0) one->due_ns = now + 1; /* after all others of this turn */
        wait_until_due(one);
    }
    return 0;
}

/* ---- Receiving ---- */

/* Learn the length of the request that begins in `in`. Returns -1 when it is none that we take. */
static int read_head(struct connection *one) {
    char *end = memmem(one->in, one->in_used, "\r\n\r\n", 4);
    if (end == NULL) return 0;
    size_t head_bytes = (size_t)(end + 4 - one->in), body_bytes = 0;
    for (char *line = one->in; line < end; line = strstr(line, "\r\n") + 2) {
        if (strncasecmp(line, "content-length:", 15) == 0) body_bytes = (size_t)atol(line + 15);
        if (strncasecmp(line, "transfer-encoding:", 18) == 0) return -1;
    }
    one->request_bytes = head_bytes + body_bytes;
    return 0;
}

/* Answer every request that has come whole. Returns -1 when the connection is of no more use. */
static int take_requests(struct connection *one) {
    while (!one->streaming && one->in_used > 0) {
        if (one->request_bytes == 0 && read_head(one) < 0) return -1;
        if (one->request_bytes == 0 || one->in_used < one->request_bytes) return 0;
        char *body = (char *)memmem(one->in, one->in_used, "\r\n\r\n", 4) + 4;
        char after = one->in[one->request_bytes];
        one->in[one->request_bytes] = '\0';
        answer(one, body, (size_t)(one->in + one->request_bytes - body));
        one->in[one->request_bytes] = after;
        one->in_used -= one->request_bytes;
        memmove(one->in, one->in + one->request_bytes, one->in_used);
        one->request_bytes = 0;
        if (flush(one) < 0) return -1;
    }
    return 0;
}

/* Read what has come. Returns -1 when the peer is gone. */
static int receive(struct connection *one) {
    size_t wanted = one->request_bytes > one->in_used ? one->request_bytes : one->in_used + 4096;
    if (wanted + 1 > one->in_capacity) {
        one->in_capacity = wanted + 8192;
        one->in = allocate(one->in, one->in_capacity);
    }
    ssize_t got = recv(one->fd, one->in + one->in_used, one->in_capacity - one->in_used - 1, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN)) return -1;
    if (got < 0) return 0;
    one->in_used += (size_t)got;
    one->in[one->in_used] = '\0';
    return take_requests(one);
}

static void accept_all(int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        no_delay(fd);
        struct connection *one = allocate(NULL, sizeof *one);
        *one = (struct connection){.fd = fd, .heap_at = -1, .out = allocate(NULL, OUT_BYTES)};
        struct epoll_event wanted = {.events = EPOLLIN, .data = {.ptr = one}};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &wanted);
    }
}

int main(int count, char **words) {
    raise_open_files();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1; /* a model that is started anew takes its port again */
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = loopback(count > 1 ? atoi(words[1]) : 0);
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 4096) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) < 0)
        die("listen");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[512];
    struct epoll_event wanted = {.events = EPOLLIN, .data = {.ptr = &listener}};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &wanted);
    int timer = make_timer(epoll_fd);
    for (;;) {
        set_timer(timer, heap_used ? heap[0]->due_ns : 0);
        int ready = epoll_wait(epoll_fd, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr == NULL) continue; /* the timer: what is due is made below */
            if (events[i].data.ptr == &listener) {
                accept_all(listener);
                continue;
            }
            struct connection *one = events[i].data.ptr;
            int gone = 0;
            if (events[i].events & EPOLLOUT) {
                gone = flush(one) < 0;
                if (!gone && !one->blocked) {
                    if (one->streaming) wait_until_due(one);
                    else gone = take_requests(one) < 0;
                }
            }
            if (!gone && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                gone = receive(one) < 0;
            if (gone) drop(one);
        }
        long now = now_ns();
        while (heap_used && heap[0]->due_ns <= now) {
            struct connection *one = heap[0];
            no_longer_wait(one);
            if (go_on(one, now) < 0 || (!one->streaming && take_requests(one) < 0)) drop(one);
        }
    }
}
