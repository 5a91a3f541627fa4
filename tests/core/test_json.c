/* test_json.c -- JSON read and written back, and the refusals. */
#include "core/json.h"
#include "tests/test.h"

static void round_trip(void)
{
    const char *text =
        "{\"a\": [1, 2.5, -3e2, \"x\\u00e9\\n\"], \"b\": {\"c\": true, \"d\": null}}";
    struct pk_err err = {0};
    struct pk_json j;
    CHECK_OK(pk_json_parse(&j, text, strlen(text), "t", &err), &err);
    const struct pk_json *a = pk_json_get(&j, "a");
    CHECK(a && a->count == 4 && a->item[0].is_integer && a->item[0].integer == 1);
    CHECK(a->item[2].number == -300 && !a->item[2].is_integer);
    CHECK(!strcmp(a->item[3].string, "x\xc3\xa9\n"));
    CHECK(pk_json_get(pk_json_get(&j, "b"), "c")->boolean);
    pk_json_free(&j);

    struct pk_text t = {0};
    struct pk_json_writer w = {.out = &t};
    pk_json_open(&w, NULL, '{');
    pk_json_put_f64(&w, "x", 0.1);
    pk_json_put_string(&w, "s", "q\"\\\n");
    pk_json_open(&w, "l", '[');
    pk_json_put_i64(&w, NULL, 7);
    pk_json_put_f64(&w, NULL, NAN);
    pk_json_close(&w);
    pk_json_close(&w);
    CHECK(!strcmp(t.s, "{\"x\": 0.1, \"s\": \"q\\\"\\\\\\n\", \"l\": [7, null]}"));
    pk_text_free(&t);
}

static void refusals(void)
{
    static const struct {
        const char *text, *says;
    } cases[] = {{"", "text ends"},          {"{\"a\":1,\"a\":2}", "duplicate key"},
                 {"[1,]", "bad number"},     {"01", "bad number"},
                 {"[1] 2", "follows"},       {"\"\\ud800\"", "surrogate"},
                 {"{\n  \"a\" 1}", "t:2:8"}, {"\"a", "does not end"},
                 {"[1", "text ends"},        {"\"\\u0000\"", "NUL"},
                 {"-1e999", "beyond"}};
    for (size_t i = 0; i < PK_COUNT(cases); i++) {
        struct pk_err err = {0};
        struct pk_json j;
        CHECK_FAILS(pk_json_parse(&j, cases[i].text, strlen(cases[i].text), "t", &err), PK_EDATA,
                    &err, cases[i].says);
    }
    char deep[200];
    struct pk_err err = {0};
    struct pk_json j;
    memset(deep, '[', sizeof deep);
    CHECK_FAILS(pk_json_parse(&j, deep, sizeof deep, "t", &err), PK_EDATA, &err, "deeper");
}

/* Objects of many keys take another path to find duplicates, and must not take n^2 time. */
static void many_keys(void)
{
    struct pk_text t = {0};
    struct pk_err err = {0};
    struct pk_json j;
    pk_text_add(&t, "{");
    for (int i = 0; i < 200000; i++) pk_text_add(&t, "%s\"k%d\":0", i ? "," : "", i);
    size_t open_end = t.len;
    pk_text_add(&t, "}");
    double start = pk_seconds();
    CHECK_OK(pk_json_parse(&j, t.s, t.len, "t", &err), &err);
    CHECK(j.count == 200000 && pk_seconds() - start < 10);
    pk_json_free(&j);
    t.len = open_end;
    pk_text_add(&t, ",\"k5\":1}");
    CHECK_FAILS(pk_json_parse(&j, t.s, t.len, "t", &err), PK_EDATA, &err, "duplicate key");
    pk_text_free(&t);
}

int main(void)
{
    round_trip();
    refusals();
    many_keys();
    return TEST_END();
}
