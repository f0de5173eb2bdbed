// A circuit in a browser. Nodes, camera and pointer are Cytoscape's; the edges, up to tens of thousands, are drawn here
// on canvas, the strongest first, each later one underneath ("destination-over"), as many per frame as the machine can.
// So a frame is never long, and what matters is there at once. Nothing here makes HTML out of text.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { n_layers: nLayers, n_heads: nHeads, n_kv_readers: nKv, spans = [], parallel = false } = data.layout;
  const nSpans = Math.max(1, spans.length); // without spans, all tokens are one
  const circuits = data.circuits;
  const pair = circuits.length === 2;
  const $ = (id) => document.getElementById(id);
  const number = (x) => x.toLocaleString("en-US");
  const texts = new Map(data.example); // what the example prompt has in each span
  const short = (x) => (x === null || x === undefined || Number.isNaN(x) ? "-" : String(Number(x.toPrecision(4))));
  const thousands = (x) => (x >= 1e6 ? `${x / 1e6}M` : x >= 1000 ? `${x / 1000}k` : String(x));
  const percent = (x) => `${Number((100 * x).toPrecision(3))}%`;

  function element(tag, text, parent, attributes = {}) {
    const made = document.createElement(tag);
    if (text !== null) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (parent) parent.append(made);
    return made;
  }

  // ---- the layout: readers and writers by index, as the Python package counts them -------------------------------

  // A node is counted once in every span: the node i of span s is s * perSpan + i.
  const LOGITS = 1 + nLayers * (nHeads + 1); // behind the writers
  const perSpan = LOGITS + 1;
  const nNodes = nSpans * perSpan;
  const plainNames = ["input"];
  const plainLayers = [-1];
  const plainColumns = [0]; // the head; nHeads for an MLP
  const readerNames = [];
  const readerKinds = [];
  const readerNodes = []; // every node that a reader belongs to: a K/V group has several
  const offsets = [0]; // reader r owns the flat indices from offsets[r]
  for (let layer = 0; layer < nLayers; layer++) {
    const first = 1 + layer * (nHeads + 1);
    for (let h = 0; h <= nHeads; h++) {
      plainNames.push(h < nHeads ? `a${layer}.h${h}` : `m${layer}`);
      plainLayers.push(layer);
      plainColumns.push(h);
    }
    const reader = (name, kind, nodes, prefix) => {
      readerNames.push(name);
      readerKinds.push(kind);
      readerNodes.push(nodes);
      offsets.push(offsets[offsets.length - 1] + prefix);
    };
    const share = nHeads / nKv;
    const letter = nKv === nHeads ? "h" : "g";
    for (let h = 0; h < nHeads; h++) reader(`a${layer}.h${h}<q>`, "q", [first + h], first);
    for (const kind of "kv")
      for (let g = 0; g < nKv; g++) {
        const heads = Array.from({ length: share }, (_, i) => first + g * share + i);
        reader(`a${layer}.${letter}${g}<${kind}>`, kind, heads, first);
      }
    reader(`m${layer}`, "mlp", [first + nHeads], parallel ? first : first + nHeads);
  }
  plainNames.push("logits");
  plainLayers.push(nLayers);
  plainColumns.push(0);
  readerNames.push("logits");
  readerKinds.push("logits");
  readerNodes.push([LOGITS]);
  offsets.push(offsets[offsets.length - 1] + LOGITS);
  const edgesPerSpan = offsets[offsets.length - 1];

  const at = (span) => (spans.length ? `@${spans[span]}` : "");
  const spanOf = (node) => Math.floor(node / perSpan);
  const nodeNames = Array.from({ length: nNodes }, (_, i) => plainNames[i % perSpan] + at(spanOf(i)));
  const nodeLayers = Array.from({ length: nNodes }, (_, i) => plainLayers[i % perSpan]);
  const nodeColumns = Array.from({ length: nNodes }, (_, i) => plainColumns[i % perSpan]);

  // Of a flat index within a span.
  function readerOf(flat) {
    let low = 0;
    let high = readerNames.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (offsets[middle] <= flat) low = middle;
      else high = middle;
    }
    return low;
  }

  const stage = $("stage");
  const WIDTH = Math.max(54, 7 * `a${nLayers - 1}.h${nHeads - 1}`.length + 8);
  const HEIGHT = 24;
  const SLOT = WIDTH + 8; // a box and what is free beside it
  const PORT = { q: -16, k: 0, v: 16, mlp: 0, logits: 0 };
  // Boxes: the nodes, and behind them, for each span and layer, one of the heads that are folded there.
  const nBoxes = nNodes + nSpans * nLayers;
  const groupOf = (node) => nNodes + spanOf(node) * nLayers + nodeLayers[node];
  const isGroup = (box) => box >= nNodes;
  const boxX = new Float64Array(nBoxes);
  const boxY = new Float64Array(nBoxes);
  const isInput = (i) => i % perSpan === 0;
  const isLogits = (i) => i % perSpan === LOGITS;
  const nodeKind = (i) => (isInput(i) ? "input" : isLogits(i) ? "logits" : nodeColumns[i] === nHeads ? "mlp" : "head");

  // ---- edges: one row per edge of either circuit, lines as they are drawn -----------------------------------------

  function decoded(text, Type) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Type(bytes.buffer);
  }

  const ABSENT = 0xffffffff;
  const indices = circuits.map((circuit) => decoded(circuit.edges, Uint32Array));
  const position = new Map();
  for (const flat of [].concat(...indices.map((list) => Array.from(list))))
    if (!position.has(flat)) position.set(flat, position.size);
  const flats = Uint32Array.from(position.keys());
  const nEdges = flats.length;
  const edgeSpan = Uint32Array.from(flats, (flat) => Math.floor(flat / edgesPerSpan));
  const edgeReader = Uint32Array.from(flats, (flat) => readerOf(flat % edgesPerSpan));
  const edgeWriter = Uint32Array.from(flats, (flat, e) => (flat % edgesPerSpan) - offsets[edgeReader[e]] + edgeSpan[e] * perSpan);
  const edgeName = (e) =>
    `${plainNames[edgeWriter[e] % perSpan]}->${readerNames[edgeReader[e]]}${at(edgeSpan[e])}`;
  const ranks = circuits.map(() => new Uint32Array(nEdges).fill(ABSENT)); // 0 is the strongest
  const scores = circuits.map(() => new Float32Array(nEdges).fill(NaN));
  const strengths = circuits.map(() => new Float32Array(nEdges)); // 0 .. 1, for width and colour
  const keys = circuits.map((circuit, c) => {
    const own = circuit.scores === null ? null : decoded(circuit.scores, Float32Array);
    // Of a learned gate's score the sign means nothing, only how far it stands above the others.
    const floor = circuit.scores_are === "ranks" && own !== null ? own.reduce((a, b) => Math.min(a, b), Infinity) : 0;
    // The strongest percent are drawn alike: by the very largest alone, all others would look like nothing.
    const sizes = own === null ? [1] : Array.from(own, (x) => Math.abs(x - floor)).sort((a, b) => b - a);
    const largest = sizes[Math.floor(0.01 * sizes.length)] || 1;
    indices[c].forEach((flat, rank) => {
      const e = position.get(flat);
      ranks[c][e] = rank;
      if (own !== null) scores[c][e] = own[rank];
      strengths[c][e] = own === null ? 0.4 : Math.min(1, Math.sqrt(Math.abs(own[rank] - floor) / largest));
    });
    return own === null ? null : own.map((x) => (circuit.ranking === "signed" ? x : Math.abs(x)));
  });

  // A head is at work in a span where its query is read, or its output used. A key or a value of it is read in any span,
  // and ends at the head there and in spans that stand later in some prompt, where it is at work; where it is in none of
  // those, in its own.
  const lineEdge = [];
  const lineNode = [];
  const lineCircuits = []; // bit 1: it is one of the left (or only) circuit, bit 2: of the right one
  const allSpans = Array.from({ length: nSpans }, (_, span) => span);
  const looksBack = (e) => "kv".includes(readerKinds[edgeReader[e]]);
  const has = (c, e) => ranks[c][e] !== ABSENT;
  const atWork = circuits.map((_, c) => {
    const found = new Uint8Array(nNodes);
    for (let e = 0; e < nEdges; e++) {
      if (!has(c, e)) continue;
      found[edgeWriter[e]] = 1;
      if (!looksBack(e)) for (const node of readerNodes[edgeReader[e]]) found[node + edgeSpan[e] * perSpan] = 1;
    }
    return found;
  });
  for (let e = 0; e < nEdges; e++)
    for (const node of readerNodes[edgeReader[e]]) {
      const ends = new Map(); // the spans where the edge ends, each with the circuits in which it does
      for (let c = 0; c < circuits.length; c++) {
        if (!has(c, e)) continue;
        const sees = (span) => span >= edgeSpan[e] || circuits[c].swapped.some(([a, b]) => a === span && b === edgeSpan[e]);
        const working = looksBack(e) ? allSpans.filter((span) => atWork[c][node + span * perSpan]) : [];
        const seen = working.filter(sees);
        for (const span of seen.length ? seen : [edgeSpan[e]]) ends.set(span, (ends.get(span) ?? 0) | (1 << c));
      }
      for (const [span, bits] of ends) {
        lineEdge.push(e);
        lineNode.push(node + span * perSpan);
        lineCircuits.push(bits);
      }
    }
  const nLines = lineEdge.length;

  // ---- where nodes stand: as the slider leaves them, in the width that there is ------------------------------------

  // A layer without a node takes no room, unless it is asked for. Heads of a layer stand in rows, as many side by side as
  // the view is wide for at a size that can be read, its MLP at their right. Of many edges the heads at the ends of the
  // strongest have boxes of their own; the others of a layer and span are folded into one, which a click opens.
  const FOLD_FROM = 400; // so many edges are drawn one by one
  const STRONGEST = 80; // beyond, the heads at the ends of so many keep their boxes
  const opened = new Set(); // folded boxes that the reader has opened
  const home = new Int32Array(nNodes).fill(-1); // in which box a node is drawn; -1: in none
  const members = new Map(); // the heads in a folded box
  let boxes = []; // all that are drawn
  let layers = []; // those that take room, from the bottom
  let layerAt = []; // of each, where its lowest row stands, and the highest
  let folding = false; // whether heads are folded
  let edgesOfSpans = []; // where a span begins and ends, from the left
  let picture = null; // how far all reaches
  let ROW = 116;
  let RAISED = 0; // how far an MLP stands above the heads that it reads
  const NEXT = 34; // from one row of heads to the next in a layer
  const BETWEEN = 26; // two spans

  const kindOfBox = (box) => (isGroup(box) ? "group" : nodeKind(box));
  const spanOfBox = (box) => (isGroup(box) ? Math.floor((box - nNodes) / nLayers) : spanOf(box));
  const layerOfBox = (box) => (isGroup(box) ? (box - nNodes) % nLayers : nodeLayers[box]);

  // Chooses the boxes for what the slider leaves: new ones only if asked for, or if a node has none.
  function arrange(anew) {
    const present = new Uint8Array(nNodes);
    const strong = new Uint8Array(nNodes);
    let n = 0;
    const seen = new Uint8Array(nEdges);
    for (let i = 0; i < nLines; i++) {
      const e = lineEdge[i];
      const rank = circuits.reduce((least, _, c) => (ranks[c][e] < cut[c] ? Math.min(least, ranks[c][e]) : least), ABSENT);
      if (rank === ABSENT) continue;
      n += 1 - seen[e];
      seen[e] = 1;
      for (const node of [edgeWriter[e], lineNode[i]]) {
        present[node] = 1;
        if (rank < STRONGEST) strong[node] = 1;
      }
    }
    for (let i = 0; i < nNodes; i += perSpan) present[i] = 1;
    if (!present.some((is, i) => is && isLogits(i))) present[nNodes - 1] = 1;
    if (state.node !== null) present[state.node] = strong[state.node] = 1;
    if (!anew && !present.some((is, i) => is && home[i] < 0)) return false;

    folding = n > FOLD_FROM;
    members.clear();
    home.fill(-1);
    for (let i = 0; i < nNodes; i++) {
      if (!present[i]) continue;
      home[i] = i;
      const group = groupOf(i);
      if (!folding || nodeKind(i) !== "head" || strong[i] || opened.has(group)) continue;
      if (!members.has(group)) members.set(group, []);
      members.get(group).push(i);
    }
    for (const [group, heads] of members)
      if (heads.length < 2) members.delete(group);
      else for (const i of heads) home[i] = group;
    boxes = [...new Set(home)].filter((box) => box >= 0).sort((a, b) => a - b);
    return true;
  }

  const headsOf = (row) => row.filter((box) => kindOfBox(box) === "head" || isGroup(box));

  // How many boxes of each span stand side by side, its MLP included: as its widest row has, as far as there is room.
  function widthsOfSpans(rows, room) {
    const widths = rows.map((layersOfSpan) => {
      const all = [...layersOfSpan.values()];
      return Math.max(1, ...all.map((row) => headsOf(row).length)) + (all.some((row) => headsOf(row).length < row.length) ? 1 : 0);
    });
    const least = rows.map((_, span) => Math.min(2, widths[span]));
    const widest = () => widths.reduce((best, n, span) => (n - least[span] > widths[best] - least[best] ? span : best), 0);
    const needed = () => widths.reduce((sum, n) => sum + n, 0) * SLOT + (nSpans - 1) * BETWEEN;
    while (needed() > room && widths[widest()] > least[widest()]) widths[widest()] -= 1;
    return widths;
  }

  // Middles as near to those wanted as a slot between each two allows, from left to right (pools of adjacent violators).
  function apart(wanted, left, right) {
    const pools = [];
    wanted.forEach((x, at) => {
      pools.push([x - at * SLOT, 1]);
      while (pools.length > 1 && pools[pools.length - 2][0] > pools[pools.length - 1][0]) {
        const [[a, na], [b, nb]] = pools.splice(-2);
        pools.push([(a * na + b * nb) / (na + nb), na + nb]);
      }
    });
    const last = Math.max(left, right - (wanted.length - 1) * SLOT);
    return pools.flatMap(([x, n]) => Array(n).fill(Math.min(last, Math.max(left, x)))).map((x, at) => x + at * SLOT);
  }

  // Gives all boxes their places in a view of this size: heads from left to right by their number, over all of it.
  function place(width, height) {
    const rows = Array.from({ length: nSpans }, () => new Map()); // of each span, boxes by layer
    const ends = [];
    const used = new Set();
    for (const box of boxes) {
      if (kindOfBox(box) === "input" || kindOfBox(box) === "logits") {
        ends.push(box);
        continue;
      }
      const [span, layer] = [spanOfBox(box), layerOfBox(box)];
      used.add(layer);
      if (!rows[span].has(layer)) rows[span].set(layer, []);
      rows[span].get(layer).push(box);
    }
    layers = Array.from({ length: nLayers }, (_, layer) => layer).filter((layer) => !state.folded || used.has(layer));
    const names = width < 320 ? 26 : 58; // what the names of the layers take
    let [widths, room] = [[], 0];
    const withMlp = rows.map((own) => [...own.values()].some((row) => headsOf(row).length < row.length));
    const inRow = (span) => Math.max(1, widths[span] - (withMlp[span] ? 1 : 0));
    const deep = (layer) =>
      Math.max(1, ...rows.map((own, span) => Math.ceil(headsOf(own.get(layer) ?? []).length / inRow(span))));
    // Few boxes are larger: the view is then narrower and lower, and shown enlarged.
    for (const scale of [1.6, 1.4, 1.2, 1]) {
      room = Math.max(2 * SLOT, width / scale - names - 14);
      widths = widthsOfSpans(rows, room);
      const inside = layers.reduce((sum, layer) => sum + (deep(layer) - 1) * NEXT, 2 * HEIGHT); // of the layers
      ROW = Math.max(68, Math.min(110, (height / scale - inside) / (layers.length + (parallel ? 1 : 1.2))));
      const whole = widthsOfSpans(rows, Infinity).every((n, span) => n === widths[span]);
      if (whole && (layers.length + 1) * ROW + inside < height / scale) break;
    }
    RAISED = parallel ? 0 : Math.max(HEIGHT + 6, 0.4 * ROW);
    const slots = widths.reduce((sum, n) => sum + n, 0);
    const slot = Math.max(SLOT, (room - (nSpans - 1) * BETWEEN) / slots);

    let y = -ROW;
    layerAt = layers.map((layer) => {
      const low = y;
      const high = low - (deep(layer) - 1) * NEXT;
      y = high - ROW;
      return [low, high];
    });
    if (!parallel && layers.length && boxes.some((box) => kindOfBox(box) === "mlp" && layerOfBox(box) === layers[layers.length - 1])) y -= 0.2 * ROW;
    let start = names;
    edgesOfSpans = widths.map((n, span) => {
      const across = inRow(span) * slot; // of the heads
      layers.forEach((layer, at) => {
        const row = rows[span].get(layer) ?? [];
        const number = (box) => {
          const heads = members.get(box) ?? [box];
          return heads.reduce((sum, i) => sum + nodeColumns[i], 0) / heads.length;
        };
        const heads = headsOf(row).sort((a, b) => number(a) - number(b));
        const lines = Math.max(1, Math.ceil(heads.length / inRow(span)));
        const each = Math.ceil(heads.length / lines);
        for (let line = 0; line < lines; line++) {
          const part = heads.slice(line * each, (line + 1) * each);
          const wanted = part.map((box) => start + ((number(box) + 0.5) / nHeads) * across);
          apart(wanted, start + SLOT / 2, start + across - SLOT / 2).forEach((x, i) => {
            boxX[part[i]] = x;
            boxY[part[i]] = layerAt[at][0] - line * NEXT;
          });
        }
        for (const box of row)
          if (kindOfBox(box) === "mlp") {
            boxX[box] = start + (n - 0.5) * slot;
            boxY[box] = layerAt[at][1] - RAISED;
          }
      });
      for (const box of ends)
        if (spanOfBox(box) === span) {
          boxX[box] = start + across / 2;
          boxY[box] = isInput(box) ? 0 : y;
        }
      start += n * slot + BETWEEN;
      return [start - n * slot - BETWEEN, start - BETWEEN];
    });
    picture = { left: 0, right: start - BETWEEN + 14, top: y - HEIGHT, bottom: HEIGHT, slot };
  }

  // From a box to another: x0, y0, x1, y1, how far the line bows out, how far its ends go straight.
  function curveOf(from, to, kind) {
    const [x0, y0] = [boxX[from], boxY[from] - HEIGHT / 2];
    const [x1, y1] = [boxX[to] + (isGroup(to) ? 0 : PORT[kind]), boxY[to] + HEIGHT / 2];
    const rise = y0 - y1;
    // A line straight upward would run through the boxes between its ends.
    const bow = Math.abs(boxX[from] - boxX[to]) > WIDTH || rise < 1.2 * ROW ? 0 : 22 + 0.05 * Math.min(rise, 600);
    const [left, right] = edgesOfSpans[spanOfBox(from)];
    return [x0, y0, x1, y1, x0 < (left + right) / 2 ? -bow : bow, Math.min(260, Math.max(0.45 * rise, 18))];
  }
  const ascending = (key) => Uint32Array.from({ length: nLines }, (_, i) => i).sort((a, b) => key(a) - key(b));
  const byWriter = ascending((i) => edgeWriter[lineEdge[i]] % perSpan);
  const byReader = ascending((i) => -(lineNode[i] % perSpan));

  // ---- what is shown ---------------------------------------------------------------------------------------------

  const LEFT = 1;
  const RIGHT = 2;
  const most = Math.max(...circuits.map((circuit, c) => indices[c].length));
  const KINDS = ["q", "k", "v", "mlp", "logits"];
  const state = {
    n: most, from: 0, to: nLayers - 1, kinds: new Set(KINDS), spans: new Set(allSpans), node: null, edge: null, bundle: null,
    view: "both", folded: true,
  };
  let cut = circuits.map((_, c) => indices[c].length); // how many edges of each circuit the slider leaves
  const shownLines = new Uint8Array(nLines); // bit 1: in the left (or only) circuit, bit 2: in the right one
  const shownEdges = new Uint8Array(nEdges);
  const shownNodes = new Uint8Array(nNodes);
  let ends = []; // for each circuit, whether the chosen node has a way from the input and one to the logits

  // How many edges the slider leaves of a circuit: all that are as good as its n-th, so that a tie is never cut.
  function kept(c) {
    const n = Math.min(state.n, indices[c].length);
    if (keys[c] === null) return indices[c].length;
    let end = n;
    while (end > 0 && end < indices[c].length && keys[c][end] === keys[c][n - 1]) end++;
    return end;
  }

  function inRange(node) {
    return isInput(node) || isLogits(node) || (nodeLayers[node] >= state.from && nodeLayers[node] <= state.to);
  }

  // Which lines of one circuit lie on a way from the input through the node to the logits: one sweep each way, for the
  // nodes' order is that of the model.
  function throughNode(bit, node) {
    const reach = (isStart, order, forward) => {
      const reached = Uint8Array.from(nodeNames, (_, i) => isStart(i));
      for (const i of order)
        if (shownLines[i] & bit) {
          const [tail, head] = [edgeWriter[lineEdge[i]], lineNode[i]];
          if (forward ? reached[tail] : reached[head]) reached[forward ? head : tail] = 1;
        }
      return reached;
    };
    const fromInput = reach(isInput, byWriter, true);
    const toLogits = reach(isLogits, byReader, false);
    const below = reach((i) => i === node, byReader, false);
    const above = reach((i) => i === node, byWriter, true);
    for (let i = 0; i < nLines; i++) {
      const [tail, head] = [edgeWriter[lineEdge[i]], lineNode[i]];
      if (!((fromInput[tail] && below[head]) || (above[tail] && toLogits[head]))) shownLines[i] &= ~bit;
    }
    return { fromInput: fromInput[node], toLogits: toLogits[node] };
  }

  function choose() {
    const cut = circuits.map((_, c) => kept(c));
    for (let i = 0; i < nLines; i++) {
      const e = lineEdge[i];
      const passes =
        state.kinds.has(readerKinds[edgeReader[e]]) && state.spans.has(edgeSpan[e]) && inRange(edgeWriter[e]) && inRange(lineNode[i]);
      let bits = 0;
      if (passes) for (let c = 0; c < circuits.length; c++) if (ranks[c][e] < cut[c]) bits |= 1 << c;
      shownLines[i] = bits & lineCircuits[i];
    }
    ends = state.node === null ? [] : circuits.map((_, c) => throughNode(1 << c, state.node));
    shownEdges.fill(0);
    shownNodes.fill(0);
    for (let i = 0; i < nLines; i++)
      if (shownLines[i]) {
        shownEdges[lineEdge[i]] |= shownLines[i];
        shownNodes[edgeWriter[lineEdge[i]]] |= shownLines[i];
        shownNodes[lineNode[i]] |= shownLines[i];
      }
    return cut;
  }

  const count = (flags, test) => flags.reduce((n, bits) => n + (test(bits) ? 1 : 0), 0);

  // ---- colours ---------------------------------------------------------------------------------------------------

  const LEVELS = 8;
  let colours = {};
  function readColours() {
    const style = getComputedStyle(document.documentElement);
    colours = {};
    for (const name of "paper band ink quiet line accent positive negative middle shared left right node mlp ghost".split(" "))
      colours[name] = style.getPropertyValue(`--${name}`).trim();
    const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    const mixed = (a, b, share) => `rgb(${rgb(a).map((x, i) => Math.round(x + share * (rgb(b)[i] - x))).join(" ")})`;
    colours.ramp = {};
    for (const sign of ["positive", "negative"])
      colours.ramp[sign] = Array.from({ length: LEVELS }, (_, i) =>
        mixed(colours.middle, colours[sign], Math.min(1, 0.25 + (0.9 * i) / (LEVELS - 1)))
      );
  }

  // In a crowd the weak fade, so that the strong can be seen.
  let crowd = 1; // 1 for few edges, towards 0 for many
  const between = (weak, strong, level) => weak + (strong - weak) * (level / (LEVELS - 1)) ** (2.2 - 1.2 * crowd);
  const widthOf = (level) => between(0.35 + 0.55 * crowd, 2.6 + 1.8 * crowd, level);
  const alphaOf = (level) => between(0.1 + 0.4 * crowd, 0.95, level);

  // ---- views -----------------------------------------------------------------------------------------------------

  let views = [];
  let fitted = null; // where a view stands that has all of the picture in it, until the reader moves it
  const frames = []; // how long the last frames took, for whoever measures

  class View {
    // bits: which circuits are drawn here; LEFT | RIGHT lays one over the other.
    constructor(bits) {
      this.bits = bits;
      this.overlaid = pair && bits === (LEFT | RIGHT);
      const label = pair && !this.overlaid ? circuits[bits - 1].name : circuits.map((c) => c.name).join(" and ");
      this.box = element("div", null, stage, {
        class: "view", tabindex: "0", role: "application", "aria-roledescription": "graph",
        "aria-label": `Circuit: ${label}. Arrow keys walk from node to node, Enter shows the paths of one.`,
      });
      [this.ground, this.edges, this.front] = [0, 1, 2].map(() => element("canvas", null, this.box).getContext("2d"));
      this.nodes = element("div", null, this.box, { class: "nodes" });
      this.headings = spans.map((name, span) => {
        const heading = element("div", null, this.box, { class: "span", title: name });
        element("b", name, heading);
        element("i", texts.get(name) ?? "", heading);
        return { heading, span };
      });
      if (pair && !this.overlaid) element("div", circuits[bits - 1].name, this.box, { class: "name" });
      this.strands = []; // what is drawn, the strongest first: a line, or the lines between two boxes of which one is folded
      this.chunk = 600;
      this.next = Infinity;
      this.cursor = null; // the node that the keys are at
      this.hovered = null;
      this.cy = cytoscape({
        container: this.nodes,
        elements: [],
        layout: { name: "preset" },
        style: this.style(),
        minZoom: 0.05,
        maxZoom: 4,
        autoungrabify: true,
        autounselectify: true,
        boxSelectionEnabled: false,
      });
      this.cy.on("viewport", () => this.moved());
      this.cy.on("tap", (event) => {
        if (event.target === this.cy) {
          const strand = this.strandAt(event.position);
          if (strand === null) select(null, null);
          else if (strand.edges.length === 1) select(null, strand.edges[0]);
          else openBundle(strand);
        } else chooseBox(Number(event.target.id()));
      });
      this.cy.on("mousemove", (event) => {
        const client = { x: event.originalEvent.clientX, y: event.originalEvent.clientY };
        if (event.target !== this.cy) this.hover(Number(event.target.id()), null, client);
        else this.hover(null, this.strandAt(event.position), client);
      });
      this.box.addEventListener("mouseleave", () => this.hover(null, null));
      this.box.addEventListener("keydown", (event) => this.key(event));
      this.observer = new ResizeObserver(() => this.resize());
      this.observer.observe(this.box);
    }

    style() {
      const outline = (name, width) => ({ "border-color": colours[name], "border-width": width });
      return [
        {
          selector: "node",
          style: {
            shape: "round-rectangle", width: WIDTH, height: HEIGHT, "background-color": colours.node,
            label: "data(name)", "font-size": 12.5, color: colours.ink, "text-valign": "center", "text-halign": "center",
            "font-family": getComputedStyle(document.body).fontFamily, "min-zoomed-font-size": 5, ...outline("quiet", 1),
          },
        },
        { selector: ".mlp", style: { "background-color": colours.mlp } },
        { selector: ".input, .logits", style: { width: 1.5 * WIDTH, "background-color": colours.mlp } },
        { selector: ".group", style: { "border-style": "dashed" } },
        {
          selector: ".off",
          style: {
            label: "", width: 8, height: 8, shape: "ellipse", "background-color": colours.ghost, "border-width": 0,
          },
        },
        { selector: ".found", style: outline("accent", 2.5) },
        { selector: ".chosen", style: { "background-color": colours.accent, color: colours.paper, ...outline("accent", 2) } },
        { selector: ".cursor", style: { "overlay-color": colours.accent, "overlay-opacity": 0.25, "overlay-padding": 5 } },
      ];
    }

    remove() {
      this.observer.disconnect();
      this.next = Infinity;
      this.cy.destroy();
      this.box.remove();
    }

    resize() {
      const [width, height] = [this.box.clientWidth, this.box.clientHeight];
      if (!width || !height) return;
      this.ratio = Math.min(2, window.devicePixelRatio || 1);
      for (const canvas of [this.ground.canvas, this.edges.canvas, this.front.canvas]) {
        canvas.width = Math.round(width * this.ratio);
        canvas.height = Math.round(height * this.ratio);
      }
      this.cy.resize();
      // By width alone: a bar above that takes another line must not move what is looked at.
      if (width !== this.width) {
        const whole = !this.width || fitted === this.place();
        this.width = width;
        if (whole) settle(width, height);
      }
      this.draw();
    }

    // The boxes as they are now, with what is in them.
    stock() {
      this.cursor = null;
      this.cy.batch(() => {
        this.cy.elements().remove();
        this.cy.add(
          boxes.map((box) => ({
            data: { id: String(box), name: isGroup(box) ? `+${members.get(box).length}` : plainNames[box % perSpan] },
            classes: kindOfBox(box),
            position: { x: boxX[box], y: boxY[box] },
          }))
        );
      });
    }

    // How high what stands over the picture is.
    above() {
      return (spans.length ? 50 : 8) + (pair && !this.overlaid ? 28 : 0);
    }

    // All of the picture if its words can then be read, else all of its width, from the logits down.
    fit() {
      const [width, height] = [this.box.clientWidth, this.box.clientHeight];
      const above = this.above();
      const [across, tall] = [picture.right - picture.left, picture.bottom - picture.top];
      const whole = Math.min(width / across, (height - above - 8) / tall);
      const readable = whole >= 0.8 ? Math.min(1.6, whole) : Math.max(0.7, Math.min(1, width / across));
      const spare = height - above - 8 - tall * readable;
      this.cy.viewport({
        zoom: readable,
        pan: { x: (width - across * readable) / 2, y: above - picture.top * readable + Math.max(0, spare / 2) },
      });
      fitted = this.place();
    }

    place() {
      return [this.cy.zoom(), this.cy.pan().x, this.cy.pan().y].join();
    }

    moved() {
      const follow = () => {
        for (const view of views)
          if (view !== this) {
            view.following = true;
            view.cy.viewport({ zoom: this.cy.zoom(), pan: this.cy.pan() });
            view.following = false;
          }
      };
      if (!this.following) follow();
      this.draw();
    }

    camera(context) {
      const [zoom, pan] = [this.cy.zoom() * this.ratio, this.cy.pan()];
      context.setTransform(zoom, 0, 0, zoom, pan.x * this.ratio, pan.y * this.ratio);
    }

    clear(context) {
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, context.canvas.width, context.canvas.height);
    }

    // Draws anew, from the strongest edge on; frames still to come for an older picture are taken over.
    draw() {
      if (!this.ratio) return;
      this.fresh = true;
      if (this.next === Infinity) {
        this.last = null;
        requestAnimationFrame((now) => this.frame(now));
      }
      this.next = 0;
    }

    frame(now) {
      if (this.next === Infinity) return;
      if (this.last !== null) {
        const took = now - this.last;
        frames.push(took);
        if (frames.length > 2000) frames.shift();
        if (took > 34) this.chunk = Math.max(300, this.chunk * 0.6);
        else if (took < 20) this.chunk = Math.min(20000, this.chunk * 1.3);
      }
      this.last = now;
      if (this.fresh) {
        this.fresh = false;
        this.drawGround();
        this.clear(this.edges);
        this.drawFront();
      }
      this.camera(this.edges);
      this.edges.globalCompositeOperation = "destination-over";
      this.next = this.strokes(this.next, Math.round(this.chunk));
      if (this.next < Infinity) requestAnimationFrame((later) => this.frame(later));
    }

    // Strokes up to `most` of the lines in order from `start`; gives where to go on, Infinity after the last.
    strokes(start, most) {
      const context = this.edges;
      let drawn = 0;
      let at = start;
      let paths = new Map();
      const flush = () => {
        for (const [style, path] of paths) {
          const level = style % LEVELS;
          const hue = (style - level) / LEVELS;
          context.globalAlpha = hue > 2 ? Math.max(0.6, alphaOf(level)) : alphaOf(level);
          context.lineWidth = widthOf(level);
          context.strokeStyle =
            hue < 2 ? colours.ramp[hue ? "negative" : "positive"][level] : colours[["shared", "left", "right"][hue - 2]];
          context.stroke(path);
        }
        paths = new Map();
      };
      for (; at < this.strands.length && drawn < most; at++) {
        const strand = this.strands[at];
        const style = strand.hue * LEVELS + strand.level;
        let path = paths.get(style);
        if (!path) paths.set(style, (path = new Path2D()));
        trace(path, strand.curve);
        if (++drawn % 64 === 0) flush(); // a long path is slow to stroke, and its own crossings would not add up
      }
      flush();
      return at < this.strands.length ? at : Infinity;
    }

    // What is drawn between the boxes as they are now. Edges into a folded box, or out of one, are bundled.
    string() {
      const made = new Map();
      const rank = (i) => {
        let strongest = 0;
        for (let c = 0; c < circuits.length; c++)
          if (this.bits & (1 << c) && ranks[c][lineEdge[i]] !== ABSENT) strongest = Math.max(strongest, strengths[c][lineEdge[i]]);
        return strongest;
      };
      const own = this.bits === RIGHT ? 1 : 0;
      const signed = !this.overlaid && circuits[own].scores_are === "effects" && circuits[own].scores !== null;
      for (let i = 0; i < nLines; i++) {
        const bits = shownLines[i] & this.bits;
        if (!bits) continue;
        const [from, to] = [home[edgeWriter[lineEdge[i]]], home[lineNode[i]]];
        const kind = readerKinds[edgeReader[lineEdge[i]]];
        const key = isGroup(from) || isGroup(to) ? `${from},${to},${isGroup(to) ? "" : kind},${this.overlaid ? bits : 0}` : i;
        let strand = made.get(key);
        if (!strand) made.set(key, (strand = { from, to, kind, bits, edges: [], lines: [], square: 0, sum: 0 }));
        if (strand.edges[strand.edges.length - 1] !== lineEdge[i]) {
          strand.edges.push(lineEdge[i]);
          strand.square += rank(i) ** 2;
          if (signed) strand.sum += scores[own][lineEdge[i]];
        }
        strand.lines.push(i);
      }
      this.strands = [...made.values()];
      // A bundle is as wide as the sum of its edges; widths are roots.
      for (const strand of this.strands) strand.strength = Math.sqrt(strand.square);
      this.strands.sort((a, b) => b.strength - a.strength);
      const largest = Math.max(1, this.strands[Math.floor(0.01 * this.strands.length)]?.strength ?? 1);
      for (const strand of this.strands) {
        strand.level = Math.min(LEVELS - 1, Math.floor((strand.strength / largest) * LEVELS));
        strand.hue = this.overlaid ? (strand.bits === (LEFT | RIGHT) ? 2 : strand.bits === LEFT ? 3 : 4) : strand.sum < 0 ? 1 : 0;
        strand.curve = curveOf(strand.from, strand.to, strand.kind);
      }
    }

    drawGround() {
      const context = this.ground;
      this.clear(context);
      const [zoom, pan] = [this.cy.zoom(), this.cy.pan()];
      const width = this.box.clientWidth;
      context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
      context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
      context.textBaseline = "middle";
      const leftmost = boxes.reduce((least, box) => Math.min(least, boxX[box]), Infinity);
      const free = (leftmost - WIDTH / 2) * zoom + pan.x; // what the leftmost boxes leave for the names of the layers
      let named = Infinity;
      layers.forEach((layer, row) => {
        const [low, high] = layerAt[row].map((y) => y * zoom + pan.y);
        if (row % 2 === 0) {
          context.fillStyle = colours.band;
          const top = high - (RAISED + 0.24 * ROW) * zoom;
          context.fillRect(0, top, width, low + 0.34 * ROW * zoom - top);
        }
        const middle = (low + high) / 2;
        if (named - middle < 14) return;
        named = middle;
        context.fillStyle = colours.quiet;
        context.fillText(free < 0 || free > 54 ? `layer ${layer}` : `${layer}`, 6, middle);
      });
      for (const { heading, span } of this.headings) {
        const [left, right] = edgesOfSpans[span].map((x) => x * zoom + pan.x);
        context.fillStyle = colours.line;
        for (const x of [left, right]) context.fillRect(Math.round(x), 0, 1, this.box.clientHeight);
        const [from, to] = [Math.max(0, left), Math.min(width, right)]; // what of it is seen
        heading.hidden = to - from < 12;
        heading.style.left = `${from}px`;
        heading.style.width = `${to - from + 1}px`;
      }
      if (zoom < 0.9) return;
      // Which of a head's three inputs is which.
      this.camera(context);
      context.font = `7px ${getComputedStyle(document.body).fontFamily}`;
      context.textAlign = "center";
      context.fillStyle = colours.quiet;
      for (const box of boxes)
        if (kindOfBox(box) === "head" && shownNodes[box] & this.bits)
          for (const kind of "qkv") context.fillText(kind, boxX[box] + PORT[kind] - 5, boxY[box] + HEIGHT / 2 + 6);
      context.textAlign = "start";
    }

    drawFront() {
      const context = this.front;
      this.clear(context);
      this.camera(context);
      const strong = (strand, colour) => {
        const path = new Path2D();
        trace(path, strand.curve);
        context.lineCap = "round";
        context.lineWidth = widthOf(strand.level) + 5;
        context.strokeStyle = colours.paper;
        context.stroke(path);
        context.lineWidth = widthOf(strand.level) + 1.5;
        context.strokeStyle = colour;
        context.stroke(path);
      };
      const chosen = new Set(state.bundle ?? (state.edge === null ? [] : [state.edge]));
      if (chosen.size) for (const strand of this.strands) if (strand.edges.some((e) => chosen.has(e))) strong(strand, colours.ink);
      if (this.hovered !== null) strong(this.hovered, colours.ink);
    }

    // The line nearest to a point, if it is within a few pixels; of two as near, the stronger.
    strandAt(point) {
      let nearest = 6 / this.cy.zoom();
      let found = null;
      for (const strand of this.strands) {
        const [x0, y0, x1, y1, bow, straight] = strand.curve;
        if (point.y > y0 + nearest || point.y < y1 - nearest) continue;
        if (point.x < Math.min(x0, x1, x0 + bow, x1 + bow) - nearest) continue;
        if (point.x > Math.max(x0, x1, x0 + bow, x1 + bow) + nearest) continue;
        // Heights fall steadily along the line, so the place at the point's height is found by halving.
        let [low, high] = [0, 1];
        for (let step = 0; step < 12; step++) {
          const t = (low + high) / 2;
          if (bezier(t, y0, y0 - straight, y1 + straight, y1) > point.y) low = t;
          else high = t;
        }
        const t = (low + high) / 2;
        const dx = bezier(t, x0, x0 + bow, x1 + bow, x1) - point.x;
        const [ahead, behind] = [Math.min(1, t + 0.02), Math.max(0, t - 0.02)];
        const slope = [
          bezier(ahead, x0, x0 + bow, x1 + bow, x1) - bezier(behind, x0, x0 + bow, x1 + bow, x1),
          bezier(ahead, y0, y0 - straight, y1 + straight, y1) - bezier(behind, y0, y0 - straight, y1 + straight, y1),
        ];
        const distance = (Math.abs(dx) * Math.abs(slope[1])) / (Math.hypot(...slope) || 1);
        if (distance < nearest) [nearest, found] = [distance, strand];
      }
      return found;
    }

    hover(box, strand, client) {
      if (strand !== this.hovered) {
        this.hovered = strand;
        this.drawFront();
      }
      const visible = box !== null ? box : strand;
      this.nodes.style.cursor = visible === null ? "" : "pointer";
      if (visible === null) $("tip").hidden = true;
      else tell(box !== null ? boxTold(box) : strandTold(strand), client);
    }

    update() {
      this.hovered = null;
      this.string();
      this.cy.batch(() => {
        this.cy.nodes().forEach((element) => {
          const box = Number(element.id());
          const inside = members.get(box) ?? [box];
          const ends = !isGroup(box) && (isInput(box) || isLogits(box));
          const flags = {
            off: !ends && box !== state.node && !inside.some((i) => shownNodes[i] & this.bits),
            chosen: box === state.node,
            found: inside.some((i) => foundNodes.has(i)),
          };
          for (const [name, is] of Object.entries(flags)) if (element.hasClass(name) !== is) element.toggleClass(name, is);
        });
      });
      this.draw();
    }

    key(event) {
      const walk = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
      if (walk) this.walk(...walk);
      else if (event.key === "Enter" || event.key === " ") {
        if (this.cursor !== null) this.cursor === state.node ? select(null, null) : chooseBox(this.cursor);
      } else if (event.key === "+" || event.key === "=") this.zoom(1.25);
      else if (event.key === "-") this.zoom(0.8);
      else if (event.key === "0") this.fit();
      else return;
      event.preventDefault();
    }

    zoom(factor) {
      const renderedPosition = { x: this.box.clientWidth / 2, y: this.box.clientHeight / 2 };
      this.cy.zoom({ level: this.cy.zoom() * factor, renderedPosition });
    }

    // To the nearest node that is shown, in the direction of the arrow.
    walk(right, up) {
      const shown = boxes.filter((box) => (members.get(box) ?? [box]).some((i) => shownNodes[i] & this.bits));
      if (!shown.length) return;
      const here = this.cursor ?? state.node;
      let best = here === null ? shown[0] : null;
      let least = Infinity;
      for (const box of here === null ? [] : shown) {
        const [dx, dy] = [boxX[box] - boxX[here], boxY[here] - boxY[box]];
        const [along, across] = right ? [right * dx, dy] : [up * dy, dx];
        const cost = (up ? 3 : 1) * along + Math.abs(across); // upward, the next row first
        if (along > 1 && (right ? layerOfBox(box) === layerOfBox(here) : true) && cost < least) [least, best] = [cost, box];
      }
      if (best === null) return;
      this.setCursor(best);
      this.cy.animate({ center: { eles: this.cy.$id(String(best)) }, duration: 0 });
      $("said").textContent = boxTold(best).replaceAll("\n", ", ");
    }

    setCursor(node) {
      this.cy.nodes(".cursor").removeClass("cursor");
      if (node !== null) this.cy.$id(String(node)).addClass("cursor");
      this.cursor = node;
    }
  }

  const bezier = (t, a, b, c, d) => ((1 - t) * a + 3 * t * b) * (1 - t) ** 2 + t * t * (3 * (1 - t) * c + t * d);

  function trace(path, [x0, y0, x1, y1, bow, straight]) {
    path.moveTo(x0, y0);
    path.bezierCurveTo(x0 + bow, y0 - straight, x1 + bow, y1 + straight, x1, y1);
  }

  // ---- words -----------------------------------------------------------------------------------------------------

  const kindSaid = { q: "query", k: "key", v: "value", mlp: "MLP", logits: "logits" };

  function scoreSaid(c, e) {
    if (ranks[c][e] === ABSENT) return "not in it";
    const score = circuits[c].scores === null ? "no score" : `score ${short(scores[c][e])}`;
    return circuits[c].scores === null ? score : `${score}, rank ${number(ranks[c][e] + 1)} of ${number(circuits[c].n_edges)}`;
  }

  function edgeTold(e) {
    const where = spans.length ? ` in the span ${spans[edgeSpan[e]]}` : "";
    const read = `read as ${kindSaid[readerKinds[edgeReader[e]]]}${where}`;
    const seen = spans.length && looksBack(e) ? [`looked at from ${seenFrom(e).map((span) => spans[span]).join(", ")}`] : [];
    return [edgeName(e), read, ...seen, ...circuits.map((circuit, c) => (pair ? `${circuit.name}: ` : "") + scoreSaid(c, e))].join("\n");
  }

  const boxSaid = (box) =>
    isGroup(box) ? `${members.get(box).length} heads of layer ${layerOfBox(box)}${at(spanOfBox(box))}` : nodeNames[box];

  function strandTold(strand) {
    if (strand.edges.length === 1) return edgeTold(strand.edges[0]);
    return `${number(strand.edges.length)} edges\nfrom ${boxSaid(strand.from)}\nto ${boxSaid(strand.to)}\na click opens them`;
  }

  function boxTold(box) {
    if (!isGroup(box)) return nodeTold(box);
    const names = members.get(box).map((i) => plainNames[i % perSpan]);
    return `${boxSaid(box)}\n${names.join(", ")}\na click opens them`;
  }

  // The spans in which a key or a value is seen.
  function seenFrom(e) {
    const found = new Set();
    for (let i = 0; i < nLines; i++) if (lineEdge[i] === e) found.add(spanOf(lineNode[i]));
    return [...found].sort((a, b) => a - b);
  }

  function nodeTold(node) {
    const lines = [nodeNames[node]];
    circuits.forEach((circuit, c) => {
      let [into, out] = [new Set(), new Set()];
      for (let i = 0; i < nLines; i++)
        if (shownLines[i] & (1 << c)) {
          if (lineNode[i] === node) into.add(lineEdge[i]);
          if (edgeWriter[lineEdge[i]] === node) out.add(lineEdge[i]);
        }
      const own = circuit.node_scores && !isLogits(node) ? circuit.node_scores[node % perSpan] : null;
      const score = own === null ? "" : `, node score ${short(own)}`;
      lines.push(`${pair ? `${circuit.name}: ` : ""}${number(into.size)} in, ${number(out.size)} out${score}`);
    });
    return lines.join("\n");
  }

  function tell(text, client) {
    const tip = $("tip");
    tip.textContent = text;
    tip.hidden = false;
    const [width, height] = [tip.offsetWidth, tip.offsetHeight];
    tip.style.left = `${Math.max(4, Math.min(client.x + 14, window.innerWidth - width - 8))}px`;
    tip.style.top = `${client.y + 18 + height > window.innerHeight ? client.y - height - 10 : client.y + 18}px`;
  }

  // ---- the curve -------------------------------------------------------------------------------------------------

  const byMeasure = (name) => (name === undefined || name === "logit_difference" ? "" : `, by ${plain(name)}`);
  const groups = new Map(); // "ablation, split" -> for each circuit its points by size
  circuits.forEach((circuit, c) => {
    for (const point of circuit.curve) {
      const name = `${point.ablation}, ${point.split}${byMeasure(point.measure)}`;
      if (!groups.has(name)) groups.set(name, circuits.map(() => []));
      groups.get(name)[c].push(point);
    }
  });
  for (const lists of groups.values()) for (const list of lists) list.sort((a, b) => a.edges - b.edges);
  let measure = groups.size ? groups.keys().next().value : null;

  // f at a size: as measured there, or on a line (in the logarithm of the size) between the sizes measured around it.
  function faithfulnessAt(c, n) {
    const points = measure === null ? [] : groups.get(measure)[c];
    const after = points.findIndex((point) => point.edges >= n);
    if (after < 0) return null;
    const b = points[after];
    if (b.edges === n) return { f: b.faithfulness, low: b.faithfulness_low, high: b.faithfulness_high, exact: true };
    if (after === 0) return null;
    const a = points[after - 1];
    const share = Math.log(n / Math.max(1, a.edges)) / Math.log(b.edges / Math.max(1, a.edges));
    return { f: a.faithfulness + share * (b.faithfulness - a.faithfulness), exact: false };
  }

  function faithfulnessSaid(c, n) {
    const at = faithfulnessAt(c, n);
    if (at === null) return "";
    if (!at.exact) return `f ≈ ${at.f.toFixed(2)}`;
    const between = at.low === null || at.low === undefined ? "" : ` (${at.low.toFixed(2)} to ${at.high.toFixed(2)})`;
    return `f = ${at.f.toFixed(2)}${between}`;
  }

  function drawChart(cut) {
    if (measure === null) return;
    const lists = groups.get(measure);
    const all = lists.flat();
    const [width, height, left, bottom, top] = [268, 132, 28, 18, 6];
    const log = (n) => Math.log10(Math.max(1, n));
    const x0 = Math.floor(log(Math.min(...all.map((p) => p.edges), ...cut)));
    const x1 = Math.max(x0 + 1, Math.ceil(log(Math.max(...all.map((p) => p.edges), ...cut))));
    const y0 = Math.min(0, ...all.map((p) => p.faithfulness));
    const y1 = Math.max(1, ...all.map((p) => p.faithfulness)) * 1.04;
    const x = (n) => left + ((log(n) - x0) / (x1 - x0)) * (width - left - 8);
    const y = (f) => height - bottom - ((f - y0) / (y1 - y0)) * (height - bottom - top);
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `Faithfulness by number of edges, ${measure}`);
    const add = (tag, attributes, text) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      if (text !== undefined) made.textContent = text;
      svg.append(made);
    };
    for (const f of [0, 1]) {
      add("line", { x1: left, x2: width - 8, y1: y(f), y2: y(f), stroke: colours.line });
      add("text", { x: left - 6, y: y(f) + 3, "text-anchor": "end" }, f);
    }
    for (let power = x0; power <= x1; power++)
      add("text", { x: x(10 ** power), y: height - 4, "text-anchor": power === x1 ? "end" : "middle" }, thousands(10 ** power));
    lists.forEach((points, c) => {
      const colour = pair ? colours[["left", "right"][c]] : colours.accent;
      add("line", { x1: x(cut[c]), x2: x(cut[c]), y1: top, y2: height - bottom, stroke: colour, "stroke-dasharray": "2 3" });
      add("polyline", {
        points: points.map((p) => `${x(p.edges)},${y(p.faithfulness)}`).join(" "), fill: "none", stroke: colour, "stroke-width": 1.6,
      });
      for (const p of points) {
        if (p.faithfulness_low !== null && p.faithfulness_high !== null)
          add("line", {
            x1: x(p.edges), x2: x(p.edges), y1: y(p.faithfulness_low), y2: y(p.faithfulness_high), stroke: colour,
            "stroke-width": 1,
          });
        add("circle", { cx: x(p.edges), cy: y(p.faithfulness), r: 2.4, fill: colour });
      }
    });
    $("chart").replaceChildren(svg);
  }

  // ---- from state to page ----------------------------------------------------------------------------------------

  let announced = null;

  // Gives the boxes their places in views of this size, and shows all of it.
  function settle(width, height) {
    place(width, height - views[0].above() - 8);
    for (const view of views) view.stock();
    for (const view of views) view.update();
    views[0].fit();
  }

  // `anew`: the boxes are chosen and placed as the slider has it now, else only if a node would have none.
  function update(anew = false) {
    cut = choose();
    if (arrange(anew)) settle(views[0].box.clientWidth, views[0].box.clientHeight);
    else for (const view of views) view.update();
    const drawn = Math.max(...views.map((view) => view.strands.length));
    crowd = Math.min(1, Math.sqrt(150 / Math.max(1, drawn)));
    $("refold").hidden = !opened.size;
    showCut();
    showSharing();
    showSelection();
    drawChart(cut);
    $("tip").hidden = true; // it tells of what was shown before
    clearTimeout(announced);
    announced = setTimeout(() => ($("said").textContent = $("summary").textContent), 600);
  }

  let pending = false;
  function soon() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      update();
    });
  }

  function showCut() {
    $("slider").value = positionOf(state.n);
    if (document.activeElement !== $("count")) $("count").value = state.n;
    const said = circuits.map((circuit, c) => {
      const parts = [`${number(cut[c])} of ${number(circuit.n_edges)} edges`];
      const key = keys[c];
      if (key && cut[c]) parts.push(`${circuit.ranking === "signed" ? "score" : "|score|"} ≥ ${short(key[cut[c] - 1])}`);
      return (pair ? `${circuit.name}: ` : "") + parts.join(", ");
    });
    $("threshold").textContent = said.join("\n");
    $("slider").setAttribute("aria-valuetext", said.join("; "));
    const f = circuits.map((_, c) => faithfulnessSaid(c, cut[c]));
    const filtered =
      state.node !== null || state.kinds.size < KINDS.length || state.spans.size < nSpans || state.from > 0 || state.to < nLayers - 1;
    const whole = filtered ? ", unfiltered" : "";
    $("faithfulness").textContent = f.some(Boolean) ? f.map((text) => (text ? text + whole : "f not measured")).join("\n") : "";
    $("faithfulness").title = measure === null ? "" : `Faithfulness under ${measure}: measured at the sizes in the chart, ≈ between them`;
    const [edges, nodes] = [count(shownEdges, (bits) => bits), count(shownNodes, (bits) => bits)];
    const own = new Set(Array.from(nodeNames.keys()).filter((i) => shownNodes[i]).map((i) => i % perSpan)).size;
    const nodesSaid = spans.length ? `${number(own)} nodes in ${number(nodes)} places` : `${number(nodes)} nodes`;
    const rest = state.node === null ? "" : `, on the paths of ${nodeNames[state.node]}`;
    const all = `${percent(edges / data.n_edges)} of the model's ${number(data.n_edges)}`;
    $("summary").textContent = `${number(edges)} edges shown (${all}), ${nodesSaid}${rest}`;
  }

  function definitions(list, pairs) {
    list.replaceChildren();
    for (const [term, text, swatch] of pairs) {
      const dt = element("dt", null, list);
      if (swatch) element("span", null, dt, { class: "swatch" }).style.background = colours[swatch];
      dt.append(term);
      element("dd", text, list);
    }
  }

  const share = (part, whole) => (whole ? part / whole : 1);

  function showSharing() {
    if (!pair) return;
    const tally = (flags) => [3, 1, 2].map((bits) => count(flags, (own) => own === bits));
    const [both, left, right] = tally(shownEdges);
    const [nodesBoth, nodesLeft, nodesRight] = tally(shownNodes);
    definitions($("sharing"), [
      ["shared", `${number(both)} edges`, "shared"],
      [`only ${circuits[0].name}`, `${number(left)} edges`, "left"],
      [`only ${circuits[1].name}`, `${number(right)} edges`, "right"],
      ["IoU of edges", share(both, both + left + right).toFixed(3)],
      [spans.length ? "IoU of nodes, by span" : "IoU of nodes", share(nodesBoth, nodesBoth + nodesLeft + nodesRight).toFixed(3)],
    ]);
  }

  function edgeButton(e, parent) {
    const button = element("button", null, element("li", null, parent), { type: "button" });
    element("span", edgeName(e), button);
    const own = circuits.map((_, c) => (ranks[c][e] === ABSENT || circuits[c].scores === null ? "-" : short(scores[c][e])));
    element("span", own.join(" · "), button);
    button.addEventListener("click", () => select(null, e));
  }

  function strongestFirst(edges) {
    const rank = (e) => Math.min(...ranks.map((own) => own[e]));
    return [...edges].sort((a, b) => rank(a) - rank(b));
  }

  function showSelection() {
    const [node, edge] = [state.node, state.edge];
    $("selection").hidden = node === null && edge === null && state.bundle === null;
    if ($("selection").hidden) return;
    const details = $("details");
    details.replaceChildren();
    if (state.bundle !== null) {
      $("selected").textContent = state.title;
      const list = element("ul", null, details, { style: "list-style:none;margin:0;padding:0;max-height:260px;overflow-y:auto" });
      for (const e of strongestFirst(state.bundle).slice(0, LISTED)) edgeButton(e, list);
      if (state.bundle.length > LISTED) element("div", `and ${number(state.bundle.length - LISTED)} more`, details, { class: "quiet" });
      return;
    }
    $("selected").textContent = node === null ? edgeName(edge) : `Paths of ${nodeNames[node]}`;
    if (node === null) {
      for (const line of edgeTold(edge).split("\n").slice(1)) element("div", line, details);
      for (const end of new Set([edgeWriter[edge], ...lineNode.filter((_, i) => lineEdge[i] === edge)])) {
        const button = element("button", `Paths of ${nodeNames[end]}`, details, { type: "button" });
        button.addEventListener("click", () => select(end, null));
      }
      return;
    }
    element("div", nodeTold(node).split("\n").slice(1).join("; "), details);
    if (spans.length) {
      const text = (texts.get(spans[spanOf(node)]) ?? "").trim();
      element("div", `in the span ${spans[spanOf(node)]}${text ? `, “${text}”` : ""}`, details);
      const others = Array.from(nodeNames.keys()).filter((i) => i !== node && i % perSpan === node % perSpan && shownInFile[i]);
      const row = others.length ? element("div", "also in", details, { class: "row" }) : null;
      for (const other of others)
        element("button", spans[spanOf(other)], row, { type: "button" }).addEventListener("click", () => select(other, null));
    }
    circuits.forEach((circuit, c) => {
      const where = pair ? ` in ${circuit.name}` : "";
      if (!ends[c].fromInput) element("div", `No way from the input leads here${where}.`, details, { class: "quiet" });
      if (!ends[c].toLogits) element("div", `No way from here leads to the logits${where}.`, details, { class: "quiet" });
    });
    for (const [title, test] of [
      ["reads, strongest first", (i) => lineNode[i] === node],
      ["is read by, strongest first", (i) => edgeWriter[lineEdge[i]] === node],
    ]) {
      const edges = new Set();
      for (let i = 0; i < nLines; i++) if (shownLines[i] && test(i)) edges.add(lineEdge[i]);
      if (!edges.size) continue;
      element("h3", title, details);
      const list = element("ul", null, details, { style: "list-style:none;margin:0;padding:0" });
      for (const e of strongestFirst(edges).slice(0, 8)) edgeButton(e, list);
      if (edges.size > 8) element("div", `and ${number(edges.size - 8)} more`, details, { class: "quiet" });
    }
  }

  function select(node, edge) {
    state.node = node;
    state.edge = edge;
    state.bundle = null;
    const folded = node !== null && isGroup(home[node]);
    if (folded) opened.add(home[node]);
    update(folded);
  }

  // A click on a box: the ways of a node; heads that are folded get their own boxes.
  function chooseBox(box) {
    if (!isGroup(box)) return select(box, null);
    opened.add(box);
    update(true);
  }

  // Its edges are listed, and drawn one by one.
  function openBundle(strand) {
    for (const box of [strand.from, strand.to]) if (isGroup(box)) opened.add(box);
    const title = `${number(strand.edges.length)} edges from ${boxSaid(strand.from)} to ${boxSaid(strand.to)}`;
    Object.assign(state, { node: null, edge: null, bundle: strand.edges, title });
    update(true);
  }

  // ---- the slider: evenly for a small circuit, by the logarithm for a large one ------------------------------------

  const STEPS = 1000;
  const even = most <= STEPS;
  const sizeOf = (at) => (even ? at : Math.max(1, Math.round(most ** (at / STEPS))));
  const positionOf = (n) => (even ? n : Math.round((STEPS * Math.log(Math.max(1, n))) / Math.log(most)));

  function setSize(n) {
    if (!Number.isFinite(n)) return;
    state.n = Math.max(1, Math.min(most, Math.round(n)));
    soon();
  }

  // ---- search ----------------------------------------------------------------------------------------------------

  let foundNodes = new Set();
  const LISTED = 50;

  function search() {
    const text = $("search").value.trim().toLowerCase();
    const nodes = text ? nodeNames.flatMap((name, i) => (name.toLowerCase().includes(text) ? [i] : [])) : [];
    const present = nodes.filter((i) => shownInFile[i]);
    const edges = text ? strongestFirst(Array.from(flats.keys()).filter((e) => edgeName(e).toLowerCase().includes(text))) : [];
    foundNodes = new Set(present);
    $("found").textContent = text ? `${number(present.length)} nodes, ${number(edges.length)} edges` : "";
    const list = $("results");
    list.replaceChildren();
    for (const i of present.slice(0, LISTED)) {
      const button = element("button", null, element("li", null, list), { type: "button" });
      element("span", nodeNames[i], button);
      element("span", "node", button);
      button.addEventListener("click", () => select(i, null));
    }
    for (const e of edges.slice(0, LISTED)) edgeButton(e, list);
    for (const view of views) view.update();
  }

  const shownInFile = new Uint8Array(nNodes);
  for (let i = 0; i < nLines; i++) shownInFile[edgeWriter[lineEdge[i]]] = shownInFile[lineNode[i]] = 1;

  // ---- about -----------------------------------------------------------------------------------------------------

  function plain(value) {
    if (value === null || value === undefined) return "-";
    if (Array.isArray(value)) return value.map(plain).join(", ");
    if (typeof value === "object")
      return Object.entries(value).map(([key, own]) => `${key} ${plain(own)}`).join(", ");
    return typeof value === "number" ? (Number.isInteger(value) ? number(value) : short(value)) : String(value);
  }

  function about() {
    const place = $("about");
    circuits.forEach((circuit, c) => {
      const said = circuit.metadata;
      element("h2", pair ? `About ${circuit.name}` : "About", place);
      const first = ["method", "model", "ablation", "objective", "ranking"];
      const rows = first.filter((key) => key in said).map((key) => [key, plain(said[key])]);
      if ("edges" in said && "edges_pruned" in said)
        rows.push(["edges", `${plain(said.edges)} found, ${plain(said.edges_pruned)} after pruning`]);
      rows.push(["in the file", `${number(circuit.n_edges)} of ${number(data.n_edges)} edges, ` +
        `${number(circuit.on_a_way)} on a way from input to logits`]);
      const done = new Set([...first, "edges", "edges_pruned", "n_edges", "measured", "size", "versions", "example", "swapped"]);
      for (const [key, value] of Object.entries(said)) if (!done.has(key)) rows.push([key.replaceAll("_", " "), plain(value)]);
      definitions(element("dl", null, place), rows);
      const measured = Array.isArray(said.measured) ? said.measured.filter((row) => row && typeof row === "object") : [];
      if (!measured.length) return;
      const table = element("table", null, element("div", null, place, { class: "scroll" }));
      const head = element("tr", null, element("thead", null, table));
      for (const name of ["measured", "edges", "f", "KL", "accuracy"]) element("th", name, head);
      const body = element("tbody", null, table);
      const fixed = (value, digits) => (typeof value === "number" ? value.toFixed(digits) : "-");
      for (const row of measured) {
        const line = element("tr", null, body);
        element("td", `${plain(row.circuit)}, ${plain(row.ablation)}, ${plain(row.split)}${byMeasure(row.measure)}`, line);
        element("td", plain(row.edges), line);
        const between = typeof row.faithfulness_low === "number" ? `${fixed(row.faithfulness_low, 3)} to ${fixed(row.faithfulness_high, 3)}` : "";
        element("td", fixed(row.faithfulness, 2), line, between ? { title: `95 % interval ${between}` } : {});
        element("td", fixed(row.kl, 3), line);
        element("td", typeof row.accuracy === "number" ? percent(row.accuracy) : "-", line);
      }
    });
  }

  function legend() {
    const place = $("legend");
    place.replaceChildren();
    if (spans.length)
      element("p", "A column for each span of the prompt. A line into another column ends at a key or a value: it is read " +
        "where the line begins, by a head that looks there from where it ends.", place, { class: "quiet" });
    if (pair && state.view === "both") {
      element("p", "Colour: in which circuit. Width: |score|, the larger of the two.", place, { class: "quiet" });
      return;
    }
    if (circuits.every((circuit) => circuit.scores === null)) {
      element("p", "There are no scores: every edge is drawn alike.", place, { class: "quiet" });
      return;
    }
    const ranks = circuits.every((circuit) => circuit.scores_are === "ranks");
    const ramp = ranks ? colours.ramp.positive : [...colours.ramp.negative].reverse().concat(colours.ramp.positive);
    element("div", null, place, { class: "ramp" }).style.background = `linear-gradient(to right, ${ramp.join(", ")})`;
    const ends = element("div", null, place, { class: "ends" });
    for (const text of ranks ? ["lowest score", "highest"] : ["negative score", "0", "positive"])
      element("span", text, ends);
    element("p", "Width: like colour. At a head from the left: query, key, value.", place, { class: "quiet" });
  }

  // ---- light and dark --------------------------------------------------------------------------------------------

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const THEMES = ["system", "light", "dark"];
  let theme = "system";
  function setTheme(next) {
    theme = next;
    document.documentElement.dataset.theme = theme === "system" ? (dark.matches ? "dark" : "light") : theme;
    $("theme").textContent = `Theme: ${theme}`;
    readColours();
    for (const view of views) view.cy.style(view.style());
    legend();
    if (views.length) update();
  }

  function setView(view) {
    state.view = view;
    for (const old of views) old.remove();
    views = (view === "beside" ? [LEFT, RIGHT] : [pair ? LEFT | RIGHT : LEFT]).map((bits) => new View(bits));
    legend();
    update(true);
  }

  // ---- begin -----------------------------------------------------------------------------------------------------

  const said = circuits[0].metadata;
  $("title").textContent = pair
    ? circuits.map((circuit) => circuit.name).join(" and ")
    : [circuits[0].name, said.model, said.ablation ? `${said.ablation} ablation` : null].filter(Boolean).map(plain).join(", ");
  const large = circuits.filter((circuit, c) => circuit.n_edges > indices[c].length);
  $("notice").hidden = !large.length;
  $("notice").textContent = large
    .map((circuit) => {
      const drawn = number(indices[circuits.indexOf(circuit)].length);
      const which = circuit.scores === null ? "first" : "strongest";
      return `${circuit.name} is too large to draw: this page shows the ${which} ${drawn} of its ${number(circuit.n_edges)} edges.`;
    })
    .join(" ");

  $("prompt").hidden = !spans.length || !data.example.length;
  if (spans.length)
    for (const [name, text] of data.example) {
      const piece = element("span", null, $("prompt"), { class: spans.includes(name) ? "piece" : "dead piece" });
      element("span", text, piece);
      element("small", name, piece);
    }

  const unscored = circuits.every((circuit) => circuit.scores === null);
  $("slider").min = 1;
  $("slider").max = even ? Math.max(1, most) : STEPS;
  $("count").max = most;
  $("slider").disabled = $("count").disabled = unscored || most === 0;
  if (unscored) $("slider").title = "Without scores there is no strongest edge";
  $("slider").addEventListener("input", () => setSize(sizeOf(Number($("slider").value))));
  for (const id of ["slider", "count"]) $(id).addEventListener("change", () => update(true)); // let go: what is left takes the room
  $("folded").addEventListener("change", () => {
    state.folded = $("folded").checked;
    update(true);
  });
  $("refold").addEventListener("click", () => {
    opened.clear();
    select(null, null);
    update(true);
  });
  $("count").addEventListener("input", () => setSize($("count").valueAsNumber));
  $("count").addEventListener("blur", () => ($("count").value = state.n));

  for (let layer = 0; layer < nLayers; layer++)
    for (const id of ["from", "to"]) element("option", layer, $(id), { value: layer });
  $("to").value = nLayers - 1;
  for (const id of ["from", "to"])
    $(id).addEventListener("change", () => {
      state[id] = Number($(id).value);
      const wrong = state.from > state.to;
      if (wrong) state[id === "from" ? "to" : "from"] = state[id];
      $("from").value = state.from;
      $("to").value = state.to;
      update();
    });
  for (const kind of KINDS) {
    const label = element("label", null, $("kinds"));
    const box = element("input", null, label, { type: "checkbox", value: kind });
    box.checked = true;
    label.append(kindSaid[kind]);
    box.addEventListener("change", () => {
      if (box.checked) state.kinds.add(kind);
      else state.kinds.delete(kind);
      update();
    });
  }
  $("inspans").hidden = !spans.length;
  spans.forEach((name, span) => {
    const label = element("label", null, $("inspans"));
    const box = element("input", null, label, { type: "checkbox", value: String(span) });
    box.checked = true;
    label.append(name);
    box.addEventListener("change", () => {
      if (box.checked) state.spans.add(span);
      else state.spans.delete(span);
      update();
    });
  });
  $("search").addEventListener("input", search);
  $("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter") $("results").querySelector("button")?.click();
  });
  $("clear").addEventListener("click", () => select(null, null));
  $("fit").addEventListener("click", () => views[0].fit());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") select(null, null);
  });
  $("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]));
  dark.addEventListener("change", () => setTheme(theme));
  $("views").hidden = $("overlap").hidden = !pair;
  for (const input of document.getElementsByName("view"))
    input.addEventListener("change", () => input.checked && setView(input.value));
  $("curve").hidden = measure === null;
  const named = circuits.some((circuit) => circuit.curve.some((point) => byMeasure(point.measure)));
  $("measures").hidden = groups.size < 2 && !named;
  for (const name of groups.keys()) element("option", name, $("measure"), { value: name });
  $("measure").addEventListener("change", () => {
    measure = $("measure").value;
    update();
  });
  about();
  setTheme("system");
  setView("both");

  // What the page shows, in names: for scripts that drive it, and for its tests.
  window.circuitPage = {
    edges: (bits = 3) => Array.from(flats.keys()).filter((e) => shownEdges[e] & bits).map(edgeName),
    nodes: (bits = 3) => nodeNames.filter((_, i) => shownNodes[i] & bits),
    where(name, view = 0) {
      const at = views[view].cy.$id(String(home[nodeNames.indexOf(name)])).renderedPosition();
      return { x: at.x, y: at.y };
    },
    boxes: (view = 0) =>
      views[view].cy.nodes().map((box) => {
        const at = box.renderedBoundingBox({ includeOverlays: false });
        return { name: box.data("name"), off: box.hasClass("off"), size: 12.5 * views[view].cy.zoom(), ...at };
      }),
    strands: (view = 0) => views[view].strands.map((strand) => strand.edges.map(edgeName)),
    midway(name, view = 0) {
      const strand = views[view].strands.find((one) => one.edges.some((e) => edgeName(e) === name));
      const [x0, y0, x1, y1, bow, straight] = strand.curve;
      const [zoom, pan] = [views[view].cy.zoom(), views[view].cy.pan()];
      return {
        x: bezier(0.5, x0, x0 + bow, x1 + bow, x1) * zoom + pan.x,
        y: bezier(0.5, y0, y0 - straight, y1 + straight, y1) * zoom + pan.y,
      };
    },
    idle: () => views.every((view) => view.next === Infinity) && !pending,
    frames,
  };
})();
