/* The kernel's limit: what a resolver would cost if deciding, caching and writing answers cost nothing.
 *
 *   limit answer PORT             sends every query back as NXDOMAIN
 *   limit forward PORT UPSTREAM   sends every query to UPSTREAM and every reply back to whoever asked
 *
 * One thread, one socket each way, recvmmsg and sendmmsg in batches, loopback only. Nothing is parsed: answering sets
 * four bits, forwarding exchanges the message ID, by which the reply finds its way back. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 64, LONGEST = 1500, SHORTEST = 12, SOCKET_BUFFER = 4 << 20 };

struct batch {
    struct mmsghdr head[BATCH];
    struct iovec part[BATCH];
    struct sockaddr_in peer[BATCH];
    uint8_t bytes[BATCH][LONGEST];
};

/* Whoever waits for the reply with this ID; 65,536 wait at most, then the oldest is forgotten. */
struct asker {
    struct sockaddr_in from;
    uint16_t id;
};

static struct batch queries, replies;
static struct asker askers[1 << 16];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static struct sockaddr_in loopback(const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static int open_socket(void) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0), size = SOCKET_BUFFER;
    if (fd < 0) fail("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    return fd;
}

/* Receives what is there; `with_peer` also takes the senders' addresses. */
static int receive(int fd, struct batch *b, int with_peer, int flags) {
    for (int i = 0; i < BATCH; i++) {
        b->part[i] = (struct iovec){.iov_base = b->bytes[i], .iov_len = LONGEST};
        memset(&b->head[i].msg_hdr, 0, sizeof b->head[i].msg_hdr);
        b->head[i].msg_hdr.msg_iov = &b->part[i];
        b->head[i].msg_hdr.msg_iovlen = 1;
        if (with_peer) {
            b->head[i].msg_hdr.msg_name = &b->peer[i];
            b->head[i].msg_hdr.msg_namelen = sizeof b->peer[i];
        }
    }
    return recvmmsg(fd, b->head, BATCH, flags, NULL);
}

/* Sends the first `count` of a batch; what the kernel does not take is lost, as with any datagram. */
static void send_all(int fd, struct batch *b, int count) {
    for (int done = 0; done < count;) {
        int sent = sendmmsg(fd, b->head + done, (unsigned)(count - done), 0);
        done += sent > 0 ? sent : 1;
    }
}

static void answer(int fd) {
    for (;;) {
        int count = receive(fd, &queries, 1, MSG_WAITFORONE);
        for (int i = 0; i < count; i++) {
            uint8_t *message = queries.bytes[i];
            queries.part[i].iov_len = queries.head[i].msg_len;
            message[2] |= 0x80;                      /* QR */
            message[3] = (message[3] & 0x70) | 0x83; /* RA, NXDOMAIN */
        }
        send_all(fd, &queries, count);
    }
}

static void forward(int fd, int upstream) {
    struct pollfd ready[] = {{.fd = fd, .events = POLLIN}, {.fd = upstream, .events = POLLIN}};
    uint16_t next = 0;
    for (;;) {
        if (poll(ready, 2, -1) < 0) continue;
        if (ready[0].revents) {
            int count = receive(fd, &queries, 1, MSG_DONTWAIT);
            for (int i = 0; i < count; i++) {
                uint16_t id = next++;
                askers[id].from = queries.peer[i];
                memcpy(&askers[id].id, queries.bytes[i], sizeof id);
                memcpy(queries.bytes[i], &id, sizeof id);
                queries.part[i].iov_len = queries.head[i].msg_len;
                queries.head[i].msg_hdr.msg_name = NULL;
                queries.head[i].msg_hdr.msg_namelen = 0;
            }
            send_all(upstream, &queries, count);
        }
        if (ready[1].revents) {
            int count = receive(upstream, &replies, 0, MSG_DONTWAIT);
            for (int i = 0; i < count; i++) {
                uint16_t id;
                memcpy(&id, replies.bytes[i], sizeof id);
                memcpy(replies.bytes[i], &askers[id].id, sizeof id);
                replies.part[i].iov_len = replies.head[i].msg_len;
                replies.head[i].msg_hdr.msg_name = &askers[id].from;
                replies.head[i].msg_hdr.msg_namelen = sizeof askers[id].from;
            }
            send_all(fd, &replies, count);
        }
    }
}

int main(int count, char **words) {
    int forwards = count == 4 && !strcmp(words[1], "forward");
    if (!forwards && (count != 3 || strcmp(words[1], "answer"))) {
        fprintf(stderr, "usage: limit answer PORT | limit forward PORT UPSTREAM\n");
        return 64;
    }
    int fd = open_socket();
    struct sockaddr_in here = loopback(words[2]);
    if (bind(fd, (struct sockaddr *)&here, sizeof here)) fail("bind");
    if (!forwards) answer(fd);
    int upstream = open_socket();
    struct sockaddr_in there = loopback(words[3]);
    if (connect(upstream, (struct sockaddr *)&there, sizeof there)) fail("connect");
    forward(fd, upstream);
}
