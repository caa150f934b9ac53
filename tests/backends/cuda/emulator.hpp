// CUDA on the CPU, for tests without a GPU: blocks one after the other, the threads of a block as coroutines that
// switch at barriers. Warp-wide instructions are computed when the last lane of the warp arrives, from the layouts of
// registers that the PTX manual gives. Slow, single-threaded, and strict: a barrier that some thread never reaches
// aborts.
#include <cuda_runtime.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>

#define IG_EMULATED 1
#undef __shared__
#undef __global__
#undef __device__
#undef __launch_bounds__
#undef __forceinline__
#undef __noinline__
#undef __restrict__
#define __shared__ static
#define __global__
#define __device__
#define __launch_bounds__(...)
#define __forceinline__ inline
#define __noinline__
#define __restrict__

namespace emulated {

struct Index { unsigned x, y, z; };

struct Copy { void* to; const void* from; bool valid; };

struct Thread {
  std::vector<Copy> open;  // asynchronous copies, and the groups of those that were committed
  std::deque<std::vector<Copy>> groups;
  ucontext_t context;
  std::vector<char> stack;
  Index index;
  int id;
  bool done;
};

struct Warp {  // a warp-wide instruction in progress
  int arrived = 0;
  long turn = 0;
  const void* in[32];
  void* out[32];
};

inline Index block, thread, blocks, threads;
inline std::vector<Thread> all;
inline std::vector<Warp> warps;
inline ucontext_t scheduler;
inline int current, alive, waiting;
inline long phase;
alignas(256) inline char dynamic_shared[256 * 1024];

inline void yield() {
  Thread& t = all[current];
  swapcontext(&t.context, &scheduler);
  thread = t.index;
}

// Every thread of the block waits for every other.
inline void barrier() {
  const long now = phase;
  if (++waiting == alive) {
    waiting = 0;
    ++phase;
  }
  while (phase == now) yield();
}

inline int lane() { return all[current].id % 32; }

// All lanes of a warp hand over their operands; the last one to arrive computes all results.
template <class F>
void together(const void* in, void* out, F compute) {
  Warp& w = warps[all[current].id / 32];
  const long now = w.turn;
  const int l = lane();
  w.in[l] = in;
  w.out[l] = out;
  if (++w.arrived == 32) {
    w.arrived = 0;
    compute(w);
    ++w.turn;
  }
  while (w.turn == now) yield();
}

inline std::function<void()> body;

inline void enter() {
  body();
  Thread& t = all[current];
  t.done = true;
  --alive;
  swapcontext(&t.context, &scheduler);
}

inline void launch(Index grid, Index size, std::function<void()> kernel) {
  body = std::move(kernel);
  blocks = grid;
  threads = size;
  const int count = size.x * size.y * size.z;
  if ((int)all.size() < count) all.resize(count);
  warps.assign((count + 31) / 32, Warp());
  for (unsigned b = 0; b < grid.x * grid.y * grid.z; ++b) {
    block = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
    memset(dynamic_shared, 0xff, sizeof dynamic_shared);  // nan: nothing may be read that was not written
    alive = count;
    waiting = 0;
    for (int i = 0; i < count; ++i) {
      Thread& t = all[i];
      t.stack.resize(256 * 1024);
      t.id = i;
      t.done = false;
      t.open.clear();
      t.groups.clear();
      t.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
      getcontext(&t.context);
      t.context.uc_stack.ss_sp = t.stack.data();
      t.context.uc_stack.ss_size = t.stack.size();
      t.context.uc_link = nullptr;
      makecontext(&t.context, enter, 0);
    }
    for (long idle = 0; alive > 0; ++idle) {
      if (idle > 50'000'000) {
        fprintf(stderr, "emulator: a barrier that not all threads reach\n");
        abort();
      }
      for (current = 0; current < count; ++current) {
        if (all[current].done) continue;
        thread = all[current].index;
        swapcontext(&scheduler, &all[current].context);
      }
    }
  }
}

}  // namespace emulated

#define threadIdx emulated::thread
#define blockIdx emulated::block
#define blockDim emulated::threads
#define gridDim emulated::blocks
#define __syncthreads() emulated::barrier()

inline float __int_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
inline double __longlong_as_double(unsigned long long bits) { double x; memcpy(&x, &bits, 8); return x; }
template <class A, class B> auto max(A a, B b) { return a > b ? a : b; }
template <class A, class B> auto min(A a, B b) { return a < b ? a : b; }

