"""Draws docs/augmentations.svg: what each augmentation does to five seconds of two leads, by the kernels
themselves.

    python3 docs/augmentations.py build/test_augment docs/augmentations.svg
"""
import subprocess
import sys

TITLES = {
    "time_warp": "time warp: runs faster and slower",
    "crop_resize": "crop and resize: a share, stretched",
    "permute": "permutation of the leads",
    "negate": "negation",
    "magnitude": "magnitude warp: a slow gain",
    "wander": "baseline wander",
    "powerline": "power line, 50 or 60 Hz",
    "noise": "Gaussian noise",
    "lead_mask": "lead mask",
    "cut_out": "cut-out",
}
WIDTH, HEIGHT, LEAD = 520, 165, 60  # of a panel; between the leads
SCALE = 26                          # pixels per unit


def path(values, lead):
    """Relative, in whole pixels; the x axis is one pixel per sample."""
    y = [round(56 + LEAD * lead - SCALE * v) for v in values]
    steps = "".join(f"l1 {b - a}" for a, b in zip(y, y[1:]))
    return f"M10 {y[0]}{steps}".replace(" -", "-")


def main():
    program, target = sys.argv[1:]
    text = subprocess.run([program, "draw"], check=True, capture_output=True, text=True).stdout
    curves = {}
    for line in text.splitlines():
        name, lead, *values = line.split()
        if name == "before" or name in TITLES:
            curves.setdefault(name, []).append(path([float(v) for v in values], int(lead)))
    assert set(curves) == {"before", *TITLES}, sorted(curves)
    rows = (len(TITLES) + 1) // 2
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{rows * HEIGHT}" '
           'font-family="sans-serif" font-size="13" fill="none">',
           '<title>Augmentations of a signal: before in grey, after in colour</title>',
           f'<rect width="{2 * WIDTH}" height="{rows * HEIGHT}" fill="#fff"/>',
           '<defs><g id="before" stroke="#bbb">',
           *(f'<path d="{d}"/>' for d in curves["before"]), "</g></defs>"]
    for i, (name, title) in enumerate(TITLES.items()):
        out.append(f'<g transform="translate({i % 2 * WIDTH} {i // 2 * HEIGHT})">'
                   f'<text x="10" y="14" fill="#333">{title}</text><use href="#before"/>'
                   '<g stroke="#0a6">')
        out += [f'<path d="{d}"/>' for d in curves[name]]
        out.append("</g></g>")
    out.append("</svg>\n")
    with open(target, "w", encoding="utf-8") as f:
        f.write("\n".join(out))


if __name__ == "__main__":
    main()
