/* An upstream with faults: passes queries on to a real one, late, with losses, or not at all.
 *
 *   relay PORT UPSTREAM DELAY_MS LOSS_PERCENT
 *
 * Every query waits DELAY_MS before it is passed on; LOSS_PERCENT of them (by a fixed sequence, so that every resolver
 * meets the same) are forgotten, 100 being an upstream that is reachable and silent. One thread, loopback only. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

enum { LONGEST = 1500, SLOTS = 1 << 16, TURN = 64 };

/* A query on its way; its slot's number is its message ID upstream. */
struct query {
    struct sockaddr_in from;
    uint64_t due;
    uint16_t id, length;
    uint8_t bytes[512];
};

static struct query queries[SLOTS];

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int open_socket(void) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), size = 4 << 20;
    if (fd < 0) {
        perror("socket");
        exit(1);
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    return fd;
}

static int is_lost(unsigned percent) {
    static uint32_t state = 7;
    state = state * 1664525u + 1013904223u;
    return (state >> 16) % 100 < percent;
}

int main(int count, char **words) {
    if (count != 5) {
        fprintf(stderr, "usage: relay PORT UPSTREAM DELAY_MS LOSS_PERCENT\n");
        return 64;
    }
    uint64_t delay = (uint64_t)atoi(words[3]) * 1000000u;
    unsigned loss = (unsigned)atoi(words[4]);
    prctl(PR_SET_TIMERSLACK, 1UL);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = open_socket(), upstream = open_socket();
    if (bind(fd, (struct sockaddr *)&address, sizeof address)) {
        perror("bind");
        return 1;
    }
    address.sin_port = htons((uint16_t)atoi(words[2]));
    if (connect(upstream, (struct sockaddr *)&address, sizeof address)) {
        perror("connect");
        return 1;
    }
    /* Slots from `first` up to `next` wait for their time; the delay is the same for all, so they stand in order. */
    uint16_t first = 0, next = 0;
    for (;;) {
        struct timespec wait = {0, 0}, *limit = NULL;
        if (first != next) {
            uint64_t time = now(), due = queries[first].due;
            uint64_t left = due > time ? due - time : 0;
            wait = (struct timespec){(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
            limit = &wait;
        }
        struct pollfd ready[] = {{.fd = fd, .events = POLLIN}, {.fd = upstream, .events = POLLIN}};
        if (ppoll(ready, 2, limit, NULL) < 0) continue;
        for (int i = 0; i < TURN && ready[0].revents && (uint16_t)(next + 1) != first; i++) {
            struct query *q = &queries[next];
            socklen_t size = sizeof q->from;
            ssize_t length = recvfrom(fd, q->bytes, sizeof q->bytes, 0, (struct sockaddr *)&q->from, &size);
            if (length < 0) break;
            if (length < 12 || is_lost(loss)) continue;
            memcpy(&q->id, q->bytes, 2);
            q->length = (uint16_t)length;
            q->due = now() + delay;
            memcpy(q->bytes, &next, 2);
            next++;
        }
        uint64_t time = first == next ? 0 : now();
        while (first != next && queries[first].due <= time) {
            struct query *q = &queries[first++];
            if (send(upstream, q->bytes, q->length, 0) < 0) continue; /* lost, as datagrams are */
        }
        for (int i = 0; i < TURN && ready[1].revents; i++) {
            uint8_t reply[LONGEST];
            uint16_t slot;
            ssize_t length = recv(upstream, reply, sizeof reply, 0);
            if (length < 12) break;
            memcpy(&slot, reply, 2);
            memcpy(reply, &queries[slot].id, 2);
            sendto(fd, reply, (size_t)length, 0, (struct sockaddr *)&queries[slot].from, sizeof queries[slot].from);
        }
    }
}
