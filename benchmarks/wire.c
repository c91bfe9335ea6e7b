/* The client's side of the wire benchmarks. It polls, so that what is measured is the code and not the wake-ups; where
 * these are asked for, it sleeps.
 *
 *   wire echo                          a bare echo: a child answers every 32-byte request with a 36-byte reply
 *   wire sleeping-echo                 the same, both sleeping
 *   wire session SOCKET < script       one session with a vfio-user server; each line of the script is one measurement:
 *     polled REGION OFFSET COUNT       COUNT reads of 4 bytes, one at a time
 *     slept REGION OFFSET COUNT        likewise, the client sleeping until it has its reply
 *     post REGION OFFSET BATCH COUNT   COUNT batches of BATCH posted 4-byte writes, each ended by one read of the place
 *     write REGION OFFSET VALUE        one 4-byte write, not measured
 *
 *   wire many SECONDS SOCKET...        a polling client of so many servers, with one read of BAR0 in flight to each; prints
 *                                      nanoseconds per round trip of all together, and the slowest one's share of the mean
 *
 * Each measurement prints one line: the median nanoseconds of a round trip, or for each write of a batch. Speaks from the
 * vfio-user specification alone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { READ = 9, WRITE = 10, NO_REPLY = 1 << 4, REQUEST = 32, REPLY = 36, ECHOES = 2000 };

static void die(const char *what)
{
    fprintf(stderr, "wire: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int receive_flags = MSG_DONTWAIT;

/* Two sides that poll need a processor each: the scheduler may well put them on one, since each wakes the other. Two that
 * sleep share one: so does the scheduler mostly, and what they cost depends on it. */
static void use_processor(int number)
{
    cpu_set_t all, one;

    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof(all), &all) < 0 || CPU_COUNT(&all) < 2)
        return;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all) && number-- == 0)
            CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof(one), &one);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void send_all(int fd, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = send(fd, (const char *)data + done, size - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0)
            done += (size_t)n;
        else if (errno != EAGAIN)
            die("send");
    }
}

/* Polls, and never sleeps, unless that was asked for. False at the end of the stream. */
static int receive_all(int fd, void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = recv(fd, (char *)data + done, size - done, receive_flags);
        if (n == 0)
            return 0;
        if (n > 0)
            done += (size_t)n;
        else if (errno != EAGAIN)
            die("recv");
    }
    return 1;
}

static void echo_server(int fd)
{
    char request[REQUEST], reply[REPLY] = {0};

    while (receive_all(fd, request, sizeof(request))) {
        memcpy(reply, request, sizeof(request));
        send_all(fd, reply, sizeof(reply));
    }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void print_median(double *each, int count)
{
    qsort(each, (size_t)count, sizeof(*each), ascending);
    printf("%.1f\n", each[count / 2]);
}

static void echo(void)
{
    static double each[ECHOES];
    char request[REQUEST] = {0}, reply[REPLY];
    int pair[2];
    pid_t child;
    double one;

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0 || (child = fork()) < 0)
        die("socketpair, fork");
    if (child == 0) {
        close(pair[0]);
        use_processor(receive_flags ? 1 : 0);
        echo_server(pair[1]);
        exit(0);
    }
    close(pair[1]);
    use_processor(0);
    for (int i = -ECHOES / 10; i < ECHOES; i++) {
        one = now();
        send_all(pair[0], request, sizeof(request));
        if (!receive_all(pair[0], reply, sizeof(reply)))
            die("the echo ended");
        if (i >= 0)
            each[i] = now() - one;
    }
    print_median(each, ECHOES);
    close(pair[0]);
    waitpid(child, NULL, 0);
}

/* -- a session ---------------------------------------------------------------------------------------------------- */

typedef struct {
    uint16_t id, command;
    uint32_t size, flags, error;
    uint64_t offset;
    uint32_t region, count;
    uint32_t data;
} __attribute__((packed)) message;

static message region_message(uint16_t command, uint32_t flags, uint32_t region, uint64_t offset, uint32_t value)
{
    return (message){.command = command, .size = command == READ ? REQUEST : REPLY, .flags = flags, .region = region,
                     .offset = offset, .count = 4, .data = value};
}

static void expect(int fd, size_t size)
{
    message reply;

    if (!receive_all(fd, &reply, size) || (reply.flags & 0x3f) != 1 || reply.size != size)
        die("an unexpected reply");
}

static void read_once(int fd, uint32_t region, uint64_t offset)
{
    message m = region_message(READ, 0, region, offset, 0);

    send_all(fd, &m, m.size);
    expect(fd, REPLY);
}

static void write_once(int fd, uint32_t region, uint64_t offset, uint32_t value)
{
    message m = region_message(WRITE, 0, region, offset, value);

    send_all(fd, &m, m.size);
    expect(fd, 32);
}

