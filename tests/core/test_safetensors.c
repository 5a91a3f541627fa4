/* test_safetensors.c -- files written and read back, and every refusal with its sizes.
 *     test_safetensors write FILE    writes the sample that test_safetensors_hf.py reads
 *     test_safetensors check FILE    checks a file that test_safetensors_hf.py wrote */
#include "core/safetensors.h"
#include "core/sink.h"
#include "tests/test.h"

#include <sys/resource.h>
#include <signal.h>
#include <unistd.h>

static float weight[6] = {1.5f, -2.25f, 0, 3e-7f, 4e8f, -0.0f};
static int64_t step[1] = {123456789012};
static uint8_t flag[5] = {1, 2, 3, 254, 255};
static uint16_t half[3] = {0x3c00, 0xc000, 0x7c00}; // 1, -2, inf

static const struct pk_metadata meta[] = {{"format", "pt"}, {"a", "quote \" and \\ and \n"}};

static int64_t sample(struct pk_tensor_ref out[5])
{
    out[0] = (struct pk_tensor_ref){"b.weight", PK_TENSOR_F32, 2, {2, 3}, weight};
    out[1] = (struct pk_tensor_ref){"flag", PK_TENSOR_U8, 1, {5}, flag};
    out[2] = (struct pk_tensor_ref){"step", PK_TENSOR_I64, 0, {0}, step};
    out[3] = (struct pk_tensor_ref){"half", PK_TENSOR_F16, 1, {3}, half};
    out[4] = (struct pk_tensor_ref){"a.empty", PK_TENSOR_F32, 2, {0, 7}, NULL};
    return 5;
}

static void checksum(void)
{
    struct pk_xxh64 h;
    uint8_t bytes[1000];
    pk_xxh64_start(&h);
    CHECK(pk_xxh64_value(&h) == 0xef46db3751d8e999u); // of the specification: empty, "abc"
    pk_xxh64_add(&h, "abc", 3);
    CHECK(pk_xxh64_value(&h) == 0x44bc2cf5ad770999u);
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * 37 + i / 7);
    pk_xxh64_start(&h);
    pk_xxh64_add(&h, bytes, sizeof bytes);
    uint64_t whole = pk_xxh64_value(&h);
    for (size_t piece = 1; piece < 100; piece += 3) { // any cut gives the same value
        pk_xxh64_start(&h);
        for (size_t i = 0; i < sizeof bytes; i += piece)
            pk_xxh64_add(&h, bytes + i, PK_MIN(piece, sizeof bytes - i));
        CHECK(pk_xxh64_value(&h) == whole);
    }
}

static void round_trip(const char *path)
{
    struct pk_tensor_ref t[5];
    struct pk_err err = {0};
    struct pk_safetensors st;
    int64_t n = sample(t), bytes = 0;
    CHECK_OK(pk_safetensors_write(path, t, n, meta, 2, &err), &err);
    CHECK_OK(pk_safetensors_size(t, n, meta, 2, &bytes, &err), &err);
    CHECK_OK(pk_safetensors_open(&st, path, &err), &err);
    CHECK(st.count == 5 && st.metas == 2 && st.file_bytes == bytes);
    CHECK(!strcmp(st.tensor[0].name, "step")); // 8-byte elements, then 4, 2, 1; then by name
    CHECK(!strcmp(st.tensor[4].name, "flag") && st.tensor[0].offset % 8 == 0);
    CHECK(!strcmp(pk_safetensors_metadata(&st, "a"), meta[1].value));
    CHECK(!pk_safetensors_metadata(&st, "b") && !pk_safetensors_find(&st, "b"));

    float w[6] = {0};
    int64_t s[1] = {0};
    uint8_t f[5] = {0};
    uint16_t h[3] = {0};
    t[0].data = w;
    t[1].data = f;
    t[2].data = s;
    t[3].data = h;
    CHECK_OK(pk_safetensors_read(&st, t, n, true, &err), &err);
    CHECK(!memcmp(w, weight, sizeof w) && !memcmp(f, flag, sizeof f) && s[0] == step[0] &&
          !memcmp(h, half, sizeof h));

    CHECK_FAILS(pk_safetensors_read(&st, t, n - 1, true, &err), PK_EDATA, &err,
                "a.empty: in the file, not expected");
    CHECK_OK(pk_safetensors_read(&st, t, n - 1, false, &err), &err);
    t[0].shape[0] = 3;
    t[2].name = "steps";
    w[0] = 77;
    CHECK_FAILS(pk_safetensors_read(&st, t, n, true, &err), PK_EDATA, &err,
                "b.weight: expected F32 [3, 3], the file has F32 [2, 3]");
    CHECK(strstr(err.message, "3 tensors differ") && strstr(err.message, "steps: missing"));
    CHECK(w[0] == 77); // nothing is read when anything differs
    pk_safetensors_close(&st);
    pk_safetensors_close(&st);
}

