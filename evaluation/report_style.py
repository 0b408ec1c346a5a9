"""The style sheet of the result page: light, dark and print, from a phone's width up."""

_LIGHT = """
  --paper: #fcfcfa; --card: #ffffff; --ink: #1b1f24; --muted: #59626d; --rule: #dfe2e5; --accent: #1d5b86;
  --found-ink: #1c6534; --found: #e2f2e5; --invented-ink: #a5211a; --invented: #fbe4e2;
  --missed-ink: #7d4f00; --missed: #fdf0d3; --certainty-ink: #41489c; --certainty: #e9ebfa;
  --line-0: #1d5b86; --line-1: #b4540a; --line-2: #1c6534; --line-3: #6b3fa0;
"""
_DARK = """
  --paper: #101315; --card: #171b1e; --ink: #e4e7ea; --muted: #9ba5af; --rule: #2d343a; --accent: #86bfe6;
  --found-ink: #86d39a; --found: #173322; --invented-ink: #ff9d94; --invented: #431b19;
  --missed-ink: #f2c46b; --missed: #3a2b0c; --certainty-ink: #b3baff; --certainty: #252a4e;
  --line-0: #86bfe6; --line-1: #f0a35e; --line-2: #86d39a; --line-3: #c3a1f0;
"""

STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT}
  --sans: system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
  --serif: Charter, "Bitstream Charter", "Iowan Old Style", "Source Serif 4", Georgia, serif; }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
@media print {{ :root {{ color-scheme: light; {_LIGHT} }} }}
"""
STYLE += """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.55 var(--sans);
  overflow-wrap: break-word; }
.safety { margin: 0; padding: .5rem 1rem; text-align: center; font-size: .875rem; color: var(--missed-ink);
  background: var(--missed); border-bottom: 1px solid var(--rule); }
header, main, footer { max-width: 78rem; margin: 0 auto; padding: 0 clamp(1rem, 3vw, 2.5rem); }
header { padding-top: clamp(1.75rem, 5vw, 3.5rem); }
h1 { margin: 0 0 .6rem; font: 600 clamp(1.7rem, 4vw, 2.5rem)/1.15 var(--serif); letter-spacing: -.01em;
  text-wrap: balance; }
.lead { margin: 0; max-width: 46rem; font: 1.125rem/1.55 var(--serif); white-space: pre-line; }
nav { margin-top: 1rem; font-size: .9375rem; }
nav a { margin-right: 1.25rem; }
a { color: var(--accent); text-underline-offset: .2em; }
section { margin-top: clamp(2.25rem, 5vw, 3.5rem); scroll-margin-top: 1rem; }
h2 { margin: 0 0 1rem; padding-bottom: .4rem; border-bottom: 1px solid var(--rule);
  font: 600 1.375rem/1.3 var(--serif); }
h3 { margin: 0; font: 600 1rem/1.4 var(--sans); }
.quiet { color: var(--muted); font-size: .875rem; }

