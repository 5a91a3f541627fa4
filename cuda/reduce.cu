/* reduce.cu -- sums over rows without atomics (see reduce.h).
 *
 * column_sums moves sizeof(S) bytes per element: 412k rows of 192 bf16 are 158 MB, 37 us at
 * 4.3 TB/s, and its partial rows 432 * 192 * 4 B = 332 KB, which stay in the L2 cache. */
#include "cuda/reduce.h"

#include "cuda/device.h"

namespace
{

/* 8 floats are one 32-byte sector, the smallest piece of memory that is read whole: narrow tiles
 * give 192 columns 24 blocks instead of 6. */
enum { THREADS = 256, TILE = 8, TILE_LANES = THREADS / TILE };

struct tile_scratch {
    float at[TILE_LANES][TILE];
};

struct parts {
    float *out[2]; // [cols] each; NULL where not wanted
    bool accumulate[2];
    const float *partial; // [count][width], width = cols or 2 * cols
    int64_t count, width, cols;
};

/* One block per TILE columns. Lane l adds parts l, l + 32, ...; then the lanes are added in order.
 */
__global__ void __launch_bounds__(THREADS) sum_parts(parts a)
{
    PK_SHARED(tile_scratch, scratch);
    const int lane = threadIdx.x / TILE, c = threadIdx.x % TILE;
    const int64_t column = (int64_t)blockIdx.x * TILE + c;
    const bool second = column >= a.cols;
    float *out = second ? a.out[1] : a.out[0];
    const bool accumulate = second ? a.accumulate[1] : a.accumulate[0];
    const bool wanted = column < a.width && out != NULL;
    float sum = 0;
    if (wanted) {
#pragma unroll 4
        for (int64_t p = lane; p < a.count; p += TILE_LANES) sum += a.partial[p * a.width + column];
    }
    scratch.at[lane][c] = sum;
    __syncthreads();
    if (lane != 0 || !wanted) return;
    for (int l = 1; l < TILE_LANES; l++) sum += scratch.at[l][c];
    out += second ? column - a.cols : column;
    *out = accumulate ? *out + sum : sum;
}

enum pk_status launch_sum_parts(const struct pk_queue *q, const parts &a, struct pk_err *err)
{
    return PK_LAUNCH(sum_parts, (unsigned)((a.width + TILE - 1) / TILE), THREADS,
                     sizeof(tile_scratch), q, err, a);
}

struct sums {
    const void *at;
    float *partial;                  // [parts][cols]
    int64_t record, rows, all, cols; // all: rows of all records together
    int64_t part;                    // rows of one block
    int width;                       // vectors of one block's tile of columns
};

/* Row number r of all records, as a place that can be moved forward without dividing again. */
struct place {
    int64_t record, row;
};

template <typename S, int N>
__device__ __forceinline__ vec<S, N> row_vector(const sums &a, place p, int64_t column)
{
    return load<S, N>((const S *)a.at + p.record * a.record + p.row * a.cols + column);
}

/* Block (p, t): rows [p * part, (p + 1) * part) of tile t of the columns. Thread (lane, v) adds
 * vector v of rows lane, lane + lanes, ...: eight (bf16) or four sums in registers, four loads of
 * 16 bytes in flight. */
template <typename S, int N> __global__ void __launch_bounds__(THREADS, 4) column_sums(sums a)
{
    PK_SHARED(float, scratch); // [lanes][N][width]
    enum { AHEAD = 4 };
    const int lanes = blockDim.x / a.width, lane = threadIdx.x / a.width;
    const int v = threadIdx.x % a.width, tile = a.width * N;
    const int64_t column = ((int64_t)blockIdx.y * a.width + v) * N;
    const int64_t first = (int64_t)blockIdx.x * a.part + lane;
    const int64_t end = min((int64_t)(blockIdx.x + 1) * a.part, a.all);
    const place step = {lanes / a.rows, lanes % a.rows};
    place p = {first / a.rows, first % a.rows};
    float sum[N] = {};
    for (int64_t r = first; column < a.cols && r < end; r += AHEAD * lanes) {
        vec<S, N> x[AHEAD] = {};
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            if (r + k * lanes < end) x[k] = row_vector<S, N>(a, p, column);
            p.record += step.record;
            p.row += step.row;
            if (p.row >= a.rows) p.row -= a.rows, p.record++;
        }
#pragma unroll
        for (int k = 0; k < AHEAD; k++)
#pragma unroll
            for (int i = 0; i < N; i++) sum[i] += to_float(x[k].at[i]);
    }
#pragma unroll
    for (int i = 0; i < N; i++) (&scratch)[(lane * N + i) * a.width + v] = sum[i];
    __syncthreads();
    const int t = threadIdx.x;
    const int64_t c = ((int64_t)blockIdx.y * a.width + t % a.width) * N + t / a.width;
    if (t >= tile || c >= a.cols) return;
    float total = 0;
    for (int l = 0; l < lanes; l++) total += (&scratch)[l * tile + t];
    a.partial[blockIdx.x * a.cols + c] = total;
}

