"""The supervised losses and their gradients against PyTorch in float64, through the test program
test_supervised, which prints cases with what the CPU kernels make of them."""
import json
import os
import subprocess
import sys

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("skipped: torch is not installed")
    sys.exit(77)


def tensor(values, rows=None):
    if values is None:
        return None
    t = torch.tensor([float("nan") if v is None else v for v in values], dtype=torch.float64)
    return t.reshape(rows, -1) if rows else t


def multilabel(x, y, case):
    """BCEWithLogitsLoss where that is all, else the formulas of the two papers."""
    positive_gamma, negative_gamma, margin, alpha, smoothing = case["attributes"]
    weight, positive = tensor(case["weight"]), tensor(case["positive"])
    known = ~y.isnan()
    y = torch.where(known, y * (1 - smoothing) + smoothing / 2, 0.0)
    if not (positive_gamma or negative_gamma or margin or alpha):
        loss = F.binary_cross_entropy_with_logits(x, y, weight=weight, pos_weight=positive,
                                                  reduction="none")
    else:
        p = x.sigmoid()
        n = (p - margin).clamp(min=0)
        ones = torch.ones(x.shape[1], dtype=x.dtype)
        up = alpha * (positive if positive is not None else ones) if alpha else (
            positive if positive is not None else ones)
        loss = -up * y * (1 - p)**positive_gamma * p.log()
        loss = loss - (1 - alpha if alpha else 1) * (1 - y) * n**negative_gamma * (1 - n).log()
        loss = loss * (weight if weight is not None else ones)
    count = known.sum()
    return (loss * known).sum() / count if count else 0 * x.sum()


def multiclass(x, y, case):
    smoothing, weight = case["attributes"][4], tensor(case["weight"])
    labelled = y.sum(1) > 0  # false for NaN
    if not labelled.any():
        return 0 * x.sum()
    if not case["soft"]:  # hard labels, unknown ones ignored
        index = torch.where(labelled, y.nan_to_num().argmax(1), -100)
        return F.cross_entropy(x, index, weight=weight, ignore_index=-100,
                               label_smoothing=smoothing)
    x, y = x[labelled], y[labelled]
    total = F.cross_entropy(x, y, weight=weight, label_smoothing=smoothing, reduction="sum")
    return total / (y * weight).sum() if weight is not None else total / len(y)


def regression(x, y, case):
    known = ~y.isnan()
    if not known.any():
        return 0 * x.sum()
    loss = (F.mse_loss, F.l1_loss,
            lambda *a, **k: F.huber_loss(*a, delta=case["delta"], **k))[case["kind"]]
    loss = loss(x, torch.where(known, y, 0.0), reduction="none")
    weight = tensor(case["weight"])
    return (loss * known * (1 if weight is None else weight)).sum() / known.sum()


def check(case):
    x = tensor(case["x"], case["rows"]).requires_grad_()
    loss = (multilabel, multiclass, regression)[case["op"]](x, tensor(case["label"], case["rows"]),
                                                            case)
    loss.backward()
    off = abs(case["loss"] - loss.item()) / max(abs(loss.item()), 1e-30)
    top = x.grad.abs().max().item()
    grad_off = (tensor(case["dx"], case["rows"]) - x.grad).abs().max().item() / max(top, 1e-30)
    good = off <= 2e-7 and grad_off <= 2e-7 and (top > 0) == ("none known" not in case["name"])
    print(f"{case['name']}: loss {loss.item():.6f} off by {off:.1e}, gradient by {grad_off:.1e}"
          f"{'' if good else '  WRONG'}")
    return good


def main():
    program = os.path.join(os.path.dirname(os.environ["PURKINJE"]), "test_supervised")
    if not os.path.exists(program):
        print("skipped: test_supervised is not built")
        return 77
    text = subprocess.run([program, "dump"], check=True, capture_output=True, text=True).stdout
    results = [check(json.loads(line)) for line in text.splitlines()]
    return 0 if len(results) >= 16 and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
