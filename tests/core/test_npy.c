/* test_npy.c -- .npy round trips, refusals, truncation at every length and damage at every byte. */
#include "core/npy.h"
#include "tests/test.h"

#include <unistd.h>

static char path[64];

static void put(const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(bytes, 1, n, f) == n);
    if (f) fclose(f);
}

/* Version `version` with this header text, followed by n bytes of data. */
static void put_array(int version, const char *header, const void *data, size_t n)
{
    unsigned char b[1024] = "\x93NUMPY";
    size_t h = strlen(header), at = version == 1 ? 10 : 12;
    b[6] = (unsigned char)version;
    b[8] = (unsigned char)(h & 255);
    b[9] = (unsigned char)(h >> 8);
    memcpy(b + at, header, h);
    memcpy(b + at + h, data, n);
    put(b, at + h + n);
}

static void round_trips(void)
{
    static const double values[6] = {-3, 0, 1, 2.5, 100, -7};
    static const int64_t shape[2] = {2, 3};
    struct pk_err err = {0};
    struct pk_npy a;
    CHECK_OK(pk_npy_save(path, PK_NPY_F64, 2, shape, values, &err), &err);
    CHECK_OK(pk_npy_load(&a, path, 1 << 20, &err), &err);
    CHECK(a.type == PK_NPY_F64 && a.rank == 2 && a.shape[0] == 2 && a.shape[1] == 3);
    CHECK(a.count == 6 && !memcmp(a.data, values, sizeof values));
    pk_npy_free(&a);
    CHECK_FAILS(pk_npy_load(&a, path, 100, &err), PK_EDATA, &err, "more than the 100 allowed");

    CHECK_OK(pk_npy_save(path, PK_NPY_F64, 0, NULL, values, &err), &err); // a scalar
    CHECK_OK(pk_npy_load(&a, path, 1 << 20, &err), &err);
    CHECK(a.rank == 0 && a.count == 1 && pk_npy_f64(&a, 0) == -3);
    pk_npy_free(&a);

    static const int64_t none[2] = {0, 5};
    CHECK_OK(pk_npy_save(path, PK_NPY_U8, 2, none, "", &err), &err); // empty
    CHECK_OK(pk_npy_load(&a, path, 1 << 20, &err), &err);
    CHECK(a.rank == 2 && a.count == 0 && a.shape[1] == 5);
    pk_npy_free(&a);
    static const int64_t negative[1] = {-1};
    CHECK_FAILS(pk_npy_save(path, PK_NPY_U8, 1, negative, "", &err), PK_ESHAPE, &err, "-1");
}

static void every_type(void)
{
    static const int8_t i8[1] = {-5};
    static const int16_t i16[1] = {-500};
    static const int32_t i32[1] = {-70000};
    static const int64_t i64[1] = {-5000000000};
    static const float f32[1] = {0.1f};
    static const uint8_t u8[1] = {200};
    static const uint16_t half[6] = {0x3c00, 0xc100, 0x0001, 0x7bff, 0x7c00, 0x7e00};
    const struct {
        enum pk_npy_type type;
        const void *data;
        double value;
    } t[] = {{PK_NPY_BOOL, u8, 1},
             {PK_NPY_U8, u8, 200},
             {PK_NPY_I8, i8, -5},
             {PK_NPY_I16, i16, -500},
             {PK_NPY_I32, i32, -70000},
             {PK_NPY_I64, i64, -5e9},
             {PK_NPY_F32, f32, (double)0.1f},
             {PK_NPY_F16, half, 1}};
    static const int64_t one[1] = {1}, six[1] = {6};
    struct pk_err err = {0};
    struct pk_npy a;
    for (size_t i = 0; i < PK_COUNT(t); i++) {
        CHECK_OK(pk_npy_save(path, t[i].type, 1, one, t[i].data, &err), &err);
        CHECK_OK(pk_npy_load(&a, path, 1 << 20, &err), &err);
        CHECK(a.type == t[i].type && pk_npy_f64(&a, 0) == t[i].value);
        pk_npy_free(&a);
    }
    CHECK_OK(pk_npy_save(path, PK_NPY_F16, 1, six, half, &err), &err);
    CHECK_OK(pk_npy_load(&a, path, 1 << 20, &err), &err);
    CHECK(pk_npy_f64(&a, 1) == -2.5);
    CHECK(pk_npy_f64(&a, 2) == ldexp(1, -24)); // smallest subnormal
    CHECK(pk_npy_f64(&a, 3) == 65504);
    CHECK(isinf(pk_npy_f64(&a, 4)) && isnan(pk_npy_f64(&a, 5)));
    pk_npy_free(&a);
}

