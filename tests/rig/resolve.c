/* Resolves argv[1] with getaddrinfo and prints the addresses; exits 2 when it does not resolve. For libcs without `getent`. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *at;
    char text[INET6_ADDRSTRLEN];
    if (argc != 2) return 64;
    int error = getaddrinfo(argv[1], NULL, &hints, &found);
    if (error) {
        fprintf(stderr, "%s: %s (%d)\n", argv[1], gai_strerror(error), error);
        return 2;
    }
    for (at = found; at; at = at->ai_next)
        if (!getnameinfo(at->ai_addr, at->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST)) puts(text);
    freeaddrinfo(found);
    return 0;
}
