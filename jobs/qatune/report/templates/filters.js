// What rows can be searched, filtered and sorted by. A row is its number; those without an answer
// come after the others.
const rowsOf = (data) => {
  const variants = ["base", "adapter"].filter((variant) => data[variant]);
  const total = data.count + data.failed.length;
  const failed = (row) => data.failed[row - data.count];
  const get = (variant, column, row) => data[variant]?.[column]?.[row] ?? null;
  const some = (test) => (row) => row < data.count && variants.some((variant) => test(variant, row));
  const difference = (column, row) => {
    const [base, adapter] = ["base", "adapter"].map((variant) => get(variant, column, row));
    return base === null || adapter === null ? null : adapter - base;
  };
  const of = (column, row) => data[column]?.[row] ?? null;
  const outcomes = (row) => variants.map((variant) => get(variant, "executed", row));

  const filters = [
    ["better", "adapter better (lower loss)", (row) => difference("loss", row) < 0],
    ["worse", "adapter worse (higher loss)", (row) => difference("loss", row) > 0],
    ["truncated", "cut off answer", some((variant, row) => get(variant, "finish", row) === "length")],
    ["code", "broken code", some((variant, row) => get(variant, "code_parses", row) === 0)],
    ["executed", "tests end differently", (row) => new Set(outcomes(row)).size > 1],
    ["looping", "looping answer", some((variant, row) => get(variant, "looping", row) === 1)],
    ["empty", "empty answer", some((variant, row) => get(variant, "empty", row) === 1)],
    ["near", "nearly a training row", (row) => of("near_duplicate", row) !== null],
    ["failed", "no answer", (row) => row >= data.count],
  ].map(([name, label, test]) => ({ name, label, test, count: 0 }));
  for (const filter of filters) {
    for (let row = 0; row < total; row++) filter.count += filter.test(row);
  }

  // Made at the first search: most readers never search.
  let searched = null;
  const text = (row) => {
    searched ??= Array.from({ length: total }, (_, at) => (
      at < data.count
        ? [of("id", at), of("question", at), of("expected", at), ...variants.map((variant) => get(variant, "text", at))]
        : failed(at)
    ).filter(Boolean).join("\n").toLowerCase());
    return searched[row];
  };

  const value = (side, column, row) =>
    side === "difference" ? difference(column, row) : get(side, column, row);

  // Numbers of the rows that contain the words and pass all filters, in order; without a value last.
  const select = ({ words, only, column, side, descending }) => {
    const tests = filters.filter(({ name }) => only.includes(name)).map(({ test }) => test);
    const found = [];
    for (let row = 0; row < total; row++) {
      if (tests.every((test) => test(row)) && (!words || text(row).includes(words))) found.push(row);
    }
    if (!column) return found;
    const keys = new Map(found.map((row) => [row, value(side, column, row)]));
    const sign = descending ? -1 : 1;
    return found.sort((one, other) => {
      const [a, b] = [keys.get(one), keys.get(other)];
      return (a === null) - (b === null) || sign * (a - b);
    });
  };

  return { total, variants, failed, get, of, difference, select, filters: filters.filter(({ count }) => count) };
};
