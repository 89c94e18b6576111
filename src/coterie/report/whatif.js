// What a formula says of a group of tasks; see coterie/affinity/formula.py. `group` holds numbers of tasks.
function predicted(formula, group) {
  "use strict";
  var count = group.length, size = Math.log2(count / formula.size);
  var weight = Math.pow(Math.max(count - 1, 1) / (formula.size - 1), -formula.power);
  return group.map(function (task) {
    if (count < 2) { return { task: task, gain: 0, error: 0 }; }
    var gain = formula.level[task] + size * formula.slope[task], log = null;
    group.forEach(function (source) { if (source !== task) { gain += weight * formula.effects[task][source]; } });
    if (formula.doubt) {
      var row = formula.doubt[task], last = row.length;
      log = row[last - 2] + size * row[last - 1];
      group.forEach(function (source) { if (source !== task) { log += weight * row[source]; } });
    }
    var error = log === null ? null : Math.sqrt(Math.exp(2 * Math.min(log, 50)) + formula.off[task] * formula.off[task]);
    return { task: task, gain: gain, error: error };
  });
}

// Pick tasks by hand: a box a task, and a row for each that is picked.
function pickTasks(formula) {
  "use strict";
  var boxes = Array.from(document.querySelectorAll("#picks input")), body = document.querySelector("#picked tbody");
  var said = document.getElementById("picked-words"), nothing = "Pick two tasks or more.";
  function show(value) {
    var text = Math.abs(100 * value).toFixed(1);
    return (Number(text) === 0 ? "" : value < 0 ? "\u2212" : "+") + text + "\u00a0%";
  }
  function cell(row, text, kind) {
    var made = document.createElement("td");
    made.textContent = text; made.className = kind; row.append(made);
  }
  function draw() {
    var group = boxes.filter(function (box) { return box.checked; }).map(function (box) { return Number(box.value); });
    body.replaceChildren();
    if (group.length < 2) { said.textContent = group.length ? nothing + " One alone has a gain of 0." : nothing; return; }
    var found = predicted(formula, group), logs = 0;
    found.forEach(function (one) {
      var row = document.createElement("tr"), name = document.createElement("th"), words = document.createElement("bdi");
      name.scope = "row"; words.textContent = formula.names[one.task]; name.append(words); row.append(name);
      var reach = one.error === null ? null : 1.96 * one.error;
      var mood = reach === null || Math.abs(one.gain) <= reach ? "" : one.gain > 0 ? " up" : " down";
      cell(row, show(one.gain), "num" + mood);
      cell(row, reach === null ? "\u2013" : show(one.gain - reach) + " to " + show(one.gain + reach), "num");
      var home = formula.groups[formula.serves[one.task]] || [one.task];
      var there = predicted(formula, home).filter(function (other) { return other.task === one.task; })[0];
      cell(row, there ? show(there.gain) : "\u2013", "num");
      body.append(row);
      logs += Math.log(Math.max(1 - one.gain, 1e-3));
    });
    said.textContent = group.length + " tasks in one model: predicted gain " + show(1 - Math.exp(logs / group.length)) +
      " (geometric mean) against training each alone.";
  }
  boxes.forEach(function (box) { box.addEventListener("change", draw); });
  document.querySelectorAll("#presets button").forEach(function (button) {
    button.addEventListener("click", function () {
      var wanted = formula.groups[Number(button.dataset.group)] || [];
      boxes.forEach(function (box) { box.checked = wanted.indexOf(Number(box.value)) >= 0; });
      draw();
    });
  });
  draw();
}
if (typeof document !== "undefined" && document.getElementById("formula")) {
  pickTasks(JSON.parse(document.getElementById("formula").textContent));
}
