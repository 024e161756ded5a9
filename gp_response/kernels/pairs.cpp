// Products of kernel matrices that are never stored: K v for K_ij = f(multiple |x_i - y_j|²), in float or double.
//
// A tile of K is evaluated in registers, laid down in the first-level cache, multiplied with v from both sides where the
// matrix is symmetric, and forgotten. Distances are sums of squared differences: nothing cancels, whatever the points.
// Vectors are GCC's, as wide as the machine's; `compiled.py` compiles this file for the machine it runs on.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int BYTES = 64;  // of a vector
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif
constexpr int ROWS = 4;     // of a tile evaluated together
constexpr int STEP = 256;   // bytes of the columns evaluated together
constexpr int STRIP = 32;   // rows of a tile
constexpr int SIDE = 1024;  // bytes of a row of a tile

template <class T> struct Of;
template <> struct Of<float> {
  typedef float V __attribute__((vector_size(BYTES)));
  typedef int32_t I __attribute__((vector_size(BYTES)));
};
template <> struct Of<double> {
  typedef double V __attribute__((vector_size(BYTES)));
  typedef int64_t I __attribute__((vector_size(BYTES)));
};
template <class T> using Vec = typename Of<T>::V;
template <class T> constexpr int LANES = BYTES / sizeof(T);
template <class T> constexpr int WIDE = SIDE / sizeof(T);
template <class T> constexpr int PANEL = STEP / sizeof(T);

template <class T> inline Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, BYTES);
  return v;
}
template <class T> inline void store(T* p, Vec<T> v) { std::memcpy(p, &v, BYTES); }
// Sums over a tile are added up apart: long sums in float then lose few digits.
template <class T> inline void add(T* p, Vec<T> v) { store<T>(p, load(p) + v); }
template <class T> inline Vec<T> all(T a) { return a - Vec<T>{}; }

// The larger of two; not a number stays that.
inline Vec<float> at_least(Vec<float> low, Vec<float> x) {
#ifdef __AVX512F__
  return (Vec<float>)_mm512_max_ps((__m512)low, (__m512)x);
#else
  return x < low ? low : x;
#endif
}
inline Vec<double> at_least(Vec<double> low, Vec<double> x) {
#ifdef __AVX512F__
  return (Vec<double>)_mm512_max_pd((__m512d)low, (__m512d)x);
#else
  return x < low ? low : x;
#endif
}

// exp(x) for x <= 0, within two units in the last place; below the smallest normal number, that number.
inline Vec<float> exponential(Vec<float> x) {
  x = at_least(all(-87.0f), x);
  const Vec<float> shifted = x * 1.44269504f + 12582912.0f, whole = shifted - 12582912.0f;
  const Vec<float> r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Vec<float> p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * r + 1.0f) * r + 1.0f;
  return (Vec<float>)((Of<float>::I)p + ((Of<float>::I)shifted << 23));
}
inline Vec<double> exponential(Vec<double> x) {
  x = at_least(all(-708.0), x);
  const Vec<double> shifted = x * 1.4426950408889634 + 6755399441055744.0, whole = shifted - 6755399441055744.0;
  const Vec<double> r = (x - whole * 6.93147180369123816490e-01) - whole * 1.90821492927058770002e-10;
  constexpr double inverse[] = {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0,
                                1.0 / 40320.0,      1.0 / 5040.0,      1.0 / 720.0,      1.0 / 120.0,     1.0 / 24.0,
                                1.0 / 6.0,          0.5,               1.0};
  Vec<double> p = all(inverse[0]);
  for (int i = 1; i < 13; i++) p = p * r + inverse[i];
  p = p * r + 1.0;
  return (Vec<double>)((Of<double>::I)p + ((Of<double>::I)shifted << 52));
}

