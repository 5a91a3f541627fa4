/* resident.cu -- a batch from records in GPU memory.
 *
 * 4 bytes a sample: 2,048 records x 8 leads x 5,000 samples are 328 MB, 76 us at 4.3 TB/s, in place
 * of as many bytes over PCIe and through the host's memory. A block copies some rows (one lead of
 * one record each). A crop may start at any sample, so a thread writes 16 bytes where the output's
 * rows are made of such, but reads their 8 samples one by one: the eight reads of a warp fall on
 * the same 512 bytes, which come from memory once and then from L1. */
#include "cuda/fault.h"
#include "cuda/resident.h"

namespace
{

enum { THREADS = 256 };

struct cut_args {
    const int16_t *from;   // [records, leads, samples]
    int16_t *out;          // [n, leads, crop]
    const int64_t *record; // [n]
    const int32_t *start;  // [n]
    struct pk_cuda_fault *fault;
    int64_t records, samples, crop, pieces; // pieces: of a row
    int32_t leads;
};

/* Thread: one piece of `width` samples of one row. */
template <int width> __global__ void __launch_bounds__(THREADS) cut_kernel(cut_args a)
{
    const int64_t i = blockIdx.y, at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= a.leads * a.pieces) return;
    const int64_t lead = at / a.pieces, piece = at % a.pieces * width;
    const int64_t record = a.record[i], start = a.start[i];
    vec<int16_t, width> v;
    const bool there = record >= 0 && record < a.records;
    if (there && start >= 0 && start + a.crop <= a.samples) {
        const int16_t *from = a.from + (record * a.leads + lead) * a.samples + start + piece;
        for (int k = 0; k < width; k++) v.at[k] = from[k];
    } else {
        for (int k = 0; k < width; k++) v.at[k] = 0;
        if (at == 0)
            raise_fault(a.fault, there ? PK_FAULT_WINDOW : PK_FAULT_INDEX, -1, i,
                        there ? start : record);
    }
    store(a.out + (i * a.leads + lead) * a.crop + piece, v);
}

} // namespace

extern "C" enum pk_status pk_cuda_cut_batch(const struct pk_queue *q, const struct pk_resident *r,
                                            int16_t *out, const int64_t *record,
                                            const int32_t *start, int64_t n, int64_t crop,
                                            struct pk_err *err)
{
    const int width = crop % 8 == 0 ? 8 : 1;
    const cut_args a = {(const int16_t *)r->memory,
                        out,
                        record,
                        start,
                        q->fault,
                        r->records,
                        r->samples,
                        crop,
                        crop / width,
                        r->leads};
    enum { GRID_Y = 65535 };
    if (n > GRID_Y)
        return pk_fail(err, PK_ESHAPE, "a batch of %lld records is cut on the device",
                       (long long)n);
    const dim3 grid((unsigned)((a.leads * a.pieces + THREADS - 1) / THREADS), (unsigned)n);
    if (width == 8) return PK_LAUNCH(cut_kernel<8>, grid, THREADS, 0, q, err, a);
    return PK_LAUNCH(cut_kernel<1>, grid, THREADS, 0, q, err, a);
}
