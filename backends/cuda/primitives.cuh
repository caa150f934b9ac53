// What the functions that our kernels call by name are built on: tensor cores, asynchronous copies, element types.
// Everything counts in bytes along the depth of a product, so that one loop serves all element types: 16 elements of
// 16 bits or 32 of 8 bits are one step of the tensor cores; f32 goes the same way, without them. In tests
// tests/backends/cuda/emulator.hpp comes first and brings its own primitives.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace ig {

struct Half {};  // names of element types
struct Bf16 {};
struct Int8 {};
struct Single {};  // f32, without tensor cores

template <class T> struct Sum { using type = float; };
template <> struct Sum<Int8> { using type = int; };

// --- primitives ------------------------------------------------------------------------------------------------------

#ifndef IG_EMULATED
// 16 bytes from global to shared memory without registers in between; zeros if not valid.
__device__ __forceinline__ void copy16(void* shared, const void* global, bool valid) {
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}

__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most N of the committed groups are under way.
template <int N> __device__ __forceinline__ void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Four 8x8 matrices of 16 bits; lane i names row i % 8 of matrix i / 8, and gets elements 2 (i % 4) and on of row
// i / 4 of each.
__device__ __forceinline__ void load4(uint32_t (&r)[4], const void* row) {
  const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void load4_transposed(uint32_t (&r)[4], const void* row) {
  const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}

// d[16, 8] += a[16, 32 bytes] * b[8, 32 bytes]^T
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Half) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Bf16) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Int8) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The value of the lane whose number differs by `mask`.
__device__ __forceinline__ float exchange(float x, int mask) { return __shfl_xor_sync(0xffffffff, x, mask); }
#endif

// --- small things ----------------------------------------------------------------------------------------------------

// A position in memory, in bytes.
__device__ __forceinline__ const void* at(const void* base, int64_t offset) {
  return static_cast<const char*>(base) + offset;
}

// Floats in shared memory behind the back of TVM, which would put a barrier around each: the functions here have them.
__device__ __forceinline__ float read(const void* base, int i) { return static_cast<const float*>(base)[i]; }
__device__ __forceinline__ void write(void* base, int i, float x) { static_cast<float*>(base)[i] = x; }

// Two sums as two elements, the first one in the lower half.
__device__ __forceinline__ uint32_t pair(float a, float b, Half) {
  const __half2 x = __floats2half2_rn(a, b);
  return reinterpret_cast<const uint32_t&>(x);
}

__device__ __forceinline__ uint32_t pair(float a, float b, Bf16) {
  const __nv_bfloat162 x = __floats2bfloat162_rn(a, b);
  return reinterpret_cast<const uint32_t&>(x);
}

}  // namespace ig
