"use strict";
// What a predictor says of a mixture, by the formula that stands on the page; see coterie/study/mixtures/page.py.
function evaluate(formula, shares) {
  var roots = shares.map(Math.sqrt), found = formula.base.slice();
  formula.points.forEach(function (point, i) {
    var square = 0;
    for (var j = 0; j < roots.length; j += 1) { square += (roots[j] - point[j]) * (roots[j] - point[j]); }
    var near = Math.exp(-square / (2 * formula.length * formula.length));
    for (var k = 0; k < found.length; k += 1) { found[k] += near * formula.weights[i][k]; }
  });
  var half = found.length / 2;
  return { values: found.slice(0, half), errors: found.slice(half).map(Math.exp) };
}

// One share is set; the others keep their proportions as far as their limits let them, and all add up to 1.
function rescale(shares, moved, wanted, low, high) {
  var others = shares.map(function (_, i) { return i; }).filter(function (i) { return i !== moved; });
  var total = function (list, part) { return list.reduce(function (sum, i) { return sum + part(i); }, 0); };
  var least = Math.max(low[moved], 1 - total(others, function (i) { return high[i]; }));
  var most = Math.min(high[moved], 1 - total(others, function (i) { return low[i]; }));
  var own = Math.min(Math.max(wanted, least), most);
  var base = shares.map(function (share) { return share + 1e-9; });
  var clipped = function (factor, i) { return Math.min(Math.max(factor * base[i], low[i]), high[i]); };
  var floor = 0, ceiling = 1;
  while (total(others, function (i) { return clipped(ceiling, i); }) < 1 - own - 1e-12 && ceiling < 1e15) { ceiling *= 2; }
  for (var step = 0; step < 100; step += 1) {
    var middle = (floor + ceiling) / 2;
    if (total(others, function (i) { return clipped(middle, i); }) > 1 - own) { ceiling = middle; } else { floor = middle; }
  }
  var found = shares.map(function (_, i) { return i === moved ? own : clipped(ceiling, i); });
  var sum = found.reduce(function (a, b) { return a + b; }, 0);
  return found.map(function (share) { return share / sum; });
}

// The mixture as text for a trainer; the same keys as coterie.study.configs.
function configuration(kind, sources, shares) {
  var kept = sources.map(function (name, i) { return { name: name, share: Math.round(shares[i] * 1e6) / 1e6 }; })
    .filter(function (one) { return one.share > 0; });
  if (kind === "json") {
    return JSON.stringify(Object.fromEntries(kept.map(function (one) { return [one.name, one.share]; })), null, 1);
  }
  if (kind === "llama-factory") {
    var names = kept.map(function (one) { return one.name; }).join(",");
    var parts = kept.map(function (one) { return one.share; }).join(",");
    return "dataset: " + JSON.stringify(names) + '\nmix_strategy: "interleave_over"\ninterleave_probs: ' + JSON.stringify(parts) + "\n";
  }
  if (kind === "trl") {
    return "datasets:\n" + kept.map(function (one) {
      return "  - path: " + JSON.stringify(one.name) + '\n    split: "train"\n    fraction: ' + one.share + "\n";
    }).join("");
  }
  return "# names: " + kept.map(function (one) { return one.name.replace(/\s+/g, " "); }).join(", ") +
    "\nprobabilities = [" + kept.map(function (one) { return one.share; }).join(", ") + "]\n";
}

function steer(data) {
  var shares = data.candidates[data.candidates.length - 1].mixture.slice();
  var first = evaluate(data.formula, data.candidates[0].mixture);
  var sliders = Array.from(document.querySelectorAll("#sliders input"));
  var rows = Array.from(document.querySelectorAll("#steered tbody tr"));
  var shown = function (value) { return (Math.abs(value) >= 1000 || (value !== 0 && Math.abs(value) < 0.001)) ? value.toExponential(3) : value.toPrecision(4); };
  function draw() {
    var now = evaluate(data.formula, shares), objective = 0, before = 0;
    sliders.forEach(function (slider, i) {
      slider.value = String(Math.round(shares[i] * 1000) / 10);
      slider.setAttribute("aria-valuetext", (100 * shares[i]).toFixed(1) + " percent");
      slider.parentElement.querySelector("output").textContent = (100 * shares[i]).toFixed(1) + " %";
    });
    rows.forEach(function (row, t) {
      var sign = data.signs[t], value = now.values[t] * sign, error = 1.96 * now.errors[t];
      var gain = first.values[t] - now.values[t];
      row.cells[1].textContent = shown(value);
      row.cells[2].textContent = shown(value - error) + " to " + shown(value + error);
      row.cells[3].textContent = (gain >= 0 ? "better by " : "worse by ") + shown(Math.abs(gain));
      row.cells[3].className = "num " + (gain >= 0 ? "up" : "down");
      var width = Math.max(now.errors[t], 1e-12), bar = row.querySelector(".marker"), band = row.querySelector(".range");
      var place = 50 + 46 * Math.tanh(gain / (6 * width)), reach = 46 * 1.96 / 6;
      var left = Math.max(0, place - reach), right = Math.min(98, place + reach);
      band.style.left = left + "%"; band.style.width = (right - left) + "%";
      bar.style.left = place + "%";
      objective += data.weights[t] * now.values[t]; before += data.weights[t] * first.values[t];
    });
    var share = Math.abs(before) > 0 ? 100 * (before - objective) / Math.abs(before) : 0;
    document.getElementById("objective").textContent = "Objective against " + data.candidates[0].name + ": " +
      (share >= 0 ? "better by " : "worse by ") + Math.abs(share).toFixed(2) + " %";
    document.getElementById("configuration").value = configuration(document.getElementById("kind").value, data.sources, shares);
  }
  sliders.forEach(function (slider, i) {
    slider.addEventListener("input", function () { shares = rescale(shares, i, Number(slider.value) / 100, data.low, data.high); draw(); });
  });
  document.querySelectorAll("button[data-candidate]").forEach(function (button) {
    button.addEventListener("click", function () { shares = data.candidates[Number(button.dataset.candidate)].mixture.slice(); draw(); });
  });
  document.getElementById("kind").addEventListener("change", draw);
  document.getElementById("copy").addEventListener("click", function () {
    var text = document.getElementById("configuration"), told = document.getElementById("copied");
    var done = function () { told.textContent = "Copied."; };
    text.select();
    if (navigator.clipboard && window.isSecureContext) { navigator.clipboard.writeText(text.value).then(done, function () { document.execCommand("copy"); done(); }); }
    else { document.execCommand("copy"); done(); }
  });
  draw();
}
if (typeof document !== "undefined") { steer(JSON.parse(document.getElementById("data").textContent)); }
