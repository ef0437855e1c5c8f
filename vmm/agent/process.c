/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/agent/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
  kTaskExiting = 0x4, /* PF_EXITING, include/linux/sched.h */
  kProcText = 1024,   /* bytes; a stat line is below 400, fdinfo of a pidfd below 200 */
};

static int send_signal(int pidfd, int signal) {
  return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) == 0 ? 0 : -errno;
}

int rehome_process_check(int pidfd) {
  int result = send_signal(pidfd, 0);
  return result == -EPERM ? 0 : result;
}

int rehome_process_may_kill(int pidfd) {
  int result = send_signal(pidfd, 0);
  return result == -ESRCH ? 0 : result;
}

int rehome_process_exited(int pidfd) {
  struct pollfd poller = {.fd = pidfd, .events = POLLIN};
  return poll(&poller, 1, 0) == 1 && (poller.revents & POLLIN) != 0;
}

int rehome_process_kill(int pidfd) {
  int result = send_signal(pidfd, SIGKILL);
  return result == -ESRCH ? 0 : result;
}

/* Reads a small /proc file into `text`, NUL-terminated. */
static int read_text(int directory, const char *path, char text[kProcText]) {
  int fd = openat(directory, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  ssize_t length = read(fd, text, kProcText - 1);
  close(fd);
  if (length <= 0) return -EIO;
  text[length] = '\0';
  return 0;
}

/* The number of the process in our /proc, or 0. */
static int pid_of(int pidfd) {
  char path[64];
  char text[kProcText];
  snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
  if (read_text(AT_FDCWD, path, text) != 0) return 0;
  const char *line = strstr(text, "\nPid:");
  int pid = line == NULL ? 0 : atoi(line + strlen("\nPid:"));
  return pid > 0 ? pid : 0;
}

/* The fields of proc(5) stat behind the name, which can hold any bytes but ends at the last ')'. */
struct task_stat {
  char state;
  unsigned long flags;
  long thread_count; /* of the whole process */
};

static int read_stat(int directory, const char *path, struct task_stat *stat) {
  char text[kProcText];
  int result = read_text(directory, path, text);
  if (result != 0) return result;
  const char *after_name = strrchr(text, ')');
  if (after_name == NULL) return -EIO;
  int fields = sscanf(after_name + 1,
                      " %c %*d %*d %*d %*d %*d %lu %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld",
                      &stat->state, &stat->flags, &stat->thread_count);
  return fields == 3 ? 0 : -EIO;
}

static int is_exiting(const struct task_stat *stat) {
  return stat->state == 'Z' || stat->state == 'X' || (stat->flags & kTaskExiting) != 0;
}

/* The kernel cuts the list short when a task dies under its cursor (fs/proc/base.c next_tid()), so
 * a list counts only if it is as long as the process had threads before. There can be no new ones:
 * copy_process() fails with a SIGKILL pending. */
static int every_task_exiting(int process) {
  struct task_stat before;
  if (read_stat(process, "stat", &before) != 0 || before.thread_count <= 0) return 0;
  int fd = openat(process, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *tasks = fd < 0 ? NULL : fdopendir(fd);
  if (tasks == NULL) {
    if (fd >= 0) close(fd);
    return 0;
  }
  long exiting = 0;
  for (struct dirent *entry = readdir(tasks); entry != NULL; entry = readdir(tasks)) {
    char path[sizeof(entry->d_name) + sizeof("/stat")];
    struct task_stat stat;
    if (entry->d_name[0] == '.') continue;
    snprintf(path, sizeof(path), "%s/stat", entry->d_name);
    int result = read_stat(dirfd(tasks), path, &stat);
    int gone = result == -ENOENT || result == -ESRCH;
    if (!gone && (result != 0 || !is_exiting(&stat))) {
      exiting = 0;
      break;
    }
    exiting++;
  }
  closedir(tasks);
  return exiting >= before.thread_count;
}

int rehome_process_stopped(int pidfd) {
  if (rehome_process_exited(pidfd)) return 1;
  char path[64];
  int pid = pid_of(pidfd);
  snprintf(path, sizeof(path), "/proc/%d", pid);
  int process = pid == 0 ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (process < 0) return rehome_process_exited(pidfd);
  int stopped = every_task_exiting(process);
  close(process);
  return stopped;
}
