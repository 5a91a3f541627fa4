/* seeds.h -- small valid inputs of every reader, from which test_readers.c makes damaged ones.
 * Lines "%%" part files. */
#ifndef PK_TESTS_FUZZ_SEEDS_H
#define PK_TESTS_FUZZ_SEEDS_H

#include <stddef.h>

#pragma GCC diagnostic ignored "-Woverlength-strings" // a segment of PPG-BP is 2100 numbers

struct seed {
    const char *bytes; // NULL ends a list
    size_t n;
};
#define SEED(text)                                                                                 \
    {                                                                                              \
        text, sizeof text - 1                                                                      \
    }

static const char seed_json[] = "{\"a\": [1, -2.5e3, true, null, \"\\u00e9\\n\\ud83d\\ude00\"], "
                                "\"b\": {\"c\": 9007199254740993, \"\": []}}";

static const char seed_model[] = "{\"format\": \"purkinje\", \"objective\": \"classify\", "
                                 "\"encoder\": {\"kind\": \"vit\", \"width\": 64,\n"
                                 "\"depth\": 2, \"heads\": 4, \"mlp_ratio\": 4, \"eps\": 1e-6, "
                                 "\"qkv_bias\": true, \"tokenise\": \"register\",\n"
                                 "\"patch_samples\": 5, \"tokens\": 100}, \"input\": {\"rate_hz\": "
                                 "100, \"leads\": [\"I\", \"II\"], \"units\": \"mV\",\n"
                                 "\"mean\": [0.1, -0.2], \"std\": [1, 2], \"statistics_of\": "
                                 "\"x\", \"clip\": 5, \"data\": \"d\",\n"
                                 "\"preprocessing\": \"p\"}, \"head\": {\"kind\": \"attentive\", "
                                 "\"task\": \"all\", \"loss\": \"bce\",\n"
                                 "\"classes\": [\"NORM\", \"SR\"], \"window_s\": 5, \"stride_s\": "
                                 "2.5, \"aggregation\": \"mean_logits\"}}";

static const char seed_npy[] = "\x93NUMPY\x01\0\x3c\0{'descr': '<i2', 'fortran_order': False, "
                               "'shape': (2, 3), }\n\x01\0\x02\0\x03\0\x04\0\xff\xff\0\x80";

static const char seed_safetensors[] =
    "\x85\0\0\0\0\0\0\0{\"__metadata__\":{\"a\":\"b\"},\"w\":{\"dtype\":\"F32\",\"shape\":[2],"
    "\"data_offsets\":[0,8]},"
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[8,10]}}0123456789";

static const char seed_recipe[] =
    "schema: 1\n"
    "extends: [b.yaml]\n"
    "seed: 7\n"
    "data:\n"
    "  synthetic: {records: 200, seconds: 10, seed: 1}\n"
    "  rate: 100 Hz\n"
    "  crop: 5 s\n"
    "model:\n"
    "  encoder: {kind: vit, width: 64, depth: 2, heads: 4, patch: 50 ms}\n"
    "objective:\n"
    "  kind: jepa\n"
    "  predictor: {width: 32, depth: 2, heads: 4}\n"
    "  ema: {start: 0.99, end: 0.999}\n"
    "train:\n"
    "  steps: 1000\n"
    "  batch_size: 64\n"
    "  precision: auto\n"
    "  learning_rate: {warmup: 100}\n"
    "output:\n"
    "  dir: \"runs/a\"\n"
    "  checkpoint: {every: 500 steps, every_time: 0}\n"
    "%%\n"
    "train:\n"
    "  threads: 2\n"
    "  learning_rate: {peak: 1e-3, shape: cosine}\n";

static const char seed_stages[] = "schema: 1\n"
                                  "extends: [b.yaml]\n"
                                  "init_from: a/b\n"
                                  "data: {corpus: c, task: all, crop: 2.5 s}\n"
                                  "objective:\n"
                                  "  kind: classify\n"
                                  "  head: {kind: attentive}\n"
                                  "  augment: {noise: [0.1, 0.5, 0.9], time_warp: []}\n"
                                  "evaluation: {window: 2.5 s, stride: 1 s}\n"
                                  "stages:\n"
                                  "  - name: probe\n"
                                  "    freeze_encoder: true\n"
                                  "    steps: 50\n"
                                  "    optimizer: {beta: [0.9, 0.999], clip: 1}\n"
                                  "    learning_rate: {peak: 1e-3, shape: constant}\n"
                                  "  - name: all\n"
                                  "    freeze_encoder: false\n"
                                  "    steps: 50\n"
                                  "    learning_rate: {peak: 1e-4}\n"
                                  "    weight_decay: {start: 0.1, end: 0}\n"
                                  "%%\n"
                                  "train: {batch_size: 16, precision: fp32}\n";

