/* test_csv.c -- what RFC 4180 allows is read, everything else is refused at its line and column. */
#include "datasets/csv.h"
#include "tests/test.h"

static struct pk_err err;

static enum pk_status parse(struct pk_csv *c, const char *text)
{
    return pk_csv_parse(c, text, strlen(text), "t.csv", &err);
}

static void reads(void)
{
    struct pk_csv c;
    CHECK_OK(parse(&c, "\xef\xbb\xbf"
                       "a,b,\"c \"\"d\"\"\"\r\n1,\"x,\r\ny\",\n\"\",\xc3\xa4,\"q\""),
             &err);
    CHECK(c.columns == 3 && c.rows == 2);
    CHECK(!strcmp(c.header[2].text, "c \"d\""));
    CHECK(!strcmp(pk_csv_text(&c, 0, 1), "x,\r\ny"));
    CHECK(!strcmp(pk_csv_text(&c, 0, 2), ""));
    CHECK(!strcmp(pk_csv_text(&c, 1, 0), "") && !strcmp(pk_csv_text(&c, 1, 1), "\xc3\xa4"));
    CHECK(!strcmp(pk_csv_text(&c, 1, 2), "q"));
    CHECK(c.field[1].line == 2 && c.field[1].column == 3);
    CHECK(c.field[3].line == 4 && c.field[5].column == 7); // bytes: the umlaut has two
    pk_csv_free(&c);
    CHECK_OK(parse(&c, "one\nx\n\n\r\n"), &err); // empty lines at the end
    CHECK(c.columns == 1 && c.rows == 1);
    pk_csv_free(&c);
    CHECK_OK(parse(&c, "one,two"), &err);
    CHECK(c.columns == 2 && c.rows == 0);
    pk_csv_free(&c);
    pk_csv_free(&c); // twice is safe
}

static void refuses(void)
{
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"", "t.csv:1:1: the table is empty"},
        {"\n\n", "the table is empty"},
        {"a,b\n1\n", "t.csv:2: this row has 1 fields, the header has 2"},
        {"a,b\n1,2,3\n", "t.csv:2: this row has 3 fields"},
        {"a,b\n\n1,2\n", "t.csv:2: this row has 1 fields"},
        {"a,b\n1,x\"y\n", "t.csv:2:4: a quote inside an unquoted field"},
        {"a,b\n1,\"x\"y\n", "t.csv:2:6: text after the closing quote"},
        {"a,b\n1,\"x\n\n", "t.csv:2:3: this quote is never closed"},
        {"a,b\n1,\"x\"\"", "t.csv:2:3: this quote is never closed"},
        {"a,b\r1,2\n", "t.csv:1:4: a carriage return without a line feed"},
        {"a,b\n1,2\r", "t.csv:2:4: a carriage return"},
        {"a,a\n1,2\n", "t.csv:1:3: column 'a' is there twice"},
        {"a\n\xff\n", "t.csv:2:1: this byte is not UTF-8"},
        {"a\n\xc0\x80\n", "this byte is not UTF-8"},         // overlong
        {"a\n\xe0\x80\x80\n", "this byte is not UTF-8"},     // overlong
        {"a\n\xed\xa0\x80\n", "this byte is not UTF-8"},     // surrogate
        {"a\n\xf4\x90\x80\x80\n", "this byte is not UTF-8"}, // above U+10FFFF
        {"a\nx\xc3", "t.csv:2:2: this byte is not UTF-8"},   // cut off
    };
    struct pk_csv c;
    for (size_t i = 0; i < PK_COUNT(bad); i++)
        CHECK_FAILS(parse(&c, bad[i].text), PK_EDATA, &err, bad[i].message);
    CHECK_FAILS(pk_csv_parse(&c, "a\nb\0c", 5, "t.csv", &err), PK_EDATA, &err, "t.csv:2:2: byte 0");
    CHECK_FAILS(pk_csv_load(&c, "/does/not/exist.csv", 100, &err), PK_EIO, &err, "exist.csv");
}

static void numbers(void)
{
    struct pk_csv c;
    double v;
    int64_t n;
    int32_t column;
    CHECK_OK(parse(&c, "id,age,\"odd \"\nx1,\"56.0\",\n7.0,1.5,9007199254740993\n"), &err);
    CHECK_OK(pk_csv_column(&c, "age", &column, &err), &err);
    CHECK(column == 1);
    CHECK_FAILS(pk_csv_column(&c, "sex", &column, &err), PK_EDATA, &err,
                "t.csv has no column 'sex'; it has 'id', 'age', 'odd '");
    CHECK_OK(pk_csv_f64(&c, 0, 1, &v, &err), &err);
    CHECK_NEAR(v, 56, 0);
    CHECK_OK(pk_csv_f64(&c, 0, 2, &v, &err), &err);
    CHECK(isnan(v));
    CHECK_FAILS(pk_csv_f64(&c, 0, 0, &v, &err), PK_EDATA, &err,
                "t.csv:2:1: column 'id': 'x1' is not a number");
    CHECK_OK(pk_csv_i64(&c, 1, 0, &n, &err), &err);
    CHECK(n == 7);
    CHECK_OK(pk_csv_i64(&c, 1, 2, &n, &err), &err);
    CHECK(n == 9007199254740993); // more than a double holds
    CHECK_FAILS(pk_csv_i64(&c, 1, 1, &n, &err), PK_EDATA, &err,
                "t.csv:3:5: column 'age': '1.5' is not a whole number");
    CHECK_FAILS(pk_csv_i64(&c, 0, 2, &n, &err), PK_EDATA, &err, "t.csv:2:11: column 'odd '");
    pk_csv_fail(&c, 0, 1, 2, &err, "here");
    CHECK(!strcmp(err.message, "t.csv:2:7: column 'age': here")); // after the opening quote
    pk_csv_free(&c);
}

/* Any bytes give a table or an error (run under ASan). */
static void garbage(void)
{
    static const char pool[] = "a,b\"\n\r1\xc3\xa4 ";
    uint64_t x = 88172645463325252u;
    int good = 0;
    for (int i = 0; i < 20000; i++) {
        char text[24];
        size_t n = i % 24;
        for (size_t k = 0; k < n; k++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            text[k] = pool[x % (sizeof pool - 1)];
        }
        struct pk_csv c;
        if (pk_csv_parse(&c, text, n, "g", &err) == PK_OK) {
            size_t bytes = 0;
            for (int64_t k = 0; k < c.columns * (c.rows + 1); k++) bytes += strlen(c.all[k].text);
            good += bytes <= n;
            pk_csv_free(&c);
        }
    }
    CHECK(good > 500);
}

int main(void)
{
    reads();
    refuses();
    numbers();
    garbage();
    return TEST_END();
}
