/* SPDX-License-Identifier: MIT */
/* What the accelerator probe and the code that it runs as a guest agree on. */
#pragma once

/* Guest-physical addresses. All of the guest's memory is one 2 MiB page, mapped where it is. */
#define GUEST_MEMORY 0x200000
#define GUEST_PML4   0x1000
#define GUEST_PDPT   0x2000
#define GUEST_PD     0x3000
#define GUEST_GDT    0x4000
#define GUEST_IDT    0x5000
#define GUEST_DATA   0x6000 /* zeroed, 64-byte aligned */
#define GUEST_STACK  0xa000 /* grows down */
#define GUEST_CODE   0x10000

#define GUEST_CS 0x08
#define GUEST_DS 0x10

/* Ports: what is tried next; so many 1024 iterations are done; a result was wrong. */
#define GUEST_PORT_STEP	 0x80
#define GUEST_PORT_ROUND 0x81
#define GUEST_PORT_WRONG 0x82

/* Steps, in order. */
#define GUEST_STEP_NONE	      0
#define GUEST_STEP_SPEED      1 /* a short loop: how fast is it at all? */
#define GUEST_STEP_CMPXCHG16B 2
#define GUEST_STEP_XSAVE      3
#define GUEST_STEP_XRSTORS    4
#define GUEST_STEP_INT3	      5
#define GUEST_STEP_LOOP	      6 /* a few million iterations */
#define GUEST_STEP_DONE	      7