static const char seed_corpus[] =
    "{\"purkinje_corpus\": 1, \"shard_version\": 1, \"modality\": \"ppg\", \"version\": \"v\", "
    "\"preprocessing\": \"p\",\n"
    "\"rate\": 125, \"units\": \"z\", \"leads\": [\"PPG\"], \"samples\": 262, \"samples_padded\": "
    "2048, \"records\": 480,\n"
    "\"sources\": [{\"name\": \"ppg-bp\", \"records\": 480, \"mean\": [2.3e-07], \"std\": "
    "[1.0]}],\n"
    "\"tasks\": [{\"name\": \"t\", \"classes\": [\"a\", \"b\"]}], \"targets\": [\"sbp\", \"hr\"],\n"
    "\"shards\": [{\"file\": \"shard-00000.h5\", \"records\": 480, \"bytes\": 2070336, "
    "\"signal_offset\": 4096,\n"
    "\"checksum\": \"9a95a5d293542c25\", \"columns_checksum\": \"6c97ae5b4a881a28\"}]}";

static const char seed_wfdb[] = "r 2 100 4 12:00:00 01/02/2003\nr.dat 16 200(1)/mV 16 0 1 4 0 "
                                "I\nr.dat 16 200/mV 16 0 2 -32760 0 II\n# age 5\n"
                                "%%\n\x01\0\x02\0\x03\0\x04\0\xff\xff\0\x80\x01\0\x02\0";

static const char seed_segments[] =
    "r/2 1 100 6\ns 3\n~ 3\n%%\n%%\ns 1 100 3\ns.dat 80 100/uV 8 128 0 0 0 V1\n%%\n\x80\x81\x7f";

static const char seed_formats[] =
    "r 4 50/100(3) 4\nr.dat 212x2:1+2 100 12 0\nr.dat 212x1+2 100 12 0\ns.dat 310 1 10 0\ns.dat "
    "310 1 10 0 0 401 0 d\n"
    "%%\n0123456789012345678901234567890123456789012345678901234567890123456789\n%%\n%%\n"
    "0123456789012345678901234567890123456789";

static const char seed_differences[] =
    "r 2 50 4\nr.dat 8 1 8 0 5 510 0 b\ns.dat 61 1 16 0\n%%\n0123\n%%\n%%\n01234567";

static const char seed_ptbxl[] =
    "ecg_id,patient_id,age,sex,scp_codes,strat_fold,filename_lr,filename_hr\n"
    "1,15709.0,56.0,1,\"{'NORM': 100.0, 'SR': "
    "0.0}\",3,records100/00000/00001_lr,records500/00000/00001_hr\n"
    "2,13243.0,,0,\"{'ABQRS': 15.0}\",10,records100/00000/00002_lr,records500/00000/00002_hr\n"
    "%%\n,description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass\n"
    "NORM,normal ECG,1.0,,,NORM,NORM\nABQRS,abnormal QRS,,1.0,,,\nSR,\"sinus, rhythm\",,,1.0,,\n";

static const char seed_bidmc[] =
    "Time [s], RESP, PLETH, "
    "II\n0,.1,.5,.1\n.02,.1,.6,.2\n.04,.1,.7,.1\n.06,.1,NaN,.3\n.08,.1,.5,.1\n"
    "%%\nTime [s], HR, PULSE, RESP, SpO2\n0,60,61,,97\n1,NaN,61,20,97\n"
    "%%\nbidmc_01\nSignals sampling frequency: 50 Hz\nAge: 90+\nGender: F\nMIMIC II matched wdb "
    "ID: s01182\n";

#define TEN           "2000\t2100.5\t2200\t2300\t2400\t2300\t2200\t2100\t2000\t1900\t"
#define HUNDRED       TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN
#define SEVEN_HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED HUNDRED

static const char seed_ppg_bp[] =
    "Num.,subject_ID,Sex(M/F),Age(year),Height(cm),Weight(kg),Systolic Blood Pressure(mmHg),"
    "Diastolic Blood Pressure(mmHg),Heart Rate(b/m),BMI(kg/m^2),Hypertension,Diabetes,cerebral "
    "infarction,"
    "cerebrovascular disease\n1,2,Female,45,152,63,161,89,97,27.2,Stage 2 hypertension,Type 2 "
    "Diabetes,,\n"
    "3,6,Male,47,150,,101,71,79,20.8,Normal,,,\n%%\n" SEVEN_HUNDRED SEVEN_HUNDRED SEVEN_HUNDRED;

static const char seed_e4[] = "1644226061.000000\r\n64.000000\r\n1.5\r\n2\r\n-"
                              "1\r\n0\r\n0\r\nNaN\r\n3\r\n%%\n1644226062.0\n1.0\n70\n71.5\n";

static const char seed_files[] =
    "name: study\nversion: v 1\nfiles: \"a.csv\"\ndelimiter: \";\"\ncomment: \"#\"\nwindow: 1 "
    "s\nskip: 0\n"
    "time: {column: time, unit: ms, grid: 50 Hz, gap: 0.3 s}\nleads:\n  - {name: PPG_R, column: R, "
    "scale: -2}\n"
    "  - {name: II, column: G, kind: ecg}\ntargets:\n  - {name: bpm, column: bpm}\nsubjects:\n  "
    "file: people.csv\n"
    "  column: who\n  targets:\n    - {name: age, column: age}\n  tasks:\n    - {name: group, "
    "column: group}\n"
    "%%\n# c\ntime;R;G;bpm\n0;1;2;60\n30;2;3;61\n55;-1;1e3;\n90;nan;0;62\n2000;1;1;1\n2020;1;2;1\n"
    "%%\nwho,age,group\na,30,b\n";

#endif
