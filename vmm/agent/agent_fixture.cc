// SPDX-License-Identifier: Apache-2.0
#include "vmm/agent/agent_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>

namespace rehome {
namespace {

CountingVmm* Self(void* opaque) { return static_cast<CountingVmm*>(opaque); }

int Describe(void* opaque, int, rehome_vm* vm, rehome_error* error) {
  CountingVmm* self = Self(opaque);
  self->Count(&CountingVmm::described);
  if (self->Read(&CountingVmm::refuse_describe) != 0) {
    error->refusal = self->describe_refusal;
    strcpy(error->text, "not now");
    return -EBUSY;
  }
  strcpy(vm->vm_id, "vm-1");
  vm->vcpu_count = 1;
  vm->state_format = kNewestFormat;
  vm->state_format_oldest = kOldestFormat;
  vm->fds[0] = {{REHOME_FD_MEMORY, 0, ""}, self->memory};
  vm->fds[1] = {{REHOME_FD_VM, 0, ""}, self->memory};
  vm->fd_count = 2;
  switch (self->Read(&CountingVmm::bad_description)) {
    case 1:
      vm->vcpu_count = 0;
      break;
    case 2:
      vm->fds[0].fd = 1000000;  // not open
      break;
    case 4:
      vm->fd_count = 1;  // no VM
      break;
    case 3:
      vm->fd_count = REHOME_MAX_FDS;  // no room for BLOCK
      for (uint32_t i = 2; i < vm->fd_count; i++) {
        vm->fds[i] = {{REHOME_FD_NAMED, 0, ""}, self->memory};
        snprintf(vm->fds[i].entry.name, sizeof(vm->fds[i].entry.name), "device%u", i);
      }
      break;
  }
  return 0;
}

}  // namespace

int CountFds() {
  int count = 0;
  DIR* directory = opendir("/proc/self/fd");
  while (readdir(directory) != nullptr) count++;
  closedir(directory);
  return count;
}

rehome_register Registration(const char* id) {
  rehome_register vm = {};
  strcpy(vm.vm_id, id);
  vm.vcpu_count = 1;
  return vm;
}

CountingVmm::CountingVmm() : memory(memfd_create("memory", MFD_CLOEXEC)) {}
CountingVmm::~CountingVmm() { close(memory); }

void CountingVmm::Count(int CountingVmm::*counter) {
  std::lock_guard<std::mutex> lock(mutex);
  (this->*counter)++;
  changed.notify_all();
}

bool CountingVmm::Await(int CountingVmm::*counter, int value) {
  std::unique_lock<std::mutex> lock(mutex);
  return changed.wait_for(lock, std::chrono::milliseconds(kFakeDaemonTimeoutMs),
                          [&] { return this->*counter >= value; });
}

int CountingVmm::Read(int CountingVmm::*counter) {
  std::lock_guard<std::mutex> lock(mutex);
  return this->*counter;
}

rehome_agent_ops CountingSourceOps() {
  rehome_agent_ops ops = {};
  ops.describe = Describe;
  ops.arm_source = [](void* opaque, rehome_block*, uint32_t state_format, rehome_error*) {
    Self(opaque)->armed_format.store(state_format);
    Self(opaque)->Count(&CountingVmm::armed);
    return 0;
  };
  ops.pause_and_save = [](void* opaque, rehome_block*, uint64_t* size, rehome_error*) {
    Self(opaque)->Count(&CountingVmm::paused);
    *size = 0;
    return 0;
  };
  ops.layout_digest = [](void*) -> uint64_t { return 5; };
  ops.probe_vm = [](void*) { return 0; };
  ops.resume = [](void* opaque) { Self(opaque)->Count(&CountingVmm::resumed); };
  ops.cancelled = [](void* opaque) { Self(opaque)->Count(&CountingVmm::cancelled); };
  ops.released = [](void* opaque) { Self(opaque)->Count(&CountingVmm::released); };
  return ops;
}

rehome_agent_ops CountingTargetOps() {
  rehome_agent_ops ops = {};
  ops.prepare = [](void* opaque, uint32_t, uint32_t, const rehome_vm* source, rehome_block*,
                   rehome_vm* target, rehome_error*) {
    target->fds[0] = {{REHOME_FD_MEMORY, 0, ""}, Self(opaque)->memory};
    target->fds[1] = {{REHOME_FD_VM, 0, ""}, Self(opaque)->memory};
    target->fd_count = 2;
    Self(opaque)->Count(&CountingVmm::described);
    for (uint32_t i = 0; i < source->fd_count; i++) close(source->fds[i].fd);
    target->vcpu_count = 1;
    return 0;
  };
  ops.cancelled = [](void* opaque) { Self(opaque)->Count(&CountingVmm::cancelled); };
  return ops;
}

ArmedBlock::ArmedBlock(const char* migration_id, uint32_t policy, uint32_t strategy,
                       uint64_t each_timeout_ns)
    : self_(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0))) {
  rehome_block_params params = {migration_id,    4096,   each_timeout_ns,
                                each_timeout_ns, policy, strategy};
  fd_ = rehome_block_create(&params);
}

ArmedBlock::~ArmedBlock() {
  close(fd_);
  close(self_);
}

rehome_agent_config AgentFixture::Config(uint32_t role) {
  rehome_agent_config config = {};
  config.connection_fd = -1;
  config.role = role;
  config.features = REHOME_FEATURES_ALL;
  config.state_format_read_max = 7;
  config.vmm_name = "test";
  config.vmm_version = "1";
  return config;
}

void AgentFixture::StartAt(const std::string& path, uint32_t role) {
  rehome_agent_config config = Config(role);
  config.socket_path = path.c_str();
  config.trace = trace_;
  agent_ = rehome_agent_start(&config, &ops_, &vmm_);
  ASSERT_NE(agent_, nullptr);
}

FakeLink AgentFixture::StartRegistered() {
  StartAt(daemon_.path());
  rehome_register vm = Registration("vm-1");
  EXPECT_EQ(rehome_agent_register(agent_, &vm), 0);
  return AcceptRegistered();
}

FakeLink AgentFixture::AcceptRegistered() {
  FakeLink link = daemon_.Accept();
  EXPECT_TRUE(link.AnswerHello());
  std::optional<rehome_register> vm = link.AnswerRegister();
  EXPECT_TRUE(vm && strcmp(vm->vm_id, "vm-1") == 0);
  return link;
}

}  // namespace rehome