static int open_session(const char *path)
{
    static const char json[] = "{\"capabilities\":{\"max_data_xfer_size\":1048576}}";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct { uint16_t id, command; uint32_t size, flags, error; uint16_t major, minor; } version = {
        .command = 1, .size = sizeof(version) + sizeof(json)};
    char reply[4096];
    uint32_t size;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        die(path);
    send_all(fd, &version, sizeof(version));
    send_all(fd, json, sizeof(json));
    if (!receive_all(fd, reply, 16))
        die("no reply to VERSION");
    memcpy(&size, reply + 4, sizeof(size));
    if (size > sizeof(reply) || !receive_all(fd, reply + 16, size - 16))
        die("VERSION's reply");
    return fd;
}

static void measure_each(int fd, uint32_t region, uint64_t offset, int count, int flags)
{
    double *each = calloc((size_t)count, sizeof(*each)), start;

    if (!each)
        die("calloc");
    use_processor(0);
    receive_flags = flags;
    for (int i = -count / 10; i < count; i++) {
        start = now();
        read_once(fd, region, offset);
        if (i >= 0)
            each[i] = now() - start;
    }
    receive_flags = MSG_DONTWAIT;
    print_median(each, count);
    free(each);
}

static void measure_posts(int fd, uint32_t region, uint64_t offset, int batch, int count)
{
    message *all = calloc((size_t)batch, sizeof(*all));
    double *each = calloc((size_t)count, sizeof(*each)), start;

    if (!all || !each)
        die("calloc");
    use_processor(0);
    for (int i = 0; i < batch; i++)
        all[i] = region_message(WRITE, NO_REPLY, region, offset, (uint32_t)i);
    for (int i = -count / 10; i < count; i++) {
        start = now();
        send_all(fd, all, (size_t)batch * sizeof(*all));
        read_once(fd, region, offset);
        if (i >= 0)
            each[i] = (now() - start) / batch;
    }
    print_median(each, count);
    free(each);
    free(all);
}

static void session(const char *path)
{
    unsigned region, offset, first, second;
    int fd = open_session(path);
    char line[128];

    while (fgets(line, sizeof(line), stdin)) {
        if (sscanf(line, "polled %u %x %u", &region, &offset, &first) == 3)
            measure_each(fd, region, offset, (int)first, MSG_DONTWAIT);
        else if (sscanf(line, "slept %u %x %u", &region, &offset, &first) == 3)
            measure_each(fd, region, offset, (int)first, 0);
        else if (sscanf(line, "post %u %x %u %u", &region, &offset, &first, &second) == 4)
            measure_posts(fd, region, offset, (int)first, (int)second);
        else if (sscanf(line, "write %u %x %x", &region, &offset, &first) == 3)
            write_once(fd, region, offset, first);
        else
            fprintf(stderr, "wire: what is this: %s", line);
        fflush(stdout);
    }
    close(fd);
}

/* -- many sessions ------------------------------------------------------------------------------------------------- */

/* Takes in every reply that is there, and answers it with the next request if `on`. */
static void look_at_all(const int *fd, uint64_t *trips, int count, int on)
{
    message reply, m = region_message(READ, 0, 0, 4, 0);

    for (int i = 0; i < count; i++)
        if (recv(fd[i], &reply, REPLY, MSG_DONTWAIT) == REPLY) {
            trips[i]++;
            if (on)
                send_all(fd[i], &m, m.size);
        }
}

static void many(double seconds, char **paths, int count)
{
    int *fd = calloc((size_t)count, sizeof(*fd));
    uint64_t *trips = calloc((size_t)count, sizeof(*trips)), all = 0, least = UINT64_MAX;
    message m = region_message(READ, 0, 0, 4, 0);
    double start;

    if (!fd || !trips)
        die("calloc");
    use_processor(0);
    for (int i = 0; i < count; i++) {
        fd[i] = open_session(paths[i]);
        write_once(fd[i], 7, 4, 7);
    }
    for (int i = 0; i < count; i++)
        send_all(fd[i], &m, m.size);
    for (start = now(); now() - start < seconds * 1e8;)
        look_at_all(fd, trips, count, 1);
    memset(trips, 0, (size_t)count * sizeof(*trips));
    for (start = now(); now() - start < seconds * 1e9;)
        look_at_all(fd, trips, count, 1);
    double took = now() - start;
    for (int i = 0; i < count; i++) {
        all += trips[i];
        least = trips[i] < least ? trips[i] : least;
    }
    printf("%.1f\n%.3f\n", took / (double)all, (double)least * count / (double)all);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc == 2 && !strcmp(argv[1], "echo"))
        echo();
    else if (argc == 2 && !strcmp(argv[1], "sleeping-echo")) {
        receive_flags = 0;
        echo();
    } else if (argc > 3 && !strcmp(argv[1], "many"))
        many(atof(argv[2]), argv + 3, argc - 3);
    else if (argc == 3 && !strcmp(argv[1], "session"))
        session(argv[2]);
    else {
        fprintf(stderr, "usage: wire echo | sleeping-echo | session SOCKET < script | many SECONDS SOCKET...\n");
        return 2;
    }
    return 0;
}
