/* op_check.h -- how far from the truth a kernel may be; the last part of op_case.h.
 *
 * The rule: at most twice as far from the double-precision result as the naive algorithm in the
 * storage type. The test hands over the naive algorithm's float result before it is stored; storing
 * adds at most u |y|, where u is 0 for float (its rounding is in the naive result already) and
 * 2^-8 for bf16, half a unit in the last place of the smallest significand. So for element i
 *
 *     |got_i - exact_i| <= 2 (F + u |exact_i| + u^2 M) + 4 * 2^-24 M
 *
 * F is the largest |naive - exact| of all elements of the same part of the output: where the naive
 * algorithm happens to be right says nothing about the kernel, so its error is taken as a property
 * of the computation. In bf16 a part is a group of columns of one scale (dq, dk and dv are three),
 * so that an error in a small one cannot hide behind a large one. In float the whole output is one
 * part: dv, a sum of probabilities, shows mainly the rounding of exponents, where kernels that work
 * in base 2 have one more than the naive algorithm.
 *
 * u |exact_i| is the rounding of the element itself: in bf16 F is small against the rounding of
 * ordinary elements, and taking the largest rounding of the tensor for all of them would let an
 * element a hundred times below the maximum be anything.
 *
 * M is the largest |exact| of the part. u^2 M: what a kernel computes on the way to a bf16 number
 * needs twice the digits of the result (16 bits), not all 24 of a float, so that it may take a
 * cheaper exponential or error function. Beside the other terms it counts only for elements that
 * are more than 2^8 times smaller than the largest one: where a slope crosses zero. And four float
 * roundings of M, for when the naive result is exact.
 *
 * Where a bf16 kernel multiplies bf16 operands that it made itself (P and dS of attention, for the
 * tensor cores), the naive algorithm rounds these too, and F holds what that costs.
 *
 * A bound on single elements cannot see a kernel that is a little wrong everywhere: one that cuts
 * off instead of rounding stays within 2u. Therefore the root mean square error of a part of 256
 * elements or more may be at most 1.5 times that of the naive algorithm after its rounding (plus
 * the same 4 * 2^-24 M). Both commit the same roundings, so the expected ratio is 1, with a spread
 * of about 1 / sqrt(256); cutting off gives 2. Only for bf16: in float, kernels sum in other orders
 * than the naive algorithm, and are held to the first bound.
 *
 * tests/op/test_case.c shows what these bounds catch. */
#ifndef PK_OP_CHECK_H
#define PK_OP_CHECK_H

struct op_part_ {
    double naive;          // F
    double largest;        // M
    double square, simple; // sums of squared errors: the kernel's, the rounded naive algorithm's
    int64_t count;
};

/* The result of the naive algorithm with what the output held before, not yet stored. */
static inline float op_naive_(const struct op_case *t, int slot, const float *naive, int64_t i)
{
    return t->before[slot] ? naive[i] + t->before[slot][i] : naive[i];
}

static inline double op_exact_(const struct op_case *t, int slot, const double *exact, int64_t i)
{
    return t->before[slot] ? exact[i] + (double)t->before[slot][i] : exact[i];
}

/* What an output held before is added here, so that the references need not know about it. */
static inline void op_check(struct op_case *t, int slot, const float *naive, const double *exact,
                            const char *what)
{
    enum { PARTS_MAX = 4 };
    struct op_part_ part[PARTS_MAX] = {{0}};
    const struct pk_value *v = &t->out[slot];
    const bool rounds = v->dtype == PK_BF16;
    const int64_t n = op_count(v), cols = v->dim[v->rank - 1],
                  parts = rounds ? PK_MAX(t->parts[slot], 1) : 1;
    const double u = rounds ? 0x1p-8 : 0;
    int64_t wrong = 0, worst = 0;
    double excess = 1, off_worst = 0, allowed_worst = 0;
    for (int64_t i = 0; i < n; i++) {
        struct op_part_ *p = &part[i % cols * parts / cols];
        const double want = op_exact_(t, slot, exact, i);
        const float simple = op_naive_(t, slot, naive, i);
        const double off = op_got(t, slot, i) - want;
        const double plain = (double)op_round_to(v->dtype, simple) - want;
        p->naive = PK_MAX(p->naive, fabs((double)simple - want));
        p->largest = PK_MAX(p->largest, fabs(want));
        p->square += off * off;
        p->simple += plain * plain;
        p->count++;
    }
    for (int64_t i = 0; i < n; i++) {
        const struct op_part_ *p = &part[i % cols * parts / cols];
        const double want = op_exact_(t, slot, exact, i), off = fabs(op_got(t, slot, i) - want);
        const double allowed =
            2 * (p->naive + u * fabs(want) + u * u * p->largest) + 4 * 0x1p-24 * p->largest;
        if (off <= allowed) continue;
        wrong++;
        if (off / allowed <= excess) continue;
        worst = i, off_worst = off, allowed_worst = allowed;
        excess = isnan(off) ? INFINITY : off / allowed;
    }
    if (wrong)
        fprintf(stderr,
                "%s, %s, %s: output %d, %lld of %lld elements wrong; worst is %lld: %g, off by %g, "
                "allowed %g\n",
                op_name_(t->node.op), t->variant->name, what, slot, (long long)wrong, (long long)n,
                (long long)worst, op_got(t, slot, worst), off_worst, allowed_worst);
    for (int64_t k = 0; rounds && !wrong && k < parts; k++) {
        const struct op_part_ *p = &part[k];
        const double rms = sqrt(p->square / (double)PK_MAX(p->count, 1)),
                     plain = sqrt(p->simple / (double)PK_MAX(p->count, 1));
        if (p->count < 256 || rms <= 1.5 * plain + 4 * 0x1p-24 * p->largest) continue;
        wrong++;
        fprintf(stderr, "%s, %s, %s: output %d, part %lld: rms error %g, rounding gives %g\n",
                op_name_(t->node.op), t->variant->name, what, slot, (long long)k, rms, plain);
    }
    *(wrong ? &test_bad_ : &test_good_) += 1;
}

#endif
