/* reference_attention.h -- attention as its definition reads, in the type REAL. Included twice by
 * test_attention.c, for double (the truth) and float (what rounding costs the naive algorithm).
 * CAST() rounds an operand that the algorithm made itself and multiplies in the storage type.
 * All of these treat one head: q, k, v, out ... point at its first column. */

/* p[t, t], out[t rows of stride w], lse[t] from qkv[t rows of stride 3w]. */
static void NAME(attend)(int64_t t, int64_t d, int64_t w, REAL scale, const float *qkv, REAL *p,
                         REAL *out, REAL *lse)
{
    for (int64_t i = 0; i < t; i++) {
        REAL top = -INFINITY, sum = 0;
        for (int64_t j = 0; j < t; j++) {
            REAL s = 0;
            for (int64_t c = 0; c < d; c++)
                s += (REAL)qkv[i * 3 * w + c] * (REAL)qkv[j * 3 * w + w + c];
            p[i * t + j] = s * scale;
            top = PK_MAX(top, p[i * t + j]);
        }
        for (int64_t j = 0; j < t; j++) sum += p[i * t + j] = EXP(p[i * t + j] - top);
        lse[i] = top + LOG(sum);
        for (int64_t j = 0; j < t; j++) p[i * t + j] /= sum;
        for (int64_t c = 0; c < d; c++) {
            REAL o = 0;
            for (int64_t j = 0; j < t; j++)
                o += CAST(p[i * t + j]) * (REAL)qkv[j * 3 * w + 2 * w + c];
            out[i * w + c] = o;
        }
    }
}

/* dqkv[t rows of stride 3w], zeroed by the caller, from dout and the p and out of attend. */
static void NAME(attend_grad)(int64_t t, int64_t d, int64_t w, REAL scale, const float *qkv,
                              const float *dout, const REAL *p, const REAL *out, REAL *dqkv)
{
    for (int64_t i = 0; i < t; i++) {
        REAL delta = 0;
        for (int64_t c = 0; c < d; c++) delta += (REAL)dout[i * w + c] * out[i * w + c];
        for (int64_t j = 0; j < t; j++) {
            REAL dp = 0, prob = p[i * t + j];
            for (int64_t c = 0; c < d; c++)
                dp += (REAL)dout[i * w + c] * (REAL)qkv[j * 3 * w + 2 * w + c];
            REAL ds = CAST(prob * (dp - delta) * scale);
            prob = CAST(prob);
            for (int64_t c = 0; c < d; c++) {
                dqkv[i * 3 * w + c] += ds * (REAL)qkv[j * 3 * w + w + c];
                dqkv[j * 3 * w + w + c] += ds * (REAL)qkv[i * 3 * w + c];
                dqkv[j * 3 * w + 2 * w + c] += prob * (REAL)dout[i * w + c];
            }
        }
    }
}

/* out[d], p[t] from query[d] and kv[t rows of stride 2w]. */
static void NAME(pool)(int64_t t, int64_t d, int64_t w, REAL scale, const float *query,
                       const float *kv, REAL *out, REAL *p)
{
    REAL top = -INFINITY, sum = 0;
    for (int64_t i = 0; i < t; i++) {
        p[i] = 0;
        for (int64_t c = 0; c < d; c++) p[i] += (REAL)query[c] * (REAL)kv[i * 2 * w + c];
        p[i] *= scale;
        top = PK_MAX(top, p[i]);
    }
    for (int64_t i = 0; i < t; i++) sum += p[i] = EXP(p[i] - top);
    for (int64_t c = 0; c < d; c++) out[c] = 0;
    for (int64_t i = 0; i < t; i++) {
        p[i] /= sum;
        for (int64_t c = 0; c < d; c++) out[c] += p[i] * (REAL)kv[i * 2 * w + w + c];
    }
}

/* dquery[d] is added to, dkv[t rows of stride 2w] assigned. */
static void NAME(pool_grad)(int64_t t, int64_t d, int64_t w, REAL scale, const float *dout,
                            const float *query, const float *kv, const REAL *p, REAL *dquery,
                            REAL *dkv)
{
    REAL mean = 0;
    for (int64_t turn = 0; turn < 2; turn++)
        for (int64_t i = 0; i < t; i++) {
            REAL dp = 0;
            for (int64_t c = 0; c < d; c++) dp += (REAL)dout[c] * (REAL)kv[i * 2 * w + w + c];
            if (!turn) mean += p[i] * dp;
            REAL ds = p[i] * (dp - mean) * scale;
            for (int64_t c = 0; turn && c < d; c++) {
                dquery[c] += ds * (REAL)kv[i * 2 * w + c];
                dkv[i * 2 * w + c] = ds * (REAL)query[c];
                dkv[i * 2 * w + w + c] = p[i] * (REAL)dout[c];
            }
        }
}
