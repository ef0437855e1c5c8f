/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the peer guest has what, in guest-physical memory; bench/page/qemu_peer.py reads the
 * report. For C and for the assembler.
 */
#ifndef REHOME_BENCH_PAGE_PEER_PEER_GUEST_H_
#define REHOME_BENCH_PAGE_PEER_PEER_GUEST_H_

#define PEER_MAX_VCPUS 16
#define PEER_STACK_SHIFT 12 /* a page of stack for each vCPU */
/* Below 1 MiB, page-aligned: its number is the vector of the start-up IPI. */
#define PEER_TRAMPOLINE 0x8000
/* struct peer_report. */
#define PEER_REPORT 0x10000
#define PEER_MAGIC 0x50454552 /* "PEER" */

#endif /* REHOME_BENCH_PAGE_PEER_PEER_GUEST_H_ */
