"""Reads the event files of test_tfevents (C) with a decoder of its own and with TensorBoard's."""
import glob
import math
import os
import struct
import subprocess
import sys
import tempfile

failures = 0


def check(ok, what):
    global failures
    if not ok:
        failures += 1
        print("failed:", what)


def masked_crc(data):  # CRC-32C bit by bit, sharing nothing with the C table
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(data):
    while data:
        (n,) = struct.unpack("<Q", data[:8])
        check(struct.unpack("<I", data[8:12])[0] == masked_crc(data[:8]), "CRC of the length")
        body = data[12 : 12 + n]
        check(len(body) == n, "a whole record")
        check(struct.unpack("<I", data[12 + n : 16 + n])[0] == masked_crc(body), "CRC of the event")
        yield body
        data = data[16 + n :]


def fields(data):
    def varint():
        nonlocal at
        v = shift = 0
        while True:
            b = data[at]
            at += 1
            v |= (b & 127) << shift
            shift += 7
            if b < 128:
                return v

    at = 0
    while at < len(data):
        key = varint()
        if key & 7 == 0:
            v = varint()
        else:
            n = {1: 8, 5: 4}.get(key & 7) or varint()
            v, at = data[at : at + n], at + n
        yield key >> 3, v


def own_decoder(path):
    events = []
    for body in records(open(path, "rb").read()):
        f = dict(fields(body))
        check(1.6e9 < struct.unpack("<d", f[1])[0] < 1e11, "wall time")
        scalars = {}
        for _, v in fields(f.get(5, b"")):
            value = dict(fields(v))
            scalars[value[1].decode()] = struct.unpack("<f", value[2])[0]
        events.append((f.get(2, 0), f.get(3), scalars, dict(fields(f.get(7, b"")))))
    return events


def by_hand(first, second):
    a, b = own_decoder(first), own_decoder(second)
    check(a[0][1] == b[0][1] == b"brain.Event:2", "file version first")
    check([e[0] for e in a[1:]] == list(range(1, 8)), "steps")
    for step, _, scalars, _ in a[1:]:
        check(abs(scalars["train/loss"] - 1 / step) < 1e-7 and len(scalars) == 2, "values")
        check(abs(scalars["train/learning_rate \u03b7"] - 1e-3 * step) < 1e-9, "UTF-8 tag")
    check(b[1][0] == 6 and b[1][3] == {1: 1}, "session log START at the step of the resume")
    check([e[0] for e in b[2:]] == [6, 7, 8, 2**63 - 1], "steps after the resume")
    check(math.isnan(b[-1][2][""]) and math.isinf(b[-1][2]["big"]), "values that are not finite")


def by_tensorboard(folder, first, second):
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.compat.proto.event_pb2 import SessionLog
    except ImportError as e:
        print("tensorboard is not installed; read by hand only:", e)
        return
    events = list(EventFileLoader(first).Load()) + list(EventFileLoader(second).Load())
    check(len(events) == 1 + 7 + 1 + 1 + 4, f"TensorBoard reads {len(events)} events")
    check([e.session_log.status for e in events if e.HasField("session_log")] == [SessionLog.START],
          "session log")
    acc = EventAccumulator(folder, purge_orphaned_data=True)
    acc.Reload()
    loss = None
    tags = acc.Tags()
    if "train/loss" in tags["scalars"]:
        loss = [(e.step, e.value) for e in acc.Scalars("train/loss")]
    else:  # recent versions turn simple values into tensors
        from tensorboard.util.tensor_util import make_ndarray

        loss = [(e.step, float(make_ndarray(e.tensor_proto))) for e in acc.Tensors("train/loss")]
    want = [(s, 1 / s) for s in range(1, 6)] + [(s, -s) for s in range(6, 9)]
    check([s for s, _ in loss] == [s for s, _ in want], f"orphans are purged: {loss}")
    check(all(abs(a[1] - b[1]) < 1e-6 for a, b in zip(loss, want)), f"values: {loss}")
    print("TensorBoard reads them too")


program = os.path.join(os.path.dirname(os.environ["PURKINJE"]), "test_tfevents")
with tempfile.TemporaryDirectory() as scratch:
    folder = os.path.join(scratch, "run", "tb")
    p = subprocess.run([program, folder], capture_output=True, text=True)
    check(p.returncode == 0, p.stderr)
    files = sorted(glob.glob(folder + "/events.out.tfevents.*"))
    check(len(files) == 2, f"two files, in order: {files}")
    by_hand(*files)
    by_tensorboard(folder, *files)
print(f"{failures} checks failed" if failures else "all checks passed")
sys.exit(1 if failures else 0)
