"use strict";
// Which words of two texts differ: those outside of a longest common sequence (Myers 1986).
const compareWords = (() => {
  const MOST = 1500; // words that differ; time and memory grow with their square
  const tokens = (text) => text.match(/[\p{L}\p{N}_]+|\s+|\S/gu) ?? [];
  const isSpace = (token) => !token.trim();
  const hasLetter = (token) => /[\p{L}\p{N}_]/u.test(token);

  // How far down each diagonal one gets with so many differences, for 0, 1, 2, ... of them.
  // null where they are too many.
  const reached = (one, other) => {
    const rounds = [];
    let before = null;
    for (let count = 0; count <= MOST; count++) {
      const far = new Int32Array(2 * count + 1);
      const last = (diagonal) => (Math.abs(diagonal) < count ? before[diagonal + count - 1] : -1);
      for (let diagonal = -count; diagonal <= count; diagonal += 2) {
        let x = count ? Math.max(last(diagonal - 1) + 1, last(diagonal + 1)) : 0;
        while (x < one.length && x - diagonal < other.length && one[x] === other[x - diagonal]) x++;
        far[diagonal + count] = x;
        if (x >= one.length && x - diagonal >= other.length) return [...rounds, far];
      }
      rounds.push(far);
      before = far;
    }
    return null;
  };

  // Mark in both lists what is not common; false where that is too much.
  const mark = (one, other, oneMarks, otherMarks) => {
    const rounds = reached(one, other);
    if (!rounds) return false;
    let diagonal = one.length - other.length;
    for (let count = rounds.length - 1; count > 0; count--) {
      const last = (at) => (Math.abs(at) < count ? rounds[count - 1][at + count - 1] : -1);
      const [left, above] = [last(diagonal - 1), last(diagonal + 1)];
      if (left + 1 > above) {
        oneMarks[left] = true;
        diagonal--;
      } else {
        otherMarks[above - diagonal - 1] = true;
        diagonal++;
      }
    }
    return true;
  };

  // Signs alone between two differences belong to them: a comma in common is nothing in common.
  const join = (words, marks) => {
    let last = -1;
    for (let at = 0; at < words.length; at++) {
      if (!marks[at]) continue;
      const between = words.slice(last + 1, at);
      if (last >= 0 && between.length && !between.some(hasLetter)) marks.fill(true, last, at);
      last = at;
    }
  };

  // Put the text together again, as [piece, differs].
  const pieces = (all, marks) => {
    const found = [];
    let word = 0;
    let space = "";
    const add = (text, differs) => {
      const last = found.at(-1);
      if (last && last[1] === differs) last[0] += text;
      else if (text) found.push([text, differs]);
    };
    for (const token of all) {
      if (isSpace(token)) {
        space += token;
        continue;
      }
      const differs = Boolean(marks[word++]);
      // White space between two differing words is no gap between them, but a new line is.
      add(space, differs && found.at(-1)?.[1] === true && !space.includes("\n"));
      space = "";
      add(token, differs);
    }
    add(space, false);
    return found;
  };

  // {expected, answer: pieces, differing: words of the answer}; null where they are too long.
  return (expected, answer) => {
    const [all, others] = [tokens(expected), tokens(answer)];
    const [words, otherWords] = [all, others].map((list) => list.filter((token) => !isSpace(token)));
    const [marks, otherMarks] = [new Array(words.length).fill(false), new Array(otherWords.length).fill(false)];
    if (!mark(words, otherWords, marks, otherMarks)) return null;
    const count = (list, marked) => list.filter((word, at) => marked[at] && hasLetter(word)).length;
    const counted = { differing: count(otherWords, otherMarks), lacking: count(words, marks) };
    join(words, marks);
    join(otherWords, otherMarks);
    return { expected: pieces(all, marks), answer: pieces(others, otherMarks), ...counted };
  };
})();
