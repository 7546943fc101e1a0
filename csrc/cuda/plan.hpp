// The plan of a request on a GPU: weights as squares, the place of activations, the products of each launch, and the chain
// of launches for one chunk of people after another. No CUDA here: the emulation executes the same plan.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "fragments.hpp"
#include "block_program.hpp"

namespace secondgram::cuda {

struct Array {
  const float* data;
  std::size_t rows, columns;
};

struct Shape {
  std::size_t features, conditions, embedding, widths[3];
  std::size_t block_in(int b) const {
    const std::size_t in[6] = {features, widths[0], widths[1], widths[2], widths[1], widths[0]};
    return in[b];
  }
  std::size_t block_out(int b) const {
    const std::size_t out[6] = {widths[0], widths[1], widths[2], widths[1], widths[0], features};
    return out[b];
  }
};

// One matrix of weights with its bias, as byte offsets into the packed network.
struct Product {
  std::size_t weight = 0, bias = 0;
  std::uint32_t n_sources = 1, source_panels[2] = {}, panels = 0, width = 0;
  std::uint32_t inputs() const { return source_panels[0] + source_panels[1]; }
};

// A folded denoiser as squares, then its biases in float32, each filled up to whole squares with zeros.
struct PackedNetwork {
  Shape shape;
  const std::uint64_t id = next_id();  // no other network's
  Product condition[2], embed[6], inner[6], join[6], context[6], bottleneck[4], out;
  std::vector<unsigned char> bytes;

  // `arrays` in the order in which secondgram/ops/native.py lists them.
  PackedNetwork(const Shape& s, const std::vector<Array>& arrays) : shape(s) {
    std::size_t place = 0;
    const auto next = [&](std::size_t rows, std::size_t columns) {
      if (place == arrays.size()) throw std::invalid_argument("too few arrays for a denoiser");
      const Array& a = arrays[place++];
      if (a.rows != rows || a.columns != columns)
        throw std::invalid_argument("array " + std::to_string(place - 1) + " of a denoiser has another shape");
      return a.data;
    };
    const auto dense = [&](Product& p, std::size_t in, std::size_t out) {
      const float* weight = next(in, out);
      add(p, {{weight, in, out}}, next(1, out));
    };
    const std::size_t e = s.embedding;
    dense(condition[0], s.conditions, e);
    dense(condition[1], e, e);
    for (int b = 0; b < 6; ++b) {
      const std::size_t in = s.block_in(b), out = s.block_out(b);
      dense(inner[b], in, e);
      const float* image = next(e, out);
      dense(embed[b], e, e);
      dense(context[b], e, out);
      std::vector<Array> both{{image, e, out}};
      if (b >= 3) both.push_back({next(out, out), out, out});
      add(join[b], both, nullptr);
    }
    for (Product& p : bottleneck) dense(p, s.widths[2], s.widths[2]);
    dense(out, s.features, s.features);
    if (place != arrays.size()) throw std::invalid_argument("too many arrays for a denoiser");
    for (const auto& [product, values] : biases_) {
      product->bias = bytes.size();
      bytes.resize(bytes.size() + product->panels * kSide * sizeof(float));
      if (!values.empty()) std::memcpy(bytes.data() + product->bias, values.data(), values.size() * sizeof(float));
    }
    biases_.clear();
  }
  PackedNetwork(const PackedNetwork&) = delete;

  std::uint32_t embedding_panels() const { return squares_of(shape.embedding); }
  std::uint32_t context_panels() const {
    std::uint32_t total = 0;
    for (int b = 0; b < 6; ++b) total += context[b].panels;
    return total;
  }

