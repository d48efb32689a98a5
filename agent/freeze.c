/* SPDX-License-Identifier: MIT */
/* Resting while the guest is saved, and going on as itself or as a copy. */
#include <fcntl.h>
#include <linux/random.h>
#include <string.h>
#include <sys/ioctl.h>

#include "agent/internal.h"
#include "agent/output.h"
#include "base/file.h"
#include "base/str.h"

/*
 *	          FREEZE               timers stopped, FROZEN sent
 *	RUNNING ---------> STOPPING ------------------------------> FROZEN
 *	   ^ ^                | cannot: FROZEN with the error          |
 *	   | +----------------+                                        | THAW (also in STOPPING)
 *	   |           timers started, THAWED sent                     v
 *	   +------------------------------------------------------- STARTING
 *
 * From STOPPING on, no DATA is sent; behind FROZEN, nothing at all. The rest of the agent goes on
 * as ever: children are reaped, waits look, and what they have to say is kept by the output's
 * gate. So there is nothing to be started again, and deadlines on CLOCK_MONOTONIC, which stands
 * still with the guest's processors, hold.
 *
 * THAW sets the clock first, as that is what ages. THAWED is sent when the timers run again, so
 * that a command finds them so; without any, at once.
 */

static struct {
	enum { RUNNING, STOPPING, FROZEN, STARTING } state;
	uint32_t number; /* of the request that is to be answered */
	/* of the THAW under way */
	bool clock_set;
	int64_t delta_ns;
	struct error err; /* the first thing that could not be done */
} freeze;

bool freeze_is_frozen(void)
{
	return freeze.state == FROZEN;
}

bool freeze_is_deaf(void)
{
	return freeze.state == STOPPING || freeze.state == FROZEN;
}

/* --- freezing --------------------------------------------------------------------------------- */

static void on_started_quietly(const struct error *err)
{
	if (err)
		agent_log("%s", err->message);
}

static void send_frozen(const struct error *err)
{
	_cleanup_buf_ struct buf b = {};

	if (err)
		wire_put_error(&b, err);
	session_send(WIRE_FROZEN, freeze.number, &b);
}

static void on_stopped(const struct error *err)
{
	send_frozen(err);
	if (err) {
		freeze.state = RUNNING;
		output_set_gate(GATE_OPEN);
		calendar_start(on_started_quietly);
		return;
	}
	freeze.state = FROZEN;
	output_set_gate(GATE_SHUT);
}

static void send_thawed(const struct error *err);

void freeze_on_freeze(uint32_t number)
{
	/* The host does not wait for THAWED any more: it is owed still. */
	if (freeze.state == STARTING) {
		calendar_cancel();
		send_thawed(NULL);
	}
	freeze.number = number;
	if (freeze.state == FROZEN)
		send_frozen(NULL);
	if (freeze.state != RUNNING)
		return;
	freeze.state = STOPPING;
	output_set_gate(GATE_NO_DATA);
	/* A start that nobody waits for may be under way. */
	calendar_cancel();
	calendar_stop(on_stopped);
}

void freeze_abandon(const char *why)
{
	if (freeze.state == RUNNING)
		return;
	agent_log("was frozen, or about to be, when %s: goes on with the clock as it is", why);
	freeze.state = RUNNING;
	output_set_gate(GATE_OPEN);
	calendar_cancel();
	calendar_start(on_started_quietly);
}

/* --- thawing ---------------------------------------------------------------------------------- */

/* Keeps the first error. */
static void note(struct error *err)
{
	if (error_is_set(err) && !error_is_set(&freeze.err))
		freeze.err = *err;
}

static void take_clock(const struct wire_fields *in)
{
	struct error err = {};
	uint64_t want;

	if (!agent_owns(OWNS_CLOCK) || !wire_get_u64(in, TAG_REALTIME_NS, &want))
		return;
	freeze.clock_set = clock_set(want, &freeze.delta_ns, &err) >= 0;
	note(&err);
}

/* Writing to /dev/urandom would leave what it gives as it is for minutes: so the seed is credited,
 * and the kernel made to use it at once (Linux, drivers/char/random.c). */
