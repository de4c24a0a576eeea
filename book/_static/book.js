// Comforts of the pages: the scoreboard is filtered and sorted, figures are enlarged. Without script all of it is there.
"use strict";

// What a cell says, also where it shows only a sign.
const said = (cell) => (cell.querySelector("[aria-label]")?.getAttribute("aria-label") ?? cell.textContent).trim();

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => [said(row.cells[column]), row]);
      rows.sort(([a], [b]) => (down ? -1 : 1) * a.localeCompare(b, "en", { numeric: true }));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    };
    head.tabIndex = 0;
    head.title = "Click to sort";
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });
}

function filtered(rows) {
  const verdict = (row) => row.querySelector(".rb-chip").textContent.trim();
  const bar = document.createElement("form");
  bar.className = "rb-filter";
  const names = [...new Set(rows.map(verdict))];
  bar.innerHTML = `<label>Verdict <select><option value="">all</option>${names.map((v) => `<option>${v}</option>`)
    .join("")}</select></label> <label>Words <input type="search"></label> <output></output>`;
  const [choice, words, count] = bar.querySelectorAll("select, input, output");
  const show = () => {
    const wanted = words.value.toLowerCase();
    for (const row of rows) {
      const text = `${row.closest("section").querySelector("h2").textContent} ${row.textContent}`.toLowerCase();
      row.hidden = (choice.value && verdict(row) !== choice.value) || !text.includes(wanted);
    }
    for (const section of new Set(rows.map((row) => row.closest("section")))) {
      const left = rows.filter((row) => section.contains(row) && !row.hidden).map((row) => row.cells[0].textContent.trim());
      section.hidden = !left.length;
      for (const drawn of section.querySelectorAll("svg.rb-forest")) {
        drawn.toggleAttribute("hidden", !left.includes(drawn.querySelector(".rb-cid").textContent));
      }
    }
    count.value = `${rows.filter((row) => !row.hidden).length} of ${rows.length} claims`;
  };
  for (const event of ["input", "change"]) bar.addEventListener(event, show);
  bar.addEventListener("submit", (event) => event.preventDefault());
  rows[0].closest("section").before(bar);
  show();
}

function enlarged(image) {
  const open = () => {
    const dialog = document.createElement("dialog");
    dialog.className = "rb-zoom";
    dialog.append(Object.assign(image.cloneNode(), { className: "", tabIndex: -1, style: "" }));
    dialog.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  };
  image.tabIndex = 0;
  image.title = "Click to enlarge";
  image.addEventListener("click", open);
  image.addEventListener("keydown", (event) => event.key === "Enter" && open());
}

// Before the theme looks for what covers the page's contents, hence on the window.
window.addEventListener("DOMContentLoaded", () => {
  if (!document.querySelector(".bd-sidebar-secondary") || !matchMedia("(min-width: 1200px)").matches) return;
  const wide = [...document.querySelectorAll("article .rb-table")].filter((box) => box.scrollWidth > box.clientWidth + 1);
  wide.forEach((box) => box.classList.add("full-width"));
}, { capture: true });

document.addEventListener("DOMContentLoaded", () => {
  const claims = [...document.querySelectorAll(".rb-claims tbody tr")];
  if (claims.length) filtered(claims);
  document.querySelectorAll(".rb-claims table, .rb-matrix table").forEach(sortable);
  document.querySelectorAll("article .cell_output img, article img.rb-hero").forEach(enlarged);
});
