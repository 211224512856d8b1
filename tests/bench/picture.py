"""The table as a picture: for each case a bar per resolver, its CPU per query as a multiple of the kernel's limit."""

from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, TOP = 760, 110, 70, 96
BAR, GAP, TITLE, BETWEEN = 18, 6, 24, 22
MOST = 6.0  # longer bars are cut, and say so
TITLES = {
    "denied": "denied",
    "cached": "allowed, cached",
    "miss": "allowed, asked upstream (limit: forwarding)",
    "mix": "70 % cached, 25 % denied, 5 % asked upstream",
}


def svg(result):
    """Returns the picture of the part `table`, best first in each case."""
    cases = result["parts"]["table"]["cases"]
    scale = (WIDTH - LEFT - RIGHT) / MOST
    at, body = TOP, []
    for case, found in cases.items():
        rows = sorted((e["multiple"], name) for name, e in found.items() if name != "limit")
        body.append(f'<text x="{LEFT}" y="{at + 15}" class="case">{escape(TITLES[case])}</text>')
        at += TITLE
        height = len(rows) * (BAR + GAP) - GAP
        body += [upright(value, scale, at, height, "line") for value in range(2, int(MOST) + 1)]
        limit = upright(1, scale, at, height, "limit")
        for value, name in rows:
            body += bar(at, value, name, found[name], scale)
            at += BAR + GAP
        body.append(limit)
        at += BETWEEN - GAP
    m = result["machine"]
    where = f"{m['cpu']}{' (virtual)' if m['virtual'] else ''}, Linux {m['kernel'].split('-')[0]}, {result['date']}"
    height = at + 6
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">
<style>
text {{ font: 13px system-ui, "DejaVu Sans", sans-serif; fill: #24292f }}
.title {{ font-size: 17px; font-weight: 600 }} .small {{ font-size: 11.5px; fill: #57606a }}
.case {{ font-weight: 600 }} .name {{ text-anchor: end }} .ours {{ font-weight: 700 }}
.bar {{ fill: #8c959f }} .bar.ours {{ fill: #1f7a4d }} .cut {{ fill: #fff }} .range {{ stroke: #24292f; fill: none }}
.line {{ stroke: #d8dee4 }} .limit {{ stroke: #cf222e; stroke-dasharray: 4 3 }}
</style>
<rect width="{WIDTH}" height="{height}" fill="#fff"/>
<text x="16" y="27" class="title">CPU per query, as a multiple of the kernel's limit (dashed: 1.0); less is better</text>
<text x="16" y="46" class="small">One core, the same 1,000 allowed hostnames, the same upstream; medians of rounds in turns, with the range.</text>
<text x="16" y="61" class="small">The limit: receive and send in batches (asked upstream: forward, and send back what comes), and nothing else.</text>
<text x="16" y="76" class="small">{escape(where)}</text>
{chr(10).join(body)}
</svg>
"""


def upright(value, scale, at, height, kind):
    """Returns the line that marks a value through a case."""
    x = LEFT + value * scale
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{at - 3}" y2="{at + height + 3}" class="{kind}"/>'


def bar(at, value, name, entry, scale):
    """Returns the elements of one bar: name, bar, range, value; a gap in the bar where it was cut."""
    ours = " ours" if name == "hostgate" else ""
    end = LEFT + min(value, MOST) * scale
    parts = [
        f'<text x="{LEFT - 8}" y="{at + 14}" class="name{ours}">{escape(name)}</text>',
        f'<rect x="{LEFT}" y="{at}" width="{end - LEFT:.1f}" height="{BAR}" class="bar{ours}"/>',
    ]
    least, most = (LEFT + min(entry[key], MOST) * scale for key in ("least", "most"))
    y = at + BAR / 2
    if value <= MOST:
        ends = f"M{least:.1f} {y - 3} v6"
        if entry["most"] <= MOST:
            ends += f" M{most:.1f} {y - 3} v6"
        parts.append(f'<path d="M{least:.1f} {y} H{most:.1f} {ends}" class="range"/>')
        end = max(end, most)
    parts.append(f'<text x="{end + 6:.1f}" y="{at + 14}" class="value{ours}">{value:.2f}</text>')
    if value > MOST:
        x = end - 26
        parts.append(f'<path d="M{x:.1f} {at + BAR} l6 -{BAR} h6 l-6 {BAR} z" class="cut"/>')
    return parts


