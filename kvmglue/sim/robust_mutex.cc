// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/robust_mutex.h"

#include <cerrno>
#include <cstdlib>

namespace rehome::sim {
namespace {

// Whether `result` of a lock call means that the caller owns the mutex. Anything but these is a bug
// of this file (not initialised, or locked twice by one thread), and going on would corrupt a VM.
bool Acquired(pthread_mutex_t& mutex, int result) {
  switch (result) {
    case 0:
      return true;
    case EBUSY:
      return false;
    case EOWNERDEAD:
      if (pthread_mutex_consistent(&mutex) == 0) return true;
      [[fallthrough]];
    default:
      abort();
  }
}

}  // namespace

void RobustMutex::Init() {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&mutex_, &attributes);
  pthread_mutexattr_destroy(&attributes);
}

void RobustMutex::lock() { Acquired(mutex_, pthread_mutex_lock(&mutex_)); }

bool RobustMutex::try_lock() { return Acquired(mutex_, pthread_mutex_trylock(&mutex_)); }

void RobustMutex::unlock() { pthread_mutex_unlock(&mutex_); }

}  // namespace rehome::sim
