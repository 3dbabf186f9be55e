(async () => {
  const PER_PAGE = 25;
  const unpacked = (text) => {
    const signs = atob(text);
    const bytes = new Uint8Array(signs.length);
    for (let each = 0; each < signs.length; each++) bytes[each] = signs.charCodeAt(each);
    const json = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(json).json();
  };
  const data = await unpacked(document.getElementById("data").textContent);
  const rows = rowsOf(data);
  const at = (id) => document.getElementById(id);
  const make = (tag, name, ...content) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    node.append(...content);
    return node;
  };
  const number = (count) => count.toLocaleString("en");
  const plain = (text) => text.replaceAll("\u0000", "\u2400");
  // Without the blank lines around it; the first line keeps its indentation.
  const trimmed = (text) => plain(text).replace(/^(?:[^\S\n]*\n)+/, "").trimEnd();
  // Whatever the language: some line is indented, or opens a block.
  const isCode = (text) => /^(?:[ \t]+\S|```)/m.test(text);
  const titles = { base: "Base", adapter: "Adapter" };

  const shown = ([column, , places], value) => {
    if (value === null) return "\u2013";
    return ["exact_match", "code_parses"].includes(column) ? ["no", "yes"][value] : value.toFixed(places);
  };
  const signed = ([, , places], value) => {
    if (value === null) return "\u2013";
    const size = Math.abs(value).toFixed(places);
    return Number(size) === 0 ? "0" : `${value < 0 ? "\u2212" : "+"}${size}`;
  };

  const badges = (variant, row) => {
    const is = (column, wanted) => rows.get(variant, column, row) === wanted;
    const executed = rows.get(variant, "executed", row);
    return [
      is("finish", "length") && "cut off",
      is("looping", 1) && "looping",
      is("empty", 1) && "empty",
      is("code_parses", 0) && "broken code",
      executed && `tests: ${executed.replaceAll("_", " ")}`,
    ].filter(Boolean).map((text) => make("span", text === "tests: passed" ? "badge fine" : "badge", text));
  };
  const facts = (variant, row) => {
    const parts = [`${number(rows.get(variant, "tokens", row))} tokens`];
    for (const measure of data.measures.filter(([column]) => ["loss", "chrf"].includes(column))) {
      const value = rows.get(variant, measure[0], row);
      if (value !== null) parts.push(`${measure[1].toLowerCase().replace("chrf", "chrF")} ${shown(measure, value)}`);
    }
    return parts;
  };
  const compared = (expected, variant, row) => {
    const text = trimmed(rows.get(variant, "text", row));
    return expected === null || !text ? null : { text, ...compareWords(expected, text) };
  };
  const said = (found) => {
    if (!found) return [];
    if (!found.answer) return ["too long to mark differences"];
    if (!found.differing && !found.lacking) return ["the same words as expected"];
    const differing = found.differing === 1 ? "1 word differs" : `${number(found.differing)} words differ`;
    return [`${differing}, ${number(found.lacking)} missing`];
  };
  const body = (text, pieces, tag) => {
    const marked = pieces?.map(([piece, differs]) => (differs ? make(tag, "", piece) : piece));
    const node = make("div", isCode(text) ? "text code" : "text", ...(marked ?? [text || "(nothing)"]));
    node.dir = "auto";
    return node;
  };
  const side = (title, marks, content, notes) => {
    const node = make("div", "", make("h4", "", title, ...marks.flatMap((mark) => [" ", mark])), content);
    if (notes.length) node.append(make("p", "facts", notes.join(" · ")));
    return node;
  };
  const sides = (row) => {
    const given = rows.of("expected", row);
    const expected = given === null ? null : trimmed(given);
    const found = Object.fromEntries(rows.variants.map((variant) => [variant, compared(expected, variant, row)]));
    const node = make("div", "sides");
    if (expected !== null) {
      const tokens = rows.of("expected_tokens", row);
      const marked = body(expected, found[rows.variants.at(-1)]?.expected, "del");
      node.append(side("Expected", [], marked, tokens === null ? [] : [`${number(tokens)} tokens`]));
    }
    for (const variant of rows.variants) {
      const text = trimmed(rows.get(variant, "text", row));
      const notes = [...facts(variant, row), ...said(found[variant])];
      node.append(side(titles[variant], badges(variant, row), body(text, found[variant]?.answer, "ins"), notes));
    }
    return node;
  };

  const cell = (tag, text, scope) => {
    const node = make(tag, "", text);
    if (scope) node.scope = scope;
    return node;
  };
  const measures = (row) => {
    const both = rows.variants.length > 1;
    const heads = ["Measure", ...rows.variants.map((variant) => titles[variant]), ...(both ? ["Difference"] : [])];
    const lines = data.measures.map((measure) => {
      const values = rows.variants.map((variant) => rows.get(variant, measure[0], row));
      if (values.every((value) => value === null)) return null;
      const cells = values.map((value) => cell("td", shown(measure, value)));
      if (both) cells.push(cell("td", signed(measure, rows.difference(measure[0], row))));
      return make("tr", "", cell("th", measure[1], "row"), ...cells);
    }).filter(Boolean);
    const messages = rows.variants.filter((variant) => rows.get(variant, "executed_message", row))
      .map((variant) => make("p", "facts", `${titles[variant]}, tests: ${plain(rows.get(variant, "executed_message", row))}`));
    const table = make("table", "",
      make("thead", "", make("tr", "", ...heads.map((head) => cell("th", head, "col")))), make("tbody", "", ...lines));
    return make("details", "small", make("summary", "", "All measures"), make("div", "fit", table), ...messages);
  };
  const trend = (row) => {
    const moved = rows.difference("loss", row);
    if (!moved) return [];
    return [make("p", `trend ${moved < 0 ? "better" : "worse"}`,
      `${moved < 0 ? "\u25b2 adapter better" : "\u25bc adapter worse"}: loss ${signed(["", "", 3], moved)}`)];
  };
  const near = (row) => {
    const name = rows.of("near_duplicate", row);
    if (name === null) return [];
    const share = Math.round(rows.of("near_duplicate_similarity", row) * 100);
    return [make("p", "facts", `${share} % like the training row ${plain(name)}`)];
  };
  const card = (row) => {
    const failed = row >= data.count ? rows.failed(row) : null;
    const [id, question] = failed ?? [rows.of("id", row), rows.of("question", row)];
    const node = make("article");
    node.dataset.id = id;
    const title = make("h3", "", question === null ? "(no question)" : plain(question));
    title.dir = "auto";
    title.id = `row-${row}`;
    node.setAttribute("aria-labelledby", title.id);
    node.append(make("span", "id", `row ${plain(id)}`), title);
    if (failed) node.append(make("p", "note", plain(failed[2])));
    else node.append(...trend(row), ...near(row), sides(row), measures(row));
    return node;
  };

  let found = [];
  let page = 0;
  const draw = () => {
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    page = Math.min(page, pages - 1);
    at("list").replaceChildren(...found.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(card));
    // The keyboard stops at those texts that it has to scroll, and at no others. All are measured
    // before the first is changed, so that the page is laid out once.
    const scrolled = [...document.querySelectorAll("article h3, .text")]
      .filter((text) => text.scrollHeight > text.clientHeight + 1);
    for (const text of scrolled) {
      text.tabIndex = 0;
      if (text.localName !== "h3") {
        text.setAttribute("role", "group");
        text.setAttribute("aria-label", `${text.parentNode.querySelector("h4").firstChild.data}, scrolled`);
      }
    }
    if (!found.length) at("list").append(make("p", "muted", "No row matches. Clear the search and the filters."));
    at("count").textContent = `${number(found.length)} of ${number(rows.total)} rows`;
    at("page").textContent = `Page ${number(page + 1)} of ${number(pages)}`;
    at("previous").disabled = page === 0;
    at("next").disabled = page === pages - 1;
  };
  const boxes = () => [...document.querySelectorAll("#filters input")];
  const select = () => {
    const column = at("measure").value;
    at("side").disabled = at("order").disabled = !column;
    found = rows.select({
      words: at("search").value.trim().toLowerCase(),
      only: boxes().filter((box) => box.checked).map((box) => box.value),
      column,
      side: at("side").value,
      descending: at("order").value === "descending",
    });
    page = 0;
    draw();
  };
  const turn = (by) => {
    page += by;
    draw();
    at("rows").scrollIntoView();
    at("list").focus({ preventScroll: true });
  };
  const option = (value, text) => {
    const node = make("option", "", text);
    node.value = value;
    return node;
  };

  at("measure").append(...data.measures.map(([column, label]) => option(column, label)));
  const both = rows.variants.length > 1;
  at("side").append(...(both ? [option("difference", "difference")] : []),
    ...[...rows.variants].reverse().map((variant) => option(variant, titles[variant].toLowerCase())));
  at("filters").append(...rows.filters.map(({ name, label, count }) => {
    const box = make("input");
    box.type = "checkbox";
    box.value = name;
    return make("label", "chip", box, make("span", "", label, make("span", "muted", ` ${number(count)}`)));
  }));
  at("filters").hidden = !rows.filters.length;
  at("search").addEventListener("input", select);
  for (const id of ["measure", "side", "order", "filters"]) at(id).addEventListener("change", select);
  at("clear").addEventListener("click", () => {
    at("search").value = at("measure").value = "";
    for (const box of boxes()) box.checked = false;
    select();
    at("search").focus();
  });
  at("previous").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  select();
})();