 private:
  static std::uint64_t next_id() {
    static std::atomic<std::uint64_t> last{0};
    return ++last;
  }
  void add(Product& p, const std::vector<Array>& weights, const float* bias) {
    p.n_sources = static_cast<std::uint32_t>(weights.size());
    p.width = static_cast<std::uint32_t>(weights[0].rows);
    const std::size_t outputs = weights[0].columns;
    p.panels = squares_of(outputs);
    for (std::size_t i = 0; i < weights.size(); ++i) p.source_panels[i] = squares_of(weights[i].rows);
    p.weight = bytes.size();
    bytes.resize(bytes.size() + std::size_t{p.panels} * p.inputs() * kSquareBytes);
    std::uint32_t first = 0;
    for (std::size_t i = 0; i < weights.size(); first += p.source_panels[i++])
      pack_weight(weights[i].data, weights[i].rows, outputs, first, p.inputs(), bytes.data() + p.weight);
    biases_.emplace_back(&p, bias == nullptr ? std::vector<float>() : std::vector<float>(bias, bias + outputs));
  }
  std::vector<std::pair<Product*, std::vector<float>>> biases_;
};

// Limits of a device for a launch.
struct Limits {
  std::uint32_t shared_bytes = 232448;  // of a block, at most; sm_90's
  std::uint32_t processors = 132;
  std::size_t memory_bytes = std::size_t{8} << 30;
  bool groups = true;  // its kernels have clusters, and tiles of four columns (gpu.cuh)
};

struct Options {
  bool persistent = false;
  bool recorded = true;  // steps of the chain that is not persistent are recorded once and kept
  // Squares of rows and columns of a block's tile, stages and blocks of a cluster; 0 chooses.
  std::uint32_t rows = 0, columns = 0, stages = 0, cluster = 0;
  std::size_t chunk_rows = 0;
  std::uint32_t step_block = 0;  // steps of one persistent launch
  // The embedding's term of a block: computed before for all draws of a person (1), or among the block's own products
  // (2), possible for one draw only. 0 chooses; no bit depends on it.
  std::uint32_t context = 0;
};

// Activations of the network, by their place in Tile::at.
enum Buffer { kState, kInner, kFirst, kSecond, kThird, kFourth, kUp1, kUp2, kUp3, kBuffers };

// One product of the network by name: its inputs, its output and its epilogue.
struct Line {
  const Product* product;
  int sources[2];
  int target;
  Epilogue epilogue;
  int block;  // its term of the embedding is added, -1 for none
  const Product* embedding = nullptr;  // computes that term here
};

inline std::vector<Line> lines_of(const PackedNetwork& n, bool embedded = false) {
  std::vector<Line> lines;
  const auto block = [&](int b, int from, int skip, int to) {
    lines.push_back({&n.inner[b], {from, -1}, kInner, Epilogue::normed, -1});
    lines.push_back({&n.join[b], {kInner, skip}, to, Epilogue::context, b, embedded ? &n.context[b] : nullptr});
  };
  block(0, kState, -1, kFirst);
  block(1, kFirst, -1, kSecond);
  block(2, kSecond, -1, kThird);
  for (int i = 0; i < 4; i += 2) {
    lines.push_back({&n.bottleneck[i], {kThird, -1}, kFourth, Epilogue::silu, -1});
    lines.push_back({&n.bottleneck[i + 1], {kFourth, -1}, kThird, Epilogue::residual, -1});
  }
  block(3, kThird, kSecond, kUp1);
  block(4, kUp1, kFirst, kUp2);
  block(5, kUp2, kState, kUp3);
  lines.push_back({&n.out, {kUp3, -1}, kState, Epilogue::solver, -1});
  return lines;
}

inline std::uint32_t panels_of(const PackedNetwork& n, int buffer) {
  const Shape& s = n.shape;
  const std::size_t widths[kBuffers] = {s.features,  s.embedding, s.widths[0], s.widths[1], s.widths[2],
                                        s.widths[2], s.widths[1], s.widths[0], s.features};
  return squares_of(widths[buffer]);
}

// Layout of a block for some lines: the activations that stay in shared memory, and the bytes it moves.
struct Tile {
  std::uint32_t rows, columns, stages, cluster;
  std::uint32_t shared[kBuffers];    // offset in the first row of squares' strip, or kNowhere
  std::uint32_t strip = 0;           // squares from one row of squares' strip to the next
  std::uint32_t shared_bytes = 0;    // of a block
  std::size_t weight_bytes = 0;      // a block and step, from L2, each block of a cluster bringing its part
  std::size_t activation_bytes = 0;  // a block and step, streamed in
  std::size_t received_bytes = 0;    // a block and step, arriving in shared memory
};

inline std::uint32_t passes_of(std::uint32_t panels, std::uint32_t columns) { return (panels + columns - 1) / columns; }

// Lines [begin, end) for blocks of this size. Activations that only these lines read and write may stay in shared
// memory: the ones that are read soon after first, each where nothing lies that is wanted at the same time.
inline Tile lay_out(const PackedNetwork& n, const std::vector<Line>& lines, std::size_t begin, std::size_t end, Tile tile,
                    std::uint32_t limit) {
  std::uint32_t wanted[kBuffers] = {};  // a bit for each line between whose beginning and end it holds something
  bool inside[kBuffers];
  for (int b = 0; b < kBuffers; ++b) {
    // Whether a line needs the content of b; -1 for lines that do not touch it.
    const auto needs = [&](std::size_t i) {
      const Line& line = lines[i];
      if (line.sources[0] == b || line.sources[1] == b) return 1;
      return line.target != b ? -1 : line.epilogue == Epilogue::residual ? 1 : 0;
    };
    // It never carries anything into these lines or out of them: the next to touch it only writes.
    inside[b] = b != kState;
    for (const std::size_t from : {begin, end})
      for (std::size_t i = 0; i < lines.size(); ++i)
        if (const int need = needs((from + i) % lines.size()); need >= 0) {
          inside[b] = inside[b] && need == 0;
          break;
        }
    std::size_t last = begin;
    for (std::size_t i = begin; i < end; ++i) {
      const int need = needs(i);
      for (std::size_t at = need == 1 ? last : i; need >= 0 && at <= i; ++at) wanted[b] |= 1u << at;
      if (need >= 0) last = i;
    }
  }
  // Groups of warps take a row of squares each and do not wait for one another. None may write where another may still
  // read, so each row of squares has a strip of its own.
  const std::uint32_t base = kStages + tile.stages * stage_bytes(tile.rows, tile.columns);
  const std::uint32_t strip_limit = base + (limit - base) / tile.rows / kSquareBytes * kSquareBytes;
  std::uint32_t top = base, ends[kBuffers] = {};
  std::fill_n(tile.shared, static_cast<int>(kBuffers), kNowhere);
  for (const int b : {kInner, kFourth, kThird, kSecond, kUp1, kFirst, kUp2, kUp3}) {
    if (!inside[b]) continue;
    const std::uint32_t bytes = panels_of(n, b) * kSquareBytes;
    std::vector<std::uint32_t> candidates{base};
    for (int other = 0; other < kBuffers; ++other)
      if (tile.shared[other] != kNowhere) candidates.push_back(ends[other]);
    std::sort(candidates.begin(), candidates.end());
    for (const std::uint32_t at : candidates) {
      bool free = at + bytes <= strip_limit;
      for (int other = 0; other < kBuffers; ++other)
        if (tile.shared[other] != kNowhere && (wanted[b] & wanted[other]) != 0 && at < ends[other] &&
            tile.shared[other] < at + bytes)
          free = false;
      if (!free) continue;
      tile.shared[b] = at, ends[b] = at + bytes;
      top = std::max(top, at + bytes);
      break;
    }
  }
  tile.strip = (top - base) / kSquareBytes;
  tile.shared_bytes = base + tile.rows * (top - base);
  tile.weight_bytes = tile.activation_bytes = tile.received_bytes = 0;
  for (std::size_t i = begin; i < end; ++i) {
    const Product& p = *lines[i].product;
    const std::uint32_t added = lines[i].embedding == nullptr ? 0 : lines[i].embedding->inputs();
    const std::size_t weights = std::size_t{p.panels} * (p.inputs() + added) * kSquareBytes;
    std::size_t streamed = std::size_t{added} * kSquareBytes;
    for (std::uint32_t s = 0; s < p.n_sources; ++s)
      if (tile.shared[lines[i].sources[s]] == kNowhere) streamed += std::size_t{p.source_panels[s]} * kSquareBytes;
    streamed *= std::size_t{tile.rows} * passes_of(p.panels, tile.columns);
    tile.weight_bytes += weights / tile.cluster;
    tile.activation_bytes += streamed;
    tile.received_bytes += weights + streamed;
  }
  return tile;
}

// The tile sizes that are compiled.
struct TileSize {
  std::uint32_t rows, columns;
};
constexpr TileSize kTileSizes[] = {{1, 2}, {2, 2}, {2, 4}};

inline bool compiled(const TileSize& size, const Options& options, const Limits& limits) {
  return (options.rows == 0 || options.rows == size.rows) &&
         (options.columns == 0 || options.columns == size.columns) && (size.columns < 4 || limits.groups);
}

[[noreturn]] inline void refuse_tile() {
  throw std::invalid_argument("no tile of this size was compiled that fits the device's shared memory");
}

// For lines [begin, end) in one launch: of the sizes asked for or compiled, the one in which a row has the fewest bytes
// brought to it. Three stages keep two on their way; two are the least that overlaps copies with products.
inline Tile choose_tile(const PackedNetwork& n, const std::vector<Line>& lines, std::size_t begin, std::size_t end,
                        const Options& options, const Limits& limits, std::uint32_t cluster) {
  Tile best{};
  for (const TileSize& size : kTileSizes)
    for (std::uint32_t stages = 3; stages >= 2; --stages) {
      if (options.stages != 0) stages = std::max(2u, std::min(options.stages, kMostStages));
      if (!compiled(size, options, limits) ||
          kStages + stages * stage_bytes(size.rows, size.columns) > limits.shared_bytes) {
        if (options.stages != 0) break;
        continue;
      }
      const Tile tile =
          lay_out(n, lines, begin, end, {size.rows, size.columns, stages, cluster, {}}, limits.shared_bytes);
      if (best.rows == 0 || tile.received_bytes * best.rows < best.received_bytes * tile.rows) best = tile;
      break;
    }
  if (best.rows == 0) refuse_tile();
  return best;
}

// For launches of one product each, where nothing stays in shared memory: the largest tile with all the stages that
// fit. Large tiles would leave processors idle where there are few rows; but where tiles of two squares of rows have
// instructions of their own, whose sums may round otherwise, values must not depend on how many rows there are.
inline Tile choose_product_tile(const Options& options, const Limits& limits, std::size_t rows, std::uint32_t cluster) {
  Tile best{};
  for (const TileSize& size : kTileSizes) {
    const std::uint32_t fit = (limits.shared_bytes - kStages) / stage_bytes(size.rows, size.columns);
    const std::uint32_t stages =
        std::min(options.stages != 0 ? options.stages : kMostStages, std::min(fit, kMostStages));
    const bool idle =
        !limits.groups && options.rows == 0 && size.rows > 1 && rows < std::size_t{kSide} * limits.processors;
    if (!compiled(size, options, limits) || stages < 2 || (idle && best.rows != 0)) continue;
    best = {size.rows, size.columns, stages, cluster, {}};
  }
  if (best.rows == 0) refuse_tile();
  std::fill_n(best.shared, static_cast<int>(kBuffers), kNowhere);
  best.shared_bytes = kStages + best.stages * stage_bytes(best.rows, best.columns);
  return best;
}

// One launch. Blocks in y only where a program is split.
struct ProgramLaunch {
  BlockProgram program;
  std::uint32_t rows, columns, blocks_x, blocks_y, shared_bytes;
};
struct FragmentLaunch {
  std::variant<Begin, Pack, Embed, End> work;
  std::uint64_t most;  // units, at most
};
using Launch = std::variant<ProgramLaunch, FragmentLaunch>;

struct Request {
  const float* conditions;     // [people, conditions]
  const std::uint64_t* keys;   // [people]
  const std::uint32_t* draws;  // [n_draws] numbers
  std::size_t people, n_draws;
  std::uint64_t seed;
  const float* times;  // [steps, 6, embedding]
  const Coefficients* steps;
  std::size_t n_steps;
  const float* start;  // [people, features], null for zero
  float start_noise;
  std::uint32_t start_purpose, step_purpose;
  float* out;  // [n_draws, people, features]
};

// The plan of one request: how it is cut, where everything lies, and its launches.
class Plan {
 public:
  // Byte offsets into one piece of device memory.
  struct Memory {
    std::size_t network, times, coefficients, chunk, keys, draws, conditions, mean, condition, hidden, embedding,
        people, embedded, context, x, before, out, activations[kBuffers], landing[2], total;
    // The inputs of a chunk lie together, from `chunk` on.
    std::size_t input_bytes() const { return out - chunk; }
  };

