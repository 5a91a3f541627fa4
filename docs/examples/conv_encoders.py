"""The convolutional encoders of `purkinje export` as PyTorch modules: [records, leads, samples] -> [records, width,
tokens]. load_model.py takes them from here; parameter names are those of the exported tensors.

    encoder = of_config(config)      # config: config.json, as a dictionary
    encoder.load_state_dict(weights)
"""
from torch import nn
from torch.nn import functional as F


def unit(before, after, kernel=1, stride=1, groups=1, act=None):
    """Convolution, batch norm and what follows: numbers 0, 1 (and 2)."""
    parts = [nn.Conv1d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm1d(after)]
    return nn.Sequential(*parts, *([act()] if act else []))


class WangBlock(nn.Module):
    def __init__(self, width, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(width, width, 5, stride, 2, bias=False), nn.BatchNorm1d(width)
        self.conv2, self.bn2 = nn.Conv1d(width, width, 3, 1, 1, bias=False), nn.BatchNorm1d(width)
        self.downsample = unit(width, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + self.downsample(x))


def resnet1d_wang(leads, width):
    blocks = [nn.Sequential(WangBlock(width, stride)) for stride in (1, 2, 2)]
    return nn.Sequential(*unit(leads, width, 7, act=nn.ReLU), *blocks)


class Bottleneck(nn.Module):
    def __init__(self, before, width, stride):
        super().__init__()
        after = 4 * width
        self.convs = nn.Sequential(unit(before, width, act=nn.ReLU), unit(width, width, 5, stride, act=nn.ReLU),
                                   unit(width, after))
        halve = [nn.AvgPool1d(2, ceil_mode=True)] if stride > 1 else []
        self.idpath = nn.Sequential(*halve, *([unit(before, after)] if before != after else []))

    def forward(self, x):
        return F.relu(self.convs(x) + self.idpath(x))


def xresnet1d(leads, width, depths):
    stem, before = (leads, 32, 32, 64), 64
    layers = [unit(stem[i], stem[i + 1], 5, 1 if i else 2, act=nn.ReLU) for i in range(3)]
    layers.append(nn.MaxPool1d(3, 2, 1))
    for stage, depth in enumerate(depths):
        strides = [2 if stage else 1] + [1] * (depth - 1)
        blocks = [Bottleneck(4 * width if k else before, width, s) for k, s in enumerate(strides)]
        layers.append(nn.Sequential(*blocks))
        before = 4 * width
    return nn.Sequential(*layers)


class Gate(nn.Module):  # squeeze and excite
    def __init__(self, width, inner):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        return x * self.fc2(F.silu(self.fc1(x.mean(2)))).sigmoid()[:, :, None]


class Inverted(nn.Module):
    def __init__(self, before, expand, after, stride, kernel):
        super().__init__()
        inner = before * expand
        self.expand = unit(before, inner, act=nn.SiLU) if expand > 1 else nn.Identity()
        self.depthwise = unit(inner, inner, kernel, stride, inner, nn.SiLU)
        self.se, self.project = Gate(inner, max(before // 4, 1)), unit(inner, after)
        self.adds = stride == 1 and before == after

    def forward(self, x):
        h = self.project(self.se(self.depthwise(self.expand(x))))
        return x + h if self.adds else h


class Efficient(nn.Module):
    STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
              (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # expansion, width, blocks, stride, kernel

    def __init__(self, leads, width):
        super().__init__()
        self.stem, blocks, before = unit(leads, 32, 3, 2, act=nn.SiLU), [], 32
        for expand, after, count, stride, kernel in self.STAGES:
            for k in range(count):
                blocks.append(Inverted(before, expand, after, 1 if k else stride, kernel))
                before = after
        self.blocks, self.final = nn.Sequential(*blocks), unit(before, width, act=nn.SiLU)

    def forward(self, x):
        return self.final(self.blocks(self.stem(x)))


class Same(nn.Module):  # a convolution that keeps ceil(T / stride) samples, the odd zero behind
    def __init__(self, before, after, kernel=1, stride=1, groups=1):
        super().__init__()
        self.conv = nn.Conv1d(before, after, kernel, stride, groups=groups)

    def forward(self, x):
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        zeros = max((-(-x.shape[2] // stride) - 1) * stride + kernel - x.shape[2], 0)
        return self.conv(F.pad(x, (zeros // 2, zeros - zeros // 2)))


class Net1DBlock(nn.Module):
    def __init__(self, before, width, halves, first):
        super().__init__()
        self.conv1, self.conv3 = Same(before, width), Same(width, width)
        self.conv2 = Same(width, width, 16, 2 if halves else 1, width // 16)
        self.se_fc1, self.se_fc2 = nn.Linear(width, width // 2), nn.Linear(width // 2, width)
        self.halves, self.first, self.more = halves, first, width - before

    def forward(self, x):
        h = self.conv1(x if self.first else F.silu(x))
        h = self.conv3(F.silu(self.conv2(F.silu(h))))
        h = h * self.se_fc2(F.silu(self.se_fc1(h.mean(2)))).sigmoid()[:, :, None]
        if self.halves:
            x = F.max_pool1d(F.pad(x, (0, 1)), 2)
        return F.pad(x, (0, 0, self.more // 2, self.more - self.more // 2)) + h


class Net1DStage(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.block_list = nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.block_list:
            x = block(x)
        return x


class Net1D(nn.Module):
    STAGES = (64, 2), (160, 2), (160, 2), (400, 3), (400, 3), (1024, 4), (1024, 4)  # width, blocks

    def __init__(self, leads):
        super().__init__()
        self.first_conv, stages, before = Same(leads, 64, 16, 2), [], 64
        for width, count in self.STAGES:
            blocks = [Net1DBlock(width if k else before, width, k == 0, not stages and k == 0) for k in range(count)]
            stages.append(Net1DStage(blocks))
            before = width
        self.stage_list = nn.ModuleList(stages)

    def forward(self, x):
        x = F.silu(self.first_conv(x))
        for stage in self.stage_list:
            x = stage(x)
        return x


def of_config(config):
    """The encoder that config.json describes, in evaluation mode, with weights yet to be loaded."""
    e, leads = config["encoder"], len(config["input"]["leads"])
    kind = e["kind"]
    if kind == "resnet1d_wang":
        encoder = resnet1d_wang(leads, e["channels"])
    elif kind in ("xresnet1d50", "xresnet1d101"):
        encoder = xresnet1d(leads, e["channels"], (3, 4, 23 if kind.endswith("101") else 6, 3))
    elif kind == "efficientnet1d":
        encoder = Efficient(leads, e["width"])
    elif kind == "net1d":
        encoder = Net1D(leads)
    else:
        raise ValueError(f"an encoder of the kind '{kind}', which this file does not have")
    return encoder.eval()
