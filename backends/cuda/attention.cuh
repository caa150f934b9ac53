// Attention over tiles of queries and keys. After primitives.cuh.
namespace ig {

// Tiles of q, k and v in shared memory, and the scores after them. A thread's state: maxima and sums of OWN rows, and
// its part of the result.
template <int SIZE, int D, int OWN> struct Tiles {
  static constexpr int QUERIES = 64, KEYS = 64, THREADS = 128, ROW = D * SIZE, CHUNKS = ROW / 16;
  static constexpr int K_AT = QUERIES * ROW, V_AT = K_AT + KEYS * ROW, S_AT = V_AT + KEYS * ROW;
  static constexpr int PITCH = KEYS + 4;  // of the scores, in floats
  static constexpr int STATE = 2 * OWN + D / 2;

  // Where a chunk of 16 bytes lies, so that eight rows meet all banks.
  static __device__ __forceinline__ int place(int row, int chunk) {
    constexpr int LINE = ROW < 128 ? 128 / ROW : 1, MASK = CHUNKS < 8 ? CHUNKS - 1 : 7;
    return row * ROW + ((chunk ^ (row / LINE & MASK)) << 4);
  }

  static __device__ __forceinline__ void copy(char* to, const void* from, int first, int count) {
#pragma unroll
    for (int n = 0; n < 64 * CHUNKS / THREADS; ++n) {
      const int i = n * THREADS + threadIdx.x;
      const int row = i / CHUNKS, chunk = i % CHUNKS;
      const bool valid = first + row < count;
      const int64_t at = valid ? static_cast<int64_t>(first + row) * ROW + chunk * 16 : 0;
      copy16(to + place(row, chunk), static_cast<const char*>(from) + at, valid);
    }
    commit();
  }

  static __device__ __forceinline__ void start(void* memory, float* state, const void* q, int m0, int queries,
                                               const void* k, int keys) {
    char* const shared = static_cast<char*>(memory);
    copy(shared, q, m0, queries);
    copy(shared + K_AT, k, 0, keys);
#pragma unroll
    for (int i = 0; i < STATE; ++i) state[i] = i < OWN ? -INFINITY : 0.f;
  }
};

// softmax(f(q k^T)) v for QUERIES rows, KEYS keys at a time, with a running maximum and sum (Dao et al.,
// FlashAttention). Four warps of 16 rows. The caller applies f to the scores in shared memory:
//   start; for each tile of keys: scores, f, attend; finish
// D: elements of a row of q, k and v, a power of two from 16 to 128, the last ones zero.
template <class T, int D> struct Attention : Tiles<2, D, 2> {
  using Tiles<2, D, 2>::QUERIES;
  using Tiles<2, D, 2>::KEYS;
  using Tiles<2, D, 2>::CHUNKS;
  using Tiles<2, D, 2>::K_AT;
  using Tiles<2, D, 2>::V_AT;
  using Tiles<2, D, 2>::S_AT;
  using Tiles<2, D, 2>::PITCH;
  using Tiles<2, D, 2>::place;
  using Tiles<2, D, 2>::copy;

  // The scores of the keys from n0 on; their values set out meanwhile.
  static __device__ __forceinline__ void scores(void* memory, const void* v, int n0, int keys) {
    char* const shared = static_cast<char*>(memory);
    wait<0>();
    __syncthreads();
    copy(shared + V_AT, v, n0, keys);
    const int lane = threadIdx.x % 32, m = threadIdx.x / 32 * 16;
    float sum[KEYS / 8][4] = {};
#pragma unroll
    for (int c = 0; c < CHUNKS; c += 2) {
      uint32_t a[4];
      load4(a, shared + place(m + lane % 16, c + lane / 16));
#pragma unroll
      for (int j = 0; j < KEYS / 16; ++j) {
        uint32_t b[4];
        load4(b, shared + K_AT + place(j * 16 + lane % 8 + lane / 16 * 8, c + lane / 8 % 2));
        mma(sum[2 * j], a, b[0], b[1], T());
        mma(sum[2 * j + 1], a, b[2], b[3], T());
      }
    }
    float* const out = reinterpret_cast<float*>(shared + S_AT) + (m + lane / 4) * PITCH + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < KEYS / 8; ++j) {
      out[j * 8] = sum[j][0];
      out[j * 8 + 1] = sum[j][1];
      out[8 * PITCH + j * 8] = sum[j][2];
      out[8 * PITCH + j * 8 + 1] = sum[j][3];
    }
    __syncthreads();
  }

