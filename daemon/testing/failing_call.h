// SPDX-License-Identifier: Apache-2.0
//
// A system call that fails with a chosen errno, for as long as a test's function runs: by a seccomp
// filter in a thread of its own, so that the code under test and its kernel stay what they are.
#ifndef REHOME_DAEMON_TESTING_FAILING_CALL_H_
#define REHOME_DAEMON_TESTING_FAILING_CALL_H_

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <thread>

#include "gtest/gtest.h"

namespace rehome::testing_support {

// Runs `body` in a thread in which each system call `number` fails with `error`. Only what that
// thread calls itself is meant: it is not made, and has no effect.
inline void RunWhileFailing(long number, int error, const std::function<void()>& body) {
  std::thread([&] {
    std::array<sock_filter, 4> filter = {{
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    }};
    const sock_fprog program = {.len = static_cast<uint16_t>(filter.size()),
                                .filter = filter.data()};
    ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), 0);
    body();
  }).join();
}

}  // namespace rehome::testing_support

#endif  // REHOME_DAEMON_TESTING_FAILING_CALL_H_
