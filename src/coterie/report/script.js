(function () {
  "use strict";
  // Sorting: every heading of a column with numbers or names becomes a button.
  document.querySelectorAll("table.sortable").forEach(function (table) {
    var body = table.tBodies[0];
    table.querySelectorAll("thead th[data-sort]").forEach(function (head) {
      var button = document.createElement("button");
      button.type = "button";
      button.append.apply(button, Array.from(head.childNodes));
      head.append(button);
      button.addEventListener("click", function () {
        var falling = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : head.dataset.sort !== "name";
        var key = head.dataset.sort;
        table.querySelectorAll("th[aria-sort]").forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", falling ? "descending" : "ascending");
        Array.from(body.rows).filter(function (row) { return row.dataset.name !== undefined; }).sort(function (a, b) {
          var x = a.dataset[key], y = b.dataset[key];
          var order = key === "name" ? x.localeCompare(y) : Number(x) - Number(y);
          return falling ? -order : order;
        }).forEach(function (row) { body.append(row); });
      });
    });
  });

  // On paper nothing stays folded.
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details").forEach(function (fold) { fold.open = true; });
  });

  // The heat map: the pointer's row and column, and the value in words.
  var heat = document.getElementById("heat"), source = document.getElementById("heat-data"), words = document.getElementById("heat-words");
  if (!heat || !source || !words) { return; }
  var data = JSON.parse(source.textContent), raw = atob(data.values), size = data.names.length;
  var left = Number(heat.dataset.left), top = Number(heat.dataset.top), cell = Number(heat.dataset.cell);
  var cross = [document.getElementById("cross-row"), document.getElementById("cross-column")];
  var rest = "Point at a cell to read its value.";
  words.textContent = rest;

  function value(row, column) {
    var at = 2 * (row * size + column), bits = raw.charCodeAt(at) | raw.charCodeAt(at + 1) << 8;
    return bits === 32768 ? null : (bits > 32767 ? bits - 65536 : bits) * data.unit;
  }
  function show(number) {
    if (number === null) { return "not estimated"; }
    var text = data.kind === "gain" ? Math.abs(100 * number).toFixed(1) : String(Number(Math.abs(number).toPrecision(3)));
    var sign = Number(text) === 0 ? "" : number < 0 ? "\u2212" : data.kind === "gain" ? "+" : "";
    return sign + text + (data.kind === "gain" ? "\u00a0%" : "");
  }
  function place(rect, x, y, width, height) {
    var all = { x: x, y: y, width: width, height: height };
    Object.keys(all).forEach(function (key) { rect.setAttribute(key, all[key]); });
    rect.style.visibility = "visible";
  }
  function leave() {
    cross.forEach(function (rect) { rect.style.visibility = "hidden"; });
    heat.querySelectorAll(".lit").forEach(function (label) { label.classList.remove("lit"); });
    words.textContent = rest;
  }
  heat.addEventListener("pointermove", function (event) {
    var matrix = heat.getScreenCTM();
    if (!matrix) { return; }
    var point = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
    var column = Math.floor((point.x - left) / cell), row = Math.floor((point.y - top) / cell);
    leave();
    if (row < 0 || column < 0 || row >= size || column >= size) { return; }
    place(cross[0], left, top + row * cell, size * cell, cell);
    place(cross[1], left + column * cell, top, cell, size * cell);
    heat.querySelectorAll('.row-name[data-i="' + row + '"], .column-name[data-i="' + column + '"]').forEach(function (label) {
      label.classList.add("lit");
    });
    words.textContent = row === column ? data.names[row] + ": the task itself"
      : data.names[row] + " \u2190 " + data.names[column] + ": " + show(value(row, column));
  });
  heat.addEventListener("pointerleave", leave);
}());
