/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations that a trace can name, each with its number. Append only: traces are kept, and
 * VMMs live longer than daemons.
 */
#ifndef REHOME_VMM_AGENT_TRACE_OPERATIONS_H_
#define REHOME_VMM_AGENT_TRACE_OPERATIONS_H_

/* X(number, the kernel's name of the ioctl) */
#define REHOME_TRACE_OPERATIONS(X)   \
  X(1, KVM_RUN)                      \
  X(2, KVM_CHECK_EXTENSION)          \
  X(3, KVM_CREATE_DEVICE)            \
  X(4, KVM_CREATE_GUEST_MEMFD)       \
  X(5, KVM_CREATE_IRQCHIP)           \
  X(6, KVM_CREATE_PIT2)              \
  X(7, KVM_CREATE_VCPU)              \
  X(8, KVM_CREATE_VM)                \
  X(9, KVM_ENABLE_CAP)               \
  X(10, KVM_GET_CLOCK)               \
  X(11, KVM_GET_CPUID2)              \
  X(12, KVM_GET_DEBUGREGS)           \
  X(13, KVM_GET_DEVICE_ATTR)         \
  X(14, KVM_GET_FPU)                 \
  X(15, KVM_GET_IRQCHIP)             \
  X(16, KVM_GET_LAPIC)               \
  X(17, KVM_GET_MP_STATE)            \
  X(18, KVM_GET_MSRS)                \
  X(19, KVM_GET_NESTED_STATE)        \
  X(20, KVM_GET_PIT2)                \
  X(21, KVM_GET_REGS)                \
  X(22, KVM_GET_SREGS)               \
  X(23, KVM_GET_SREGS2)              \
  X(24, KVM_GET_TSC_KHZ)             \
  X(25, KVM_GET_VCPU_EVENTS)         \
  X(26, KVM_GET_XCRS)                \
  X(27, KVM_GET_XSAVE)               \
  X(28, KVM_GET_XSAVE2)              \
  X(29, KVM_HAS_DEVICE_ATTR)         \
  X(30, KVM_KVMCLOCK_CTRL)           \
  X(31, KVM_MEMORY_ENCRYPT_OP)       \
  X(32, KVM_PRE_FAULT_MEMORY)        \
  X(33, KVM_SET_CLOCK)               \
  X(34, KVM_SET_CPUID2)              \
  X(35, KVM_SET_DEBUGREGS)           \
  X(36, KVM_SET_DEVICE_ATTR)         \
  X(37, KVM_SET_FPU)                 \
  X(38, KVM_SET_IRQCHIP)             \
  X(39, KVM_SET_LAPIC)               \
  X(40, KVM_SET_MEMORY_ATTRIBUTES)   \
  X(41, KVM_SET_MP_STATE)            \
  X(42, KVM_SET_MSRS)                \
  X(43, KVM_SET_NESTED_STATE)        \
  X(44, KVM_SET_PIT2)                \
  X(45, KVM_SET_REGS)                \
  X(46, KVM_SET_SREGS)               \
  X(47, KVM_SET_SREGS2)              \
  X(48, KVM_SET_TSC_KHZ)             \
  X(49, KVM_SET_USER_MEMORY_REGION)  \
  X(50, KVM_SET_USER_MEMORY_REGION2) \
  X(51, KVM_SET_VCPU_EVENTS)         \
  X(52, KVM_SET_XCRS)                \
  X(53, KVM_SET_XSAVE)

/* REHOME_TRACE_KVM_RUN, ... */
#define REHOME_TRACE_NAMED(number, name) REHOME_TRACE_##name = (number),
enum rehome_trace_operation { REHOME_TRACE_OPERATIONS(REHOME_TRACE_NAMED) };
#undef REHOME_TRACE_NAMED

/* Not in the list above: KVM_LINK_GUEST_MEMFD has no number of its own in any kernel, so its
 * request cannot be known when this is compiled. */
#define REHOME_TRACE_LINK_GUEST_MEMFD 54u
/* An ioctl that has no number here. */
#define REHOME_TRACE_OTHER 55u
#define REHOME_TRACE_LAST_OPERATION 55u

#endif /* REHOME_VMM_AGENT_TRACE_OPERATIONS_H_ */