static void take_seed(const struct wire_fields *in)
{
	_cleanup_free_ struct rand_pool_info *info = NULL;
	_cleanup_close_ int fd = -EBADF;
	struct error err = {};
	const uint8_t *seed;
	size_t len;

	if (!agent_owns(OWNS_ENTROPY) || !wire_get_bytes(in, TAG_SEED, &seed, &len) || len > 1024)
		return;
	info = xcalloc(1, sizeof(*info) + len);
	info->buf_size = (int)len;
	info->entropy_count = (int)len * 8;
	memcpy(info->buf, seed, len);
	fd = agent_openat_root("/dev/urandom", O_RDWR | O_NOCTTY, 0);
	if (fd < 0)
		error_set_errno(&err, ERROR_INFRA, -fd, "cannot open the guest's /dev/urandom");
	else if (ioctl(fd, RNDADDENTROPY, info) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
		error_set_errno(&err, ERROR_INFRA, errno,
				"cannot give entropy to the guest's kernel");
	note(&err);
}

static bool is_machine_id(const char *id)
{
	return id && strlen(id) == 32 && strspn(id, "0123456789abcdef") == 32;
}

/* In place: the file may be a mount point of its own. */
static void take_machine_id(const struct wire_fields *in)
{
	_cleanup_free_ char *id = wire_dup_str(in, TAG_MACHINE_ID, 64);
	_cleanup_close_ int fd = -EBADF;
	struct error err = {};
	char line[34];
	int r;

	if (!id)
		return;
	if (!is_machine_id(id) || !agent_owns(OWNS_MACHINE_ID)) {
		error_set(&err, ERROR_USAGE, EINVAL, "cannot take on the machine id '%s': %s", id,
			  is_machine_id(id) ? "the machine is not the agent's to change"
					    : "32 hex digits were wanted");
		note(&err);
		return;
	}
	snprintf(line, sizeof(line), "%s\n", id);
	fd = agent_openat_root("/etc/machine-id", O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY, 0444);
	r = fd < 0 ? fd : fd_write_all(fd, line, strlen(line));
	if (r < 0)
		error_set_errno(&err, ERROR_INFRA, -r, "cannot write the guest's /etc/machine-id");
	note(&err);
}

static void send_thawed(const struct error *err)
{
	_cleanup_buf_ struct buf b = {};

	if (err)
		agent_log("%s", err->message);
	session_put_hello(&b);
	if (freeze.clock_set)
		wire_put_u64(&b, TAG_DELTA_NS, (uint64_t)freeze.delta_ns);
	wire_put_error(&b, &freeze.err);
	session_send(WIRE_THAWED, freeze.number, &b);
	freeze.state = RUNNING;
	output_set_gate(GATE_OPEN);
}

static void refuse_thaw(uint32_t number, int code, const char *why)
{
	_cleanup_buf_ struct buf b = {};
	struct error err = {};

	error_set(&err, ERROR_INFRA, code, "%s", why);
	wire_put_error(&b, &err);
	session_send(WIRE_THAWED, number, &b);
}

void freeze_on_thaw(uint32_t number, const struct wire_fields *in)
{
	uint64_t host_id = 0;
	uint32_t version = 0;

	if (freeze.state == RUNNING) {
		refuse_thaw(number, EALREADY, "the guest agent was not frozen");
		return;
	}
	wire_get_u32(in, TAG_VERSION, &version);
	if (version != WIRE_VERSION || !wire_get_u64(in, TAG_HOST_ID, &host_id) || host_id == 0) {
		refuse_thaw(number, EPROTO, "the request to thaw is malformed");
		return;
	}
	freeze.clock_set = false;
	error_clear(&freeze.err);
	take_clock(in);
	take_seed(in);
	take_machine_id(in);
	session_take_host(host_id);
	freeze.state = STARTING;
	freeze.number = number;
	output_set_gate(GATE_SHUT);
	calendar_cancel();
	calendar_start(send_thawed);
}