  std::size_t people, draws;  // of a chunk
  std::uint32_t step_block;   // steps of one persistent launch, or of one context
  Memory at{};
  std::vector<Line> lines;
  Tile tile, middle;  // of the products, and of the narrow middle or the whole network
  bool persistent, embedded;

  Plan(const PackedNetwork& network, const Request& request, const Options& options, const Limits& limits)
      : persistent(options.persistent),
        embedded(options.context != 0 ? options.context == 2 : request.n_draws == 1),
        net_(network),
        request_(request) {
    if (options.context > 2) throw std::invalid_argument("context is 0, 1 or 2");
    if (embedded && request.n_draws != 1)
      throw std::invalid_argument("several draws of a person share what the embedding adds: context 2 takes one draw");
    lines = lines_of(network, embedded);
    // The narrow middle of the network, or all of it.
    const std::size_t begin = persistent ? 0 : kMiddleBegin, end = persistent ? lines.size() : kMiddleEnd;
    // Two blocks share the weights they load until a measurement says otherwise (Device::stream).
    const std::uint32_t cluster = !limits.groups ? 1 : options.cluster != 0 ? options.cluster : 2;
    if (cluster > 8 || (cluster & (cluster - 1)) != 0) throw std::invalid_argument("a cluster has 1, 2, 4 or 8 blocks");
    middle = choose_tile(network, lines, begin, end, options, limits, cluster);
    tile = choose_product_tile(options, limits, request.people * request.n_draws, cluster);
    cut(options, limits);
  }

