/* SPDX-License-Identifier: Apache-2.0
 *
 * The other side's process, held by a pidfd: is it gone, stop it, prove that it stopped. A pidfd
 * never names another process than the one it was made for, so nothing here can hit a stranger.
 */
#ifndef REHOME_VMM_AGENT_PROCESS_H_
#define REHOME_VMM_AGENT_PROCESS_H_

#ifdef __cplusplus
extern "C" {
#endif

/* 0 if `fd` is a pidfd of a process that has not been reaped (-EPERM of the kernel, "not yours to
 * signal", is such a process too). -EBADF: not a pidfd. -ESRCH: gone. */
int rehome_process_check(int pidfd);

/* 1 if the process has exited: its tasks are gone, its files and mappings closed. */
int rehome_process_exited(int pidfd);

/* 1 if it has exited, or every task of it is past the point of no return in do_exit() (PF_EXITING,
 * include/linux/sched.h) and so can enter neither user nor guest mode again. Tearing down guest
 * memory takes 0.05 to 0.1 ms per MiB after that, which nobody has to wait for. Only after a
 * SIGKILL: without one a task could still create others. Where /proc does not show the process,
 * this is rehome_process_exited(). */
int rehome_process_stopped(int pidfd);

/* 0 if this process may kill that one, or it has gone already; else a negative errno (-EPERM,
 * -EBADF). */
int rehome_process_may_kill(int pidfd);

/* SIGKILL. 0 also if it has gone already; else a negative errno, and no signal was sent. */
int rehome_process_kill(int pidfd);

#ifdef __cplusplus
}
#endif

#endif /* REHOME_VMM_AGENT_PROCESS_H_ */
