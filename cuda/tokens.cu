/* tokens.cu -- moving and combining rows of tokens. A row is the `cols` features of one token; all
 * arrays are [batch, tokens, cols] unless said otherwise.
 *
 * Memory traffic with storage S per element of the output, and the time at 4.3 TB/s for 411,648
 * rows of 192 bf16 (2048 records of 201 tokens), 79 M elements:
 *
 *     gather, slice, prepend            read x, write y              4 B     74 us
 *     add_position                      the same; the table, 154 KB of float, stays in L2
 *     assemble                          read a fifth, write y        2.4 B   44 us
 *     gather_grad, slice_grad           read dy, write all of dx     2 B and 2 B per element of dy
 *     gather_grad, slice_grad, adding   read dy and dx, write dx     6 B per element of dy
 *     mean_pool                         read x                       2 B     37 us
 *     mean_pool_grad                    write dx                     2 B     37 us
 *     dtoken, dmask                     read the rows summed         2 B
 *
 * Times for other row counts are proportional. */
#include "cuda/fault.h"
#include "cuda/reduce.h"

extern "C" {
#include "core/view.h"
}

namespace
{

enum { THREADS = 256, AHEAD = 4 };

enum move {
    GATHER,   // y[b, k] = x[b, index[b, k]]
    SCATTER,  // y[b, index[b, k]] += x[b, k]
    POSITION, // y[b, t] = x[b, t] + table[index[b, t]], or table[t] without an index
    PREPEND,  // y[b] = token, x[b]
    SLICE,    // y[b] = x[b, start .. start + count)
    PLACE,    // y[b] = zeros, x[b], zeros: the opposite of a slice
    ASSEMBLE, // y[b] = x[b] + table[index[b]], token + table[hidden[b]]
    SPREAD    // y[b, t] = scale * x[b] from token `start` on, zeros before
};

struct moving {
    const void *x;
    const float *token, *table; // [cols], [positions, cols]
    const int32_t *index, *hidden;
    void *y;
    struct pk_cuda_fault *fault;
    int32_t node;
    uint32_t rows;        // batch * per, what the threads run over
    int32_t per;          // of one record: tokens of y; of x for SCATTER
    int32_t other;        // tokens of a record on the other side
    int32_t start, count; // of SLICE, PLACE, SPREAD; count: kept tokens of ASSEMBLE
    int32_t positions;    // an index must be below
    int32_t cols, width;  // width: vectors of one block's tile of columns
    float scale;
    enum pk_dtype dtype;
    bool add; // to y
};

/* Where one row comes from and goes to: the sum of row `from` of x, row `plus` of the table and the
 * token; a negative row is not there, and nothing is written if `to` is negative. Numbers rather
 * than pointers: of a pointer that may be NULL the compiler forgets that it is to global memory. */
struct route {
    int64_t from, plus, to;
    bool token;
};

/* The index, or -1 if it points outside: the fault is raised, and the row becomes zeros. */
__device__ __forceinline__ int32_t checked(const moving &m, const int32_t *at, uint32_t record)
{
    const int32_t i = *at;
    if (i >= 0 && i < m.positions) return i;
    raise_fault(m.fault, PK_FAULT_INDEX, m.node, record, i);
    return -1;
}

template <move OP, bool ADD>
__device__ __forceinline__ route route_of(const moving &m, uint32_t row)
{
    const uint32_t b = row / (uint32_t)m.per;
    const int32_t t = (int32_t)(row - b * (uint32_t)m.per);
    const int64_t base = (int64_t)b * m.other;
    if constexpr (OP == GATHER) {
        const int32_t i = checked(m, m.index + row, b);
        return {i < 0 ? -1 : base + i, -1, row, false};
    } else if constexpr (OP == SCATTER) {
        const int32_t i = checked(m, m.index + row, b);
        return {row, -1, i < 0 ? -1 : base + i, false};
    } else if constexpr (OP == POSITION) {
        const int32_t i = m.index ? checked(m, m.index + row, b) : t;
        return {i < 0 ? -1 : (int64_t)row, i, row, false};
    } else if constexpr (OP == PREPEND) {
        return {t == 0 ? -1 : base + t - 1, -1, row, t == 0};
    } else if constexpr (OP == SLICE) {
        return {base + m.start + t, -1, row, false};
    } else if constexpr (OP == PLACE) {
        const bool inside = t >= m.start && t < m.start + m.count;
        return {inside ? base + t - m.start : -1, -1, inside || !ADD ? (int64_t)row : -1, false};
    } else if constexpr (OP == ASSEMBLE) {
        const bool kept = t < m.count;
        const int32_t *at =
            kept ? m.index + base + t : m.hidden + (int64_t)b * (m.per - m.count) + (t - m.count);
        const int32_t i = checked(m, at, b);
        return {kept && i >= 0 ? base + t : -1, i, row, !kept && i >= 0};
    } else {
        const bool inside = t >= m.start;
        return {inside ? (int64_t)b : -1, -1, inside || !ADD ? (int64_t)row : -1, false};
    }
}

/* Within 80 registers or 64, so that 48 KB per SM or more are on the way; 4.3 TB/s of copying over
 * 132 SMs at 900 ns of latency need 15 KB of reads. */
template <move OP>
constexpr int blocks_per_sm = OP == SCATTER || OP == POSITION || OP == ASSEMBLE ? 3 : 4;

/* Block (p, tile): the next AHEAD * lanes rows, one tile of their columns. A thread has one vector
 * of AHEAD rows in flight. Sources and sums of a row are the same for all its threads. */
template <typename S, int N, move OP, bool ADD>
__global__ void __launch_bounds__(THREADS, blocks_per_sm<OP>) move_rows(moving m)
{
    const int lanes = blockDim.x / m.width, lane = threadIdx.x / m.width;
    const int column = (blockIdx.y * m.width + threadIdx.x % m.width) * N;
    const uint32_t first = blockIdx.x * (lanes * AHEAD) + lane;
    if (column >= m.cols) return;
    route r[AHEAD];
    vec<S, N> x[AHEAD], before[AHEAD];
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
        const uint32_t row = first + k * lanes;
        r[k] = {-1, -1, -1, false};
        if (row < m.rows) r[k] = route_of<OP, ADD>(m, row);
        if (r[k].from >= 0) x[k] = load<S, N>((const S *)m.x + r[k].from * m.cols + column);
        if (ADD && r[k].to >= 0) before[k] = load<S, N>((const S *)m.y + r[k].to * m.cols + column);
    }
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
        float y[N] = {}, v[N];
        if (r[k].to < 0) continue;
        if (r[k].from >= 0) to_floats(y, x[k]);
        for (int i = 0; OP == SPREAD && i < N; i++) y[i] *= m.scale;
        if (r[k].token) load_floats<N>(y, m.token + column);
        if (r[k].plus >= 0) {
            load_floats<N>(v, m.table + r[k].plus * m.cols + column);
            for (int i = 0; i < N; i++) y[i] += v[i];
        }
        if (ADD) {
            to_floats(v, before[k]);
            for (int i = 0; i < N; i++) y[i] += v[i];
        }
        store<S, N>((S *)m.y + r[k].to * m.cols + column, from_floats<S, N>(y));
    }
}

