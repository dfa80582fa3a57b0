// Fibers: stacks between which one thread of the system switches in a few nanoseconds.
#pragma once

// Saves the registers that a call preserves on the stack, leaves its pointer at `save`, and goes on where `load`
// was left so.
extern "C" void emulator_switch(void** save, void* load);

#if defined(__x86_64__)
asm(R"(.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, . - emulator_switch
)");
#else
#error "the emulated device switches fibers by hand and knows how on x86-64 only"
#endif

namespace emulator {

// A stack that ends at `top` (a multiple of 16) and from which the first switch enters `start`.
inline void* fresh_stack(char* top, void (*start)()) {
  void** at = reinterpret_cast<void**>(top);
  *--at = nullptr;  // where a return address would be: a function begins 8 bytes off a multiple of 16
  *--at = reinterpret_cast<void*>(start);
  for (int saved = 0; saved < 6; saved++) *--at = nullptr;
  return at;
}

}  // namespace emulator
