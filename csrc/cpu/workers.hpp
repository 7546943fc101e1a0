// Independent tiles of work, shared by threads: each takes the next one that nobody has.
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

// Runs a function in some threads that are there already, GOMP_parallel of an OpenMP runtime: for short work between
// another library's, whose threads go on looking for more of theirs and would stand in the way of new ones.
using Team = void (*)(void (*function)(void*), void* data, unsigned threads, unsigned flags);

// make() is called once in every thread, for its scratch; what it returns is called with tiles 0 .. total - 1, each once.
// What a tile throws ends the work and is thrown again here.
template <typename Make>
void share_tiles(std::size_t total, unsigned threads, const Make& make, Team team = nullptr) {
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
