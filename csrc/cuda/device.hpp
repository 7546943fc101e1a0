// A CUDA device as plan.hpp needs one. No CUDA header here, and nothing that needs a driver until it is called.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "plan.hpp"

namespace secondgram::cuda {

// nvcc's version: 13.0.88.
std::string compiler();

// How many devices there are; `reason` says why where there are none.
int count_devices(std::string* reason);

class Device {
 public:
  // A recorded list of launches.
  using Recording = std::shared_ptr<void>;

  // Throws std::runtime_error where the device cannot be used, as everything here does where the device fails.
  explicit Device(int number);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const std::string& name() const { return name_; }
  int clock_khz() const { return clock_khz_; }
  // As things are now: free memory changes.
  Limits limits() const;

  // Held by a request: one at a time.
  std::mutex& busy() { return busy_; }
  // Waits for `stream`: arrays on the device are ready then.
  void begin(std::uintptr_t stream);
  // Memory that is kept from one request to the next, and given back.
  unsigned char* reserve(std::size_t bytes);
  void release();
  // Content of that memory from one request to the next; dropped with the memory, or when it is used otherwise.
  Kept<Recording>& kept() { return kept_; }
  void upload(unsigned char* to, const void* from, std::size_t bytes);
  // Copies the inputs of the next chunk to `landing`, `bytes` in all, while a chunk is under way; two buffers alternate.
  // Arrays in the host's memory have been read when this returns.
  void stage(unsigned turn, unsigned char* landing, std::size_t bytes, const std::vector<Input>& inputs);
  // From there to where the chain reads it, once it has come.
  void hand_over(unsigned turn, unsigned char* to, const unsigned char* landing, std::size_t bytes);
  void download(float* to, std::size_t pitch, const unsigned char* from, std::size_t bytes, std::size_t count);
  void launch(const Launch& one);
  Recording record(const std::vector<Launch>& launches);
  void replay(const Recording& recording);
  // Returns when at most one replay or launch before this call is still under way; asks `report` now and then whether
  // to go on, and throws Cancelled where it says no.
  void wait(const std::function<bool()>& report);
  void finish();

  // Milliseconds in which every multiprocessor gets `rounds` stages of `of_a_stage` squares, out of `squares` different
  // ones, in clusters of `cluster` blocks. Throws std::runtime_error where a copy brought something else.
  float stream(std::uint32_t squares, std::uint32_t of_a_stage, std::uint32_t stages, std::uint32_t cluster,
               std::uint32_t rounds);

 private:
  struct State;
  std::unique_ptr<State> state_;
  std::mutex busy_;
  Kept<Recording> kept_;
  std::string name_;
  Limits limits_;
  int number_, clock_khz_ = 0;
};

struct Cancelled {};

}  // namespace secondgram::cuda