.results { column-gap: 3rem; }
.results > * { break-inside: avoid; margin: 0 0 2rem; }
table { width: 100%; border-collapse: collapse; font-size: .9375rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .35rem; }
th, td { padding: .42rem .35rem; text-align: right; vertical-align: baseline; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { font-size: .8125rem; font-weight: 500; color: var(--muted); vertical-align: bottom; }
tbody th { font-weight: 500; }
tbody th .quiet { display: block; font-weight: 400; font-size: .8125rem; line-height: 1.4; }
.scores td:nth-child(2), .scores th:nth-child(2) { font-weight: 650; color: var(--ink); }
.interval { display: block; font-weight: 400; font-size: .8125rem; color: var(--muted); white-space: nowrap; }
.wide { overflow-x: auto; }
.bench { font-size: .875rem; }
.bench .name { text-align: left; }
.bench .published { color: var(--muted); }
.bench .number { white-space: nowrap; }
.signature { display: block; margin: 1rem 0 2rem; padding: .6rem .8rem; border: 1px solid var(--rule);
  border-radius: .375rem;
  background: var(--card); font: .8125rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
details { margin: 0 0 2rem; }
summary { cursor: pointer; color: var(--accent); font-size: .9375rem; margin-bottom: .75rem; }
.observations { font-size: .875rem; }
.measure { width: 30%; padding-left: 1.25rem; white-space: nowrap; }
.track { display: inline-block; vertical-align: .1em; width: calc(100% - 3.1rem); height: .45rem; margin-right: .5rem;
  border-radius: .25rem; background: var(--rule); overflow: hidden; text-align: left; }
.track i { display: block; height: 100%; background: var(--accent); }

.chart figcaption { font-weight: 600; font-size: .9375rem; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem;
  justify-content: space-between; }
.keys { display: flex; flex-wrap: wrap; gap: 0 1rem; font-weight: 400; font-size: .8125rem; color: var(--muted); }
.key { white-space: nowrap; }
.swatch { width: 28px; height: 8px; margin-right: .35rem; vertical-align: middle; }
.chart > svg { display: block; width: 100%; height: auto; margin-top: .5rem; font: 12px var(--sans); }
.chart text { fill: var(--muted); }
.grid { stroke: var(--rule); stroke-width: 1; fill: none; }
.axis { stroke: var(--muted); stroke-width: 1; fill: none; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.line-0 { stroke: var(--line-0); } .line-1 { stroke: var(--line-1); stroke-dasharray: 6 4; }
.line-2 { stroke: var(--line-2); stroke-dasharray: 1 4; } .line-3 { stroke: var(--line-3); stroke-dasharray: 9 3 2 3; }

.legend { list-style: none; margin: 0 0 1.5rem; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.4rem;
  font-size: .875rem; color: var(--muted); }
.study { display: grid; gap: 1rem 2rem; padding: 1.75rem 0; border-bottom: 1px solid var(--rule); }
.study > * { min-width: 0; }
.images { display: flex; flex-wrap: wrap; gap: .5rem; align-items: flex-start; }
.images figure { position: relative; flex: 1 1 13rem; margin: 0; }
.images img { display: block; width: 100%; height: auto; border-radius: .375rem; background: #000; }
.images figcaption { position: absolute; left: .5rem; bottom: .5rem; padding: 0 .4rem; border-radius: .2rem;
  font-size: .75rem; color: #fff; background: rgb(0 0 0 / .65); }
.findings { display: flex; flex-wrap: wrap; gap: .35rem 1.1rem; margin: .45rem 0 0; padding: 0; list-style: none;
  font-size: .8125rem; color: var(--muted); }
.chip { display: inline-block; margin: .1rem 0 .1rem .3rem; padding: .05rem .55rem; border: 1px solid;
  border-radius: 1rem; }
.texts { display: grid; gap: 1.1rem 2.25rem; margin-top: 1.1rem; }
.texts h4 { margin: 0 0 .3rem; font: 600 .8125rem/1.4 var(--sans); color: var(--muted); }
.report { margin: 0; font: 1.0625rem/1.7 var(--serif); white-space: pre-line; overflow-wrap: anywhere; }

mark { color: inherit; background: none; padding: .05em .15em; border-radius: .2em; text-decoration: underline;
  text-decoration-thickness: .1em; text-underline-offset: .22em;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
/* Inline and without a blank, so that no line breaks between the sign and its word. */
.sign { margin-right: .25em; font: 700 .85em/1 var(--sans); }
.spoken { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap;
  user-select: none; -webkit-user-select: none; }
.found { color: var(--found-ink); background: var(--found); }
.invented, .denied { color: var(--invented-ink); background: var(--invented); }
.missed { color: var(--missed-ink); background: var(--missed); }
.certainty { color: var(--certainty-ink); background: var(--certainty); }
mark.invented { text-decoration-style: wavy; text-decoration-thickness: .07em; }
mark.denied { text-decoration-style: double; }
mark.missed { text-decoration-style: dashed; }
mark.certainty { text-decoration-style: dotted; }
mark.ruled-out { padding: 0; text-decoration: underline 1px color-mix(in srgb, var(--found-ink) 50%, transparent); }

.gate { padding: .1em .15em; border-radius: .2em;
  background: color-mix(in srgb, var(--line-1) var(--share), transparent); }
.gate.negative { background: color-mix(in srgb, var(--line-0) var(--share), transparent);
  text-decoration: underline dashed 1px; text-underline-offset: .22em; }
.looks { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: 1rem .75rem; }
.looked { margin: 0; break-inside: avoid; }
.looked div { border-radius: .375rem; overflow: hidden; background: #000 var(--xray) center / 100% 100%; }
.looked img { display: block; width: 100%; }
.looked figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 .5rem; font-size: .875rem;
  line-height: 1.4; }
.looked .quiet { white-space: nowrap; }

footer { margin-top: 3rem; padding-top: 1rem; padding-bottom: 3rem; font-size: .875rem; color: var(--muted); }
footer ul { margin: 0; padding-left: 1.1rem; }

@media (min-width: 44rem) {
  .texts { grid-template-columns: 1fr 1fr; }
}
@media (min-width: 62rem) {
  .results { columns: 2; }
  .study { grid-template-columns: 32% 1fr; }
  .study.views { grid-template-columns: 42% 1fr; }
  .study.textual { grid-template-columns: 1fr; }
}
@media (max-width: 44rem) {
  .scores tbody th { overflow-wrap: anywhere; }
}
@media (max-width: 30rem) {
  .optional { display: none; }
  .chart > svg { font-size: 15px; }
}
@media print {
  :root { --paper: #ffffff; font-size: 11px; }
  header, main, footer { padding-left: 0; padding-right: 0; }
  nav { display: none; }
  .chart > svg { max-width: 36rem; }
  .study { break-inside: avoid; grid-template-columns: 30% 1fr; }
  .study.views { grid-template-columns: 40% 1fr; }
  .study.textual { grid-template-columns: 1fr; }
  .texts { grid-template-columns: 1fr 1fr; }
}
"""
