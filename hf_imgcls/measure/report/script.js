// The page works without this: it only adds sorting and searching to long tables.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const isDescending = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
      const isNumber = [...body.rows].some((row) => row.cells[column].dataset.v !== undefined);
      const keys = new Map([...body.rows].map((row) => {
        const cell = row.cells[column];
        return [row, isNumber ? parseFloat(cell.dataset.v) : cell.textContent];
      }));
      body.append(...[...body.rows].sort((a, b) => {
        const [x, y] = [keys.get(a), keys.get(b)];
        if (!isNumber) return (isDescending ? -1 : 1) * x.localeCompare(y, undefined, { numeric: true });
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // what was not measured: last
        return isDescending ? y - x : x - y;
      }));
    });
  });
}
for (const input of document.querySelectorAll("input[data-for]")) {
  const tools = input.closest(".tools");
  const rows = [...document.getElementById(input.dataset.for).tBodies[0].rows];
  const names = rows.map((row) => row.cells[0].textContent.toLowerCase());
  tools.hidden = false;
  input.addEventListener("input", () => {
    const text = input.value.trim().toLowerCase();
    let shown = 0;
    rows.forEach((row, index) => {
      row.hidden = !names[index].includes(text);
      shown += !row.hidden;
    });
    tools.querySelector("[role=status]").textContent = text ? `${shown} of ${rows.length} classes` : "";
  });
}