  // Takes up the scores of a tile and its values; the next keys set out meanwhile.
  static __device__ __forceinline__ void attend(void* memory, float* state, const void* k, int n1, int keys) {
    char* const shared = static_cast<char*>(memory);
    copy(shared + K_AT, k, n1, keys);
    wait<1>();
    __syncthreads();
    const int lane = threadIdx.x % 32, m = threadIdx.x / 32 * 16;
    const float* const in = reinterpret_cast<const float*>(shared + S_AT) + (m + lane / 4) * PITCH + lane % 4 * 2;
    float p[KEYS / 8][4];
    float peak[2] = {state[0], state[1]};
#pragma unroll
    for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        p[j][e] = in[e / 2 * 8 * PITCH + j * 8 + e % 2];
        peak[e / 2] = fmaxf(peak[e / 2], p[j][e]);
      }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      peak[r] = fmaxf(peak[r], exchange(peak[r], 1));
      peak[r] = fmaxf(peak[r], exchange(peak[r], 2));
      const float base = peak[r] == -INFINITY ? 0.f : peak[r];  // a row without any key yet
      const float shrink = expf(state[r] - base);
      state[r] = peak[r];
      state[2 + r] *= shrink;
#pragma unroll
      for (int j = 0; j < D / 8; ++j) {
        state[4 + j * 4 + 2 * r] *= shrink;
        state[4 + j * 4 + 2 * r + 1] *= shrink;
      }
#pragma unroll
      for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
        for (int e = 2 * r; e < 2 * r + 2; ++e) {
          p[j][e] = expf(p[j][e] - base);
          state[2 + r] += p[j][e];
        }
    }
#pragma unroll
    for (int j = 0; j < KEYS / 16; ++j) {
      const uint32_t a[4] = {pair(p[2 * j][0], p[2 * j][1], T()), pair(p[2 * j][2], p[2 * j][3], T()),
                             pair(p[2 * j + 1][0], p[2 * j + 1][1], T()), pair(p[2 * j + 1][2], p[2 * j + 1][3], T())};
#pragma unroll
      for (int d = 0; d < D / 16; ++d) {
        uint32_t b[4];
        load4_transposed(b, shared + V_AT + place(j * 16 + lane % 16, d * 2 + lane / 16));
        float(&low)[4] = reinterpret_cast<float(&)[4]>(state[4 + d * 8]);
        float(&high)[4] = reinterpret_cast<float(&)[4]>(state[8 + d * 8]);
        mma(low, a, b[0], b[1], T());
        mma(high, a, b[2], b[3], T());
      }
    }
  }

  // shared[QUERIES, D + 4] = the result, in floats
  static __device__ __forceinline__ void finish(void* shared, float* state) {
    wait<0>();
    __syncthreads();
    const int lane = threadIdx.x % 32, m = threadIdx.x / 32 * 16;
    float* const out = static_cast<float*>(shared) + (m + lane / 4) * (D + 4) + lane % 4 * 2;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float total = state[2 + r];
      total += exchange(total, 1);
      total += exchange(total, 2);
      const float scale = 1.f / total;
#pragma unroll
      for (int j = 0; j < D / 8; ++j) {
        out[r * 8 * (D + 4) + j * 8] = state[4 + j * 4 + 2 * r] * scale;
        out[r * 8 * (D + 4) + j * 8 + 1] = state[4 + j * 4 + 2 * r + 1] * scale;
      }
    }
    __syncthreads();
  }
};

