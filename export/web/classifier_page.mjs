// The page of a text classifier: bars that follow what is written.

import { Classifier } from "./classifier.mjs";
import { read } from "./litert_web.mjs";

const SHOWN = 8; // The labels beyond are folded away.
const PAUSE_MS = 150; // After the last key, so that long texts are not computed letter by letter.

const element = (id) => document.getElementById(id);
const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;
const percent = (value) => `${(100 * value).toFixed(1)} %`;

function row({ label, probability }) {
  const item = document.createElement("li");
  const [name, track, value] = ["name", "track", "value"].map((kind) => {
    const each = document.createElement("span");
    each.className = kind;
    return each;
  });
  const fill = document.createElement("span");
  fill.className = "fill";
  fill.style.width = `${100 * probability}%`;
  track.append(fill);
  track.setAttribute("aria-hidden", "true");
  name.textContent = label;
  value.textContent = percent(probability);
  item.append(name, track, value);
  return item;
}

function show(result, loadMs) {
  const rows = [...result.answers].sort((a, b) => b.probability - a.probability).map(row);
  element("labels").replaceChildren(...rows.slice(0, SHOWN));
  document.querySelector("details")?.remove();
  if (rows.length > SHOWN) {
    const [more, title, list] = ["details", "summary", "ol"].map((kind) => document.createElement(kind));
    title.textContent = `${rows.length - SHOWN} more`;
    list.append(...rows.slice(SHOWN));
    more.append(title, list);
    element("labels").after(more);
  }
  const best = result.answers.reduce((a, b) => (b.probability > a.probability ? b : a));
  element("summary").textContent = `${best.label}, ${percent(best.probability)}`;
  const tokens = result.tokens.toLocaleString("en");
  element("counts").textContent =
    `${tokens} tokens · tokenizer ${milliseconds(result.tokenizerMs)} · model ${milliseconds(result.modelMs)} on ` +
    `${result.signature} · loaded in ${milliseconds(loadMs)}`;
}

function clear(counts) {
  element("labels").replaceChildren();
  document.querySelector("details")?.remove();
  element("summary").textContent = "";
  element("counts").textContent = counts;
}

function refuse(error) {
  element("problem").textContent = error?.message ?? "";
  element("problem").hidden = !error;
}

async function start() {
  const started = performance.now();
  const settings = await read("./web.json", "json");
  const classifier = await Classifier.load(settings);
  const loadMs = performance.now() - started;
  const ready = `Ready: ${settings.labels.length} labels, loaded in ${milliseconds(loadMs)}.`;
  let latest = 0;
  const update = async () => {
    const mine = ++latest;
    const text = element("text").value;
    if (!text.trim()) {
      refuse(null);
      return clear(ready);
    }
    try {
      const result = await classifier.classify(text);
      if (mine !== latest) return;
      refuse(null);
      show(result, loadMs);
    } catch (error) {
      if (mine !== latest) return;
      clear(ready);
      refuse(error);
    }
  };
  let timer;
  element("text").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(update, PAUSE_MS);
  });
  Object.assign(globalThis, { classifier, loadMs }); // For the browser's console.
  await update();
  document.documentElement.dataset.ready = "true";
}

start().catch((error) => {
  element("counts").textContent = "";
  refuse(error);
});
