/* Asks a resolver on loopback and measures how long its answers take.
 *
 *   load PORT FILE SECONDS rate PER_SECOND [SOURCES]     at a fixed rate, whatever comes back (an open loop)
 *   load PORT FILE SECONDS window OUTSTANDING [SOURCES]  always so many unanswered (a closed loop)
 *
 * FILE holds a name a line; type A is asked, with RD, without EDNS, as dnsperf does. A third word (`NAME A 3`) is the
 * RCODE that the answer must have: another one is counted as wrong. SOURCES (default 16) is the number
 * of sockets; more than 16 of them are bound to addresses of their own, from 127.1.0.1 on, so that each is another
 * client. The load stops after SECONDS, and at 5,000,000 queries; answers are waited for WAIT more.
 *
 * A latency runs from just before the send call to the time at which the kernel had the answer (SO_TIMESTAMPNS): how
 * busy this program is does not count. A query that went out over 1 ms after its time is counted as late, so that a
 * load that could not be held is seen. One line of JSON comes out. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

enum { MOST_SOURCES = 10000, MOST_QUERIES = 5000000, BATCH = 32, LONGEST = 1500, FEW = 16, ANY = 255 };
static const uint64_t SECOND = 1000000000u, WAIT = 3000000000u, LATE = 1000000u;

struct question {
    uint16_t length;
    uint8_t rcode; /* that the answer must have; ANY */
    uint8_t bytes[272];
};

/* A socket, with when each of its unanswered queries left, by message ID; 0 is none; and what its answer must have. */
struct source {
    int fd;
    uint16_t next;
    uint64_t *sent;
    uint8_t *rcodes;
};

static struct source sources[MOST_SOURCES];
static struct question *questions;
static size_t question_count;
static uint32_t *latencies; /* nanoseconds / 10 */
static uint64_t asked, answered, late, rcodes[16], unasked, wrong;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t); /* the clock of SO_TIMESTAMPNS */
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* Writes the query for a name in text form; returns 0 when it is none. */
static int write_question(const char *name, struct question *q) {
    static const uint8_t header[12] = {0, 0, 1, 0, 0, 1};
    size_t at = sizeof header;
    memcpy(q->bytes, header, sizeof header);
    while (*name) {
        size_t length = strcspn(name, ".");
        if (length == 0 || length > 63 || at + length > 260) return 0;
        q->bytes[at++] = (uint8_t)length;
        memcpy(q->bytes + at, name, length);
        at += length;
        name += length + (name[length] == '.');
    }
    memcpy(q->bytes + at, "\0\0\1\0\1", 5);
    q->length = (uint16_t)(at + 5);
    return 1;
}

static void read_questions(const char *path) {
    FILE *file = fopen(path, "r");
    char line[300];
    size_t room = 0;
    if (!file) fail(path);
    while (fgets(line, sizeof line, file)) {
        int rcode = ANY;
        sscanf(line, "%*s %*s %d", &rcode);
        line[strcspn(line, " \r\n")] = 0;
        if (question_count == room) {
            room = room ? room * 2 : 1024;
            questions = realloc(questions, room * sizeof *questions);
            if (!questions) fail("realloc");
        }
        questions[question_count].rcode = (uint8_t)rcode;
        question_count += (size_t)write_question(line, &questions[question_count]);
    }
    fclose(file);
    if (!question_count) {
        fprintf(stderr, "%s: no names\n", path);
        exit(1);
    }
}