/* Tokens that one block of gather_grad writes, at most. */
enum { CHUNK = 64 };

struct inverse {
    int32_t at[CHUNK]; // token of the chunk -> place in the record's index, -1 for none
};

/* y[b, index[b, k]] = x[b, k] and zeros elsewhere. Block (b, part): tokens [part * start, ...) of
 * record b; it turns the record's index around, so that every row is written once. `start`: tokens
 * of a block; `per`: tokens of y; `other`: kept tokens. */
template <typename S, int N> __global__ void __launch_bounds__(THREADS) scatter_rows(moving m)
{
    PK_SHARED(inverse, turned);
    const uint32_t b = blockIdx.x;
    const int32_t first = blockIdx.y * m.start, tokens = min(m.start, m.per - first);
    for (int j = threadIdx.x; j < tokens; j += blockDim.x) turned.at[j] = -1;
    __syncthreads();
    for (int k = threadIdx.x; k < m.other; k += blockDim.x) {
        const int32_t i = checked(m, m.index + (int64_t)b * m.other + k, b) - first;
        if (i >= 0 && i < tokens) turned.at[i] = k;
    }
    __syncthreads();
    const int vectors = m.cols / N;
    const S *x = (const S *)m.x + (int64_t)b * m.other * m.cols;
    S *y = (S *)m.y + ((int64_t)b * m.per + first) * m.cols;
#pragma unroll 4
    for (int j = threadIdx.x; j < tokens * vectors; j += blockDim.x) {
        const int t = j / vectors, column = (j - t * vectors) * N, k = turned.at[t];
        vec<S, N> v = {};
        if (k >= 0) v = load<S, N>(x + (int64_t)k * m.cols + column);
        store<S, N>(y + (int64_t)t * m.cols + column, v);
    }
}

/* y[b] = scale * sum over tokens start .. of x[b]. Block (b, tile); the lanes of the block take
 * every lanes-th token, and their sums are added in order. */