  // -- launches, for memory that begins at `base` --------------------------------------------------------------------

  // Before the first step of a chunk: the first state, and the conditions' term of every block.
  std::vector<Launch> begin(unsigned char* base) const {
    std::vector<Launch> all;
    const std::uint32_t state = panels_of(net_, kState), e = net_.embedding_panels();
    all.push_back(
        FragmentLaunch{Begin{chunk(base), request_.start == nullptr ? nullptr : floats(base, at.mean), keys(base),
                          numbers(base), floats(base, at.x), before(base), base + at.activations[kState],
                          request_.start_noise, request_.start_purpose, features(), stride(), state},
                    std::uint64_t{row_squares()} * state});
    const std::uint32_t c = squares_of(net_.shape.conditions);
    all.push_back(FragmentLaunch{Pack{chunk(base), floats(base, at.conditions), base + at.condition,
                                   static_cast<std::uint32_t>(net_.shape.conditions), c},
                              std::uint64_t{people_squares()} * c});
    BlockProgram one = program(base, Domain::people, true);
    one.ops[one.n_ops++] = person_op(base, net_.condition[0], at.condition, c, 0, at.hidden, e, 0, Epilogue::silu);
    all.push_back(launch(one, tile, people_squares()));
    BlockProgram two = program(base, Domain::people, true);
    two.ops[two.n_ops++] = person_op(base, net_.condition[1], at.hidden, e, 0, at.embedding, e, 0, Epilogue::plain);
    all.push_back(launch(two, tile, people_squares()));
    BlockProgram three = program(base, Domain::people, true);
    for (std::uint32_t b = 0; b < 6; ++b)
      three.ops[three.n_ops++] =
          person_op(base, net_.embed[b], at.embedding, e, 0, at.people, 6 * e, b * e, Epilogue::plain);
    all.push_back(launch(three, tile, people_squares()));
    return all;
  }

