/* SPDX-License-Identifier: GPL-3.0-or-later
 * report_css.c: the style of the report; light and dark by the reader's preference. */
#include "cli/report/report_internal.h"

const char *const bb_report_css[] = {
    ":root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1c2126;--soft:#5d6670;--line:#dfe3e7;--accent:#2f6fb5;--on-accent:#fff;"
    "--good:#1f7a4d;--bad:#a63d2f;--mark:#eaf2fb}\n",
    "@media (prefers-color-scheme:dark){:root{--bg:#14171a;--card:#1c2024;--ink:#e4e8ec;--soft:#9aa5b0;--line:#30363c;--accent:#5b9de0;"
    "--on-accent:#0d1a28;--good:#62c596;--bad:#ef8d7c;--mark:#1d2d3f}}\n",
    "*{box-sizing:border-box}\n",
    "body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}\n",
    "main{max-width:1160px;margin:0 auto;padding:2rem 1.2rem 4rem}\n",
    "h1{font-size:1.7rem;margin:0 0 .2rem;overflow-wrap:anywhere}h2{font-size:1.2rem;margin:0 0 .8rem}h3{font-size:1rem;margin:1.2rem 0 .4rem}\n",
    ".sub,.note,figcaption{color:var(--soft);font-size:.88rem;overflow-wrap:anywhere}p.sub{margin:.1rem 0}\n",
    "section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1.2rem 1.3rem;margin:1.2rem 0}\n",
    "nav{margin:1rem 0 0;display:flex;flex-wrap:wrap;gap:.3rem 1rem}a{color:var(--accent)}\n",
    ".cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(145px,1fr));gap:.8rem;margin:1.2rem 0}\n",
    ".card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.7rem .9rem}\n",
    ".card b{display:block;font-size:1.35rem;font-weight:650;font-variant-numeric:tabular-nums;white-space:nowrap}\n",
    ".card span{color:var(--soft);font-size:.82rem;display:block}\n",
    ".verdict{border-left:4px solid var(--good);padding:.1rem 0 .1rem .8rem;margin:.2rem 0 1rem}.verdict.lost{border-color:var(--bad)}\n",
    "figure{margin:0 0 1.2rem}figure svg{width:100%;height:auto;display:block;color:var(--ink)}figcaption{margin-top:.3rem}\n",
    "table{border-collapse:collapse;font-size:.9rem}.wide{overflow-x:auto}\n",
    "table.data{width:100%}.data th,.data td{padding:.32rem .45rem;border-bottom:1px solid var(--line);white-space:nowrap}\n",
    ".data th{text-align:left;vertical-align:bottom;color:var(--soft);font-weight:600;font-size:.82rem}.data th.n,.data td.n{text-align:right}\n",
    ".data td{font-variant-numeric:tabular-nums}.data td.se{color:var(--soft);padding-left:0}.data td.t{white-space:normal;min-width:9rem}\n",
    ".data tr.chosen td{background:var(--mark);font-weight:600}.data tr.chosen td.se{font-weight:400}.data tr.under td{color:var(--soft)}\n",
    ".data tbody tr:last-child td{border-bottom:0}td.better{color:var(--good)}td.worse{color:var(--bad)}\n",
    "code,pre{font:.86em/1.5 ui-monospace,SFMono-Regular,Menlo,'DejaVu Sans Mono',monospace}\n",
    "pre{overflow-x:auto;background:var(--bg);border:1px solid var(--line);border-radius:8px;padding:.8rem;margin:.6rem 0}\n",
    "summary{cursor:pointer;font-weight:600}details+details{margin-top:.6rem}\n",
    ".maps>input{position:absolute;opacity:0;pointer-events:none}.maps>.one{display:none}\n",
    ".maps>input:focus-visible~.chips{outline:2px solid var(--accent);outline-offset:3px;border-radius:8px}\n",
    ".chips{display:flex;flex-wrap:wrap;gap:.4rem;margin-bottom:.8rem}.chips label{cursor:pointer;border:1px solid var(--line);border-radius:999px;"
    "padding:.15rem .7rem;font-size:.82rem;font-variant-numeric:tabular-nums}.chips code{opacity:.75}\n",
    "table.map{font-size:.76rem;border-collapse:separate;border-spacing:2px;width:100%;font-variant-numeric:tabular-nums}\n",
    ".map th{color:var(--soft);font-weight:600;padding:.1rem .35rem;text-align:center;white-space:nowrap}\n",
    ".map td{text-align:center;padding:.16rem .3rem;border-radius:4px;white-space:nowrap}.map small{opacity:.72;margin-left:.4em}\n",
    "table.outer{width:auto;display:inline-table;margin:0 1rem .5rem 0}.outer td{min-width:7rem}\n",
    ".legend{font-size:.78rem;color:var(--soft);display:flex;flex-wrap:wrap;gap:.2rem;align-items:center;margin:.2rem 0 .8rem}\n",
    ".legend span{padding:.05rem .5rem;border-radius:4px}.legend span:first-of-type{margin-left:.4rem}\n",
    ".b1{background:#fde3c8;color:#3b2308}.b2{background:#f9c894;color:#3b2308}.b3{background:#eda767;color:#2e1a04}.b4{background:#cfc3a0;color:#26210f}\n",
    ".b5{background:#9fc0b4;color:#0f2620}.b6{background:#6ba3b8;color:#06202a}.b7{background:#3d7ba3;color:#fff}.b8{background:#24507c;color:#fff}\n",
    ".b0{background:var(--line);color:var(--ink)}.map td.none{color:var(--soft)}\n",
    ".gone{color:var(--soft);background:repeating-linear-gradient(45deg,var(--line) 0 4px,transparent 4px 9px)}\n",
    ".map td.kept{position:relative;color:var(--soft);min-width:6.2rem;overflow:hidden;background:var(--bg)}.map td.kept b{font-weight:600}\n",
    ".kept span{position:absolute;left:0;bottom:0;height:3px;background:var(--soft)}.map td.cut{color:var(--ink)}.cut span{background:#e0812b}\n",
    "@media print{section{break-inside:avoid}nav,.chips{display:none}}\n",
    NULL
};
