// SPDX-License-Identifier: Apache-2.0
#include "kvmglue/sim/address_space.h"

#include <sys/auxv.h>
#include <unistd.h>

#include <cstring>

namespace rehome::sim {
namespace {

// The finaliser of splitmix64. AT_RANDOM seeds the stack protector as well, so it must not be
// readable from a VM object that other processes map.
uint64_t Mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

}  // namespace

AddressSpaceId CurrentAddressSpace() {
  uint64_t random[2] = {0, 0};
  const auto* image = reinterpret_cast<const void*>(getauxval(AT_RANDOM));
  if (image != nullptr) std::memcpy(random, image, sizeof(random));
  const uint64_t both = Mix(random[0]) + Mix(~random[1]);
  const uint64_t pid = static_cast<uint64_t>(getpid());
  return {Mix(both + pid), Mix(both ^ Mix(pid))};
}

}  // namespace rehome::sim