  // The embedding's term of every block in steps [first, first + steps).
  std::vector<Launch> context(unsigned char* base, std::uint32_t first, std::uint32_t steps) const {
    const std::uint32_t e = net_.embedding_panels();
    std::vector<Launch> all;
    all.push_back(FragmentLaunch{
        Embed{chunk(base), base + at.people, floats(base, at.times), base + at.embedded, first, steps, 6 * e},
        std::uint64_t{people_squares()} * steps * 6 * e});
    if (embedded) return all;
    BlockProgram all_blocks = program(base, Domain::people_and_steps, true);
    all_blocks.n_steps = steps;
    std::uint32_t column = 0;
    for (std::uint32_t b = 0; b < 6; column += net_.context[b++].panels)
      all_blocks.ops[all_blocks.n_ops++] = person_op(base, net_.context[b], at.embedded, 6 * e, b * e, at.context,
                                                     net_.context_panels(), column, Epilogue::plain);
    all.push_back(launch(all_blocks, tile, people_squares() * steps));
    return all;
  }

  // One step of the graphed chain.
  std::vector<Launch> step(unsigned char* base, std::uint32_t number) const {
    std::vector<Launch> all = context(base, number, 1);
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const bool narrow = i >= kMiddleBegin && i < kMiddleEnd;
      if (narrow && i != kMiddleBegin) continue;
      BlockProgram one = program(base, Domain::rows, !narrow);
      one.first_step = number, one.n_steps = 1;
      for (std::size_t l = i; l < (narrow ? kMiddleEnd : i + 1); ++l)
        one.ops[one.n_ops++] = op(base, lines[l], narrow ? &middle : nullptr, narrow ? kMiddleBegin : l);
      all.push_back(launch(one, narrow ? middle : tile, row_squares()));
    }
    return all;
  }

  // Steps [first, first + steps) in one launch, after the embedding's terms were computed.
  std::vector<Launch> steps(unsigned char* base, std::uint32_t first, std::uint32_t steps) const {
    BlockProgram all = program(base, Domain::rows, false);
    all.first_step = first, all.n_steps = steps;
    for (const Line& line : lines) all.ops[all.n_ops++] = op(base, line, &middle, 0);
    return {launch(all, middle, row_squares())};
  }

  std::vector<Launch> end(unsigned char* base) const {
    return {FragmentLaunch{End{chunk(base), floats(base, at.x), floats(base, at.out), features(), stride()},
                        std::uint64_t{draws} * people}};
  }

  Chunk chunk_of(std::size_t some_people, std::size_t some_draws) const {
    return {static_cast<std::uint32_t>(some_people), static_cast<std::uint32_t>(some_draws),
            squares_of(some_people * some_draws), squares_of(some_people), request_.seed};
  }
  // All that decides the launches of a step but where memory begins: where it is the same, so are they.
  std::vector<std::uint64_t> key() const {
    std::vector<std::uint64_t> all{net_.id,          people,     draws, step_block, request_.n_steps, persistent,
                                   request_.step_purpose, wants_before(), embedded};
    for (const Tile* t : {&tile, &middle}) {
      all.insert(all.end(), {t->rows, t->columns, t->stages, t->cluster, t->strip, t->shared_bytes});
      all.insert(all.end(), t->shared, t->shared + kBuffers);
    }
    const std::size_t places[] = {at.network, at.times,   at.coefficients, at.chunk, at.keys,  at.draws,
                                  at.people,  at.embedded, at.context,      at.x,     at.before};
    all.insert(all.end(), std::begin(places), std::end(places));
    all.insert(all.end(), at.activations, at.activations + kBuffers);
    return all;
  }
  bool wants_before() const {
    return std::any_of(request_.steps, request_.steps + request_.n_steps,
                       [](const Coefficients& k) { return k.last != 0; });
  }

 private:
  static constexpr std::size_t kMiddleBegin = 4, kMiddleEnd = 12;  // down3, both bottlenecks, up1
  static constexpr std::size_t kContextBytes = std::size_t{2} << 30;
  // Squares that fill a cluster's tile up: two squares of rows and eight blocks at most.
  static constexpr std::uint32_t kSpare = 16;

