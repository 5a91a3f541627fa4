"""Convolutional encoders against PyTorch: logits, loss, every gradient, weights and running statistics
after ten steps, with statistics of the batch and with running ones; and names, shapes and numbers of
the published sizes. The modules here are written from the papers and from the architecture's
description, with the names of the published state dicts (see oracle.py for the tolerance)."""

import subprocess
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import oracle

# PyTorch's batch norm sums in double on the CPU, so float32 PyTorch is better here than the naive
# algorithm that the tolerance assumes. The floor of a gradient is one rounding for each of the 20 layers
# (convolutions, norms) on the way through the deepest of these networks.
GRADIENT_FLOOR = 20 * 2.0 ** -24

STATE = "running_mean", "running_var", "num_batches_tracked"


class WangBlock(nn.Module):
    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1 = nn.Conv1d(before, width, 5, stride, 2, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm1d(width)
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv1d(before, width, 1, stride, bias=False),
                                            nn.BatchNorm1d(width))
        self.halves = stride > 1

    def forward(self, x):
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(h + (self.downsample(x) if self.halves else x))


def wang(leads, width):
    layers = [nn.Conv1d(leads, width, 7, 1, 3, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
    layers += [nn.Sequential(WangBlock(width, width, s)) for s in (1, 2, 2)]
    return nn.Sequential(*layers), width


def layer(before, width, kernel=1, stride=1, active=True):
    parts = [nn.Conv1d(before, width, kernel, stride, kernel // 2, bias=False),
             nn.BatchNorm1d(width)]
    return nn.Sequential(*parts, nn.ReLU()) if active else nn.Sequential(*parts)


class Residual(nn.Module):
    """Bottleneck, or two convolutions where nothing is expanded; the shortcut averages pairs."""

    def __init__(self, before, width, expansion, stride, kernel):
        super().__init__()
        after = width * expansion
        if expansion > 1:
            self.convs = nn.Sequential(layer(before, width), layer(width, width, kernel, stride),
                                       layer(width, after, active=False))
        else:
            self.convs = nn.Sequential(layer(before, width, kernel, stride),
                                       layer(width, after, kernel, active=False))
        path = [nn.AvgPool1d(2, ceil_mode=True)] if stride > 1 else []
        if before != after:
            path.append(layer(before, after, active=False))
        self.idpath = nn.Sequential(*path)

    def forward(self, x):
        return F.relu(self.convs(x) + self.idpath(x))


def xresnet(leads, stem, width, expansion, blocks, kernel=5):
    sizes = [leads, *stem]
    layers = [layer(sizes[i], sizes[i + 1], kernel, 1 if i else 2) for i in range(3)]
    layers.append(nn.MaxPool1d(3, 2, 1))
    before = stem[-1]
    for stage, count in enumerate(blocks):
        made = []
        for k in range(count):
            made.append(Residual(before, width, expansion, 2 if stage and not k else 1, kernel))
            before = width * expansion
        layers.append(nn.Sequential(*made))
    return nn.Sequential(*layers), before


def drop_path(block, h):
    """Stochastic depth with the records that are kept given: block.path is (rate, kept [records])."""
    if getattr(block, "path", None) is None:
        return h
    rate, kept = block.path
    return h * (kept.to(h.dtype) / (1 - rate))[:, None, None]


class Excite(nn.Module):
    def __init__(self, width, squeezed):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, squeezed), nn.Linear(squeezed, width)

    def forward(self, x):
        return x * torch.sigmoid(self.fc2(F.silu(self.fc1(x.mean(2)))))[:, :, None]


def unit(before, width, kernel=1, stride=1, groups=1, active=True):
    parts = [nn.Conv1d(before, width, kernel, stride, kernel // 2, groups=groups, bias=False),
             nn.BatchNorm1d(width)]
    return nn.Sequential(*parts, nn.SiLU()) if active else nn.Sequential(*parts)


class Inverted(nn.Module):
    def __init__(self, before, expand, width, stride, kernel):
        super().__init__()
        inner = before * expand
        if expand > 1:
            self.expand = unit(before, inner)
        self.depthwise = unit(inner, inner, kernel, stride, inner)
        self.se = Excite(inner, max(before // 4, 1))
        self.project = unit(inner, width, active=False)
        self.expands, self.adds = expand > 1, stride == 1 and before == width

    def forward(self, x):
        h = self.project(self.se(self.depthwise(self.expand(x) if self.expands else x)))
        return x + drop_path(self, h) if self.adds else h


class Efficient(nn.Module):
    def __init__(self, leads, stem, stages, features):
        super().__init__()
        self.stem, made, before = unit(leads, stem, 3, 2), [], stem
        for expand, width, repeats, stride, kernel in stages:
            for k in range(repeats):
                made.append(Inverted(before, expand, width, 1 if k else stride, kernel))
                before = width
        self.blocks, self.final = nn.Sequential(*made), unit(before, features)

    def forward(self, x):
        return self.final(self.blocks(self.stem(x)))


B0 = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
      (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))


class Same(nn.Module):
    """Convolution that keeps ceil(T / stride) samples, the odd zero behind."""

    def __init__(self, before, width, kernel=1, stride=1, groups=1):
        super().__init__()
        self.conv = nn.Conv1d(before, width, kernel, stride, groups=groups)

    def forward(self, x):
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        zeros = max((-(-x.shape[2] // stride) - 1) * stride + kernel - x.shape[2], 0)
        return self.conv(F.pad(x, (zeros // 2, zeros - zeros // 2)))


class Net1DBlock(nn.Module):
    def __init__(self, before, width, kernel, group, halves, first, norm):
        super().__init__()
        if norm and not first:  # the published module has one there too, unused
            self.bn1 = nn.BatchNorm1d(before)
        self.conv1 = Same(before, width)
        self.conv2 = Same(width, width, kernel, 2 if halves else 1, width // group)
        self.conv3 = Same(width, width)
        if norm:
            self.bn2, self.bn3 = nn.BatchNorm1d(width), nn.BatchNorm1d(width)
        self.se_fc1, self.se_fc2 = nn.Linear(width, width // 2), nn.Linear(width // 2, width)
        self.halves, self.first, self.norm, self.more = halves, first, norm, width - before

    def forward(self, x):
        h = x if self.first else F.silu(self.bn1(x) if self.norm else x)
        h = self.conv1(h)
        h = self.conv2(F.silu(self.bn2(h) if self.norm else h))
        h = self.conv3(F.silu(self.bn3(h) if self.norm else h))
        h = h * torch.sigmoid(self.se_fc2(F.silu(self.se_fc1(h.mean(2)))))[:, :, None]
        if self.halves:
            x = F.max_pool1d(F.pad(x, (0, 1)), 2)
        x = F.pad(x, (0, 0, self.more // 2, self.more - self.more // 2))
        return drop_path(self, h) + x


class Net1DStage(nn.Module):
    def __init__(self, made):
        super().__init__()
        self.block_list = nn.ModuleList(made)

    def forward(self, x):
        for block in self.block_list:
            x = block(x)
        return x


class Net1D(nn.Module):
    def __init__(self, leads, stem, stages, kernel, group, norm):
        super().__init__()
        self.first_conv, stage_list, before = Same(leads, stem, kernel, 2), [], stem
        if norm:
            self.first_bn = nn.BatchNorm1d(stem)
        for width, count in stages:
            made = []
            for k in range(count):
                first = not stage_list and not made
                made.append(Net1DBlock(before, width, kernel, group, k == 0, first, norm))
                before = width
            stage_list.append(Net1DStage(made))
        self.stage_list, self.norm = nn.ModuleList(stage_list), norm

    def forward(self, x):
        x = self.first_conv(x)
        x = F.silu(self.first_bn(x) if self.norm else x)
        for stage in self.stage_list:
            x = stage(x)
        return x


FOUNDER = (64, 2), (160, 2), (160, 2), (400, 3), (400, 3), (1024, 4), (1024, 4)


class ConcatPool(nn.Module):
    def forward(self, x):
        return torch.cat([x.amax(2), x.mean(2)], 1)


class Net(nn.Module):
    def __init__(self, encoder, hidden, classes):
        super().__init__()
        self.encoder, width = encoder
        self.head = nn.Sequential(ConcatPool(), nn.Flatten(), nn.BatchNorm1d(2 * width),
                                  nn.Dropout(0), nn.Linear(2 * width, hidden), nn.ReLU(),
                                  nn.BatchNorm1d(hidden), nn.Dropout(0),
                                  nn.Linear(hidden, classes))

    def forward(self, x):
        return self.head(self.encoder(x))


def small(kind, classes):
    if kind == "wang":
        return Net(wang(3, 12), 10, classes)
    if kind.startswith("net1d"):
        stages = (9, 2), (12, 1), (21, 2)
        return Net((Net1D(3, 6, stages, 16, 3, kind == "net1d_bn"), 21), 10, classes)
    if kind == "droppath":
        stages = (1, 8, 1, 1, 3), (6, 8, 2, 2, 5), (3, 8, 2, 1, 3)
        return Net((Efficient(3, 8, stages, 9), 9), 10, classes)
    if kind == "efficientnet":
        stages = (1, 5, 1, 1, 3), (6, 7, 2, 2, 5), (3, 7, 1, 1, 3)
        return Net((Efficient(3, 6, stages, 9), 9), 10, classes)
    return Net(xresnet(3, (6, 7, 8), 8, 1 if kind == "xresnet18" else 4, (1, 2, 1, 1)), 10, classes)


def published(kind):
    if kind == "wang":
        return Net(wang(12, 128), 128, 71)
    if kind == "efficientnet":
        return Net((Efficient(12, 32, B0, 256), 256), 128, 71)
    if kind.startswith("net1d"):
        return Net((Net1D(12, 64, FOUNDER, 16, 16, kind == "net1d_bn"), 1024), 128, 71)
    deep = 23 if kind == "xresnet1d101" else 6
    return Net(xresnet(12, (32, 32, 64), 64, 4, (3, 4, deep, 3)), 128, 71)


RATES = {"droppath": 0.5, "net1d": 0.6, "net1d_bn": 0.6}  # of a block behind the last


def give_paths(net, kind, train, dump):
    """The records that the C program keeps in each block, at the rates that are asked for."""
    blocks = [m for m in net.modules() if isinstance(m, (Inverted, Net1DBlock))]
    paths = dump.raw("paths.f32", -1, 1 + dump.meta["shape"][0])
    used = 0
    for i, block in enumerate(blocks):
        rate = RATES.get(kind, 0) * i / len(blocks)
        if not train or not rate or not getattr(block, "adds", True):
            continue
        kept = torch.from_numpy(paths[used][1:].copy())
        assert abs(paths[used][0] - rate) < 1e-6, f"block {i} drops at {paths[used][0]}, not {rate}"
        assert set(kept.tolist()) == {0, 1}, f"block {i} drops all or nothing: test another seed"
        block.path, used = (rate, kept), used + 1
    assert used == len(paths) and (used > 0) == (train and kind in RATES)


class Nearby:
    """How far off float32 PyTorch is on these weights and on a few sets near them, which round
    differently. A gradient of two numbers, as of a small squeeze-excite, is one draw of its rounding,
    and at times 30 times nearer to the exact value than the next draw."""

    def __init__(self, dump, in_type, draws):
        self.grad, self.change, start = {}, {}, dump.arena("weight.f32")
        generator = torch.Generator().manual_seed(0)
        for draw in range(draws):
            moved = {k: 1 + 2.0 ** -20 * torch.randn(v.shape, generator=generator)
                     for k, v in start.items() if draw}

            def near(dtype):
                loss = in_type(dtype)
                return lambda w, ema: loss({k: x * moved[k].to(dtype) if x.requires_grad and draw
                                            else x for k, x in w.items()}, ema)
            runs = [oracle.train(dump, t, near(t)) for t in (torch.float32, torch.float64)]
            single, exact = runs
            if not draw:
                self.runs = runs
            for k, g in exact["grad"].items():
                begin = torch.from_numpy(start[k].copy()).double()
                self.add(self.grad, k, single["grad"][k] - g, g)
                self.add(self.change, k, single["w"][k] - exact["w"][k], exact["w"][k] - begin)

    @staticmethod
    def add(to, name, error, size):
        to.setdefault(name, []).append(float(error.norm() / size.norm()))

    @staticmethod
    def floor(floor, errors):
        """What makes the limit twice the largest error: twice the first one is in it already."""
        return lambda name: floor + 2 * (max(errors[name]) - errors[name][0])


def compare(isa, kind, train, judge, known, program="./test_conv", how=None):
    dump = oracle.Dump(isa, program, kind, how or ("t" if train else "e"))
    meta, weights = dump.meta, dump.arena("weight.f32")
    label = torch.from_numpy(dump.raw("label.u8", meta["shape"][0], meta["classes"]))
    name, outputs = f"{isa} {kind} {how or ('train' if train else 'eval')}", []

    # The names are PyTorch's: the module takes the whole dictionary, strictly.
    strict = small(kind, meta["classes"])
    strict.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in weights.items()})
    run = torch.nn.utils.stateless.functional_call

    def in_type(dtype, into=None):
        net = small(kind, meta["classes"]).to(dtype).train(train)
        give_paths(net, kind, train, dump)
        signal = dump.signal(dtype)

        def loss(w, _):
            z = run(net, w, signal)
            if into is not None:
                into.append(z.detach().double().numpy())
            return F.binary_cross_entropy_with_logits(z, label.to(dtype))
        return loss

    for dtype in torch.float32, torch.float64:
        w = {k: torch.from_numpy(v.copy()).to(dtype) for k, v in weights.items()}
        in_type(dtype, outputs)(w, None)
    judge.check("logits", name, dump.raw("logits.f32", meta["shape"][0], meta["classes"]), *outputs)
    if (kind, train) not in known:
        known[kind, train] = Nearby(dump, in_type, 8 if train else 1)
    near = known[kind, train]
    oracle.compare_training(judge, dump, in_type, near.floor(GRADIENT_FLOOR, near.grad),
                            lambda n: train and idle(kind, n),
                            near.floor(oracle.CHANGE_FLOOR, near.change), near.runs)
    moved = [run["w"] for run in near.runs]
    after = dump.arena("weight_after.f32")
    for key in (k for k in weights if k.endswith(STATE)):
        if train and follows_idle(kind, key):
            continue
        if train:
            judge.check("state", f"{name} {key}", after[key], moved[0][key], moved[1][key],
                        floor=oracle.CHANGE_FLOOR)
        else:
            assert np.array_equal(weights[key], after[key]), f"{key} moved"


def idle(kind, name):
    """What adds the same to all samples in front of a norm, whose batch mean takes it out again:
    the norm's bias where EfficientNet projects without an activation (1 x 1 convolutions let it
    pass, a block that is dropped for some records does not), and the convolutions' in Net1D."""
    if kind == "net1d_bn":
        return name.endswith(("first_conv.conv.bias", "conv1.conv.bias", "conv2.conv.bias"))
    if kind == "droppath" and not name.startswith(("encoder.blocks.0", "encoder.blocks.1")):
        return False
    return name.endswith("project.1.bias")


def follows_idle(kind, name):
    """That batch mean."""
    if kind == "net1d_bn":
        return name.endswith(("first_bn.running_mean", "bn2.running_mean", "bn3.running_mean"))
    return name.endswith(("expand.1.running_mean", "encoder.final.1.running_mean"))


def table(kind):
    """What the C program builds is what the module has, name by name; returns its parameters."""
    out = subprocess.run(["./test_conv", "table", kind], check=True, capture_output=True, text=True)
    ours = {}
    for line in out.stdout.splitlines():
        name, *dims = line.split()
        ours[name] = tuple(int(d) for d in dims)
    net = published(kind)
    theirs = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    assert ours == theirs, set(ours.items()) ^ set(theirs.items())
    if kind == "efficientnet":  # 3.3 M are published, without the widths
        assert 3.2e6 < sum(p.numel() for p in net.encoder.parameters()) < 3.6e6
    if kind.startswith("net1d"):  # 30.8 M are published, with 150 classes and the unused first norm
        encoder = sum(p.numel() for p in net.encoder.parameters())
        if kind == "net1d_bn":
            assert encoder + 2 * 64 + 150 * (1024 + 1) == 30_819_014, encoder
        else:
            assert encoder == 30_598_896, encoder
    return sum(p.numel() for p in net.parameters())


def main():
    judge, known = oracle.Judge(), {}
    for kind in "wang", "xresnet1d50", "xresnet1d101", "efficientnet", "net1d", "net1d_bn":
        print(f"{kind}: {table(kind)} parameters with 12 leads, 71 classes and 128 hidden")
    for kind in "wang", "xresnet", "xresnet18", "efficientnet", "droppath", "net1d", "net1d_bn":
        for isa in oracle.ISAS:
            compare(isa, kind, True, judge, known)
        compare(oracle.ISAS[-1], kind, False, judge, known)
    return judge.finish()


if __name__ == "__main__":
    sys.exit(main())
