"""How the report page looks: two palettes, and a style sheet that knows their colours by name."""

# Every text colour has a contrast of at least 4.5 on every ground it is used on (WCAG 2.2, AA).
PALETTES = {
  "light": {
    "page": "#ffffff",
    "panel": "#f4f6f8",
    "line": "#d5dae0",
    "text": "#1b2027",
    "quiet": "#57606b",
    "link": "#0b5394",
    "pass": "#0a5c36",
    "pass-ground": "#e0f3e8",
    "fail": "#9b1420",
    "fail-ground": "#fde7e7",
  },
  "dark": {
    "page": "#14171b",
    "panel": "#1d2127",
    "line": "#3a414b",
    "text": "#e6e9ed",
    "quiet": "#a7b0bb",
    "link": "#8cc0ff",
    "pass": "#7fdcab",
    "pass-ground": "#12301f",
    "fail": "#ffa3a3",
    "fail-ground": "#401a1c",
  },
}

# {text colour: the grounds it is used on}
GROUNDS = {
  "text": ("page", "panel"),
  "quiet": ("page", "panel"),
  "link": ("page", "panel"),
  "pass": ("pass-ground",),
  "fail": ("fail-ground",),
}

_SHEET = """
*, ::before, ::after { box-sizing: border-box; }
html { font: 100%/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-padding-top: 1rem; }
body { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1, h2, h3 { line-height: 1.25; text-wrap: balance; }
h1 { font-size: 1.75rem; margin: 0 0 .5rem; }
h2 { font-size: 1.375rem; margin: 3rem 0 .75rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.0625rem; margin: 1.75rem 0 .5rem; }
p, li, dd { max-width: 46rem; overflow-wrap: break-word; }
p { margin: .5rem 0; }
a { color: var(--link); }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.lead { font-size: 1.125rem; }
.quiet, .range { color: var(--quiet); }
.quiet { font-size: .875rem; }
blockquote { margin: .75rem 0; padding: .25rem 1rem; border-left: 3px solid var(--line); }

/* Told by a sign, a word and a frame; the colour only repeats it. */
.badge { display: inline-block; padding: 0 .5em; border: 1px solid; border-radius: 1em;
  font-size: .8125rem; font-weight: 600; line-height: 1.5; white-space: nowrap; }
.badge.pass { color: var(--pass); background: var(--pass-ground); }
.badge.fail { color: var(--fail); background: var(--fail-ground); border-width: 2px; }
.badge.neither { color: var(--quiet); background: var(--page); }

.overview { list-style: none; margin: 1rem 0; padding: 0; }
.overview li { display: grid; grid-template-columns: 5rem 1fr; align-items: baseline;
  padding: .375rem 0; }
.overview .quiet { grid-column: 2; }

table { border-collapse: separate; border-spacing: 0; font-size: .875rem; line-height: 1.4; }
th, td { padding: .375rem .75rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--quiet); font-weight: 600; vertical-align: bottom; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.range { display: block; font-size: .75rem; }

.scroll { overflow-x: auto; width: fit-content; max-width: 100%;
  border: 1px solid var(--line); border-radius: 6px; }
.scroll tr:last-child > * { border-bottom: 0; }
.scroll th:first-child { position: sticky; left: 0; background: var(--page);
  min-width: min(10rem, 40vw); max-width: 40vw; overflow-wrap: break-word; font-weight: 600; }
.scroll thead th { background: var(--panel); }
.scroll thead th:first-child { background: var(--panel); }

.verdicts { width: 100%; }
.verdicts tbody th { font-weight: 600; white-space: nowrap; }
.verdicts .about { background: var(--panel); white-space: normal; overflow-wrap: anywhere; }
.verdicts .cell { overflow-wrap: break-word; min-width: 8rem; }

.figures { display: flex; flex-wrap: wrap; gap: 1.25rem; align-items: flex-start; }
figure { margin: 0; max-width: 100%; }
figure div { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
figure img { display: block; max-width: 100%; height: auto; padding: .5rem; background: #ffffff; }
@media (prefers-color-scheme: dark) { figure img { filter: brightness(.9); } }
figcaption { color: var(--quiet); font-size: .875rem; margin-top: .375rem; max-width: 46rem; }

pre { margin: .5rem 0; padding: .75rem; overflow-x: auto; background: var(--panel);
  border: 1px solid var(--line); border-radius: 6px; font-size: .8125rem; line-height: 1.45; }
code, pre { font-family: ui-monospace, monospace; }
.command { white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: .25rem 0; }
summary { cursor: pointer; padding: .25rem 0; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .125rem 1rem; margin: .75rem 0;
  font-size: .875rem; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }

/* Verdicts on a narrow screen: each a small card, with the column's name before its number. */
@media (max-width: 52rem) {
  .verdicts, .verdicts tbody { display: block; }
  .verdicts thead { position: absolute; width: 1px; height: 1px; overflow: hidden;
    clip-path: inset(50%); }
  .verdicts tr { display: flex; flex-wrap: wrap; gap: .125rem 1rem; align-items: baseline;
    padding: .625rem 0; border-bottom: 1px solid var(--line); }
  .verdicts th, .verdicts td { padding: 0; border: 0; text-align: left; }
  .verdicts .text, .verdicts .cell, .verdicts .about { flex-basis: 100%; }
  .verdicts .about { padding: .25rem .5rem; }
  .verdicts td[data-label]::before { content: attr(data-label) ": "; color: var(--quiet); }
  .verdicts .number { white-space: normal; }
}
@media print {
  .scroll { overflow: visible; }
  figure, tr { break-inside: avoid; }
}
"""


def sheet() -> str:
  """The whole style sheet, for light and for dark screens."""
  light, dark = (
    "".join(f" --{name}: {colour};" for name, colour in PALETTES[scheme].items())
    for scheme in ("light", "dark")
  )
  return (
    f":root {{ color-scheme: light dark;{light} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{{dark} }} }}{_SHEET}"
  )
