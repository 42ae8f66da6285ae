/* What readings of the kernel cost without a program around them: the same filter, the same files, and nothing made of
 * them but a count.
 *
 *   reading REPEAT dump STATES        TCPDIAG_GETSOCK: both families in one walk of the table
 *   reading REPEAT families STATES    SOCK_DIAG_BY_FAMILY, IPv4 then IPv6: two walks, as ss does
 *   reading REPEAT each STATES PID... the first of them in the network namespace of each of these processes
 *   reading REPEAT files PATH...      each file opened, read to its end and closed
 *
 * Prints nanoseconds of CPU time and of wall time for one reading, a mean, and how many sockets or lines there were.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* The kernel fills at most 32 KiB of a dump at a time; of a file under /proc/net, a page. */
static char buffer[32 * 1024];
static long rows;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static long long nanoseconds(clockid_t clock)
{
	struct timespec time;
	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Counts the answers to a request that was sent. */
static void receive(int diag)
{
	for (;;) {
		ssize_t got = recv(diag, buffer, sizeof buffer, 0);
		if (got <= 0)
			fail("recv");
		int length = got;
		for (struct nlmsghdr *h = (void *)buffer; NLMSG_OK(h, length); h = NLMSG_NEXT(h, length)) {
			if (h->nlmsg_type == NLMSG_DONE)
				return;
			if (h->nlmsg_type == NLMSG_ERROR) {
				fputs("the kernel gives no dump of TCP sockets\n", stderr);
				exit(1);
			}
			rows++;
		}
	}
}

static int open_diag(void)
{
	int diag = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	if (diag < 0)
		fail("socket");
	return diag;
}

static void dump(unsigned states)
{
	struct {
		struct nlmsghdr header;
		struct inet_diag_req request;
	} message = {
		.header = { sizeof message, TCPDIAG_GETSOCK, NLM_F_REQUEST | NLM_F_DUMP, 0, 0 },
		.request = { .idiag_states = states },
	};
	int diag = open_diag();
	if (send(diag, &message, sizeof message, 0) < 0)
		fail("send");
	receive(diag);
	close(diag);
}

static void dump_family(int family, unsigned states)
{
	struct {
		struct nlmsghdr header;
		struct inet_diag_req_v2 request;
	} message = {
		.header = { sizeof message, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 0, 0 },
		.request = { .sdiag_family = family, .sdiag_protocol = IPPROTO_TCP, .idiag_states = states },
	};
	int diag = open_diag();
	if (send(diag, &message, sizeof message, 0) < 0)
		fail("send");
	receive(diag);
	close(diag);
}

static void dump_in(const char *pid, unsigned states)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%s/ns/net", pid);
	int net = open(path, O_RDONLY | O_CLOEXEC);
	if (net < 0 || setns(net, CLONE_NEWNET) < 0)
		fail(path);
	dump(states);
	close(net);
}

static void read_file(const char *path)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		fail(path);
	ssize_t got;
	while ((got = read(file, buffer, sizeof buffer)) > 0)
		for (char *at = buffer; (at = memchr(at, '\n', buffer + got - at)); at++)
			rows++;
	if (got < 0)
		fail(path);
	close(file);
}

static void take(const char *what, char **arguments)
{
	rows = 0;
	unsigned states = strtoul(*arguments, NULL, 0);
	if (!strcmp(what, "dump")) {
		dump(states);
	} else if (!strcmp(what, "families")) {
		dump_family(AF_INET, states);
		dump_family(AF_INET6, states);
	} else if (!strcmp(what, "each")) {
		while (*++arguments)
			dump_in(*arguments, states);
	} else if (!strcmp(what, "files")) {
		for (; *arguments; arguments++)
			read_file(*arguments);
	} else {
		fprintf(stderr, "no reading is called %s\n", what);
		exit(1);
	}
}

int main(int count, char **arguments)
{
	if (count < 4) {
		fputs("usage: reading REPEAT dump|families|each|files ...\n", stderr);
		return 1;
	}
	int repeat = atoi(arguments[1]);
	/* The first one pays for what the process touches for the first time. */
	take(arguments[2], arguments + 3);
	long long wall = nanoseconds(CLOCK_MONOTONIC), cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
	for (int i = 0; i < repeat; i++)
		take(arguments[2], arguments + 3);
	cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
	wall = nanoseconds(CLOCK_MONOTONIC) - wall;
	printf("%lld %lld %ld\n", cpu / repeat, wall / repeat, rows);
	return 0;
}