/* Partial rows: at least 64 rows each, and blocks of one 512-byte tile of bf16 columns that are all
 * resident at once. */
int64_t parts_of(int64_t rows, int64_t cols)
{
    const int64_t tiles = (cols + 255) / 256;
    return PK_MIN((rows + 63) / 64, (PK_CUDA_PARTS + tiles - 1) / tiles);
}

template <typename S, int N>
enum pk_status sum_columns(const struct pk_queue *q, sums a, int64_t parts, struct pk_err *err)
{
    const int64_t vectors = a.cols / N, tiles = (vectors + PK_WARP - 1) / PK_WARP;
    a.width = (int)((vectors + tiles - 1) / tiles);
    const int lanes = THREADS / a.width; // at least 8, so lanes * width covers N * width columns
    return PK_LAUNCH((column_sums<S, N>), dim3((unsigned)parts, (unsigned)tiles), lanes * a.width,
                     (size_t)lanes * a.width * N * sizeof(float), q, err, a);
}

} // namespace

extern "C" enum pk_status pk_cuda_sum_parts(const struct pk_queue *q, float *out,
                                            const float *partial, int64_t parts, int64_t cols,
                                            bool accumulate, struct pk_err *err)
{
    return launch_sum_parts(q, {{out, NULL}, {accumulate, false}, partial, parts, cols, cols}, err);
}

extern "C" enum pk_status pk_cuda_sum_parts_of_two(const struct pk_queue *q, float *const out[2],
                                                   const bool accumulate[2], const float *partial,
                                                   int64_t parts, int64_t cols, struct pk_err *err)
{
    return launch_sum_parts(
        q, {{out[0], out[1]}, {accumulate[0], accumulate[1]}, partial, parts, 2 * cols, cols}, err);
}

extern "C" size_t pk_cuda_column_sums_workspace(int64_t rows, int64_t cols)
{
    return (size_t)(parts_of(rows, cols) * cols) * sizeof(float);
}

extern "C" enum pk_status pk_cuda_column_sums(const struct pk_queue *q, float *out,
                                              const struct pk_cuda_rows *x, bool accumulate,
                                              void *workspace, struct pk_err *err)
{
    const int64_t rows = x->batch * x->rows, most = parts_of(rows, x->cols);
    if (rows == 0)
        return pk_cuda_sum_parts(q, out, (const float *)workspace, 0, x->cols, accumulate, err);
    sums a = {x->at, (float *)workspace, x->record, x->rows, rows, x->cols, 0, 0};
    a.part = (rows + most - 1) / most;
    const int64_t parts = (rows + a.part - 1) / a.part; // none of them empty
    const int64_t size = (int64_t)pk_dtype_size(x->dtype);
    const bool aligned =
        (uintptr_t)x->at % 16 == 0 && x->cols * size % 16 == 0 && x->record * size % 16 == 0;
    if (x->dtype == PK_BF16)
        PK_TRY(aligned ? (sum_columns<bf16, 8>(q, a, parts, err))
                       : (sum_columns<bf16, 1>(q, a, parts, err)));
    else
        PK_TRY(aligned ? (sum_columns<float, 4>(q, a, parts, err))
                       : (sum_columns<float, 1>(q, a, parts, err)));
    return pk_cuda_sum_parts(q, out, (const float *)workspace, parts, x->cols, accumulate, err);
}
