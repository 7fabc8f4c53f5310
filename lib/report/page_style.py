"""The one style sheet of the status page, and the hash by which its policy allows it."""

import base64
import hashlib

_RULES = """\
:root { color-scheme: light dark;
  --paper: #fff; --ink: #1a1c1f; --quiet: #5a6068; --line: #e2e4e8; --mark: #8b95a1;
  --green: #17693c; --amber: #7d5200; --blue: #1d55b5; --red: #b0201c }
@media (prefers-color-scheme: dark) {
  :root { --paper: #131518; --ink: #e9ebee; --quiet: #a3a9b2; --line: #2d3137; --mark: #7a838f;
    --green: #62d39a; --amber: #f4bd5a; --blue: #8fbbff; --red: #ff938b } }
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-padding-top: 1rem }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums }
header, main, footer { padding-inline: max(1.25rem, min(4vw, 3rem), calc(50vw - 36rem)) }
header { background: var(--band); color: var(--on-band); padding-block: 2rem 2.75rem }
.where { margin: 0; font-weight: 600; overflow-wrap: anywhere }
h1 { display: flex; gap: .3em; align-items: flex-start; margin: .3em 0 .25em; text-wrap: balance;
  font-size: clamp(2rem, 1rem + 5vw, 5rem); line-height: 1.05; letter-spacing: -.025em }
h1 svg { flex: none; width: .85em; height: .85em; margin-top: .11em }
header p + p, h1 ~ p { max-width: 44rem; margin: .5rem 0 0; font-size: 1.125rem }
code { white-space: nowrap; font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
h2 { margin: 3rem 0 .75rem; font-size: 1.375rem; line-height: 1.25; letter-spacing: -.01em }
a { color: inherit; text-decoration-color: var(--mark); text-underline-offset: .2em }
a:hover { text-decoration-color: currentColor }
:focus-visible { outline: 3px solid var(--blue); outline-offset: 3px; border-radius: 2px }
svg { fill: none; stroke: currentColor }
.icon { width: 1em; height: 1em; vertical-align: -.125em; stroke-width: 2;
  stroke-linecap: round; stroke-linejoin: round }
.green { color: var(--green) } .amber { color: var(--amber) }
.blue { color: var(--blue) } .red { color: var(--red) }
.quiet { color: var(--quiet) }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap }
dl { display: flex; flex-wrap: wrap; gap: 1.5rem 4rem; margin: 2.25rem 0 0 }
dt { color: var(--quiet); font-size: .875rem }
dd { margin: 0; font-size: .875rem; overflow-wrap: anywhere }
dd strong, dd time { display: block }
dd strong { font-size: 1.125rem; line-height: 1.4; max-height: 4.2em; overflow: hidden }
dd time { color: var(--quiet) }
figure { margin: 0 }
figcaption, .note { margin: .5rem 0 0; color: var(--quiet); font-size: .875rem }
.timeline { display: block; width: 100%; height: 6.25rem; overflow: visible; stroke: none }
.timeline rect { fill: var(--mark) }
.timeline line { stroke: var(--line) }
.timeline text { fill: var(--quiet); font-size: .8125rem }
details { margin-top: .75rem }
summary { padding: .75rem 0; cursor: pointer; border-bottom: 1px solid var(--line) }
summary h3 { display: inline; margin: 0; font-size: 1.0625rem }
table { width: 100%; border-collapse: collapse; table-layout: fixed; font-size: .9375rem }
th, td { padding: .4375rem 1.5rem .4375rem 0; text-align: left; vertical-align: baseline;
  border-bottom: 1px solid var(--line) }
th { font-weight: 500; overflow-wrap: anywhere }
thead th { color: var(--quiet); font-size: .8125rem }
thead th:nth-child(2) { width: 11rem }
thead th:nth-child(3) { width: 11.5rem }
thead th:nth-child(4) { width: 17.5rem; padding-right: 0 }
tbody a { text-decoration-color: transparent }
td.green { color: var(--quiet) }
td.green .icon { color: var(--green) }
td:nth-child(3) { white-space: nowrap }
td:last-child { padding-right: 0; white-space: nowrap }
td:last-child span { display: inline-block; width: 5.75rem; padding-right: .875rem;
  text-align: right }
.bar { width: calc(100% - 5.75rem); height: .5rem; stroke: none; vertical-align: baseline }
.bar rect { fill: var(--mark) }
.fleet td:nth-child(n) { white-space: normal; overflow-wrap: anywhere }
.errors bdi { display: inline-block; max-width: 100% }
.errors thead th:nth-child(3) { width: 45% }
tr:target { background: color-mix(in srgb, var(--blue) 14%, transparent) }
footer a { white-space: nowrap }
footer { margin-top: 3.5rem; padding-bottom: 3rem; color: var(--quiet); font-size: .875rem }
@media (max-width: 56rem) {
  thead th:nth-child(2) { width: 8.5rem }
  thead th:nth-child(3) { width: 10.5rem }
  thead th:nth-child(4) { width: 11rem } }
@media (max-width: 44rem) {
  header { padding-block: 1.25rem 1.75rem }
  h2 { margin-top: 2.25rem }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
  table, tbody, tr, th, td { display: block }
  tr { display: flex; flex-wrap: wrap; gap: 0 1rem; padding: .625rem 0;
    border-bottom: 1px solid var(--line) }
  th, td { padding: 0; border: 0 }
  tbody th { flex: 0 0 100% }
  td { font-size: .875rem }
  td:nth-child(3) { color: var(--quiet) }
  td:last-child:not(.none) { display: flex; flex: 1 0 100%; align-items: center }
  td:last-child span { width: auto; min-width: 4.5rem; padding-right: .75rem; text-align: left }
  td.none { display: none }
  .bar { flex: 1 1 0; width: 0 } }
@media print {
  @page { margin: 1.5cm }
  :root { --paper: #fff; --ink: #000; --quiet: #444; --line: #bbb; --mark: #777 }
  header, main, footer { padding-inline: 0 }
  header { padding-block: 0 1rem; background: none; color: #000; border-bottom: 3px solid #000 }
  h1 { font-size: 2.25rem }
  h2 { margin-top: 1.5rem; break-after: avoid }
  tr, figure { break-inside: avoid }
  a { text-decoration: none }
  details::details-content { content-visibility: visible; block-size: auto } }
"""
TONES = {
    "good": ("#17693c", "#fff"),
    "wait": ("#f4b53f", "#211700"),
    "info": ("#1d4f9f", "#fff"),
    "bad": ("#a61b1b", "#fff"),
    "none": ("#4a5058", "#fff"),
}
"""The band behind a state, and the ink on it."""
_BANDS = "".join(
    f"body.{tone} {{ --band: {band}; --on-band: {ink} }}\n" for tone, (band, ink) in TONES.items()
)
STYLE = f"{_BANDS}{_RULES}"
STYLE_SOURCE = f"'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
"""The style sheet as a Content-Security-Policy names it."""
