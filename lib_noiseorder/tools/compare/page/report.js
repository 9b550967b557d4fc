"use strict";

document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});

function reorder(parent, rows, value, descending) {
  const numbered = rows.map((row, index) => [value(row), index, row]);
  const known = ([v]) => v !== "" && v !== null && v !== undefined;
  numbered.sort((a, b) => {
    if (known(a) !== known(b)) return known(a) ? -1 : 1;  // what has no value goes last, either way
    const order = typeof a[0] === "number" ? a[0] - b[0] : String(a[0]).localeCompare(String(b[0]));
    return (descending ? -order : order) || a[1] - b[1];
  });
  for (const [, , row] of numbered) parent.append(row);
}

for (const header of document.querySelectorAll("table.sortable th")) {
  header.querySelector("button").addEventListener("click", () => {
    const table = header.closest("table");
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = table.tBodies[0];
    const value = (row) => {
      const said = row.cells[header.cellIndex].dataset.value;
      return said === "" || Number.isNaN(Number(said)) ? said : Number(said);
    };
    reorder(body, [...body.rows], value, descending);
  });
}

const gallery = document.getElementById("gallery");
if (gallery) {
  const order = document.getElementById("order");
  const category = document.getElementById("category");
  const pairs = [...gallery.children];
  const update = () => {
    const [key, way] = order.value ? JSON.parse(order.value) : ["", ""];
    const value = (pair) => (key ? JSON.parse(pair.dataset.gains)[key] : Number(pair.dataset.number));
    reorder(gallery, pairs, value, way === "most");
    for (const pair of pairs) pair.hidden = category.value !== "" && pair.dataset.category !== category.value;
  };
  order.addEventListener("change", update);
  category.addEventListener("change", update);
}
