/* SPDX-License-Identifier: MIT */
/* All operations of the agent. */
#include "agent/agent.h"

extern const struct agent_op agent_op_ping, agent_op_exec, agent_op_read_file, agent_op_write_file,
	agent_op_power, agent_op_set_clock;
extern const struct agent_op agent_op_wait_unit, agent_op_wait_booted, agent_op_wait_socket,
	agent_op_wait_file, agent_op_wait_mount, agent_op_wait_process;
extern const struct agent_op agent_op_copy_in, agent_op_copy_out;

const struct agent_op *const agent_ops[] = {
	&agent_op_ping,	      &agent_op_exec,	     &agent_op_read_file,
	&agent_op_write_file, &agent_op_power,	     &agent_op_set_clock,
	&agent_op_wait_unit,  &agent_op_wait_booted, &agent_op_wait_socket,
	&agent_op_wait_file,  &agent_op_wait_mount,  &agent_op_wait_process,
	&agent_op_copy_in,    &agent_op_copy_out,    NULL,
};
