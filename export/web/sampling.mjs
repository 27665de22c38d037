// How the next token is chosen, as krpe_tf's samplers do: by inverse CDF, so the same uniforms give the same text.

/** The most probable token; of equal ones, the one of the lowest id. */
export function greedy(logits) {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  return best;
}

/**
 * Draw a token. Tokens are ordered by descending probability, of equal ones the lower id first, and kept up to the k-th
 * and until their share reaches p; the token is the first whose cumulative share of what is kept exceeds the uniform.
 * @param {Float32Array} logits
 * @param {number} uniform in [0, 1)
 * @param {{temperature?: number, topK?: ?number, topP?: ?number}} options
 */
export function draw(logits, uniform, { temperature = 1, topK = null, topP = null } = {}) {
  if (topK !== null && !(topK >= 1)) throw new RangeError(`topK must be at least 1. Received: ${topK}`);
  if (topP !== null && !(topP > 0)) throw new RangeError(`topP must be above 0. Received: ${topP}`);
  const largest = logits[greedy(logits)];
  const mass = Float64Array.from(logits, (each) => Math.exp((each - largest) / temperature));
  const total = mass.reduce((a, b) => a + b);
  const most = Math.min(topK ?? mass.length, mass.length);
  const wanted = topP === null ? Infinity : topP * total;
  const ids = probable(mass, most, wanted);
  let kept = 0;
  let count = 0;
  while (count < ids.length && count < most && kept < wanted) kept += mass[ids[count++]];
  let sum = 0;
  for (let place = 0; place < count; place++) {
    sum += mass[ids[place]];
    if (sum > uniform * kept) return ids[place];
  }
  return ids[count - 1];
}

/** The ids that may be kept, in order: to sort thousands of improbable tokens takes longer than the model does. */
function probable(mass, most, wanted) {
  for (let least = 1e-2; ; least = least > 1e-12 ? least / 100 : 0) {
    const ids = [];
    let sum = 0;
    mass.forEach((each, id) => {
      if (each < least) return;
      ids.push(id);
      sum += each;
    });
    if (least === 0 || ids.length >= most || sum >= wanted) return ids.sort((a, b) => mass[b] - mass[a] || a - b);
  }
}