template <typename S, int N> __global__ void __launch_bounds__(THREADS) pool_rows(moving m)
{
    PK_SHARED(float, scratch); // [lanes][N][width]
    const int lanes = blockDim.x / m.width, lane = threadIdx.x / m.width;
    const int v = threadIdx.x % m.width, tile = m.width * N;
    const int column = (blockIdx.y * m.width + v) * N;
    const S *x = (const S *)m.x + (int64_t)blockIdx.x * m.other * m.cols + column;
    float sum[N] = {};
    if (column < m.cols) {
#pragma unroll 4
        for (int t = m.start + lane; t < m.other; t += lanes) {
            float y[N];
            to_floats(y, load<S, N>(x + (int64_t)t * m.cols));
            for (int i = 0; i < N; i++) sum[i] += y[i];
        }
    }
    for (int i = 0; i < N; i++) (&scratch)[(lane * N + i) * m.width + v] = sum[i];
    __syncthreads();
    const int t = threadIdx.x, c = (blockIdx.y * m.width + t % m.width) * N + t / m.width;
    if (t >= tile || c >= m.cols) return;
    float total = 0;
    for (int l = 0; l < lanes; l++) total += (&scratch)[l * tile + t];
    ((S *)m.y)[(int64_t)blockIdx.x * m.cols + c] = from_float<S>(total * m.scale);
}

/* ---- launches ---- */

/* What all ops have in common. x and y: inputs and outputs of the op, in that order. */
moving moving_of(const struct pk_call *c, int x, int y)
{
    moving m = {};
    m.x = c->src[x];
    m.y = c->dst[y];
    m.fault = c->queue->fault;
    m.node = c->node->scope;
    m.cols = (int32_t)pk_view_cols(c->out[y]);
    m.dtype = c->out[y]->dtype;
    m.add = pk_call_accumulates(c, y);
    return m;
}

/* Splits the columns into tiles of at most `most` vectors, as even as they come; returns how many.
 */
unsigned tiles_of(moving &m, int N, int most)
{
    const int vectors = m.cols / N, tiles = (vectors + most - 1) / most;
    m.width = (vectors + tiles - 1) / tiles;
    return (unsigned)tiles;
}

template <typename S, int N, move OP, bool ADD>
enum pk_status launch_move(const struct pk_queue *q, moving m, struct pk_err *err)
{
    const unsigned tiles = tiles_of(m, N, THREADS), lanes = THREADS / m.width;
    const unsigned blocks = (m.rows + lanes * AHEAD - 1) / (lanes * AHEAD);
    return PK_LAUNCH((move_rows<S, N, OP, ADD>), dim3(blocks, tiles), lanes * m.width, 0, q, err,
                     m);
}

/* batch records of m.per rows each. */
template <move OP, bool ADD>
enum pk_status run_move(const struct pk_call *c, moving m, int64_t batch, struct pk_err *err)
{
    const int64_t rows = batch * m.per;
    if (rows == 0) return PK_OK;
    if (rows > UINT32_MAX - 4 * THREADS) // row numbers are 32 bits, for the division
        return pk_fail(err, PK_ESHAPE, "%lld token rows in one batch are too many",
                       (long long)rows);
    m.rows = (uint32_t)rows;
    if (m.dtype == PK_BF16)
        return m.cols % 8 == 0 ? launch_move<bf16, 8, OP, ADD>(c->queue, m, err)
                               : launch_move<bf16, 1, OP, ADD>(c->queue, m, err);
    return m.cols % 4 == 0 ? launch_move<float, 4, OP, ADD>(c->queue, m, err)
                           : launch_move<float, 1, OP, ADD>(c->queue, m, err);
}

template <move OP>
enum pk_status run_either(const struct pk_call *c, const moving &m, int64_t batch,
                          struct pk_err *err)
{
    return m.add ? run_move<OP, true>(c, m, batch, err) : run_move<OP, false>(c, m, batch, err);
}

template <typename S, int N>
enum pk_status launch_scatter(const struct pk_queue *q, moving m, int64_t batch, struct pk_err *err)
{
    const int chunks = (m.per + CHUNK - 1) / CHUNK;
    m.start = (m.per + chunks - 1) / chunks;
    return PK_LAUNCH((scatter_rows<S, N>), dim3((unsigned)batch, (unsigned)chunks), THREADS,
                     sizeof(inverse), q, err, m);
}

