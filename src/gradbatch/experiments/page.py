"""The page of a report: HTML and style, without scripts or anything from outside."""

from string import Template

from gradbatch.experiments.figures import COLOURS

__all__ = ["PAGE", "chip"]


def chip(number: int) -> str:
    """A colour of the figures.

    Args:
        number: Which.

    Returns:
        A small square, striped where the figures dot their lines.
    """
    colour = COLOURS[number % len(COLOURS)]
    is_repeat = number >= len(COLOURS)
    fill = f"repeating-linear-gradient(90deg,{colour} 0 2px,#fff 2px 4px)" if is_repeat else colour
    return f'<span class="chip" style="background:{fill}"></span>'


PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<link rel="icon" href="data:,">
<style>
:root { --ink: #1f2328; --soft: #59636e; --line: #e4e7eb; --mark: #fff6dd; color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", Arial, sans-serif; }
main, header { max-width: 1180px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
h1 { font-size: 28px; line-height: 1.2; letter-spacing: -.01em; margin: 0 0 4px; }
h2 { font-size: 20px; margin: 44px 0 12px; }
h3 { font-size: 16px; margin: 0; }
p { margin: 0; }
.soft { color: var(--soft); }
.scroll + .soft { margin-top: 12px; font-size: 14px; }
.scroll { overflow-x: auto; }
.note { margin-top: 12px; padding: 8px 12px; background: var(--mark); font-size: 14px; }
details { margin-top: 12px; }
summary { cursor: pointer; padding: 7px 0; color: var(--soft); font-size: 14px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: left; padding: 7px 20px 7px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td { overflow-wrap: anywhere; }
thead th { color: var(--soft); font-weight: 500; white-space: nowrap; }
.numbers td, .numbers th { white-space: nowrap; }
.numbers th:not(:first-child), .numbers td { text-align: right; padding: 7px 0 7px 20px; }
tbody th { font-weight: 600; }
.settings tbody th { font-weight: 400; color: var(--soft); white-space: nowrap; width: 1%; }
.settings td { white-space: pre-line; }
.settings thead th { color: var(--ink); font-weight: 600; }
.differs th, .differs td { background: var(--mark); }
.settings .differs th { color: var(--ink); font-weight: 600; }
.failed { color: #b3261e; }
.chip { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 8px;
  vertical-align: -1px; }
.bar { position: sticky; top: 0; background: #fffffff2; border-bottom: 1px solid var(--line);
  display: flex; flex-wrap: wrap; gap: 6px 28px; align-items: center; justify-content: space-between;
  padding: 10px 0; margin: 40px 0 20px; font-size: 14px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 20px; }
.legend span { white-space: nowrap; }
.axis { position: absolute; opacity: 0; pointer-events: none; }
.toggle { display: inline-flex; border: 1px solid #c9d0d8; border-radius: 8px; overflow: hidden; }
.toggle label { padding: 4px 14px; cursor: pointer; white-space: nowrap; }
#by-samples:checked ~ main label[for=by-samples], #by-time:checked ~ main label[for=by-time] {
  background: var(--ink); color: #fff; }
#by-samples:focus-visible ~ main .toggle, #by-time:focus-visible ~ main .toggle {
  outline: 2px solid #0072b2; }
#by-samples:checked ~ main .seconds, #by-time:checked ~ main .samples_seen { display: none; }
.grid { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 40px 48px; }
figure { margin: 0; }
figcaption { min-height: 68px; }
figcaption p { font-size: 14px; color: var(--soft); line-height: 1.4; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-family: inherit !important; }
footer { max-width: 1180px; margin: 48px auto 40px; padding: 0 24px; font-size: 13px; color: var(--soft); }
@media (max-width: 760px) {
  header, main, footer { padding-left: 16px; padding-right: 16px; }
  header { padding-top: 24px; }
  .grid { grid-template-columns: minmax(0, 1fr); gap: 32px; }
  figcaption { min-height: 0; padding-bottom: 6px; }
}
@media print { .bar { position: static; } figure { break-inside: avoid; } }
</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="soft">$subtitle</p>
</header>
<input class="axis" type="radio" name="axis" id="by-samples" checked aria-label="against samples">
<input class="axis" type="radio" name="axis" id="by-time" aria-label="against time">
<main>
$results
$skipped_note
<div class="bar">
<div class="legend">$legend</div>
<div class="toggle"><label for="by-samples">Samples seen</label><label for="by-time">Time</label></div>
</div>
<div class="grid">
$figures
</div>
<h2>Settings</h2>
<p class="soft">$settings_note</p>
<div class="scroll">$settings</div>
</main>
<footer>$footer</footer>
</body>
</html>
""")
"""Placeholders take HTML, escaped where it came from outside."""