  void cut(const Options& options, const Limits& limits) {
    // A tile for every processor: the output of one launch is still in L2 when the next reads it.
    const std::size_t rows =
        options.chunk_rows != 0 ? options.chunk_rows : std::size_t{limits.processors} * kSide * middle.rows;
    draws = std::max<std::size_t>(1, std::min(request_.n_draws, rows));
    people = std::max<std::size_t>(1, std::min(request_.people, rows / draws));
    // The embedding's terms of many steps are kept in memory, two bytes a value.
    const std::size_t of_a_step =
        std::size_t{people_squares()} * (6 * net_.embedding_panels() + context_panels()) * kSquareBytes;
    const std::size_t fit = std::max<std::size_t>(1, kContextBytes / of_a_step), asked = options.step_block;
    step_block = static_cast<std::uint32_t>(
        persistent ? std::min(asked != 0 ? asked : fit, std::max<std::size_t>(1, request_.n_steps)) : 1);
    for (arrange(); at.total > limits.memory_bytes; arrange()) {
      if (step_block > 1 && at.x - at.embedded > (at.total - at.embedded) / 2)
        step_block = (step_block + 1) / 2;
      else if (people > 1)
        people = (people + 1) / 2;
      else if (draws > 64)
        draws = (draws + 1) / 2;
      else if (step_block > 1)
        step_block = (step_block + 1) / 2;
      else
        throw std::length_error("the smallest chunk of people takes " + std::to_string(at.total >> 20) +
                                " MiB of the device's memory, and " + std::to_string(limits.memory_bytes >> 20) +
                                " MiB are free");
    }
  }

  void arrange() {
    std::size_t top = 0;
    const auto take = [&](std::size_t bytes) {
      const std::size_t begin = top;
      top += (bytes + 1023) / 1024 * 1024;
      return begin;
    };
    const std::size_t e = net_.embedding_panels(), rows = row_squares() + kSpare, some = people_squares() + kSpare;
    const std::size_t pairs = std::size_t{people_squares()} * step_block + kSpare;
    at.network = take(net_.bytes.size());
    at.times = take(request_.n_steps * 6 * e * kSide * sizeof(float));
    at.coefficients = take(request_.n_steps * sizeof(Coefficients));
    at.chunk = take(sizeof(Chunk));
    at.keys = take(people * sizeof(std::uint64_t));
    at.draws = take(draws * sizeof(std::uint32_t));
    at.conditions = take(people * net_.shape.conditions * sizeof(float));
    at.mean = take(request_.start == nullptr ? 0 : people * net_.shape.features * sizeof(float));
    at.out = take(people * draws * net_.shape.features * sizeof(float));
    for (std::size_t& landing : at.landing) landing = take(at.input_bytes());
    at.condition = take(some * squares_of(net_.shape.conditions) * kSquareBytes);
    at.hidden = take(some * e * kSquareBytes);
    at.embedding = take(some * e * kSquareBytes);
    at.people = take(some * 6 * e * kSquareBytes);
    at.embedded = take(pairs * 6 * e * kSquareBytes);
    at.context = take(pairs * context_panels() * kSquareBytes);
    at.x = take(rows * kSide * stride() * sizeof(float));
    at.before = take(wants_before() ? rows * kSide * stride() * sizeof(float) : 0);
    for (int b = 0; b < kBuffers; ++b)
      at.activations[b] =
          take(persistent && middle.shared[b] != kNowhere ? 0 : rows * panels_of(net_, b) * kSquareBytes);
    at.total = top;
  }

  std::uint32_t row_squares() const { return squares_of(people * draws); }
  std::uint32_t people_squares() const { return squares_of(people); }
  std::uint32_t context_panels() const { return embedded ? 0 : net_.context_panels(); }
  std::uint32_t features() const { return static_cast<std::uint32_t>(net_.shape.features); }
  std::uint32_t stride() const { return squares_of(net_.shape.features) * kSide; }

  const Chunk* chunk(unsigned char* base) const { return reinterpret_cast<const Chunk*>(base + at.chunk); }
  float* floats(unsigned char* base, std::size_t offset) const { return reinterpret_cast<float*>(base + offset); }
  float* before(unsigned char* base) const { return wants_before() ? floats(base, at.before) : nullptr; }
  const std::uint64_t* keys(unsigned char* base) const {
    return reinterpret_cast<const std::uint64_t*>(base + at.keys);
  }
  const std::uint32_t* numbers(unsigned char* base) const {
    return reinterpret_cast<const std::uint32_t*>(base + at.draws);
  }

  BlockProgram program(unsigned char* base, Domain domain, bool split) const {
    BlockProgram w{};
    w.split = split, w.domain = domain, w.chunk = chunk(base), w.n_steps = 1, w.cluster = 1;
    w.x = floats(base, at.x), w.before = before(base);
    w.coefficients = reinterpret_cast<const Coefficients*>(base + at.coefficients);
    w.keys = keys(base), w.draws = numbers(base);
    w.purpose = request_.step_purpose, w.features = features(), w.stride = stride();
    return w;
  }

