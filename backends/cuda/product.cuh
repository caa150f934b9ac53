// A tile of a product and the operands that it is made of; `product_of_rows` and `convolution` are what kernels call.
// After primitives.cuh.
namespace ig {

// --- operands: where 16 bytes of a row are ---------------------------------------------------------------------------

// A matrix of rows that start at multiples of 16 bytes.
struct Rows {
  const char* base;
  int count;
  int pitch;  // bytes from row to row

  struct Row {
    const char* start;
    bool valid;
  };

  __device__ __forceinline__ Row row(int i) const {
    const bool valid = i < count;
    return {base + (valid ? static_cast<int64_t>(i) * pitch : 0), valid};
  }

  __device__ __forceinline__ const char* at(const Row& r, int byte, bool& valid) const {
    valid = r.valid && byte < pitch;
    return r.start + (valid ? byte : 0);
  }
};

// The windows of a convolution over images [n, H, W, C bytes]: row i is what output pixel i reads, tap by tap.
template <int C, int H, int W, int OH, int OW, int KH, int KW, int SY, int SX, int PY, int PX, int DY, int DX>
struct Windows {
  const char* base;
  int count;  // output pixels of all images

  struct Row {
    const char* image;
    int y, x;
  };

  __device__ __forceinline__ Row row(int i) const {
    if (i >= count) return {base, -(1 << 28), 0};
    const int n = i / (OH * OW), p = i % (OH * OW);
    return {base + static_cast<int64_t>(n) * H * W * C, p / OW * SY - PY, p % OW * SX - PX};
  }

  __device__ __forceinline__ const char* at(const Row& r, int byte, bool& valid) const {
    const int tap = byte / C, y = r.y + tap / KW * DY, x = r.x + tap % KW * DX;
    valid = byte < KH * KW * C && y >= 0 && y < H && x >= 0 && x < W;
    return r.image + (valid ? (y * W + x) * C + byte % C : 0);
  }
};

// --- a tile of a product ---------------------------------------------------------------------------------------------

constexpr int DEPTH = 64;  // bytes of a row that are in shared memory at a time: a row of a stage

// Where a chunk of 16 bytes lies in a tile: permuted so that eight rows, or eight chunks, meet all banks.
__device__ __forceinline__ int place(int row, int chunk) { return row * DEPTH + ((chunk ^ (row >> 1 & 3)) << 4); }

// A warp's WM x WN sums on tensor cores: `add` takes up a stage, from row wm and column wn of its tiles on.
template <class T, int WM, int WN> struct Part {
  using S = typename Sum<T>::type;
  static constexpr int MT = WM / 16, NT = WN / 16;
  S sum[MT][NT * 2][4] = {};

  __device__ __forceinline__ void add(const char* at, const char* bt, int wm, int wn) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < DEPTH / 16; k += 2) {
      uint32_t fa[MT][4], fb[NT][4];
#pragma unroll
      for (int i = 0; i < MT; ++i) load4(fa[i], at + place(wm + i * 16 + lane % 16, k + lane / 16));
#pragma unroll
      for (int j = 0; j < NT; ++j) load4(fb[j], bt + place(wn + j * 16 + lane % 8 + lane / 16 * 8, k + lane / 8 % 2));
#pragma unroll
      for (int i = 0; i < MT; ++i)
#pragma unroll
        for (int j = 0; j < NT; ++j) {
          mma(sum[i][2 * j], fa[i], fb[j][0], fb[j][1], T());
          mma(sum[i][2 * j + 1], fa[i], fb[j][2], fb[j][3], T());
        }
    }
  }

  __device__ __forceinline__ void store(S* out, int pitch, int wm, int wn) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
      for (int j = 0; j < NT * 2; ++j) {
        S* const to = out + (wm + i * 16 + lane / 4) * pitch + wn + j * 8 + lane % 4 * 2;
        to[0] = sum[i][j][0];
        to[1] = sum[i][j][1];
        to[8 * pitch] = sum[i][j][2];
        to[8 * pitch + 1] = sum[i][j][3];
      }
  }
};

