// SPDX-License-Identifier: Apache-2.0
#include "daemon/service/vm_service.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "daemon/service/testing/test_daemon.h"

namespace rehome {
namespace {

using testing::DetailsOf;
using testing::TestDaemon;

class VmServiceTest : public ::testing::Test {
 protected:
  VmServiceTest() : stub_(daemon_.NewVmStub()) {}

  grpc::Status Get(const std::string& name, v1::VirtualMachine* vm) {
    grpc::ClientContext context;
    v1::GetVirtualMachineRequest request;
    request.set_name(name);
    return stub_->GetVirtualMachine(&context, request, vm);
  }

  TestDaemon daemon_;
  std::unique_ptr<v1::VirtualMachineService::Stub> stub_;
};

TEST_F(VmServiceTest, GetShowsWhoRunsIt) {
  daemon_.AddVm("web-1");
  v1::VirtualMachine vm;
  ASSERT_TRUE(Get("virtualMachines/web-1", &vm).ok());
  EXPECT_EQ(vm.name(), "virtualMachines/web-1");
  EXPECT_EQ(vm.vm_type(), v1::DEFAULT);
  EXPECT_EQ(vm.vcpu_count(), 2);
  EXPECT_EQ(vm.memory_bytes(), 64 << 20);
  EXPECT_EQ(vm.process().pid(), 10);
  EXPECT_EQ(vm.process().vmm(), "rehome-vmm 1.0");
  EXPECT_EQ(vm.active_migration(), "");
}

TEST_F(VmServiceTest, GetTellsAnUnknownVmFromABadName) {
  v1::VirtualMachine vm;
  const grpc::Status unknown = Get("virtualMachines/nobody", &vm);
  EXPECT_EQ(unknown.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(DetailsOf(unknown).info.reason(), "VM_NOT_FOUND");
  EXPECT_EQ(DetailsOf(unknown).resource.resource_name(), "virtualMachines/nobody");
  for (const char* name : {"", "web-1", "virtualMachines/", "virtualMachines/a/b",
                           "virtualMachines/UPPER", "migrations/web-1"}) {
    EXPECT_EQ(DetailsOf(Get(name, &vm)).info.reason(), "BAD_NAME") << name;
  }
}

TEST_F(VmServiceTest, PagesLeadThroughAllVmsInOrder) {
  for (const char* vm_id : {"d", "a", "c", "e", "b"}) daemon_.AddVm(vm_id);
  std::string ids;
  v1::ListVirtualMachinesRequest request;
  request.set_page_size(2);
  do {
    grpc::ClientContext context;
    v1::ListVirtualMachinesResponse page;
    ASSERT_TRUE(stub_->ListVirtualMachines(&context, request, &page).ok());
    ASSERT_LE(page.virtual_machines_size(), 2);
    ASSERT_GE(page.virtual_machines_size(), 1);
    for (const auto& vm : page.virtual_machines()) ids += vm.name().back();
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_EQ(ids, "abcde");
}

TEST_F(VmServiceTest, WatchSendsAllAndThenWhatChanges) {
  daemon_.AddVm("a");
  const auto leaving = daemon_.AddVm("b");
  grpc::ClientContext context;
  const auto stream = stub_->WatchVirtualMachines(&context, v1::WatchVirtualMachinesRequest());
  v1::WatchVirtualMachinesResponse response;
  ASSERT_TRUE(stream->Read(&response));
  ASSERT_EQ(response.snapshot().virtual_machines_size(), 2);
  const int64_t first = response.revision();

  daemon_.AddVm("c");
  ASSERT_TRUE(stream->Read(&response));
  ASSERT_EQ(response.change().virtual_machines_size(), 1);
  EXPECT_EQ(response.change().virtual_machines(0).name(), "virtualMachines/c");
  EXPECT_EQ(response.change().removed_size(), 0);
  EXPECT_GT(response.revision(), first);

  leaving->Close();
  daemon_.vms().Unregister(leaving.get());
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.change().virtual_machines_size(), 0);
  ASSERT_EQ(response.change().removed_size(), 1);
  EXPECT_EQ(response.change().removed(0), "virtualMachines/b");
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(VmServiceTest, WatchShowsAMigrationBeginAndEnd) {
  daemon_.AddVm("a");
  grpc::ClientContext context;
  const auto stream = stub_->WatchVirtualMachines(&context, v1::WatchVirtualMachinesRequest());
  v1::WatchVirtualMachinesResponse response;
  ASSERT_TRUE(stream->Read(&response));
  daemon_.vms().SetActiveMigration("a", "m-1");
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.change().virtual_machines(0).active_migration(), "migrations/m-1");
  daemon_.vms().SetActiveMigration("a", "");
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.change().virtual_machines(0).active_migration(), "");
}

}  // namespace
}  // namespace rehome
