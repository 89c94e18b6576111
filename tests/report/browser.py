"""Open pages in headless Chromium and list what is wrong with them.

Each page is shown in frames of several widths. A script in the frame looks for script errors, text that is cut off or
sticks out, text outside its SVG, broken pictures and weak contrast, and posts what it found to the outer page, whose
DOM is dumped.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

_LISTEN = """<script>
window.seen = [];
window.onerror = function (message) { window.seen.push("script error: " + message); };
window.addEventListener("unhandledrejection", function (e) { window.seen.push("script error: " + e.reason); });
document.addEventListener("securitypolicyviolation", function (e) { window.seen.push("blocked: " + e.blockedURI); });
</script>"""

_CHECK = """<script>
window.addEventListener("load", async function () {
  const seen = window.seen, width = document.documentElement.clientWidth;
  const short = (node) => node.nodeName + "." + (node.getAttribute("class") || "") + " '" +
    node.textContent.trim().slice(0, 40) + "'";
  const scrolls = (node) => {
    for (; node && node.nodeType === 1; node = node.parentElement) {
      if (["auto", "scroll"].includes(getComputedStyle(node).overflowX)) { return true; }
    }
    return false;
  };
  document.querySelectorAll("details").forEach((fold) => { fold.open = true; });
  if (document.documentElement.scrollWidth > width + 1) {
    seen.push("page wider than the view: " + document.documentElement.scrollWidth);
  }
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).map(Number);
    if (parts.length > 3 && parts[3] < 1) { return null; }
    const [r, g, b] = parts.slice(0, 3).map((v) => v / 255)
      .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  for (const node of document.body.querySelectorAll("*")) {
    const style = getComputedStyle(node);
    if (node.ownerSVGElement || style.display === "none" || node.nodeName === "SCRIPT") { continue; }
    if (node.nodeName !== "svg" && style.display !== "inline" && !["auto", "scroll"].includes(style.overflowX)) {
      if (node.clientWidth > 0 && node.scrollWidth > node.clientWidth + 1) { seen.push("cut off: " + short(node)); }
      if (style.overflowY === "hidden" && node.scrollHeight > node.clientHeight + 1) {
        seen.push("cut off: " + short(node));
      }
    }
    const own = Array.from(node.childNodes).filter((child) => child.nodeType === 3 && child.data.trim());
    for (const child of own) {
      const range = document.createRange();
      range.selectNodeContents(child);
      for (const box of range.getClientRects()) {
        if ((box.right > width + 1 || box.left < -1) && !scrolls(node)) {
          seen.push("outside the view: " + short(node));
          break;
        }
      }
    }
    if (own.length) {
      let back = null;
      for (let at = node; at && back === null; at = at.parentElement) {
        back = light(getComputedStyle(at).backgroundColor);
      }
      const pair = [light(style.color), back === null ? 1 : back].sort((a, b) => b - a);
      const contrast = (pair[0] + .05) / (pair[1] + .05);
      if (contrast < 4.5) { seen.push("weak contrast " + contrast.toFixed(1) + ": " + short(node)); }
    }
  }
  for (const text of document.querySelectorAll("svg text")) {
    let svg = text.ownerSVGElement;
    while (svg.ownerSVGElement) { svg = svg.ownerSVGElement; }
    const a = text.getBoundingClientRect(), b = svg.getBoundingClientRect();
    if (a.width && (a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1)) {
      seen.push("text outside its SVG: " + text.textContent.slice(0, 60));
    }
  }
  for (const picture of document.querySelectorAll("img, image")) {
    const copy = new Image();
    copy.src = picture.getAttribute("src") || picture.getAttribute("href");
    try { await copy.decode(); } catch (problem) { seen.push("broken picture: " + copy.src.slice(0, 40)); }
  }
  let told = null;
  try { told = (() => { /*EXTRA*/ })(); } catch (problem) { seen.push("extra: " + problem); }
  const first = document.body.innerText.trim().split("\\n")[0];
  window.parent.postMessage(JSON.stringify({ problems: seen, first: first, told: told }), "*");
});
</script>"""

_OUTER = """<!DOCTYPE html><meta charset="utf-8"><body><pre id="found"></pre><script>
const jobs = JOBS, found = {};
window.addEventListener("message", function (event) {
  for (const frame of document.querySelectorAll("iframe")) {
    if (frame.contentWindow === event.source) { found[frame.name] = JSON.parse(event.data); }
  }
  if (Object.keys(found).length === jobs.length) {
    document.getElementById("found").textContent = JSON.stringify(found);
  }
});
for (const [name, width, page] of jobs) {
  const frame = document.createElement("iframe");
  frame.name = name; frame.width = width; frame.height = 900; frame.style.border = 0; frame.srcdoc = page;
  document.body.append(frame);
}
</script>"""


def chromium() -> str | None:
    """Path of a browser, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def instrument(page: str, extra: str = "") -> str:
    """The page with the listening script first and the checking script last."""
    head = re.search(r"<head[^>]*>", page)
    at = head.end() if head else 0
    return page[:at] + _LISTEN + page[at:] + _CHECK.replace("/*EXTRA*/", extra)


def inspect(
    pages: Mapping[str, str],
    folder: Path,
    *,
    widths: Sequence[int] = (400, 800, 1300),
    dark: bool = False,
    extra: str = "",
) -> dict[str, dict[str, object]]:
    """Look at pages.

    Returns:
        "page @ width" -> {"problems": [...], "first": first line of text, "told": what the script ``extra`` returned}.
    """
    browser = chromium()
    assert browser is not None
    jobs = [(f"{name} @ {width}", width, instrument(page, extra)) for name, page in pages.items() for width in widths]
    outer = folder / "outer.html"
    outer.write_text(_OUTER.replace("JOBS", json.dumps(jobs).replace("<", "\\u003c")), encoding="utf-8")
    return json.loads(html.unescape(_report(browser, outer, folder, dark=dark)))


def _report(browser: str, outer: Path, folder: Path, *, dark: bool, attempts: int = 4) -> str:
    """What the outer page says when all pages have answered.

    A browser that is starved of processor time may end before any page has answered; it says nothing then, neither
    good nor bad, and is started again with more time. What a page answers is never asked twice.
    """
    errors = ""
    for attempt in range(attempts):
        command = [browser, *FLAGS, f"--user-data-dir={folder / f'profile-{attempt}'}"]
        command += [f"--virtual-time-budget={20_000 * 3**attempt}", "--window-size=1400,1000"]
        command += ["--blink-settings=preferredColorScheme=0"] if dark else []
        try:
            done = subprocess.run(
                [*command, "--dump-dom", outer.as_uri()], capture_output=True, timeout=60, check=False
            )
        except subprocess.TimeoutExpired as error:
            errors = str(error)
            continue
        match = re.search(r'<pre id="found">(.+?)</pre>', done.stdout.decode("utf-8", "replace"), re.DOTALL)
        if match:
            return match[1]
        errors = done.stderr.decode("utf-8", "replace")[-600:]
    raise AssertionError(f"the browser reported nothing in {attempts} starts: {errors}")
