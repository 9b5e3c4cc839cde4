/* The floor of polling: one epoll loop that asks every device in turn and throws the answers away.

   poll_floor AT_ONCE LOOKS < addresses     one "HOST PORT" a line
   Two questions a look, each on a connection of its own, read to the end. Prints the CPU in µs a look and the bytes a look. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *QUESTIONS[] = {"{\"command\":\"stats\",\"new_api\":true}", "{\"command\":\"pools\"}"};

struct look {
    struct sockaddr_in to;
    int question, sent, fd;
};

static void begin(int epoll, struct look *look) {
    look->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    look->sent = 0;
    if (look->fd < 0 || (connect(look->fd, (struct sockaddr *)&look->to, sizeof look->to) && errno != EINPROGRESS)) {
        perror("connect");
        exit(1);
    }
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = look};
    epoll_ctl(epoll, EPOLL_CTL_ADD, look->fd, &event);
}

int main(int argc, char **argv) {
    static struct sockaddr_in devices[20000];
    static struct epoll_event events[256];
    static char got[65536];
    char host[64];
    int port, count = 0, at_once = argc > 2 ? atoi(argv[1]) : 1;
    long wanted = argc > 2 ? atol(argv[2]) : 1, begun = 0, done = 0, bytes = 0;
    while (count < 20000 && scanf("%63s %d", host, &port) == 2) {
        devices[count].sin_family = AF_INET;
        devices[count].sin_port = htons(port);
        inet_pton(AF_INET, host, &devices[count++].sin_addr);
    }
    struct look *looks = calloc(at_once, sizeof *looks);
    int epoll = epoll_create1(0);
    for (; begun < at_once && begun < wanted; begun++) {
        looks[begun].to = devices[begun % count];
        begin(epoll, &looks[begun]);
    }
    while (done < wanted) {
        int ready = epoll_wait(epoll, events, 256, 10000);
        if (ready <= 0) {
            fprintf(stderr, "the devices are silent\n");
            return 1;
        }
        for (int i = 0; i < ready; i++) {
            struct look *look = events[i].data.ptr;
            if (!look->sent) {
                const char *question = QUESTIONS[look->question];
                if (send(look->fd, question, strlen(question), MSG_NOSIGNAL) < 0) return perror("send"), 1;
                look->sent = 1;
                struct epoll_event event = {.events = EPOLLIN, .data.ptr = look};
                epoll_ctl(epoll, EPOLL_CTL_MOD, look->fd, &event);
                continue;
            }
            ssize_t size = recv(look->fd, got, sizeof got, 0);
            if (size > 0) {
                bytes += size;
                continue;
            }
            if (size < 0) return perror("recv"), 1;
            close(look->fd);
            if (look->question == 0) {
                look->question = 1;
                begin(epoll, look);
                continue;
            }
            done++;
            look->question = 0;
            if (begun < wanted) {
                look->to = devices[begun++ % count];
                begin(epoll, look);
            }
        }
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu_us = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 + used.ru_utime.tv_usec + used.ru_stime.tv_usec;
    printf("%.2f %.0f\n", cpu_us / wanted, (double)bytes / wanted);
    return 0;
}