  ProgramLaunch launch(BlockProgram w, const Tile& t, std::uint32_t squares) const {
    w.stages = t.stages, w.cluster = t.cluster;
    std::uint32_t passes = 0;
    for (std::uint32_t o = 0; o < w.n_ops; ++o) {
      w.ops[o].passes = passes_of(w.ops[o].panels, t.columns);
      passes += w.ops[o].passes;
    }
    const std::uint32_t tall = t.rows * t.cluster, blocks = (squares + tall - 1) / tall * t.cluster;
    return {w,
            t.rows,
            t.columns,
            blocks,
            w.split ? passes : 1,
            w.split ? kStages + t.stages * stage_bytes(t.rows, t.columns) : t.shared_bytes};
  }

  Op bare(unsigned char* base, const Product& p, Epilogue epilogue) const {
    Op o{};
    o.bias = floats(base, at.network + p.bias);
    o.n_sources = p.n_sources, o.panels = p.panels, o.width = p.width, o.epilogue = epilogue;
    return o;
  }
  // The weight of a product's source, whose inputs begin `first` squares in.
  const unsigned char* weight(unsigned char* base, const Product& p, std::uint32_t first) const {
    return base + at.network + p.weight + std::size_t{first} * kSquareBytes;
  }

  // From and to squares with `from` and `to` panels across, `first` and `column` panels in.
  Op person_op(unsigned char* base, const Product& p, std::size_t source, std::uint32_t from, std::uint32_t first,
               std::size_t target, std::uint32_t to, std::uint32_t column, Epilogue epilogue) const {
    Op o = bare(base, p, epilogue);
    o.sources[0] = {base + source + std::size_t{first} * kSquareBytes,
                    weight(base, p, 0),
                    p.inputs(),
                    kNowhere,
                    from,
                    p.source_panels[0],
                    -1};
    o.target = {base + target + std::size_t{column} * kSquareBytes, kNowhere, to};
    return o;
  }

  Op op(unsigned char* base, const Line& line, const Tile* shared, std::size_t begin) const {
    const Product& product = *line.product;
    Op o = bare(base, product, line.epilogue);
    std::uint32_t n = 0, first = 0;
    if (line.embedding != nullptr) {
      const Product& added = *line.embedding;
      const std::uint32_t e = net_.embedding_panels();
      o.bias = floats(base, at.network + added.bias);
      o.sources[n++] = {base + at.embedded + std::size_t{line.block * e} * kSquareBytes,
                        weight(base, added, 0),
                        added.inputs(),
                        kNowhere,
                        6 * e,
                        e,
                        -1};
    }
    for (std::uint32_t s = 0; s < product.n_sources; first += product.source_panels[s++]) {
      const int b = line.sources[s];
      int writer = -1;
      // The last of these lines before this one that writes it, else the last of all, of the step before.
      if (shared != nullptr) {
        const std::size_t end = begin + (persistent ? lines.size() : kMiddleEnd - kMiddleBegin);
        const std::size_t self = static_cast<std::size_t>(&line - lines.data());
        for (std::size_t l = begin; l < end; ++l)
          if (lines[l].target == b && (l < self || writer < 0)) writer = static_cast<int>(l - begin);
      }
      const std::uint32_t place = shared == nullptr ? kNowhere : shared->shared[b];
      o.sources[n++] = {base + at.activations[b],
                        weight(base, product, first),
                        product.inputs(),
                        place,
                        place == kNowhere ? panels_of(net_, b) : shared->strip,
                        product.source_panels[s],
                        writer};
    }
    o.n_sources = n;
    const std::uint32_t place = shared == nullptr ? kNowhere : shared->shared[line.target];
    o.target = {base + at.activations[line.target], place,
                place == kNowhere ? panels_of(net_, line.target) : shared->strip};
    if (line.block >= 0 && line.embedding == nullptr) {
      std::uint32_t column = 0;
      for (int b = 0; b < line.block; ++b) column += net_.context[b].panels;
      o.context = base + at.context + std::size_t{column} * kSquareBytes;
      o.context_stride = net_.context_panels();
    }
    return o;
  }

  const PackedNetwork& net_;
  const Request request_;
};

// State of a device from one request to the next: the network whose weights are at the beginning of its memory, and the
// recorded steps, the last used last. All of it refers to one piece of memory and is dropped with it.
template <class Recording>
struct Kept {
  using Key = std::vector<std::uint64_t>;
  static constexpr std::size_t kMost = 4;
  std::uint64_t network = 0;  // PackedNetwork::id, 0 for none
  std::vector<std::pair<Key, std::vector<Recording>>> recorded;

  // The recordings of a key, made if there are none.
  template <class Make>
  const std::vector<Recording>& recordings(const Key& key, const Make& make) {
    const auto found =
        std::find_if(recorded.begin(), recorded.end(), [&](const auto& one) { return one.first == key; });
    if (found != recorded.end()) {
      std::rotate(found, found + 1, recorded.end());
    } else {
      std::vector<Recording> made = make();
      if (recorded.size() == kMost) recorded.erase(recorded.begin());
      recorded.emplace_back(key, std::move(made));
    }
    return recorded.back().second;
  }
};

// A part of the inputs of a chunk: to `to` bytes past the beginning, from the host's memory or the device's.
struct Input {
  std::size_t to;
  const void* from;
  std::size_t bytes;
};

