/* test_ptbxl_tables.c -- the Python dict of scp_codes, and the counts of the official tables. */
#include "datasets/ptbxl.h"
#include "tests/test.h"

static struct pk_err err;
static struct pk_scp_code codes[PK_PTBXL_STATEMENTS];

static void dicts(void)
{
    static const struct {
        const char *text;
        int32_t column;
        const char *message;
    } bad[] = {{"", 0, "'{' was expected"},
               {"[]", 0, "'{' was expected"},
               {"{", 1, "a quoted statement was expected"},
               {"{NORM: 1}", 1, "a quoted statement was expected"},
               {"{'NORM: 1}", 10, "this statement's quote is not closed"},
               {"{'NORM\": 1}", 11, "this statement's quote is not closed"},
               {"{'NO\\'RM': 1}", 4, "escapes are not used"},
               {"{'': 1}", 2, "a statement has 1 to 31 bytes"},
               {"{'NORM' 1}", 8, "':' was expected after 'NORM'"},
               {"{'NORM': }", 9, "a number (the likelihood) was expected"},
               {"{'NORM': 1.2.3}", 9, "'1.2.3' is not a number"},
               {"{'NORM': 1 'SR': 0}", 11, "',' or '}' was expected"},
               {"{'NORM': 1,}", 11, "a statement was expected after ','"},
               {"{'NORM': 1, 'NORM': 2}", 12, "statement 'NORM' is there twice"},
               {"{'NORM': 1} x", 11, "text after '}'"},
               {"{'NORM': __import__('os')}", 9, "a number"}};
    int32_t n, column;
    CHECK_OK(pk_scp_parse("{'NORM': 100.0, \"NST_\": 0.0,'3AVB' : 15}", codes, &n, &column, &err),
             &err);
    CHECK(n == 3 && !strcmp(codes[1].name, "NST_") && !strcmp(codes[2].name, "3AVB"));
    CHECK_NEAR(codes[0].likelihood, 100, 0);
    CHECK_NEAR(codes[2].likelihood, 15, 0);
    CHECK_OK(pk_scp_parse("{}", codes, &n, &column, &err), &err);
    CHECK(n == 0);
    for (size_t i = 0; i < PK_COUNT(bad); i++) {
        CHECK_FAILS(pk_scp_parse(bad[i].text, codes, &n, &column, &err), PK_EDATA, &err,
                    bad[i].message);
        CHECK(column == bad[i].column);
    }
}

static int64_t rows_with_label(const struct pk_ptbxl *p, int k, int low, int high)
{
    int64_t n = 0;
    const struct pk_task *t = &p->task[k];
    for (int64_t i = 0; i < p->count; i++) {
        if (p->row[i].fold < low || p->row[i].fold > high) continue;
        bool any = false;
        for (int32_t c = 0; c < t->classes; c++) any = any || t->label[i * t->classes + c] == 1;
        n += any;
    }
    return n;
}

/* The numbers of the design paper "objectives", section 2: all diagnostic sub super form rhythm. */
static void official(void)
{
    static const char *const names[] = {"all",  "diagnostic", "subdiagnostic", "superdiagnostic",
                                        "form", "rhythm"};
    static const int32_t classes[] = {71, 44, 23, 5, 19, 12};
    static const int64_t total[] = {21799, 21388, 21388, 21388, 8978, 21030};
    static const int64_t train[] = {17418, 17084, 17084, 17084, 7197, 16832};
    static const int64_t valid[] = {2183, 2146, 2146, 2146, 901, 2100};
    const char *shared = getenv("PK_SHARED_DATA");
    char folder[PK_PATH_MAX];
    CHECK_OK(pk_path(folder, &err, "%s/ptb-xl", shared ? shared : PK_SOURCE_DIR "/../shared/data"),
             &err);
    if (!pk_exists(folder)) {
        fprintf(stderr, "official tables not checked: no %s\n", folder);
        return;
    }
    struct pk_ptbxl p;
    CHECK_OK(pk_ptbxl_open(&p, folder, &err), &err);
    CHECK(p.count == 21799 && !strcmp(p.version, "PTB-XL 1.0.3"));
    int64_t very_old = 0, no_age = 0, male = 0, patients_split = 0, ids = 0;
    for (int k = 0; k < PK_PTBXL_TASKS; k++) {
        const struct pk_task *t = &p.task[k];
        CHECK(!strcmp(t->name, names[k]) && t->classes == classes[k]);
        CHECK(rows_with_label(&p, k, 1, 10) == total[k]);
        CHECK(rows_with_label(&p, k, 1, 8) == train[k]);
        CHECK(rows_with_label(&p, k, 9, 9) == valid[k]);
        for (int32_t c = 1; c < t->classes; c++)
            CHECK(strcmp(t->class_name[c - 1], t->class_name[c]) < 0);
    }
    for (int64_t i = 0; i < p.count; i++) {
        very_old += p.row[i].age == 300;
        no_age += !(p.row[i].age >= 0);
        male += p.row[i].sex == 0;
        ids += p.row[i].ecg_id;
        if (i)
            patients_split +=
                p.row[i].patient == p.row[i - 1].patient && p.row[i].fold != p.row[i - 1].fold;
        if (p.row[i].patient == 0) patients_split++;
    }
    CHECK(very_old == 293 && no_age == 0 && male == 11354 && patients_split == 0);
    CHECK(p.row[0].ecg_id == 1 && p.row[0].line == 2 && p.row[0].fold == 3 && p.row[0].age == 56);
    CHECK(!strcmp(p.row[0].statements, "{'NORM': 100.0, 'LVOLT': 0.0, 'SR': 0.0}"));
    CHECK(!strcmp(p.row[0].file_low, "records100/00000/00001_lr"));
    CHECK(ids > 0);
    pk_ptbxl_free(&p);
}

int main(void)
{
    dicts();
    official();
    return TEST_END();
}