static void headers(void)
{
    static const struct {
        int version;
        const char *header;
        enum pk_status status;
        const char *says;
    } t[] = {
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }\n", PK_OK, ""},
        {2, "{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }\n", PK_OK, ""},
        {3, "{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }\n", PK_OK, ""},
        {1, "{'shape':(1,2),'fortran_order':False,'descr':'|b1'}", PK_OK, ""},
        {4, "{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }\n", PK_EDATA, "version 4"},
        {1, "{'descr': '|u1', 'fortran_order': True, 'shape': (2,), }\n", PK_EDATA, "Fortran"},
        {1, "{'descr': '>i2', 'fortran_order': False, 'shape': (1,), }\n", PK_EDATA, "big-endian"},
        {1, "{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }\n", PK_EDATA, "<c8"},
        {1, "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", PK_EDATA, "'|O' is not"},
        {1, "{'descr': '<f44', 'fortran_order': False, 'shape': (1,), }\n", PK_EDATA, "f44"},
        {1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", PK_EDATA,
         "structured"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }\n", PK_EDATA, "3 bytes"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }\n", PK_EDATA, "2 found"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (-1,), }\n", PK_EDATA, "dimension"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (2), }\n", PK_EDATA, "malformed"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,2), }\n", PK_EDATA,
         "more than 8"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (4294967296,4294967296), }\n",
         PK_EDATA, "too many"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999,), }\n",
         PK_EDATA, "below 2^63"},
        {1, "{'descr': '|u1', 'descr': '|u1', 'fortran_order': False, 'shape': (2,), }\n", PK_EDATA,
         "one each"},
        {1, "{'descr': '|u1', 'shape': (2,), }\n", PK_EDATA, "all of"},
        {1, "{'descr': '|u1', 'fortran_order': False, 'shape': (2,), } x\n", PK_EDATA, "nothing"},
        {1, "", PK_EDATA, "malformed"}};
    for (size_t i = 0; i < PK_COUNT(t); i++) {
        struct pk_err err = {0};
        struct pk_npy a;
        put_array(t[i].version, t[i].header, "\1\2", 2);
        if (t[i].status == PK_OK)
            CHECK_OK(pk_npy_load(&a, path, 1 << 20, &err), &err);
        else
            CHECK_FAILS(pk_npy_load(&a, path, 1 << 20, &err), t[i].status, &err, t[i].says);
        pk_npy_free(&a);
    }
    struct pk_err err = {0};
    struct pk_npy a;
    put("hello, this is text", 19);
    CHECK_FAILS(pk_npy_load(&a, path, 1 << 20, &err), PK_EDATA, &err, "not an .npy file");
    put("\x93NUMPY\2\0\xff\xff\xff\xff", 12);
    CHECK_FAILS(pk_npy_load(&a, path, 1 << 20, &err), PK_EDATA, &err, "4294967295");
    CHECK_FAILS(pk_npy_load(&a, "/nowhere/x.npy", 9, &err), PK_EIO, &err, "/nowhere/x.npy");
    CHECK(pk_npy_load(&a, "/tmp", 1 << 20, &err) != PK_OK);
}

/* Under the sanitisers this is the check that no damage reads or writes out of bounds. */
static void damage(void)
{
    static const int64_t shape[1] = {5};
    static const float data[5] = {1, 2, 3, 4, 5};
    struct pk_err err = {0};
    struct pk_npy a;
    char *whole;
    size_t size;
    CHECK_OK(pk_npy_save(path, PK_NPY_F32, 1, shape, data, &err), &err);
    CHECK_OK(pk_read_file(path, 4096, &whole, &size, &err), &err);
    for (size_t n = 0; n < size; n++) {
        put(whole, n);
        CHECK(pk_npy_load(&a, path, 4096, &err) == PK_EDATA);
    }
    int opened = 0;
    for (size_t i = 0; i < size - sizeof data; i++) {
        static const char other[] = {0, ' ', '9', '\'', '(', '}', (char)255};
        for (size_t k = 0; k < sizeof other; k++) {
            char kept = whole[i];
            whole[i] = other[k];
            put(whole, size);
            opened += pk_npy_load(&a, path, 4096, &err) == PK_OK;
            pk_npy_free(&a);
            whole[i] = kept;
        }
    }
    CHECK(opened > 0); // a changed space is harmless
    free(whole);
}

int main(void)
{
    snprintf(path, sizeof path, "/tmp/pk_test_npy_%ld.npy", (long)getpid());
    round_trips();
    every_type();
    headers();
    damage();
    remove(path);
    return TEST_END();
}