template <typename S, int N>
enum pk_status launch_pool(const struct pk_queue *q, moving m, int64_t batch, struct pk_err *err)
{
    const unsigned tiles = tiles_of(m, N, PK_WARP); // so that there are at least N lanes
    const int lanes = THREADS / m.width;
    return PK_LAUNCH((pool_rows<S, N>), dim3((unsigned)batch, tiles), lanes * m.width,
                     (size_t)(lanes * m.width * N) * sizeof(float), q, err, m);
}

/* Sums over the rows [from, from + rows) of each record of dy, into a parameter's gradient. */
enum pk_status sum_rows(const struct pk_call *c, int out, int64_t from, int64_t rows,
                        struct pk_err *err)
{
    const struct pk_value *dy = c->in[0];
    const int64_t tokens = dy->dim[1], cols = dy->dim[2];
    const size_t skip = (size_t)(from * cols) * pk_dtype_size(dy->dtype);
    const struct pk_cuda_rows x = {
        (const char *)c->src[0] + skip, dy->dtype, dy->dim[0], tokens * cols, rows, cols};
    return pk_cuda_column_sums(c->queue, (float *)c->dst[out], &x, pk_call_accumulates(c, out),
                               c->workspace, err);
}

} // namespace

#define NO_WORKSPACE(op)                                                                           \
    extern "C" size_t pk_cuda_##op##_workspace(const struct pk_prog *, const struct pk_node *)     \
    {                                                                                              \
        return 0;                                                                                  \
    }
NO_WORKSPACE(gather_tokens)
NO_WORKSPACE(gather_tokens_grad)
NO_WORKSPACE(add_position)
NO_WORKSPACE(prepend_token)
NO_WORKSPACE(slice_tokens)
NO_WORKSPACE(slice_tokens_grad)
NO_WORKSPACE(assemble_tokens)
NO_WORKSPACE(mean_pool)
NO_WORKSPACE(mean_pool_grad)

/* in: x, index. */
extern "C" enum pk_status pk_cuda_gather_tokens(const struct pk_call *c, struct pk_err *err)
{
    moving m = moving_of(c, 0, 0);
    m.index = (const int32_t *)c->src[1];
    m.per = (int32_t)c->in[1]->dim[1];
    m.other = m.positions = (int32_t)c->in[0]->dim[1];
    return run_move<GATHER, false>(c, m, c->in[0]->dim[0], err);
}

/* in: dy, index. Adding touches the gathered rows only; assigning writes all of them. */
extern "C" enum pk_status pk_cuda_gather_tokens_grad(const struct pk_call *c, struct pk_err *err)
{
    const int64_t batch = c->out[0]->dim[0];
    moving m = moving_of(c, 0, 0);
    m.index = (const int32_t *)c->src[1];
    m.positions = (int32_t)c->out[0]->dim[1];
    if (m.add) {
        m.per = (int32_t)c->in[1]->dim[1];
        m.other = m.positions;
        return run_move<SCATTER, true>(c, m, batch, err);
    }
    m.per = m.positions;
    m.other = (int32_t)c->in[1]->dim[1];
    if (m.dtype == PK_BF16)
        return m.cols % 8 == 0 ? launch_scatter<bf16, 8>(c->queue, m, batch, err)
                               : launch_scatter<bf16, 1>(c->queue, m, batch, err);
    return m.cols % 4 == 0 ? launch_scatter<float, 4>(c->queue, m, batch, err)
                           : launch_scatter<float, 1>(c->queue, m, batch, err);
}

/* in: x, table, index or nothing. */
extern "C" enum pk_status pk_cuda_add_position(const struct pk_call *c, struct pk_err *err)
{
    moving m = moving_of(c, 0, 0);
    m.table = (const float *)c->src[1];
    m.index = (const int32_t *)c->src[2];
    m.per = (int32_t)c->in[0]->dim[1];
    m.positions = (int32_t)c->in[1]->dim[0];
    return run_move<POSITION, false>(c, m, c->in[0]->dim[0], err);
}

/* in: token, x. */
extern "C" enum pk_status pk_cuda_prepend_token(const struct pk_call *c, struct pk_err *err)
{
    moving m = moving_of(c, 1, 0);
    m.token = (const float *)c->src[0];
    m.other = (int32_t)c->in[1]->dim[1];
    m.per = m.other + 1;
    return run_move<PREPEND, false>(c, m, c->in[1]->dim[0], err);
}

extern "C" size_t pk_cuda_prepend_token_grad_workspace(const struct pk_prog *p,
                                                       const struct pk_node *n)
{
    const struct pk_value *dy = &p->value[n->in[0]];
    return n->out[0] < 0 ? 0 : pk_cuda_column_sums_workspace(dy->dim[0], dy->dim[2]);
}