static void refusals_writing(const char *path)
{
    struct pk_err err = {0};
    struct pk_tensor_ref two[2] = {{"a", PK_TENSOR_U8, 1, {5}, flag},
                                   {"a", PK_TENSOR_U8, 0, {0}, flag}};
    char missing[PK_PATH_MAX];
    snprintf(missing, sizeof missing, "%.4000s/no/such/folder", path);
    CHECK_FAILS(pk_safetensors_write(path, two, 2, NULL, 0, &err), PK_EINVAL, &err, "named 'a'");
    two[1].name = "__metadata__";
    CHECK_FAILS(pk_safetensors_write(path, two, 2, NULL, 0, &err), PK_EINVAL, &err, "__metadata__");
    two[1] = (struct pk_tensor_ref){"b", PK_TENSOR_F32, 3, {1ll << 40, 1ll << 40, 4}, flag};
    CHECK_FAILS(pk_safetensors_write(path, two, 2, NULL, 0, &err), PK_EINVAL, &err, "'b'");
    CHECK_FAILS(pk_safetensors_write(missing, two, 1, NULL, 0, &err), PK_EWRITE, &err, missing);

    struct rlimit old, small = {1 << 16, 1 << 16}; // a full disk
    struct pk_tensor_ref big = {"big", PK_TENSOR_U8, 1, {1 << 17}, calloc(1, 1 << 17)};
    struct pk_safetensors st;
    getrlimit(RLIMIT_FSIZE, &old);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    CHECK_FAILS(pk_safetensors_write(path, &big, 1, NULL, 0, &err), PK_EWRITE, &err,
                "it needs 131");
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK(strstr(err.message, path) && strstr(err.message, "are free"));
    CHECK_OK(pk_safetensors_open(&st, path, &err), &err); // the earlier file is whole
    pk_safetensors_close(&st);
    snprintf(missing, sizeof missing, "%.4000s.part", path);
    CHECK(!pk_exists(missing));
    free(big.data);
}

/* A file of this header (length computed when negative) and `data` bytes of data. */
static void make(const char *path, const char *header, int64_t length, size_t data)
{
    struct pk_err err = {0};
    FILE *f = fopen(path, "wb");
    uint64_t n = length < 0 ? strlen(header) : (uint64_t)length;
    CHECK(f && fwrite(&n, 8, 1, f) == 1);
    CHECK_OK(pk_write(f, header, strlen(header), path, &err), &err);
    for (size_t i = 0; i < data; i++) fputc((int)i & 255, f);
    fclose(f);
}

#define T(type, shape, from, to)                                                                   \
    "{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to "]}"

static void refusals_reading(const char *path)
{
    static const struct {
        const char *header;
        int64_t length;
        size_t data;
        const char *says;
    } c[] = {
        {"{\"a\":" T("F32", "[2]", 0, 8) "}", -1, 7, "promises 70 bytes, it has 69"}, // truncated
        {"{\"a\":" T("F32", "[2]", 0, 8) "}", -1, 9, "surplus"},
        {"{\"a\":" T("F32", "[2]", 0, 4) "}", -1, 4, "F32 [2] needs 8 bytes, data_offsets give 4"},
        {"{\"a\":" T("F32", "[1]", 4, 8) "}", -1, 8, "a hole: tensor 'a' starts at byte 4"},
        {"{\"a\":" T("U8", "[4]", 0, 4) ",\"b\":" T("U8", "[4]", 2, 6) "}", -1, 6, "overlap"},
        {"{\"a\":" T("U8", "[4]", 0, 4) ",\"b\":" T("U8", "[4]", 0, 4) "}", -1, 4, "overlap"},
        {"{\"a\":" T("U8", "[1]", 0, 1) ",\"a\":" T("U8", "[1]", 1, 2) "}", -1, 2, "duplicate"},
        {"{\"a\":" T("F31", "[1]", 0, 4) "}", -1, 4, "unknown type 'F31'"},
        {"{\"a\":" T("F32", "[-1]", 0, 4) "}", -1, 4, "negative or overflows"},
        {"{\"a\":" T("F32", "[1.5]", 0, 4) "}", -1, 4, "whole number"},
        {"{\"a\":" T("F32", "[4611686018427387904,4]", 0, 4) "}", -1, 4, "overflows"},
        {"{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", -1, 4, "at most 8"},
        {"{\"a\":" T("F32", "[1]", 4, 0) "}", -1, 4, "reversed"},
        {"{\"a\":" T("F32", "[1]", -4, 0) "}", -1, 4, "negative"},
        {"{\"a\":" T("F32", "[1]", 0, 1e0) "}", -1, 4, "whole numbers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", -1, 4, "expected exactly dtype"},
        {"{\"a\":7}", -1, 4, "expected exactly dtype"},
        {"{\"__metadata__\":{\"x\":1}}", -1, 0, "not a string"},
        {"{\"__metadata__\":[]}", -1, 0, "not an object"},
        {"[]  ", -1, 0, "not JSON"},
        {"{\"a\"", -1, 100, "bad JSON"},
        {"{}", 1000, 0, "the header alone ends at byte 1008, the file at 10"},
        {"{}", 1ll << 40, 0, "header length 1099511627776"},
        {"{}", 0, 0, "header length 0"},
    };
    struct pk_safetensors st;
    struct pk_err err = {0};
    for (size_t i = 0; i < PK_COUNT(c); i++) {
        make(path, c[i].header, c[i].length, c[i].data);
        CHECK_FAILS(pk_safetensors_open(&st, path, &err), PK_EDATA, &err, c[i].says);
        CHECK(strstr(err.message, path));
    }
    make(path, "{}", -1, 0); // no tensors at all is a valid file
    CHECK_OK(pk_safetensors_open(&st, path, &err), &err);
    pk_safetensors_close(&st);

    size_t n = 3 << 20; // a header of nothing but commas must not cost hundreds of megabytes
    char *bomb = malloc(n + 1);
    memset(bomb, ',', n);
    memcpy(bomb, "{\"a\":[1", 7);
    bomb[n] = 0;
    make(path, bomb, -1, 0);
    free(bomb);
    CHECK_FAILS(pk_safetensors_open(&st, path, &err), PK_EDATA, &err, "100,000 tensors");
    CHECK_FAILS(pk_safetensors_open(&st, "/", &err), PK_EIO, &err, "not a regular file");
    CHECK_FAILS(pk_safetensors_open(&st, "/no/file", &err), PK_EIO, &err, "/no/file");
}