static void open_sources(int count, uint16_t port, int poll) {
    int on = 1, size = 1 << 20;
    for (int i = 0; i < count; i++) {
        struct source *s = &sources[i];
        struct sockaddr_in address = {.sin_family = AF_INET};
        s->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        s->sent = calloc(1 << 16, sizeof *s->sent);
        s->rcodes = calloc(1 << 16, sizeof *s->rcodes);
        if (s->fd < 0 || !s->sent || !s->rcodes) fail("socket");
        setsockopt(s->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
        setsockopt(s->fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
        address.sin_addr.s_addr = htonl(count > FEW ? 0x7f010001u + (uint32_t)i : INADDR_LOOPBACK);
        if (bind(s->fd, (struct sockaddr *)&address, sizeof address)) fail("bind");
        address.sin_port = htons(port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (connect(s->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, s->fd, &event)) fail("epoll_ctl");
    }
}

/* Sends up to BATCH queries from one socket; returns how many went out. */
static int ask(struct source *s, int count) {
    static struct mmsghdr heads[BATCH];
    static struct iovec parts[BATCH];
    static uint8_t bytes[BATCH][sizeof(((struct question *)0)->bytes)];
    uint64_t time = now();
    if (count > BATCH) count = BATCH;
    for (int i = 0; i < count; i++) {
        const struct question *q = &questions[(asked + (uint64_t)i) % question_count];
        uint16_t id = (uint16_t)(s->next + i);
        memcpy(bytes[i], q->bytes, q->length);
        memcpy(bytes[i], &id, sizeof id);
        parts[i] = (struct iovec){bytes[i], q->length};
        heads[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
        s->sent[id] = time;
        s->rcodes[id] = q->rcode;
    }
    int sent = sendmmsg(s->fd, heads, (unsigned)count, 0);
    if (sent < 0) sent = 0;
    for (int i = sent; i < count; i++) s->sent[(uint16_t)(s->next + i)] = 0;
    s->next = (uint16_t)(s->next + sent);
    asked += (uint64_t)sent;
    return sent;
}

/* Takes what has come on one socket; returns how many answers that were. */
static int take(struct source *s) {
    static struct mmsghdr heads[BATCH];
    static struct iovec parts[BATCH];
    static uint8_t bytes[BATCH][LONGEST];
    static union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(sizeof(struct timespec))];
    } control[BATCH];
    int taken = 0;
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){bytes[i], LONGEST};
        heads[i].msg_hdr = (struct msghdr){
            .msg_iov = &parts[i], .msg_iovlen = 1, .msg_control = &control[i], .msg_controllen = sizeof control[i]};
    }
    int count = recvmmsg(s->fd, heads, BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < count; i++) {
        uint16_t id;
        struct timespec t;
        struct cmsghdr *c = CMSG_FIRSTHDR(&heads[i].msg_hdr);
        memcpy(&id, bytes[i], sizeof id);
        if (heads[i].msg_len < 12 || !s->sent[id] || !c) continue; /* no answer, or the second one */
        memcpy(&t, CMSG_DATA(c), sizeof t);
        uint64_t arrived = (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
        uint64_t spent = arrived > s->sent[id] ? arrived - s->sent[id] : 0;
        s->sent[id] = 0;
        rcodes[bytes[i][3] & 15]++;
        wrong += s->rcodes[id] != ANY && s->rcodes[id] != (bytes[i][3] & 15);
        latencies[answered++] = (uint32_t)(spent / 10);
        taken++;
    }
    return taken;
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Returns a latency in microseconds: the smallest that `share` of the answers did not exceed. */
static double quantile(double share) {
    uint64_t rank = (uint64_t)(share * (double)answered);
    return answered ? latencies[rank < answered ? rank : answered - 1] / 100.0 : 0;
}

int main(int count, char **words) {
    int paced = count >= 6 && !strcmp(words[4], "rate");
    if (count < 6 || (!paced && strcmp(words[4], "window"))) {
        fprintf(stderr, "usage: load PORT FILE SECONDS rate|window NUMBER [SOURCES]\n");
        return 64;
    }
    double seconds = atof(words[3]);
    uint64_t number = strtoull(words[5], NULL, 10);
    int width = count > 6 ? atoi(words[6]) : FEW;
    if (seconds <= 0 || seconds > 600 || !number || width < 1 || width > MOST_SOURCES) return 64;
    prctl(PR_SET_TIMERSLACK, 1UL);
    read_questions(words[2]);
    latencies = malloc(MOST_QUERIES * sizeof *latencies);
    int poll = epoll_create1(0);
    if (!latencies || poll < 0) fail("start");
    open_sources(width, (uint16_t)atoi(words[1]), poll);

    uint64_t start = now(), end = start + (uint64_t)(seconds * (double)SECOND), stop = end, turn = 0;
    for (;;) {
        uint64_t time = now(), due = 0;
        if (time < end && asked < MOST_QUERIES - BATCH) {
            if (paced) {
                uint64_t planned = (uint64_t)((double)(time - start) / (double)SECOND * (double)number) + 1;
                due = planned > asked + unasked ? planned - asked - unasked : 0;
                uint64_t first = start + (uint64_t)((double)(asked + unasked) / (double)number * (double)SECOND);
                if (due && time > first + LATE) late += due;
            } else {
                due = number > asked - answered ? number - (asked - answered) : 0;
            }
            while (due) {
                /* A paced query each from the next socket; in a window, batches. */
                int want = paced ? 1 : (int)(due < BATCH ? due : BATCH);
                int sent = ask(&sources[turn++ % (uint64_t)width], want);
                due -= (uint64_t)want;
                if (sent < want) {
                    unasked += (uint64_t)(want - sent);
                    break;
                }
            }
            stop = now();
        } else if (answered >= asked || time > stop + WAIT) {
            break;
        }
        /* Until the next query is due, or for something to come. */
        uint64_t wait = SECOND / 100;
        if (paced && time < end) {
            uint64_t next = start + (uint64_t)((double)(asked + unasked) / (double)number * (double)SECOND);
            time = now();
            wait = next > time ? next - time : 0;
        }
        struct epoll_event events[BATCH];
        struct timespec limit = {(time_t)(wait / SECOND), (long)(wait % SECOND)};
        int ready = epoll_pwait2(poll, events, BATCH, &limit, NULL);
        for (int i = 0; i < ready; i++) take(&sources[events[i].data.u32]);
    }

    double sum = 0;
    for (uint64_t i = 0; i < answered; i++) sum += latencies[i] / 100.0;
    qsort(latencies, answered, sizeof *latencies, by_size);
    printf("{\"asked\": %lu, \"answered\": %lu, \"late\": %lu, \"unsent\": %lu, \"seconds\": %.6f, \"noerror\": %lu, "
           "\"servfail\": %lu, \"nxdomain\": %lu, \"refused\": %lu, \"wrong\": %lu, \"mean\": %.1f, \"p50\": %.1f, \"p99\": %.1f, "
           "\"p999\": %.1f, \"max\": %.1f}\n",
           asked, answered, late, unasked, (double)(stop - start) / (double)SECOND, rcodes[0], rcodes[2], rcodes[3],
           rcodes[5], wrong, answered ? sum / (double)answered : 0.0, quantile(.5), quantile(.99), quantile(.999),
           quantile(1));
}