// What TVM passes to a packed function.
struct Any { int32_t type; uint32_t pad; union { int64_t i; double d; void* p; }; };

// --- the primitives of primitives.cuh --------------------------------------------------------------------------------

inline int __float_as_int(float x) { int bits; memcpy(&bits, &x, 4); return bits; }

namespace ig {

struct Half;
struct Bf16;
struct Int8;

// Asynchronous copies arrive when they are waited for, and not before: who reads too early finds what was there.
inline void copy16(void* shared, const void* global, bool valid) {
  if (((uintptr_t)shared | (uintptr_t)global) % 16) abort();
  emulated::all[emulated::current].open.push_back({shared, global, valid});
}
inline void commit() {
  emulated::Thread& t = emulated::all[emulated::current];
  t.groups.push_back(std::move(t.open));
  t.open.clear();
}
template <int N> void wait() {
  emulated::Thread& t = emulated::all[emulated::current];
  for (; t.groups.size() > N; t.groups.pop_front())
    for (const emulated::Copy& c : t.groups.front())
      if (c.valid) memcpy(c.to, c.from, 16);
      else memset(c.to, 0, 16);
}

// ldmatrix: lane i holds the address of row i % 8 of matrix i / 8.
inline void load(uint32_t (&r)[4], const void* row, bool transposed) {
  if ((uintptr_t)row % 16) abort();
  emulated::together(row, r, [=](emulated::Warp& w) {
    for (int m = 0; m < 4; ++m)
      for (int lane = 0; lane < 32; ++lane) {
        uint16_t pair[2];
        for (int e = 0; e < 2; ++e) {
          const int i = lane / 4, j = lane % 4 * 2 + e;
          pair[e] = ((const uint16_t*)w.in[m * 8 + (transposed ? j : i)])[transposed ? i : j];
        }
        memcpy((uint32_t*)w.out[lane] + m, pair, 4);
      }
  });
}
inline void load4(uint32_t (&r)[4], const void* row) { load(r, row, false); }
inline void load4_transposed(uint32_t (&r)[4], const void* row) { load(r, row, true); }

inline float number(const char* p, Half*) { __half x; memcpy(&x, p, 2); return __half2float(x); }
inline float number(const char* p, Bf16*) { __nv_bfloat16 x; memcpy(&x, p, 2); return __bfloat162float(x); }
inline int number(const char* p, Int8*) { return *(const signed char*)p; }

// mma.m16n8k16 / m16n8k32: PTX manual, "Matrix fragments for mma". Bytes 4 (lane % 4) and 16 further of a row each.
template <class T, class S>
void multiply(S (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  constexpr int size = sizeof(S) == 4 && std::is_same<S, int>::value ? 1 : 2;
  struct Operands { uint32_t a[4], b[2]; S d[4]; };
  Operands mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}, {d[0], d[1], d[2], d[3]}};
  emulated::together(&mine, d, [](emulated::Warp& w) {
    char left[16][32], right[8][32];
    for (int lane = 0; lane < 32; ++lane) {
      const Operands& o = *(const Operands*)w.in[lane];
      const int g = lane / 4, byte = lane % 4 * 4;
      memcpy(&left[g][byte], &o.a[0], 4);
      memcpy(&left[g + 8][byte], &o.a[1], 4);
      memcpy(&left[g][byte + 16], &o.a[2], 4);
      memcpy(&left[g + 8][byte + 16], &o.a[3], 4);
      memcpy(&right[g][byte], &o.b[0], 4);
      memcpy(&right[g][byte + 16], &o.b[1], 4);
    }
    for (int lane = 0; lane < 32; ++lane)
      for (int e = 0; e < 4; ++e) {
        const int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
        S total = ((const Operands*)w.in[lane])->d[e];
        for (int k = 0; k < 32; k += size) total += number(&left[row][k], (T*)0) * number(&right[column][k], (T*)0);
        ((S*)w.out[lane])[e] = total;
      }
  });
}
template <class S, class T>
void mma(S (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, T) { multiply<T>(d, a, b0, b1); }

inline float exchange(float x, int mask) {
  float result;
  emulated::together(&x, &result, [=](emulated::Warp& w) {
    for (int lane = 0; lane < 32; ++lane) *(float*)w.out[lane] = *(const float*)w.in[lane ^ mask];
  });
  return result;
}

}  // namespace ig
