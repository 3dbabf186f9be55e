"use strict";
(() => {
  const PER_PAGE = 25;
  const all = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const answers = (row) => [row.b, row.a].filter(Boolean);
  // How much lower (negative) or higher the adapter's loss is; null where it was not measured.
  for (const row of all) {
    const known = row.a && row.a.l !== null && row.b.l !== null;
    row.d = known ? row.a.l - row.b.l : null;
    row.s = [row.id, row.q, row.e, row.x, ...answers(row).map((answer) => answer.t)]
      .filter(Boolean).join("\n").toLowerCase();
  }
  const filters = {
    all: () => true,
    lower: (row) => row.d !== null && row.d < 0,
    higher: (row) => row.d !== null && row.d > 0,
    truncated: (row) => answers(row).some((answer) => answer.f === "length"),
    empty: (row) => answers(row).some((answer) => !answer.t.trim()),
    error: (row) => row.x !== undefined,
  };
  const byLoss = (sign) => (one, other) =>
    (one.d === null) - (other.d === null) || sign * (one.d - other.d);
  let shown = all;
  let page = 0;

  const make = (tag, name, text) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const plain = (text) => text.replaceAll("\u0000", "\u2400");
  // Without the blank lines around it; the first line keeps its indentation.
  const trimmed = (text) => plain(text).replace(/^(?:[^\S\n]*\n)+/, "").trimEnd();
  const side = (title, text, facts) => {
    const node = make("div");
    const body = make("div", "text", trimmed(text) || "(nothing)");
    body.dir = "auto";
    node.append(make("h4", "", title), body);
    if (facts) node.append(make("p", "facts", facts));
    return node;
  };
  const signed = (number) => `${number < 0 ? "\u2212" : "+"}${Math.abs(number).toFixed(3)}`;
  const facts = (answer, difference) => {
    const parts = [`${answer.n} tokens`];
    if (answer.f === "length") parts.push("truncated");
    if (answer.l !== null) parts.push(`loss ${answer.l.toFixed(3)}`);
    if (difference !== null) parts.push(`difference ${signed(difference)}`);
    return parts.join(" · ");
  };
  const card = (row) => {
    const node = make("article");
    node.dataset.id = row.id;
    const title = make("h3", "", row.q === null ? "(no question)" : plain(row.q));
    title.dir = "auto";
    node.append(make("span", "id", row.id), title);
    if (row.x !== undefined) {
      node.append(make("p", "note", plain(row.x)));
      return node;
    }
    const sides = make("div", "sides");
    if (row.e !== null) sides.append(side("Expected", row.e));
    sides.append(side("Base", row.b.t, facts(row.b, null)));
    if (row.a) sides.append(side("Adapter", row.a.t, facts(row.a, row.d)));
    node.append(sides);
    return node;
  };
  const draw = () => {
    const pages = Math.max(1, Math.ceil(shown.length / PER_PAGE));
    page = Math.min(page, pages - 1);
    at("list").replaceChildren(...shown.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(card));
    // The keyboard stops at those texts that it has to scroll, and at no others.
    for (const text of document.querySelectorAll("article h3, .text")) {
      if (text.scrollHeight > text.clientHeight + 1) text.tabIndex = 0;
    }
    if (!shown.length) at("list").append(make("p", "muted", "No row matches. Clear the search or show all rows."));
    at("count").textContent = `${shown.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} rows`;
    at("page").textContent = `${page + 1} of ${pages}`;
    at("previous").disabled = page === 0;
    at("next").disabled = page === pages - 1;
  };
  const select = () => {
    const words = at("search").value.trim().toLowerCase();
    shown = all.filter((row) => filters[at("filter").value](row) && row.s.includes(words));
    const order = at("sort").value;
    if (order !== "given") shown.sort(byLoss(order === "improved" ? 1 : -1));
    page = 0;
    draw();
  };
  const turn = (by) => {
    page += by;
    draw();
    at("rows").scrollIntoView();
  };
  at("search").addEventListener("input", select);
  for (const id of ["filter", "sort"]) at(id).addEventListener("change", select);
  at("previous").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  // On paper nothing can be unfolded.
  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = [...document.querySelectorAll("details:not([open])")];
    for (const details of unfolded) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of unfolded) details.open = false;
  });
  select();
})();
