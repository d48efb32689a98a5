/* SPDX-License-Identifier: MIT */
/* Waits until a socket answers in the guest, or nothing answers there any more. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "agent/agent.h"
#include "agent/pathwatch.h"
#include "base/str.h"

/*
 * Nothing tells of a port that begins to listen, so this is the one wait without an event source:
 * it tries to connect every few milliseconds. Inside the guest, that costs a system call or two.
 *
 * TCP: every address is tried by a non-blocking connect; one that is neither taken nor refused (a
 * black hole) is given up and tried anew after ANSWER_MS. The addresses of a name are looked up in
 * a child, which is in the guest's root and may block; a name that has none is looked up again.
 *
 * UDP: a datagram is answered by nobody, so for addresses of the guest itself the table of its
 * sockets is read. At other addresses a port counts as closed when it refuses an empty datagram
 * (ICMP).
 *
 * Unix: the path is watched, and connected to at each change; while a socket is there and
 * refuses (it is bound, and does not listen yet) it is tried every few milliseconds, too.
 */
#define TRY_LOCAL_MS  5
#define TRY_REMOTE_MS 20
#define ANSWER_MS     250
#define RESOLVE_MS    250 /* between look-ups of a name that has no address */
#define ADDRESSES_MAX 8

/* The same numbers as in struct agent_socket_wait. */
enum socket_type { SOCKET_TCP, SOCKET_UDP, SOCKET_UNIX, SOCKET_UNIX_DGRAM };

union address {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

struct probe {
	struct wait_socket *owner;
	union address to;
	struct agent_source source; /* while a connect is under way */
	uint64_t since_ns;	    /* of that */
	int seen;		    /* 0: it is open; else why not (EINPROGRESS: no answer yet) */
	bool tried;		    /* seen is valid */
};

struct wait_socket {
	struct agent_call *call;
	uint32_t type, port, closed;
	char *address;
	struct probe probes[ADDRESSES_MAX];
	size_t n_probes;
	struct agent_timer timer;
	bool local; /* all addresses are the guest's own */

	/* The child that looks a name up, and its answer. */
	struct agent_source answer;
	struct agent_child child;
	int resolve_error; /* of getaddrinfo; 0 */

