// Parallel loop over independent tiles: each thread takes the next tile that no thread has taken.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace secondgram::cpu {

// Runs a function on the threads of an OpenMP runtime (GOMP_parallel): for short work between calls of a library whose
// threads keep spinning after each call and would compete with new ones.
using Team = void (*)(void (*function)(void*), void* data, unsigned threads, unsigned flags);

// make() is called once in every thread and returns a function that owns the thread's workspace; these functions are called
// with tiles 0 .. total - 1, each once. An exception of a tile ends the work and is thrown again here.
template <typename Make>
void parallel_for(std::size_t total, unsigned threads, const Make& make, Team team = nullptr) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr failure;
  std::mutex mutex;
  const auto work = [&] {
    try {
      auto run = make();
      for (std::size_t tile; (tile = next.fetch_add(1)) < total;) run(tile);
    } catch (...) {
      next = total;
      const std::lock_guard<std::mutex> lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  std::vector<std::thread> workers;
  const std::size_t count = std::min<std::size_t>(std::max(threads, 1u), total);
  if (team != nullptr && count > 1) {
    team([](void* data) { (*static_cast<decltype(work)*>(data))(); }, const_cast<void*>(static_cast<const void*>(&work)),
         static_cast<unsigned>(count), 0);
    if (failure) std::rethrow_exception(failure);
    return;
  }
  workers.reserve(count);
  for (std::size_t i = 1; i < count; ++i) {
    try {
      workers.emplace_back(work);
    } catch (const std::system_error&) {
      break;  // the system refused a thread: the others do its share
    }
  }
  work();
  for (std::thread& worker : workers) worker.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace secondgram::cpu
