// Streams, events and CUDA graphs.
#include <chrono>
#include <deque>
#include <memory>
#include <set>
#include <thread>

#include "stand_in.h"

namespace stand_in {

struct Stream {
  std::deque<Operation> queue;
  bool captures = false;
  bool valid = true;
  std::thread::id by;
  std::vector<Operation> captured;
};

struct Event {
  bool timed;
  // How often it was recorded, and the last of these that the stream has reached.
  uint64_t recorded = 0, reached = 0;
  double seconds = 0;
  Stream* stream = nullptr;
};

struct Graph {
  std::vector<Operation> operations;
};

struct Executable {
  std::shared_ptr<const std::vector<Operation>> operations;
  bool uploaded = false;
};

namespace {

std::set<Stream*> streams;
std::set<std::shared_ptr<Event>> events;
std::set<Graph*> graphs;
std::set<Executable*> executables;

std::shared_ptr<Event> find(void* event) {
  for (const auto& e : events) {
    if (e.get() == event) return e;
  }
  return nullptr;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void run_one(Stream& stream) {
  const Operation operation = std::move(stream.queue.front());
  stream.queue.pop_front();
  // After an error nothing runs any more; what waits for it must not wait for ever.
  if (broken == SUCCESS) broken = operation.run();
}

void finish(Stream& stream) {
  while (!stream.queue.empty()) run_one(stream);
}

}  // namespace

Result enqueue(Stream* stream, Operation operation) {
  if (!streams.count(stream)) return violation(INVALID_HANDLE, "%s on an unknown stream", operation.name);
  if (!stream->captures) {
    stream->queue.push_back(std::move(operation));
    return SUCCESS;
  }
  if (stream->by != std::this_thread::get_id()) {
    stream->valid = false;
    return violation(CAPTURE_UNSUPPORTED, "%s on a stream that another thread captures", operation.name);
  }
  stream->captured.push_back(std::move(operation));
  return SUCCESS;
}

bool capturing() {
  for (const Stream* s : streams) {
    if (s->captures && s->by == std::this_thread::get_id()) return true;
  }
  return false;
}

void invalidate_capture() {
  for (Stream* s : streams) {
    if (s->captures && s->by == std::this_thread::get_id()) s->valid = false;
  }
}

bool idle() {
  for (const Stream* s : streams) {
    if (!s->queue.empty()) return false;
  }
  return true;
}

void progress() {
  for (Stream* s : streams) {
    // Now and then all of it; mostly nothing.
    const uint64_t r = random_number();
    size_t n = r % 8 == 0 ? s->queue.size() : r % 8 == 1 ? 1 : 0;
    for (; n > 0 && !s->queue.empty(); n--) run_one(*s);
  }
}

}  // namespace stand_in

using namespace stand_in;

// ---- streams

API Result cuStreamCreate(Stream** stream, unsigned) {
  Call call("cuStreamCreate");
  if (call.refused) return call.refused;
  *stream = new Stream;
  streams.insert(*stream);
  count("streams not given back");
  return SUCCESS;
}

API Result cuStreamDestroy_v2(Stream* stream) {
  Call call("cuStreamDestroy", Call::context_outside_capture);
  if (!streams.count(stream)) return violation(INVALID_HANDLE, "cuStreamDestroy of an unknown stream");
  if (!stream->queue.empty()) violation(SUCCESS, "a stream is destroyed before its work is finished");
  finish(*stream);
  streams.erase(stream);
  delete stream;
  count("streams not given back", -1);
  return call.refused;
}

API Result cuStreamSynchronize(Stream* stream) {
  Call call("cuStreamSynchronize", Call::context_outside_capture);
  if (call.refused) return call.refused;
  if (!streams.count(stream)) return violation(INVALID_HANDLE, "cuStreamSynchronize of an unknown stream");
  count("waits for a stream");
  finish(*stream);
  return broken;
}

// ---- events

API Result cuEventCreate(void** event, unsigned flags) {
  Call call("cuEventCreate");
  if (call.refused) return call.refused;
  auto made = std::make_shared<Event>();
  made->timed = !(flags & 2);  // CU_EVENT_DISABLE_TIMING
  events.insert(made);
  *event = made.get();
  count("events not given back");
  return SUCCESS;
}

API Result cuEventDestroy_v2(void* event) {
  Call call("cuEventDestroy");
  const auto found = find(event);
  if (!found) return violation(INVALID_HANDLE, "cuEventDestroy of an unknown event");
  events.erase(found);
  count("events not given back", -1);
  return call.refused;
}

API Result cuEventRecord(void* event, Stream* stream) {
  Call call("cuEventRecord", Call::context_outside_capture);
  if (call.refused) return call.refused;
  const auto found = find(event);
  if (!found) return violation(INVALID_HANDLE, "cuEventRecord of an unknown event");
  found->stream = stream;
  const uint64_t turn = ++found->recorded;
  return enqueue(stream, {"cuEventRecord", [found, turn] {
                            found->reached = turn;
                            found->seconds = now();
                            return SUCCESS;
                          }});
}

API Result cuEventQuery(void* event) {
  Call call("cuEventQuery", Call::context_outside_capture);
  if (call.refused) return call.refused;
  const auto found = find(event);
  if (!found) return violation(INVALID_HANDLE, "cuEventQuery of an unknown event");
  return found->reached == found->recorded ? SUCCESS : NOT_READY;
}

API Result cuEventSynchronize(void* event) {
  Call call("cuEventSynchronize", Call::context_outside_capture);
  if (call.refused) return call.refused;
  const auto found = find(event);
  if (!found) return violation(INVALID_HANDLE, "cuEventSynchronize of an unknown event");
  if (!found->recorded) violation(SUCCESS, "a wait for an event that was never recorded");
  // No further than the event.
  while (found->reached != found->recorded && broken == SUCCESS && !found->stream->queue.empty()) {
    run_one(*found->stream);
  }
  return broken;
}

API Result cuEventElapsedTime(float* milliseconds, void* start, void* end) {
  Call call("cuEventElapsedTime", Call::context_outside_capture);
  if (call.refused) return call.refused;
  const auto a = find(start), b = find(end);
  if (!a || !b || !a->timed || !b->timed) return violation(INVALID_HANDLE, "the time between events that are not timed");
  if (a->reached != a->recorded || b->reached != b->recorded) return NOT_READY;
  count("spans timed");
  *milliseconds = static_cast<float>(1e3 * (b->seconds - a->seconds));
  return SUCCESS;
}

// ---- graphs

API Result cuStreamBeginCapture_v2(Stream* stream, int mode) {
  Call call("cuStreamBeginCapture", Call::context_outside_capture);
  if (call.refused) return call.refused;
  if (!streams.count(stream) || stream->captures) return violation(INVALID_HANDLE, "cuStreamBeginCapture of this stream");
  // CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: the loader's threads go on with what they do.
  if (mode != 1) violation(SUCCESS, "capture mode %d is not thread-local", mode);
  stream->captures = stream->valid = true;
  stream->by = std::this_thread::get_id();
  stream->captured.clear();
  return SUCCESS;
}

API Result cuStreamEndCapture(Stream* stream, Graph** graph) {
  Call call("cuStreamEndCapture");
  *graph = nullptr;
  if (!streams.count(stream) || !stream->captures) return violation(INVALID_VALUE, "cuStreamEndCapture without a begin");
  if (stream->by != std::this_thread::get_id()) return violation(CAPTURE_WRONG_THREAD, "another thread ends a capture");
  stream->captures = false;
  if (!stream->valid) return CAPTURE_INVALIDATED;
  if (call.refused) return call.refused;
  *graph = new Graph{std::move(stream->captured)};
  stream->captured.clear();
  graphs.insert(*graph);
  count("graphs captured");
  count("graphs not given back");
  return SUCCESS;
}

API Result cuGraphInstantiateWithFlags(Executable** executable, Graph* graph, unsigned long long flags) {
  Call call("cuGraphInstantiate");
  if (call.refused) return call.refused;
  if (!graphs.count(graph) || flags) return violation(INVALID_VALUE, "cuGraphInstantiate of an unknown graph, or with flags");
  *executable = new Executable{std::make_shared<const std::vector<Operation>>(graph->operations)};
  executables.insert(*executable);
  count("graphs not given back");
  return SUCCESS;
}

API Result cuGraphDestroy(Graph* graph) {
  Call call("cuGraphDestroy");
  if (!graphs.erase(graph)) return violation(INVALID_VALUE, "cuGraphDestroy of an unknown graph");
  delete graph;
  count("graphs not given back", -1);
  return call.refused;
}

API Result cuGraphUpload(Executable* executable, Stream*) {
  Call call("cuGraphUpload", Call::context_outside_capture);
  if (call.refused) return call.refused;
  if (!executables.count(executable)) return violation(INVALID_VALUE, "cuGraphUpload of an unknown graph");
  executable->uploaded = true;
  return SUCCESS;
}

API Result cuGraphLaunch(Executable* executable, Stream* stream) {
  Call call("cuGraphLaunch", Call::context_outside_capture);
  if (call.refused) return call.refused;
  if (!executables.count(executable)) return violation(INVALID_VALUE, "cuGraphLaunch of an unknown graph");
  if (!executable->uploaded) violation(SUCCESS, "a graph is uploaded by its first launch");
  count("graphs launched");
  for (const Operation& operation : *executable->operations) {
    if (const Result r = enqueue(stream, operation)) return r;
  }
  return SUCCESS;
}

API Result cuGraphExecDestroy(Executable* executable) {
  Call call("cuGraphExecDestroy");
  if (!executables.erase(executable)) return violation(INVALID_VALUE, "cuGraphExecDestroy of an unknown graph");
  delete executable;
  count("graphs not given back", -1);
  return call.refused;
}
