/* A Modbus TCP server by libmodbus, written apart from the client under test: coils on 127.0.0.1, one connection at a time.
 * Prints its port on the first line; each write of a coil on a line of its own ("5 <address> <0|1>"). */
#include <errno.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int coils = argc > 1 ? atoi(argv[1]) : 8;
    modbus_t *ctx = modbus_new_tcp("127.0.0.1", 0);
    modbus_mapping_t *map = modbus_mapping_new(coils, 0, 0, 0);
    int listener = ctx && map ? modbus_tcp_listen(ctx, 1) : -1;
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    if (listener < 0 || getsockname(listener, (struct sockaddr *)&address, &length) < 0)
        return 1;
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        unsigned char query[MODBUS_TCP_MAX_ADU_LENGTH];
        if (modbus_tcp_accept(ctx, &listener) < 0)
            return 1;
        for (;;) {
            int size = modbus_receive(ctx, query);
            if (size < 0)
                break;
            if (size > 0 && query[7] == 5) {
                printf("5 %d %d\n", query[8] << 8 | query[9], query[10] == 0xff);
                fflush(stdout);
            }
            if (size > 0 && modbus_reply(ctx, query, size, map) < 0)
                break;
        }
        modbus_close(ctx);
    }
}
