/* SPDX-License-Identifier: Apache-2.0
 *
 * The first instructions of the peer guest (peer_guest.c): a multiboot header, which is what
 * QEMU's -kernel loads without a kernel's own loader, the start of the first vCPU in 32-bit
 * protected mode, and that of the others in real mode.
 */
#include "bench/page/peer/peer_guest.h"

#define MULTIBOOT_MAGIC 0x1badb002
/* 1: modules page-aligned; there are none, and the header needs no more of QEMU. */
#define MULTIBOOT_FLAGS 1

#define CODE_SELECTOR 0x08
#define DATA_SELECTOR 0x10

  .section .start, "ax"
  .balign 4
  .long MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

  .code32
  .globl _start
_start:
  cli
  xor %eax, %eax
  jmp run

/* Every other vCPU, from its trampoline. */
started:
  mov $DATA_SELECTOR, %eax
  mov %eax, %ds
  mov %eax, %es
  mov %eax, %ss
  mov $1, %eax
  lock xadd %eax, next_vcpu

/* eax: the number of this vCPU. */
run:
  cmp $PEER_MAX_VCPUS, %eax
  jae stop
  mov %eax, %ecx
  inc %ecx
  shl $PEER_STACK_SHIFT, %ecx
  lea stacks(%ecx), %esp
  push %eax
  call peer_main
stop:
  hlt
  jmp stop

/* Copied to PEER_TRAMPOLINE, where a start-up IPI can have a vCPU begin in real mode. */
  .code16
  .globl trampoline, trampoline_end
trampoline:
  cli
  xor %ax, %ax
  mov %ax, %ds
  lgdtl PEER_TRAMPOLINE + (gdt_pointer - trampoline)
  mov %cr0, %eax
  or $1, %al
  mov %eax, %cr0
  ljmpl $CODE_SELECTOR, $started

  .balign 8
gdt:
  .quad 0
  .quad 0x00cf9b000000ffff /* flat code */
  .quad 0x00cf93000000ffff /* flat data */
gdt_pointer:
  .word . - gdt - 1
  .long PEER_TRAMPOLINE + (gdt - trampoline)
trampoline_end:

  .data
  .balign 4
next_vcpu:
  .long 1

  .bss
  .balign 16
stacks:
  .skip PEER_MAX_VCPUS << PEER_STACK_SHIFT
