// SPDX-License-Identifier: Apache-2.0
#ifndef REHOME_KVMGLUE_SIM_DOUBLE_BUFFERED_H_
#define REHOME_KVMGLUE_SIM_DOUBLE_BUFFERED_H_

#include <cstdint>
#include <type_traits>

namespace rehome::sim {

// A value in shared memory that changes in one store, so that a process killed while it writes
// leaves either the old or the new one. Readers and writers hold the lock that guards the value;
// the two buffers are for the death of the owner only. All zero bytes are a valid, zero value.
template <typename T>
class DoubleBuffered {
 public:
  static_assert(std::is_trivially_default_constructible_v<T> && std::is_standard_layout_v<T>);

  const T& Get() const { return buffers_[Active()]; }

  template <typename Change>
  void Update(Change&& change) {
    const uint32_t next = Active() ^ 1;
    buffers_[next] = buffers_[next ^ 1];
    change(buffers_[next]);
    __atomic_store_n(&active_, next, __ATOMIC_RELEASE);
  }

  void Set(const T& value) {
    const uint32_t next = Active() ^ 1;
    buffers_[next] = value;
    __atomic_store_n(&active_, next, __ATOMIC_RELEASE);
  }

 private:
  uint32_t Active() const { return __atomic_load_n(&active_, __ATOMIC_ACQUIRE) & 1; }

  T buffers_[2];
  uint32_t active_;
};

}  // namespace rehome::sim

#endif  // REHOME_KVMGLUE_SIM_DOUBLE_BUFFERED_H_
