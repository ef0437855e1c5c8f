// SPDX-License-Identifier: Apache-2.0
//
// A mutex that lives in memory shared between processes and survives the death of its owner.
#ifndef REHOME_KVMGLUE_SIM_ROBUST_MUTEX_H_
#define REHOME_KVMGLUE_SIM_ROBUST_MUTEX_H_

#include <pthread.h>

namespace rehome::sim {

// A standard Lockable (std::unique_lock works). When a process dies in the critical section, the
// next owner simply gets the mutex: everything that these mutexes guard is either written in one
// store (DoubleBuffered, the commit of a move) or belongs to the process that died.
//
// Trivially constructible, so that it can be part of a mapped object; Init() before first use.
class RobustMutex {
 public:
  void Init();
  void lock();
  bool try_lock();
  void unlock();

 private:
  pthread_mutex_t mutex_;
};

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_ROBUST_MUTEX_H_
