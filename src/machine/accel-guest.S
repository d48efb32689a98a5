/* SPDX-License-Identifier: MIT */
/* The guest of the accelerator probe: 64-bit kernel-mode code that tries what kernels do. */

/*
 * Copied to GUEST_CODE and entered in long mode with paging on; position-independent, and never
 * executed as part of this program (so it lives in .rodata). It tells each step before it takes
 * it: where it stops is then known even when it cannot say so.
 */
#ifdef __x86_64__
#include "machine/accel-guest.h"

	.macro	step n
	mov	$\n, %al
	out	%al, $GUEST_PORT_STEP
	.endm

	/* \rounds times \kilo * 1024 iterations, each time reported */
	.macro	rounds rounds, kilo
	mov	$\rounds, %edx
1:	mov	$(\kilo * 1024), %ecx
2:	dec	%ecx
	jnz	2b
	mov	$\kilo, %al
	out	%al, $GUEST_PORT_ROUND
	dec	%edx
	jnz	1b
	.endm

	.section .rodata
	.balign	16
	.globl	accel_guest_start, accel_guest_int3, accel_guest_end
	.hidden	accel_guest_start, accel_guest_int3, accel_guest_end
accel_guest_start:
	step	GUEST_STEP_SPEED
	rounds	2, 16

	step	GUEST_STEP_CMPXCHG16B
	mov	$GUEST_DATA, %esi
	xor	%eax, %eax
	xor	%edx, %edx
	mov	$0x1234, %ebx
	mov	$0x5678, %ecx
	lock cmpxchg16b (%rsi)
	jnz	wrong
	cmpq	$0x1234, (%rsi)
	jne	wrong
	cmpq	$0x5678, 8(%rsi)
	jne	wrong

	/* As kernels do: SSE and XSAVE on, XCR0 = x87 and SSE; if the processor has it. */
	mov	$1, %eax
	cpuid
	bt	$26, %ecx
	jnc	try_int3
	mov	%cr4, %rax
	or	$0x40600, %rax		/* OSFXSR, OSXMMEXCPT, OSXSAVE */
	mov	%rax, %cr4
	step	GUEST_STEP_XSAVE
	xor	%ecx, %ecx
	xor	%edx, %edx
	mov	$3, %eax
	xsetbv
	mov	$0x600d, %ebx
	movq	%rbx, %xmm0
	mov	$(GUEST_DATA + 64), %esi
	mov	$3, %eax
	xor	%edx, %edx
	xsave	(%rsi)
	pxor	%xmm0, %xmm0
	xrstor	(%rsi)
	movq	%xmm0, %rcx
	cmp	%rbx, %rcx
	jne	wrong

	mov	$0xd, %eax
	mov	$1, %ecx
	cpuid
	bt	$3, %eax
	jnc	try_int3
	step	GUEST_STEP_XRSTORS
	mov	$0x600e, %ebx
	movq	%rbx, %xmm0
	mov	$(GUEST_DATA + 4096), %esi
	mov	$3, %eax
	xor	%edx, %edx
	xsaves	(%rsi)
	pxor	%xmm0, %xmm0
	xrstors	(%rsi)
	movq	%xmm0, %rcx
	cmp	%rbx, %rcx
	jne	wrong

try_int3:
	step	GUEST_STEP_INT3
	xor	%ebx, %ebx
	int3
	cmp	$1, %ebx
	jne	wrong

	step	GUEST_STEP_LOOP
	rounds	32, 128

	step	GUEST_STEP_DONE
	hlt
wrong:
	out	%al, $GUEST_PORT_WRONG
	hlt
accel_guest_int3:
	inc	%ebx
	iretq
accel_guest_end:
#endif
	.section .note.GNU-stack, "", %progbits