inline Vec<float> root(Vec<float> x) {
#ifdef __AVX512F__
  return (Vec<float>)_mm512_sqrt_ps((__m512)x);
#else
  for (int i = 0; i < LANES<float>; i++) x[i] = std::sqrt(x[i]);
  return x;
#endif
}
inline Vec<double> root(Vec<double> x) {
#ifdef __AVX512F__
  return (Vec<double>)_mm512_sqrt_pd((__m512d)x);
#else
  for (int i = 0; i < LANES<double>; i++) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

inline float third(Vec<float>) { return 1.0f / 3.0f; }
inline double third(Vec<double>) { return 1.0 / 3.0; }

// Profiles of q = multiple |x - y|², as the Python classes of these names have them in `in_place`.
struct RBF {
  template <class V> static V at(V q) { return exponential(q); }
};
struct Matern12 {
  template <class V> static V at(V q) { return exponential(-root(q)); }
};
struct Matern32 {
  template <class V> static V at(V q) {
    const V s = root(q), decay = exponential(-s);
    return decay * s + decay;
  }
};
struct Matern52 {
  template <class V> static V at(V q) {
    const V s = root(q), decay = exponential(-s);
    return decay * (q * third(q) + s) + decay;
  }
};

// k (rows x cols, at a distance of WIDE) for `cols` points y in panels (d x PANEL); whole steps of rows and columns.
// With half the squared norms of all points, by products of coordinates: half the work, where cancellation does no harm.
template <class T, class P, bool EXPANDED>
void evaluate(const T* x, const T* half_x, const T* y, const T* half_y, int rows, int cols, int d, T multiple, T* k) {
  constexpr int L = LANES<T>, BROAD = STEP / BYTES;
  for (int j = 0; j < cols; j += PANEL<T>)
    for (int i = 0; i < rows; i += ROWS) {
      Vec<T> q[ROWS][BROAD] = {};
      if (EXPANDED)
        for (int b = 0; b < BROAD; b++) {
          const Vec<T> half = load(half_y + j + b * L);
          for (int a = 0; a < ROWS; a++) q[a][b] = half + half_x[i + a];
        }
      for (int c = 0; c < d; c++) {
        Vec<T> at[BROAD];
        for (int b = 0; b < BROAD; b++) at[b] = load(y + j * d + c * PANEL<T> + b * L);
        for (int a = 0; a < ROWS; a++) {
          const Vec<T> from = all(x[(i + a) * d + c]);
          for (int b = 0; b < BROAD; b++)
            if (EXPANDED) {
              q[a][b] -= at[b] * from;
            } else {
              const Vec<T> apart = at[b] - from;
              q[a][b] += apart * apart;
            }
        }
      }
      for (int a = 0; a < ROWS; a++)
        for (int b = 0; b < BROAD; b++) {
          const Vec<T> r2 = EXPANDED ? at_least(Vec<T>{}, q[a][b]) * T(2) : q[a][b];
          store(k + (i + a) * WIDE<T> + j + b * L, P::at(r2 * multiple));
        }
    }
}

// out (columns x cols) += v (columns x rows) k, a few columns at a time. v, out: columns at distances `from` and `to`.
template <class T, int N>
void down(const T* k, int rows, int cols, const T* v, int64_t from, T* out, int64_t to) {
  constexpr int L = LANES<T>, B = 2;
  for (int j = 0; j < cols; j += B * L) {
    Vec<T> sum[N][B] = {};
    for (int i = 0; i < rows; i++) {
      Vec<T> row[B];
      for (int b = 0; b < B; b++) row[b] = load(k + i * WIDE<T> + j + b * L);
      for (int t = 0; t < N; t++)
        for (int b = 0; b < B; b++) sum[t][b] += row[b] * v[t * from + i];
    }
    for (int t = 0; t < N; t++)
      for (int b = 0; b < B; b++) add(out + t * to + j + b * L, sum[t][b]);
  }
}

// lanes (rows x N vectors) += k v, a vector's entries still to be added up; v: columns at a distance of `ahead`.
template <class T, int N>
void across(const T* k, int rows, int cols, const T* v, int64_t ahead, T* lanes) {
  constexpr int L = LANES<T>, A = 2;
  for (int i = 0; i < rows; i += A) {
    Vec<T> sum[A][N] = {};
    for (int j = 0; j < cols; j += L)
      for (int a = 0; a < A; a++) {
        const T* const at = k + (i + a) * WIDE<T> + j;
        __builtin_prefetch(at + STRIP * WIDE<T>, 0, 2);  // of kept blocks, what comes next
        const Vec<T> row = load(at);
        for (int t = 0; t < N; t++) sum[a][t] += row * load(v + t * ahead + j);
      }
    for (int a = 0; a < A; a++)
      for (int t = 0; t < N; t++) add(lanes + ((i + a) * N + t) * L, sum[a][t]);
  }
}

// out (rows x N, at a distance of `width`) += k v for v (cols x N, at the same): N a whole number of vectors.
template <class T, int B>
void across_broad(const T* k, int rows, int cols, const T* v, int64_t width, T* out) {
  constexpr int L = LANES<T>, A = 8;
  for (int i = 0; i < rows; i += A) {
    Vec<T> sum[A][B] = {};
    for (int j = 0; j < cols; j++) {
      Vec<T> at[B];
      for (int b = 0; b < B; b++) at[b] = load(v + j * width + b * L);
      for (int a = 0; a < A; a++)
        for (int b = 0; b < B; b++) sum[a][b] += at[b] * k[(i + a) * WIDE<T> + j];
    }
    for (int a = 0; a < A; a++)
      for (int b = 0; b < B; b++) add(out + (i + a) * width + b * L, sum[a][b]);
  }
}

int64_t rounded_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// A product, or some rows and columns of the matrix itself; as `Pairs` in compiled.py has it, padded with zeros to whole
// blocks of WIDE rows and columns.
template <class T> struct Job {
  int profile;
  T multiple;
  bool symmetric;
  int64_t n, m, high, wide;  // high, wide: n and m with the padding
  int64_t d, t;
  const T *x, *y, *half_x, *half_y;  // (n, d), panels of (m, d), (n), (m); without halves, by differences
  const T* v;                        // (t, m)
  T* out;                            // (t, high) of zeros; or the matrix
  T* kept;                           // the first blocks of the matrix, so many, once they are filled in
  int64_t capacity;
  bool filled;

  template <class P> void tile(int64_t i, int64_t j, int rows, int cols, T* k) const {
    if (half_x)
      evaluate<T, P, true>(x + i * d, half_x + i, y + j * d, half_y + j, rows, cols, d, multiple, k);
    else
      evaluate<T, P, false>(x + i * d, nullptr, y + j * d, nullptr, rows, cols, d, multiple, k);
    // Exactly what it is at distance 0 where a point meets itself.
    if (half_x && symmetric)
      for (int64_t at = std::max(i, j); at < std::min(i + rows, j + cols); at++)
        k[(at - i) * WIDE<T> + at - j] = P::at(Vec<T>{})[0];
  }
};

// The part of a product that one thread does: every block of rows that is dealt to it.
template <class T> struct Worker {
  const Job<T>& job;
  int whole, rest;  // columns taken a vector at a time, and the others
  std::vector<T> k, lanes, broad_out, mirrored;

  explicit Worker(const Job<T>& j) : job(j) {
    constexpr int L = LANES<T>;
    whole = j.t / L * L;
    rest = j.t - whole;
    k.resize(STRIP * WIDE<T> + BYTES);
    lanes.resize(rest ? WIDE<T> * rest * L : 0);
    broad_out.resize(WIDE<T> * whole);
    if (j.symmetric) mirrored.resize(j.t * j.wide);
  }

  T* tile() {  // at the start of a cache line
    const auto at = reinterpret_cast<uintptr_t>(k.data());
    return k.data() + (rounded_up(at, BYTES) - at) / sizeof(T);
  }

  template <class P> void rows(int64_t block, const T* row_major) {
    constexpr int W = WIDE<T>;
    const int64_t i0 = block * W, last = rounded_up(job.m, W) / W;
    const int64_t before = job.symmetric ? block * last - block * (block + 1) / 2 : block * last;  // of block (block, c)
    const int high = rounded_up(std::min<int64_t>(W, job.n - i0), 8);
    std::fill(lanes.begin(), lanes.end(), T(0));
    std::fill(broad_out.begin(), broad_out.end(), T(0));
    for (int64_t c = job.symmetric ? block : 0; c < last; c++) {
      const int64_t j0 = c * W;
      const bool keep = before + c < job.capacity;
      const int cols = rounded_up(std::min<int64_t>(W, job.m - j0), PANEL<T>);
      for (int i = 0; i < high; i += STRIP) {
        const int rows = std::min(STRIP, high - i);
        T* const tile = keep ? job.kept + (before + c) * W * W + i * W : this->tile();
        if (!(keep && job.filled)) job.template tile<P>(i0 + i, j0, rows, cols, tile);
        for (int t = 0; t < whole;) t += broad_group(tile, rows, cols, row_major + j0 * whole + t, i, t);
        lane_groups(tile, rows, cols, j0, i);
        if (job.symmetric && c > block) mirror(tile, rows, cols, i0 + i, j0);
      }
    }
    finish(i0, high);
  }

  int broad_group(const T* tile, int rows, int cols, const T* v, int i, int t) {
    constexpr int L = LANES<T>;
    T* const out = broad_out.data() + i * whole + t;
    if (whole - t >= 2 * L) return across_broad<T, 2>(tile, rows, cols, v, whole, out), 2 * L;
    return across_broad<T, 1>(tile, rows, cols, v, whole, out), L;
  }

  void lane_groups(const T* tile, int rows, int cols, int64_t j0, int i) {
    int done = 0;
    T* at = lanes.data();
    auto group = [&](auto n) {
      constexpr int N = decltype(n)::value;
      if (rest - done < N) return false;
      across<T, N>(tile, rows, cols, job.v + (whole + done) * job.wide + j0, job.wide, at + i * N * LANES<T>);
      done += N;
      at += WIDE<T> * N * LANES<T>;
      return true;
    };
    while (group(std::integral_constant<int, 8>())) {}
    group(std::integral_constant<int, 4>());
    group(std::integral_constant<int, 2>());
    group(std::integral_constant<int, 1>());
  }

  void mirror(const T* tile, int rows, int cols, int64_t i, int64_t j) {
    int t = 0;
    auto group = [&](auto n) {
      constexpr int N = decltype(n)::value;
      if (job.t - t < N) return false;
      down<T, N>(tile, rows, cols, job.v + t * job.wide + i, job.wide, mirrored.data() + t * job.wide + j, job.wide);
      t += N;
      return true;
    };
    while (group(std::integral_constant<int, 8>())) {}
    group(std::integral_constant<int, 4>());
    group(std::integral_constant<int, 2>());
    group(std::integral_constant<int, 1>());
  }

  // Rows of the result are one worker's alone, but for what is mirrored.
  void finish(int64_t i0, int high) {
    constexpr int L = LANES<T>;
    for (int t = 0; t < whole; t++)
      for (int i = 0; i < high; i++) job.out[t * job.high + i0 + i] = broad_out[i * whole + t];
    const T* at = lanes.data();
    for (int done = 0; done < rest;) {
      const int left = rest - done, N = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
      for (int i = 0; i < high; i++)
        for (int t = 0; t < N; t++) {
          T sum = 0;
          for (int l = 0; l < L; l++) sum += at[(i * N + t) * L + l];
          job.out[(whole + done + t) * job.high + i0 + i] = sum;
        }
      done += N;
      at += WIDE<T> * N * L;
    }
  }
};

// Blocks are dealt out in a fixed order, back and forth as the later rows of a symmetric matrix have less to do: the same
// number of threads gives the same rounding.
bool dealt(int64_t block, int thread, int threads) {
  const int64_t at = block % (2 * threads);
  return (at < threads ? at : 2 * threads - 1 - at) == thread;
}

template <class T, class P> void multiply(const Job<T>& job, int threads) {
  const int64_t blocks = rounded_up(job.n, WIDE<T>) / WIDE<T>;
  const int whole = job.t / LANES<T> * LANES<T>;
  std::vector<T> row_major(whole * job.wide);
  for (int t = 0; t < whole; t++)
    for (int64_t j = 0; j < job.m; j++) row_major[j * whole + t] = job.v[t * job.wide + j];
  std::vector<std::vector<T>> mirrored(threads);
#pragma omp parallel num_threads(threads)
  {
#ifdef _OPENMP
    const int thread = omp_get_thread_num(), team = omp_get_num_threads();  // which may be fewer than asked for
#else
    const int thread = 0, team = 1;
#endif
    Worker<T> worker(job);
    for (int64_t block = 0; block < blocks; block++)
      if (dealt(block, thread, team)) worker.template rows<P>(block, row_major.data());
    mirrored[thread].swap(worker.mirrored);
#pragma omp barrier
    if (job.symmetric)
      for (int from = 0; from < team; from++)
#pragma omp for nowait schedule(static)
        for (int64_t at = 0; at < job.t * job.wide; at++) job.out[at] += mirrored[from][at];
  }
}

template <class T, class P> void fill(const Job<T>& job, int threads) {
  constexpr int W = WIDE<T>;
#pragma omp parallel num_threads(threads)
  {
    std::vector<T> k(STRIP * W);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < job.n; i += STRIP) {
      const int rows = std::min<int64_t>(STRIP, job.n - i);
      for (int64_t j = 0; j < job.m; j += W) {
        const int cols = std::min<int64_t>(W, job.m - j);
        job.template tile<P>(i, j, rounded_up(rows, ROWS), rounded_up(cols, PANEL<T>), k.data());
        for (int a = 0; a < rows; a++) std::memcpy(job.out + (i + a) * job.m + j, k.data() + a * W, cols * sizeof(T));
      }
    }
  }
}

template <class T, class P> void run(const Job<T>& job, int threads) {
  if (job.v)
    multiply<T, P>(job, threads);
  else
    fill<T, P>(job, threads);
}

template <class T> int run(const Job<T>& job, int threads) {
  switch (job.profile) {
    case 0: run<T, RBF>(job, threads); return 0;
    case 1: run<T, Matern12>(job, threads); return 0;
    case 2: run<T, Matern32>(job, threads); return 0;
    case 3: run<T, Matern52>(job, threads); return 0;
  }
  return 1;
}

}  // namespace

#define ENTRY(name, T)                                                                                                  \
  extern "C" int name(int threads, int profile, double multiple, int symmetric, int64_t n, int64_t m, int64_t high,     \
                      int64_t wide, int64_t d, int64_t t, const T* x, const T* y, const T* half_x, const T* half_y,     \
                      const T* v, T* out, T* kept, int64_t capacity, int filled) {                                      \
    return run(Job<T>{profile, T(multiple), symmetric != 0, n, m, high, wide, d, t, x, y, half_x, half_y, v, out, kept, \
                      capacity, filled != 0},                                                                           \
               threads);                                                                                                \
  }
ENTRY(pairs_float32, float)
ENTRY(pairs_float64, double)