/* Every truncation is refused; whatever a flipped header byte does, it never crashes. */
static void damage(const char *path)
{
    struct pk_tensor_ref t[5];
    struct pk_err err = {0};
    struct pk_safetensors st;
    char *bytes;
    size_t size;
    CHECK_OK(pk_safetensors_write(path, t, sample(t), meta, 2, &err), &err);
    CHECK_OK(pk_read_file(path, 1 << 20, &bytes, &size, &err), &err);
    int accepted = 0;
    for (size_t n = 0; n < size; n++) {
        CHECK(truncate(path, 0) == 0);
        FILE *f = fopen(path, "wb");
        fwrite(bytes, 1, n, f);
        fclose(f);
        accepted += pk_safetensors_open(&st, path, &err) == PK_OK;
    }
    CHECK(accepted == 0);
    for (size_t i = 0; i < size; i++) {
        bytes[i] ^= (char)(1 << i % 8);
        FILE *f = fopen(path, "wb");
        fwrite(bytes, 1, size, f);
        fclose(f);
        bytes[i] ^= (char)(1 << i % 8);
        if (pk_safetensors_open(&st, path, &err) == PK_OK) pk_safetensors_close(&st);
    }
    free(bytes);
}

static int check_python(const char *path)
{
    struct pk_safetensors st;
    struct pk_err err = {0};
    float x[12];
    int32_t y[2];
    struct pk_tensor_ref t[] = {{"x", PK_TENSOR_F32, 2, {3, 4}, x},
                                {"sub.y", PK_TENSOR_I32, 1, {2}, y}};
    CHECK_OK(pk_safetensors_open(&st, path, &err), &err);
    CHECK_OK(pk_safetensors_read(&st, t, 2, false, &err), &err);
    for (int i = 0; i < 12; i++) CHECK(x[i] == 0.5f * (float)i);
    CHECK(y[0] == -7 && y[1] == 2000000000);
    CHECK(pk_safetensors_metadata(&st, "who") &&
          !strcmp(pk_safetensors_metadata(&st, "who"), "python"));
    const struct pk_tensor_info *bf = pk_safetensors_find(&st, "bf");
    CHECK(bf && bf->type == PK_TENSOR_BF16 && bf->rank == 3 && bf->shape[1] == 3);
    pk_safetensors_close(&st);
    return TEST_END();
}

int main(int argc, char **argv)
{
    char path[] = "test_safetensors.XXXXXX";
    if (argc == 3 && !strcmp(argv[1], "write")) {
        struct pk_tensor_ref t[5];
        struct pk_err err = {0};
        CHECK_OK(pk_safetensors_write(argv[2], t, sample(t), meta, 2, &err), &err);
        return TEST_END();
    }
    if (argc == 3 && !strcmp(argv[1], "check")) return check_python(argv[2]);
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    close(fd);
    checksum();
    round_trip(path);
    refusals_writing(path);
    refusals_reading(path);
    damage(path);
    unlink(path);
    return TEST_END();
}