// The same in f32 without tensor cores. A warp is 4 x 8 lanes, each with every fourth row and every eighth column: what
// a load of the warp touches are neighbouring rows, which meet all banks.
template <int WM, int WN> struct Part<Single, WM, WN> {
  static constexpr int MT = WM / 4, NT = WN / 8;
  float sum[MT][NT] = {};

  __device__ __forceinline__ void add(const char* at, const char* bt, int wm, int wn) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < DEPTH / 16; ++k) {
      float4 b[NT];
#pragma unroll
      for (int j = 0; j < NT; ++j) b[j] = *reinterpret_cast<const float4*>(bt + place(wn + j * 8 + lane % 8, k));
#pragma unroll
      for (int i = 0; i < MT; ++i) {
        const float4 a = *reinterpret_cast<const float4*>(at + place(wm + i * 4 + lane / 8, k));
#pragma unroll
        for (int j = 0; j < NT; ++j) {
          sum[i][j] += a.x * b[j].x;
          sum[i][j] += a.y * b[j].y;
          sum[i][j] += a.z * b[j].z;
          sum[i][j] += a.w * b[j].w;
        }
      }
    }
  }

  __device__ __forceinline__ void store(float* out, int pitch, int wm, int wn) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
      for (int j = 0; j < NT; ++j) out[(wm + i * 4 + lane / 8) * pitch + wn + j * 8 + lane % 8] = sum[i][j];
  }
};

// shared[BM, BN + 4] = a[m0 :, depth] * b[n0 :, depth]^T. Warps own WM x WN each; STAGES tiles are on their way.
template <class T, int BM, int BN, int WM, int WN, int STAGES, class A, class B>
__device__ __forceinline__ void product(void* shared, A a, B b, int m0, int n0, int depth) {
  constexpr int THREADS = BM / WM * (BN / WN) * 32, ROWS = THREADS / 4;
  static_assert(BM % ROWS == 0 && BN % ROWS == 0, "every thread copies as many chunks");
  char* const as = static_cast<char*>(shared);
  char* const bs = as + STAGES * BM * DEPTH;
  const int tid = threadIdx.x, warp = tid / 32;
  const int wm = warp % (BM / WM) * WM, wn = warp / (BM / WM) * WN;
  const int r0 = tid / 4, chunk = tid % 4;

  typename A::Row ra[BM / ROWS];
  typename B::Row rb[BN / ROWS];
#pragma unroll
  for (int i = 0; i < BM / ROWS; ++i) ra[i] = a.row(m0 + r0 + i * ROWS);
#pragma unroll
  for (int i = 0; i < BN / ROWS; ++i) rb[i] = b.row(n0 + r0 + i * ROWS);

  auto fetch = [&](int step) {
    const int stage = step % STAGES, byte = step * DEPTH + chunk * 16;
#pragma unroll
    for (int i = 0; i < BM / ROWS; ++i) {
      bool valid;
      const char* from = a.at(ra[i], byte, valid);
      copy16(as + stage * BM * DEPTH + place(r0 + i * ROWS, chunk), from, valid);
    }
#pragma unroll
    for (int i = 0; i < BN / ROWS; ++i) {
      bool valid;
      const char* from = b.at(rb[i], byte, valid);
      copy16(bs + stage * BN * DEPTH + place(r0 + i * ROWS, chunk), from, valid);
    }
  };

  Part<T, WM, WN> part;
  const int steps = (depth + DEPTH - 1) / DEPTH;
#pragma unroll
  for (int s = 0; s < STAGES - 1; ++s) {
    if (s < steps) fetch(s);
    commit();
  }
#pragma unroll 1  // whole, as nvcc would have it, it takes all registers
  for (int step = 0; step < steps; ++step) {
    wait<STAGES - 2>();
    __syncthreads();
    if (step + STAGES - 1 < steps) fetch(step + STAGES - 1);
    commit();
    part.add(as + step % STAGES * BM * DEPTH, bs + step % STAGES * BN * DEPTH, wm, wn);
  }
  wait<0>();
  __syncthreads();  // the stages are free
  part.store(static_cast<typename Sum<T>::type*>(shared), BN + 4, wm, wn);
  __syncthreads();
}

// The two forms in which kernels call it. Offsets are in bytes: of the matrices of a batch, of the groups of channels.
template <class T, int BM, int BN, int WM, int WN, int STAGES>
__device__ __forceinline__ void product_of_rows(void* shared, const void* a, int64_t a_offset, int a_rows,
                                                const void* b, int64_t b_offset, int b_rows, int pitch, int m0, int n0) {
  product<T, BM, BN, WM, WN, STAGES>(shared, Rows{static_cast<const char*>(a) + a_offset, a_rows, pitch},
                                     Rows{static_cast<const char*>(b) + b_offset, b_rows, pitch}, m0, n0, pitch);
}

template <class W, class T, int BM, int BN, int WM, int WN, int STAGES>
__device__ __forceinline__ void convolution(void* shared, const void* weights, int64_t w_offset, int channels,
                                            const void* images, int64_t x_offset, int pixels, int pitch, int m0,
                                            int n0) {
  product<T, BM, BN, WM, WN, STAGES>(shared, Rows{static_cast<const char*>(weights) + w_offset, channels, pitch},
                                     W{static_cast<const char*>(images) + x_offset, pixels}, m0, n0, pitch);
}

}  // namespace ig