/* in: dy; out: dtoken, dx. */
extern "C" enum pk_status pk_cuda_prepend_token_grad(const struct pk_call *c, struct pk_err *err)
{
    if (c->dst[0]) PK_TRY(sum_rows(c, 0, 0, 1, err));
    if (!c->dst[1]) return PK_OK;
    moving m = moving_of(c, 0, 1);
    m.other = (int32_t)c->in[0]->dim[1];
    m.per = m.other - 1;
    m.start = 1;
    return run_either<SLICE>(c, m, c->in[0]->dim[0], err);
}

extern "C" enum pk_status pk_cuda_slice_tokens(const struct pk_call *c, struct pk_err *err)
{
    moving m = moving_of(c, 0, 0);
    m.other = (int32_t)c->in[0]->dim[1];
    m.per = c->node->attr.slice.count;
    m.start = c->node->attr.slice.start;
    return run_either<SLICE>(c, m, c->in[0]->dim[0], err);
}

/* in: dy; out: dx. */
extern "C" enum pk_status pk_cuda_slice_tokens_grad(const struct pk_call *c, struct pk_err *err)
{
    moving m = moving_of(c, 0, 0);
    m.per = (int32_t)c->out[0]->dim[1];
    m.start = c->node->attr.slice.start;
    m.count = m.other = c->node->attr.slice.count;
    return run_either<PLACE>(c, m, c->out[0]->dim[0], err);
}

/* in: context, mask token, table, kept, hidden. */
extern "C" enum pk_status pk_cuda_assemble_tokens(const struct pk_call *c, struct pk_err *err)
{
    moving m = moving_of(c, 0, 0);
    m.token = (const float *)c->src[1];
    m.table = (const float *)c->src[2];
    m.index = (const int32_t *)c->src[3];
    m.hidden = (const int32_t *)c->src[4];
    m.count = m.other = (int32_t)c->in[0]->dim[1];
    m.per = m.count + (int32_t)c->in[4]->dim[1];
    m.positions = (int32_t)c->in[2]->dim[0];
    return run_move<ASSEMBLE, false>(c, m, c->in[0]->dim[0], err);
}

extern "C" size_t pk_cuda_assemble_tokens_grad_workspace(const struct pk_prog *p,
                                                         const struct pk_node *n)
{
    const struct pk_value *dy = &p->value[n->in[0]], *kept = &p->value[n->in[1]];
    const int64_t rows = dy->dim[0] * (dy->dim[1] - kept->dim[1]);
    return n->out[1] < 0 ? 0 : pk_cuda_column_sums_workspace(rows, dy->dim[2]);
}

/* in: dy, kept (for its shape); out: dcontext, dmask. */
extern "C" enum pk_status pk_cuda_assemble_tokens_grad(const struct pk_call *c, struct pk_err *err)
{
    const int64_t tokens = c->in[0]->dim[1], keep = c->in[1]->dim[1];
    if (c->dst[1]) PK_TRY(sum_rows(c, 1, keep, tokens - keep, err));
    if (!c->dst[0]) return PK_OK;
    moving m = moving_of(c, 0, 0);
    m.other = (int32_t)tokens;
    m.per = (int32_t)keep;
    return run_either<SLICE>(c, m, c->in[0]->dim[0], err);
}

extern "C" enum pk_status pk_cuda_mean_pool(const struct pk_call *c, struct pk_err *err)
{
    const int64_t batch = c->in[0]->dim[0];
    moving m = moving_of(c, 0, 0);
    m.other = (int32_t)c->in[0]->dim[1];
    m.start = c->node->attr.pool.skip;
    m.scale = 1 / (float)(m.other - m.start);
    if (m.dtype == PK_BF16)
        return m.cols % 8 == 0 ? launch_pool<bf16, 8>(c->queue, m, batch, err)
                               : launch_pool<bf16, 1>(c->queue, m, batch, err);
    return m.cols % 4 == 0 ? launch_pool<float, 4>(c->queue, m, batch, err)
                           : launch_pool<float, 1>(c->queue, m, batch, err);
}

/* in: dy, x (for its shape); out: dx. */
extern "C" enum pk_status pk_cuda_mean_pool_grad(const struct pk_call *c, struct pk_err *err)
{
    moving m = moving_of(c, 0, 0);
    m.per = (int32_t)c->out[0]->dim[1];
    m.start = c->node->attr.pool.skip;
    m.scale = 1 / (float)(m.per - m.start);
    return run_either<SPREAD>(c, m, c->out[0]->dim[0], err);
}
