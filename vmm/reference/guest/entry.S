/* SPDX-License-Identifier: Apache-2.0
 *
 * Entry of the guest and its interrupt handlers; where they must be is in guest_abi.h. Only the
 * handlers run at CPL 0: on hosts that emulate it (PVM), an instruction there costs about 1 us.
 */

/* Offsets into struct rehome_guest_mailbox; payload.c asserts them. */
#define MAILBOX_ERRORS_FAULT 96
#define MAILBOX_FIRST_ERROR_KIND 112
#define MAILBOX_FIRST_ERROR_GPA 120
#define MAILBOX_TICKS 192
#define MAILBOX_FAULT_VECTOR 208
#define MAILBOX_FAULT_CODE 216

#define X2APIC_EOI_MSR 0x80b
#define EXIT_PORT 0xf4
#define EXIT_FAULT 2
#define ERROR_FAULT 7

  .section .start, "ax", @progbits
  .globl _start
_start:
  call rehome_guest_main
1: jmp 1b

  .org 0x100
exception_stubs:
  .set vector, 0
  .rept 32
  .balign 16
  .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21)
  .else
  pushq $0 /* those above bring an error code of their own */
  .endif
  pushq $vector
  jmp exception
  .set vector, vector + 1
  .endr

  .org 0x300
timer:
  pushq %rax
  pushq %rcx
  pushq %rdx
  /* Three pushes and the interrupt frame of five words lie below the mailbox's address. */
  movq 64(%rsp), %rax
  incq MAILBOX_TICKS(%rax)
  movl $X2APIC_EOI_MSR, %ecx
  xorl %eax, %eax
  xorl %edx, %edx
  wrmsr
  popq %rdx
  popq %rcx
  popq %rax
  iretq

exception:
  /* Vector, error code and the interrupt frame of five words lie below the mailbox's address. */
  movq 56(%rsp), %rdi
  movq 0(%rsp), %rax
  movq %rax, MAILBOX_FAULT_VECTOR(%rdi)
  movq 8(%rsp), %rax
  movq %rax, MAILBOX_FAULT_CODE(%rdi)
  movq 16(%rsp), %rax
  movq %rax, MAILBOX_FIRST_ERROR_GPA(%rdi)
  movq $ERROR_FAULT, MAILBOX_FIRST_ERROR_KIND(%rdi)
  incq MAILBOX_ERRORS_FAULT(%rdi)
  movl $EXIT_FAULT, %eax
  outb %al, $EXIT_PORT
1: cli
  hlt
  jmp 1b

  .section .note.GNU-stack, "", @progbits