	struct path_watch watch;
	int unix_error;
};

static uint64_t in_ms(uint64_t ms)
{
	return agent_now_ns() + ms * NS_PER_MS;
}

/* --- the verdict --------------------------------------------------------------------------- */

/* True if it replied: the call is gone then. */
static bool decide(struct wait_socket *s)
{
	bool open = false, known = s->n_probes > 0;

	for (size_t i = 0; i < s->n_probes; i++) {
		open = open || (s->probes[i].tried && s->probes[i].seen == 0);
		known = known && s->probes[i].tried;
	}
	if (s->closed ? !known || open : !open)
		return false;
	call_reply(s->call, NULL);
	return true;
}

/* --- TCP ----------------------------------------------------------------------------------- */

static socklen_t address_len(const union address *a)
{
	return a->sa.sa_family == AF_INET ? sizeof(a->in) : sizeof(a->in6);
}

static void probe_stop(struct probe *p)
{
	if (p->source.fd < 0)
		return;
	agent_source_remove(&p->source);
	cleanup_close(&p->source.fd);
	p->source.fd = -EBADF;
}

/* An answer, good or bad: the attempt is over. */
static void probe_result(struct probe *p, int seen)
{
	p->seen = seen;
	p->tried = true;
	probe_stop(p);
}

/* The connect has been decided; SO_ERROR says how. The connection is closed at once. */
static void on_connected(struct agent_source *source, short revents)
{
	struct probe *p = container_of(source, struct probe, source);
	int code = 0;
	socklen_t len = sizeof(code);

	if (getsockopt(source->fd, SOL_SOCKET, SO_ERROR, &code, &len) < 0)
		code = errno;
	probe_result(p, code);
	decide(p->owner);
}

/* Called at every tick: begins an attempt, or looks after the one under way. */
static void probe_tcp(struct probe *p)
{
	/* One that got no answer is left for ANSWER_MS: its SYN may be answered yet. */
	if (p->source.fd >= 0) {
		if (agent_now_ns() - p->since_ns < ANSWER_MS * NS_PER_MS)
			return;
		probe_result(p, ETIMEDOUT);
		/* Our own kernel refuses at a closed port; silence is the full queue of a listener.
		 */
		p->tried = !p->owner->local;
	}
	p->source.fd = socket(p->to.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (p->source.fd < 0) {
		probe_result(p, errno);
		return;
	}
	if (connect(p->source.fd, &p->to.sa, address_len(&p->to)) == 0) {
		probe_result(p, 0);
		return;
	}
	if (errno != EINPROGRESS) {
		probe_result(p, errno);
		return;
	}
	p->since_ns = agent_now_ns();
	p->source.events = POLLOUT;
	p->source.fn = on_connected;
	agent_source_add(&p->source);
}

/* --- UDP ----------------------------------------------------------------------------------- */

static bool is_local(const union address *a)
{
	_cleanup_close_ int fd = socket(a->sa.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	union address copy = *a;

	/* Only addresses of one's own can be bound. */
	if (copy.sa.sa_family == AF_INET)
		copy.in.sin_port = 0;
	else
		copy.in6.sin6_port = 0;
	return fd >= 0 && bind(fd, &copy.sa, address_len(&copy)) == 0;
}

/* One line of /proc/net/udp{,6}: "sl: ADDRESS:PORT ADDRESS:PORT st …", addresses as 32-bit words of
 * the host's byte order. Does that socket take datagrams to `to`? */
static bool udp_line_matches(const char *line, const union address *to, bool v6_table)
{
	uint32_t words[4] = {}, want[4] = {};
	unsigned port, n = v6_table ? 4 : 1;
	const char *p = strchr(line, ':');
	bool any = true, same = true;

	if (!p)
		return false;
	p++;
	while (*p == ' ')
		p++;
	for (unsigned i = 0; i < n; i++, p += 8)
		if (sscanf(p, "%8x", &words[i]) != 1)
			return false;
	if (sscanf(p, ":%4x", &port) != 1)
		return false;
	if (to->sa.sa_family == AF_INET6) {
		memcpy(want, &to->in6.sin6_addr, 16);
	} else if (v6_table) {
		want[2] = htonl(0xffff); /* ::ffff:a.b.c.d */
		want[3] = to->in.sin_addr.s_addr;
	} else {
		want[0] = to->in.sin_addr.s_addr;
	}
	for (unsigned i = 0; i < n; i++) {
		any = any && words[i] == 0;
		same = same && words[i] == want[i];
	}
	return (any || same) &&
	       port == ntohs(to->sa.sa_family == AF_INET ? to->in.sin_port : to->in6.sin6_port);
}

/* The guest's network namespace is ours. */
static bool udp_table_has(const char *name, const union address *to, bool v6_table)
{
	_cleanup_buf_ struct buf table = {};
	_cleanup_close_ int fd = openat(agent_proc_fd(), name, O_RDONLY | O_CLOEXEC);
	const char *line;

	if (fd < 0 || buf_read_fd(&table, fd, 16 * MIB) < 0)
		return false;
	line = strchr(buf_str(&table), '\n'); /* behind the heading */
	while (line && *++line) {
		if (udp_line_matches(line, to, v6_table))
			return true;
		line = strchr(line, '\n');
	}
	return false;
}

static void probe_udp(struct probe *p)
{
	bool found;

	if (p->owner->local) {
		found = udp_table_has("self/net/udp6", &p->to, true);
		if (!found && p->to.sa.sa_family == AF_INET)
			found = udp_table_has("self/net/udp", &p->to, false);
		probe_result(p, found ? 0 : ECONNREFUSED);
		return;
	}
	/* A refusal of the datagram before is told at the next use of the socket. */
	if (p->source.fd < 0) {
		p->source.fd =
			socket(p->to.sa.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		p->since_ns = agent_now_ns();
		if (p->source.fd < 0 || connect(p->source.fd, &p->to.sa, address_len(&p->to)) < 0 ||
		    send(p->source.fd, "", 0, MSG_NOSIGNAL) < 0)
			probe_result(p, errno);
		return;
	}
	if (recv(p->source.fd, (char[1]){}, 1, MSG_DONTWAIT) >= 0)
		probe_result(p, 0);
	else if (errno != EAGAIN)
		probe_result(p, errno);
	else if (agent_now_ns() - p->since_ns >= ANSWER_MS * NS_PER_MS)
		probe_result(p, 0);
}

static void on_try(struct agent_timer *t)
{
	struct wait_socket *s = container_of(t, struct wait_socket, timer);

	for (size_t i = 0; i < s->n_probes; i++) {
		if (s->type == SOCKET_TCP)
			probe_tcp(&s->probes[i]);
		else
			probe_udp(&s->probes[i]);
	}
	if (!decide(s))
		agent_timer_set(&s->timer, in_ms(s->local ? TRY_LOCAL_MS : TRY_REMOTE_MS));
}

/* --- names --------------------------------------------------------------------------------- */

static void add_probe(struct wait_socket *s, const union address *a)
{
	struct probe *p = &s->probes[s->n_probes++];

	*p = (struct probe){.owner = s, .to = *a, .source = {.fd = -EBADF}};
	if (a->sa.sa_family == AF_INET)
		p->to.in.sin_port = htons(s->port);
	else
		p->to.in6.sin6_port = htons(s->port);
}

static bool add_literal(struct wait_socket *s, const char *text)
{
	union address a = {};

	if (inet_pton(AF_INET, text, &a.in.sin_addr) == 1)
		a.sa.sa_family = AF_INET;
	else if (inet_pton(AF_INET6, text, &a.in6.sin6_addr) == 1)
		a.sa.sa_family = AF_INET6;
	else
		return false;
	add_probe(s, &a);
	return true;
}

/* The addresses are known. */
static void begin_tries(struct wait_socket *s)
{
	s->local = true;
	for (size_t i = 0; i < s->n_probes; i++)
		s->local = s->local && is_local(&s->probes[i].to);
	on_try(&s->timer);
}

/* In the child: getaddrinfo's result, then the addresses, to stdout. musl asks /etc/hosts and the
 * servers of /etc/resolv.conf; other sources of nsswitch.conf are not asked. */
static int resolve(void *userdata)
{
	struct wait_socket *s = userdata;
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
	int rc = getaddrinfo(s->address, NULL, &hints, &list);

	if (write(1, &rc, sizeof(rc)) != sizeof(rc))
		return 1;
	for (struct addrinfo *i = list; rc == 0 && i; i = i->ai_next) {
		union address a = {};

		if (i->ai_addrlen > sizeof(a))
			continue;
		memcpy(&a, i->ai_addr, i->ai_addrlen);
		if (write(1, &a, sizeof(a)) != sizeof(a))
			return 1;
	}
	return 0;
}

static void resolve_begin(struct wait_socket *s);

static void on_resolve_again(struct agent_timer *t)
{
	resolve_begin(container_of(t, struct wait_socket, timer));
}

static void resolve_end(struct wait_socket *s)
{
	if (s->answer.fd >= 0) {
		agent_source_remove(&s->answer);
		cleanup_close(&s->answer.fd);
		s->answer.fd = -EBADF;
	}
}

/* The answer is small, so the child has written all of it before it ends; read at its end. */
static void on_answer(struct agent_source *source, short revents)
{
	struct wait_socket *s = container_of(source, struct wait_socket, answer);
	union address a;

	if (!(revents & POLLHUP))
		return;
	if (read(source->fd, &s->resolve_error, sizeof(int)) != sizeof(int))
		s->resolve_error = EAI_FAIL;
	while (s->resolve_error == 0 && s->n_probes < ADDRESSES_MAX &&
	       read(source->fd, &a, sizeof(a)) == sizeof(a))
		if (a.sa.sa_family == AF_INET || a.sa.sa_family == AF_INET6)
			add_probe(s, &a);
	resolve_end(s);
	if (s->n_probes > 0) {
		s->timer.fn = on_try;
		begin_tries(s);
	} else {
		/* The name may come: a network that comes up, a record that is registered. */
		s->timer.fn = on_resolve_again;
		agent_timer_set(&s->timer, in_ms(RESOLVE_MS));
	}
}

static void on_resolver_exit(struct agent_child *c, int status)
{
}

static void resolve_begin(struct wait_socket *s)
{
	struct agent_fork_opts opts = {.fds = {-1, -1, -1}, .cgroup_fd = -1};
	int pipe_fds[2];
	pid_t pid;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0) {
		call_reply_error(s->call, ERROR_INFRA, errno, "cannot make a pipe: %s",
				 strerror(errno));
		return;
	}
	opts.fds[1] = pipe_fds[1];
	pid = agent_fork(&opts, resolve, s);
	close(pipe_fds[1]);
	if (pid < 0) {
		close(pipe_fds[0]);
		call_reply_error(s->call, ERROR_INFRA, -pid, "cannot fork in the machine: %s",
				 strerror(-pid));
		return;
	}
	s->child = (struct agent_child){.pid = pid, .fn = on_resolver_exit};
	agent_child_add(&s->child);
	/* POLLHUP comes without being asked for; the data before it are of no interest alone. */
	s->answer = (struct agent_source){.fd = pipe_fds[0], .events = POLLIN, .fn = on_answer};
	agent_source_add(&s->answer);
}

static void start_inet(struct wait_socket *s)
{
	if (s->port == 0 || s->port > 65535) {
		call_reply_error(s->call, ERROR_USAGE, EINVAL, "there is no port %u", s->port);
		return;
	}
	s->timer.fn = on_try;
	if (str_eq(s->address, "localhost")) {
		add_literal(s, "127.0.0.1");
		add_literal(s, "::1");
		begin_tries(s);
	} else if (add_literal(s, s->address)) {
		begin_tries(s);
	} else {
		resolve_begin(s);
	}
}

/* --- unix ---------------------------------------------------------------------------------- */

/* 0: it answers; else why not. path_fd < 0: an abstract name. */
static int try_unix(const struct wait_socket *s, int type, int path_fd)
{
	_cleanup_close_ int fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	socklen_t len = sizeof(sa);
	int rc;

	if (fd < 0)
		return errno;
	if (path_fd < 0) {
		size_t n = strnlen(s->address + 1, sizeof(sa.sun_path) - 1);

		memcpy(sa.sun_path + 1, s->address + 1, n);
		len = offsetof(struct sockaddr_un, sun_path) + 1 + n;
		return connect(fd, (struct sockaddr *)&sa, len) < 0 ? errno : 0;
	}
	fd_path_enter(path_fd, sa.sun_path);
	rc = connect(fd, (struct sockaddr *)&sa, len) < 0 ? errno : 0;
	fd_path_leave();
	return rc;
}

static int unix_state(const struct wait_socket *s, int path_fd)
{
	int code = try_unix(s, s->type == SOCKET_UNIX ? SOCK_STREAM : SOCK_DGRAM, path_fd);

	/* A socket of packets with a connection is the rarer of the two that one can listen on. */
	if (code == EPROTOTYPE && s->type == SOCKET_UNIX)
		code = try_unix(s, SOCK_SEQPACKET, path_fd);
	/* Its queue is full: somebody listens. */
	return code == EAGAIN ? 0 : code;
}

/* At each change of the path, and at each tick while there is something to connect to. */
static void look_unix(struct wait_socket *s)
{
	_cleanup_close_ int fd = -EBADF;
	int n = 1;

	if (s->address[0] != '@') {
		n = path_watch_look(&s->watch, s->address, true, 1, &fd);
		if (n < 0) {
			call_reply_error(s->call, ERROR_INFRA, -n, "cannot look for '%s': %s",
					 s->address, strerror(-n));
			return;
		}
	}
	s->unix_error = n == 0 ? ENOENT : unix_state(s, fd);
	agent_timer_remove(&s->timer);
	if ((s->unix_error == 0) == !s->closed)
		call_reply(s->call, NULL);
	else if (n > 0)
		agent_timer_set(&s->timer, in_ms(TRY_LOCAL_MS));
}

static void on_unix_path(struct path_watch *w)
{
	look_unix(container_of(w, struct wait_socket, watch));
}

static void on_unix_timer(struct agent_timer *t)
{
	look_unix(container_of(t, struct wait_socket, timer));
}

/* --- the operation ------------------------------------------------------------------------- */

static void start(struct agent_call *c, const struct wire_fields *in)
{
	struct wait_socket *s = call_state(c);

	s->call = c;
	s->answer.fd = -EBADF;
	s->address = wire_dup_str(in, TAG_ADDRESS, PATH_MAX);
	wire_get_u32(in, TAG_SOCKET_TYPE, &s->type);
	wire_get_u32(in, TAG_PORT, &s->port);
	wire_get_u32(in, TAG_NEGATED, &s->closed);
	if (!s->address || !*s->address || s->type > SOCKET_UNIX_DGRAM) {
		call_reply_error(c, ERROR_USAGE, EINVAL, "no address to wait for");
		return;
	}
	if (s->type == SOCKET_TCP || s->type == SOCKET_UDP) {
		start_inet(s);
		return;
	}
	path_watch_init(&s->watch, on_unix_path);
	s->timer.fn = on_unix_timer;
	look_unix(s);
}

/* "127.0.0.1: Connection refused, ::1: Connection refused" */
static void describe_probes(const struct wait_socket *s, struct buf *b)
{
	for (size_t i = 0; i < s->n_probes; i++) {
		const struct probe *p = &s->probes[i];
		char text[INET6_ADDRSTRLEN] = "?";

		inet_ntop(p->to.sa.sa_family,
			  p->to.sa.sa_family == AF_INET ? (const void *)&p->to.in.sin_addr
							: (const void *)&p->to.in6.sin6_addr,
			  text, sizeof(text));
		buf_printf(b, "%s%s: %s", i > 0 ? ", " : "", text,
			   !p->tried	  ? "no answer"
			   : p->seen == 0 ? "open"
					  : strerror(p->seen));
	}
}

static void on_cancel(struct agent_call *c, enum wire_cancel reason)
{
	struct wait_socket *s = call_state(c);
	_cleanup_buf_ struct buf b = {};
	char missing[PATH_MAX + 64];

	if (s->type == SOCKET_TCP || s->type == SOCKET_UDP) {
		if (s->n_probes > 0)
			describe_probes(s, &b);
		else
			buf_printf(&b, "no address is known for '%s'%s%s", s->address,
				   s->resolve_error ? ": " : "",
				   s->resolve_error ? gai_strerror(s->resolve_error) : "");
	} else if (s->closed) {
		buf_printf(&b, "'%s' still answers", s->address);
	} else if (s->unix_error == ENOENT && s->address[0] != '@') {
		path_describe_missing(s->address, missing, sizeof(missing));
		buf_puts(&b, missing);
	} else {
		buf_printf(&b, "'%s': %s", s->address, strerror(s->unix_error));
	}
	call_reply_error(c, ERROR_TIMEOUT, ETIMEDOUT, "%s", buf_str(&b));
}

static void end(struct agent_call *c)
{
	struct wait_socket *s = call_state(c);

	for (size_t i = 0; i < s->n_probes; i++)
		probe_stop(&s->probes[i]);
	resolve_end(s);
	if (s->child.active) {
		kill(s->child.pid, SIGKILL);
		agent_child_remove(&s->child);
	}
	agent_timer_remove(&s->timer);
	path_watch_done(&s->watch);
	free(s->address);
}

const struct agent_op agent_op_wait_socket = {
	.op = WIRE_OP_WAIT_SOCKET,
	.name = "wait-socket",
	.size = sizeof(struct wait_socket),
	.start = start,
	.on_cancel = on_cancel,
	.end = end,
};
