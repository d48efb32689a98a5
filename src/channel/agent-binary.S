/* SPDX-License-Identifier: MIT */
/* The guest agent's binary, as it was built, in our read-only data. */

	.section .rodata
	.balign 16
	.globl agent_binary
	.type agent_binary, %object
agent_binary:
	.incbin AGENT_BINARY
1:
	.size agent_binary, 1b - agent_binary
	.byte 0

	.balign 8
	.globl agent_binary_len
	.type agent_binary_len, %object
agent_binary_len:
	.quad 1b - agent_binary
	.size agent_binary_len, 8

	.section .note.GNU-stack,"",%progbits