// The same in f32 without tensor cores. A warp is 4 x 8 lanes: each has every fourth of its 16 rows, and every eighth
// key of the scores or column of the result. D from 16 to 64.
template <int D> struct Attention<Single, D> : Tiles<4, D, 4> {
  using Tiles<4, D, 4>::KEYS;
  using Tiles<4, D, 4>::CHUNKS;
  using Tiles<4, D, 4>::K_AT;
  using Tiles<4, D, 4>::V_AT;
  using Tiles<4, D, 4>::S_AT;
  using Tiles<4, D, 4>::PITCH;
  using Tiles<4, D, 4>::place;
  using Tiles<4, D, 4>::copy;

  static __device__ __forceinline__ float4 four(const char* from) { return *reinterpret_cast<const float4*>(from); }

  static __device__ __forceinline__ void scores(void* memory, const void* v, int n0, int keys) {
    char* const shared = static_cast<char*>(memory);
    wait<0>();
    __syncthreads();
    copy(shared + V_AT, v, n0, keys);
    const int lane = threadIdx.x % 32, m = threadIdx.x / 32 * 16 + lane / 8, n = lane % 8;
    float sum[4][KEYS / 8] = {};
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
      float4 b[KEYS / 8];
#pragma unroll
      for (int j = 0; j < KEYS / 8; ++j) b[j] = four(shared + K_AT + place(j * 8 + n, c));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float4 a = four(shared + place(m + i * 4, c));
#pragma unroll
        for (int j = 0; j < KEYS / 8; ++j) {
          sum[i][j] += a.x * b[j].x;
          sum[i][j] += a.y * b[j].y;
          sum[i][j] += a.z * b[j].z;
          sum[i][j] += a.w * b[j].w;
        }
      }
    }
    float* const out = reinterpret_cast<float*>(shared + S_AT) + m * PITCH + n;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < KEYS / 8; ++j) out[i * 4 * PITCH + j * 8] = sum[i][j];
    __syncthreads();
  }

  static __device__ __forceinline__ void attend(void* memory, float* state, const void* k, int n1, int keys) {
    char* const shared = static_cast<char*>(memory);
    copy(shared + K_AT, k, n1, keys);
    wait<1>();
    __syncthreads();
    const int lane = threadIdx.x % 32, m = threadIdx.x / 32 * 16 + lane / 8, n = lane % 8;
    float* const weights = reinterpret_cast<float*>(shared + S_AT) + m * PITCH;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float* const row = weights + i * 4 * PITCH + n;
      float peak = state[i];
#pragma unroll
      for (int j = 0; j < KEYS / 8; ++j) peak = fmaxf(peak, row[j * 8]);
#pragma unroll
      for (int mask = 1; mask < 8; mask *= 2) peak = fmaxf(peak, exchange(peak, mask));
      const float base = peak == -INFINITY ? 0.f : peak;  // a row without any key yet
      const float shrink = expf(state[i] - base);
      state[i] = peak;
      state[4 + i] *= shrink;
#pragma unroll
      for (int j = 0; j < D / 8; ++j) state[8 + j * 4 + i] *= shrink;
#pragma unroll
      for (int j = 0; j < KEYS / 8; ++j) {
        const float p = expf(row[j * 8] - base);
        state[4 + i] += p;
        row[j * 8] = p;
      }
    }
    __syncthreads();  // the weights of a row are of eight lanes
#pragma unroll 4
    for (int key = 0; key < KEYS; key += 4) {
      float4 p[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) p[i] = *reinterpret_cast<const float4*>(weights + i * 4 * PITCH + key);
#pragma unroll
      for (int j = 0; j < D / 8; ++j) {
        const int column = j * 8 + n;
        float v[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const char* const chunk = shared + V_AT + place(key + e, column / 4);
          v[e] = reinterpret_cast<const float*>(chunk)[column % 4];
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float& total = state[8 + j * 4 + i];
          total += p[i].x * v[0];
          total += p[i].y * v[1];
          total += p[i].z * v[2];
          total += p[i].w * v[3];
        }
      }
    }
  }

  static __device__ __forceinline__ void finish(void* shared, float* state) {
    wait<0>();
    __syncthreads();
    const int lane = threadIdx.x % 32, m = threadIdx.x / 32 * 16 + lane / 8, n = lane % 8;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float total = state[4 + i];
#pragma unroll
      for (int mask = 1; mask < 8; mask *= 2) total += exchange(total, mask);
      const float scale = 1.f / total;
#pragma unroll
      for (int j = 0; j < D / 8; ++j) {
        static_cast<float*>(shared)[(m + i * 4) * (D + 4) + j * 8 + n] = state[8 + j * 4 + i] * scale;
      }
    }
    __syncthreads();
  }
};

}  // namespace ig
