// Modules, and kernels run as the emulated device runs them.
#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>
#include <thread>

#include "emulator.h"
#include "stand_in.h"

namespace stand_in {

struct Function {
  std::string name;
  const emulator::Entry* entry;
  void (*run)(const emulator::Entry*, emulator::Run*);
  // Bytes of shared memory that the kernel declares, and that a launch may add.
  size_t declared, most;
};

struct Module {
  // Kernels of the cubin with the shared memory that they declare.
  std::map<std::string, size_t> kernels;
  std::vector<Function*> functions;
};

namespace {

// Shared memory of a block without asking, and with it, on sm_90.
constexpr size_t SHARED = 48 << 10, SHARED_ASKED = 227 << 10;
// Bytes of a fiber's stack, threads of a block, bytes around dynamic shared memory: as in `emulated/library.rs`.
constexpr size_t STACK = 64 << 10, THREADS = 1024, GUARD = emulator::SHARED_GUARD;

std::set<Module*> modules;
std::map<const Function*, Module*> functions;

// The emulated device's libraries.
const std::vector<void*>& libraries() {
  static const auto* const all = [] {
    auto* const found = new std::vector<void*>;
    const char* list = getenv("CLIP_DISTILL_STAND_IN_LIBRARIES");
    std::string rest = list ? list : "";
    while (!rest.empty()) {
      const size_t end = std::min(rest.find(':'), rest.size());
      if (void* library = dlopen(rest.substr(0, end).c_str(), RTLD_NOW | RTLD_LOCAL)) found->push_back(library);
      rest.erase(0, end + 1);
    }
    return found;
  }();
  return *all;
}

template <class T>
T at(const char* file, size_t offset) {
  T value;
  memcpy(&value, file + offset, sizeof value);
  return value;
}

// The kernels of a cubin: an ELF64 file with sections `.text.NAME` and, where it declares any, `.nv.shared.NAME`.
bool read(const char* file, std::map<std::string, size_t>& kernels) {
  if (memcmp(file, "\177ELF\2\1", 6) != 0) return false;
  const char* table = file + at<uint64_t>(file, 0x28);
  const size_t size = at<uint16_t>(file, 0x3a), count = at<uint16_t>(file, 0x3c), names = at<uint16_t>(file, 0x3e);
  const char* text = file + at<uint64_t>(table + names * size, 0x18);
  const std::string code = ".text.", shared = ".nv.shared.";
  for (size_t i = 0; i < count; i++) {
    const std::string name = text + at<uint32_t>(table + i * size, 0);
    if (name.rfind(code, 0) == 0) kernels[name.substr(code.size())];
  }
  for (size_t i = 0; i < count; i++) {
    const std::string name = text + at<uint32_t>(table + i * size, 0);
    const auto kernel = name.rfind(shared, 0) == 0 ? kernels.find(name.substr(shared.size())) : kernels.end();
    if (kernel != kernels.end()) kernel->second = at<uint64_t>(table + i * size, 0x20);
  }
  return !kernels.empty();
}

struct Worker {
  char* stacks = static_cast<char*>(
      mmap(nullptr, STACK * THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  char* shared = static_cast<char*>(aligned_alloc(128, SHARED_ASKED + 2 * GUARD));
};

struct Grid {
  unsigned blocks[3], threads, shared;
};

Result run(const Function& function, const Grid& grid, const std::vector<uint64_t>& arguments) {
  static auto* const workers = new std::vector<Worker>(std::max(1u, std::min(8u, std::thread::hardware_concurrency())));
  static uint64_t launches;
  const uint64_t seed = ++launches;
  uint64_t next = 0;
  unsigned stopped = 0;
  const uint64_t blocks = uint64_t(grid.blocks[0]) * grid.blocks[1] * grid.blocks[2];
  const size_t helpers = std::min<uint64_t>({workers->size(), blocks, (blocks * grid.threads + 2047) / 2048});
  std::vector<emulator::Run> runs(helpers);
  const auto work = [&](size_t i) {
    emulator::Run& run = runs[i];
    run = {};
    run.arguments = arguments.data();
    std::copy(grid.blocks, grid.blocks + 3, run.grid);
    run.block[0] = grid.threads, run.block[1] = run.block[2] = 1;
    run.dynamic_bytes = grid.shared;
    run.seed = seed;
    run.next = &next;
    run.stopped = &stopped;
    run.stacks = (*workers)[i].stacks;
    run.stack_bytes = STACK;
    run.dynamic_shared = (*workers)[i].shared + GUARD;
    function.run(function.entry, &run);
  };
  std::vector<std::thread> others;
  for (size_t i = 1; i < helpers; i++) others.emplace_back(work, i);
  work(0);
  for (auto& thread : others) thread.join();
  for (const auto& run : runs) {
    if (run.fault.found) return violation(ILLEGAL_ADDRESS, "%s: %s", function.name.c_str(), run.fault.what);
  }
  return SUCCESS;
}

}  // namespace

}  // namespace stand_in

using namespace stand_in;

API Result cuModuleLoadData(Module** module, const void* image) {
  // Loading may wait for all unfinished work.
  Call call("cuModuleLoadData", Call::context_outside_capture);
  if (call.refused) return call.refused;
  auto* const made = new Module;
  if (!read(static_cast<const char*>(image), made->kernels)) {
    delete made;
    return violation(INVALID_IMAGE, "cuModuleLoadData of something other than a cubin");
  }
  modules.insert(made);
  *module = made;
  count("modules loaded");
  count("modules not given back");
  return SUCCESS;
}

API Result cuModuleGetFunction(Function** function, Module* module, const char* name) {
  Call call("cuModuleGetFunction", Call::context_outside_capture);
  if (call.refused) return call.refused;
  if (!modules.count(module)) return violation(INVALID_HANDLE, "cuModuleGetFunction of an unknown module");
  const auto kernel = module->kernels.find(name);
  if (kernel == module->kernels.end()) return NOT_FOUND;
  for (void* library : libraries()) {
    const auto* entry = static_cast<const emulator::Entry*>(dlsym(library, (std::string(name) + "_entry").c_str()));
    if (!entry) continue;
    const auto run = reinterpret_cast<void (*)(const emulator::Entry*, emulator::Run*)>(dlsym(library, "emulator_run"));
    *function = new Function{name, entry, run, kernel->second, SHARED - kernel->second};
    module->functions.push_back(*function);
    functions[*function] = module;
    return SUCCESS;
  }
  return violation(NOT_FOUND, "no library has %s: see CLIP_DISTILL_STAND_IN_LIBRARIES", name);
}

API Result cuModuleUnload(Module* module) {
  Call call("cuModuleUnload", Call::context_outside_capture);
  if (!modules.erase(module)) return violation(INVALID_HANDLE, "cuModuleUnload of an unknown module");
  if (!idle()) violation(SUCCESS, "a module is unloaded before its work is finished");
  for (Function* function : module->functions) {
    functions.erase(function);
    delete function;
  }
  delete module;
  count("modules not given back", -1);
  return call.refused;
}

API Result cuFuncSetAttribute(Function* function, int attribute, int value) {
  Call call("cuFuncSetAttribute");
  if (call.refused) return call.refused;
  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
  if (!functions.count(function) || attribute != 8) return violation(INVALID_VALUE, "function attribute %d", attribute);
  if (value < 0 || value + function->declared > SHARED_ASKED) {
    return violation(INVALID_VALUE, "%s asks for %d bytes of shared memory beside %zu", function->name.c_str(), value,
                     function->declared);
  }
  function->most = value;
  return SUCCESS;
}

API Result cuLaunchKernel(Function* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                          unsigned threads_z, unsigned shared, Stream* stream, void** parameters, void** extra) {
  Call call("cuLaunchKernel");
  if (call.refused) return call.refused;
  if (!functions.count(function)) return violation(INVALID_HANDLE, "cuLaunchKernel of an unknown function");
  const char* name = function->name.c_str();
  if (!x || !y || !z || x > 0x7fffffff || y > 65535 || z > 65535) {
    return violation(INVALID_VALUE, "%s in a grid of %u, %u, %u blocks", name, x, y, z);
  }
  if (!threads || threads > function->entry->threads || threads_y != 1 || threads_z != 1 || extra) {
    return violation(OUT_OF_RESOURCES, "%s with %u threads a block", name, threads);
  }
  if (shared > function->most) {
    return violation(INVALID_VALUE, "%s with %u bytes of shared memory of %zu", name, shared, function->most);
  }
  // Arguments are read before the call returns.
  std::vector<uint64_t> arguments((function->entry->argument_bytes + 7) / 8);
  memcpy(arguments.data(), parameters[0], function->entry->argument_bytes);
  count(capturing() ? "launches captured" : "launches");
  const Function copy = *function;
  const Grid grid{{x, y, z}, threads, shared};
  return enqueue(stream, {"cuLaunchKernel", [=] { return run(copy, grid, arguments); }});
}