// Works off a request on a device. `report` is told the share done and says whether to go on.
template <class Device>
void sample(Device& device, const PackedNetwork& network, const Request& request, const Options& options, const Limits& limits,
            const std::function<bool(double)>& report) {
  if (request.people == 0 || request.n_draws == 0) return;
  const Plan plan(network, request, options, limits);
  unsigned char* base = device.reserve(plan.at.total);
  auto& kept = device.kept();
  if (kept.network != network.id) {
    kept.network = 0;
    device.upload(base + plan.at.network, network.bytes.data(), network.bytes.size());
    kept.network = network.id;
  }
  const std::size_t e = network.shape.embedding, filled = std::size_t{network.embedding_panels()} * kSide;
  std::vector<float> times(request.n_steps * 6 * filled, 0.0f);
  for (std::size_t i = 0; i < request.n_steps * 6; ++i)
    std::copy_n(request.times + i * e, e, times.data() + i * filled);
  device.upload(base + plan.at.times, times.data(), times.size() * sizeof(float));
  device.upload(base + plan.at.coefficients, request.steps, request.n_steps * sizeof(Coefficients));

  constexpr std::size_t kStepsOfAGraph = 128;
  const std::size_t block = plan.persistent ? plan.step_block : kStepsOfAGraph;
  const bool recorded = !plan.persistent && options.recorded;
  const auto steps_from = [&](std::size_t first) {
    const auto end = static_cast<std::uint32_t>(std::min(first + block, request.n_steps));
    const auto begin = static_cast<std::uint32_t>(first);
    std::vector<Launch> launches;
    const auto append = [&](std::vector<Launch> some) {
      std::move(some.begin(), some.end(), std::back_inserter(launches));
    };
    if (plan.persistent)
      append(plan.context(base, begin, end - begin)), append(plan.steps(base, begin, end - begin));
    else
      for (std::uint32_t i = begin; i < end; ++i) append(plan.step(base, i));
    return launches;
  };
  const std::vector<typename Device::Recording> none;
  const auto& recordings = !recorded ? none : kept.recordings(plan.key(), [&] {
    std::vector<typename Device::Recording> made;
    for (std::size_t s = 0; s < request.n_steps; s += block) made.push_back(device.record(steps_from(s)));
    return made;
  });

  const std::size_t width = network.shape.features, c = network.shape.conditions;
  const std::size_t of_draws = (request.n_draws + plan.draws - 1) / plan.draws,
                    chunks = (request.people + plan.people - 1) / plan.people * of_draws,
                    blocks = (request.n_steps + block - 1) / block;
  struct ChunkRange {
    std::size_t p, d, people, draws;
  };
  const auto cut = [&](std::size_t number) {
    const std::size_t p = number / of_draws * plan.people, d = number % of_draws * plan.draws;
    return ChunkRange{p, d, std::min(plan.people, request.people - p), std::min(plan.draws, request.n_draws - d)};
  };
  // Inputs of a chunk are copied while the chunk before it is computed.
  const auto stage = [&](std::size_t number) {
    const ChunkRange one = cut(number);
    const Chunk chunk = plan.chunk_of(one.people, one.draws);
    const std::size_t first = plan.at.chunk;
    std::vector<Input> inputs{
        {0, &chunk, sizeof chunk},
        {plan.at.keys - first, request.keys + one.p, one.people * sizeof(std::uint64_t)},
        {plan.at.draws - first, request.draws + one.d, one.draws * sizeof(std::uint32_t)},
        {plan.at.conditions - first, request.conditions + one.p * c, one.people * c * sizeof(float)}};
    if (request.start != nullptr)
      inputs.push_back({plan.at.mean - first, request.start + one.p * width, one.people * width * sizeof(float)});
    device.stage(number % 2, base + plan.at.landing[number % 2], plan.at.input_bytes(), inputs);
  };
  stage(0);
  std::size_t done = 0;
  for (std::size_t number = 0; number < chunks; ++number) {
    const ChunkRange one = cut(number);
    device.hand_over(number % 2, base + plan.at.chunk, base + plan.at.landing[number % 2], plan.at.input_bytes());
    for (const Launch& launch : plan.begin(base)) device.launch(launch);
    for (std::size_t s = 0; s < request.n_steps; s += block) {
      if (recorded)
        device.replay(recordings[s / block]);
      else
        for (const Launch& launch : steps_from(s)) device.launch(launch);
      if (s == 0 && number + 1 < chunks) stage(number + 1);
      ++done;
      device.wait([&] { return report(static_cast<double>(done - 1) / static_cast<double>(chunks * blocks)); });
    }
    for (const Launch& launch : plan.end(base)) device.launch(launch);
    device.download(request.out + (one.d * request.people + one.p) * width, request.people * width * sizeof(float),
                    base + plan.at.out, one.people * width * sizeof(float), one.draws);
  }
  device.finish();
  report(1.0);
}

}  // namespace secondgram::cuda
